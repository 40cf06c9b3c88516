"""Detections that no track took, in drawn scenes whose truth is known: which of them are given to a track, and which
are not.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.refine import RefineConfig, refine
from trackverse.strays import Seen as Detected
from trackverse.strays import Strays
from trackverse.sway import Sway
from trackverse.types import Detections, Track

FPS = 16
CONFIG = ByteTrackConfig()
Seen = Callable[[int], tuple[float, float] | None]  # in frame k, where an object is and how sure it is, if it is seen


def found(k: int, seen: Sequence[Seen]) -> Detections:
    """Boxes of 40 x 80 px; the class scores tell whose a box is, and in which frame."""
    there = [(n, *place) for n, place in enumerate(one(k) for one in seen) if place is not None]
    xyxy = [[x - 20, 260, x + 20, 340] for _, x, _ in there]
    logits = [[1, n / 1000, k / 1000] for n, _, _ in there]
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array([score for _, _, score in there], np.float32),
        np.array(logits, np.float32).reshape(-1, 3),
        np.zeros((len(there), 0), np.float32),
    )


def tracked(num_frames: int, *seen: Seen, with_strays: bool = True) -> list[Track]:
    """The tracks after the second pass."""
    with tempfile.TemporaryFile() as file:
        strays = Strays(file) if with_strays else None
        tracker, tracks, times_s = ByteTracker(CONFIG, strays=strays), [], np.arange(num_frames) / FPS
        for k, time_s in enumerate(times_s.tolist()):
            tracks += tracker.update(time_s, found(k, seen))
        tracks += tracker.finish()
        shot = refine(tracks, RefineConfig(), frame_times_s=times_s, sure_score=CONFIG.track_thresh, strays=strays)
        return list(shot)


def frames(track: Track) -> list[int]:
    """Those in which it is detected."""
    seen = ~track.interpolated
    numbers = (track.times_s[seen] * FPS).round().astype(int).tolist()
    np.testing.assert_allclose(track.logits[seen, 2], np.array(numbers) / 1000)  # its class scores are of that frame
    return numbers


def owners(track: Track) -> list[int]:
    return np.unique((1000 * track.logits[~track.interpolated, 1]).round().astype(int)).tolist()


def from_afar(k: int) -> tuple[float, float]:
    """Walks, and is surer from frame to frame: a track from the 23rd on."""
    return 100 + 3 * k, min(0.2 + 0.02 * k, 0.9)


def test_a_track_begins_where_its_object_is_first_seen_however_doubtful() -> None:
    (late,), (whole,) = tracked(80, from_afar, with_strays=False), tracked(80, from_afar)
    assert frames(late) == list(range(23, 80))
    assert frames(whole) == list(range(80))
    np.testing.assert_allclose(whole.scores, [from_afar(k)[1] for k in range(80)], rtol=1e-6)
    middle = (whole.xyxy[:, 0] + whole.xyxy[:, 2]) / 2
    np.testing.assert_allclose(middle, [from_afar(k)[0] for k in range(80)], atol=1)


def sometimes(seen: Seen, missed: Sequence[int]) -> Seen:
    return lambda k: None if k in missed else seen(k)


@pytest.mark.parametrize("num_missed, first", [(3, 0), (4, 14)], ids=["a gap that is filled", "a longer one"])
def test_what_is_missed_for_no_longer_than_a_gap_that_is_filled_ends_nothing(num_missed: int, first: int) -> None:
    (track,) = tracked(80, sometimes(from_afar, range(10, 10 + num_missed)))
    assert frames(track)[0] == first
    assert len(track) == 80 - first


def test_doubtful_detections_in_a_gap_are_the_track_s() -> None:
    """Out of sight for longer than a track is looked for online, then doubted for more than a second."""

    def seen(k: int) -> tuple[float, float] | None:
        return None if 40 <= k < 55 else (100.0 + 2 * k, 0.3 if 55 <= k < 75 else 0.9)

    (without,), (track,) = tracked(110, seen, with_strays=False), tracked(110, seen)
    assert frames(without) == [*range(40), *range(75, 110)]
    assert frames(track) == [*range(40), *range(55, 110)]


def test_who_is_doubted_beside_a_track_stays_alone() -> None:
    """Half of a box beside the one who comes into sight, and before that."""
    (track,) = tracked(80, sometimes(lambda k: (100 + 3 * k, 0.9), range(20)), lambda k: (120 + 3 * k, 0.3))
    assert owners(track) == [0]
    assert frames(track) == list(range(20, 80))


def test_a_second_box_on_an_object_is_not_taken_too() -> None:
    second = sometimes(lambda k: (103, 0.3), range(20))
    (track,) = tracked(80, sometimes(lambda k: (100, 0.9), range(20)), second)
    assert owners(track) == [0]
    assert frames(track) == list(range(20, 80))


def test_what_was_doubted_where_nobody_comes_is_no_track() -> None:
    assert tracked(80, lambda k: (100, 0.5)) == []


def one_frame(time_s: float, x: float) -> Track:
    found_there = found(0, [lambda k: (x, 0.9)])
    return Track(np.array([time_s]), found_there.xyxy, found_there.scores, found_there.logits, np.zeros(0, np.float32))


def joined(strays: Strays, chains: Sequence[Sequence[Track]], sway: Sway) -> Detected:
    return strays.joined_to(Detected.of(chains, sway.times_s), chains, sway, max_unseen_s=0.3, min_class_cosine=0.5)


BOTH = {
    "two as near in time": ((2, 101.0), (2, 104.0), [2, 1]),
    "the other one is nearer": ((2, 104.0), (2, 101.0), [1, 2]),
    "nearer in time counts before nearer in place": ((2, 104.0), (3, 101.0), [2, 1]),
}


@pytest.mark.parametrize("one, other, lengths", BOTH.values(), ids=BOTH)
def test_a_stray_is_the_nearer_object_s_and_no_other_s(
    one: tuple[int, float], other: tuple[int, float], lengths: list[int]
) -> None:
    chains = [[one_frame(k / FPS, x)] for k, x in (one, other)]
    still = Sway(np.arange(4) / FPS, np.tile(np.eye(2, 3), (4, 1, 1)))
    with tempfile.TemporaryFile() as file:
        strays = Strays(file)
        strays.put(1 / FPS, found(1, [lambda k: (100, 0.3)]))
        assert np.bincount(joined(strays, chains, still).chain).tolist() == lengths


def test_strays_lie_where_the_camera_that_sways_does_not_take_them() -> None:
    """In the frame before the last, the picture is 60 px further to the right."""
    motion = np.tile(np.eye(2, 3), (3, 1, 1))
    motion[1, 0, 2] = 60
    with tempfile.TemporaryFile() as file:
        strays = Strays(file)
        strays.put(1 / FPS, found(1, [lambda k: (160, 0.3)]))
        seen = joined(strays, [[one_frame(2 / FPS, 100)]], Sway(np.arange(3) / FPS, motion))
    assert seen.frame.tolist() == [2, 1]
    np.testing.assert_allclose(seen.xyxy[1], [80, 260, 120, 340], atol=1e-3)


CLASSES = {
    "the same": ([0.0, 0.9, 0.1], [0.1, 0.3, 0.0], 2),
    "as much one as the other": ([0.0, 0.9, 0.1], [0.3, 0.3, 0.0], 2),
    "another": ([0.0, 0.9, 0.1], [0.3, 0.1, 0.0], 1),
    "none known": ([0.0, 0.9, 0.1], [0.0, 0.0, 0.0], 2),
}


@pytest.mark.parametrize("of_track, of_stray, length", CLASSES.values(), ids=CLASSES)
def test_a_stray_is_of_the_class_of_its_track(of_track: list[float], of_stray: list[float], length: int) -> None:
    track = replace(one_frame(2 / FPS, 100), logits=np.array([of_track], np.float32))
    still = Sway(np.arange(4) / FPS, np.tile(np.eye(2, 3), (4, 1, 1)))
    with tempfile.TemporaryFile() as file:
        strays = Strays(file)
        strays.put(1 / FPS, replace(found(1, [lambda k: (100, 0.3)]), logits=np.array([of_stray], np.float32)))
        assert len(joined(strays, [[track]], still).chain) == length


def test_without_strays_nothing_is_given() -> None:
    still = Sway(np.zeros(1), np.eye(2, 3)[None])
    with tempfile.TemporaryFile() as file:
        strays = Strays(file)
        strays.put(0.0, Detections.empty(3, 0))
        assert joined(strays, [[one_frame(0.0, 100)]], still).stray.tolist() == [-1]
        assert strays.class_scores is None


def test_the_class_scores_of_strays_take_no_memory() -> None:
    """Twenty a frame for twenty seconds: 31 MB of scores."""
    rng = np.random.default_rng(0)
    left = 100 * np.arange(20, dtype=np.float32)
    xyxy = np.stack([left, 0 * left, left + 50, 0 * left + 80], axis=1)
    scores, looks = np.full(20, 0.3, np.float32), np.zeros((20, 0), np.float32)
    some = Detections(xyxy, scores, rng.random((20, 1203), np.float32), looks)
    with tempfile.TemporaryFile() as file:
        tracker = ByteTracker(CONFIG, strays=Strays(file))
        tracemalloc.start()
        try:
            for k in range(320):
                tracker.update(k / FPS, some)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert file.seek(0, 2) > 30e6
    assert peak < 1.5e6
