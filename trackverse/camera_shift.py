"""How the camera shifts the picture from frame to frame, from boxes alone: how far all objects are off at once from
where they were expected.
"""

from __future__ import annotations

import math

import numpy as np

from trackverse.in_common import CAUTION, MAX_OBJECTS, InCommon
from trackverse.types import ROUNDING_S, Float32, Float64

# Whether the camera moves is decided after so long, from frames that are so far apart, and then again and again. Every
# 0.4 s from the start finds a little more, and takes more time than there is where a camera stands still.
FIRST_BATCH_S, FIRST_STEP_S = 2.0, 0.1
BATCH_S, STEP_S = 4.0, 0.4  # every 0.1 and 0.2 s does as well, and takes more time
BLOCK_S = 0.4  # frames nearer each other say the same, as in `in_common.py`; 0.2 do as well
# An object is one as high as this many times the expected height, or the other way round. With 1.6, in a street filmed
# from afar, others are taken for it.
MAX_HEIGHT_RATIO = math.log(1.3)
# An offset of more than three standard deviations from the common one is another object. With two, half of the gain is
# lost, as some objects do turn and stop.
MAX_ERROR = 3.0
# Standard deviations within which a shift is looked for: a hand that moves more than it did so far is followed too.
# Three do as well in the mean, and lose whom a hand jerks away.
MAX_SWAY = 6.0
# Of the height: how far an object is off by itself, however steady its boxes are. Half and twice as much do as well.
MIN_OWN_STD = 0.03
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
        self._shift = NO_SHIFT  # in this frame, px
        self._last_s = -math.inf  # when was learnt from a frame
        # Of each frame since the last batch: how far edges were off (4, K), with the shift, and heights squared (K,).
        self._batch: list[tuple[Float64, Float64]] = []
        self._batch_start_s, self._batch_s, self._step_s = -math.inf, FIRST_BATCH_S, FIRST_STEP_S

    @property
    def is_moving(self) -> bool:
        return self._camera_var > 0

    def find(self, expected: Float64, seen: Float32) -> Float64:
        """The shift, as a motion (2, 3), since the frame before, as `KalmanState.move` takes it, by which most boxes
        (N, 4) that are `expected` become boxes (M, 4) that are `seen`. Standing still where too few agree.
        """
        self._shift = self._most_likely(*_centres(expected), *_centres(seen))
        return np.column_stack([np.eye(2), self._shift])

    def learn(self, time_s: float, off: Float64, height2: Float64) -> None:
        """Take in how far the edges of objects were `off` (4, K), in px, after `find`, and their heights squared (K,),
        see `kalman.Innovations`.
        """
        if time_s - self._last_s < self._step_s - ROUNDING_S:
            return
        self._last_s = time_s
        if self.is_moving:
            off = off + np.tile(self._shift, 2)[:, None]
        if time_s - self._batch_start_s >= self._batch_s - ROUNDING_S:
            if self._batch:
                self._learn_batch()
                self._batch_s, self._step_s = BATCH_S, STEP_S
            self._batch_start_s = time_s
        self._batch.append((off, height2))

    def _learn_batch(self) -> None:
        edges, heights2 = zip(*self._batch, strict=True)
        frame = np.arange(len(edges)).repeat(list(map(len, heights2)))
        off = np.concatenate(edges, axis=1)
        block = max(1, round(len(edges) * BLOCK_S / self._batch_s))
        self._in_common.add((off[:2] + off[2:]) / 2, np.sqrt(np.concatenate(heights2)), frame, block)
        camera_var, error, own_var = self._in_common.variances()
        self._camera_var = camera_var if camera_var > CAUTION * error else 0.0
        self._own_var = max(own_var, MIN_OWN_STD**2)
        self._batch = []

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
