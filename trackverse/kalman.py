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

import numpy as np
import numpy.typing as npt

from trackverse.types import Bool, Float64, Int64

POSITION_STD = 1 / 20  # of the height: the motion's in one frame, and a measurement's
VELOCITY_STD = 30 / 160  # of the height a second: the change in one frame; ByteTrack's, whose frames are 1/30 s
MIN_SIZE_PX = 1.0  # a box that is predicted to shrink stays this wide and high

XYXY, VELOCITY, COVARIANCE, SURPRISE = slice(0, 4), slice(4, 8), slice(8, 11), slice(11, 15)
VAR, CROSS, VAR_VELOCITY = 8, 9, 10
MAX_SURPRISE = 2.0  # standard deviations: more is another object or half of one, and says nothing about motion


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

    def learn(self, agreement: Float64) -> None:
        """Take in products (K,) of two surprises in turn (see `KalmanState.update`)."""
        self._num_pairs += len(agreement)
        step = self.RATE * float(agreement.sum()) / (self.PRIOR + self._num_pairs)
        self.value = min(max(self.value * math.exp(step), self.MIN), self.MAX)


class KalmanState:
    """N boxes, a column of fifteen numbers each: numpy is slow at rows of four, however many there are."""

    def __init__(self, columns: Float64) -> None:
        self._columns = columns

    @staticmethod
    def start(xyxy: npt.NDArray[np.floating]) -> KalmanState:
        """Boxes (N, 4) seen for the first time: standing still, position known to 10 % of the height."""
        columns = np.zeros((SURPRISE.stop, len(xyxy)))
        columns[XYXY] = xyxy.T
        height_squared = (columns[3] - columns[1]) ** 2
        columns[VAR] = (2 * POSITION_STD) ** 2 * height_squared
        columns[VAR_VELOCITY] = (10 * VELOCITY_STD) ** 2 * height_squared
        return KalmanState(columns)

    @property
    def xyxy(self) -> Float64:
        """(N, 4) px; a view, as the others are."""
        return self._columns[XYXY].T

    @property
    def velocity(self) -> Float64:
        """(N, 4) px / s."""
        return self._columns[VELOCITY].T

    @property
    def covariance(self) -> Float64:
        """(N, 3): the variance of each of the four coordinates, its covariance with the velocity, the velocity's."""
        return self._columns[COVARIANCE].T

    def select(self, rows: Int64 | Bool) -> KalmanState:
        return KalmanState(self._columns[:, rows])

    def join(self, other: KalmanState) -> KalmanState:
        """These boxes, then the other ones."""
        return KalmanState(np.concatenate([self._columns, other._columns], axis=1))

    def predict(self, dt_s: float, agility: float = 1.0) -> None:
        """Move all boxes on by `dt_s` seconds; their velocities change by `agility` times the usual."""
        state = self._columns
        height_squared = (state[3] - state[1]) ** 2
        variance, cross, variance_velocity = state[COVARIANCE]
        # What a step of constant velocity makes of the covariance, and the noise that it adds.
        variance += dt_s * (2 * cross + dt_s * variance_velocity) + POSITION_STD**2 * height_squared
        cross += dt_s * variance_velocity
        variance_velocity += (agility * VELOCITY_STD) ** 2 * height_squared
        state[XYXY] += dt_s * state[VELOCITY]
        np.maximum(state[2:4], state[:2] + MIN_SIZE_PX, out=state[2:4])

    def move(self, camera: Float64) -> None:
        """Move all boxes as the camera's motion `camera` (2, 3) moves the picture: x' = A x + b, in px.

        The centre goes along, the size by the mean scale: upright boxes stay upright when the picture turns.
        """
        turn, shift = camera[:, :2], camera[:, 2]
        scale = np.sqrt(abs(np.linalg.det(turn)))
        for corners, offset in ((self.xyxy, shift), (self.velocity, 0.0)):
            centre = (corners[:, :2] + corners[:, 2:]) / 2
            half = scale * (corners[:, 2:] - corners[:, :2]) / 2
            moved = centre @ turn.T + offset
            corners[:, :2], corners[:, 2:] = moved - half, moved + half

    def update(self, rows: Int64, xyxy: npt.NDArray[np.floating]) -> Float64:
        """Correct the boxes of `rows` (K,) by measurements (K, 4), the only ones of this frame.

        Returns, for the boxes that were measured in the frame before too (L,), the products of the two surprises: the
        mean over the coordinates, in standard deviations of what was to be expected.
        """
        state = self._columns.take(rows, axis=1)
        innovation = xyxy.T - state[XYXY]
        variance = _var_of_innovation(state)
        surprise = innovation / np.sqrt(variance)
        np.minimum(np.maximum(surprise, -MAX_SURPRISE, out=surprise), MAX_SURPRISE, out=surprise)
        before = state[SURPRISE]
        agreement: Float64 = np.einsum("ck,ck->k", surprise, before)[before.any(axis=0)] / 4
        gain = state[VAR : CROSS + 1] / variance  # (2, K): of position, of velocity
        state[: VELOCITY.stop].reshape(2, 4, -1)[:] += gain[:, None] * innovation
        state[VAR_VELOCITY] -= gain[1] * state[CROSS]
        state[VAR : CROSS + 1] *= 1 - gain[0]
        state[SURPRISE] = surprise
        self._columns[SURPRISE] = 0
        self._columns[:, rows] = state
        return agreement

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
        centre, radius = (low + high) / 2, np.sqrt(max_distance * _var_of_innovation(self._columns))
        reached: Float64 = np.concatenate([np.minimum(low, centre - radius), np.maximum(high, centre + radius)]).T
        return reached


def _var_of_innovation(state: Float64) -> Float64:
    """(N,): how far a measured coordinate strays from the predicted one."""
    height: Float64 = state[3] - state[1]
    height *= height
    height *= POSITION_STD**2
    height += state[VAR]
    return height
