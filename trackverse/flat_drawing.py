"""The built-in finder of flat drawings: a logistic regression on pooled features of EfficientNet-Lite0.

Its coefficients are in assets/models/flat_drawing.json, with what they were trained on and how well they do on packages
that were held out; training/train_flat_drawing.py makes that file. It finds flat 2-D drawings. Shaded drawings, and
computer graphics that look like film, it mostly takes for film.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trackverse.errors import SetupError
from trackverse.layout import ASSETS_DIR
from trackverse.onnx_model import load_model
from trackverse.types import Float32, UInt8

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BACKBONE = ASSETS_DIR / "models" / "efficientnet_lite0_fp16w.onnx"
COEFFICIENTS = ASSETS_DIR / "models" / "flat_drawing.json"
# The last features tell things; the early ones, pooled over the frame too, tell flat colour and hard edges. Without
# them, blurred photographs pass for drawings.
OUTPUTS = ("pool2", "pool4", "pool10", "feat")
DIM = 24 + 40 + 112 + 1280
LONG_SIDE = 256  # px, of what the network sees; at 320 it costs 1.6 times as much and is hardly better
EVERY = 4  # frames 0.5 s apart are much alike, and the network costs more than all else that is done with one
NEAR_BLACK = 40  # grey levels: a frame whose brightest percent is darker can't be told from a drawing


class FlatDrawing:
    """Scores frames by how drawn they look: a logit, above 0 for drawings."""

    def __init__(self, coefficients: Path = COEFFICIENTS, num_threads: int = 1) -> None:
        """Raises SetupError if a file is missing or damaged."""
        self._weights, self._bias = _load_coefficients(coefficients)
        self._backbone = load_model(BACKBONE, num_threads)

    def __call__(self, images: UInt8) -> float | None:
        """The median logit of every `EVERY`-th of frames (T, H, W, 3) uint8 RGB; None if all are near black."""
        images = images[[not is_near_black(image) for image in images]][::EVERY]
        return float(np.median(self.logits(images))) if len(images) else None

    def logits(self, images: UInt8) -> Float32:
        """The logits (T,) of frames (T, H, W, 3) uint8 RGB."""
        logits: Float32 = features(self._backbone, images) @ self._weights + self._bias
        return logits


def is_near_black(image: UInt8) -> bool:
    """Whether an (H, W, 3) RGB frame has nothing in it to judge."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return bool(np.count_nonzero(np.asarray(luma) >= NEAR_BLACK) < 0.01 * luma.size)


def features(backbone: InferenceSession, images: UInt8) -> Float32:
    """The pooled features (T, DIM) of frames (T, H, W, 3) uint8 RGB.

    Input as the network's authors trained it: RGB, (px − 127) / 128.
    """
    if not len(images):
        return np.zeros((0, DIM), np.float32)
    height, width = images.shape[1:3]
    scale = LONG_SIDE / max(height, width)
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.stack([cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA) for image in images])
    pixels = (small.transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128
    return np.concatenate(backbone.run(list(OUTPUTS), {"image": pixels}), axis=1)


def _load_coefficients(path: Path) -> tuple[Float32, float]:
    try:
        entry = json.loads(path.read_bytes())
        weights = np.array(entry["weights"], np.float32)
        if weights.shape != (DIM,):
            raise ValueError(f"{weights.shape} weights")
        return weights, float(entry["bias"])
    except OSError as error:
        raise SetupError(f"{path}: missing; it is part of the repository, git checkout brings it back") from error
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{path}: not the coefficients of {DIM} features ({error})") from error
