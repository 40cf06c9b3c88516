"""Constant-velocity Kalman filter over boxes, for many tracks at once.

State per box: its edges (left, top, right, bottom) and their velocities per second. SORT's noise model (Bewley 2016, as
in ByteTrack) is diagonal, so its 8-state filter falls apart into four 2-state filters, one a coordinate. ByteTrack
follows centre, aspect and height; edges are followed here, with the noise that it gives to centre and height, because
a box that is half hidden keeps the edges that show. All four noises being one share of the box height, a box has one
covariance for its four coordinates: three numbers.

Velocities are per second, so that boxes move on rightly over dropped frames and at any frame rate. Noise is added once
a frame, however long ago the one before is: most of it is the detector's jitter and the swing of limbs, which don't add
up over time. How much a velocity changes in a frame differs from clip to clip, and is learnt: see `Agility`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trackverse import boxes
from trackverse.types import Float64, Int64

POSITION_STD = 1 / 20  # of the height: the motion's in one frame, and a measurement's
VELOCITY_STD = 30 / 160  # of the height a second: the change in one frame; ByteTrack's, whose frames are 1/30 s
MIN_SIZE_PX = 1.0  # a box that is predicted to shrink stays this wide and high

# Rows of a state: what is measured (edges) and its variance, their velocities and the covariance of the two, the
# variance of the velocities, the height squared, and what the last measurement was off by if it was of this frame.
XYXY, VELOCITY, SURPRISE = slice(0, 4), slice(5, 9), slice(12, 16)
VAR, CROSS, VAR_VELOCITY, HEIGHT_SQUARED, IS_MEASURED, NUM_ROWS = 4, 9, 10, 11, 16, 17
MOVING = slice(0, 11)  # what changes as time goes on
BLOCK = 5  # four coordinates and one of covariance, twice: of the positions, of the velocities
_STILL, _FLOW = np.eye(11, 12), np.zeros((11, 12))  # no time passes; what changes at once when it does
_STILL[VAR, HEIGHT_SQUARED] = POSITION_STD**2
_FLOW[XYXY, VELOCITY] = np.eye(4)
_FLOW[VAR, CROSS], _FLOW[CROSS, VAR_VELOCITY] = 2, 1
# Arrays, as numpy takes longer to make one of a number than to compute with it. A surprise of more standard deviations
# is another object or half of one, and says nothing about motion.
MAX_SURPRISE, LEAST_SURPRISE = np.array(2.0), np.array(-2.0)
SMALLEST, MEASUREMENT_VAR, HALF = np.array(MIN_SIZE_PX), np.array(POSITION_STD**2), np.array(0.5)
NOTHING = np.array(0.0)


class Agility:
    """How many times `VELOCITY_STD` the velocities of a clip's objects change in a frame, learnt as it is seen.

    A filter with the right noise is surprised anew in every frame (its innovations are white: Mehra 1970). One that
    takes dancers for walkers lags behind, and is surprised twice in the same direction; one that takes a detector's
    jitter for motion is thrown to and fro.
    """

    RATE = 3.0  # nats for one standard deviation squared of agreement; 2 to 6 do equally well
    PRIOR = 50.0  # pairs of surprises before one counts half as much
    MIN, MAX = math.exp(-2.0), math.exp(1.6)  # a seventh, for jitter at few frames/s; five times, for dancers

    def __init__(self) -> None:
        self.value = 1.0
        self._num_pairs = 0

    def learn(self, agreement: float, num_pairs: int) -> None:
        """Take in the sum of so many products of two surprises in turn (see `KalmanState.update`)."""
        self._num_pairs += num_pairs
        step = self.RATE * agreement / (self.PRIOR + self._num_pairs)
        self.value = min(max(self.value * math.exp(step), self.MIN), self.MAX)


class Innovations(NamedTuple):
    """How far measured edges were `off` (4, K) from the predicted ones, in px, and the boxes' heights squared,
    `height2` (K,). Of boxes that were measured in the frame before too, the sum of the products of the two surprises,
    `agreement`, and their number, `num_pairs`. A surprise is the mean over the coordinates, in standard deviations of
    what was to be expected.
    """

    off: Float64
    height2: Float64
    agreement: float
    num_pairs: int


class KalmanState:
    """N boxes, a column of numbers each: numpy is slow at rows of four, however many there are."""

    def __init__(self, columns: Float64) -> None:
        self._columns = columns

    @staticmethod
    def start(xyxy: npt.NDArray[np.floating]) -> KalmanState:
        """Boxes (N, 4) seen for the first time: standing still, position known to 10 % of the height."""
        columns = np.zeros((NUM_ROWS, len(xyxy)))
        columns[XYXY] = xyxy.T
        _measure_height(columns)
        columns[VAR] = (2 * POSITION_STD) ** 2 * columns[HEIGHT_SQUARED]
        columns[VAR_VELOCITY] = (10 * VELOCITY_STD) ** 2 * columns[HEIGHT_SQUARED]
        return KalmanState(columns)

    @property
    def xyxy(self) -> Float64:
        """(N, 4) px; a view, as velocity is."""
        return self._columns[XYXY].T

    @property
    def velocity(self) -> Float64:
        """(N, 4) px / s."""
        return self._columns[VELOCITY].T

    def select(self, rows: Int64) -> KalmanState:
        return KalmanState(self._columns.take(rows, axis=1))

    def join(self, other: KalmanState) -> KalmanState:
        """These boxes, then the other ones."""
        return KalmanState(np.concatenate([self._columns, other._columns], axis=1))

    def predict(self, dt_s: float | Float64, agility: float = 1.0) -> None:
        """Move all boxes on by `dt_s` seconds, or each by its own (N,); their velocities change by `agility` times the
        usual.
        """
        state = self._columns
        # Both come to the same. One matrix for all boxes takes half as long for a few of them, as there are online.
        if isinstance(dt_s, np.ndarray):
            change = _FLOW[:, MOVING].dot(state[MOVING])
            change[VAR] += dt_s * state[VAR_VELOCITY]
            change *= dt_s
            change[VAR] += POSITION_STD**2 * state[HEIGHT_SQUARED]
            change[VAR_VELOCITY] += (agility * VELOCITY_STD) ** 2 * state[HEIGHT_SQUARED]
            state[MOVING] += change
        else:
            state[MOVING] = _transition(dt_s, agility).dot(state[: HEIGHT_SQUARED + 1])
        np.maximum(state[2:4], state[:2] + SMALLEST, out=state[2:4])
        _measure_height(state)

    def move(self, camera: Float64) -> None:
        """Move all boxes as the camera's motion `camera` (2, 3) moves the picture: x' = A x + b, in px."""
        turn = np.column_stack([camera[:, :2], np.zeros(2)])
        self.xyxy[:], self.velocity[:] = boxes.moved(self.xyxy, camera), boxes.moved(self.velocity, turn)
        _measure_height(self._columns)

    def update(self, rows: Int64, xyxy: npt.NDArray[np.floating]) -> Innovations:
        """Correct the boxes of `rows` (K,) by measurements (K, 4), the only ones of this frame."""
        state = self._columns.take(rows, axis=1)
        innovation = np.zeros((BLOCK, len(rows)))  # a measured edge's, and 0 − variance: it is known what it is
        innovation[XYXY] = xyxy.T
        innovation -= state[:BLOCK]
        variance = _var_of_innovation(state)
        surprise = innovation[XYXY] / np.sqrt(variance)
        np.minimum(np.maximum(surprise, LEAST_SURPRISE, out=surprise), MAX_SURPRISE, out=surprise)
        agreement = float(surprise.ravel().dot(state[SURPRISE].ravel())) / 4
        num_pairs = int(np.count_nonzero(state[IS_MEASURED]))
        gain = state[VAR : CROSS + 1 : BLOCK] / variance  # (2, K): of position, of velocity
        state[VAR_VELOCITY] -= gain[1] * state[CROSS]
        state[: 2 * BLOCK].reshape(2, BLOCK, -1)[:] += gain[:, None] * innovation
        _measure_height(state)
        state[SURPRISE] = surprise
        state[IS_MEASURED] = 1
        self._columns[SURPRISE.start :] = 0
        self._columns[:, rows] = state
        return Innovations(innovation[XYXY], state[HEIGHT_SQUARED], agreement, num_pairs)

    def distance(self, rows: Int64, xyxy: npt.NDArray[np.floating]) -> Float64:
        """Squared Mahalanobis distance (K,) of the predicted centres of `rows` (K,) to those of measurements (K, 4)."""
        state = self._columns.take(rows, axis=1)
        offset = (state[:2] + state[2:4] - xyxy[:, :2].T - xyxy[:, 2:].T) / 2
        distance: Float64 = (offset[0] ** 2 + offset[1] ** 2) / _var_of_innovation(state)
        return distance

    def reach(self, max_distance: float) -> Float64:
        """Boxes (N, 4) that overlap every box that overlaps the predicted one, and every one whose centre is within a
        squared Mahalanobis distance of its centre.
        """
        low, high = self._columns[:2], self._columns[2:4]
        beyond = np.sqrt(max_distance * _var_of_innovation(self._columns)) - HALF * (high - low)  # the edges
        np.maximum(beyond, NOTHING, out=beyond)
        reached = np.empty((4, beyond.shape[1]))
        np.subtract(low, beyond, out=reached[:2])
        np.add(high, beyond, out=reached[2:])
        return reached.T


def _transition(dt_s: float, agility: float) -> Float64:
    """(11, 12): what `dt_s` seconds of constant velocity make of a state, and of its height squared: the noise."""
    step = _STILL + dt_s * _FLOW
    step[VAR, VAR_VELOCITY] = dt_s * dt_s
    step[VAR_VELOCITY, HEIGHT_SQUARED] = (agility * VELOCITY_STD) ** 2
    return step


def _measure_height(state: Float64) -> None:
    height = np.subtract(state[3], state[1], out=state[HEIGHT_SQUARED])
    np.square(height, out=height)


def _var_of_innovation(state: Float64) -> Float64:
    """(N,): how far a measured coordinate strays from the predicted one."""
    variance: Float64 = MEASUREMENT_VAR * state[HEIGHT_SQUARED]
    variance += state[VAR]
    return variance
