"""Constant-velocity Kalman filter over boxes, for many tracks at once.

State per box: centre x, centre y, aspect, height (`xyah`) and their velocities per second. SORT's noise model
(Bewley 2016, as in ByteTrack) has diagonal noise, so the 8-state filter falls apart into four independent 2-state
filters per box, one a coordinate; each covariance is the three numbers (position, cross, velocity). Noise standard
deviations are shares of the box height. ByteTrack gives them per frame of a 30 fps video; here they grow with time, so
that dropped frames and low or variable frame rates are right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trackverse.types import Bool, Float64, Int64

FRAME_S = 1 / 30  # ByteTrack's constants are per frame of this length
POSITION_STD = 1 / 20  # of the height, for x, y and height
VELOCITY_STD = 1 / 160  # of the height a frame
ASPECT_STD, ASPECT_MEASURE_STD, ASPECT_VELOCITY_STD = 1e-2, 1e-1, 1e-5  # the aspect has no unit


@dataclass
class KalmanState:
    """N boxes: `mean` and `velocity` (N, 4) xyah and xyah / s, `covariance` (N, 4, 3)."""

    mean: Float64
    velocity: Float64
    covariance: Float64

    @staticmethod
    def empty() -> KalmanState:
        return KalmanState(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4, 3)))

    @staticmethod
    def start(xyah: Float64) -> KalmanState:
        """Boxes (N, 4) seen for the first time: standing still, position known to 10 % of the height."""
        position, velocity, _ = _std(xyah[:, 3])
        covariance = np.zeros((len(xyah), 4, 3))
        covariance[..., 0] = (2 * position) ** 2
        covariance[..., 2] = (10 * velocity / FRAME_S) ** 2
        return KalmanState(xyah.copy(), np.zeros_like(xyah), covariance)

    def select(self, rows: Int64 | Bool) -> KalmanState:
        return KalmanState(self.mean[rows], self.velocity[rows], self.covariance[rows])

    def join(self, other: KalmanState) -> KalmanState:
        """These boxes, then the other ones."""
        return KalmanState(
            np.concatenate([self.mean, other.mean]),
            np.concatenate([self.velocity, other.velocity]),
            np.concatenate([self.covariance, other.covariance]),
        )

    def predict(self, dt_s: float) -> None:
        """Move all boxes on by `dt_s` seconds. A height never falls below a pixel."""
        position, velocity, _ = _std(self.mean[:, 3])
        frames = dt_s / FRAME_S
        var, cross, var_velocity = np.moveaxis(self.covariance, -1, 0)
        var += 2 * dt_s * cross + dt_s**2 * var_velocity + position**2 * frames
        cross += dt_s * var_velocity
        var_velocity += (velocity / FRAME_S) ** 2 * frames
        self.mean += dt_s * self.velocity
        np.maximum(self.mean[:, 2], 1e-3, out=self.mean[:, 2])
        np.maximum(self.mean[:, 3], 1.0, out=self.mean[:, 3])

    def update(self, rows: Int64, xyah: Float64) -> None:
        """Correct the boxes of `rows` (K,) by measurements (K, 4)."""
        _, _, measure = _std(self.mean[rows, 3])
        var, cross, var_velocity = np.moveaxis(self.covariance[rows], -1, 0)
        innovation = xyah - self.mean[rows]
        total = var + measure**2
        gain, gain_velocity = var / total, cross / total
        self.mean[rows] += gain * innovation
        self.velocity[rows] += gain_velocity * innovation
        self.covariance[rows] = np.stack(
            [var - gain * var, cross - gain * cross, var_velocity - gain_velocity * cross], axis=-1
        )

    def gate(self, xyah: Float64) -> Float64:
        """Squared Mahalanobis distance (N, M) of the boxes' predicted centres to M measured ones (M, 4)."""
        _, _, measure = _std(self.mean[:, 3])
        var = self.covariance[:, :2, 0] + measure[:, :2] ** 2
        offset = self.mean[:, None, :2] - xyah[None, :, :2]
        distance: Float64 = (offset**2 / var[:, None]).sum(axis=-1)
        return distance


def _std(height: Float64) -> tuple[Float64, Float64, Float64]:
    """Standard deviations (N, 4) of the motion's position and velocity in one frame, and of a measurement."""
    one = np.ones_like(height)
    position = np.stack([height * POSITION_STD, height * POSITION_STD, one * ASPECT_STD, height * POSITION_STD], -1)
    velocity = np.stack(
        [height * VELOCITY_STD, height * VELOCITY_STD, one * ASPECT_VELOCITY_STD, height * VELOCITY_STD], -1
    )
    measure = position.copy()
    measure[:, 2] = ASPECT_MEASURE_STD
    return position, velocity, measure
