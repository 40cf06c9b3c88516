"""The Kalman filter against a textbook one of 8 x 8 matrices, in ByteTrack's own units: frames of a 30 fps video."""

from __future__ import annotations

import numpy as np
import pytest

from trackverse.boxes import xyxy_to_xyah
from trackverse.kalman import FRAME_S, KalmanState

RNG_SEED = 7


class TextbookFilter:
    """One box: 8 states (xyah and their velocities a frame), predict and update by the matrices of any textbook."""

    def __init__(self, xyah: np.ndarray) -> None:
        height = xyah[3]
        self.x = np.concatenate([xyah, np.zeros(4)])
        position = [height / 20, height / 20, 1e-2, height / 20]
        velocity = [height / 160, height / 160, 1e-5, height / 160]
        self.P = np.diag(np.square([*(2 * np.array(position)), *(10 * np.array(velocity))]))
        self.H = np.eye(4, 8)

    def predict(self, frames: float) -> None:
        height = self.x[3]
        F = np.eye(8) + frames * np.eye(8, k=4)  # noqa: N806  the textbook's letters
        position = [height / 20, height / 20, 1e-2, height / 20]
        velocity = [height / 160, height / 160, 1e-5, height / 160]
        self.x = F @ self.x
        self.P = F @ self.P @ F.T + frames * np.diag(np.square([*position, *velocity]))

    def innovation_covariance(self) -> np.ndarray:
        height = self.x[3]
        return self.H @ self.P @ self.H.T + np.diag(np.square([height / 20, height / 20, 1e-1, height / 20]))

    def update(self, xyah: np.ndarray) -> None:
        gain = self.P @ self.H.T @ np.linalg.inv(self.innovation_covariance())
        self.x = self.x + gain @ (xyah - self.H @ self.x)
        self.P = (np.eye(8) - gain @ self.H) @ self.P

    def gate(self, xyah: np.ndarray) -> float:
        offset = (xyah - self.H @ self.x)[:2]
        return float(offset @ np.linalg.inv(self.innovation_covariance()[:2, :2]) @ offset)


def random_xyah(rng: np.random.Generator, num: int) -> np.ndarray:
    return np.stack(
        [rng.uniform(0, 700, num), rng.uniform(0, 500, num), rng.uniform(0.3, 2, num), rng.uniform(80, 200, num)],
        axis=1,
    )


def assert_same(state: KalmanState, textbook: list[TextbookFilter]) -> None:
    x = np.stack([one.x for one in textbook])
    covariance = np.stack([one.P for one in textbook])
    np.testing.assert_allclose(state.mean, x[:, :4], rtol=1e-9)
    np.testing.assert_allclose(state.velocity * FRAME_S, x[:, 4:], rtol=1e-7, atol=1e-9)
    n = np.arange(4)
    np.testing.assert_allclose(state.covariance[..., 0], covariance[:, n, n], rtol=1e-9)
    np.testing.assert_allclose(state.covariance[..., 1] * FRAME_S, covariance[:, n, n + 4], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(state.covariance[..., 2] * FRAME_S**2, covariance[:, n + 4, n + 4], rtol=1e-9)


def test_agrees_with_the_textbook_over_60_frames_of_uneven_length() -> None:
    rng = np.random.default_rng(RNG_SEED)
    num = 12
    boxes = random_xyah(rng, num)
    state, textbook = KalmanState.start(boxes), [TextbookFilter(box) for box in boxes]
    assert_same(state, textbook)
    drift = rng.normal(0, 3, (num, 4)) * [1, 1, 0.001, 0.05]
    for _ in range(60):
        frames = rng.choice([1.0, 0.5, 1.875, 3.75])  # 30, 60, 16 and 8 frames a second
        boxes = boxes + frames * drift
        state.predict(frames * FRAME_S)
        for one in textbook:
            one.predict(frames)
        assert_same(state, textbook)
        seen = np.flatnonzero(rng.random(num) < 0.7)
        measured = boxes[seen] + rng.normal(0, 1, (len(seen), 4)) * [1, 1, 0.01, 1]
        expected = np.array([[one.gate(box) for box in measured] for one in textbook]).reshape(num, len(seen))
        np.testing.assert_allclose(state.gate(measured), expected, rtol=1e-7, atol=1e-9)
        state.update(seen, measured)
        for row, box in zip(seen, measured, strict=True):
            textbook[row].update(box)
        assert_same(state, textbook)


@pytest.mark.parametrize("fps", [1, 2, 4, 8, 16, 30, 60])
def test_velocity_is_per_second_at_every_frame_rate(fps: int) -> None:
    speed = np.array([40.0, -15.0])
    start = np.array([[300.0, 300.0, 0.5, 100.0]])
    state = KalmanState.start(start)
    for step in range(1, 6 * fps + 1):
        state.predict(1 / fps)
        measured = start.copy()
        measured[0, :2] += speed * step / fps
        state.update(np.array([0]), measured)
    np.testing.assert_allclose(state.velocity[0, :2], speed, rtol=0.05)
    state.predict(2.0)  # and it goes on with it when nothing is seen
    np.testing.assert_allclose(state.mean[0, :2], start[0, :2] + speed * 8.0, atol=5)


def test_one_long_step_goes_as_far_as_many_short_ones_and_is_about_as_unsure() -> None:
    state = KalmanState.start(np.array([[100.0, 100.0, 0.5, 80.0]]))
    state.velocity[:] = [[60.0, 5.0, 0.0, 0.0]]
    short = state.select(np.array([0]))
    state.predict(0.5)
    for _ in range(15):
        short.predict(1 / 30)
    np.testing.assert_allclose(state.mean, short.mean)
    np.testing.assert_allclose(state.covariance[..., 2], short.covariance[..., 2])
    # Velocity noise within a long step moves nothing before its end, so the long step is a little too sure.
    np.testing.assert_allclose(state.covariance[..., 0], short.covariance[..., 0], rtol=0.1)


def test_uncertainty_grows_while_nothing_is_seen_and_shrinks_with_a_measurement() -> None:
    box = np.array([[100.0, 100.0, 0.5, 80.0]])
    state = KalmanState.start(box)
    variances = []
    for _ in range(5):
        state.predict(0.1)
        variances.append(state.covariance[0, 0, 0])
    assert variances == sorted(variances) and variances[0] < variances[-1]
    state.update(np.array([0]), box)
    assert state.covariance[0, 0, 0] < variances[0]


def test_a_shrinking_box_keeps_a_pixel_of_height_and_a_positive_aspect() -> None:
    state = KalmanState.start(np.array([[100.0, 100.0, 0.5, 20.0]]))
    state.velocity[:] = [[0.0, 0.0, -1.0, -100.0]]
    state.predict(5.0)
    assert state.mean[0, 3] == 1.0
    assert state.mean[0, 2] > 0


def test_update_leaves_the_other_boxes_alone() -> None:
    boxes = random_xyah(np.random.default_rng(RNG_SEED), 3)
    state = KalmanState.start(boxes)
    state.update(np.array([1]), boxes[[1]] + 5)
    np.testing.assert_array_equal(state.mean[[0, 2]], boxes[[0, 2]])
    assert (state.mean[1] != boxes[1]).all()


def test_joining_and_selecting_keep_rows_together() -> None:
    boxes = random_xyah(np.random.default_rng(RNG_SEED), 5)
    both = KalmanState.start(boxes[:2]).join(KalmanState.start(boxes[2:]))
    whole = KalmanState.start(boxes)
    rows = np.array([4, 0])
    for name in ("mean", "velocity", "covariance"):
        np.testing.assert_array_equal(getattr(both, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(both.select(rows), name), getattr(whole, name)[rows])


def test_no_boxes_are_normal() -> None:
    state = KalmanState.empty()
    state.predict(0.1)
    state.update(np.zeros(0, np.int64), np.zeros((0, 4)))
    some = xyxy_to_xyah(np.array([[0.0, 0.0, 10.0, 20.0]]))
    assert state.gate(some).shape == (0, 1)
    assert KalmanState.start(some).gate(np.zeros((0, 4))).shape == (1, 0)
    assert KalmanState.start(np.zeros((0, 4))).join(state).mean.shape == (0, 4)
