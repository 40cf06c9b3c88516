"""The one door to all detectors: `load_detector` gives something that turns frames into Detections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from trackverse.appearance import ColourStripes, EfficientNetLite0, Embedder
from trackverse.errors import SetupError
from trackverse.layout import ASSETS_DIR
from trackverse.types import Detections, UInt8

EMBEDDINGS = (ColourStripes.name, EfficientNetLite0.name, "none")
NANODET_WEIGHTS = ASSETS_DIR / "models" / "nanodet_g_coco_fp16w.onnx"
EFFICIENTNET_WEIGHTS = ASSETS_DIR / "models" / "efficientnet_lite0_fp16w.onnx"
DETIC_WEIGHTS_URL = "https://dl.fbaipublicfiles.com/detic/Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size.pth"


class Detector(Protocol):
    """Turns (T, H, W, 3) uint8 RGB images into T Detections, boxes in the images' pixels."""

    name: str
    labels: tuple[str, ...]
    embedding_dim: int
    centre_embeddings: bool  # see `ByteTracker`

    def __call__(self, images: UInt8) -> list[Detections]: ...


@dataclass(frozen=True)
class DetectorConfig:
    """`frame_size`: long side of the frames in px; `conf`: least score of a detection; `nms`: largest IoU in a class.

    `embedding`: what tells objects apart. NanoDet's scores are low and its tail is junk: at 0.3 it shows most objects.
    Frames over 480 px find no more people in the demo's street (recall 0.89 at 480, 640 and 768) but more false ones.
    """

    frame_size: int = 480
    conf: float = 0.3
    nms: float = 0.6
    embedding: str = ColourStripes.name


def check_vocab(vocab: str) -> None:
    """Raises SetupError if no detector that is here knows the vocabulary."""
    if vocab != "coco":
        raise SetupError(
            f"--vocab {vocab} needs the open-vocabulary detector Detic ({DETIC_WEIGHTS_URL}), which this version can't "
            "run yet; the built-in NanoDet knows the 80 classes of --vocab coco"
        )


def load_vocab(vocab: str) -> tuple[str, ...]:
    """The class names of a vocabulary, in the order of their ids."""
    check_vocab(vocab)
    path = ASSETS_DIR / "vocab" / f"{vocab}.txt"
    return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])


def detector_id(vocab: str) -> str:
    """Name and weights' sha256 of the detector for a vocabulary, as it goes into every record."""
    check_vocab(vocab)
    return f"nanodet-g sha256:{hashlib.sha256(NANODET_WEIGHTS.read_bytes()).hexdigest()}"


def load_detector(vocab: str, config: DetectorConfig, num_threads: int = 0) -> Detector:
    """The detector for a vocabulary. `num_threads` 0 means all cores."""
    from trackverse.detectors.nanodet import NanoDet

    embedder: Embedder | None = None
    if config.embedding == ColourStripes.name:
        embedder = ColourStripes()
    elif config.embedding == EfficientNetLite0.name:
        embedder = EfficientNetLite0(EFFICIENTNET_WEIGHTS, num_threads)
    return NanoDet(
        NANODET_WEIGHTS, load_vocab(vocab), embedder, conf=config.conf, nms=config.nms, num_threads=num_threads
    )
