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
    """N boxes, a row of fifteen numbers each, so that a row is taken and put back at once."""

    def __init__(self, rows: Float64) -> None:
        self._rows = rows

    @staticmethod
    def start(xyxy: npt.NDArray[np.floating]) -> KalmanState:
        """Boxes (N, 4) seen for the first time: standing still, position known to 10 % of the height."""
        rows = np.zeros((len(xyxy), SURPRISE.stop))
        rows[:, XYXY] = xyxy
        height_squared = (rows[:, 3] - rows[:, 1]) ** 2
        rows[:, VAR] = (2 * POSITION_STD) ** 2 * height_squared
        rows[:, VAR_VELOCITY] = (10 * VELOCITY_STD) ** 2 * height_squared
        return KalmanState(rows)

    @property
    def xyxy(self) -> Float64:
        """(N, 4) px; a view, as the others are."""
        return self._rows[:, XYXY]

    @property
    def velocity(self) -> Float64:
        """(N, 4) px / s."""
        return self._rows[:, VELOCITY]

    @property
    def covariance(self) -> Float64:
        """(N, 3): the variance of each of the four coordinates, its covariance with the velocity, the velocity's."""
        return self._rows[:, COVARIANCE]

    def select(self, rows: Int64 | Bool) -> KalmanState:
        return KalmanState(self._rows[rows])

    def join(self, other: KalmanState) -> KalmanState:
        """These boxes, then the other ones."""
        return KalmanState(np.concatenate([self._rows, other._rows]))

    def predict(self, dt_s: float, agility: float = 1.0) -> None:
        """Move all boxes on by `dt_s` seconds; their velocities change by `agility` times the usual."""
        state = self._rows
        height = state[:, 3] - state[:, 1]
        # (var, cross, var_velocity) as a row: what a step of constant velocity makes of it, and the noise that it adds
        step = np.array([[1, 0, 0], [2 * dt_s, 1, 0], [dt_s**2, dt_s, 1]])
        noise = np.array([POSITION_STD**2, 0, (agility * VELOCITY_STD) ** 2])
        state[:, COVARIANCE] = state[:, COVARIANCE] @ step + (height * height)[:, None] * noise
        state[:, XYXY] += dt_s * state[:, VELOCITY]
        np.maximum(state[:, 2:4], state[:, :2] + MIN_SIZE_PX, out=state[:, 2:4])

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
        state = self._rows[rows]
        innovation = xyxy - state[:, XYXY]
        variance = _var_of_innovation(state)[:, None]
        surprise = innovation / np.sqrt(variance)
        np.minimum(np.maximum(surprise, -MAX_SURPRISE, out=surprise), MAX_SURPRISE, out=surprise)
        before = state[:, SURPRISE]
        agreement: Float64 = np.einsum("kc,kc->k", surprise, before)[before.any(axis=1)] / 4
        gain = state[:, VAR : CROSS + 1] / variance  # (K, 2): of position, of velocity
        state[:, XYXY] += gain[:, :1] * innovation
        state[:, VELOCITY] += gain[:, 1:] * innovation
        state[:, VAR_VELOCITY] -= gain[:, 1] * state[:, CROSS]
        state[:, VAR : CROSS + 1] *= 1 - gain[:, :1]
        state[:, SURPRISE] = surprise
        self._rows[:, SURPRISE] = 0
        self._rows[rows] = state
        return agreement

    def distance(self, rows: Int64, xyxy: npt.NDArray[np.floating]) -> Float64:
        """Squared Mahalanobis distance (K,) of the predicted centres of `rows` (K,) to those of measurements (K, 4)."""
        state = self._rows[rows]
        offset = (state[:, :2] + state[:, 2:4] - xyxy[:, :2] - xyxy[:, 2:]) / 2
        distance: Float64 = (offset**2).sum(axis=1) / _var_of_innovation(state)
        return distance


def _var_of_innovation(state: Float64) -> Float64:
    """(N,): how far a measured coordinate strays from the predicted one."""
    height = state[:, 3] - state[:, 1]
    height *= height
    height *= POSITION_STD**2
    height += state[:, VAR]
    return height
