"""The second pass on drawn tracks: a table of what the online pass leaves behind, and what must come of it.

Every box carries the number of the object that it shows in its first class score: so a track says whose boxes it has.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from trackverse import both_ways, boxes, cutting, joining, looks, motion, pairs, smoothing
from trackverse.filters import FilterConfig, why_drop
from trackverse.looks import LookModel, Scatter
from trackverse.refine import RefineConfig, _purer, refine
from trackverse.smoothing import smooth_tracks
from trackverse.sway import Sway
from trackverse.tracking import on_disk
from trackverse.types import LOOK_FRAMES, ROUNDING_S, Track, look_frames
from trackverse.vectors import let_go

FPS = 16.0
CONFIG = RefineConfig()
CLIP_S = np.arange(0, 480) / FPS  # the times of a clip's frames
# Five looks at right angles to each other, after what they have in common.
RED, GREEN, BLUE, GREY, PINK = np.eye(5, 32)


def seen(
    frames: Sequence[int] | np.ndarray,
    *,
    x: Callable[[np.ndarray], np.ndarray] | float = 100.0,
    y: float = 300.0,
    owner: int | np.ndarray = 1,
    look: np.ndarray | None = None,
    classes: Sequence[float] = (1.0, 0.0),
    noise: float = 0.0,
    size: tuple[float, float] = (40.0, 80.0),
    clip_s: np.ndarray = CLIP_S,
    look_frames: int = LOOK_FRAMES,
    seed: int = 0,
) -> Track:
    """A track of 40 x 80 px boxes, in the given frames; `x(t)` its centre; `look` its embedding but for some noise. The
    `owner` and the look may differ from frame to frame.
    """
    frames, rng = np.asarray(frames), np.random.default_rng(seed)
    times_s = clip_s[frames]
    centre = np.stack([x(times_s) if callable(x) else np.full(len(frames), x), np.full(len(frames), y)], axis=-1)
    half = np.array(size) / 2
    xyxy = np.concatenate([centre - half, centre + half], axis=1) + rng.normal(0, noise, (len(frames), 4))
    logits = np.tile(np.array([0.0, *classes]), (len(frames), 1))
    logits[:, 0] = owner / 1000
    embeddings = np.zeros((len(frames), 0))
    if look is not None:
        embeddings = look + 1 + rng.normal(0, 0.1, (len(frames), look.shape[-1]))
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    looks = np.add.reduceat(embeddings, np.arange(0, len(frames), look_frames), axis=0)
    mean = looks.sum(axis=0)
    return Track(
        times_s,
        xyxy.astype(np.float32),
        np.full(len(frames), 0.9, np.float32),
        logits.astype(np.float32),
        (mean / max(np.linalg.norm(mean), 1e-9)).astype(np.float32),
        looks.astype(np.float32),
        look_frames=look_frames,
    )


def look_model(tracks: Sequence[Track]) -> LookModel | None:
    return looks.fit(Scatter.of(tracks))


def owners(track: Track) -> list[int]:
    """Whose boxes a track has."""
    return np.unique((1000 * track.logits[~track.interpolated, 0]).round().astype(int)).tolist()


def spans(tracks: Sequence[Track]) -> list[tuple[list[int], int, int]]:
    """(owners, first frame, last frame) of every track."""
    return [(owners(track), *(round(FPS * float(t)) for t in track.times_s[[0, -1]])) for track in tracks]


def followed(first: Track, second: Track) -> Track:
    """Both as one track."""
    columns = ("times_s", "xyxy", "scores", "logits", "looks", "look_weights", "interpolated")
    return replace(first, **{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in columns})


def again(tracks: Sequence[Track], **changes: float) -> list[Track]:
    return list(refine(tracks, replace(CONFIG, **changes), frame_times_s=CLIP_S))


def walk(t: np.ndarray) -> np.ndarray:
    return 100 + 40 * t


# Three that are there all the time, far away: from them the clip learns how much looks differ.
OTHERS = [
    seen(range(400), x=900.0 + 300 * n, owner=7 + n, look=look, seed=7 + n) for n, look in enumerate([BLUE, PINK, GREY])
]


# ---- joining: (what happens, tracks, what must come of them)


def far(t: np.ndarray) -> np.ndarray:
    return 800 - 10 * t


JOINING = {
    "a walker hidden for ten frames is one": ([seen(range(60), x=walk), seen(range(70, 130), x=walk)], 1),
    "who stands still behind something for a second and a half is one": ([seen(range(60)), seen(range(84, 130))], 1),
    "a look-alike walks the other way": (
        [seen(range(60), x=walk), seen(range(70, 130), x=lambda t: 500 - 40 * t, owner=2)],
        2,
    ),
    "one ends, another begins far away": ([seen(range(60), x=walk), seen(range(64, 130), x=far, owner=2)], 2),
    "in the same place, but twice as large": (
        [seen(range(60)), seen(range(70, 130), size=(80, 160), owner=2)],
        2,
    ),
    "without looks, not across more than four seconds": ([seen(range(60)), seen(range(126, 190))], 2),
    "both at once are two": ([seen(range(60), x=walk), seen(range(40, 100), x=walk, y=340.0, owner=2)], 2),
    "a person is not a dog": (
        [seen(range(60), classes=(1, 0)), seen(range(64, 120), classes=(0, 1), owner=2)],
        2,
    ),
    "a car that is half a lorry is": (
        [seen(range(60), classes=(0.6, 0.4)), seen(range(64, 120), classes=(0.4, 0.6))],
        1,
    ),
    "three fragments become one": ([seen(range(n, n + 40), x=walk) for n in (0, 44, 88)], 1),
}


@pytest.mark.parametrize("case", JOINING)
def test_joining_by_motion(case: str) -> None:
    tracks, num = JOINING[case]
    found = again(tracks)
    assert len(found) == num
    assert all(len(owners(track)) == 1 for track in found)


LOOKING = {
    "gone for ten seconds, back elsewhere with its look": (
        [seen(range(100), look=RED), seen(range(260, 400), x=600.0, look=RED, seed=1)],
        1,
    ),
    "another look is another object, even in the same place": (
        [seen(range(100), look=RED), seen(range(104, 200), look=GREEN, owner=2, seed=1)],
        2,
    ),
    "a look says nothing across more than the longest time": (
        [seen(range(30), look=RED), seen(range(30, 60), look=RED, clip_s=CLIP_S + 40, seed=1)],
        2,
    ),
    "slips of the detector that look alike, ten seconds apart": (
        [seen(range(8), look=RED), seen(range(160, 168), look=RED, seed=1)],
        2,
    ),
    "unknown looks leave it to the motion": (
        [seen(range(100), x=walk, look=RED), seen(range(104, 200), x=walk, look=np.full(32, np.nan))],
        1,
    ),
}


@pytest.mark.parametrize("case", LOOKING)
def test_joining_by_looks(case: str) -> None:
    tracks, num = LOOKING[case]
    found = again([*tracks, *OTHERS])
    assert len(found) == num + len(OTHERS)
    assert all(len(owners(track)) == 1 for track in found)


@pytest.mark.parametrize(
    "x, later_x, num",
    [(1258.0, 600.0, 2), (600.0, 22.0, 2), (1000.0, 600.0, 1)],
    ids=["leaves at a side of the frame", "comes in at one", "within the frame"],
)
def test_who_leaves_the_picture_and_is_back_after_long_is_another_track(x: float, later_x: float, num: int) -> None:
    tracks = [seen(range(100), x=x, look=RED), seen(range(260, 400), x=later_x, look=RED, seed=1), *OTHERS]
    found = list(refine(tracks, CONFIG, frame_times_s=CLIP_S, frame_width=1280))
    assert len(found) == num + len(OTHERS)


def test_the_best_for_all_is_not_the_best_for_one() -> None:
    """A ends nearest to where B goes on; but then A's own end would be left over."""
    a, b = seen(range(40), x=100.0, owner=1), seen(range(40), x=128.0, owner=2)
    a2, b2 = seen(range(44, 90), x=116.0, owner=1), seen(range(44, 90), x=146.0, owner=2)
    assert sorted(spans(again([a, b, a2, b2]))) == [([1], 0, 89), ([2], 0, 89)]


def test_tracks_come_by_the_time_they_start() -> None:
    tracks = [seen(frames, x=300.0 * n) for n, frames in enumerate([range(50, 90), range(100), range(20, 120)])]
    assert [track.times_s[0] for track in again(tracks)] == [CLIP_S[n] for n in (0, 20, 50)]


def test_no_longer_gap_than_asked_for_is_joined() -> None:
    tracks = [seen(range(60), x=walk), seen(range(70, 130), x=walk)]
    gap_s = 11 / FPS
    assert len(again(tracks, max_blind_gap_s=gap_s)) == 1
    assert len(again(tracks, max_blind_gap_s=gap_s - 0.01)) == 2


def test_a_track_that_slips_to_another_object_is_cut_and_the_parts_find_their_own() -> None:
    """Where red and green pass each other, each track goes on with the other one's boxes."""
    parts = {
        (owner, half): seen(
            range(104) if half == 0 else range(104, 208),
            x=400.0 + 60 * n,
            look=look,
            owner=owner,
            seed=2 * owner + half,
        )
        for n, (owner, look) in enumerate([(1, RED), (2, GREEN)])
        for half in (0, 1)
    }

    tracks = [followed(parts[1, 0], parts[2, 1]), followed(parts[2, 0], parts[1, 1])]
    assert [owners(track) for track in tracks] == [[1, 2], [1, 2]]
    found = [track for track in again([*tracks, *OTHERS]) if owners(track)[0] in (1, 2)]
    counts = np.array([[(np.round(1000 * track.logits[:, 0]) == n).sum() for n in (1, 2)] for track in found])
    assert len(found) == 2
    # The frame of the slip is known to one look only.
    assert (np.sort(counts, axis=1)[:, 0] <= LOOK_FRAMES).all()
    assert (np.sort(counts, axis=1)[:, 1] >= 200).all()


@pytest.mark.parametrize("fps", [1, 2, 4, 8])
def test_where_frames_come_rarely_a_look_is_of_fewer_of_them(fps: int) -> None:
    """After 5 s, two have changed places; a look of eight frames would be of both for a second and more."""
    num, per_look = 10 * fps, look_frames(fps)
    is_after, clip_s = np.arange(num) >= num // 2, np.arange(num) / fps
    places = [(400.0, is_after, RED, GREEN), (600.0, ~is_after, RED, GREEN)]
    places += [(900.0 + 300 * n, is_after, look, look) for n, look in enumerate([BLUE, PINK, GREY])]
    tracks = []
    for x, is_second, first, second in places:
        look, owner = np.where(is_second[:, None], second, first), 1 + is_second * (second is not first)
        tracks.append(
            seen(range(num), x=x, look=look, owner=owner, clip_s=clip_s, look_frames=per_look, seed=len(tracks))
        )
    for track in refine(tracks, CONFIG, frame_times_s=clip_s):
        counts = np.unique(track.logits[:, 0], return_counts=True)[1]
        assert len(track) - counts.max() <= fps  # less than a second


@pytest.mark.parametrize("back", [False, True], ids=["for good", "for a second"])
def test_where_looks_change_for_good_another_one_has_taken_the_place(back: bool) -> None:
    """Nothing but its looks tells: it stands where the first one stood."""
    frames = [(range(104), RED), (range(104, 120), GREEN), (range(120, 208), RED if back else GREEN)]
    first, second, third = (
        seen(part, look=look, owner=1 if look is RED else 2, seed=n) for n, (part, look) in enumerate(frames)
    )
    found = [track for track in again([followed(followed(first, second), third), *OTHERS]) if track.xyxy[0, 0] == 80]
    assert [len(track) for track in found] == ([208] if back else [104, 104])


# ---- encounters, in which the online pass takes one object for another


def back(t: np.ndarray) -> np.ndarray:
    return 500 - 40 * t


def encounter(look: np.ndarray | None = None, back_look: np.ndarray | None = None) -> list[Track]:
    """A walker (1) is hidden by one who comes along (2), just when its track goes over to that one; what it is when it
    appears again and what the other one was before are tracks of their own.
    """
    before, after = seen(range(72), x=walk, look=look), seen(range(88, 160), x=walk, look=look, seed=1)
    other = [seen(frames, x=back, owner=2, look=back_look, seed=2) for frames in (range(78), range(80, 160))]
    return [followed(before, other[1]), other[0], after]


def backward(tracks: Sequence[Track]) -> list[np.ndarray]:
    """For each track, the numbers of the backward tracks that its detections are in."""
    return np.split(both_ways.backward(tracks, 0.6), np.cumsum([len(track) for track in tracks])[:-1])


def doubts(tracks: Sequence[Track]) -> list[tuple[int, int]]:
    """The rows before which tracks are doubted, each with its track's number."""
    lengths = np.array([len(track) for track in tracks], np.int64)
    rows = both_ways.doubts(both_ways.backward(tracks, 0.6), lengths)
    track_of, place = pairs.end_to_end(lengths)
    return list(zip(track_of[rows].tolist(), place[rows].tolist(), strict=True))


def test_where_one_hides_another_both_are_found_again() -> None:
    assert sorted(spans(again(encounter()))) == [([1], 0, 159), ([2], 0, 159)]


def test_only_what_both_directions_of_time_agree_upon_is_not_doubted() -> None:
    alone = [seen(range(100), x=walk, y=600.0), seen(range(100), x=back, y=640.0)]
    assert doubts([*alone, *encounter()]) == [(2, 72)]
    assert doubts([]) == []


@pytest.mark.parametrize("num_missed, num", [(15, 1), (16, 2)], ids=["a second", "more"])
def test_backward_who_is_not_seen_for_long_is_not_looked_for(num_missed: int, num: int) -> None:
    labels = backward([seen(range(100), y=600.0), seen(range(40)), seen(range(40 + num_missed, 100))])
    assert len(np.unique(np.concatenate(labels[1:]))) == num


LONG_S = np.arange(1600) / FPS


def across(t: np.ndarray) -> np.ndarray:
    """To and fro, once in 20 s."""
    return 300 + 200 * np.sin(t / 20 * 2 * np.pi)


@pytest.mark.parametrize("missed", [range(0), range(398, 407)], ids=["always seen", "hidden where a stretch ends"])
def test_backward_a_track_has_one_number_through_all_stretches(missed: range) -> None:
    frames = [n for n in range(1600) if n not in missed]
    tracks = [seen(frames, x=across, y=100.0 + 90 * k, owner=k, clip_s=LONG_S, seed=k, noise=1.0) for k in range(4)]
    tracks.append(seen(range(3), y=900.0, clip_s=LONG_S))
    labels = backward(tracks)
    assert [len(np.unique(own)) for own in labels] == [1] * 5
    assert len(np.unique(np.concatenate(labels))) == 5


def test_backward_fragments_are_one_where_a_stretch_ends_between_them() -> None:
    """In a clip of 100 s there are 25 stretches, and one ends every 4 s."""
    walkers = [
        [seen(frames, x=across, y=100.0 + 90 * k, owner=k, clip_s=LONG_S, seed=k) for frames in halves]
        for k, halves in enumerate([(range(64 * n - 3 + k), range(64 * n + k, 1600)) for k, n in enumerate([5, 9, 14])])
    ]
    labels = backward([part for parts in walkers for part in parts])
    numbers = [np.unique(own).tolist() for own in labels]
    assert [len(number) for number in numbers] == [1] * 6
    assert numbers[0::2] == numbers[1::2]
    assert len({number for (number,) in numbers}) == 3


def test_backward_two_that_go_by_each_other_are_told_apart_wherever_stretches_end() -> None:
    """Every ten seconds, online, each goes over to the other one when they meet, and back two seconds later."""
    pair = [
        seen(range(1600), x=lambda t, way=way: 500 + way * (across(t) - 300), y=y, owner=k, clip_s=LONG_S)
        for k, (way, y) in enumerate([(1, 300.0), (-1, 325.0)])
    ]
    rows = np.arange(1600)
    swapped = ((rows >= 160) & (rows % 160 < 32))[:, None]
    online = [
        replace(
            one,
            xyxy=np.where(swapped, other.xyxy, one.xyxy),
            logits=np.where(swapped, other.logits, one.logits),
        )
        for one, other in (pair, pair[::-1])
    ]
    number_of = {}
    for track, labels in zip(online, backward(online), strict=True):
        for owner, number in zip(owners_of(track), labels.tolist(), strict=True):
            assert number_of.setdefault(owner, number) == number
    assert len(set(number_of.values())) == 2


def owners_of(track: Track) -> list[int]:
    """Whose box each one is."""
    owner: list[int] = (1000 * track.logits[:, 0]).round().astype(int).tolist()
    return owner


def test_what_looks_tell_is_known_when_tracks_that_mix_two_objects_are_cut() -> None:
    """Red and green turn back where they meet, say the tracks, and so look alike; later, red is back elsewhere."""
    halves = (range(80), range(80, 160))
    red = [seen(frames, x=walk, look=RED, seed=n) for n, frames in enumerate(halves)]
    green = [seen(frames, x=back, look=GREEN, owner=2, seed=2 + n) for n, frames in enumerate(halves)]
    mixed = [followed(red[0], green[1]), followed(green[0], red[1])]
    returned = seen(range(320, 400), x=600.0, look=RED, seed=4)
    assert look_model(mixed) is None
    assert spans(again([*mixed, returned])) == [([1], 0, 399), ([2], 0, 159)]


@pytest.mark.parametrize("length, stays", [(16, True), (48, False)], ids=["parts too short to tell", "long enough"])
def test_what_looks_tell_is_not_left_to_the_few_tracks_that_stay_whole(length: int, stays: bool) -> None:
    halves = [
        seen(range(length * n, length * (n + 1)), look=look, seed=n) for n, look in enumerate([RED, GREEN, RED, GREEN])
    ]
    tracks, parts = [followed(*halves[:2]), followed(*halves[2:]), *OTHERS], [*halves, *OTHERS]
    track_of, scatter, before = np.array([0, 0, 1, 1, 2, 3, 4]), Scatter.of(tracks), look_model(tracks)
    assert (scatter.tells.sum(), Scatter.of(parts).tells.sum()) == (5, 3 if stays else 7)
    after = look_model(parts)
    assert before is not None and after is not None and before.num_dims < 0.9 * after.num_dims
    for known, wanted in ((before, before if stays else after), (None, after)):
        found = _purer(known, scatter, tracks, parts, track_of)
        assert found is not None
        np.testing.assert_allclose(astuple(found), astuple(wanted), rtol=1e-5)


def test_a_single_box_of_another_object_is_taken_out_and_the_gap_filled() -> None:
    track = seen(range(100), x=walk)
    track.xyxy[50] += 500
    other = seen([*range(45, 50), *range(51, 56)], x=float(walk(CLIP_S[50])) + 500, y=800.0, owner=2)
    assert doubts([track, other]) == [(0, 50), (0, 51)]
    found = again([track, other])
    assert [one.interpolated.nonzero()[0].tolist() for one in found] == [[50], [5]]
    np.testing.assert_allclose(found[0].xyxy[:, 0] + 20, walk(found[0].times_s), atol=0.01)


def test_doubtful_boxes_go_with_the_track_around_them() -> None:
    """After a gap too."""
    track = seen([*range(30), *range(32, 100)], x=walk)
    track.scores[20:40] = 0.3  # frames 20 to 41
    tracks = [track, seen(range(100), y=600.0)]
    assert doubts(tracks) == []
    labels = backward(tracks)[0]
    assert labels[0] >= 0 and len(np.unique(labels)) == 1


def test_what_is_doubted_stays_one_where_little_speaks_against_it() -> None:
    """The online pass made one track of it: that counts, but not for more than a step aside."""
    first, second, third = seen(range(40)), seen(range(60, 100), x=160.0), seen(range(60, 100), x=200.0)
    assert len(again([first, second])) == 2
    assert len(again([followed(first, second)])) == 1
    assert len(again([followed(first, third)])) == 2


def test_what_the_backward_pass_makes_one_track_of_counts_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The online pass lost it for a while, and it is half as large again afterwards."""
    tracks = [seen(range(40)), seen(range(54, 100), size=(59, 118))]
    assert len(again(tracks)) == 1
    monkeypatch.setattr(both_ways, "backward", lambda tracks, _: np.full(sum(map(len, tracks)), -1))
    assert len(again(tracks)) == 2


def test_a_track_of_two_frames_is_as_fast_as_the_one_that_it_was_joined_to() -> None:
    """Someone in a hurry is seen for a moment only between two pillars: alone, that has no speed."""
    parts = [
        seen(frames, x=lambda t: 100 + 180 * t, noise=1.0, seed=n)
        for n, frames in enumerate((range(32), range(34, 36), range(64, 100)))
    ]
    assert len(again(parts)) == 1


def test_walkers_seen_once_a_second_are_whole_though_online_nobody_is_seen_twice() -> None:
    clip_s = np.arange(12.0)
    once = [seen([n], x=walk, y=150.0 + 100 * k, owner=k, clip_s=clip_s) for k in range(6) for n in range(12)]
    found = list(refine(once, CONFIG, frame_times_s=clip_s))
    assert [(owners(track), len(track)) for track in found] == [([k], 12) for k in range(6)]


@pytest.mark.parametrize(
    ("fps", "num_missed", "num_new"),
    [(16.0, 3, 3), (16.0, 4, 0), (2.0, 2, 2), (2.0, 3, 0)],
    ids=["0.3 s", "longer", "rare frames: two", "three"],
)
def test_what_a_detector_misses_now_and_then_is_filled_in(fps: float, num_missed: int, num_new: int) -> None:
    clip_s = np.arange(40) / fps
    track = seen([*range(20), *range(20 + num_missed, 40)], clip_s=clip_s)
    (found,) = refine([track], replace(CONFIG, max_fill_gap_s=2.5), frame_times_s=clip_s)
    assert found.interpolated.sum() == num_new


@pytest.mark.parametrize("looks_alike", [True, False])
def test_a_doubted_track_is_whole_if_its_looks_before_and_after_agree(looks_alike: bool) -> None:
    tracks = [*encounter(RED, RED if looks_alike else GREEN), *OTHERS]
    limits = {"min_cut_evidence": 1e9, "min_join_evidence": 2.0}
    parts, track_of, links = cutting.cut(tracks, look_model(tracks), sure_score=0.6, **limits)
    assert len(parts) == len(tracks) + (not looks_alike)
    assert track_of.tolist() == [0] * (not looks_alike) + list(range(len(tracks)))
    assert links.goes_on.tolist() == ([False] if looks_alike else [True, False]) + [False] * (len(tracks) - 1)


# ---- gaps


def test_gaps_are_filled_on_the_way_and_marked() -> None:
    (track,) = again([seen(range(60), x=walk), seen(range(63, 130), x=walk)])
    assert np.flatnonzero(track.interpolated).tolist() == [60, 61, 62]
    np.testing.assert_allclose(track.times_s, CLIP_S[:130])
    np.testing.assert_allclose(track.xyxy[:, 0] + 20, walk(track.times_s), atol=0.01)
    assert not track.scores[track.interpolated].any() and not track.logits[track.interpolated].any()
    np.testing.assert_allclose(track.scores[~track.interpolated], 0.9)


@pytest.mark.parametrize(
    ("hidden", "num_new"), [(True, 12), (False, 0)], ids=["behind another", "in full view, undetected"]
)
def test_a_longer_gap_is_filled_only_where_something_hides_the_object(hidden: bool, num_new: int) -> None:
    at = 300.0 if hidden else 900.0
    other = seen(range(130), x=at, size=(120, 200), owner=2)
    found = again([seen(range(60), x=300.0), seen(range(72, 130), x=300.0), other])
    assert sorted(int(track.interpolated.sum()) for track in found) == sorted([0, num_new])


def test_a_gap_without_frames_stays_empty() -> None:
    """Variable frame rate: nothing is put where the video has no frame."""
    clip_s = np.concatenate([np.arange(0, 60) / FPS, 60 / FPS + 0.1 + np.arange(0, 60) / 4.0])
    tracks = [seen(range(59), x=walk, clip_s=clip_s), seen(range(60, 100), x=walk, clip_s=clip_s)]
    (track,) = refine(tracks, CONFIG, frame_times_s=clip_s)
    assert np.isin(track.times_s, clip_s).all()
    assert track.times_s[track.interpolated].tolist() == [clip_s[59]]


def test_what_was_interpolated_before_is_made_anew() -> None:
    once = again([seen(range(60), x=walk), seen(range(63, 130), x=walk)])
    twice = again(once)
    assert [len(track) for track in twice] == [130]
    assert twice[0].interpolated.tolist() == once[0].interpolated.tolist()


def test_time_out_of_sight_does_not_make_a_track_long() -> None:
    """Two seconds, eight of nothing, half a second: less than three in all."""
    track = seen([*range(33), *range(160, 169)])
    assert why_drop(track, (720, 1280), FilterConfig(2.6, 0.0)) == "shorter than 2.6 s"
    assert why_drop(track, (720, 1280), FilterConfig(2.5, 0.0)) is None
    slow = replace(track, times_s=2.0 * np.arange(len(track)))
    assert why_drop(slow, (720, 1280), FilterConfig(80.0, 0.0)) is None


def test_looks_that_change_slowly_all_over_the_clip_cut_nothing() -> None:
    """Five people walk from shade into sun: each looks another way in the end, and all stay themselves."""
    rng = np.random.default_rng(9)
    crowd = []
    for n in range(5):
        track = seen(range(160), x=100.0 + 150 * n, look=rng.normal(0, 1, 16), owner=n + 1, seed=n)
        sun = np.linspace(0, 1, len(track.looks))[:, None] * LOOK_FRAMES * rng.normal(0, 0.15, 16)
        crowd.append(replace(track, looks=(track.looks + sun).astype(np.float32)))
    assert [len(track) for track in again(crowd)] == [160] * 5


# ---- smoothing


def test_smoothing_takes_jitter_away_and_neither_shrinks_nor_lags() -> None:
    jittered = seen(range(200), x=walk, noise=2.0)
    (track,) = again([jittered])
    truth = seen(range(200), x=walk).xyxy
    assert np.abs(track.xyxy - truth).mean() < 0.75 * np.abs(jittered.xyxy - truth).mean()
    assert boxes.area(track.xyxy).mean() == pytest.approx(40 * 80, rel=0.01)


def test_steady_motion_and_growth_stay_as_they_are() -> None:
    track = seen(range(50), x=lambda t: 100 + 200 * t)
    grown = replace(track, xyxy=track.xyxy + np.outer(np.arange(50), [-1, -2, 1, 2]).astype(np.float32))
    (found,) = again([grown])
    np.testing.assert_allclose(found.xyxy, grown.xyxy, atol=0.01)


def test_a_clip_whose_boxes_jitter_more_is_smoothed_more() -> None:
    """Five people stroll. At 7 frames/s a Gaussian of 0.08 s averages hardly anything."""
    clip_s = np.arange(200) / 7

    def errors(noise: float) -> tuple[float, float]:
        """Mean error of the boxes as they are detected, and smoothed."""
        crowd = [seen(range(200), x=walk, y=100.0 + 200 * n, noise=noise, clip_s=clip_s, seed=n) for n in range(5)]
        truth = seen(range(200), x=walk, clip_s=clip_s).xyxy[:, ::2]
        smooth = smooth_tracks(crowd)
        return tuple(float(np.mean([np.abs(t.xyxy[:, ::2] - truth).mean() for t in part])) for part in (crowd, smooth))

    before, after = errors(4.0)
    assert after < 0.6 * before
    before, after = errors(0.0)
    assert after < 0.1


def test_few_boxes_that_are_far_off_decide_nothing() -> None:
    """One box in twenty is half as wide, as of somebody beside a car; the others are exact and turn to and fro."""
    track = seen(range(200), x=lambda t: 400 + 100 * np.sin(2 * t))
    xyxy = track.xyxy.copy()
    xyxy[::20, 0] += 20
    (found,) = smooth_tracks([replace(track, xyxy=xyxy)])
    assert np.median(np.abs(found.xyxy[:, 0] - track.xyxy[:, 0])) < 2


@pytest.mark.parametrize("is_regular", [True, False], ids=["regular frames", "irregular frames"])
def test_lines_go_through_the_weighted_neighbours_of_each_box_across_gaps_and_blocks(is_regular: bool) -> None:
    rng, width_s, num_frames = np.random.default_rng(3), 0.2, 150
    frame_times_s = np.cumsum(np.full(num_frames, 0.05) if is_regular else rng.uniform(0.01, 0.1, num_frames))
    there = rng.random((3, num_frames)) < 0.8
    track_of, frame_of = there.nonzero()
    values = rng.uniform(0, 2000, (4, len(frame_of)))
    lines = smoothing._Lines(frame_times_s, frame_of, values, track_of, 2 * width_s)
    found, self_weight = lines.through(np.array([1, 3]), width_s)
    for row in range(len(frame_of)):
        since = frame_times_s[frame_of] - frame_times_s[frame_of[row]]
        near = (track_of == track_of[row]) & (np.abs(since) <= smoothing.REACH * width_s + ROUNDING_S)
        root_weights = np.exp((since[near] / width_s) ** 2 / -4)
        slope_and_place = np.polyfit(since[near], values[:, near].T[:, [1, 3]], 1, w=root_weights)
        np.testing.assert_allclose(found[:, row], slope_and_place[1], atol=0.01)
        alone = np.polyfit(since[near], (np.flatnonzero(near) == row).astype(float), 1, w=root_weights)
        assert self_weight[row] == pytest.approx(alone[1], abs=1e-5)


def test_tracks_beyond_those_that_tell_the_jitter_are_smoothed_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    jittered = seen(range(200), x=walk, noise=4.0)
    monkeypatch.setattr(smoothing, "MAX_TRIED", 100)
    first, other = smooth_tracks([jittered, jittered])
    assert not np.array_equal(first.xyxy, jittered.xyxy)
    np.testing.assert_array_equal(other.xyxy, first.xyxy)


def test_no_box_is_smoothed_away() -> None:
    """It shrinks from 200 px to nearly nothing and stays so: lines through its neighbours go on below 0."""
    shrinking = seen(range(23), x=900.0)
    shrinking.xyxy[:, 3] = shrinking.xyxy[:, 1] + np.append(np.linspace(200, 2, 20), [1.5] * 3)
    jittering = [seen(range(100), x=2000.0 + 300 * n, noise=3.0, seed=n) for n in range(5)]
    smooth = smooth_tracks([*jittering, shrinking])[-1]
    assert (smooth.xyxy[:, 2:] > smooth.xyxy[:, :2]).all()


def test_smoothing_of_nothing_and_of_lone_frames() -> None:
    assert smooth_tracks([]) == []
    lone = [seen([n], x=100.0 + 300 * n) for n in range(3)]
    for before, after in zip(lone, smooth_tracks(lone), strict=True):
        np.testing.assert_allclose(after.xyxy, before.xyxy)


# ---- duplicates


def test_a_track_on_another_one_goes() -> None:
    whole, part = seen(range(200), x=walk), seen(range(50, 120), x=walk, owner=2, noise=1.0, classes=(0, 1))
    assert spans(again([part, whole])) == [([1], 0, 199)]


def test_a_track_on_one_that_goes_stays_itself() -> None:
    """Each lies on the next longer one, and the shortest not on the longest: 0.74 of it, and 0.54, are in both."""
    tracks = [seen(range(n), x=x, owner=n) for n, x in ((60, 100.0), (80, 106.0), (100, 112.0))]
    assert spans(again(tracks)) == [([60], 0, 59), ([100], 0, 99)]


def test_of_two_equal_tracks_the_better_one_stays() -> None:
    good = seen(range(100), owner=1)
    bad = replace(seen(range(100), owner=2), scores=np.full(100, 0.4, np.float32))
    for tracks in ([good, bad], [bad, good]):
        assert spans(again(tracks)) == [([1], 0, 99)]


def test_objects_that_pass_each_other_both_stay() -> None:
    tracks = [seen(range(200), x=walk), seen(range(200), x=lambda t: 600 - 40 * t, owner=2)]
    assert len(again(tracks)) == 2


# ---- parts and chains


def test_a_chain_is_as_one_track_of_all_its_boxes_and_looks() -> None:
    first, second = seen(range(40), x=walk, look=RED), seen(range(48, 60), x=1258.0, look=RED, seed=1)
    links = cutting.Links(np.zeros(2, bool), np.full(2, -1), np.full(2, -1))

    def pieces(*tracks: Track) -> joining.Pieces:
        frames_s = np.unique(np.concatenate([track.times_s for track in tracks]))
        return joining.Pieces.of(tracks, 1280, Sway.of(tracks, frames_s), links)

    chain, whole = pieces(first, second), pieces(followed(first, second))
    chain.join([0], [1])
    chain.fit_ends([[0, 1]])
    assert chain.goes_out[0] and not chain.comes_in[0]
    for name in ("start_s", "end_s", "comes_in", "goes_out", "look_sums", "look_nums"):
        np.testing.assert_allclose(getattr(chain, name)[0], getattr(whole, name)[0], rtol=1e-6)
    for ends, others in ((chain.heads, whole.heads), (chain.tails, whole.tails)):
        for column, other in zip(astuple(ends.take(np.array([0]))), astuple(others), strict=True):
            np.testing.assert_allclose(column, other, rtol=1e-5)


@pytest.mark.parametrize("look, nats", [(RED, 0), (np.full(32, np.nan), 1)], ids=["known looks", "unknown looks"])
def test_who_is_one_backward_in_time_is_so_where_looks_do_not_know_better(look: np.ndarray, nats: float) -> None:
    tracks, one, other = [seen(range(40), look=look), seen(range(48, 80), look=look)], np.array([0]), np.array([1])
    sway = Sway.of(tracks, np.unique(np.concatenate([track.times_s for track in tracks])))
    evidence = []
    for backward_tracks in ([3, 4], [3, 3]):
        links = cutting.Links(np.zeros(2, bool), np.array(backward_tracks), np.array(backward_tracks))
        pieces = joining.Pieces.of(tracks, np.inf, sway, links)
        evidence.append(joining._evidence(pieces, one, other, LookModel(0.1, 1.0, 8.0), CONFIG).item())
    assert evidence[1] - evidence[0] == pytest.approx(nats * joining.ONE_WAY_EVIDENCE, abs=1e-5)


def cut_at(rows: Sequence[int], track: Track, monkeypatch: pytest.MonkeyPatch) -> list[Track]:
    """The parts of a track that associating backward in time cuts before these rows."""
    labels = np.searchsorted(np.array(rows), np.arange(len(track)), side="right")
    monkeypatch.setattr(both_ways, "backward", lambda tracks, _: labels)
    limits = {"sure_score": 0.6, "min_cut_evidence": 6.0, "min_join_evidence": 1.5}
    return cutting.cut([track], LookModel(0.1, 1.0, 8.0), **limits)[0]


def test_a_look_of_frames_on_both_sides_of_a_cut_is_of_neither_part(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = cut_at([20], seen(range(60), look=np.full(32, np.nan)), monkeypatch)
    assert (len(first), len(first.looks), len(second), len(second.looks)) == (20, 2, 40, 5)
    assert second.look_weights.tolist() == [8, 8, 8, 8, 4]


def test_looks_settle_a_doubt_only_where_they_are_known_and_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = seen(range(60), look=RED), seen(range(60), look=np.full(32, np.nan))
    of_one_look = replace(unknown, looks=unknown.looks[:1], look_weights=np.full(1, 60, np.float32))
    assert [len(part) for part in cut_at([24], unknown, monkeypatch)] == [24, 36]
    for track in (known, of_one_look):
        assert [len(part) for part in cut_at([24], track, monkeypatch)] == [60]


def test_evidence_of_motion_is_how_much_likelier_one_object_is_to_be_there_than_another() -> None:
    """The end of a track by Bayesian regression, any other place by a normal distribution as wide as the scene."""
    times_s, gap_s, later = np.arange(5) / 16, 0.8, 300.0
    x = 100 + 90 * times_s + np.array([1, -2, 0, 2, -1])
    xyxy = np.stack([x - 20, 0 * x, x + 20, 0 * x + 80], axis=-1)
    tail = motion.fit_ends(times_s, xyxy, np.array([0]), 0.05, head=False)
    still = motion.Ends(np.full((2, 1), [[later], [40]]), np.zeros((2, 1)), np.full(1, 80.0), np.zeros((3, 1)))
    scene = motion.Scene(area=1e6, size_std=0.5, box_std=0.05)
    (found,) = motion.evidence(tail, still, np.full((1, 1), gap_s), scene).ravel()

    design = np.stack([np.ones(5), times_s - times_s[-1]], axis=-1)
    precision = design.T @ design / 0.05**2 + np.diag([0, 1 / 1.0**2])
    line = np.linalg.solve(precision, design.T @ x / 0.05**2)
    way_s = 2.0 * (1 - np.exp(-gap_s / 4.0))  # until the middle of the gap, at a speed that dies away in 2 s
    reach = np.array([1, way_s])
    variance = reach @ np.linalg.solve(precision, reach) + (0.3 * gap_s) ** 2
    offset2, anywhere = ((line @ reach - later) / 80) ** 2, 1e6 / (2 * np.pi) / 80**2
    place = np.log(anywhere / variance) - offset2 / 2 * (1 / variance - 1 / anywhere)
    size = np.log(0.5**2 / (0.1**2 + 0.1**2 * gap_s)) / 2
    np.testing.assert_allclose(found, place + size - 0.1 * gap_s, rtol=1e-4)
    far = replace(still, xy=still.xy * 1e3)
    ((surely_another,),) = motion.evidence(tail, far, np.full((1, 1), 1e3), scene)
    assert surely_another == pytest.approx(-0.1 * 1e3, rel=1e-3)  # then no place says anything


@pytest.mark.parametrize("box_std, found", [(0.0, 0.05), (0.02, 0.05), (0.1, 0.1), (0.15, 0.15)])
def test_boxes_are_off_as_much_as_they_jitter_and_at_least_as_bytetrack_has_it(box_std: float, found: float) -> None:
    """However fast two objects walk, and wherever one's boxes have a gap; of a box, both edges are off."""
    frames, noise = [*range(60), *range(75, 200)], 80 * box_std * np.sqrt(2)
    tracks = [seen(frames, x=lambda t, way=way: 100 + way * t, noise=noise, seed=way) for way in (60, 200)]
    times_s, xyxy = (np.concatenate([getattr(track, name) for track in tracks]) for name in ("times_s", "xyxy"))
    scene = motion.Scene.of(times_s, xyxy.astype(np.float64), np.array([0, len(frames)]))
    assert scene.box_std == pytest.approx(found, rel=0.15)


def test_what_jitters_is_joined_across_a_gap_too() -> None:
    before, after = seen(range(40), noise=14.0), seen(range(48, 100), noise=14.0, seed=1)
    assert len(again([before, after])) == 1


# ---- edges


def test_nothing_comes_of_nothing() -> None:
    assert not list(refine([], CONFIG))


def test_what_is_seen_for_a_few_frames_is_a_slip_unless_the_pieces_are_one_object() -> None:
    assert again([seen([n], x=100.0 + 300 * n, owner=n + 1) for n in range(3)]) == []
    assert again([seen(range(4))]) == []
    (track,) = again([seen([n]) for n in range(5)])
    np.testing.assert_allclose(track.xyxy, seen(range(5)).xyxy)


@pytest.mark.parametrize("fps, num", [(30, 5), (16, 5), (8, 4), (6, 3), (4, 2), (1, 2)])
def test_half_a_second_makes_an_object_but_never_one_frame_and_always_five(fps: float, num: int) -> None:
    clip_s = np.arange(40) / fps
    assert not list(refine([seen(range(num - 1), clip_s=clip_s)], CONFIG, frame_times_s=clip_s))
    assert len(list(refine([seen(range(num), clip_s=clip_s)], CONFIG, frame_times_s=clip_s))) == 1


def test_what_is_doubted_nearly_all_the_time_goes_and_who_is_hidden_half_of_the_time_stays() -> None:
    def scored(owner: int, num_sure: int) -> Track:
        scores = np.where(np.arange(100) < num_sure, 0.8, 0.3).astype(np.float32)
        return replace(seen(range(100), x=200.0 * owner, owner=owner), scores=scores)

    tracks = [scored(1, 100), scored(2, 50), scored(3, 20)]
    found = list(refine(tracks, CONFIG, frame_times_s=CLIP_S, sure_score=0.5))
    assert [track.xyxy[0, 0] for track in found] == pytest.approx([180, 380])
    assert len(list(refine(tracks, CONFIG, frame_times_s=CLIP_S))) == 3


def test_every_track_that_goes_is_counted_by_its_reason() -> None:
    whole, copy, slip = seen(range(100)), seen(range(60)), seen(range(3), x=600.0, owner=2)
    doubted = seen(range(80), x=900.0, owner=3)
    doubted = replace(doubted, scores=np.full(80, 0.3, np.float32))
    dropped = Counter[str]()
    tracks = [whole, copy, slip, doubted]
    assert len(list(refine(tracks, CONFIG, frame_times_s=CLIP_S, sure_score=0.5, dropped=dropped))) == 1
    assert dropped == {
        "tracks on top of another one": 1,
        "tracks seen in under 5 frames": 1,
        "tracks doubted nearly all the time": 1,
    }


@pytest.mark.parametrize("num_labels", [0, 1, 3])
def test_no_classes_and_no_looks_are_no_obstacle(num_labels: int) -> None:
    tracks = [seen(range(60), x=walk), seen(range(63, 130), x=walk)]
    (track,) = again([replace(track, logits=np.zeros((len(track), num_labels), np.float32)) for track in tracks])
    assert track.logits.shape == (130, num_labels)
    assert track.embedding.shape == (0,)


def test_a_joined_track_has_the_mean_look_of_its_parts() -> None:
    tracks = [seen(range(100), look=RED), seen(range(104, 200), look=RED, seed=1), *OTHERS]
    tracks[0].looks[3] = np.nan  # not known
    joined = next(track for track in again(tracks) if owners(track) == [1])
    total = sum(np.nansum(track.looks, axis=0) for track in tracks[:2])
    np.testing.assert_allclose(joined.embedding, total / np.linalg.norm(total), atol=1e-6)


def test_a_part_too_short_for_a_look_of_its_own_has_that_of_the_track_it_was_cut_out_of() -> None:
    whole = seen(range(LOOK_FRAMES), look=RED)
    short = cutting.part(whole, slice(1, 7), slice(0, 0))
    found = next(track for track in again([short, *OTHERS]) if owners(track) == [1])
    np.testing.assert_allclose(found.embedding, whole.embedding, atol=1e-6)


def test_the_order_of_the_tracks_does_not_matter() -> None:
    tracks = [*LOOKING["gone for ten seconds, back elsewhere with its look"][0], *OTHERS]
    assert sorted(spans(again(tracks))) == sorted(spans(again(tracks[::-1])))


@pytest.mark.parametrize("look", [None, RED], ids=["without looks", "with looks"])
def test_class_scores_and_looks_on_disk_come_back_whole(look: np.ndarray | None) -> None:
    tracks = [seen(frames, x=walk, look=look) for frames in (range(60), range(64, 130))]
    tracks.append(seen(range(20), x=far, owner=2, look=look))
    with tempfile.TemporaryFile() as scores, tempfile.TemporaryFile() as looks:
        held = on_disk(tracks, scores, looks)
        assert all(isinstance(track.logits.base, np.memmap) for track in held)
        for ours, theirs in zip([*held, *again(held)], [*tracks, *again(tracks)], strict=True):
            let_go(ours.logits)
            let_go(ours.looks)
            for column in ("logits", "looks", "look_weights", "embedding"):
                np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))


def test_in_portions_the_same_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fragments = [seen(range(start, start + 30), x=walk, look=RED, seed=start) for start in range(0, 400, 40)]
    tracks = [*fragments, *encounter(GREEN, BLUE), *OTHERS]
    at_once, model = again(tracks), look_model(tracks)
    assert len(at_once) < len(tracks) and model is not None
    for limit in ("BLOCK_ROWS", "BLOCK_COLUMNS"):
        monkeypatch.setattr(joining, limit, 2)
    monkeypatch.setattr(pairs, "BLOCK_PAIRS", 2)
    monkeypatch.setattr(looks, "BATCH_FLOATS", 2)
    monkeypatch.setattr(joining, "BLOCK_CHAINS", 1)
    np.testing.assert_allclose(astuple(look_model(tracks)), astuple(model), rtol=1e-5)
    for ours, theirs in zip(again(tracks), at_once, strict=True):
        np.testing.assert_array_equal(ours.times_s, theirs.times_s)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy)


def test_five_thousand_tracks_are_never_paired_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays far below a number for each of their 25 million pairs."""
    rng = np.random.default_rng(5)
    places = zip(rng.integers(0, 460, 5000), *rng.uniform(0, 4000, (2, 5000)), strict=True)
    tracks = [
        seen(range(start, start + 12), x=x, y=y, look=rng.normal(0, 0.3, 16), seed=n)
        for n, (start, x, y) in enumerate(places)
    ]
    at_once = []

    def counted(*args: Any) -> Any:
        at_once.append(args[2].size)
        return evidence(*args)

    evidence = motion.evidence
    monkeypatch.setattr(motion, "evidence", counted)
    assert len(again(tracks)) < 5000
    assert sum(at_once) > 4e6 and max(at_once) <= joining.BLOCK_ROWS * joining.BLOCK_COLUMNS


@pytest.mark.parametrize("x", [0.0, 1e9], ids=["within a picture", "far outside"])
def test_of_boxes_side_by_side_none_is_missed_and_no_other_frame_comes_in(x: float) -> None:
    rng = np.random.default_rng(0)
    frame_of, left = rng.integers(0, 9, 300), x + rng.uniform(-200, 200, 300)
    right, rows = left + rng.uniform(1, 60, 300), np.arange(0, 300, 3)
    a, b = (np.concatenate(part) for part in zip(*pairs.beside(frame_of, left, right, rows), strict=True))
    assert (frame_of[a] == frame_of[b]).all() and set(a.tolist()) == set(rows.tolist())
    found = np.zeros((300, 300), bool)
    found[a, b] = True
    wanted = (left[rows, None] <= right) & (left <= right[rows, None]) & (frame_of[rows, None] == frame_of)
    assert wanted.sum() > len(rows)
    assert found[rows][wanted].all()
