"""How the classifier of flat drawings is trained, on packages made here by dpkg-deb."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import stills
from PIL import Image

REPO_DIR = Path(__file__).parent.parent
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="packages are read by dpkg-deb")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPO_DIR / "training"))
    import pictures

    return pictures


@pytest.fixture
def train(pictures: ModuleType) -> ModuleType:
    import train_flat_drawing

    return train_flat_drawing


def as_file(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def figure(size: int) -> np.ndarray:
    """A red disc that can be seen through around it."""
    y, x = np.mgrid[:size, :size] - size / 2
    image = np.zeros((size, size, 4), np.uint8)
    image[x**2 + y**2 < (size / 2 - 2) ** 2] = (220, 40, 40, 255)
    return image


def qt_resources(files: dict[str, bytes]) -> bytes:
    """A Qt resource file (version 1) of one folder "pics"; every second file is packed."""
    names, blobs, nodes, offsets = b"", b"", b"", {}
    for name in ("", "pics", *files):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    nodes += struct.pack(">IHII", 0, 2, 1, 1)
    nodes += struct.pack(">IHII", offsets["pics"], 2, len(files), 2)
    for number, (name, content) in enumerate(files.items()):
        packed = number % 2
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
        nodes += struct.pack(">IHHHI", offsets[name], packed, 0, 1, len(blobs))
        blobs += struct.pack(">I", len(stored)) + stored
    start = 20
    head = b"qres" + struct.pack(">4I", 1, start, start + len(nodes), start + len(nodes) + len(blobs))
    return head + nodes + blobs + names


def build(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    root = folder / name
    (root / "DEBIAN").mkdir(parents=True)
    fields = (
        f"Package: {name}\nVersion: 1.2-3\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: pictures\n"
    )
    (root / "DEBIAN" / "control").write_text(fields)
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    deb = folder / f"{name}_1.2-3_all.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", str(root), str(deb)], check=True, capture_output=True)
    return deb


@needs_dpkg
def test_pictures_are_sorted_by_what_they_are(tmp_path: Path, pictures: ModuleType) -> None:
    photo, card = stills.street(0), stills.DRAWN["white on navy"]
    packed = {"a.jpg": as_file(photo, "JPEG"), "b.png": as_file(card, "PNG"), "notes.txt": b"no picture"}
    deb = build(
        tmp_path,
        "some-data",
        {
            "usr/share/some/photos/street.jpg": as_file(photo, "JPEG"),
            "usr/share/some/photos/small.jpg": as_file(photo[:100, :100], "JPEG"),
            "usr/share/some/photos/torn.jpg": as_file(photo, "JPEG")[:2000],
            "usr/share/some/art/card.png": as_file(card, "PNG"),
            "usr/share/some/art/disc.png": as_file(figure(80), "PNG"),
            "usr/share/some/art/tiny.png": as_file(figure(20), "PNG"),
            "usr/share/some/icons/disc.png": as_file(figure(80), "PNG"),
            "usr/share/some/all.rcc": qt_resources(packed),
        },
    )
    package = pictures.Package("some-data", "CC0", photos=r"/photos/|/pics/a", drawings=r"/art/|/pics/b")
    found = pictures.read_package(deb, package, 10, np.random.default_rng(0))
    assert found.version == "1.2-3"
    assert [len(kind) for kind in (found.photos, found.backgrounds, found.figures)] == [2, 2, 1]
    assert {image.shape for image in found.photos} == {photo.shape}
    assert {image.shape for image in found.backgrounds} == {card.shape}
    assert np.abs(found.photos[0].astype(int) - photo).mean() < 5
    assert found.figures[0].shape == (80, 80, 4)
    fewer = pictures.read_package(deb, package, 1, np.random.default_rng(0))
    assert max(len(kind) for kind in (fewer.photos, fewer.backgrounds, fewer.figures)) == 1


def test_a_package_is_judged_by_what_others_taught(pictures: ModuleType, train: ModuleType) -> None:
    """Three packages tell drawings by the first feature; a fourth has it the wrong way round and is got wrong."""
    frames = {}
    for name in ("a", "b", "c", "odd"):
        drawn = np.arange(40) % 2 == 0
        features = np.zeros((40, train.DIM), np.float32)
        features[:, 0] = np.where(drawn, 30, -30) * (-1 if name == "odd" else 1)
        frames[pictures.Package(name, "CC0")] = train.Frames(features, drawn, np.arange(40) % 4 < 2)
    right = {package.name: shares for package, shares in train.held_out(frames).items()}
    assert list(right) == ["a", "b", "c", "odd"]
    assert all(share > 0.9 for name in "abc" for share in right[name].values())
    assert all(share < 0.1 for share in right["odd"].values())
    assert set(right["a"]) == set(train.KINDS)


def test_frames_are_made_of_pictures_the_same_each_time(pictures: ModuleType, train: ModuleType) -> None:
    package = pictures.Package("some", "CC0", photos="x", drawings="y")
    some = pictures.Pictures(package, "1", [stills.street(0)], [stills.DRAWN["cartoon houses"]], [figure(80)])
    backbone = train.load_model(train.BACKBONE, num_threads=1)
    first, again = (train.describe(some, backbone, np.random.default_rng(0)) for _ in range(2))
    assert first.features.shape == (len(first.is_drawn), train.DIM) and len(first.is_drawn) > 12
    assert 0 < first.is_drawn.mean() < 1 and 0 < first.is_spoiled.mean() < 1
    assert np.array_equal(first.features, again.features)
    title_card = train.drawn_frame(pictures.Pictures(package, "1"), (270, 480), np.random.default_rng(0))
    assert title_card.shape == (270, 480, 3)


def test_missing_packages_are_told(tmp_path: Path) -> None:
    command = [sys.executable, "training/train_flat_drawing.py", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True, env={"PYTHONPATH": str(REPO_DIR)})
    assert done.returncode == 1
    assert "gcompris-qt-data" in done.stderr and "--fetch" in done.stderr and "Traceback" not in done.stderr


# --- the network that looks for plates -------------------------------------------------------------------------------


@pytest.fixture
def drawn_plates(pictures: ModuleType) -> ModuleType:
    import drawn_plates

    return drawn_plates


@pytest.fixture
def train_scorer(drawn_plates: ModuleType) -> ModuleType:
    pytest.importorskip("torch", reason="make detic installs it")
    import train_plate_scorer

    return train_plate_scorer


def test_samples_say_where_their_plates_are(drawn_plates: ModuleType) -> None:
    """On flat photographs, only plates and pasted pieces of other flat ones have edges; cells with plates have more."""
    rng = np.random.default_rng(0)
    plates = drawn_plates.draw_plates(30, rng)
    assert all(plate.shape[0] == 96 and plate.std() > 5 for plate in plates)
    photos = [np.full((300, 400, 3), level, np.uint8) for level in (60, 190)]
    with_plate, without = [], []
    for _ in range(60):
        picture, cells = drawn_plates.make_sample(photos, plates, rng)
        assert picture.shape == (160, 160) and cells.shape == (40, 40) and cells.min() >= 0 and cells.max() <= 1.001
        spread = picture.reshape(40, 4, 40, 4).std(axis=(1, 3))
        with_plate.append(spread[cells > 0.9])
        without.append(spread[cells < 0.01])
    with_plate, without = np.concatenate(with_plate), np.concatenate(without)
    assert len(with_plate) > 500 and with_plate.mean() > 2 * without.mean()


def test_a_scorer_is_trained_and_its_file_answers_as_it_does(
    train_scorer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime
    import torch

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (200, 240, 3), np.uint8)).save(tmp_path / "noise.png")
    Image.fromarray(rng.integers(0, 255, (50, 60, 3), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((200, 240, 4), np.uint8)).save(tmp_path / "see through.png")
    output_path = tmp_path / "scorer.onnx"
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path), "--output", str(output_path), "--num_steps", "2"])
    train_scorer.main()
    assert len(train_scorer.read_photos([tmp_path])) == 1
    net = train_scorer.make_net()
    for layer in net:  # as if trained for long: means and deviations that folding must not lose
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -1, 1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
    grey = rng.random((1, 1, 45, 70), np.float32)
    model = train_scorer.as_onnx(net.eval()).SerializeToString()
    (answer,) = onnxruntime.InferenceSession(model).run(None, {"grey": grey})
    with torch.inference_mode():
        expected = torch.sigmoid(net(torch.from_numpy(grey))).numpy()
    assert answer.shape == (1, 1, 12, 18) and np.abs(answer - expected).max() < 1e-5
    (trained,) = onnxruntime.InferenceSession(output_path).run(None, {"grey": grey})
    assert trained.shape == answer.shape


# --- the Detic of drawn shapes ---------------------------------------------------------------------------------------


@pytest.fixture
def drawn_scenes(pictures: ModuleType) -> ModuleType:
    import drawn_scenes

    return drawn_scenes


@pytest.fixture
def train_detic(drawn_scenes: ModuleType) -> ModuleType:
    pytest.importorskip("torchvision", reason="make detic installs it")
    import train_drawn_detic

    return train_drawn_detic


@pytest.fixture
def losses(train_detic: ModuleType) -> ModuleType:
    import detic_losses

    return detic_losses


def test_drawn_shapes_fill_their_boxes(drawn_scenes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """On black, where nothing else is: what is drawn ends where the box does; and a scene is the same each time."""
    monkeypatch.setattr(drawn_scenes, "MOST_SHAPES", 1)
    monkeypatch.setattr(drawn_scenes, "_background", lambda photos, hw, rng: np.zeros((*hw, 3), np.float32))
    monkeypatch.setattr(drawn_scenes, "_filmed", lambda image, rng: image)
    rng, again, found = np.random.default_rng(0), np.random.default_rng(0), set()
    for _ in range(60):
        scene = drawn_scenes.draw_scene([], (120, 160), rng)
        for ours, other in zip(scene, drawn_scenes.draw_scene([], (120, 160), again), strict=True):
            np.testing.assert_array_equal(ours, other)
        for xyxy, label in zip(scene.xyxy, scene.labels, strict=True):
            y, x = np.nonzero(scene.image.max(axis=2) > 0)
            np.testing.assert_array_equal([x.min(), y.min()], np.floor(xyxy[:2]))
            np.testing.assert_array_equal([x.max() + 1, y.max() + 1], np.ceil(xyxy[2:]))
            found.add(drawn_scenes.SHAPES[label])
    assert found == set(drawn_scenes.SHAPES)


def test_cells_are_told_what_is_around_them(losses: ModuleType) -> None:
    """A box of 40 x 24 px around (44, 36) concerns the finest level only, whose cell (5, 4) its middle is in."""
    import torch

    maps = [torch.zeros(1, 256, 8 // 2**n, 16 // 2**n) for n in range(2)]
    cells = [losses.level_cells(tower, number) for number, tower in enumerate(maps)]
    centres, levels = (torch.cat(parts) for parts in zip(*cells, strict=True))
    box = torch.tensor([[24.0, 24.0, 64.0, 48.0]])
    heat, is_middle, weight, wanted = losses.cell_targets(centres, levels, box)
    (middle,) = torch.nonzero(is_middle)
    assert (middle.item(), heat[middle].item()) == (4 * 16 + 5, 1.0)
    beside = [row * 16 + column for row in (3, 4, 5) for column in (4, 5, 6)]
    assert torch.nonzero(weight)[:, 0].tolist() == beside and (wanted[beside] == box).all()
    assert heat[levels == 1].max() == 0 and heat[middle + 1] == heat[middle - 1] > heat[middle + 2]
    assert not losses.cell_targets(centres, levels, box[:0])[1].any()


def test_deltas_are_what_moves_boxes_to_their_goals(losses: ModuleType) -> None:
    import torch

    boxes, goals = torch.tensor([[10.0, 10, 30, 50], [0, 0, 8, 8]]), torch.tensor([[12.0, 5, 40, 44], [1, 2, 5, 6]])
    for scales in losses.DELTA_SCALES:
        deltas = losses.deltas_between(boxes, goals, scales)
        np.testing.assert_allclose(losses.move(boxes, deltas, scales), goals, atol=1e-4)


def test_a_detic_learns_and_its_file_sees_as_it_does(
    train_detic: ModuleType, drawn_scenes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from trackverse.detectors.detic import load_detic

    rng = np.random.default_rng(1)
    scene = drawn_scenes.draw_scene([stills.street(0)], (64, 96), rng)
    assert len(scene.labels)
    monkeypatch.setattr(train_detic, "draw_scene", lambda photos, hw, rng: scene)
    monkeypatch.setattr(train_detic, "BATCH", 1)
    monkeypatch.setattr(train_detic, "WARM_UP_STEPS", 1)
    torch.manual_seed(0)
    network = train_detic.untrained_network("r18")
    vocabulary = train_detic.make_vocabulary(len(drawn_scenes.SHAPES), rng)
    losses = train_detic.train(network, vocabulary, [], 5, rng)
    assert len(losses) == 5 and losses[-1] < 0.7 * losses[0]

    path = tmp_path / "drawn.pth"
    torch.save({"model": train_detic.checkpoint(network, "r18")}, path)
    detector = load_detic(path, vocabulary)
    path.unlink()  # a quarter of a gigabyte
    network.eval()
    pixels, pooled = torch.randn(1, 3, 64, 96), torch.randn(2, 49, 256)
    with torch.inference_mode():
        for ours, loaded in zip(network.features(pixels), detector.network.features(pixels), strict=True):
            np.testing.assert_allclose(ours, loaded, rtol=0, atol=1e-3 * loaded.std())
        ours = network.heads.box_head[1](pooled.transpose(1, 2))
        np.testing.assert_allclose(ours, detector.network.heads.box_head[1](pooled), rtol=0, atol=1e-4)
    figures = train_detic.held_out_figures(detector, [scene])
    assert figures["objects"] == len(scene.labels) and 0 <= figures["recall"] <= 1


def test_a_swin_b_begins_with_its_teachers_layers_and_follows_its_example(
    train_detic: ModuleType, drawn_scenes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    rng = np.random.default_rng(1)
    scene = drawn_scenes.draw_scene([stills.street(0)], (64, 96), rng)
    monkeypatch.setattr(train_detic, "draw_scene", lambda photos, hw, rng: scene)
    monkeypatch.setattr(train_detic, "BATCH", 1)
    monkeypatch.setattr(train_detic, "WARM_UP_STEPS", 1)
    monkeypatch.setattr(train_detic, "EXAMPLE_FRAC", 1)
    torch.manual_seed(0)
    teacher, network = train_detic.untrained_network("r18").eval(), train_detic.untrained_network("swinb")
    train_detic.take_over(network, teacher)
    losses = train_detic.train(network, np.zeros((512, 1), np.float32), [], 4, rng, teacher)
    assert losses[-1] < 0.95 * losses[0]
    ours, others = (train_detic.checkpoint(*pair) for pair in ((network, "swinb"), (teacher, "r18")))
    own = {name for name in ours if name.startswith(("backbone.bottom_up.", "backbone.fpn_lateral"))}
    assert {name.partition(".")[0] for name in ours.keys() - own} == {"backbone", "proposal_generator", "roi_heads"}
    for name in ours.keys() - own:  # the examples say nothing of proposals and boxes
        assert name.startswith("backbone.") or torch.equal(ours[name], others[name])
    assert not any(name.endswith("attn.bias") for name in own)  # that is laid out from its table, not stored
