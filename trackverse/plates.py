"""Licence plates in video made unreadable, as far as they can be found.

No plate detector that others trained may be shipped with this project. By default the vehicles are found by the
embedded NanoDet, and in each of them a small network of our own marks what looks most like a plate. Too much is blurred
rather than too little, up to a share of the vehicle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from trackverse import boxes, detectors
from trackverse.errors import SetupError
from trackverse.fetch import file_sha256
from trackverse.onnx_model import load_model
from trackverse.plate_search import PlateSearch
from trackverse.types import Bool, Float32, Int64, UInt8

VEHICLES = ("car", "motorcycle", "bus", "truck")
MODES = ("auto", "region", "off")
SAME_VEHICLE_IOU = 0.5  # found at two sizes, or as a car and as a truck


@dataclass(frozen=True)
class PlateConfig:
    """How plates are looked for. Shares are of the vehicle's box.

    `detector_sizes`: long sides in px of the frames that vehicles are looked for in: the detector misses some that fill
    the frame, and finds them in a smaller one; `vehicle_thresh`: least score of a vehicle; `min_vehicle_px`: least
    width and height of one, for on smaller ones no plate can be read; `vehicle_margin`: what is added to a vehicle's
    box on each side; `max_share`: most of a vehicle that is blurred; `min_score`: how plate-like a place is at least,
    from 0 to 1; `region_top`: where the lower part begins; `model_thresh`: least score of a plate that a model finds.
    """

    detector_sizes: tuple[int, ...] = (480, 240)
    vehicle_thresh: float = 0.18
    min_vehicle_px: int = 48
    vehicle_margin: float = 0.04
    max_share: float = 0.11
    min_score: float = 0.1
    region_top: float = 0.33
    model_thresh: float = 0.25


class Vehicle(NamedTuple):
    """A vehicle's box in whole px, right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    is_motorcycle: bool

    def of(self, image: UInt8) -> UInt8:
        """Its part of an (H, W, 3) image."""
        return image[self.top : self.bottom, self.left : self.right]


class Patch(NamedTuple):
    """A part of a frame to blur: `mask` (h, w) at `left`, `top`; strokes up to `block_px` thick become unreadable."""

    left: int
    top: int
    mask: Bool
    block_px: int


class PlateFinder(Protocol):
    """Finds plates in an upright (H, W, 3) RGB image. `name` tells finders apart in the mark of a finished video."""

    name: str

    def __call__(self, image: UInt8) -> list[Patch]: ...


FindVehicles = Callable[[UInt8], list[Vehicle]]  # in an upright (H, W, 3) RGB image


class PlateBlurrer:
    """Blurs what a finder finds."""

    def __init__(self, finder: PlateFinder) -> None:
        self._finder = finder
        self.what = f"plates {finder.name}"

    def blur(self, image: UInt8) -> bool:
        """Blur every plate of an upright (H, W, 3) RGB image in place; whether there was one."""
        patches = self._finder(image)
        for patch in patches:
            height, width = patch.mask.shape
            part = image[patch.top : patch.top + height, patch.left : patch.left + width]
            part[patch.mask] = _coarse(part, patch.block_px)[patch.mask]
        return len(patches) > 0


def name_of(plates: str) -> str:
    """The name of `load_finder`'s finder: a model's tells its weights. Raises SetupError without a file."""
    path = Path(plates).expanduser()
    if plates in MODES:
        return plates
    if not path.is_file():
        raise SetupError(f"--plates {plates}: no such file; it is {', '.join(MODES)} or an ONNX model")
    return f"model {file_sha256(path)[:12]}"


def load_finder(plates: str, config: PlateConfig | None = None) -> PlateFinder | None:
    """The finder for "auto", "region", "off" (None) or the path of an ONNX model.

    Raises SetupError if it is none of these, or if the model is missing, damaged or not as `ModelPlates` says.
    """
    config = config or PlateConfig()
    if plates == "off":
        return None
    if plates == "auto":
        return PlateLikeParts(Vehicles(config), config)
    if plates == "region":
        return LowerParts(Vehicles(config), config)
    return ModelPlates(Path(plates).expanduser(), config)


class Vehicles:
    """Finds cars, motorcycles, buses and trucks with the embedded detector."""

    def __init__(self, config: PlateConfig) -> None:
        settings = replace(detectors.DEFAULTS["nanodet"], embedding="none", conf=config.vehicle_thresh)
        choice = detectors.choose_detector("nanodet", None, None)
        # One thread: more would spin while deface computes with all cores, and both would be slower.
        self._detect = detectors.load_detector(choice, settings, num_threads=1)
        self._config = config
        self._label_ids = [self._detect.labels.index(label) for label in VEHICLES]

    def __call__(self, image: UInt8) -> list[Vehicle]:
        """The vehicles of an (H, W, 3) RGB image that are large enough, with their margin."""
        frame_hw = (image.shape[0], image.shape[1])
        at_sizes = [self._find(image, size) for size in self._config.detector_sizes]
        xyxy, scores = (
            np.concatenate([found[0] for found in at_sizes]),
            np.concatenate([found[1] for found in at_sizes]),
        )
        kept = boxes.nms(xyxy, scores.max(axis=1, initial=0.0), SAME_VEHICLE_IOU)
        kept = kept[(xyxy[kept, 2:] - xyxy[kept, :2] >= self._config.min_vehicle_px).all(axis=1)]
        is_motorcycle = scores[kept].argmax(axis=1) == VEHICLES.index("motorcycle")
        grown = _with_margin(xyxy[kept], self._config.vehicle_margin, frame_hw)
        return [
            Vehicle(left, top, right, bottom, motorcycle)
            for (left, top, right, bottom), motorcycle in zip(grown.tolist(), is_motorcycle.tolist(), strict=True)
        ]

    def _find(self, image: UInt8, size: int) -> tuple[Float32, Float32]:
        """(N, 4) xyxy px of the image and (N, 4) scores as each of VEHICLES, looked for at this long side."""
        frame_wh = np.array(image.shape[1::-1], np.float32)
        small_wh = np.maximum(1, np.round(frame_wh * min(1.0, size / frame_wh.max()))).astype(int)
        small = np.asarray(cv2.resize(image, small_wh.tolist(), interpolation=cv2.INTER_AREA), np.uint8)
        found = self._detect(small[None])[0]
        scores = found.logits[:, self._label_ids]
        # What may be a van or a bus by a hair is a vehicle, even if its best class is another one.
        rows = scores.max(axis=1, initial=0.0) >= self._config.vehicle_thresh
        return found.xyxy[rows] * np.tile(frame_wh / small_wh, 2).astype(np.float32), scores[rows]


class LowerParts:
    """`region`: the whole lower part of every vehicle."""

    name = "region"

    def __init__(self, vehicles: FindVehicles, config: PlateConfig) -> None:
        self._vehicles, self._config = vehicles, config

    def __call__(self, image: UInt8) -> list[Patch]:
        return [self._lower_part(vehicle) for vehicle in self._vehicles(image)]

    def _lower_part(self, vehicle: Vehicle) -> Patch:
        height = vehicle.bottom - vehicle.top
        top = vehicle.top + round(self._config.region_top * height)
        mask = np.ones((vehicle.bottom - top, vehicle.right - vehicle.left), bool)
        return Patch(vehicle.left, top, mask, _block_px(height))


class PlateLikeParts:
    """`auto`: the parts of every vehicle that look like a plate, or its lower middle where nothing does."""

    name = "auto"

    def __init__(self, vehicles: FindVehicles, config: PlateConfig) -> None:
        self._vehicles, self._config = vehicles, config
        self._search = PlateSearch()

    def __call__(self, image: UInt8) -> list[Patch]:
        return [
            Patch(vehicle.left, vehicle.top, self._mask(vehicle, image), _block_px(vehicle.bottom - vehicle.top))
            for vehicle in self._vehicles(image)
        ]

    def _mask(self, vehicle: Vehicle, image: UInt8) -> Bool:
        part = vehicle.of(image)
        height, width = part.shape[:2]
        if vehicle.is_motorcycle and width > height:
            return _both_ends(height, width)
        mask = self._search(part, max_share=self._config.max_share, min_score=self._config.min_score)
        return mask if mask.any() else _lower_middle(height, width)


class ModelPlates:
    """A plate detector of the user's own, an ONNX file.

    One input, float32 [1, 3, H, W]: the frame in RGB from 0 to 1, black added at the right and at the bottom to
    multiples of 32. One output, float32 [N, 5]: left, top, right, bottom in px of the input, score from 0 to 1.

    Raises SetupError if the file is missing or damaged, or the model isn't like that.
    """

    def __init__(self, path: Path, config: PlateConfig) -> None:
        self.name = name_of(str(path))
        self._path, self._config = path, config
        self._model = load_model(path)
        if (len(self._model.get_inputs()), len(self._model.get_outputs())) != (1, 1):
            raise self._misfit("it needs one input and one output")
        for shape in ((64, 96), (96, 64)):  # any size must do
            self._find(np.zeros((*shape, 3), np.uint8))

    def __call__(self, image: UInt8) -> list[Patch]:
        found = self._find(image)
        plates = found[found[:, 4] >= self._config.model_thresh, :4]
        height = plates[:, 3:] - plates[:, 1:2]
        grown = np.concatenate([plates[:, :2] - height / 4, plates[:, 2:] + height / 4], axis=1)
        xyxy = _with_margin(grown, 0.0, (image.shape[0], image.shape[1]))
        return [
            Patch(left, top, np.ones((bottom - top, right - left), bool), max(4, (bottom - top) // 2))
            for left, top, right, bottom in xyxy.tolist()
            if right > left and bottom > top
        ]

    def _find(self, image: UInt8) -> Float32:
        """(N, 5) boxes in px of the image, and scores."""
        height, width = image.shape[:2]
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
        padded[:height, :width] = image / np.float32(255)
        pixels = np.ascontiguousarray(padded.transpose(2, 0, 1)[None])
        try:
            (found,) = self._model.run(None, {self._model.get_inputs()[0].name: pixels})
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise self._misfit(str(error).splitlines()[0]) from error
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] != 5:
            raise self._misfit(f"its output has shape {np.shape(found)}")
        return found.astype(np.float32)

    def _misfit(self, why: str) -> SetupError:
        contract = "float32 [1, 3, H, W] of any multiples of 32 in, [N, 5] (left, top, right, bottom, score) out"
        return SetupError(f"{self._path}: no plate detector as --plates takes it ({contract}): {why}")


def _lower_middle(height: int, width: int) -> Bool:
    """(H, W) mask of 14 % of a vehicle's box: where most plates are seen from behind or in front."""
    mask = np.zeros((height, width), bool)
    mask[round(0.45 * height) : round(0.8 * height), round(0.3 * width) : round(0.7 * width)] = True
    return mask


def _both_ends(height: int, width: int) -> Bool:
    """(H, W) mask of 14 % of the box of a motorcycle seen from the side: engine and spokes look more like letters than
    its plate does, but that is at one of its ends.
    """
    mask = np.zeros((height, width), bool)
    rows, end = slice(round(0.33 * height), round(0.64 * height)), round(0.225 * width)
    mask[rows, :end] = mask[rows, width - end :] = True
    return mask


def _block_px(vehicle_h: int) -> int:
    """About the height of a plate on a vehicle."""
    return max(6, vehicle_h // 12)


def _coarse(part: UInt8, block_px: int) -> UInt8:
    """The (H, W, 3) picture with nothing left in it that is smaller than `block_px`."""
    height, width = part.shape[:2]
    blocks = cv2.resize(part, (-(-width // block_px), -(-height // block_px)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _with_margin(xyxy: Float32, margin: float, frame_hw: tuple[int, int]) -> Int64:
    """(N, 4) whole px of boxes grown by `margin` of their size on each side and cut to the frame."""
    grow = margin * (xyxy[:, 2:] - xyxy[:, :2])
    grown = np.concatenate([np.floor(xyxy[:, :2] - grow), np.ceil(xyxy[:, 2:] + grow)], axis=1)
    return boxes.clip_to_frame(grown.astype(np.float64), frame_hw).astype(np.int64)
