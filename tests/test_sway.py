"""What a camera in somebody's hands does to all boxes at once, on drawn tracks whose sway is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from trackverse.boxes import STANDING_STILL, moved
from trackverse.cutting import Links
from trackverse.in_common import MAX_OBJECTS
from trackverse.joining import Pieces
from trackverse.refine import RefineConfig, refine
from trackverse.sway import Sway
from trackverse.types import Track

FPS = 16.0
CLIP_S = np.arange(160) / FPS
WIDTH, HEIGHT = 40.0, 100.0
FRAME_HW = (720, 1280)


def hands(times_s: np.ndarray) -> np.ndarray:
    """(T, 2) px: a third of a box's height to either side at most, once and a half times a second."""
    return np.stack([30 * np.sin(3 * np.pi * times_s), 10 * np.cos(4.2 * np.pi * times_s)], axis=1)


def still(times_s: np.ndarray) -> np.ndarray:
    return np.zeros((len(times_s), 2))


def walkers(
    camera: Callable[[np.ndarray], np.ndarray],
    *,
    num: int = 6,
    speed: Callable[[np.random.Generator], float] = lambda rng: rng.uniform(-40, 40),
    jitter: float = 2.0,
    seed: int = 0,
    clip_s: np.ndarray = CLIP_S,
) -> list[Track]:
    """Boxes all through the clip, far from each other, whose objects go straight on; px/s, and px of jitter."""
    rng = np.random.default_rng(seed)
    speeds, y = [speed(rng) for _ in range(num)], rng.uniform(200, 800, num)
    tracks = []
    for n in range(num):
        straight = np.stack([300 + 700 * n + speeds[n] * clip_s, np.full(len(clip_s), y[n])], axis=1)
        tracks.append(of_boxes(clip_s, straight + camera(clip_s) + rng.normal(0, jitter, straight.shape)))
    return tracks


def of_boxes(times_s: np.ndarray, centre: np.ndarray) -> Track:
    half = np.array([WIDTH, HEIGHT]) / 2
    xyxy = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    num = len(times_s)
    return Track(times_s, xyxy, np.ones(num, np.float32), np.ones((num, 1), np.float32), np.zeros(0, np.float32))


def only(track: Track, frames: np.ndarray) -> Track:
    return Track(track.times_s[frames], track.xyxy[frames], track.scores[frames], track.logits[frames], track.embedding)


def beside_the_mean(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0)


@pytest.mark.parametrize("num", [4, 6, 2 * MAX_OBJECTS])
def test_the_sway_of_a_camera_is_found(num: int) -> None:
    sway = Sway.of(walkers(hands, num=num), CLIP_S)
    middle = slice(16, -16)  # how a swing that was cut off goes on, nobody knows
    found, true = beside_the_mean(sway.motion[middle, :, 2]), beside_the_mean(hands(CLIP_S)[middle])
    assert np.abs(found - true).max() < 0.25 * np.abs(true).max()
    assert np.abs(sway.motion[:, :, :2] - np.eye(2)).max() < 4e-3  # as good as no turn and no zoom


@pytest.mark.parametrize(
    "case",
    {
        "each goes its own way": lambda rng: rng.uniform(-40, 40),
        "a crowd that goes one way, or a camera that turns steadily": lambda rng: rng.uniform(80, 120),
    }.items(),
    ids=lambda case: case[0],
)
@pytest.mark.parametrize("num", [1, 2, 6])
def test_a_camera_that_stands_still_is_left_alone(
    num: int, case: tuple[str, Callable[[np.random.Generator], float]]
) -> None:
    for seed in range(10):
        tracks = walkers(still, num=num, speed=case[1], seed=seed)
        sway = Sway.of(tracks, CLIP_S)
        assert sway.is_still
        assert all(one is other for one, other in zip(sway.taken_off(tracks), tracks, strict=True))


def test_a_track_that_slips_is_no_camera() -> None:
    """To somebody far away, in the middle of the clip."""
    tracks = walkers(hands)
    slips = of_boxes(CLIP_S, walkers(hands, num=1, seed=1)[0].xyxy[:, :2] + (CLIP_S[:, None] > 5) * (900, 300))
    offset = Sway.of([*tracks, slips], CLIP_S).motion[:, :, 2] - Sway.of(tracks, CLIP_S).motion[:, :, 2]
    assert np.abs(beside_the_mean(offset)).max() < 20


def test_who_sways_alone_is_no_camera() -> None:
    assert Sway.of(walkers(hands, num=1), CLIP_S).is_still
    assert Sway.of([*walkers(still, num=5), walkers(hands, num=6)[-1]], CLIP_S).is_still


HANDHELD = {
    "a shake": (hands(CLIP_S), 1.0, 0.0),
    "a zoom to and fro": (still(CLIP_S), 1.2 ** np.sin(2 * CLIP_S), 0.0),
    "steps, a turn and a zoom": (
        hands(CLIP_S) + 50 * CLIP_S[:, None],
        1.1 ** np.sin(3 * CLIP_S),
        0.02 * np.sin(9 * CLIP_S),
    ),
}


def known(shift: np.ndarray, scale: np.ndarray | float, angle: np.ndarray | float) -> tuple[np.ndarray, Sway]:
    """Where the picture is in each frame (F, 2, 3), and what is made of how it moved from frame to frame."""
    scale, angle = np.broadcast_to(scale, len(CLIP_S)), np.broadcast_to(angle, len(CLIP_S))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    middle = np.array(FRAME_HW[::-1]) / 2
    places = np.concatenate([turn, (shift + middle - turn @ middle)[:, :, None]], axis=2)
    square = np.concatenate([places, np.tile([[[0.0, 0, 1]]], (len(places), 1, 1))], axis=1)
    motions = (square[1:] @ np.linalg.inv(square[:-1]))[:, :2]
    return places, Sway.along(CLIP_S, np.concatenate([STANDING_STILL[None], motions]), FRAME_HW)


@pytest.mark.parametrize("case", HANDHELD.values(), ids=HANDHELD)
def test_a_known_camera_s_sway_is_taken_off_and_put_back(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Of what stands still, a steady course is left; and where a box is seen, it is again afterwards."""
    places, sway = known(*case)
    for x, y in ((100, 100), (640, 360), (1200, 500)):
        box = np.tile([x - 20.0, y - 50, x + 20, y + 50], (len(CLIP_S), 1))
        seen = replace(of_boxes(CLIP_S, box[:, :2]), xyxy=moved(box, places).astype(np.float32))
        (steady,) = sway.taken_off([seen])
        before, after = (np.abs(np.diff(track.xyxy, 2, axis=0)[16:-16]).max() for track in (seen, steady))
        assert after < 0.15 * before
        np.testing.assert_allclose(sway.put_on(steady.xyxy, CLIP_S), seen.xyxy, atol=1e-3)


def test_a_known_camera_that_stands_still_or_walks_on_steadily_does_not_sway() -> None:
    tracks = walkers(still)
    nothing = np.tile(STANDING_STILL, (len(CLIP_S), 1, 1))
    assert Sway.along(CLIP_S, nothing, FRAME_HW).taken_off(tracks) == tracks
    steps = np.tile([[1.02, 0, -5], [0, 1.02, 3]], (len(CLIP_S) - 1, 1, 1))
    on_and_on = Sway.along(CLIP_S, np.concatenate([nothing[:1], steps]), FRAME_HW)
    np.testing.assert_allclose(on_and_on.motion, nothing, atol=1e-9)
    assert Sway.along(CLIP_S[:0], np.zeros((0, 2, 3)), FRAME_HW).is_still


def with_gaps(tracks: Sequence[Track], num_missed: int) -> list[Track]:
    """Each track in two, one after the other: out of sight from the middle of a swing on, where it is fastest."""
    parts, frames = [], np.arange(len(CLIP_S))
    for n, track in enumerate(tracks):
        gone = round((2 + n) * FPS / 1.5)
        parts += [only(track, frames[:gone]), only(track, frames[gone + num_missed :])]
    return parts


@pytest.mark.parametrize("num_missed", [12, 20])
def test_who_is_out_of_sight_while_the_camera_sways_is_one_object(num_missed: int) -> None:
    tracks = walkers(hands)
    assert len(list(refine(with_gaps(tracks, num_missed), RefineConfig(), frame_times_s=CLIP_S))) == len(tracks)


@pytest.mark.parametrize("num_missed", [12, 20])
def test_who_is_alone_is_one_object_if_the_camera_is_known(num_missed: int) -> None:
    parts, (_, sway) = with_gaps(walkers(hands, num=1), num_missed), known(hands(CLIP_S), 1.0, 0.0)
    assert len(list(refine(parts, RefineConfig(), frame_times_s=CLIP_S, sway=sway))) == 1
    assert len(list(refine(parts, RefineConfig(), frame_times_s=CLIP_S))) == 2  # the case is a hard one


def test_a_gap_is_filled_along_the_sway() -> None:
    true = walkers(hands, jitter=0.0)
    for track, whole in zip(refine(with_gaps(true, 3), RefineConfig(), frame_times_s=CLIP_S), true, strict=True):
        assert track.interpolated.sum() == 3
        assert np.abs(track.xyxy - whole.xyxy)[track.interpolated].max() < 4  # px; on a straight line, more than 8


def test_boxes_come_out_swaying_and_jitter_less() -> None:
    detected, true = walkers(hands, jitter=4.0), walkers(hands, jitter=0.0)
    found = list(refine(detected, RefineConfig(), frame_times_s=CLIP_S))
    before, after = (
        np.mean([np.abs(one.xyxy - other.xyxy).mean() for one, other in zip(tracks, true, strict=True)])
        for tracks in (detected, found)
    )
    assert after < 0.7 * before


@pytest.mark.parametrize("left, goes_out", [(1.0, True), (20.0, False)], ids=["at the side", "within"])
def test_who_leaves_at_a_side_of_the_picture_did_so_where_he_was_seen(left: float, goes_out: bool) -> None:
    seen = of_boxes(CLIP_S, np.tile([left + WIDTH / 2, 300.0], (len(CLIP_S), 1)))
    sway = Sway(CLIP_S, np.tile([[1.0, 0, -19], [0, 1, 0]], (len(CLIP_S), 1, 1)))
    links = Links(np.zeros(1, bool), np.array([-1]), np.array([-1]))
    pieces = Pieces.of(sway.taken_off([seen]), 1280, sway, links)
    assert pieces.goes_out.tolist() == pieces.comes_in.tolist() == [goes_out]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 7, 12, 24])
@pytest.mark.parametrize("num", [1, 6])
def test_a_clip_of_few_frames_does_not_sway(num: int, num_frames: int) -> None:
    clip_s = CLIP_S[:num_frames]
    for seed in range(10):
        assert Sway.of(walkers(still, num=num, seed=seed, clip_s=clip_s), clip_s).is_still
