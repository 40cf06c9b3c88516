"""What all objects of a clip look like, which says nothing about which of them one is."""

from __future__ import annotations

import numpy as np

from trackverse.types import Float32
from trackverse.vectors import unit

CENTRE_PRIOR = 4  # with how many other objects in view half of the mean look is taken off


class CommonLook:
    """The mean embedding of a clip's detections, learnt as it is seen."""

    def __init__(self) -> None:
        self._sum: Float32 | float = 0.0
        self._num = 0
        self._num_frames = 0  # with objects

    def learn(self, embeddings: Float32) -> None:
        """Take in those of a frame's detections, (M, D)."""
        self._sum = self._sum + embeddings.sum(axis=0)
        self._num += len(embeddings)
        self._num_frames += bool(len(embeddings))

    def taken_off(self, embeddings: Float32) -> Float32:
        """(N, D) at unit length, less a share of what all detections so far have in common.

        Of n objects in view, each is 1/n of that itself, and an object alone is all of it: the share grows with the
        mean number of other objects.
        """
        num_others = max(self._num / max(self._num_frames, 1) - 1, 0.0)
        mean = self._sum / np.float32(max(self._num, 1))
        return unit(embeddings - np.float32(num_others / (num_others + CENTRE_PRIOR)) * mean)
