"""Licence plates with the real detector, on the demo street's van and car, enlarged so that a plate can be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
from skimage import data

from trackverse import blur, plates
from trackverse.errors import SetupError
from trackverse.layout import ASSETS_DIR
from trackverse.plate_search import PlateSearch
from trackverse.video import VideoWriter, read_frames

REPO_DIR = Path(__file__).resolve().parent.parent
SCALE = 4
PLATE_XYXY = (230, 316, 284, 332)  # where the van's own plate is, 16 px high when enlarged


def street_with_plate(letters: str = "B TV 2719") -> np.ndarray:
    """The street's van and car, enlarged; on the van a white plate with black letters over its own."""
    small = next(read_frames(ASSETS_DIR / "demo" / "street.mp4")).images[0][:150, 600:]
    image = cv2.resize(small, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    left, top, right, bottom = PLATE_XYXY
    plate = np.full((4 * (bottom - top), 4 * (right - left), 3), 240, np.uint8)
    cv2.putText(plate, letters, (8, 50), cv2.FONT_HERSHEY_SIMPLEX, 1.35, (10, 10, 10), 4, cv2.LINE_AA)
    image[top:bottom, left:right] = cv2.resize(plate, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return image


def blurred_mask(patches: list[plates.Patch], image: np.ndarray) -> np.ndarray:
    mask = np.zeros(image.shape[:2], bool)
    for patch in patches:
        height, width = patch.mask.shape
        mask[patch.top : patch.top + height, patch.left : patch.left + width] |= patch.mask
    return mask


def stroke_strength(image: np.ndarray) -> float:
    left, top, right, bottom = PLATE_XYXY
    grey = cv2.cvtColor(np.ascontiguousarray(image[top:bottom, left:right]), cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)).mean())


def plate_model(path: Path, *, columns: int = 5, channels: int = 3, num_outputs: int = 1) -> Path:
    """An ONNX model that finds one plate, PLATE_XYXY, in whatever picture it is given."""
    box = onnx.numpy_helper.from_array(np.array([[*PLATE_XYXY, 0.9, 0][:columns]], np.float32), "box")
    nodes = [
        onnx.helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        onnx.helper.make_node("Mul", ["most", "nought"], ["none"]),
        onnx.helper.make_node("Add", ["box", "none"], ["boxes"]),
        onnx.helper.make_node("Identity", ["boxes"], ["more"]),
    ]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, channels, "h", "w"])
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("boxes", "more")]
    nought = onnx.numpy_helper.from_array(np.array(0, np.float32), "nought")
    graph = onnx.helper.make_graph(nodes, "plates", [image], outputs[:num_outputs], [box, nought])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("mode", "most"), [("auto", 0.15), ("region", 0.7)])
def test_the_plate_of_a_vehicle_goes_and_most_of_the_frame_stays(mode, most):
    before = street_with_plate()
    finder = plates.load_finder(mode)
    mask = blurred_mask(finder(before), before)
    left, top, right, bottom = PLATE_XYXY
    assert mask[top:bottom, left:right].mean() > 0.95
    after = before.copy()
    assert plates.PlateBlurrer(finder).blur(after)
    assert (after[~mask] == before[~mask]).all()
    assert stroke_strength(after) < 0.15 * stroke_strength(before)
    vehicles = plates.Vehicles(plates.PlateConfig())(before)
    bodies = np.zeros_like(mask)
    for vehicle in vehicles:
        vehicle.of(bodies)[:] = True
    assert not (mask & ~bodies).any()
    assert mask.sum() <= most * sum((v.right - v.left) * (v.bottom - v.top) for v in vehicles)


@pytest.mark.parametrize("mode", ["auto", "region"])
@pytest.mark.parametrize(
    ("what", "image"),
    [
        ("no vehicle", data.coffee()),
        ("a vehicle too small for a plate that can be read", street_with_plate()[::16, ::16]),
        ("one pixel", np.zeros((1, 1, 3), np.uint8)),
    ],
)
def test_frames_without_plates_are_left_alone(mode, what, image):
    image = np.ascontiguousarray(image)
    before = image.copy()
    assert not plates.PlateBlurrer(plates.load_finder(mode)).blur(image)
    assert (image == before).all()


@pytest.mark.parametrize(
    ("what", "picture", "is_marked"),
    [
        ("letters", street_with_plate()[220:380, 200:400], True),
        ("letters over letters", np.tile(street_with_plate()[316:332, 230:284], (20, 6, 1)), True),
        ("noise", np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8), None),
        ("flat", np.full((200, 300, 3), 90, np.uint8), False),
        ("narrow", np.zeros((300, 3, 3), np.uint8), False),
        ("low", np.zeros((3, 300, 3), np.uint8), False),
        ("one pixel", np.zeros((1, 1, 3), np.uint8), False),
    ],
)
def test_the_share_of_a_vehicle_is_kept(what, picture, is_marked):
    mask = PlateSearch()(picture, max_share=0.1, min_score=0.05)
    assert mask.shape == picture.shape[:2] and mask.mean() <= 0.11
    assert is_marked is None or mask.any() == is_marked


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("angle", [-8, 0, 8])
def test_letters_in_a_frame_are_told_from_bars_and_from_an_empty_plate(shrink, angle):
    """Three plates beside each other on noise, of which only the one in the middle says something."""
    picture = np.random.default_rng(0).normal(120, 6, (200, 480, 3)).clip(0, 255).astype(np.uint8)
    for left in (30, 190, 350):
        cv2.rectangle(picture, (left, 105), (left + 100, 130), (235, 235, 235), -1)
    cv2.putText(picture, "KLM 482", (195, 125), cv2.FONT_HERSHEY_SIMPLEX, 0.68, (15, 15, 15), 2, cv2.LINE_AA)
    cv2.rectangle(picture, (355, 114), (445, 121), (15, 15, 15), -1)
    turn = cv2.getRotationMatrix2D((240, 117), angle, 1 / shrink)
    picture = cv2.warpAffine(picture, turn, (480, 200), borderMode=cv2.BORDER_REPLICATE)
    mask = PlateSearch()(picture, max_share=0.045 if shrink == 1 else 0.016, min_score=0.1)
    with_letters = np.zeros(mask.shape, np.uint8)
    corners = cv2.transform(np.array([[[190, 105], [290, 105], [290, 130], [190, 130]]], np.float32), turn)
    cv2.fillPoly(with_letters, corners.round().astype(np.int32), 1)
    assert mask[with_letters > 0].mean() > 0.9


def test_a_missing_network_is_told(tmp_path):
    with pytest.raises(SetupError, match=r"gone\.onnx: missing"):
        PlateSearch(tmp_path / "gone.onnx")


def test_a_vehicle_on_which_nothing_looks_like_a_plate_is_blurred_in_its_lower_middle():
    """A silhouette: the detector is bypassed, for it would not call this a vehicle."""

    class OneVehicle:
        def __call__(self, image):
            return [plates.Vehicle(100, 50, 300, 200, is_motorcycle=False)]

    finder = plates.PlateLikeParts(OneVehicle(), plates.PlateConfig())
    image = np.full((250, 400, 3), 128, np.uint8)
    mask = blurred_mask(finder(image), image)
    assert mask[140:170, 170:230].all() and 0.1 < mask.sum() / (200 * 150) <= 0.15


def test_a_model_of_ones_own(tmp_path):
    before = street_with_plate()
    finder = plates.load_finder(str(plate_model(tmp_path / "mine.onnx")))
    after = before.copy()
    assert plates.PlateBlurrer(finder).blur(after)
    assert stroke_strength(after) < 0.3 * stroke_strength(before)
    far = np.ones(before.shape[:2], bool)
    far[PLATE_XYXY[1] - 6 : PLATE_XYXY[3] + 6, PLATE_XYXY[0] - 6 : PLATE_XYXY[2] + 6] = False
    assert (after[far] == before[far]).all()


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("six columns", {"columns": 6}, r"output has shape \(1, 6\)"),
        ("grey pictures", {"channels": 1}, "no plate detector"),
        ("two outputs", {"num_outputs": 2}, "one input and one output"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path, what, options, message):
    with pytest.raises(SetupError, match=message) as caught:
        plates.load_finder(str(plate_model(tmp_path / "mine.onnx", **options)))
    assert "mine.onnx" in str(caught.value) and "\n" not in str(caught.value)


def write_street(path: Path) -> Path:
    with VideoWriter(path, frame_hw=(600, 672), fps=10) as writer:
        for _ in range(2):
            writer.write(street_with_plate())
    return path


def run(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO_DIR / "gdpr_blur_faces.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def first_image(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_the_stage_blurs_plates_unless_it_is_told_not_to_and_remembers_which(tmp_path):
    path = write_street(tmp_path / "street.mp4")
    before = stroke_strength(first_image(path))
    steps = [
        (["--plates", "off"], "1 video done", {"faces"}),
        (["--plates", "off"], "1 already there", {"faces"}),
        ([], "1 video done", {"faces", "plates auto"}),
        (["--plates", "off"], "1 already there", {"faces", "plates auto"}),
        (["--plates", "region"], "1 video done", {"faces", "plates auto", "plates region"}),
        (["--plates", "auto"], "1 already there", {"faces", "plates auto", "plates region"}),
    ]
    for args, said, what in steps:
        result = run("--in_place", "street.mp4", *args, cwd=tmp_path)
        assert result.returncode == 0 and said in result.stderr, result.stderr
        assert blur.blurred_in(path) == what
        is_blurred = stroke_strength(first_image(path)) < 0.3 * before
        assert is_blurred == (what != {"faces"})


def test_an_output_of_other_settings_is_made_again_and_one_from_elsewhere_is_left_alone(tmp_path):
    source_path = write_street(tmp_path / "a.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.mp4").write_bytes(source_path.read_bytes())
    write_street(tmp_path / "b.mp4")
    assert run("--output_dir", "out", "--plates", "off", "a.mp4", "b.mp4", cwd=tmp_path).returncode == 0
    again = run("--output_dir", "out", "a.mp4", "b.mp4", cwd=tmp_path)
    assert "1 video done, 1 already there" in again.stderr, again.stderr
    assert blur.blurred_in(tmp_path / "out" / "a.mp4") == {"faces", "plates auto"}
    assert (tmp_path / "out" / "b.mp4").read_bytes() == source_path.read_bytes()


@pytest.mark.parametrize(
    ("what", "plates_flag", "message"),
    [("no such file", "mine.onnx", "mine.onnx: no such file; it is auto, region, off"), ("no model", "a.mp4", "a.mp4")],
)
def test_a_wrong_model_is_one_line_and_status_2(tmp_path, what, plates_flag, message):
    write_street(tmp_path / "a.mp4")
    result = run("--in_place", "a.mp4", "--plates", plates_flag, cwd=tmp_path)
    assert (result.returncode, message in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.stderr
