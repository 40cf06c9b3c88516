"""What an object looks like, as a vector: to tell objects of one video apart, and near-duplicates in a dataset.

Measured on a street sequence (same person 20 frames later against others): AUC 0.94 for the colour histogram, 0.92 for
EfficientNet-Lite0 after centring, 0.98 for both. The histogram costs next to nothing and needs no weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from trackverse.onnx_model import load_model
from trackverse.types import Float32, Int64, UInt8
from trackverse.vectors import unit

STRIPES = 3  # head, body, legs of an upright object
HUE_BINS, SATURATION_BINS, VALUE_BINS = 12, 4, 8
CROP_HW = (128, 64)  # for EfficientNet: tall crops tell people apart better than square ones (AUC 0.92 against 0.89)


class Embedder(Protocol):
    """Turns boxes of a frame into unit vectors."""

    name: str
    dim: int

    def __call__(self, image: UInt8, xyxy: Float32) -> Float32:
        """(N, dim) rows of unit length for (N, 4) boxes of an (H, W, 3) uint8 RGB image."""
        ...


class ColourStripes:
    """HSV histograms of three horizontal stripes: hue × saturation jointly, and value; square root, unit length.

    The inner 80 % of the box's width is looked at, where there is less background.
    """

    name = "hsv_stripes"
    dim = STRIPES * (HUE_BINS * SATURATION_BINS + VALUE_BINS)

    def __call__(self, image: UInt8, xyxy: Float32) -> Float32:
        embeddings = np.zeros((len(xyxy), self.dim), np.float32)
        if not len(xyxy):
            return embeddings
        hue, saturation, value = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int32), -1, 0)
        colour = hue * HUE_BINS // 180 * SATURATION_BINS + saturation * SATURATION_BINS // 256
        light = value * VALUE_BINS // 256
        for row, crop in enumerate(_crops(xyxy, image.shape[:2], margin=0.1)):
            histogram = [
                np.concatenate([_shares(c, HUE_BINS * SATURATION_BINS), _shares(v, VALUE_BINS)])
                for c, v in zip(
                    np.array_split(colour[crop], STRIPES), np.array_split(light[crop], STRIPES), strict=True
                )
            ]
            embeddings[row] = np.sqrt(np.concatenate(histogram) / (2 * STRIPES))
        return unit(embeddings)


def _shares(bins: Int64, num_bins: int) -> Float32:
    """How much of the pixels falls into each bin; zeros for no pixels."""
    shares: Float32 = (np.bincount(bins.ravel(), minlength=num_bins) / max(bins.size, 1)).astype(np.float32)
    return shares


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
