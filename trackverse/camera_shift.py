"""How the camera shifts the picture from frame to frame, from boxes alone: how far all objects are off at once from
where they were expected.
"""

from __future__ import annotations

import math

import numpy as np

from trackverse.kalman import KalmanState
from trackverse.sway import CAUTION, MAX_OBJECTS, InCommon
from trackverse.types import ROUNDING_S, Float32, Float64, Int64

# So long after a frame that was learnt from, the next one is: sooner, it says nearly the same, and takes time. Frames
# 0.2 s apart are too few.
SAMPLE_S = 0.1
# After so long is decided whether the camera moves, and then again so often. Every 0.4 s gains a little more, and would
# take more time than there is for a camera that stands still.
FIRST_BATCH_S, BATCH_S = 2.0, 4.0
BLOCK_S = 0.4  # frames nearer each other say the same, as in `sway.py`; 0.2 do as well
# An object is one as high as this many times the expected height, or the other way round. With 1.6, in a street filmed
# from afar, others are taken for it.
MAX_HEIGHT_RATIO = math.log(1.3)
# An offset of more than three standard deviations from the common one is another object. With two, half of the gain is
# lost, as some objects do turn and stop.
MAX_ERROR = 3.0
# Standard deviations within which a shift is looked for: a hand that moves more than it did so far is followed too.
# Three do as well in the mean, and lose whom a hand jerks away.
MAX_SWAY = 6.0
MIN_OWN_STD = 0.03  # of the height: how far an object is off by itself, however steady its boxes are
MIN_AGREEING = 2  # objects; three lose a tenth of the gain
NUM_ROUNDS = 3  # of finding out who agrees with the mean of those who do
NO_SHIFT = np.zeros(2)


class CameraShift:
    """Learns as a clip is seen whether the camera moves; only then its shifts are looked for.

    Where the last shift pointed says nothing that helps to find the next one: tried, at 7 to 30 frames/s.
    """

    def __init__(self) -> None:
        self._in_common = InCommon()
        self._camera_var, self._own_var = 0.0, 1.0  # px²; heights²
        self._shift = np.zeros((4, 1))  # of a box in this frame, px
        self._last_s = -math.inf  # learnt from
        self._expected: list[Float64] = []  # (4, K) of each frame since the last batch, less the shift
        self._seen: list[Float32] = []  # (K, 4)
        self._batch_start_s, self._batch_s = -math.inf, FIRST_BATCH_S

    @property
    def is_moving(self) -> bool:
        return self._camera_var > 0

    def find(self, expected: Float64, seen: Float32) -> Float64:
        """The shift, as a motion (2, 3), since the frame before, as `KalmanState.move` takes it, by which most boxes
        (N, 4) that are `expected` become boxes (M, 4) that are `seen`. Standing still where too few agree.
        """
        shift = self._most_likely(*_centres(expected), *_centres(seen))
        self._shift = np.tile(shift, 2)[:, None]
        return np.column_stack([np.eye(2), shift])

    def learn(self, time_s: float, kalman: KalmanState, rows: Int64, seen: Float32) -> None:
        """Take in where the objects of `rows` (K,) are `seen` (K, 4), before the filter does, and after `find`."""
        if time_s - self._last_s < SAMPLE_S - ROUNDING_S:
            return
        self._last_s = time_s
        expected = kalman.xyxy.T.take(rows, axis=1)
        if self.is_moving:
            expected -= self._shift
        if time_s - self._batch_start_s >= self._batch_s - ROUNDING_S:
            if self._seen:
                self._learn_batch()
                self._batch_s = BATCH_S
            self._batch_start_s = time_s
        self._expected.append(expected)
        self._seen.append(seen)

    def _learn_batch(self) -> None:
        frame = np.arange(len(self._seen)).repeat(list(map(len, self._seen)))
        expected, height = _centres(np.concatenate(self._expected, axis=1).T)
        seen, _ = _centres(np.concatenate(self._seen))
        block = max(1, round(len(self._seen) * BLOCK_S / self._batch_s))
        self._in_common.add(seen - expected, height, frame, block)
        camera_var, error, own_var = self._in_common.variances()
        self._camera_var = camera_var if camera_var > CAUTION * error else 0.0
        self._own_var = max(own_var, MIN_OWN_STD**2)
        self._expected, self._seen = [], []
        if not self.is_moving:
            self._shift = np.zeros((4, 1))

    def _most_likely(self, centre: Float64, height: Float64, seen: Float64, seen_height: Float64) -> Float64:
        """(2,): the shift that most objects agree on, the more so the smaller they are, as their own ways are; less of
        it, the fewer they are. `centre` (2, N) and `seen` (2, M), with their heights.
        """
        centre, height = centre[:, :MAX_OBJECTS], height[:MAX_OBJECTS]  # the oldest
        own_var = self._own_var * height**2
        off = seen[:, None] - centre[:, :, None]
        # Pairs that may be one object, by object.
        is_near = (off**2).sum(axis=0) < MAX_SWAY**2 * (self._camera_var + own_var[:, None])
        is_near &= np.abs(np.log(seen_height / height[:, None])) < MAX_HEIGHT_RATIO
        row, column = is_near.nonzero()
        first = np.flatnonzero(np.diff(row, prepend=-1))  # of each object's pairs
        if len(first) < MIN_AGREEING:
            return NO_SHIFT
        off, own_var = off[:, row, column], own_var[row]
        num_pairs = np.diff(first, append=len(row))
        # Every pair's offset is tried, and none. An object counts by its nearest pair, or as one that doesn't agree.
        tried = np.column_stack([NO_SHIFT, off])
        errors = ((off[:, None] - tried[:, :, None]) ** 2).sum(axis=0) / own_var
        errors = np.minimum(np.minimum.reduceat(errors, first, axis=1), MAX_ERROR**2)
        cost = errors.sum(axis=1) + (tried**2).sum(axis=0) / self._camera_var
        best = tried[:, cost.argmin()]
        # Then the mean of those who agree.
        for _ in range(NUM_ROUNDS):
            error = ((off - best[:, None]) ** 2).sum(axis=0) / own_var
            nearest = np.repeat(np.minimum.reduceat(error, first), num_pairs)
            agrees = (error == nearest) & (error < MAX_ERROR**2)
            weight = agrees / own_var
            best = off @ weight / (weight.sum() + 1 / self._camera_var)
        return best if np.count_nonzero(agrees) >= MIN_AGREEING else NO_SHIFT


def _centres(xyxy: Float32 | Float64) -> tuple[Float64, Float64]:
    """Centres (2, N) and heights (N,) of boxes (N, 4)."""
    edges = xyxy.T.astype(np.float64)
    return (edges[:2] + edges[2:]) / 2, edges[3] - edges[1]
