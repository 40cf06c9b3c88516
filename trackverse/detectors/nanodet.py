"""NanoDet-g, COCO's 80 classes, on the CPU through onnxruntime: the detector that comes with the repository.

Model: RangiLyu/nanodet, config nanodet-g (Apache-2.0), COCO mAP 22.9. Generalized focal loss heads (Li et al. 2020):
each side of a box is a distribution over the 11 distances 0..10 strides from the centre of its cell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trackverse import boxes
from trackverse.appearance import Embedder
from trackverse.onnx_model import load_model
from trackverse.types import Detections, Float32, Int64, UInt8

STRIDES = (8, 16, 32)
NUM_BINS = 11
BGR_MEAN = np.array([103.53, 116.28, 123.675], np.float32)
BGR_STD = np.array([57.375, 57.12, 58.395], np.float32)
MIN_VOTE_IOU = 0.7  # boxes this close are the same object seen from other cells; 0.55 does as well
MIN_VOTE_SCORE = 0.2  # whatever least score is asked for, so that it moves no box
ANY_CLASS_MAX_IOU = 0.75  # two boxes of different classes this close are one object seen twice (truck + car)


class NanoDet:
    """Detects COCO objects. `labels` are the 80 names; `conf` is the least score, `nms` the largest IoU in a class."""

    name = "nanodet-g"

    def __init__(
        self,
        weights: Path,
        labels: tuple[str, ...],
        embedder: Embedder | None,
        *,
        conf: float,
        nms: float,
        num_threads: int = 0,
    ) -> None:
        self._model = load_model(weights, num_threads)
        self._conf, self._nms, self._embedder = conf, nms, embedder
        self.labels = labels
        self.embedding_dim = embedder.dim if embedder else 0

    def __call__(self, images: UInt8) -> list[Detections]:
        """One Detections a frame, of (T, H, W, 3) uint8 RGB images: boxes in their pixels, 80 sigmoid scores each."""
        return [self._detect(image) for image in images]

    def _detect(self, image: UInt8) -> Detections:
        pixels, (left, top) = _letterbox(image)
        scores, distances = self._model.run(["scores", "dist"], {"image": pixels})
        rows = np.flatnonzero(scores[0].max(axis=1) >= min(self._conf, MIN_VOTE_SCORE))
        xyxy = _decode(distances[0], rows, pixels.shape[2:])
        xyxy = boxes.clip_to_frame(xyxy - np.array([left, top, left, top], np.float32), image.shape[:2])
        logits = scores[0][rows].astype(np.float32)
        kept = _suppress(xyxy, logits, self._nms)
        kept = kept[logits[kept].max(axis=1, initial=0.0) >= self._conf]
        xyxy, logits = boxes.clip_to_frame(_vote(xyxy, logits, kept), image.shape[:2]), logits[kept]
        embeddings = self._embedder(image, xyxy) if self._embedder else np.zeros((len(kept), 0), np.float32)
        return Detections(xyxy, logits.max(axis=1, initial=0.0), logits, embeddings)


def _letterbox(image: UInt8) -> tuple[Float32, tuple[int, int]]:
    """The network's input (1, 3, H', W') for an (H, W, 3) RGB image, and where the image's corner is in it (left, top).

    H' and W' are the next multiples of 32; the image is centred, the border black before normalisation.
    """
    height, width = image.shape[:2]
    padded_h, padded_w = -(-height // 32) * 32, -(-width // 32) * 32
    left, top = (padded_w - width) // 2, (padded_h - height) // 2
    canvas = np.zeros((padded_h, padded_w, 3), np.float32)
    canvas[top : top + height, left : left + width] = image[..., ::-1]
    pixels = ((canvas - BGR_MEAN) / BGR_STD).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(pixels), (left, top)


def _decode(distances: Float32, rows: Int64, input_hw: tuple[int, ...]) -> Float32:
    """(K, 4) xyxy network px of the given rows of (N, 44) box logits; N runs over strides, then row by row."""
    centres, strides = [], []
    for stride in STRIDES:
        height, width = input_hw[0] // stride, input_hw[1] // stride
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        centres.append((np.stack([x, y], axis=1) + 0.5) * stride)
        strides.append(np.full(height * width, stride))
    centre, stride_of = np.concatenate(centres)[rows], np.concatenate(strides)[rows]
    bins = distances[rows].reshape(-1, 4, NUM_BINS)
    weights = np.exp(bins - bins.max(axis=-1, keepdims=True))
    sides = (weights / weights.sum(axis=-1, keepdims=True)) @ np.arange(NUM_BINS) * stride_of[:, None]
    return np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1).astype(np.float32)


def _suppress(xyxy: Float32, logits: Float32, max_iou: float) -> Int64:
    """Rows that stay after suppression within each class, then between classes; best score first, empty boxes gone."""
    scores, labels = logits.max(axis=1, initial=0.0), logits.argmax(axis=1) if logits.size else np.zeros(0, np.int64)
    shifted = xyxy + (labels * (xyxy.max(initial=0.0) + 1))[:, None].astype(np.float32)  # classes never overlap
    kept = boxes.nms(shifted, scores, max_iou)
    kept = kept[boxes.nms(xyxy[kept], scores[kept], ANY_CLASS_MAX_IOU)]
    return kept[boxes.area(xyxy[kept]) > 0]


def _vote(xyxy: Float32, logits: Float32, kept: Int64) -> Float32:
    """(K, 4): the kept boxes, each the mean of the boxes of its class that overlap it much, by overlap × score.

    Neighbouring cells see an object's edges each on its own: their mean is nearer to them (Gidaris, Komodakis 2015).
    """
    if not len(kept):
        return xyxy[kept]
    scores, labels = logits.max(axis=1), logits.argmax(axis=1)
    overlap = boxes.iou(xyxy[kept], xyxy)
    overlap[(overlap < MIN_VOTE_IOU) | (labels[kept, None] != labels)] = 0
    weights = overlap * scores
    voted: Float32 = (weights @ xyxy) / weights.sum(axis=1, keepdims=True)
    return voted
