"""The Kalman filter against a textbook one of 8 x 8 matrices, in ByteTrack's own units: frames of a 30 fps video."""

from __future__ import annotations

import numpy as np
import pytest

from trackverse.kalman import Agility, KalmanState

RNG_SEED = 7
FRAME_S = 1 / 30


class TextbookFilter:
    """One box: 8 states (edges and their velocities a frame), predict and update by the matrices of any textbook."""

    def __init__(self, xyxy: np.ndarray) -> None:
        self.x = np.concatenate([xyxy, np.zeros(4)])
        self.P = np.diag(np.square([*[2 * self.height / 20] * 4, *[10 * self.height / 160] * 4]))
        self.H = np.eye(4, 8)

    @property
    def height(self) -> float:
        return float(self.x[3] - self.x[1])

    def predict(self, frames: float) -> None:
        F = np.eye(8) + frames * np.eye(8, k=4)  # noqa: N806  the textbook's letters
        noise = np.square([*[self.height / 20] * 4, *[self.height / 160] * 4])
        self.x = F @ self.x
        self.P = F @ self.P @ F.T + np.diag(noise)

    def innovation_covariance(self) -> np.ndarray:
        return self.H @ self.P @ self.H.T + np.eye(4) * (self.height / 20) ** 2

    def update(self, xyxy: np.ndarray) -> None:
        gain = self.P @ self.H.T @ np.linalg.inv(self.innovation_covariance())
        self.x = self.x + gain @ (xyxy - self.H @ self.x)
        self.P = (np.eye(8) - gain @ self.H) @ self.P

    def distance(self, xyxy: np.ndarray) -> float:
        offset = (xyxy - self.H @ self.x).reshape(2, 2).mean(axis=0)
        return float(offset @ np.linalg.inv(self.innovation_covariance()[:2, :2]) @ offset)


def random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    left_top = rng.uniform(0, [700, 500], (num, 2))
    return np.concatenate([left_top, left_top + rng.uniform(80, 200, (num, 2))], axis=1)


def assert_same(state: KalmanState, textbook: list[TextbookFilter]) -> None:
    x = np.stack([one.x for one in textbook])
    np.testing.assert_allclose(state.xyxy, x[:, :4], rtol=1e-9)
    np.testing.assert_allclose(state.velocity * FRAME_S, x[:, 4:], rtol=1e-7, atol=1e-9)
    beside = x[:, :4] + 5
    expected = [one.distance(box) for one, box in zip(textbook, beside, strict=True)]
    np.testing.assert_allclose(state.distance(np.arange(len(x)), beside), expected, rtol=1e-7)


def test_agrees_with_the_textbook_over_60_frames_of_uneven_length() -> None:
    rng = np.random.default_rng(RNG_SEED)
    num = 12
    boxes = random_boxes(rng, num)
    state, textbook = KalmanState.start(boxes), [TextbookFilter(box) for box in boxes]
    assert_same(state, textbook)
    drift = rng.normal(0, 0.3, (num, 4)) + np.tile(rng.normal(0, 3, (num, 2)), 2)
    for _ in range(60):
        frames = rng.choice([1.0, 0.5, 1.875, 3.75])  # 30, 60, 16 and 8 frames a second
        boxes = boxes + frames * drift
        state.predict(frames * FRAME_S)
        for one in textbook:
            one.predict(frames)
        assert_same(state, textbook)
        seen = np.flatnonzero(rng.random(num) < 0.7)
        measured = boxes[seen] + rng.normal(0, 1, (len(seen), 4))
        expected = [textbook[row].distance(box) for row, box in zip(seen, measured, strict=True)]
        np.testing.assert_allclose(state.distance(seen, measured), expected, rtol=1e-7, atol=1e-9)
        state.update(seen, measured)
        for row, box in zip(seen, measured, strict=True):
            textbook[row].update(box)
        assert_same(state, textbook)


@pytest.mark.parametrize("fps", [1, 2, 4, 8, 16, 30, 60])
def test_velocity_is_per_second_at_every_frame_rate(fps: int) -> None:
    speed = np.array([40.0, -15.0, 40.0, -15.0])
    start = np.array([[275.0, 250.0, 325.0, 350.0]])
    state = KalmanState.start(start)
    for step in range(1, 6 * fps + 1):
        state.predict(1 / fps)
        state.update(np.array([0]), start + speed * step / fps)
    np.testing.assert_allclose(state.velocity[0], speed, rtol=0.05)
    state.predict(2.0)  # and it goes on with it when nothing is seen
    np.testing.assert_allclose(state.xyxy[0], start[0] + speed * 8.0, atol=5)


def test_boxes_that_move_on_by_different_times_do_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (6, 2))
    state = KalmanState.start(np.concatenate([corners, corners + rng.uniform(20, 90, (6, 2))], axis=1))
    steps_s, seen = rng.uniform(0.01, 2.0, 6), state.xyxy + rng.normal(0, 3, (6, 4))
    alone = [state.select(np.array([n])) for n in range(6)]
    for _ in range(3):
        state.predict(steps_s, 1.5)
        state.update(np.arange(6), seen)
        for n, one in enumerate(alone):
            one.predict(float(steps_s[n]), 1.5)
            one.update(np.array([0]), seen[n : n + 1])
    for name in ("xyxy", "velocity"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_allclose(getattr(state, name), expected, rtol=1e-9, atol=1e-9)
    far = np.full((6, 4), 500.0)
    expected = np.concatenate([one.distance(np.array([0]), far[:1]) for one in alone])
    np.testing.assert_allclose(state.distance(np.arange(6), far), expected)  # and as sure of their places


def test_one_long_step_goes_as_far_as_many_short_ones() -> None:
    state = KalmanState.start(np.array([[80.0, 60.0, 120.0, 140.0]]))
    state.velocity[:] = [[60.0, 5.0, 60.0, 5.0]]
    short = state.select(np.array([0]))
    state.predict(0.5)
    for _ in range(15):
        short.predict(1 / 30)
    np.testing.assert_allclose(state.xyxy, short.xyxy)


def test_uncertainty_grows_while_nothing_is_seen_and_shrinks_with_a_measurement() -> None:
    box, row = np.array([[80.0, 60.0, 120.0, 140.0]]), np.array([0])
    state = KalmanState.start(box)
    distances = []  # to the same place: the less is certain, the nearer it is
    for _ in range(5):
        state.predict(0.1)
        distances.append(state.distance(row, box + 10)[0])
    assert distances == sorted(distances, reverse=True) and distances[0] > distances[-1]
    state.update(row, box)
    assert state.distance(row, box + 10)[0] > distances[0]


def test_a_shrinking_box_keeps_a_pixel() -> None:
    state = KalmanState.start(np.array([[100.0, 100.0, 110.0, 120.0]]))
    state.velocity[:] = [[5.0, 50.0, -5.0, -50.0]]
    state.predict(5.0)
    np.testing.assert_array_equal(state.xyxy, [[125, 350, 126, 351]])


def test_update_leaves_the_other_boxes_alone() -> None:
    boxes = random_boxes(np.random.default_rng(RNG_SEED), 3)
    state = KalmanState.start(boxes)
    state.update(np.array([1]), boxes[[1]] + 5)
    np.testing.assert_array_equal(state.xyxy[[0, 2]], boxes[[0, 2]])
    assert (state.xyxy[1] != boxes[1]).all()


def test_the_camera_s_motion_takes_boxes_along() -> None:
    """A picture that zooms by 1.5, turns by a quarter and shifts: centres and speeds turn, boxes stay upright."""
    state = KalmanState.start(np.array([[90.0, 40.0, 110.0, 60.0]]))
    state.velocity[:] = [[10.0, 0.0, 10.0, 0.0]]
    state.move(np.array([[0.0, -1.5, 200.0], [1.5, 0.0, 7.0]]))
    np.testing.assert_allclose(state.xyxy, [[110, 142, 140, 172]])
    np.testing.assert_allclose(state.velocity, [[0, 15, 0, 15]], atol=1e-12)


def test_joining_and_selecting_keep_rows_together() -> None:
    boxes = random_boxes(np.random.default_rng(RNG_SEED), 5)
    both = KalmanState.start(boxes[:2]).join(KalmanState.start(boxes[2:]))
    whole = KalmanState.start(boxes)
    rows = np.array([4, 0])
    for name in ("xyxy", "velocity"):
        np.testing.assert_array_equal(getattr(both, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(both.select(rows), name), getattr(whole, name)[rows])
    distance = whole.distance(np.arange(5), boxes + 5)
    np.testing.assert_array_equal(both.distance(np.arange(5), boxes + 5), distance)
    np.testing.assert_array_equal(both.select(rows).distance(np.arange(2), boxes[rows] + 5), distance[rows])


def test_no_boxes_are_normal() -> None:
    none, nobody = KalmanState.start(np.zeros((0, 4))), np.zeros(0, np.int64)
    none.predict(0.1)
    none.update(nobody, np.zeros((0, 4)))
    assert none.distance(nobody, np.zeros((0, 4))).shape == (0,)
    assert none.join(none).xyxy.shape == (0, 4)


def learnt(path: np.ndarray, jitter: float) -> float:
    """The agility that is learnt of five boxes of 40 x 80 px with centres on the path (T,), at 16 frames/s."""
    rng, agility = np.random.default_rng(RNG_SEED), Agility()
    centre = path[:, None] + np.array([0, 100, 300, 600, 900])
    state = None
    for x in centre:
        xyxy = np.stack([x - 20, 0 * x, x + 20, 0 * x + 80], axis=1) + rng.normal(0, jitter, (5, 4))
        if state is None:
            state = KalmanState.start(xyxy)
            continue
        state.predict(1 / 16, agility.value)
        innovations = state.update(np.arange(5), xyxy)
        agility.learn(innovations.agreement, innovations.num_pairs)
    return agility.value


def test_dancers_are_told_from_walkers_and_from_jitter() -> None:
    times_s = np.arange(200) / 16
    walker, dancer = 100 * times_s, 80 * np.sin(6 * times_s)
    assert learnt(dancer, 1.0) > 1.5
    assert learnt(walker, 6.0) < 0.5
    assert learnt(walker, 1.0) < learnt(dancer, 1.0)


def test_agility_has_limits_and_learns_nothing_from_nothing() -> None:
    agility = Agility()
    agility.learn(0.0, 0)
    assert agility.value == 1
    for _ in range(100):
        agility.learn(200.0, 50)
    assert agility.value == Agility.MAX


def test_only_boxes_that_were_measured_in_the_frame_before_say_something() -> None:
    boxes = random_boxes(np.random.default_rng(RNG_SEED), 3)
    state = KalmanState.start(boxes)
    assert state.update(np.array([0, 1]), boxes[:2] + 5).num_pairs == 0
    assert state.update(np.array([1, 2]), boxes[1:] + 9).num_pairs == 1
    assert state.update(np.array([0, 1, 2]), boxes + 9).num_pairs == 2


@pytest.mark.parametrize("num_unseen", [1, 40], ids=["just seen", "long unseen"])
def test_what_a_box_may_reach_is_the_box_and_all_centres_within_the_distance(num_unseen: int) -> None:
    state = KalmanState.start(np.array([[100.0, 100, 140, 180], [300, 100, 700, 200]]))
    for _ in range(num_unseen):
        state.predict(1 / 16)
    reached = state.reach(9.21)
    assert (reached[:, :2] <= state.xyxy[:, :2]).all() and (reached[:, 2:] >= state.xyxy[:, 2:]).all()
    for n, (left, top, right, bottom) in enumerate(state.xyxy.tolist()):
        middle = np.array([left + right, top + bottom]) / 2
        for corner in reached[n].reshape(2, 2):  # as near as a centre there can be, to one side
            for way in ((corner[0] - middle[0], 0), (0, corner[1] - middle[1])):
                beyond = middle + 1.01 * np.array(way)
                box = np.tile(beyond, 2) + 0.5 * np.array([left - right, top - bottom, right - left, bottom - top])
                assert state.distance(np.array([n]), box[None]).item() > 9.21
