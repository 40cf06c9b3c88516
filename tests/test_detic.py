"""Detic against figures of the published code, which was given the same made-up weights; and all that can go wrong.

Made-up weights magnify the smallest difference: what float32 rounds off moves a box by up to 0.01 px. A mistake (a
weight scaled by 1.001, a bias left out, a cell centre off) moves boxes by whole pixels.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import skimage.data

from trackverse.detectors.detic import load_detic, pick_device
from trackverse.errors import SetupError
from trackverse.types import Detections

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: make detic", allow_module_level=True)

import safetensors.torch
import torch
from detic_weights import made_up_checkpoint, made_up_vocabulary
from plain_detic import PlainDetic
from torchvision.ops import roi_align

from trackverse.detectors.detic import cascade, centernet, pooling
from trackverse.detectors.detic.cascade import can_reach
from trackverse.detectors.detic.checkpoint import empty_network, stored_name
from trackverse.detectors.detic.detector import Detic
from trackverse.detectors.detic.device import multiplies_bfloat16
from trackverse.detectors.detic.linear import Activation, Linear, can_pack
from trackverse.detectors.detic.pooling import Pooler, box_levels
from trackverse.detectors.detic.preprocess import network_hw, network_input, resize
from trackverse.detectors.detic.swin import MASKED, Block, relative_positions, shift_mask, window_order
from trackverse.detectors.detic.winograd import WinogradConv, use_winograd

GOLDEN_DIR = Path(__file__).parent / "golden"
COFFEE = skimage.data.coffee()  # (400, 600, 3), a cup on a table
CHELSEA = skimage.data.chelsea()  # (300, 451, 3), a cat
# What the published training leaves in a checkpoint besides the weights of the box network.
LEFT_OVER = {
    "roi_heads.mask_head.predictor.weight": (1, 256, 1, 1),
    "roi_heads.box_predictor.0.cls_score.zs_weight": (512, 22048),
    "roi_heads.box_predictor.0.freq_weight": (1203,),
    "backbone.bottom_up.base.bn1.num_batches_tracked": (),
}


@pytest.fixture(scope="module")
def r18_weights() -> dict[str, torch.Tensor]:
    return made_up_checkpoint("r18")


@pytest.fixture(scope="module")
def r18_path(r18_weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint as it is published: weights under "model", beside what else the training left."""
    path = tmp_path_factory.mktemp("detic") / "r18.pth"
    torch.save({"model": r18_weights | hollow(LEFT_OVER), "iteration": 90000}, path)
    yield path
    path.unlink()  # a quarter of a gigabyte, which pytest would keep


@pytest.fixture(scope="module")
def r18(r18_path: Path) -> Detic:
    return load_detic(r18_path, made_up_vocabulary())


@pytest.fixture(scope="module")
def coffee(r18: Detic) -> Detections:
    return r18(COFFEE[None])[0]


@pytest.fixture(scope="module")
def fast_r18(r18_path: Path) -> Detic:
    """In bfloat16, even on a processor that is slow at it."""
    with mock.patch("trackverse.detectors.detic.detector.multiplies_bfloat16", return_value=True):
        return load_detic(r18_path, made_up_vocabulary(), dtype="bfloat16")


def hollow(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of any size that take up one number each, in memory and in a file."""
    return {name: torch.tensor(0.0).expand(shape) for name, shape in shapes.items()}


def paired(a: Detections, b: Detections) -> np.ndarray:
    """For each object of `a` the row of the nearest in `b`, of the same class; 0.01 of score counts as 1 px."""
    distance = np.abs(a.xyxy[:, None] - b.xyxy[None]).max(axis=2) + 100 * np.abs(a.scores[:, None] - b.scores[None])
    distance[a.logits.argmax(axis=1)[:, None] != b.logits.argmax(axis=1)[None]] = np.inf
    return distance.argmin(axis=1) if len(b) else np.zeros(len(a), np.int64)


def assert_same(a: Detections, b: Detections, px: float = 1.0) -> None:
    """The same objects, in whatever order nearly equal scores give them. `px`: a network's pixel in the image's."""
    assert len(a) == len(b)
    rows = paired(a, b)
    assert len(set(rows)) == len(b)
    np.testing.assert_allclose(a.xyxy, b.xyxy[rows], rtol=0, atol=0.05 * px)
    np.testing.assert_allclose(a.scores, b.scores[rows], rtol=0, atol=1e-4)
    np.testing.assert_allclose(a.logits, b.logits[rows], rtol=0, atol=3e-4)
    np.testing.assert_allclose(a.embeddings, b.embeddings[rows], rtol=0, atol=3e-2)


# ---- what it finds


def assert_golden(found: Detections, name: str) -> None:
    golden = np.load(GOLDEN_DIR / name)
    no_embeddings = np.zeros((len(golden["scores"]), 0), np.float32)
    expected = Detections(golden["xyxy"], golden["scores"], golden["logits"], no_embeddings)
    assert (golden["labels"] == golden["logits"].argmax(axis=1)).all()
    assert_same(expected, Detections(found.xyxy, found.scores, found.logits, no_embeddings))
    rows = paired(expected, found)[golden["embedding_rows"]]
    np.testing.assert_allclose(golden["embeddings"], found.embeddings[rows], rtol=0, atol=3e-2)


def test_r18_gives_the_published_codes_figures(r18: Detic, coffee: Detections) -> None:
    assert r18.name == "detic-r18"
    assert (r18.labels[0], len(r18.labels), r18.embedding_dim) == ("class 0", 10, 1024)
    assert_golden(coffee, "detic_r18_coffee.npz")


@pytest.mark.slow
def test_swin_b_gives_the_published_codes_figures(tmp_path: Path) -> None:
    path = tmp_path / "swinb.safetensors"
    safetensors.torch.save_file(made_up_checkpoint("swinb"), path)
    detector = load_detic(path, made_up_vocabulary())
    path.unlink()  # half a gigabyte
    assert detector.name == "detic-swinb"
    assert_golden(detector(COFFEE[None])[0], "detic_swinb_coffee.npz")


def test_the_plain_code_gives_the_published_codes_figures(r18_weights: dict[str, torch.Tensor]) -> None:
    """So that it may stand in for it below, and in benchmarks/detic.py."""
    found = PlainDetic(r18_weights, made_up_vocabulary())(COFFEE)
    assert (found.labels == found.logits.argmax(axis=1)).all()
    assert_golden(Detections(found.xyxy, found.scores, found.logits, found.embeddings), "detic_r18_coffee.npz")


SHAPES = {  # (image, least short and largest long side): network inputs of all shapes
    "upright": (np.ascontiguousarray(COFFEE.transpose(1, 0, 2)), (160, 160)),
    "odd sides": (CHELSEA[:289, :417], (111, 163)),
    "a panorama of 1 to 5": (np.ascontiguousarray(COFFEE[140:260]), (96, 320)),
    "a tower": (np.ascontiguousarray(COFFEE[140:260].transpose(1, 0, 2)), (64, 320)),
    "less than a cell of the coarsest map": (COFFEE, (33, 47)),
    "one pixel": (COFFEE[:1, :1], (64, 64)),
}


@pytest.fixture(scope="module")
def exact_r18(r18_weights: dict[str, torch.Tensor]) -> PlainDetic:
    return PlainDetic(r18_weights, made_up_vocabulary(), dtype=torch.float64)


@pytest.mark.parametrize("words", SHAPES)
def test_it_finds_what_the_plain_code_finds_in_any_shape(
    words: str, r18: Detic, exact_r18: PlainDetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, sides = SHAPES[words]
    monkeypatch.setattr(r18, "_frame_size", sides)  # to load it once only
    monkeypatch.setattr(exact_r18, "frame_size", sides)
    exact, (found,) = exact_r18(frame), r18(frame[None])
    assert len(exact.scores)
    stretch = max(frame.shape) / max(exact_r18.small_hw(frame.shape[:2]))
    assert_same(Detections(exact.xyxy, exact.scores, exact.logits, exact.embeddings), found, max(stretch, 1.0))


def test_swin_b_sees_what_the_plain_code_sees_in_any_shape() -> None:
    """The backbone and the pyramid; maps fill whole windows or not, and are smaller than one."""
    weights = made_up_checkpoint("swinb")
    exact = PlainDetic(weights, made_up_vocabulary(), dtype=torch.float64)
    network = empty_network("swinb")
    network.load_state_dict({name: weights[stored_name(name, "swinb")] for name in network.state_dict()}, assign=True)
    del weights  # with three copies of a network, a test is large enough
    network.prepare(torch.device("cpu"), torch.float32)
    for height, width in [(64, 96), (96, 32), (32, 256)]:
        pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            maps, found = exact.features(pixels.double()), network.features(pixels)
        assert all((a - b).abs().max() < 1e-4 * a.std() for a, b in zip(maps, found, strict=True))


def test_detections_are_what_the_pipeline_takes(coffee: Detections) -> None:
    assert all(array.dtype == np.float32 for array in (coffee.xyxy, coffee.scores, coffee.logits, coffee.embeddings))
    assert (np.diff(coffee.scores) <= 0).all()
    assert (coffee.scores > 0.1).all()
    assert (coffee.xyxy[:, 2:] > coffee.xyxy[:, :2]).all()
    assert (coffee.xyxy >= 0).all() and (coffee.xyxy <= [600, 400, 600, 400]).all()


def test_frames_of_a_batch_do_not_see_each_other(r18: Detic, coffee: Detections) -> None:
    mirrored = np.ascontiguousarray(COFFEE[:, ::-1])
    batch = r18(np.stack([COFFEE, mirrored, COFFEE, COFFEE]))
    for n in (0, 2, 3):
        assert_same(coffee, batch[n])
    assert_same(r18(mirrored[None])[0], batch[1])


def test_images_of_a_batch_may_differ_in_size(r18: Detic, coffee: Detections) -> None:
    """The cat becomes 319 px high and the cup 320: both are padded to 320. The others have other inputs."""
    upright, wide = np.ascontiguousarray(COFFEE.transpose(1, 0, 2)), COFFEE[100:250]
    images = [COFFEE, upright, CHELSEA, wide, COFFEE]
    mixed = r18(images)
    assert len(mixed) == len(images)
    for number in (0, 4):
        assert_same(coffee, mixed[number])
    for number in (1, 2, 3):
        assert_same(r18(images[number][None])[0], mixed[number])


@pytest.mark.parametrize(("conf", "num_last"), [(0.3, 256), (0.7, 245), (1.0, 0)])
def test_a_higher_threshold_leaves_the_others_alone(
    r18_path: Path, coffee: Detections, conf: float, num_last: int
) -> None:
    """Even though boxes that can't reach it do not get to the last stage of the cascade. 1.0 leaves nothing."""
    detector = load_detic(r18_path, made_up_vocabulary(), conf=conf)
    num_boxes: list[int] = []
    detector.network.heads.box_head[2].register_forward_hook(
        lambda module, given, features: num_boxes.append(len(features))
    )
    (found,) = detector(COFFEE[None])
    assert_same(coffee.select(coffee.scores > conf), found)
    assert num_boxes == [num_last]


@pytest.mark.parametrize(
    ("words", "total", "objectness", "stages_left", "expected"),
    [
        ("sure of everything to come", 0.0, 0.09, 3, True),
        ("too faint from the start", 0.0, 0.0899, 3, False),
        ("one stage to go, nothing so far", 0.0, 0.26, 1, False),
        ("one stage to go, sure so far", 2.0, 0.26, 1, True),
        ("all said, just enough", 1.5, 0.18, 0, True),
        ("all said, not enough", 1.5, 0.17, 0, False),
    ],
)
def test_boxes_are_dropped_only_when_hopeless(
    words: str, total: float, objectness: float, stages_left: int, expected: bool
) -> None:
    """For a score of 0.3: mean probability x objectness of 0.09."""
    totals = torch.tensor([[0.0, total]])
    assert can_reach(0.3, totals, torch.tensor([objectness]), stages_left).item() is expected, words


def test_no_frames_and_a_frame_of_one_colour(r18: Detic) -> None:
    assert r18(np.zeros((0, 400, 600, 3), np.uint8)) == []
    (found,) = r18(np.zeros((1, 40, 60, 3), np.uint8))
    assert found.logits.shape == (len(found), 10) and found.embeddings.shape == (len(found), 1024)


def test_labels_come_with_the_vocabulary_and_embeddings_can_be_left_out(r18_path: Path, coffee: Detections) -> None:
    labels = tuple("abcdefghij")
    vocabulary = SimpleNamespace(labels=labels, matrix=3 * made_up_vocabulary())  # lengths of columns don't matter
    detector = load_detic(str(r18_path), vocabulary, with_embeddings=False)
    (found,) = detector(COFFEE[None])
    assert (detector.labels, detector.embedding_dim, found.embeddings.shape) == (labels, 0, (len(found), 0))
    np.testing.assert_allclose(found.logits, coffee.logits, atol=3e-4)


def test_bfloat16_sees_the_same(r18: Detic, fast_r18: Detic, coffee: Detections) -> None:
    """Maps to 2 %. Boxes can't be compared: these weights magnify any rounding a thousand times, and bfloat16 rounds
    to 0.4 %. So only that most scores stay, and where most boxes are.
    """
    pixels = network_input([resize(COFFEE, (320, 480))], torch.device("cpu"))
    with torch.inference_mode():
        for exact, rounded in zip(r18.network.features(pixels), fast_r18.network.features(pixels), strict=True):
            assert rounded.dtype == torch.bfloat16
            assert (exact - rounded.float()).std() < 0.02 * exact.std()
    (found,) = fast_r18(COFFEE[None])
    rows = paired(coffee, found)
    assert abs(len(found) - len(coffee)) < 0.05 * len(coffee)
    assert np.median(np.abs(coffee.scores - found.scores[rows])) < 0.01
    assert np.median(np.abs(coffee.xyxy - found.xyxy[rows])) < 3


def test_swin_bs_first_stage_stays_exact_beside_bfloat16() -> None:
    """Rounding there moved more detections than all other rounding; the stages behind it are rounded."""
    weights, backbones, first = made_up_checkpoint("swinb"), [], []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = empty_network("swinb").backbone
        names = {name: stored_name(f"backbone.{name}", "swinb") for name in backbone.state_dict()}
        backbone.load_state_dict({name: weights[stored].clone() for name, stored in names.items()}, assign=True)
        backbone.eval().prepare()
        backbone.round_to(dtype)
        backbone.layers[0].register_forward_hook(lambda stage, given, maps: first.append(maps))
        backbones.append(backbone)
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = [backbone(pixels) for backbone in backbones]
    for exact, rounded in zip(*first, strict=True):
        np.testing.assert_array_equal(exact, rounded)
    for exact, rounded in zip(*maps, strict=True):
        assert rounded.dtype == torch.bfloat16
        assert (exact - rounded.float()).std() < 0.02 * exact.std()


def test_bfloat16_is_kept_out_of_the_arithmetic_on_boxes(fast_r18: Detic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between 256 and 512 px it counts in steps of 2. A number that went through it once is one of its own."""
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name: str, module: ModuleType) -> None:
        work = getattr(module, name)

        def watched(*given: object) -> object:
            seen.setdefault(name, []).extend(part for part in given if isinstance(part, torch.Tensor))
            return work(*given)

        monkeypatch.setattr(module, name, watched)

    watch("best_proposals", centernet)  # boxes and probabilities
    watch("box_levels", pooling)  # boxes
    watch("axis_sums", pooling)  # where they begin and how long they are, on a map
    watch("move", cascade)  # boxes and deltas
    fast_r18.network.heads.register_forward_hook(lambda heads, given, boxes: seen.update(boxes=list(boxes[0])[:3]))
    (found,) = fast_r18(COFFEE[None])
    seen["found"] = [torch.from_numpy(values) for values in (found.xyxy, found.scores, found.logits)]
    for name, parts in seen.items():
        for values in (part for part in parts if part.is_floating_point()):
            assert values.dtype == torch.float32, name
            inside = values[(values > 0) & (values < values.max())]  # clipped ones have few bits anyway
            assert (inside.bfloat16().float() == inside).float().mean() < 0.1, name


def test_where_bfloat16_would_be_slow_it_is_float32(
    r18_path: Path, coffee: Detections, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with caplog.at_level(logging.INFO):
        assert_same(coffee, load_detic(r18_path, made_up_vocabulary(), dtype="bfloat16")(COFFEE[None])[0])
    assert "no instructions for bfloat16" in caplog.text
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert multiplies_bfloat16(torch.device("cpu")) and multiplies_bfloat16(torch.device("cuda"))


# ---- its parts


@pytest.mark.parametrize(
    ("words", "frame_hw", "sides", "expected"),
    [
        ("long side bounded", (400, 600), (480, 480), (320, 480)),
        ("upright", (600, 400), (480, 480), (480, 320)),
        ("square grows", (100, 100), (480, 480), (480, 480)),
        ("short side rules", (400, 600), (800, 1333), (800, 1200)),
        ("both, the long side wins", (400, 900), (800, 1333), (592, 1333)),
        ("rounds half up", (300, 451), (480, 480), (319, 480)),
        ("a line stays a line", (1, 2000), (480, 480), (1, 480)),
    ],
)
def test_the_size_frames_are_resized_to(
    words: str, frame_hw: tuple[int, int], sides: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert network_hw(frame_hw, *sides) == expected, words


def test_the_pooler_agrees_with_torchvision() -> None:
    """On boxes of all sizes, reaching out of the map, wholly outside, and empty; on two images and three levels."""
    rng = np.random.default_rng(0)
    centres, sizes = rng.uniform(-50, 530, (200, 2)), np.exp(rng.uniform(1, 6.5, (200, 2)))
    xyxy = torch.tensor(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1), dtype=torch.float32)
    xyxy[0, 2:] = xyxy[0, :2]
    xyxy[1] = torch.tensor([-300.0, -300.0, -200.0, -200.0])
    numbers = torch.arange(200) % 2
    pyramid = [torch.tensor(rng.standard_normal((2, 8, 320 // s, 480 // s)), dtype=torch.float32) for s in (8, 16, 32)]
    pooled = Pooler(pyramid)(numbers, xyxy)
    levels = box_levels(xyxy)
    assert set(levels.tolist()) == {0, 1, 2}
    for number, features in enumerate(pyramid):
        rows = torch.nonzero(levels == number)[:, 0]
        rois = torch.cat([numbers[rows, None], xyxy[rows]], dim=1)
        expected = roi_align(features, rois, 7, 1 / (8 * 2**number), aligned=True).flatten(2).transpose(1, 2)
        np.testing.assert_allclose(pooled[rows], expected, rtol=0, atol=2e-5)
    assert Pooler(pyramid)(numbers[:0], xyxy[:0]).shape == (0, 49, 8)


@pytest.mark.parametrize("shift", [0, 3])
def test_attention_of_one_cell_is_what_the_paper_says(shift: int) -> None:
    """Worked out cell by cell for a map of 9 x 12 cells, that fill 14 x 14 with zeros at the right and the bottom."""
    torch.manual_seed(0)
    block = Block(32, shift).requires_grad_(False)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    block.attn.prepare()
    features = torch.randn(1, 9, 12, 32)
    attended = block.attn.proj(block.attend(features))[0]

    padded = torch.zeros(14, 14, 32)
    padded[:9, :12] = features[0]
    query, key, value = block.attn.qkv(padded).split(32, dim=2)
    table = block.attn.relative_position_bias_table[:, 0]
    cells = [(y, x) for y in range(14) for x in range(14)]

    def place(cell: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """A cell's window, and where in it the cell is, once the map has been rolled."""
        y, x = ((coordinate - shift) % 14 for coordinate in cell)
        return (y // 7, x // 7), (y % 7, x % 7)

    def is_near(a: tuple[int, int], b: tuple[int, int]) -> bool:
        """Not brought together by the roll only."""
        return all((m < shift) == (n < shift) for m, n in zip(a, b, strict=True))

    for cell in [(0, 0), (2, 5), (3, 3), (8, 11), (6, 7)]:
        window, (y, x) = place(cell)
        others = [other for other in cells if place(other)[0] == window]
        assert len(others) == 49
        logits = []
        for other in others:
            other_y, other_x = place(other)[1]
            bias = table[(y - other_y + 6) * 13 + (x - other_x + 6)]
            masked = 0.0 if is_near(cell, other) else MASKED
            logits.append(query[cell] @ key[other] / 32**0.5 + bias + masked)
        shares = torch.stack(logits).softmax(dim=0)
        expected = block.attn.proj(sum(share * value[other] for share, other in zip(shares, others, strict=True)))
        np.testing.assert_allclose(attended[cell], expected, atol=1e-5)


def test_relative_positions_and_masks_have_the_published_layout() -> None:
    positions = relative_positions()
    assert positions.shape == (49, 49)
    assert (positions[0, 0], positions[0, 48], positions[48, 0], positions[0, 1]) == (84, 0, 168, 83)
    order, back = window_order(9, 12, 3, torch.device("cpu"))
    assert order.shape == (4 * 49,) and (order[back] == torch.arange(9 * 12)).all()
    assert (order == 9 * 12).sum() == 14 * 14 - 9 * 12  # the cells that fill it up
    assert order[:2].tolist() == [3 * 12 + 3, 3 * 12 + 4]  # the shift has brought these first
    mask = shift_mask(2, 3, torch.device("cpu"))
    assert mask.shape == (6, 49, 49)
    assert not mask[0].any() and mask[-1].any() and set(mask.unique().tolist()) == {MASKED, 0.0}


def test_what_is_kept_from_finding_objects_will_do_for_training() -> None:
    with torch.inference_mode():
        kept = [*window_order(5, 11, 3, torch.device("cpu")), shift_mask(3, 5, torch.device("cpu"))]
    assert not any(tensor.is_inference() for tensor in kept)


@pytest.mark.parametrize(("frames", "sizes"), [(1, [(8, 12)]), (2, [(9, 5)]), (1, [(13, 10), (1, 1), (4, 3)])])
def test_winograds_convolution_gives_what_the_plain_one_does(frames: int, sizes: list[tuple[int, int]]) -> None:
    """Maps of any size, several at once, against float64."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(128, 136, 3, padding=1).requires_grad_(False)
    maps = [torch.randn(frames, 128, height, width) for height, width in sizes]
    for x, found in zip(maps, WinogradConv(conv).levels(maps), strict=True):
        expected = torch.nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_winograd_takes_the_place_of_wide_plain_3x3_convolutions_only() -> None:
    wide = {"padding": 1, "kernel_size": 3}
    convs = {
        "wide": torch.nn.Conv2d(128, 128, **wide),
        "narrow": torch.nn.Conv2d(64, 128, **wide),
        "halving": torch.nn.Conv2d(128, 128, stride=2, **wide),
        "one cell": torch.nn.Conv2d(128, 128, 1),
    }
    network = torch.nn.ModuleDict(convs)
    use_winograd(network)
    assert [name for name, module in network.items() if isinstance(module, WinogradConv)] == ["wide"]


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_packed_weights_multiply_as_plain_ones_do(activation: Activation) -> None:
    torch.manual_seed(0)
    layer = Linear(40, 24, activation).requires_grad_(False)
    x, shortcut = torch.randn(2, 3, 40), torch.randn(2, 3, 24)
    plain, added = layer(x), Linear.plus(layer, x, shortcut)
    layer.pack()
    np.testing.assert_allclose(layer(x), plain, rtol=0, atol=1e-5)
    if activation == "none":
        np.testing.assert_allclose(layer.plus(x, shortcut), added, rtol=0, atol=1e-5)
    assert layer(x[:0]).shape == (0, 3, 24)


def test_without_torchs_packing_linear_layers_work_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    can_pack.cache_clear()
    try:
        layer = Linear(8, 4, "relu").requires_grad_(False)
        layer.pack()
        x = torch.randn(2, 8)
        np.testing.assert_allclose(layer(x), torch.relu(x @ layer.weight.T + layer.bias), atol=1e-6)
    finally:
        can_pack.cache_clear()


# ---- what can be wrong


def r18_shapes() -> dict[str, tuple[int, ...]]:
    state = empty_network("r18").state_dict()
    return {stored_name(name, "r18"): tuple(tensor.shape) for name, tensor in state.items()}


def save_truncated(path: Path) -> None:
    torch.save({"model": hollow(r18_shapes())}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save_old_format_truncated(path: Path) -> None:
    torch.save({"model": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:2000])


class Harm:
    """Unpickled carelessly, it makes a folder."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("harm",)


def save_with_a_hole(path: Path) -> None:
    torch.save({"model": hollow(r18_shapes()) | {"backbone.fpn_lateral3.bias": torch.ones(256)}}, path)
    body = path.read_bytes()
    ones = torch.ones(256).numpy().tobytes()
    path.write_bytes(body.replace(ones, bytes(len(ones))))


def save_without(path: Path) -> None:
    entries = hollow(r18_shapes())
    for name in [name for name in entries if "box_head" in name]:
        del entries[name]
    torch.save({"model": entries}, path)


def save_misshapen(path: Path) -> None:
    torch.save({"model": hollow(r18_shapes() | {"backbone.fpn_lateral3.bias": (128,)})}, path)


def save_with_nan(path: Path) -> None:
    torch.save(hollow(r18_shapes()) | {"backbone.fpn_lateral3.bias": torch.full((256,), torch.nan)}, path)


def save_with_bias(bias: torch.Tensor, path: Path) -> None:
    torch.save(hollow(r18_shapes()) | {"backbone.fpn_lateral3.bias": bias}, path)


def save_other_network(path: Path) -> None:
    torch.save({"model": hollow({"backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7)})}, path)


BIAS_MISSING = r"1 entries missing: backbone\.fpn_lateral3\.bias"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "no such file"),
    "empty": (lambda path: path.touch(), "not a whole checkpoint file"),
    "an error page": (lambda path: path.write_text("<html>404</html>"), "not a plain checkpoint"),
    "truncated": (save_truncated, "not a whole checkpoint file|not a plain checkpoint"),
    "old format, truncated": (save_old_format_truncated, "not a whole checkpoint file|not a plain checkpoint"),
    "code in it": (
        lambda path: torch.save({"model": Harm()}, path),
        "holds code, which is not run: (?!.*only)",
    ),
    "no tensors": (lambda path: torch.save({"model": {"a": 1}}, path), "no weights in it"),
    "a list": (lambda path: torch.save([torch.zeros(3)], path), "no weights in it"),
    "another network": (save_other_network, "not a checkpoint of Detic with a Swin-B or ResNet-18"),
    "a part missing": (save_without, r"12 entries missing: roi_heads\.box_head\.0\.fc1\.weight, .*, …"),
    "misshapen": (save_misshapen, r"1 entries of another shape: \S+fpn_lateral3\.bias \(128,\) instead of \(256,\)"),
    "a part sparse": (lambda path: save_with_bias(torch.zeros(256).to_sparse(), path), BIAS_MISSING),
    "a part without memory": (lambda path: save_with_bias(torch.zeros(256, device="meta"), path), BIAS_MISSING),
    "a part complex": (lambda path: save_with_bias(torch.zeros(256, dtype=torch.complex64), path), BIAS_MISSING),
    "a hole of zeros": (save_with_a_hole, r"damaged \(Bad CRC-32 for file 'weights/data/\d+'\)"),
    "not finite": (save_with_nan, r"1 entries with values that are not finite: backbone\.fpn_lateral3\.bias"),
}


@pytest.mark.parametrize("words", DAMAGED)
def test_weights_that_can_not_be_used_are_named(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = DAMAGED[words]
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(SetupError, match=message) as caught:
        load_detic(path, made_up_vocabulary())
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_a_truncated_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SetupError, match=r"weights\.safetensors: not a whole safetensors file"):
        load_detic(path, made_up_vocabulary())


def test_what_the_training_left_over_is_no_matter_and_strangers_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        torch.save(hollow(r18_shapes() | LEFT_OVER), tmp_path / "usual.pth")
        load_detic(tmp_path / "usual.pth", made_up_vocabulary())
        assert not caplog.records
        torch.save(hollow(r18_shapes() | {"roi_heads.stranger": (3,)}), tmp_path / "odd.pth")
        load_detic(tmp_path / "odd.pth", made_up_vocabulary())
    assert "1 entries have no place in the network and are left out: roi_heads.stranger" in caplog.text


def test_numbers_that_overflow_stop_the_work(r18_weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Finite weights, each of them, whose sums are not."""
    name = "backbone.fpn_output4.weight"
    path = tmp_path / "huge.pth"
    torch.save(r18_weights | {name: torch.full_like(r18_weights[name], 3e38)}, path)
    detector = load_detic(path, made_up_vocabulary())
    path.unlink()
    with pytest.raises(SetupError, match=r"huge\.pth: the network's numbers are not finite"):
        detector(COFFEE[None])


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        ("transposed", {"vocab": np.ones((10, 512), np.float32)}, r"512 labels needs .*\(512, 512\), not \(10, 512\)"),
        ("one matrix, two names", {"vocab": SimpleNamespace(labels=("a", "b"), matrix=np.ones((512, 1)))}, "2 labels"),
        ("no class", {"vocab": np.ones((512, 0), np.float32)}, "a vocabulary without classes"),
        ("zeros", {"vocab": np.eye(512, 3, 1, dtype=np.float32)}, "nothing but zeros for 'class 0'"),
        ("not finite", {"vocab": np.full((512, 2), np.nan, np.float32)}, "not finite"),
        ("dtype", {"dtype": "int4"}, "no such number format: int4; there are float32 and bfloat16"),
        ("device", {"device": "abacus"}, "device abacus can't be used"),
        ("no such GPU", {"device": "cuda:99"}, "device cuda:99 can't be used"),
    ],
)
def test_settings_that_can_not_be_used_are_named(
    words: str, change: dict[str, object], message: str, r18_path: Path
) -> None:
    settings = {"vocab": made_up_vocabulary()} | change
    with pytest.raises(SetupError, match=message):
        load_detic(r18_path, **settings)  # type: ignore[arg-type]


def test_auto_takes_a_device_that_is_there_and_threads_are_set() -> None:
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    try:
        assert pick_device("cpu", num_threads=1) == "cpu"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_torchvision_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SetupError, match=r"Detic needs torch.*\(torchvision is missing\): make detic"):
        load_detic(tmp_path / "weights.pth", made_up_vocabulary())
