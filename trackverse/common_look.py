"""What all objects of a class look like, which says nothing about which of them one is.

How alike two objects look depends on what the embeddings are of: features that were trained to tell people apart are
far more different than CLIP's, to which a person is a person. Once so much of the mean is taken off that different
objects of a class are as alike as the thresholds of the association expect, one set of thresholds does for all.
"""

from __future__ import annotations

import math

import numpy as np

from trackverse.types import ROUNDING_S, Float32, Float64, Int64
from trackverse.vectors import unit

CENTRE_PRIOR = 4  # with how many other objects of its class in view at most half of the mean look is taken off
# Between the frames that are learnt from: at first, then twice as long each time. 0.1 s does as well, and takes longer.
FIRST_STEP_S, MAX_STEP_S = 1.0, 4.0
MOST_ALIKE = 0.999  # cosine; nothing is left of what is more alike


class CommonLook:
    """The mean embeddings of a clip's detections, class by class, learnt as it is seen."""

    def __init__(self, max_likeness: float) -> None:
        """`max_likeness`: cosine of different objects up to which nothing is taken off."""
        self._max_likeness = max_likeness
        self._next_s, self._step_s = -math.inf, FIRST_STEP_S  # when to learn from a frame again
        self._row_of: dict[int, int] = {}  # of classes
        self._sums = np.zeros((0, 0), np.float32)  # (K, D)
        # Of each class: frames with it, its objects in these, pairs of two in one frame, and the sum of their cosines.
        self._counts = np.zeros((0, 4))
        # What is taken off, a row a class; the last one for classes that are not known yet.
        self._common = np.zeros((1, 0), np.float32)
        self.is_needed = False  # whether anything is taken off

    def learn(self, time_s: float, embeddings: Float32, labels: Int64) -> None:
        """Take in those of a frame's detections, (M, D) at unit length or 0, which are of the classes `labels` (M,)."""
        if time_s < self._next_s or not embeddings.size:
            return
        self._next_s, self._step_s = time_s + self._step_s - ROUNDING_S, min(2 * self._step_s, MAX_STEP_S)
        num_dims = embeddings.shape[1]
        if not len(self._sums):
            self._sums = np.zeros((0, num_dims), np.float32)
        is_known = np.vecdot(embeddings, embeddings) > 0
        for label in sorted(set(labels[is_known].tolist())):
            row = self._row(label)
            own = embeddings[is_known & (labels == label)]
            total, num = own.sum(axis=0), len(own)
            self._sums[row] += total
            self._counts[row] += (1, num, num * (num - 1), np.vdot(total, total) - num)
        shares = self._shares()
        self.is_needed = bool(shares.any())
        self._common = np.zeros((len(shares) + 1, num_dims), np.float32)
        self._common[:-1] = self._sums * (shares / self._counts[:, 1])[:, None]

    def taken_off(self, embeddings: Float32, labels: Int64) -> Float32:
        """(N, D) at unit length, less a share of what the detections of the same classes `labels` (N,) so far have in
        common. Rows of zeros stay.
        """
        rows = np.array([self._row_of.get(label, -1) for label in labels.tolist()], np.int64)
        own = embeddings - self._common.take(rows, axis=0)
        own[np.vecdot(embeddings, embeddings) == 0] = 0
        return unit(own)

    def _row(self, label: int) -> int:
        """Of a class, which may be new."""
        row = self._row_of.setdefault(label, len(self._row_of))
        if row == len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros((1, self._sums.shape[1]), np.float32)])
            self._counts = np.concatenate([self._counts, np.zeros((1, 4))])
        return row

    def _shares(self) -> Float64:
        """(K,): of the mean looks, what is taken off."""
        num_frames, num, num_pairs, likeness = self._counts.T
        likeness = np.minimum(likeness / np.maximum(num_pairs, 1), MOST_ALIKE)
        # Of a look's length squared, the mean has `likeness`, and what is an object's own the rest. What is left of the
        # mean, (1 - share)² likeness, is to that as the largest likeness is to the rest of 1.
        left = self._max_likeness / max(1 - self._max_likeness, 1 - MOST_ALIKE) * (1 - likeness)
        shares: Float64 = 1 - np.sqrt(np.minimum(left / np.maximum(likeness, 1 - MOST_ALIKE), 1))
        # Of n objects in view, each is 1/n of the mean itself, and an object alone is all of it.
        num_others = num / num_frames - 1
        return np.minimum(shares, num_others / (num_others + CENTRE_PRIOR))
