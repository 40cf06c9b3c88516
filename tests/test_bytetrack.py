"""Association on drawn detections: a table of things that happen to objects, and which tracks must come of them.

Every box carries the name of the object that it shows in its class scores, which the tracker hands through untouched:
so each track says whose boxes it has. All are of one class beside that, so that the names don't decide who is who.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from trackverse import association, bytetrack
from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.tracking_flags import NANODET_TRACKING
from trackverse.types import Detections, Track

NAMES = "ABCDEF"
PUBLISHED = ByteTrackConfig()
RED, GREEN, BLUE = np.eye(3)
CONFIGS = {"published settings": PUBLISHED, "NanoDet's settings": NANODET_TRACKING}


@dataclass(frozen=True)
class Box:
    """An object as a detector sees it: 40 x 80 px around a centre."""

    name: str
    x: float
    y: float = 300.0
    score: float = 0.9
    look: np.ndarray | None = None


Frame = tuple[float, Sequence[Box]]
Frames = list[Frame]


def detections(boxes: Sequence[Box]) -> Detections:
    """The boxes with a faint class per name and a strong one for all, and their looks (D = 0 if the first has none)."""
    xyxy = [[box.x - 20, box.y - 40, box.x + 20, box.y + 40] for box in boxes]
    looks = [np.zeros(0) if box.look is None else box.look / np.linalg.norm(box.look) for box in boxes]
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array([box.score for box in boxes], np.float32),
        np.array([[0.1 * (box.name == name) for name in NAMES] + [1.0] for box in boxes], np.float32).reshape(-1, 7),
        np.array(looks, np.float32).reshape(len(boxes), -1 if boxes else 0),
    )


def track(frames: Frames, config: ByteTrackConfig = PUBLISHED) -> list[Track]:
    """The tracks of a whole clip, in the order in which they ended."""
    looks = [len(box.look) for _, boxes in frames for box in boxes if box.look is not None]
    tracker, tracks = ByteTracker(config), []
    for time_s, boxes in frames:
        found = detections(boxes) if boxes else Detections.empty(len(NAMES) + 1, looks[0] if looks else 0)
        tracks += tracker.update(time_s, found)
    return tracks + tracker.finish()


def owners(one: Track) -> str:
    """Whose boxes a track has: "A", or "AB" if it mixes two objects."""
    return "".join(np.array(list(NAMES))[np.unique(one.logits[:, :-1].argmax(axis=1))])


def summary(tracks: Sequence[Track]) -> list[tuple[str, int]]:
    """(owners, number of frames) of every track, sorted."""
    return sorted((owners(one), len(one)) for one in tracks)


def film(num_frames: int, *scripts: Callable[[int], Box | None], fps: float = 16) -> Frames:
    """Frames at `fps`; each script says where its object is in frame k, or None if it isn't seen."""
    return [(k / fps, [box for script in scripts if (box := script(k))]) for k in range(num_frames)]


def standing(name: str, x: float, seen: Callable[[int], bool] = lambda k: True, **more: object) -> Callable[[int], Box]:
    return lambda k: Box(name, x, **more) if seen(k) else None


def walking(name: str, x: float, px_a_frame: float, seen: Callable[[int], bool] = lambda k: True, **more: object):
    return lambda k: Box(name, x + px_a_frame * k, **more) if seen(k) else None


def scored(name: str, score: Callable[[int], float], **more: object) -> Callable[[int], Box | None]:
    """Standing at 100, unseen where the score is 0."""
    return lambda k: Box(name, 100, score=score(k), **more) if score(k) else None


def four_in_a_row(seen: Callable[[int], bool]) -> list[Callable[[int], Box | None]]:
    return [standing(name, 100 + 150 * n, seen) for n, name in enumerate(NAMES)]


# What happens: the frames, and the tracks that come of it as (whose boxes, how many frames).
CASES: dict[str, tuple[Frames, list[tuple[str, int]]]] = {
    "hidden 3 frames keeps its past": (
        film(100, walking("A", 100, 2, lambda k: not 50 <= k < 53)),
        [("A", 97)],
    ),
    "one missed frame every 2.5 s still makes one whole track": (
        film(480, walking("A", 100, 1, lambda k: k % 40 != 39)),
        [("A", 468)],
    ),
    "a finished track comes out once": (film(100, standing("A", 100, lambda k: k < 60)), [("A", 60)]),
    "unseen for exactly the buffer (0.8 s), it is the same object": (
        film(60, standing("A", 100, lambda k: not 20 <= k < 27), fps=10),
        [("A", 53)],
    ),
    "... and a frame missed after that does not end it": (
        film(60, standing("A", 100, lambda k: not 20 <= k < 27 and k != 28), fps=10),
        [("A", 52)],
    ),
    "unseen for a frame more than the buffer, it is another object": (
        film(60, standing("A", 100, lambda k: not 20 <= k < 28), fps=10),
        [("A", 20), ("A", 32)],
    ),
    "one stops exactly where another stands and ends: nothing is lost": (
        film(90, standing("A", 400, lambda k: k < 60, look=RED), lambda k: Box("B", min(400, 100 + 5 * k), look=BLUE)),
        [("A", 60), ("B", 90)],
    ),
    "a change of looks in one place loses nothing": (
        film(100, lambda k: Box("A" if k < 60 else "B", 100, look=RED if k < 60 else BLUE)),
        [("A", 60), ("B", 40)],
    ),
    "a look-alike far away in the next frame is another object": (
        film(60, lambda k: Box("A", 50, 100, look=RED) if k < 30 else Box("B", 1700, 800, look=RED)),
        [("A", 30), ("B", 30)],
    ),
    "a look-alike far away at the end of the buffer is another object": (
        film(
            60,
            lambda k: Box("A", 50, 100, look=RED) if k < 30 else None,
            lambda k: Box("B", 1700, 800, look=RED) if k >= 42 else None,
        ),
        [("A", 30), ("B", 18)],
    ),
    "a look-alike where its box ends, further than it can have got, is another object": (
        film(60, lambda k: Box("A", 100, look=RED) if k < 30 else Box("B", 140, look=RED)),
        [("A", 30), ("B", 30)],
    ),
    "a score exactly at the threshold goes on with a track": (
        film(60, scored("A", lambda k: 0.9 if k < 30 else 0.55)),
        [("A", 60)],
    ),
    "a score exactly at the threshold counts as confident: it finds a hidden object again": (
        film(60, scored("A", lambda k: 0.9 if k < 30 else 0.55 if k >= 33 else 0)),
        [("A", 57)],
    ),
    "a doubtful score finds a hidden object again where it was": (
        film(60, scored("A", lambda k: 0.9 if k < 30 else 0.54 if k >= 33 else 0)),
        [("A", 57)],
    ),
    "a doubtful score goes on with an object of the frame before that it overlaps by 0.57": (
        film(31, lambda k: Box("A", 100 + 11 * (k >= 30), score=0.9 if k < 30 else 0.54)),
        [("A", 31)],
    ),
    "a doubtful score doesn't find a hidden object again that it overlaps by 0.57": (
        film(34, lambda k: None if 30 <= k < 33 else Box("A", 100 + 11 * (k >= 30), score=0.9 if k < 30 else 0.54)),
        [("A", 30)],
    ),
    "a doubtful score goes on with an object of the frame before": (
        film(60, scored("A", lambda k: 0.9 if k < 30 else 0.3)),
        [("A", 60)],
    ),
    "a score exactly at the threshold for new tracks starts one": (film(20, scored("A", lambda k: 0.65)), [("A", 20)]),
    "a score just below the threshold for new tracks starts none": (film(20, scored("A", lambda k: 0.649)), []),
    "what looks like its occluder while its score is doubtful is known again afterwards": (
        film(60, lambda k: Box("A", 100, score=0.3, look=BLUE) if 20 <= k < 30 else Box("A", 100, look=RED)),
        [("A", 60)],
    ),
    "alternating scores make one track from the first frame on": (
        film(10, scored("A", lambda k: 0.4 if k % 2 else 0.9)),
        [("A", 10)],
    ),
    "a frame without any detection splits nothing": (
        film(100, *four_in_a_row(lambda k: k != 80)),
        [(name, 99) for name in NAMES],
    ),
    "no detections in the first frame": (film(50, *four_in_a_row(lambda k: k > 0)), [(name, 49) for name in NAMES]),
    "no detections in the last frame": (film(50, *four_in_a_row(lambda k: k < 49)), [(name, 49) for name in NAMES]),
    "no detections at all": (film(50), []),
    "no frames at all": ([], []),
    "a lone detection in the first frame": (film(20, standing("A", 100, lambda k: k == 0)), [("A", 1)]),
    "a lone detection in the second frame": (film(20, standing("A", 100, lambda k: k == 1)), [("A", 1)]),
    "a lone detection in the last frame": (film(20, standing("A", 100, lambda k: k == 19)), [("A", 1)]),
    "seen once and again after a gap: not looked for": (
        film(20, standing("A", 100, lambda k: k in (5, 8))),
        [("A", 1), ("A", 1)],
    ),
    "300 s without a frame end all tracks": (
        [(time_s + 300 * (time_s >= 2), boxes) for time_s, boxes in film(64, standing("A", 100))],
        [("A", 32), ("A", 32)],
    ),
    "20 s with nothing seen end all tracks": (
        film(384, standing("A", 100, lambda k: not 32 <= k < 352)),
        [("A", 32), ("A", 32)],
    ),
    "a runner is where it must be by then, however uneven the frames": (
        # 120 px/s: in a hole of 0.4 s it runs further than its box is wide.
        [(t, [Box("A", 100 + 120 * t)]) for t in np.cumsum([*[0.04] * 25, *[0.04, 0.04, 0.4] * 6]).tolist()],
        [("A", 43)],
    ),
    "a walker is found again where it must be by then": (
        film(60, walking("A", 100, 6, lambda k: not 30 <= k < 40)),
        [("A", 50)],
    ),
    "two that pass at a distance stay apart": (
        film(60, walking("A", 100, 6), walking("B", 460, -6, y=400)),
        [("A", 60), ("B", 60)],
    ),
}


@pytest.mark.parametrize("frames, expected", CASES.values(), ids=CASES)
def test_what_becomes_of_it(frames: Frames, expected: list[tuple[str, int]]) -> None:
    tracks = track(frames)
    assert summary(tracks) == sorted(expected)
    for one in tracks:
        assert (np.diff(one.times_s) > 0).all()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("fps", [0.5, 1, 2, 4, 8, 16, 30])
def test_a_stroller_is_one_track_at_every_frame_rate(fps: float, config: ByteTrackConfig) -> None:
    # 8 px/s: with a frame in two seconds, boxes of 40 px still overlap enough to be taken for one object.
    num_frames = round(20 * fps)
    assert summary(track(film(num_frames, walking("A", 100, 8 / fps), fps=fps), config)) == [("A", num_frames)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("looks", [(None, None, None), (RED, GREEN, BLUE)], ids=["boxes alone", "with looks"])
def test_a_few_frames_a_second_are_enough_to_know_walkers_again(
    looks: Sequence[np.ndarray | None], config: ByteTrackConfig
) -> None:
    """Three frames a second, 70 px/s, boxes of 40 px: what was seen once overlaps its next box by a quarter."""
    a, b, c = looks
    walkers = [
        walking("A", 100, 24, look=a),
        walking("B", 700, -24, y=400, look=b),
        walking("C", 220, 24, lambda k: k >= 5, look=c),
    ]
    assert summary(track(film(20, *walkers, fps=3), config)) == [("A", 20), ("B", 20), ("C", 15)]


@pytest.mark.parametrize("fps", [5, 7, 10, 12.5, 24, 29.97])
def test_the_end_of_the_buffer_is_inclusive_whatever_the_frame_times_round_to(fps: float) -> None:
    config = ByteTrackConfig(max_lost_s=4 / fps)
    for start in range(0, 400, 17):

        def tracks(num_hidden: int, start: int = start) -> list[tuple[str, int]]:
            frames = film(20, standing("A", 100, lambda k: not 6 <= k < 6 + num_hidden), fps=fps)
            return summary(track([(time_s + start / fps, boxes) for time_s, boxes in frames], config))

        assert tracks(3) == [("A", 17)]
        assert tracks(4) == [("A", 6), ("A", 10)]


@pytest.mark.parametrize("max_likeness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_object_alone_in_its_clip_is_one_track_however_its_looks_flicker(
    config: ByteTrackConfig, max_likeness: float
) -> None:
    """What all detections have in common is then the object itself, and must not be taken for background."""
    rng = np.random.default_rng(3)
    look = rng.random(64)
    flicker = rng.normal(0, 0.15, (480, 64))
    frames = film(480, lambda k: Box("A", 100 + 3 * k, look=look + flicker[k]))
    assert summary(track(frames, replace(config, max_common_likeness=max_likeness))) == [("A", 480)]


def test_centring_tells_apart_what_has_most_in_common() -> None:
    """Six objects of nearly the same look, two of which swap places unseen: their cosines are 0.9."""
    looks = [np.eye(7)[n] + np.array([0, 0, 0, 0, 0, 0, 3.0]) for n in range(6)]
    others = [standing(name, 300 + 100 * n, look=looks[2 + n]) for n, name in enumerate("CDEF")]
    frames = film(
        60,
        lambda k: None if 30 <= k < 33 else Box("A", 100 + 4 * (k >= 33), look=looks[0]),
        lambda k: None if 30 <= k < 33 else Box("B", 104 - 4 * (k >= 33), look=looks[1]),
        *others,
    )
    unmoved = [(name, 60) for name in "CDEF"]
    assert summary(track(frames)) == [("A", 57), ("B", 57), *unmoved]
    assert summary(track(frames, replace(PUBLISHED, max_common_likeness=1))) == [("AB", 57), ("AB", 57), *unmoved]


Looks = tuple[np.ndarray | None, np.ndarray | None]


def meet_and_turn_back(looks: Looks) -> Frames:
    """They walk towards each other, are hidden where they meet, and come out on the side that they came from."""
    hidden = range(46, 55)

    def x(k: int) -> float:
        return 100 + 5 * min(k, 100 - k)

    return film(
        100,
        lambda k: None if k in hidden else Box("A", x(k), look=looks[0]),
        lambda k: None if k in hidden else Box("B", 700 - x(k), look=looks[1]),
    )


def swap_places_unseen(looks: Looks) -> Frames:
    """They stand side by side, mostly on top of each other, and swap places behind something."""
    return film(
        60,
        lambda k: None if 30 <= k < 33 else Box("A", 100 + 4 * (k >= 33), look=looks[0]),
        lambda k: None if 30 <= k < 33 else Box("B", 104 - 4 * (k >= 33), look=looks[1]),
    )


@pytest.mark.parametrize("max_likeness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "frames, num_seen, config",
    [
        pytest.param(meet_and_turn_back, 91, PUBLISHED, id="meet and turn back, published settings"),
        pytest.param(swap_places_unseen, 57, PUBLISHED, id="swap places unseen, published settings"),
        # With these, motion counts four times as much as looks: only a small move can be outvoted.
        pytest.param(swap_places_unseen, 57, NANODET_TRACKING, id="swap places unseen, NanoDet's settings"),
    ],
)
def test_appearance_keeps_two_apart(
    frames: Callable[[Looks], Frames], num_seen: int, config: ByteTrackConfig, max_likeness: float
) -> None:
    config = replace(config, max_common_likeness=max_likeness)
    assert summary(track(frames((RED, BLUE)), config)) == [("A", num_seen), ("B", num_seen)]
    # The case is a hard one: motion alone takes each for the other.
    assert summary(track(frames((None, None)), config)) == [("AB", num_seen), ("AB", num_seen)]


def test_one_odd_look_after_a_gap_does_not_replace_what_is_known() -> None:
    """Re-found half hidden (60° from its look), then seen from a little to the other side (25°)."""
    angles = {33: 60.0} | dict.fromkeys(range(34, 60), -25.0)

    def look(k: int) -> np.ndarray:
        angle = np.radians(angles.get(k, 0.0))
        return np.array([np.cos(angle), np.sin(angle), 0.0])

    def seen(k: int) -> bool:
        return not 30 <= k < 33

    frames = film(60, lambda k: Box("A", 100, look=look(k)) if seen(k) else None, standing("B", 500, look=BLUE))
    assert summary(track(frames)) == [("A", 57), ("B", 60)]


def test_a_track_holds_exactly_its_detections() -> None:
    frames = film(20, walking("A", 100, 5, look=RED + 0.1 * GREEN), walking("B", 600, -5, y=100, look=BLUE))
    frames[7][1][0] = Box("A", 135, score=0.3, look=GREEN)  # a doubtful one is in the track too, with its look
    one = next(one for one in track(frames) if owners(one) == "A")
    seen = [detections(boxes).select(np.array([0])) for _, boxes in frames]
    np.testing.assert_array_equal(one.times_s, [time_s for time_s, _ in frames])
    np.testing.assert_array_equal(one.xyxy, np.concatenate([found.xyxy for found in seen]))
    np.testing.assert_array_equal(one.scores, np.concatenate([found.scores for found in seen]))
    np.testing.assert_array_equal(one.logits, np.concatenate([found.logits for found in seen]))
    mean = np.concatenate([found.embeddings for found in seen]).mean(axis=0)
    np.testing.assert_allclose(one.embedding, mean / np.linalg.norm(mean), rtol=1e-5)
    assert (one.times_s.dtype, one.xyxy.dtype, one.scores.dtype) == (np.float64, np.float32, np.float32)
    assert (one.logits.dtype, one.embedding.dtype) == (np.float32, np.float32)


def test_every_track_is_returned_once_and_nothing_after_the_end() -> None:
    tracker = ByteTracker(PUBLISHED)
    frames = film(100, standing("A", 100, lambda k: k < 60), standing("B", 500, lambda k: k >= 70))
    returned = [tracker.update(time_s, detections(boxes)) for time_s, boxes in frames]
    # 0.8 s after its last frame, 59, and not again
    assert [(k, summary(tracks)) for k, tracks in enumerate(returned) if tracks] == [(72, [("A", 60)])]
    assert summary(tracker.finish()) == [("B", 30)]
    assert tracker.finish() == []


def test_no_box_is_in_two_tracks_and_no_confident_one_in_none() -> None:
    """Objects that come, go, hide and jump at random: every box has a number of its own as its score's last digits."""
    rng = np.random.default_rng(11)
    frames: Frames = []
    number = 0
    for k in range(300):
        boxes = []
        for _ in range(rng.integers(0, 12)):
            number += 1
            boxes.append(Box("A", rng.integers(0, 30) * 40, score=0.7 + number * 1e-4, look=rng.random(3) + 0.1))
        frames.append((k / 16, boxes))
    tracks = track(frames)
    scores = np.concatenate([one.scores for one in tracks])
    assert len(scores) == number == len(np.unique(scores))


def test_what_lies_behind_another_one_shows_little_of_its_own_look() -> None:
    """Of A's box, 80 % lie behind that of B, whose feet are lower, for half of the time."""
    frames = film(32, standing("A", 100, look=RED), standing("B", 106, lambda k: k >= 16, y=306.0, look=BLUE))
    behind, before = sorted(track(frames), key=owners)
    half_hidden = 1 - (34 * 74 / (40 * 80) - 0.4) / 0.5
    np.testing.assert_allclose(behind.look_weights, [8, 8, 8 * half_hidden, 8 * half_hidden], rtol=1e-4)
    np.testing.assert_array_equal(before.look_weights, [8, 8])


@pytest.mark.parametrize("jersey", [1, 0], ids=["of a class of its own", "of the same class"])
def test_what_lies_in_an_object_of_another_class_is_in_plain_view(jersey: int) -> None:
    """A jersey, but not a person behind another one."""
    xyxy = np.array([[100, 100, 140, 180], [105, 110, 135, 140], [130, 110, 160, 140]], np.float32)
    logits = np.eye(2, dtype=np.float32)[[0, jersey, 1]]
    tracker, tracks = ByteTracker(PUBLISHED), []
    for k in range(8):
        tracks += tracker.update(
            k / 16, Detections(xyxy, np.full(3, 0.9, np.float32), logits, np.ones((3, 1), np.float32))
        )
    person, inside, beside = sorted(tracks + tracker.finish(), key=lambda one: float(one.xyxy[0, 0]))
    assert (person.look_weights, inside.look_weights) == (8, 8 if jersey else pytest.approx(8 * 0.05))
    assert beside.look_weights == 8  # a third of it


def test_where_few_pairs_are_compared_because_most_cannot_be_the_same_comes_out(monkeypatch) -> None:
    """A crowd in which looks, classes and overlaps contradict each other."""
    rng = np.random.default_rng(5)
    place, speed, looks = rng.uniform(0, 300, (20, 2)), rng.normal(0, 3, (20, 2)), rng.random((20, 4))
    frames: Frames = []
    for k in range(60):
        boxes = [
            Box(NAMES[n % 6], *(place[n] + k * speed[n]), score=rng.uniform(0.3, 1), look=looks[n] + rng.random(4) / 2)
            for n in rng.permutation(20)
        ]
        frames.append((k / 16, boxes))
    found, fewest = [], []

    def assign_lazily(rows: np.ndarray, columns: np.ndarray, most: np.ndarray, turns: np.ndarray, exact) -> np.ndarray:
        may = np.flatnonzero(most >= 0)
        fewest.append((most[may] - exact(may)).min(initial=1.0))
        return association.assign_lazily(rows, columns, most, turns, exact)

    monkeypatch.setattr(bytetrack, "assign_lazily", assign_lazily)
    for many in (1 << 30, 0):
        monkeypatch.setattr(bytetrack, "MANY_FLOATS", many)
        found.append(track(frames))
    assert -1e-6 < min(fewest) < 0.01  # what a pair gains at most is never less, and may be hardly more
    assert len(found[0]) == len(found[1]) > 20
    for all_compared, few_compared in zip(*found, strict=True):
        np.testing.assert_array_equal(all_compared.xyxy, few_compared.xyxy)


def test_two_trackers_share_nothing() -> None:
    films = [film(80, walking("A", 100, 3, lambda k: k % 9 != 5)), film(80, standing("B", 150), walking("C", 600, -6))]
    alone = []
    for frames in films:
        tracker = ByteTracker(PUBLISHED)
        tracks = [track for time_s, boxes in frames for track in tracker.update(time_s, detections(boxes))]
        alone.append((pickle.dumps(tracker), summary(tracks + tracker.finish())))
    trackers, tracks_of = [ByteTracker(PUBLISHED), ByteTracker(PUBLISHED)], [[], []]
    for both in zip(*films, strict=True):  # a frame of one, a frame of the other
        for n, (time_s, boxes) in enumerate(both):
            tracks_of[n] += trackers[n].update(time_s, detections(boxes))
    # Neither what came out nor what they have learnt of how their objects move.
    states = [pickle.dumps(tracker) for tracker in trackers]
    assert [(states[n], summary(tracks_of[n] + trackers[n].finish())) for n in range(2)] == alone


def test_the_same_clip_again_gives_the_same_tracks() -> None:
    frames = film(
        80, walking("A", 100, 3, look=RED), walking("B", 600, -3, look=BLUE), walking("C", 300, 0, look=GREEN)
    )
    assert pickle.dumps(track(frames)) == pickle.dumps(track(frames))


@pytest.mark.parametrize("max_likeness, num_frames", [(1.0, 1000), (0.5, 2000)], ids=["as they are", "less in common"])
def test_memory_stays_the_same_over_a_long_run_of_slips(max_likeness: float, num_frames: int) -> None:
    """Twenty false positives a frame, each for one frame only, with 64 numbers of looks each. Compared less what these
    have in common, they happen to overlap later for the first time.
    """
    rng = np.random.default_rng(5)
    tracker = ByteTracker(replace(PUBLISHED, max_common_likeness=max_likeness))
    sizes, num_tracks = [], 0
    for k in range(num_frames):
        boxes = [Box("A", x, rng.uniform(0, 9000), look=rng.random(64)) for x in rng.uniform(0, 9000, 20)]
        num_tracks += len(tracker.update(k / 16, detections(boxes)))
        if k % 50 == 49:
            sizes.append(len(pickle.dumps(tracker)))
    assert num_tracks > 15_000
    # Slots are added once, when slips happen to overlap.
    half = len(sizes) // 2
    assert max(sizes[half:]) < 1.2 * max(sizes[:half])


def standing_objects(num: int, num_classes: int, rng: np.random.Generator) -> Detections:
    """Objects beside each other, every time in the same place, with class scores of this moment."""
    left = 100 * np.arange(num, dtype=np.float32)
    xyxy = np.stack([left, 0 * left, left + 50, 0 * left + 80], axis=1)
    logits = rng.random((num, num_classes), np.float32)
    return Detections(xyxy, np.full(num, 0.9, np.float32), logits, np.zeros((num, 0), np.float32))


def test_class_scores_of_live_tracks_may_lie_in_a_file() -> None:
    """Twelve objects a minute long, which end one by one from half of it on, so that others take over their room."""
    rng = np.random.default_rng(3)
    frames = [standing_objects(12 - max(0, k // 40 - 12), 50, rng) for k in range(960)]
    late = [standing_objects(12, 50, rng) for _ in range(100)]
    outcomes = []
    with tempfile.TemporaryFile() as file:
        for tracker in (ByteTracker(PUBLISHED), ByteTracker(PUBLISHED, spool_file=file)):
            ended = [track for k, found in enumerate(frames + late) for track in tracker.update(k / 16, found)]
            outcomes.append(sorted([*ended, *tracker.drain()], key=lambda track: track.xyxy[0, 0]))
        num_bytes = file.seek(0, 2)
    assert len(outcomes[0]) == len(outcomes[1]) > 12
    for ours, theirs in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(ours.logits, theirs.logits)
        np.testing.assert_array_equal(ours.times_s, theirs.times_s)
    assert num_bytes < 4 * 50 * sum(map(len, outcomes[0]))  # room was used again


def test_memory_of_long_tracks_does_not_grow_with_their_class_scores() -> None:
    """Forty objects for a minute: 180 MB of scores."""
    rng = np.random.default_rng(3)
    some = standing_objects(40, 1203, rng)
    with tempfile.TemporaryFile() as file:
        tracker = ByteTracker(PUBLISHED, spool_file=file)
        tracker.update(0.0, some)
        tracemalloc.start()
        try:
            for k in range(1, 960):
                tracker.update(k / 16, some)
            lengths = [track.logits.shape for track in tracker.drain()]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert lengths == [(960, 1203)] * 40
    assert peak < 40e6


def test_memory_stays_the_same_however_long_tracks_are() -> None:
    """An object with looks for two minutes."""
    found = detections([Box("A", 100, look=np.arange(1, 65))])
    with tempfile.TemporaryFile() as file:
        tracker = ByteTracker(PUBLISHED, spool_file=file)
        sizes = []
        tracemalloc.start()
        try:
            for k in range(1920):
                tracker.update(k / 16, found)
                if k in (479, 1919):
                    sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert [len(one) for one in tracker.finish()] == [1920]
    # The numbers of pieces in the file, and nothing of what is in them: a byte or two a box.
    assert sizes[1] - sizes[0] < 4 * 1440


@pytest.mark.parametrize("num_labels", [0, 1, 4])
@pytest.mark.parametrize("dim", [0, 1, 3])
def test_any_number_of_classes_and_of_appearance_numbers(num_labels: int, dim: int) -> None:
    tracker, tracks = ByteTracker(PUBLISHED), []
    for k in range(20):
        if k % 5 == 4:
            tracks += tracker.update(k / 16, Detections.empty(num_labels, dim))
            continue
        some = detections([Box("A", 100), Box("B", 500)])
        looks = np.full((2, dim), max(dim, 1) ** -0.5, np.float32)  # of unit length, both the same
        found = Detections(some.xyxy, some.scores, np.ones((2, num_labels), np.float32), looks)
        tracks += tracker.update(k / 16, found)
    tracks += tracker.finish()
    assert [len(one) for one in tracks] == [16, 16]
    assert {one.logits.shape for one in tracks} == {(16, num_labels)}
    assert {one.embedding.shape for one in tracks} == {(dim,)}


@pytest.mark.parametrize("time_s", [1.0, 0.5, -1.0, float("nan")], ids=["the same", "earlier", "negative", "NaN"])
def test_time_must_rise(time_s: float) -> None:
    tracker = ByteTracker(PUBLISHED)
    tracker.update(1.0, detections([Box("A", 100)]))
    with pytest.raises(ValueError, match="does not follow"):
        tracker.update(time_s, detections([Box("A", 100)]))


# ---- what the published tracker gets wrong beside the cases above


def as_seen(boxes: Sequence[Box], *, labels: Sequence[int] = (), no_look: bool = False) -> Detections:
    """The boxes; each of a class of its own (`labels`), or the first one with a look of zeros."""
    found = detections(boxes)
    embeddings = found.embeddings.copy()
    embeddings[: int(no_look)] = 0
    logits = np.eye(2, dtype=np.float32)[list(labels)] if labels else found.logits
    return Detections(found.xyxy, found.scores, logits, embeddings)


def scores_just_above_the_threshold() -> list[tuple[str, int]]:
    """All published tracks need 0.1 more than the threshold to begin, whatever is asked for."""
    config = replace(PUBLISHED, new_track_margin=0.0)
    films = [film(20, standing("A", 100, score=score)) for score in (0.55, 0.56, 0.64)]
    return [entry for frames in films for entry in summary(track(frames, config))]


def a_look_of_zeros() -> list[tuple[str, int]]:
    """The published tracker loses its object, and the other one's number changes, too."""
    tracker, tracks = ByteTracker(PUBLISHED), []
    for k in range(40):
        boxes = [Box("A", 100, look=RED), Box("B", 500, look=BLUE)]
        tracks += tracker.update(k / 16, as_seen(boxes, no_look=k == 20))
    return summary(tracks + tracker.finish())


def a_person_and_a_dog_side_by_side(person_first: bool) -> list[tuple[str, int]]:
    """Both overlap the person's last box equally. By overlap alone, whichever comes first is taken for the person."""
    tracker, tracks = ByteTracker(PUBLISHED), []
    for k in range(40):
        person, dog = Box("A", 100 - 4 * (k >= 20)), Box("B", 104)
        pair = [(person, 0), (dog, 1)][:: 1 if person_first else -1] if k >= 20 else [(person, 0)]
        tracks += tracker.update(k / 16, as_seen([box for box, _ in pair], labels=[label for _, label in pair]))
    return sorted(("AB"[one.logits.sum(axis=0).argmax()], len(one)) for one in tracks + tracker.finish())


def one_at_a_time(boxes: Sequence[tuple[float, float, list[float]]]) -> list[Track]:
    """Of boxes 40 px wide, one a frame: its left edge, height and class scores. Only tracks of two frames and more."""
    tracker, tracks = ByteTracker(PUBLISHED), []
    for k, (left, height, logits) in enumerate(boxes):
        columns = ([[left, 100, left + 40, 100 + height]], [0.9], [logits], [[]])
        found = Detections(*(np.array(column, np.float32) for column in columns))
        tracks += tracker.update(k / 16, found)
    return [one for one in tracks + tracker.finish() if len(one) > 1]


def test_what_an_object_wears_is_not_the_object() -> None:
    """Of a person, only the jersey is found now and then."""
    person, jersey = (100.0, 80.0, [0.9, 0.05]), (100.0, 40.0, [0.0, 0.9])
    (one,) = one_at_a_time([jersey if k % 6 == 5 else person for k in range(40)])
    assert len(one) == 34
    np.testing.assert_allclose(one.xyxy, np.tile(np.float32([100, 100, 140, 180]), (34, 1)))


@pytest.mark.parametrize("scores", [[0.05, 0.9], [0.0, 0.0]], ids=["another class", "none"])
def test_where_a_detector_slips_in_the_class_the_box_tells(scores: list[float]) -> None:
    (one,) = one_at_a_time([(100, 80, scores if k % 6 == 5 else [0.9, 0.05]) for k in range(40)])
    assert len(one) == 40


def test_without_class_scores_little_overlap_is_enough() -> None:
    (one,) = one_at_a_time([(100 + 16 * k, 80, [0.0, 0.0]) for k in range(20)])
    assert len(one) == 20


PUBLISHED_DEFECTS: dict[str, tuple[Callable[[], list[tuple[str, int]]], list[tuple[str, int]]]] = {
    "a recall floor above the threshold that nobody asked for": (scores_just_above_the_threshold, [("A", 20)] * 3),
    "a look of zeros loses its object and renames another": (a_look_of_zeros, [("A", 40), ("B", 40)]),
    "a box goes to a track of another class, the right one first": (
        lambda: a_person_and_a_dog_side_by_side(True),
        [("A", 40), ("B", 20)],
    ),
    "a box goes to a track of another class, the wrong one first": (
        lambda: a_person_and_a_dog_side_by_side(False),
        [("A", 40), ("B", 20)],
    ),
}


@pytest.mark.parametrize("defect", PUBLISHED_DEFECTS)
def test_the_published_tracker_s_defect(defect: str) -> None:
    outcome, expected = PUBLISHED_DEFECTS[defect]
    assert outcome() == expected


def test_twenty_times_the_objects_take_hardly_more_calls() -> None:
    """The published tracker makes an object of every detection, and filters track by track."""

    def num_calls(num_objects: int) -> int:
        tracker, calls = ByteTracker(PUBLISHED), 0
        frames = [detections([Box("A", 100 * n + k) for n in range(num_objects)]) for k in range(12)]

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        for k, found in enumerate(frames[:10]):
            tracker.update(k / 16, found)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            for k, found in enumerate(frames[10:]):
                tracker.update((10 + k) / 16, found)
        finally:
            sys.setprofile(before)
        return calls

    assert num_calls(200) < 1.2 * num_calls(10)
