"""Any detection model of detectron2, for those who have it installed: a thin adapter to its own predictor.

detectron2 gives a box's best class and its score, nothing of the other classes: theirs are 0 here.
"""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError

import numpy as np

from trackverse.appearance import Embedder
from trackverse.detectors.torch_archive import check_sums
from trackverse.errors import SetupError
from trackverse.types import Detections, UInt8

SUFFIXES = (".pth", ".pyth")  # detectron2 reads these with torch.load, and .pkl with pickle


class Detectron2:
    """A model of a detectron2 config file and its weights. `labels` are those of the config's test dataset.

    `conf` is the least score, `nms` the largest IoU in a class.
    """

    def __init__(
        self, config: Path, weights: Path, embedder: Embedder | None, *, conf: float, nms: float, device: str
    ) -> None:
        """Raises SetupError if detectron2 is not installed or can't use the files, and for what could run code."""
        if weights.suffix not in SUFFIXES:
            raise SetupError(
                f"{weights}: only {' and '.join(SUFFIXES)} load without running code that may be in them; where you "
                "trust it, unpickle it and torch.save its tensors"
            )
        check_sums(weights)
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        try:
            from detectron2.config import get_cfg
            from detectron2.data import MetadataCatalog
            from detectron2.engine import DefaultPredictor
            from yaml import YAMLError
        except ImportError as error:
            raise SetupError(
                f"--detector detectron2 needs detectron2 ({error}): see its INSTALL.md, or use --detector detic"
            ) from error
        try:
            settings = get_cfg()
            settings.merge_from_file(str(config), allow_unsafe=False)
            settings.MODEL.WEIGHTS = str(weights)
            if device != "auto":
                settings.MODEL.DEVICE = device
            for head in (settings.MODEL.ROI_HEADS, settings.MODEL.RETINANET):
                head.SCORE_THRESH_TEST, head.NMS_THRESH_TEST = conf, nms
            self._predict = DefaultPredictor(settings)
            self.labels: tuple[str, ...] = tuple(MetadataCatalog.get(settings.DATASETS.TEST[0]).thing_classes)
        except (
            # A config that is none or asks for code; weights that are none or another network's; no classes.
            *(KeyError, AttributeError, IndexError, TypeError, ValueError, AssertionError),
            *(OSError, EOFError, RuntimeError, YAMLError, UnpicklingError),
        ) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise SetupError(f"{config}: detectron2 can't use it with {weights} ({why[:300]})") from error
        self._embedder = embedder
        self.name = f"detectron2-{config.stem}"
        self.embedding_dim = embedder.dim if embedder else 0

    def __call__(self, images: UInt8) -> list[Detections]:
        """One Detections a frame, of (T, H, W, 3) uint8 RGB images: boxes in their pixels."""
        return [self._detect(image) for image in images]

    def _detect(self, image: UInt8) -> Detections:
        found = self._predict(image[..., ::-1])["instances"].to("cpu")  # the predictor takes BGR
        xyxy = found.pred_boxes.tensor.numpy().astype(np.float32)
        scores = found.scores.numpy().astype(np.float32)
        logits = np.zeros((len(scores), len(self.labels)), np.float32)
        logits[np.arange(len(scores)), found.pred_classes.numpy()] = scores
        embeddings = self._embedder(image, xyxy) if self._embedder else np.zeros((len(scores), 0), np.float32)
        return Detections(xyxy, scores, logits, embeddings)
