"""What many objects do at once is the camera's: how much of their ways that is."""

from __future__ import annotations

import numpy as np

from trackverse.types import Float64, Int64

# Some objects do the same by chance: so many standard errors of what they have in common are taken off it. 2 do as
# well; with 1, dancers before a camera that stands still lose by it.
CAUTION = 3.0
MIN_BLOCKS = 5  # of two objects and more, 0.4 s each: fewer don't tell a standard error
MAX_OBJECTS = 32  # of a frame tell of the camera: the error of more is less than theirs by little
LEAST = 1e-12  # of what is divided by


class InCommon:
    """What the objects of a frame do at once is the camera's: the mean product of what two of them do."""

    def __init__(self) -> None:
        # Of products of two objects, of their weights, of objects' squares, of their weights, and of objects.
        self._sums = np.zeros(5)
        self._moments = np.zeros((2, 2))  # of the products of a block, and of their weights
        self._num_blocks = 0

    def add(self, off: Float64, height: Float64, frame: Int64, block: int) -> None:
        """Take in how far objects are `off` (2, S), px, of this `height` (S,), in the frames of these numbers (S,).

        Frames near each other say the same: the error is that of blocks of so many frames.
        """
        weight = 1 / height**2
        square = weight * (off**2).sum(axis=0) / 2
        parts = (*(weight * off), weight, weight * square, weight**2, square, np.ones(len(height)))
        x, y, total, own, own_weight, squares, num = (np.bincount(frame, part) for part in parts)
        of_frames = np.stack([(x**2 + y**2) / 2 - own, total**2 - own_weight, squares, total, num])
        of_blocks = np.add.reduceat(of_frames, np.arange(0, of_frames.shape[1], block), axis=1)
        self._sums += of_blocks.sum(axis=1)
        self._moments += of_blocks[:2] @ of_blocks[:2].T
        self._num_blocks += int(np.count_nonzero(of_blocks[1]))

    def variances(self) -> tuple[float, float, float]:
        """That of the camera, px², with its standard error, 0 where too little is known, and that of objects, heights².

        Some objects do the same by chance: only what is more than `CAUTION` standard errors is a camera.
        """
        if self._num_blocks < MIN_BLOCKS:
            return 0.0, 0.0, 1.0
        products, pairs, squares, weights, num = self._sums.tolist()
        common = products / pairs
        beside = np.array([1, -common])
        error = float(np.sqrt(max(beside @ self._moments @ beside, 0.0))) / pairs
        own = (squares - max(common, 0.0) * weights) / num
        return common, error, max(own, LEAST)
