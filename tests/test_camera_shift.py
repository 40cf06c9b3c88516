"""What a camera in somebody's hands does to all boxes at once, found while they come in, on drawn boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.camera_shift import CameraShift
from trackverse.kalman import KalmanState
from trackverse.types import Detections

FPS = 8.0
WIDTH, HEIGHT = 24.0, 40.0
NUM_FRAMES = 240

Camera = Callable[[np.ndarray], np.ndarray]


def hands(times_s: np.ndarray) -> np.ndarray:
    """(T, 2) px: once and a half times a second; from frame to frame by up to a box's width."""
    return np.stack([22 * np.sin(3 * np.pi * times_s), 8 * np.cos(4.2 * np.pi * times_s)], axis=1)


def still(times_s: np.ndarray) -> np.ndarray:
    return np.zeros((len(times_s), 2))


def walkers(camera: Camera, *, num: int = 6, together: float = 0.0, seed: int = 0) -> np.ndarray:
    """(T, num, 4): boxes that go straight on, each its own way and all by `together` px/s, with some jitter."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(NUM_FRAMES) / FPS
    start = np.stack([200 + 60.0 * np.arange(num), rng.uniform(200, 400, num)], axis=1)
    speed = rng.uniform(-8, 8, (num, 2)) + np.array([together, 0.0])
    centre = start + times_s[:, None, None] * speed + camera(times_s)[:, None]
    centre += rng.normal(0, 0.5, centre.shape)
    half = np.array([WIDTH, HEIGHT]) / 2
    return np.concatenate([centre - half, centre + half], axis=2).astype(np.float32)


def more_and_more(times_s: np.ndarray) -> np.ndarray:
    return hands(times_s) * (times_s * FPS / NUM_FRAMES)[:, None]


def num_tracks(xyxy: np.ndarray, camera: np.ndarray | None = None) -> int:
    """How many tracks become of boxes (T, N, 4) of so many objects, N at best."""
    tracker = ByteTracker(ByteTrackConfig(max_lost_s=1.0))
    scores, no_looks = np.full(xyxy.shape[1], 0.9, np.float32), np.zeros((xyxy.shape[1], 0), np.float32)
    tracks = []
    for number, boxes in enumerate(xyxy):
        tracks += tracker.update(number / FPS, Detections(boxes, scores, scores[:, None], no_looks), camera)
    return len(tracks + tracker.finish())


def test_objects_that_jump_with_the_picture_are_followed() -> None:
    xyxy = walkers(more_and_more)
    assert num_tracks(xyxy) == xyxy.shape[1]
    assert num_tracks(xyxy, camera=np.eye(2, 3)) > 20 * xyxy.shape[1]  # as if the camera were known to stand still


def learnt(xyxy: np.ndarray) -> tuple[CameraShift, KalmanState]:
    """What is known after boxes (T, N, 4) of objects, all seen in every frame, and where they are expected next."""
    shift, kalman, rows = CameraShift(), KalmanState.start(xyxy[0]), np.arange(xyxy.shape[1])
    for number, boxes in enumerate(xyxy[1:], start=1):
        kalman.predict(1 / FPS)
        if shift.is_moving:
            kalman.move(shift.find(kalman.xyxy, boxes))
        innovations = kalman.update(rows, boxes)
        shift.learn(number / FPS, innovations.off, innovations.height2)
    kalman.predict(1 / FPS)
    return shift, kalman


def test_the_shift_is_found_beyond_what_overlaps() -> None:
    shift, kalman = learnt(walkers(hands))
    for true in ([25.0, -8.0], [-25.0, 0.0], [0.0, 0.0]):
        seen = (kalman.xyxy + np.tile(true, 2)).astype(np.float32)
        turn, found = np.split(shift.find(kalman.xyxy, seen), [2], axis=1)
        assert (turn == np.eye(2)).all()
        assert found[:, 0] == pytest.approx(true, abs=1.0)


def test_who_goes_his_own_way_is_not_asked() -> None:
    shift, kalman = learnt(walkers(hands))
    off = np.tile([20.0, 0.0, 20.0, 0.0], (6, 1))
    off[0] = -15, 10, -15, 10
    assert shift.find(kalman.xyxy, (kalman.xyxy + off).astype(np.float32))[:, 2] == pytest.approx([20, 0], abs=1.0)


@pytest.mark.parametrize("num_seen", [0, 1])
def test_too_few_boxes_tell_nothing(num_seen: int) -> None:
    shift, kalman = learnt(walkers(hands))
    seen = (kalman.xyxy[:num_seen] + np.float32(20)).astype(np.float32)
    assert (shift.find(kalman.xyxy, seen) == np.eye(2, 3)).all()
    assert (shift.find(kalman.xyxy[:0], seen) == np.eye(2, 3)).all()


@pytest.mark.parametrize("together", [0.0, 30.0], ids=["each goes its own way", "a crowd that goes one way"])
@pytest.mark.parametrize("num", [1, 2, 6])
def test_a_camera_that_stands_still_is_not_looked_for(num: int, together: float) -> None:
    assert not any(learnt(walkers(still, num=num, together=together, seed=seed))[0].is_moving for seed in range(10))


def test_who_sways_alone_is_no_camera() -> None:
    assert not learnt(walkers(hands, num=1))[0].is_moving
    alone = np.concatenate([walkers(still, num=5), walkers(hands, num=6)[:, 5:]], axis=1)
    assert not learnt(alone)[0].is_moving


def test_nothing_is_known_before_there_is_evidence() -> None:
    assert not learnt(walkers(hands)[: int(1.9 * FPS)])[0].is_moving
    assert learnt(walkers(hands)[: int(2.5 * FPS)])[0].is_moving
