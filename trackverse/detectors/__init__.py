"""The one door to all detectors: choose one, then load it to turn frames into Detections."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trackverse import weights
from trackverse.appearance import ColourStripes, EfficientNetLite0, Embedder
from trackverse.detectors.batching import FittingBatches
from trackverse.detectors.protocol import Detector
from trackverse.detectors.vocabulary import BUILT_IN, load_labels
from trackverse.errors import SetupError
from trackverse.fetch import file_sha256
from trackverse.layout import ASSETS_DIR
from trackverse.types import OWN_EMBEDDING

DETECTORS = ("nanodet", "detic", "detectron2")
EMBEDDINGS = (OWN_EMBEDDING, ColourStripes.name, EfficientNetLite0.name, "none")
NANODET_WEIGHTS = ASSETS_DIR / "models" / "nanodet_g_coco_fp16w.onnx"
EFFICIENTNET_WEIGHTS = ASSETS_DIR / "models" / "efficientnet_lite0_fp16w.onnx"
# Larger batches gain nothing on a CPU. On a GPU what does not fit is found out: see FittingBatches.
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 4, 64


@dataclass(frozen=True)
class DetectorConfig:
    """`frame_size`: long side of the frames in px; `conf`: least score of a detection; `nms`: largest IoU in a class.

    `embedding`: what tells objects apart.
    """

    frame_size: int
    conf: float
    nms: float
    embedding: str


# Detic's are the published settings. NanoDet's scores are low and its tail is junk: at 0.3 it shows most objects.
# Frames over 480 px find no more people in the demo's street (recall 0.89 at 480, 640 and 768) but more false ones.
# With its authors' limit on the IoU, 0.6, a second box on a person often is a second track, which takes over the first
# one's person; people who stand that close are seldom both found. 0.35 to 0.5 do equally well.
DEFAULTS: Mapping[str, DetectorConfig] = {
    "nanodet": DetectorConfig(frame_size=480, conf=0.3, nms=0.45, embedding=ColourStripes.name),
    "detic": DetectorConfig(frame_size=480, conf=0.1, nms=0.7, embedding=OWN_EMBEDDING),
    "detectron2": DetectorConfig(frame_size=800, conf=0.1, nms=0.7, embedding=ColourStripes.name),
}


@dataclass(frozen=True)
class Choice:
    """Which detector looks for which classes. `config` is detectron2's; `dtype` matters to Detic alone."""

    name: str
    vocab: str
    weights: Path
    config: Path | None = None
    dtype: str = "float32"

    @property
    def id(self) -> str:
        """Name and weights' sha256, as they go into every record."""
        name = {"nanodet": "nanodet-g"}.get(self.name, self.name)
        return f"{name} sha256:{file_sha256(self.weights)}"

    @property
    def vocab_id(self) -> str:
        """The vocabulary's name, with a hash of its classes where the name alone doesn't tell them."""
        if self.vocab in BUILT_IN or self.name == "detectron2":
            return self.vocab
        classes = "\n".join(load_labels(self.vocab))
        return f"{Path(self.vocab).stem} sha256:{hashlib.sha256(classes.encode()).hexdigest()[:12]}"


def choose_detector(
    name: str | None,
    vocab: str | None,
    weights_path: Path | None,
    *,
    config: Path | None = None,
    dtype: str = "float32",
) -> Choice:
    """The detector that is asked for, or the one that fits what is asked.

    Without a name: Detic if its weights are given, or if the vocabulary is not COCO's; NanoDet otherwise. Detic's
    weights may also lie where `trackverse.weights` keeps them. Raises SetupError if the choice can't work.
    """
    if name is None:
        name = "detic" if weights_path or (vocab or "coco") != "coco" else "nanodet"
    if config and name != "detectron2":
        raise SetupError("--config goes with --detector detectron2")
    if name == "nanodet":
        if weights_path:
            raise SetupError("--weights doesn't go with NanoDet, whose weights are part of the repository")
        if (vocab or "coco") != "coco":
            raise SetupError(f"NanoDet knows the classes of --vocab coco only; --vocab {vocab} needs --detector detic")
        return Choice(name, "coco", NANODET_WEIGHTS)
    if name == "detectron2":
        if not (config and weights_path):
            raise SetupError("--detector detectron2 needs --config FILE and --weights FILE")
        return Choice(name, vocab or config.stem, _existing(weights_path), _existing(config))
    vocab = vocab or "lvis"
    load_labels(vocab)
    return Choice(name, vocab, _existing(weights_path) if weights_path else _detic_weights(vocab), dtype=dtype)


def _detic_weights(vocab: str) -> Path:
    try:
        return weights.find("detic-swinb")
    except SetupError as error:
        raise SetupError(
            f"--vocab {vocab} needs Detic: python -m trackverse.weights get detic-swinb lvis-classifier, or give "
            "--weights FILE; the built-in detector knows --vocab coco"
        ) from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise SetupError(f"{path}: no such file")
    return path


def load_detector(
    choice: Choice,
    config: DetectorConfig,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    num_threads: int = 0,
) -> Detector:
    """The chosen detector. `num_threads` 0 means all cores, `batch_size` None what fits, `device` "auto" a GPU if any.

    Raises SetupError if its libraries or weights are missing or don't fit together.
    """
    if choice.name == "nanodet":
        from trackverse.detectors.nanodet import NanoDet

        embedder = _embedder(choice, config.embedding, num_threads)
        return NanoDet(
            choice.weights, load_labels("coco"), embedder, conf=config.conf, nms=config.nms, num_threads=num_threads
        )
    if choice.name == "detectron2":
        from trackverse.detectors.detectron2 import Detectron2

        assert choice.config is not None
        embedder = _embedder(choice, config.embedding, num_threads)
        return Detectron2(choice.config, choice.weights, embedder, conf=config.conf, nms=config.nms, device=device)
    from trackverse.detectors.detic import load_detic, pick_device

    if config.embedding not in (OWN_EMBEDDING, "none"):
        raise SetupError(f"--embedding {config.embedding} doesn't go with Detic: {OWN_EMBEDDING} or none")
    device = pick_device(device, num_threads)
    detector = load_detic(
        choice.weights,
        choice.vocab,
        device,
        choice.dtype,
        config.frame_size,
        config.conf,
        config.nms,
        with_embeddings=config.embedding == OWN_EMBEDDING,
    )
    return FittingBatches(detector, batch_size or (CPU_BATCH_SIZE if device == "cpu" else GPU_BATCH_SIZE))


def _embedder(choice: Choice, name: str, num_threads: int) -> Embedder | None:
    if name == OWN_EMBEDDING:
        raise SetupError(f"--embedding {OWN_EMBEDDING} goes with Detic; {choice.name} has no features of its own")
    if name == ColourStripes.name:
        return ColourStripes()
    return EfficientNetLite0(EFFICIENTNET_WEIGHTS, num_threads) if name == EfficientNetLite0.name else None
