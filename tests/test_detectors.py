"""The built-in detector and both embedders, with their real weights on real frames of the demo's street."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from trackverse import boxes
from trackverse.appearance import ColourStripes, Embedder
from trackverse.detectors import (
    DEFAULTS,
    EMBEDDINGS,
    choose_detector,
    load_detector,
)
from trackverse.detectors.batching import FittingBatches
from trackverse.detectors.nanodet import NanoDet, _suppress, _vote
from trackverse.detectors.protocol import Detector
from trackverse.detectors.vocabulary import load_labels
from trackverse.errors import SetupError
from trackverse.layout import ASSETS_DIR, REPO_DIR
from trackverse.types import OWN_EMBEDDING, Detections
from trackverse.video import read_frames

STREET = ASSETS_DIR / "demo" / "street.mp4"
MODELS = {
    "nanodet_g_coco_fp16w.onnx": "6533f32db1c8d265",
    "efficientnet_lite0_fp16w.onnx": "e2987e069bc23f9a",
}
PERSON = 0
NANODET = choose_detector("nanodet", None, None)
CONFIG = DEFAULTS["nanodet"]


def nanodet(**changes: object) -> Detector:
    """NanoDet with its defaults, or other ones."""
    return load_detector(NANODET, replace(CONFIG, **changes), num_threads=2)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Eleven frames of the street as the stages read them: 360 x 480 px, ten a second. Six people, some half hidden."""
    size = CONFIG.frame_size
    batch = next(read_frames(STREET, start_s=5.0, end_s=6.05, long_side=size, batch_size=11, num_threads=1))
    assert batch.images.shape == (11, 360, 480, 3)
    return batch.images


@pytest.fixture(scope="module")
def detector() -> NanoDet:
    loaded = nanodet()
    assert isinstance(loaded, NanoDet)
    return loaded


def people(found: Detections, min_score: float = 0.45) -> Detections:
    return found.select((found.logits.argmax(axis=1) == PERSON) & (found.scores >= min_score))


@pytest.mark.parametrize("name, digest", MODELS.items(), ids=MODELS)
def test_the_weights_are_those_that_were_measured(name: str, digest: str) -> None:
    assert hashlib.sha256((ASSETS_DIR / "models" / name).read_bytes()).hexdigest().startswith(digest)


def test_every_record_names_the_weights_it_was_made_with() -> None:
    assert NANODET.id.startswith(f"nanodet-g sha256:{MODELS['nanodet_g_coco_fp16w.onnx']}")


def test_the_vocabulary_is_coco_in_its_order() -> None:
    labels = load_labels("coco")
    assert len(labels) == len(set(labels)) == 80
    assert (labels[0], labels[2], labels[5], labels[7], labels[79]) == ("person", "car", "bus", "truck", "toothbrush")


CHOICES = {
    "nothing asked: NanoDet": ((None, None, None), ("nanodet", "coco")),
    "COCO's classes: NanoDet": ((None, "coco", None), ("nanodet", "coco")),
    "weights given: Detic, with its own vocabulary": ((None, None, "w.pth"), ("detic", "lvis")),
    "weights and COCO's classes: Detic": ((None, "coco", "w.pth"), ("detic", "coco")),
    "a vocabulary of one's own: Detic": ((None, "mine.txt", "w.pth"), ("detic", "mine.txt")),
    "Detic by name": (("detic", None, "w.pth"), ("detic", "lvis")),
}


@pytest.mark.parametrize("asked, chosen", CHOICES.values(), ids=CHOICES)
def test_the_detector_that_fits(
    asked: tuple[str | None, ...], chosen: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(b"weights")
    Path("mine.txt").write_text("kettle\nteapot\n")
    name, vocab, weights = asked
    choice = choose_detector(name, vocab, Path(weights) if weights else None)
    assert (choice.name, choice.vocab) == chosen
    assert choice.id.split(" sha256:")[0] == {"nanodet": "nanodet-g"}.get(chosen[0], chosen[0])


WRONG_CHOICES = {
    "LVIS without Detic's weights": ((None, "lvis", None, None), "needs Detic: python -m trackverse.weights get detic"),
    "Detic without its weights": (("detic", None, None, None), "needs Detic: python -m trackverse.weights get detic"),
    "no such vocabulary": ((None, "nosuch", None, None), "vocabulary nosuch: neither one of"),
    "NanoDet with another vocabulary": (("nanodet", "lvis", None, None), "NanoDet knows the classes of --vocab coco"),
    "NanoDet with weights": (("nanodet", None, "w.pth", None), "--weights doesn't go with NanoDet"),
    "weights that aren't there": (("detic", None, "gone.pth", None), "gone.pth: no such file"),
    "a config for Detic": (("detic", None, "w.pth", "c.yaml"), "--config goes with --detector detectron2"),
    "detectron2 without a config": (("detectron2", None, "w.pth", None), "needs --config FILE and --weights FILE"),
}


@pytest.mark.parametrize("asked, said", WRONG_CHOICES.values(), ids=WRONG_CHOICES)
def test_a_choice_that_can_t_work_is_refused_in_words(
    asked: tuple[str | None, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKVERSE_WEIGHTS", str(tmp_path))
    Path("w.pth").write_bytes(b"weights")
    Path("c.yaml").write_text("")
    name, vocab, weights, config = asked
    with pytest.raises(SetupError, match=re.escape(said)):
        choose_detector(name, vocab, Path(weights) if weights else None, config=Path(config) if config else None)


def test_detectron2_is_only_needed_when_it_is_asked_for(tmp_path: Path) -> None:
    """detectron2 has no wheels, so the adapter's missing library is all that can be tried here."""
    for name in ("model.pth", "model.yaml"):
        (tmp_path / name).write_bytes(b"")
    choice = choose_detector("detectron2", None, tmp_path / "model.pth", config=tmp_path / "model.yaml")
    with pytest.raises(SetupError, match="--detector detectron2 needs detectron2"):
        load_detector(choice, DEFAULTS["detectron2"])


def test_detectron2_is_not_given_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"")
    (tmp_path / "model.yaml").touch()
    with pytest.raises(SetupError, match=r"model\.pkl: only \.pth and \.pyth load without running code"):
        load_detector(choose_detector("detectron2", None, path, config=tmp_path / "model.yaml"), DEFAULTS["detectron2"])


def pretend_detectron2(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> SimpleNamespace:
    """Stands in for detectron2, which has no wheels: its names, and a predictor that finds one box of class 1.

    The box is as wide as the first channel of the image is bright: a predictor is given BGR. Returns the settings.
    """

    def merge_from_file(path: str, *, allow_unsafe: bool) -> None:
        if error:
            raise error

    def predict(image: np.ndarray) -> dict[str, SimpleNamespace]:
        assert CONFIG.conf == settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        box = torch.tensor([[0.0, 0.0, float(image[0, 0, 0]), 20.0]])
        boxes = SimpleNamespace(tensor=box)
        found = SimpleNamespace(pred_boxes=boxes, scores=torch.tensor([0.7]), pred_classes=torch.tensor([1]))
        found.to = lambda device: found
        return {"instances": found}

    torch = pytest.importorskip("torch")
    pytest.importorskip("yaml")  # which detectron2 brings along
    model = SimpleNamespace(ROI_HEADS=SimpleNamespace(), RETINANET=SimpleNamespace())
    settings = SimpleNamespace(MODEL=model, DATASETS=SimpleNamespace(TEST=["set"]), merge_from_file=merge_from_file)
    catalog = SimpleNamespace(get=lambda name: SimpleNamespace(thing_classes=["cat", "dog"]))
    parts = {
        "config": {"get_cfg": lambda: settings},
        "data": {"MetadataCatalog": catalog},
        "engine": {"DefaultPredictor": lambda settings: predict},
    }
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    for name, members in parts.items():
        module = ModuleType(f"detectron2.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return settings


def load_detectron2(folder: Path) -> Detector:
    for name in ("model.pth", "model.yaml"):
        (folder / name).touch()
    choice = choose_detector("detectron2", None, folder / "model.pth", config=folder / "model.yaml")
    return load_detector(choice, replace(CONFIG, embedding="none"), device="cpu")


def test_detectron2s_findings_become_detections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = pretend_detectron2(monkeypatch)
    detector = load_detectron2(tmp_path)
    assert (detector.name, detector.labels) == ("detectron2-model", ("cat", "dog"))
    assert ("cpu", str(tmp_path / "model.pth")) == (settings.MODEL.DEVICE, settings.MODEL.WEIGHTS)
    images = np.zeros((2, 30, 40, 3), np.uint8)
    images[..., 2] = [[[10]], [[15]]]  # RGB: this is blue
    first, second = detector(images)
    np.testing.assert_array_equal(first.xyxy, [[0, 0, 10, 20]])
    np.testing.assert_array_equal(second.xyxy, [[0, 0, 15, 20]])
    np.testing.assert_allclose(first.logits, [[0, 0.7]], rtol=1e-6)
    assert first.embeddings.shape == (1, 0)


def yaml_error() -> Exception:
    yaml = pytest.importorskip("yaml")
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load("a: !!python/object:os.system {}")
    return caught.value


@pytest.mark.parametrize(
    "error",
    [lambda: KeyError("Non-existent config key: A"), yaml_error, lambda: UnpicklingError("Weights only load failed")],
    ids=["a key of another project", "code in the config", "code in the weights"],
)
def test_what_detectron2_can_t_use_is_one_line(
    error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_detectron2(monkeypatch, error())
    with pytest.raises(SetupError, match=r"model\.yaml: detectron2 can't use it with \S+model\.pth \(") as caught:
        load_detectron2(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nanodet", "detectron2"])
def test_only_detic_has_features_of_its_own(name: str, tmp_path: Path) -> None:
    choice = replace(NANODET, name=name, config=tmp_path / "model.yaml")
    with pytest.raises(SetupError, match="--embedding detector goes with Detic"):
        load_detector(choice, replace(CONFIG, embedding=OWN_EMBEDDING))


class Small:
    """Stands in for a detector on a GPU, of which there is none here: fails as torch does beyond `capacity` frames."""

    name, labels, embedding_dim = "small", ("thing",), 0

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.sizes: list[int] = []

    def __call__(self, images: np.ndarray) -> list[Detections]:
        self.sizes.append(len(images))
        if len(images) > self.capacity:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [Detections.empty(1, 0)] * len(images)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 20, 63, 64, 1000])
def test_the_batch_that_fits_is_found_in_a_few_tries(capacity: int) -> None:
    small = Small(capacity)
    detector = FittingBatches(small, 64)
    frames = np.zeros((200, 2, 2, 3), np.uint8)
    assert len(detector(frames)) == 200
    num_failed = sum(size > capacity for size in small.sizes)
    assert num_failed <= 7
    for _ in range(10):
        detector(frames)
    assert max(small.sizes[-3:]) == min(capacity, 64)
    assert sum(size > capacity for size in small.sizes) <= 7


def test_memory_that_others_take_later_is_no_loop_without_end() -> None:
    small = Small(64)
    detector = FittingBatches(small, 64)
    frames = np.zeros((128, 2, 2, 3), np.uint8)
    assert len(detector(frames)) == 128
    small.capacity = 3
    assert len(detector(frames)) == 128
    assert len(small.sizes) < 200


def test_not_even_one_frame_fits() -> None:
    with pytest.raises(SetupError, match="out of memory with a single frame"):
        FittingBatches(Small(0), 8)(np.zeros((3, 2, 2, 3), np.uint8))


def test_other_errors_of_a_detector_go_on_up() -> None:
    class Broken(Small):
        def __call__(self, images: np.ndarray) -> list[Detections]:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        FittingBatches(Broken(1), 8)(np.zeros((3, 2, 2, 3), np.uint8))


def test_missing_weights_are_a_set_up_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"gone\.onnx: missing"):
        NanoDet(tmp_path / "gone.onnx", load_labels("coco"), None, conf=0.3, nms=0.6)


def test_damaged_weights_are_a_set_up_error(tmp_path: Path) -> None:
    whole = (ASSETS_DIR / "models" / "nanodet_g_coco_fp16w.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SetupError, match=r"half\.onnx: not a usable ONNX model"):
        NanoDet(tmp_path / "half.onnx", load_labels("coco"), None, conf=0.3, nms=0.6)


def test_using_a_model_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    """onnxruntime would keep a device id there, for its reports."""
    code = "from trackverse.detectors import *; choice = choose_detector('nanodet', None, None)"
    code += "; load_detector(choice, DEFAULTS['nanodet'])"
    subprocess.run([sys.executable, "-c", code], cwd=REPO_DIR, env={"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


# ---- what it finds


def test_finds_all_three_people_of_the_first_frame(detector: NanoDet) -> None:
    """Where they are was measured by eye, in the video's own 768 x 576 px."""
    (first,) = next(read_frames(STREET, end_s=0.05, long_side=480, num_threads=1)).images
    found = people(detector(first[None])[0])
    expected = np.array([[253, 219, 284, 307], [501, 157, 529, 232], [644, 241, 685, 322]], np.float32) * 480 / 768
    overlap = boxes.iou(expected, found.xyxy)
    assert len(found) == 3
    assert sorted(overlap.argmax(axis=1)) == [0, 1, 2]
    assert (overlap.max(axis=1) > 0.7).all()


def test_finds_most_of_six_people(detector: NanoDet, frames: np.ndarray) -> None:
    (found,) = detector(frames[:1])
    assert 4 <= len(people(found)) <= 6
    left, top, right, bottom = people(found).xyxy.T
    # Pedestrians seen from above the street: 45 to 75 px high here, and upright.
    assert (bottom - top > 30).all() and (bottom - top < 100).all()
    assert ((right - left) < 0.8 * (bottom - top)).all()


def test_boxes_are_tight(detector: NanoDet, frames: np.ndarray) -> None:
    """Against the empty street, a box has somebody in it from edge to edge."""
    empty_street = np.median(street_sample(), axis=0)
    (found,) = detector(frames[:1])
    moving = np.abs(frames[0].astype(float) - empty_street).max(axis=2) > 60
    for left, top, right, bottom in people(found).xyxy.round().astype(int):
        inside = moving[top:bottom, left:right]
        height, width = inside.shape
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert inside.mean() > 0.15
        assert rows[0] < 0.2 * height and rows[-1] > 0.75 * height  # from head to feet
        assert columns[0] < 0.3 * width and columns[-1] > 0.7 * width


def street_sample() -> np.ndarray:
    """A frame a second of the whole street video, whose median is the street without anybody."""
    return np.concatenate([b.images for b in read_frames(STREET, fps=1, long_side=480, num_threads=1)])


def test_the_mirror_image_gives_the_mirrored_boxes(detector: NanoDet, frames: np.ndarray) -> None:
    """A wrong cell centre or a wrong letterbox would shift all boxes one way: by 4 px for half a cell."""
    shifts = []
    for image in frames[::3]:
        found, mirrored = (people(one) for one in detector(np.stack([image, image[:, ::-1]])))
        width = image.shape[1]
        back = mirrored.xyxy[:, [2, 1, 0, 3]] * np.float32([-1, 1, -1, 1]) + np.float32([width, 0, width, 0])
        overlap = boxes.iou(found.xyxy, back)
        pairs = np.flatnonzero(overlap.max(axis=1) > 0.5)
        assert len(pairs) >= 3
        matched = back[overlap[pairs].argmax(axis=1)]
        shifts.append((found.xyxy[pairs] - matched).reshape(-1, 2, 2).mean(axis=1))
    shift_xy = np.concatenate(shifts).mean(axis=0)
    assert np.abs(shift_xy).max() < 1.0


def test_a_shifted_image_gives_shifted_boxes(detector: NanoDet, frames: np.ndarray) -> None:
    """By 32 px, a whole cell of the coarsest grid: what is well inside must not notice."""
    image = frames[0]
    moved = np.roll(image, 32, axis=1)
    found, shifted = (people(one) for one in detector(np.stack([image, moved])))
    inner = found.xyxy[(found.xyxy[:, 0] > 60) & (found.xyxy[:, 2] < 380)]
    assert len(inner) >= 2
    overlap = boxes.iou(inner + np.float32([32, 0, 32, 0]), shifted.xyxy)
    assert (overlap.max(axis=1) > 0.9).all()


@pytest.mark.parametrize(
    "crop_hw",
    [(360, 480), (352, 480), (351, 479), (200, 333), (64, 64), (33, 31), (7, 500), (500, 7), (1, 1)],
    ids=lambda hw: f"{hw[0]}x{hw[1]}",
)
def test_any_frame_size_gives_boxes_inside_the_frame(
    detector: NanoDet, frames: np.ndarray, crop_hw: tuple[int, int]
) -> None:
    height, width = crop_hw
    tiled = np.tile(frames[0], (2, 2, 1))  # so that there is enough of it in both directions
    (found,) = detector(tiled[None, 40 : 40 + height, 60 : 60 + width])
    left, top, right, bottom = found.xyxy.T
    assert ((left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)).all()
    assert ((right > left) & (bottom > top)).all()
    assert found.logits.shape == (len(found), 80)
    if height >= 350 and width >= 470:
        assert len(people(found)) >= 4


def test_the_letterbox_moves_nothing(detector: NanoDet, frames: np.ndarray) -> None:
    """A few rows and columns less make another border around the image; people stay where they are."""
    whole, cropped = (people(detector(image[None])[0]) for image in (frames[0], frames[0][:-9, :-13]))
    overlap = boxes.iou(whole.xyxy[whole.xyxy[:, 2] < 440], cropped.xyxy)
    assert (overlap.max(axis=1) > 0.8).all()


def test_scores_are_eighty_probabilities_of_which_the_best_counts(detector: NanoDet, frames: np.ndarray) -> None:
    for found in detector(frames[:3]):
        assert found.logits.shape == (len(found), 80)
        assert ((found.logits >= 0) & (found.logits <= 1)).all()
        np.testing.assert_array_equal(found.scores, found.logits.max(axis=1))
        assert (found.scores >= CONFIG.conf).all()
        assert {a.dtype for a in (found.xyxy, found.scores, found.logits, found.embeddings)} == {np.dtype(np.float32)}


def test_no_object_is_found_twice(detector: NanoDet, frames: np.ndarray) -> None:
    for found in detector(frames[:5]):
        overlap = boxes.iou(found.xyxy, found.xyxy) - np.eye(len(found), dtype=np.float32)
        assert overlap.max() <= 0.75
        labels = found.logits.argmax(axis=1)
        assert overlap[labels[:, None] == labels[None]].max() <= CONFIG.nms


def test_a_higher_least_score_only_leaves_out(frames: np.ndarray) -> None:
    low, high = (nanodet(conf=conf)(frames[:1])[0] for conf in (0.3, 0.6))
    assert 0 < len(high) < len(low)
    kept = low.select(low.scores >= 0.6)
    np.testing.assert_array_equal(high.xyxy, kept.xyxy)


def test_one_frame_at_a_time_gives_the_same_as_many(detector: NanoDet, frames: np.ndarray) -> None:
    together = detector(frames[:3])
    for found, image in zip(together, frames[:3], strict=True):
        (alone,) = detector(image[None])
        np.testing.assert_array_equal(alone.xyxy, found.xyxy)
        np.testing.assert_array_equal(alone.embeddings, found.embeddings)


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_blank_image_has_nothing_in_it(detector: NanoDet, grey: int) -> None:
    (found,) = detector(np.full((1, 240, 320, 3), grey, np.uint8))
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert (found.logits.shape, found.embeddings.shape) == ((0, 80), (0, detector.embedding_dim))


def test_no_images_are_normal(detector: NanoDet) -> None:
    assert detector(np.zeros((0, 240, 320, 3), np.uint8)) == []


# ---- what they look like


@pytest.mark.parametrize("name, dim", [("hsv_stripes", 448), ("efficientnet_lite0", 1280), ("none", 0)])
def test_embeddings_have_unit_length(frames: np.ndarray, name: str, dim: int) -> None:
    assert name in EMBEDDINGS
    detector = nanodet(embedding=name)
    (found,) = detector(frames[:1])
    assert detector.embedding_dim == dim
    assert found.embeddings.shape == (len(found), dim) and len(found) >= 4
    if dim:
        np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, rtol=1e-5)
    (nothing,) = detector(np.zeros((1, 64, 64, 3), np.uint8))
    assert nothing.embeddings.shape == (0, dim)


@pytest.mark.parametrize("name", ["hsv_stripes", "efficientnet_lite0"])
def test_a_person_one_second_later_looks_more_like_themselves_than_like_others(frames: np.ndarray, name: str) -> None:
    """Who is who a second later is told by the frames in between, in which boxes overlap from one to the next."""
    detector = nanodet(embedding=name)
    shown = [people(found, 0.3) for found in detector(frames)]
    rows = np.arange(len(shown[0]))
    follow = rows
    for before, after in pairwise(shown):
        overlap = boxes.iou(before.xyxy[follow], after.xyxy)
        alive = overlap.max(axis=1) > 0.3
        rows, follow = rows[alive], overlap.argmax(axis=1)[alive]
    assert len(rows) >= 4 and len(set(follow)) == len(follow)
    likeness = shown[0].embeddings[rows] @ shown[-1].embeddings[follow].T
    np.testing.assert_array_equal(likeness.argmax(axis=1), np.arange(len(rows)))


def test_colour_stripes_tell_where_a_colour_is() -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[:30, :30], image[30:, :30] = (255, 0, 0), (0, 0, 255)  # red above blue
    image[:30, 30:60], image[30:, 30:60] = (0, 0, 255), (255, 0, 0)  # blue above red
    image[:30, 60:], image[30:, 60:] = (255, 0, 0), (0, 0, 255)  # red above blue again
    columns = np.array([[0, 0, 30, 60], [30, 0, 60, 60], [60, 0, 90, 60]], np.float32)
    likeness = ColourStripes()(image, columns) @ ColourStripes()(image, columns).T
    assert likeness[0, 2] == pytest.approx(1, abs=1e-5)
    assert likeness[0, 1] < 0.8


ODD_BOXES = {
    "thinner than a pixel": [10.2, 5.0, 10.4, 50.0],
    "one pixel": [10, 10, 11, 11],
    "at the far corner": [99.5, 79.5, 100, 80],
    "the whole frame": [0, 0, 100, 80],
    "beyond the frame": [90, 70, 140, 130],
    "two pixels high, for eight stripes": [10, 10, 40, 12],
}


@pytest.mark.parametrize("box", ODD_BOXES.values(), ids=ODD_BOXES)
@pytest.mark.parametrize("name", ["hsv_stripes", "efficientnet_lite0"])
def test_odd_boxes_have_a_look_too(name: str, box: list[float]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    (look,) = embedder(name)(image, np.array([box], np.float32))
    assert np.linalg.norm(look) == pytest.approx(1, rel=1e-5)


_EMBEDDERS: dict[str, Embedder] = {}


def embedder(name: str) -> Embedder:
    """The embedder of that name, loaded once."""
    if name not in _EMBEDDERS:
        detector = nanodet(embedding=name)
        assert isinstance(detector, NanoDet) and detector._embedder is not None
        _EMBEDDERS[name] = detector._embedder
    return _EMBEDDERS[name]


@pytest.mark.parametrize("shift, num", [(12, 1), (14, 1), (18, 2), (30, 2)])
def test_a_second_box_on_a_person_goes_and_a_person_half_behind_another_stays(shift: int, num: int) -> None:
    """IoU 0.54 and 0.48; 0.38 and 0.14."""
    xyxy = np.array([[0, 0, 40, 80], [shift, 0, 40 + shift, 80]], np.float32)
    logits = np.array([[0.9, 0], [0.6, 0]], np.float32)
    assert len(_suppress(xyxy, logits, CONFIG.nms)) == num


def test_boxes_of_neighbouring_cells_are_averaged_by_overlap_and_score() -> None:
    """The first two are one person; the third is one beside, the fourth a dog in the same place."""
    xyxy = np.array([[0, 0, 40, 80], [4, 0, 44, 80], [30, 0, 70, 80], [0, 0, 40, 80]], np.float32)
    logits = np.array([[0.9, 0], [0.6, 0], [0.8, 0], [0, 0.5]], np.float32)
    voted = _vote(xyxy, logits, np.array([0, 2]))
    weight = 0.6 * 36 / 44
    assert voted[0] == pytest.approx(np.array([4, 0, 4, 0]) * weight / (weight + 0.9) + [0, 0, 40, 80], rel=1e-5)
    np.testing.assert_allclose(voted[1], xyxy[2])
    assert _vote(xyxy, logits, np.zeros(0, np.int64)).shape == (0, 4)
