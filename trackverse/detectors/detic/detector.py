"""Detic as a detector: RGB frames in, Detections out, torch behind this door."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms

from trackverse.detectors.detic.cascade import FEATURE_DIM, TEXT_DIM, Boxes
from trackverse.detectors.detic.checkpoint import load_network
from trackverse.detectors.detic.device import multiplies_bfloat16, trim_heap, usable_device
from trackverse.detectors.detic.finite import NotFiniteError
from trackverse.detectors.detic.preprocess import network_hw, network_input, padded_hw, resize
from trackverse.errors import SetupError
from trackverse.types import Detections, Float32, UInt8

log = logging.getLogger(__name__)
MAX_DETECTIONS = 300
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Detic:
    """Detects the classes of a vocabulary. `labels` are their C names.

    `conf` is the least score, `nms` the largest IoU in a class, `frame_size` the least length of a frame's short side
    and the largest of its long one, in px, to which frames are resized.
    """

    def __init__(
        self,
        weights: Path,
        labels: tuple[str, ...],
        matrix: Float32,
        *,
        device: str,
        dtype: str,
        frame_size: tuple[int, int],
        conf: float,
        nms: float,
        with_embeddings: bool = True,
    ) -> None:
        """`matrix` (512, C): a CLIP text vector for each label. Raises SetupError for all that can't be used."""
        self._device = torch.device(usable_device(device))
        if dtype not in DTYPES:
            raise SetupError(f"no such number format: {dtype}; there are {' and '.join(DTYPES)}")
        if dtype == "bfloat16" and not multiplies_bfloat16(self._device):
            log.info("this processor has no instructions for bfloat16: float32 is faster here, and is used")
            dtype = "float32"
        self._vocabulary = _unit_columns(matrix, labels).to(self._device)
        self._weights, self._frame_size, self._conf, self._nms = weights, frame_size, conf, nms
        self.network, kind = load_network(weights)
        self.network.prepare(self._device, DTYPES[dtype])
        trim_heap()  # laying out Swin-B's weights anew, one by one, leaves 250 MB of holes where the old ones were
        self.name = f"detic-{kind}"
        self.labels = labels
        self.embedding_dim = FEATURE_DIM if with_embeddings else 0

    def __call__(self, images: UInt8 | Sequence[UInt8]) -> list[Detections]:
        """One Detections a frame, of T (H, W, 3) uint8 RGB images: boxes in their pixels, best score first.

        `logits` (N, C) are probabilities, the mean over the three stages, without background and without the proposal's
        score; `embeddings` (N, 1024) are the last stage's features as they come. Images of one size go through the
        network in one pass; others change nothing. Raises SetupError if the weights give numbers that are not finite.
        """
        resized = [resize(image, network_hw(image.shape[:2], *self._frame_size)) for image in images]
        passes: dict[tuple[int, int], list[int]] = {}
        for number, image in enumerate(resized):
            passes.setdefault(padded_hw(image.shape[:2]), []).append(number)
        found: dict[int, Detections] = {}
        try:
            with torch.inference_mode():
                for numbers in passes.values():
                    sizes = [resized[n].shape[:2] for n in numbers]
                    pixels = network_input([resized[n] for n in numbers], self._device)
                    boxes = self.network(pixels, sizes, self._vocabulary, self._conf)
                    for n, own, small_hw in zip(numbers, boxes, sizes, strict=True):
                        found[n] = self._detections(own, small_hw, images[n].shape[:2])
        except NotFiniteError as e:
            raise SetupError(
                f"{self._weights}: the network's numbers are not finite; the weights must be damaged"
            ) from e
        return [found[n] for n in range(len(resized))]

    def _detections(self, boxes: Boxes, small_hw: tuple[int, int], frame_hw: tuple[int, int]) -> Detections:
        """The detections among one image's boxes, in the pixels of the frame."""
        rows, scores = best_rows(boxes, self._conf, self._nms)
        stretch = [frame / side for frame, side in zip(frame_hw, small_hw, strict=True)][::-1]
        xyxy = boxes.xyxy[rows] * boxes.xyxy.new_tensor(stretch * 2)
        xyxy = torch.minimum(xyxy, xyxy.new_tensor(frame_hw[::-1] * 2))
        solid = (xyxy[:, 2:] > xyxy[:, :2]).all(dim=1)
        rows = rows[solid]
        return Detections(
            _numpy(xyxy[solid]),
            _numpy(scores[solid]),
            _numpy(boxes.probs[rows]),
            _numpy(boxes.features[rows, : self.embedding_dim]),
        )


def best_rows(boxes: Boxes, conf: float, max_iou: float) -> tuple[Tensor, Tensor]:
    """Which of one image's boxes are detections, best first, and their scores.

    A score is sqrt(class probability x objectness) of the box's best class; boxes of a class suppress each other.
    """
    scores = (boxes.probs * boxes.objectness[:, None]).sqrt()
    is_best = scores == scores.amax(dim=1, keepdim=True)
    rows, labels = torch.nonzero(is_best & (scores > conf), as_tuple=True)
    scores = scores[rows, labels]
    kept = batched_nms(boxes.xyxy[rows], scores, labels, max_iou)[:MAX_DETECTIONS]
    return rows[kept], scores[kept]


def _unit_columns(matrix: Float32, labels: tuple[str, ...]) -> Tensor:
    """The vocabulary (512, C) with columns of unit length."""
    if not labels:
        raise SetupError("a vocabulary without classes")
    if matrix.shape != (TEXT_DIM, len(labels)):
        raise SetupError(
            f"a vocabulary of {len(labels)} labels needs a matrix of ({TEXT_DIM}, {len(labels)}), not {matrix.shape}"
        )
    vectors = torch.tensor(matrix, dtype=torch.float32)
    if not vectors.isfinite().all():
        raise SetupError("the vocabulary's matrix has values that are not finite")
    empty = [label for label, column in zip(labels, vectors.T, strict=True) if not column.any()]
    if empty:  # half of all boxes would be of such a class
        raise SetupError(f"the vocabulary's matrix has nothing but zeros for {empty[0]!r}")
    return functional.normalize(vectors, dim=0)


def _numpy(values: Tensor) -> Float32:
    return np.asarray(values.float().cpu().numpy(), np.float32)
