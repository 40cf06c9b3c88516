"""What an object looks like, as a vector: to tell objects of one video apart, and near-duplicates in a dataset.

Measured on the demo's street with its truth (means of 8 frames of a person, 20 frames or more apart, against those of
other people, centred; area under the ROC curve): 0.95 for the colours, 0.90 with three stripes and four fifths of the
width, 0.75 for EfficientNet-Lite0; NanoDet's own features in three stripes have 0.91 in its first layers and 0.6 in its
last ones. Colours need no weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from trackverse.onnx_model import load_model
from trackverse.types import Float32, UInt8
from trackverse.vectors import unit

# From the head to the feet of an upright object. Three tell people apart less well, and six a little less.
STRIPES = 8
SIDE_MARGIN = 0.2  # of a box's width, on each side, is mostly background
HUE_BINS, SATURATION_BINS, VALUE_BINS = 12, 4, 8
NUM_COLOURS = HUE_BINS * SATURATION_BINS
CROP_HW = (128, 64)  # for EfficientNet: tall crops tell people apart better than square ones (AUC 0.92 against 0.89)


class Embedder(Protocol):
    """Turns boxes of a frame into unit vectors."""

    name: str
    dim: int

    def __call__(self, image: UInt8, xyxy: Float32) -> Float32:
        """(N, dim) rows of unit length for (N, 4) boxes of an (H, W, 3) uint8 RGB image."""
        ...


class ColourStripes:
    """HSV histograms of horizontal stripes: hue × saturation jointly, and value; square root, unit length.

    The inner 60 % of the box's width is looked at, where there is less background.
    """

    name = "hsv_stripes"
    dim = STRIPES * (NUM_COLOURS + VALUE_BINS)

    def __call__(self, image: UInt8, xyxy: Float32) -> Float32:
        embeddings = np.zeros((len(xyxy), self.dim), np.float32)
        if not len(xyxy):
            return embeddings
        hue, saturation, value = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int32), -1, 0)
        colour = hue * HUE_BINS // 180 * SATURATION_BINS + saturation * SATURATION_BINS // 256
        light = NUM_COLOURS + value * VALUE_BINS // 256
        for row, crop in enumerate(_crops(xyxy, image.shape[:2], margin=SIDE_MARGIN)):
            height, width = colour[crop].shape
            stripe = np.arange(height) * STRIPES // height
            bins = np.stack([colour[crop], light[crop]]) + (stripe * (NUM_COLOURS + VALUE_BINS))[:, None]
            histogram = np.bincount(bins.ravel(), minlength=self.dim).reshape(STRIPES, -1)
            pixels = np.maximum(np.bincount(stripe, minlength=STRIPES) * width, 1)  # none in some, of a tiny box
            embeddings[row] = np.sqrt(histogram / pixels[:, None]).ravel()
        return unit(embeddings)


def _crops(xyxy: Float32, frame_hw: tuple[int, ...], margin: float = 0.0) -> list[tuple[slice, slice]]:
    """Array slices of the boxes, inside the frame and at least one pixel large; `margin` of the width off each side."""
    height, width = frame_hw[:2]
    inset = margin * (xyxy[:, 2] - xyxy[:, 0])
    left = np.clip(xyxy[:, 0] + inset, 0, width - 1).astype(int)
    top = np.clip(xyxy[:, 1], 0, height - 1).astype(int)
    right = np.clip(np.ceil(xyxy[:, 2] - inset), left + 1, width).astype(int)
    bottom = np.clip(np.ceil(xyxy[:, 3]), top + 1, height).astype(int)
    return [(slice(t, b), slice(x, r)) for x, t, r, b in zip(left, top, right, bottom, strict=True)]


class EfficientNetLite0:
    """Pooled features of EfficientNet-Lite0 (ImageNet), 1280 numbers a crop of 128 × 64 px.

    Input as its authors trained it: RGB, (px − 127) / 128. All raw cosines are high, so compare after centring.
    """

    name = "efficientnet_lite0"
    dim = 1280

    def __init__(self, weights: Path, num_threads: int = 0) -> None:
        self._model = load_model(weights, num_threads)

    def __call__(self, image: UInt8, xyxy: Float32) -> Float32:
        if not len(xyxy):
            return np.zeros((0, self.dim), np.float32)
        size_wh = CROP_HW[::-1]
        crops = [cv2.resize(image[crop], size_wh, interpolation=cv2.INTER_AREA) for crop in _crops(xyxy, image.shape)]
        pixels = (np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128
        features: Float32 = self._model.run(["feat"], {"image": pixels})[0]
        return unit(features)
