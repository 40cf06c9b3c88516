"""Choosing subsets: each criterion against a slow, plain oracle, and curate_db.py as users run it."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_script import run_killed
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, fill_store, make_track

from trackverse import constraints, curate, jsonl, overlaps, spread
from trackverse.columns import DTYPES
from trackverse.constraints import Limits
from trackverse.curate import Quota, SpreadConfig
from trackverse.layout import TracksLayout
from trackverse.selection import Plan, choose
from trackverse.store import TrackStore
from trackverse.track_table import TrackTable
from trackverse.vectors import unit

REPO_DIR = Path(__file__).resolve().parent.parent

# ---- tables


@dataclass(frozen=True)
class Summary:
    """A track as the oracles see it. `boxes`: at each tick from `first` on; `look`: its embedding, None for none."""

    video_id: str
    track_id: int
    label_id: int
    score: float | None = None
    length_s: float = 5.0
    area: float | None = 0.5
    motion: float = 1.0
    first: int = 0
    boxes: tuple[tuple[int, int, int, int], ...] = ((0, 0, 10, 10),)
    look: tuple[float, float] | None = (1.0, 0.0)


Tracks = list[Summary]
BOXES = st.lists(
    st.sampled_from([(0, 0, 10, 10), (5, 0, 15, 10), (0, 0, 20, 20), (40, 40, 50, 50)]), min_size=1, max_size=3
)
LOOKS = st.none() | st.integers(0, 11).map(lambda n: tuple(on_circle([30 * n])[0].tolist()))


@st.composite
def track_lists(draw: st.DrawFn, min_size: int = 0) -> Tracks:
    """Tracks of a few videos and classes, with values that are often equal and sometimes not there."""
    names = draw(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), unique=True, min_size=min_size, max_size=25)
    )
    return [
        Summary(
            video_id,
            track_id,
            draw(st.integers(0, 3)),
            draw(st.none() | st.sampled_from([0.1, 0.5, 0.9])),
            draw(st.sampled_from([1.0, 3.0, 8.0])),
            draw(st.none() | st.sampled_from([0.125, 0.25, 0.5])),
            draw(st.sampled_from([0.0, 0.5, 2.0])),
            draw(st.integers(0, 6)),
            tuple(draw(BOXES)),
            draw(LOOKS),
        )
        for video_id, track_id in names
    ]


def table_of(tracks: Sequence[Summary]) -> TrackTable:
    """The table of tracks that lie in any order."""
    video_ids = sorted({track.video_id for track in tracks})
    values = {name: np.zeros(len(tracks), dtype) for name, dtype in DTYPES.items()}
    nothing = float("nan")
    values["track_id"] = np.array([track.track_id for track in tracks], np.int64)
    values["label_id"] = np.array([track.label_id for track in tracks], np.int64)
    values["score"] = np.array([nothing if track.score is None else track.score for track in tracks])
    values["end_s"] = np.array([track.length_s for track in tracks])
    values["area"] = np.array([nothing if track.area is None else track.area for track in tracks], np.float32)
    values["box_motion"] = np.array([track.motion for track in tracks], np.float32)
    videos = np.array([video_ids.index(track.video_id) for track in tracks], np.int64)
    order = np.lexsort((values["track_id"], videos))
    starts = np.concatenate([[0], np.cumsum([len(track.boxes) for track in tracks])]).astype(np.int64)
    xyxy = np.array([box for track in tracks for box in track.boxes], np.uint16).reshape(-1, 4)
    first = np.array([track.first for track in tracks], np.int64)
    labels = {track.label_id: f"class {track.label_id}" for track in tracks}
    return TrackTable(videos[order], video_ids, labels, values, lambda: [(first, starts, xyxy)], order)


class Looks:
    """The embeddings of the tracks of a table that was made of `tracks`."""

    dim = 2

    def __init__(self, tracks: Sequence[Summary]) -> None:
        ordered = sorted(tracks, key=name_of)
        self._looks = np.array([t.look or (np.nan, np.nan) for t in ordered], np.float16).reshape(-1, 2)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self._looks[rows]


Name = tuple[str, int]


def names(table: TrackTable, rows: np.ndarray) -> list[Name]:
    return [(table.video_ids[table.videos[row]], int(table["track_id"][row])) for row in rows]


def by(tracks: Tracks, chosen: Sequence[Name], key: Callable[[Summary], Any]) -> tuple[Counter[Any], Counter[Any]]:
    """How many tracks each group has, and how many of them are chosen."""
    return Counter(map(key, tracks)), Counter(key(track) for track in tracks if name_of(track) in chosen)


def name_of(track: Summary) -> Name:
    return track.video_id, track.track_id


CAPS = st.none() | st.integers(0, 30)

# ---- what holds for every criterion

GROUPS: dict[str, Callable[[Summary], Any]] = {
    "random": lambda track: "all",
    "video_balanced": lambda track: track.video_id,
    "class_balanced": lambda track: track.label_id,
    "min_redundancy": lambda track: track.label_id,
    "max_motion": lambda track: "all",
    "diverse": lambda track: "all",
}
CAN_BE_CHOSEN: dict[str, Callable[[Summary], bool]] = {
    "class_balanced": lambda track: track.score is not None,
    "min_redundancy": lambda track: track.look is not None,
    "diverse": lambda track: track.look is not None,
}
each_criterion = pytest.mark.parametrize("criterion", GROUPS)
LIMITS = st.builds(
    Limits,
    min_motion=st.none() | st.sampled_from([0.5, 1.0]),
    max_overlap=st.none() | st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    min_distance=st.none() | st.sampled_from([0.3, 1.2]),
    min_length=st.none() | st.just(3.0),
    min_area=st.none() | st.just(0.25),
    classes=st.sampled_from([(), ("class 0", "class 2")]),
    exclude_videos=st.sampled_from([frozenset(), frozenset("b"), frozenset("az")]),
)


def made(tracks: Tracks, plan: Plan, seed: int = 0) -> tuple[list[Name], Any]:
    table = table_of(tracks)
    choice = choose(table, plan, np.random.default_rng(seed), lambda: Looks(tracks))
    return names(table, choice.rows), choice


def overlap_of(one: Summary, other: Summary, half_life_s: float) -> float:
    """By the definition, tick by tick."""
    if one.video_id != other.video_id:
        return 0.0
    if other.first < one.first:
        one, other = other, one
    at_one = {one.first + n: box for n, box in enumerate(one.boxes)}
    at_other = {other.first + n: box for n, box in enumerate(other.boxes)}

    def area(box: Any) -> int:
        return max(0, box[2] - box[0]) * max(0, box[3] - box[1])

    def common(a: Any, b: Any) -> int:
        return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))

    ticks = set(at_one) & set(at_other)
    if ticks:
        shared = sum(common(at_one[tick], at_other[tick]) for tick in ticks)
        return shared / (sum(map(area, one.boxes)) + sum(map(area, other.boxes)) - shared)
    a, b = one.boxes[-1], other.boxes[0]
    gap_s = (min(at_other) - max(at_one)) / 2
    return common(a, b) / (area(a) + area(b) - common(a, b)) * 0.5 ** (gap_s / half_life_s)


def distance_of(one: Summary, other: Summary) -> float:
    assert one.look and other.look
    return float(np.linalg.norm(np.float32(np.float16(one.look)) - np.float32(np.float16(other.look))))


def fits(track: Summary, limits: Limits) -> bool:
    return (
        track.video_id not in limits.exclude_videos
        and (not limits.classes or f"class {track.label_id}" in limits.classes)
        and (limits.min_length is None or track.length_s >= limits.min_length)
        and (limits.min_area is None or (track.area is not None and track.area >= limits.min_area))
        and (limits.min_motion is None or track.motion >= limits.min_motion)
        and (limits.min_distance is None or track.look is not None)
    )


def go_together(one: Summary, other: Summary, limits: Limits) -> bool:
    if limits.max_overlap is not None and overlap_of(one, other, limits.half_life_s) > limits.max_overlap:
        return False
    is_near = limits.min_distance is not None and one.label_id == other.label_id
    return not is_near or distance_of(one, other) >= limits.min_distance - 1e-3


@each_criterion
@given(tracks=track_lists(), per_group=st.integers(1, 8), cap=CAPS, seed=st.integers(0, 5))
def test_numbers(criterion: str, tracks: Tracks, per_group: int, cap: int | None, seed: int) -> None:
    """Nothing twice, no more than asked for of a group and in all, as many as there are, and in turns under a cap."""
    chosen, choice = made(tracks, Plan(criterion, per_group, cap, Limits()), seed)
    assert chosen == sorted(set(chosen))
    usable = [track for track in tracks if CAN_BE_CHOSEN.get(criterion, lambda _: True)(track)]
    assert set(chosen) <= set(map(name_of, usable))
    there, taken = by(usable, chosen, GROUPS[criterion])
    could_give = {group: min(number, per_group) for group, number in there.items()}
    assert len(chosen) == min(sum(could_give.values()), len(tracks) if cap is None else cap)
    for group, other in itertools.permutations(there, 2):
        assert taken[group] <= could_give[group]
        if taken[group] > taken[other] + 1:
            assert taken[other] == could_give[other], "one gave its second before another gave its first"
    assert all(number < asked == per_group for number, asked in choice.unfilled.values())
    assert sum(choice.unfilled[name][0] for name in choice.unfilled) <= len(chosen)


@pytest.mark.parametrize("limit", [0.1, 0.2, 0.3, 0.35, 0.7])
def test_limits_that_are_not_relaxed_are_those_given_to_the_last_bit(limit: float) -> None:
    """An overlap of exactly the limit is allowed."""
    given_ones = Limits(max_overlap=limit, min_distance=limit, min_motion=limit)
    assert given_ones.relaxed(0) == given_ones


@each_criterion
@given(tracks=track_lists(), limits=LIMITS, per_group=st.integers(1, 6), cap=CAPS)
def test_limits_hold_and_nothing_more_would_have_fitted(
    criterion: str, tracks: Tracks, limits: Limits, per_group: int, cap: int | None
) -> None:
    chosen, _ = made(tracks, Plan(criterion, per_group, cap, limits))
    by_name = {name_of(track): track for track in tracks}
    assert chosen == sorted(set(chosen))
    assert all(fits(by_name[name], limits) for name in chosen)
    for one, other in itertools.combinations(chosen, 2):
        assert go_together(by_name[one], by_name[other], limits)
    taken = Counter(GROUPS[criterion](by_name[name]) for name in chosen)
    if cap is not None and len(chosen) >= cap:
        assert len(chosen) == cap
        return
    if criterion == "diverse" and limits.min_distance is not None:
        return  # it keeps this distance between all classes, which is more than is asked for
    for track in tracks:
        usable = fits(track, limits) and CAN_BE_CHOSEN.get(criterion, lambda _: True)(track)
        if usable and name_of(track) not in chosen and taken[GROUPS[criterion](track)] < per_group:
            beside = limits if limits.min_distance is None else replace(limits, min_distance=limits.min_distance + 2e-3)
            assert not all(go_together(track, by_name[name], beside) for name in chosen), "it would have fitted"


@each_criterion
@given(tracks=track_lists(), limits=LIMITS, per_group=st.integers(1, 6))
def test_relaxing_only_adds_and_is_told(criterion: str, tracks: Tracks, limits: Limits, per_group: int) -> None:
    plan = Plan(criterion, per_group, None, limits)
    strict, before = made(tracks, plan)
    relaxed, choice = made(tracks, replace(plan, relax=True))
    if criterion not in ("min_redundancy", "diverse"):
        assert set(strict) <= set(relaxed)
    told = sum(step["chosen"] for steps in choice.relaxed.values() for step in steps)
    assert len(relaxed) == len(before.rows) + told
    by_name = {name_of(track): track for track in tracks}
    for name in relaxed:
        assert by_name[name].video_id not in limits.exclude_videos
        assert not limits.classes or f"class {by_name[name].label_id}" in limits.classes
    assert not before.relaxed


@each_criterion
@given(tracks=track_lists(min_size=1), limits=LIMITS, cap=CAPS, data=st.data())
def test_the_order_of_files_and_lines_changes_nothing(
    criterion: str, tracks: Tracks, limits: Limits, cap: int | None, data: st.DataObject
) -> None:
    plan = Plan(criterion, 3, cap, limits, temperature=0.5)
    assert made(tracks, plan, 1)[0] == made(data.draw(st.permutations(tracks)), plan, 1)[0]


@each_criterion
def test_nothing_to_choose_from(criterion: str) -> None:
    for cap in (10, None):
        assert made([], Plan(criterion, 3, cap, Limits(max_overlap=0.1)))[0] == []


@pytest.mark.parametrize("criterion", ["random", "video_balanced", "min_redundancy", "diverse"])
def test_another_seed_is_another_choice(criterion: str) -> None:
    tracks = [Summary(f"v{n % 3}", n, n % 2, 0.5, look=tuple(on_circle([n * 37 % 360])[0].tolist())) for n in range(60)]
    plan = Plan(criterion, 4, 8, Limits())
    assert len({tuple(made(tracks, plan, seed)[0]) for seed in range(6)}) > 3
    assert made(tracks, plan, 3)[0] == made(tracks, plan, 3)[0]


def test_limits_are_relaxed_half_way_then_altogether() -> None:
    """Not fewer than so much, and not more overlap than so much."""
    limits = Limits(min_motion=0.4, max_overlap=0.5, classes=("a",))
    assert limits.relaxed(1) == Limits(min_motion=0.2, max_overlap=0.75, classes=("a",))
    assert limits.relaxed(2) == Limits(classes=("a",))


def test_of_all_that_are_taken_each_keeps_others_away() -> None:
    """Of one class, more than there is room for at first."""
    looks = np.eye(12, dtype=np.float16)

    def embeddings(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([looks, looks])[rows]

    embeddings.dim = 12
    apart = constraints.Lookalikes(np.zeros(24, np.int64), 0.5, embeddings)
    apart.prepare(np.arange(6))  # the others are read one by one
    for row in range(12):
        assert apart.why_not(row) is None
        apart.took(row)
    assert all(apart.why_not(row) for row in range(12, 24))


# ---- criterion by criterion


def test_random_takes_every_set_equally_often() -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(5)
    counts = Counter(
        tuple(sorted(curate.take(curate.by_chance(rows, rng), np.zeros(5, int), Quota(2, 2)).tolist()))
        for _ in range(5000)
    )
    assert set(counts) == set(itertools.combinations(range(5), 2))
    assert all(abs(count - 500) < 5 * np.sqrt(500 * 0.9) for count in counts.values())


def test_video_balanced_takes_every_track_of_a_video_equally_often() -> None:
    """Under a cap as well: neither early videos nor early tracks are favoured."""
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(3), 4)
    counts = Counter[int]()
    for _ in range(4000):
        order = curate.by_chance(np.arange(12), rng)
        counts.update(curate.take(order, videos[order], Quota(2, 5)).tolist())
    expected = 4000 * 5 / 12
    assert all(abs(counts[row] - expected) < 5 * np.sqrt(expected) for row in range(12))


@given(track_lists(), LIMITS, st.integers(1, 6), CAPS)
def test_class_balanced_takes_exactly_the_best(tracks: Tracks, limits: Limits, per_class: int, cap: int | None) -> None:
    """The oracle walks through the classes turn by turn, the best candidates of a turn first."""
    best_first = sorted(
        (track for track in tracks if track.score is not None and fits(track, limits)),
        key=lambda track: (-track.score, name_of(track)),
    )
    chosen: list[Summary] = []
    waiting = {label_id: [t for t in best_first if t.label_id == label_id] for label_id in range(4)}
    given = Counter[int]()
    while cap is None or len(chosen) < cap:
        heads = [queue[0] for label_id, queue in waiting.items() if queue and given[label_id] < per_class]
        if not heads:
            break
        track = min(heads, key=lambda head: (given[head.label_id], best_first.index(head)))
        waiting[track.label_id].pop(0)
        exact = limits if limits.min_distance is None else replace(limits, min_distance=limits.min_distance + 1e-3)
        if all(go_together(track, other, exact) for other in chosen):
            chosen.append(track)
            given[track.label_id] += 1
    assert made(tracks, Plan("class_balanced", per_class, cap, limits))[0] == sorted(map(name_of, chosen))


@given(track_lists(), st.integers(1, 30))
def test_max_motion_takes_exactly_those_that_move_most(tracks: Tracks, number: int) -> None:
    best = sorted(tracks, key=lambda track: (-track.motion, name_of(track)))[:number]
    assert made(tracks, Plan("max_motion", number, number, Limits()))[0] == sorted(map(name_of, best))


def test_temperature_draws_in_proportion_to_the_exponential_of_the_score() -> None:
    """Two draws of three without putting back, against the probabilities of all ordered pairs; 0 and inf are limits."""
    scores, t, rng = np.array([0.9, 0.5, 0.1]), 0.4, np.random.default_rng(0)
    counts = Counter(tuple(curate.by_score(np.arange(3), scores, t, rng)[:2].tolist()) for _ in range(6000))
    weight = np.exp(scores / t)
    for a, b in itertools.permutations(range(3), 2):
        expected = 6000 * weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a])
        assert abs(counts[a, b] - expected) < 5 * np.sqrt(expected)
    assert curate.by_score(np.arange(3), scores, 0, rng).tolist() == [0, 1, 2]
    assert curate.by_score(np.arange(3), np.array([np.nan, 0.5, 0.9]), 0.1, rng).tolist() != [0]
    assert sorted(curate.by_score(np.arange(3), np.array([np.nan, 0.5, 0.9]), np.inf, rng).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("max_pairs", [0, constraints.MAX_PAIRS], ids=["crowds", "pairs"])
@given(track_lists(), st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.5, 2.0]))
def test_overlaps_are_those_of_the_definition(max_pairs: int, tracks: Tracks, least: float, half_life_s: float) -> None:
    table, ordered = table_of(tracks), sorted(tracks, key=name_of)
    apart = constraints.Apart(table, Limits(max_overlap=least, half_life_s=half_life_s), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constraints, "MAX_PAIRS", max_pairs)
        apart.prepare(np.arange(len(tracks)))
    pairs = [(row, other) for row in range(len(tracks)) for other in apart.blocked_by(row).tolist()]
    expected = {
        (a, b)
        for a, b in itertools.permutations(range(len(tracks)), 2)
        if overlap_of(ordered[a], ordered[b], half_life_s) > least
    }
    assert set(pairs) == expected
    assert len(pairs) == len(expected)


@each_criterion
@given(tracks=track_lists(), limits=LIMITS, per_group=st.integers(1, 6), cap=CAPS, relax=st.booleans())
def test_in_crowds_the_same_tracks_are_chosen(
    criterion: str, tracks: Tracks, limits: Limits, per_group: int, cap: int | None, relax: bool
) -> None:
    plan = Plan(criterion, per_group, cap, limits, relax)
    chosen, choice = made(tracks, plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constraints, "MAX_PAIRS", 0)
        in_crowds, other = made(tracks, plan)
    assert in_crowds == chosen
    assert (other.codes.tolist(), other.reasons, other.relaxed) == (
        choice.codes.tolist(),
        choice.reasons,
        choice.relaxed,
    )


def test_of_a_thousand_tracks_in_each_place_few_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two million pairs, of which each would have its boxes compared, and be held."""
    places = [(100 * n, 0, 100 * n + 50, 50) for n in range(4)]
    tracks = [Summary("a", number, number % 7, boxes=(places[number % 4],) * 3) for number in range(4000)]
    table, intersection, num_compared = table_of(tracks), overlaps._intersection, 0

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal num_compared
        num_compared += len(a)
        return intersection(a, b)

    monkeypatch.setattr(overlaps, "_intersection", counted)
    tracemalloc.start()
    try:
        choice = choose(table, Plan("random", 4000, None, Limits(max_overlap=0.5)), np.random.default_rng(0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sorted(row % 4 for row in choice.rows.tolist()) == [0, 1, 2, 3]
    assert num_compared <= 10 * 3 * len(tracks)
    assert peak < 2000 * len(tracks)


# ---- far apart

ANGLES = st.lists(st.integers(0, 359), min_size=2, max_size=9)


def on_circle(degrees: Sequence[float]) -> np.ndarray:
    """(N, 2) points of length 1."""
    radians = np.deg2rad(np.array(degrees, float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def closest(points: np.ndarray) -> float:
    """The smallest distance between two of the points."""
    return min(float(np.linalg.norm(a.astype(float) - b)) for a, b in itertools.combinations(points, 2))


def least_redundant(points: np.ndarray, number: int, max_swaps: int, first: int = 0, batch_size: int = 3) -> np.ndarray:
    found = spread.farthest_first(points, number, start=[first])
    return spread.widen(points, found, max_swaps=max_swaps, batch_size=batch_size)[0]


@given(ANGLES, st.integers(2, 9), st.integers(0, 40))
def test_swaps_never_bring_points_closer(degrees: list[int], num_samples: int, max_swaps: int) -> None:
    """And the greedy choice that they begin with is at least half as good as the best of all choices, as proven."""
    points = on_circle(degrees)
    greedy, swapped = least_redundant(points, num_samples, 0), least_redundant(points, num_samples, max_swaps)
    for rows in (greedy, swapped):
        assert len(set(rows.tolist())) == min(num_samples, len(points))
    best = max(closest(points[list(rows)]) for rows in itertools.combinations(range(len(points)), len(greedy)))
    rounding = 2e-3  # of the root of a difference of single-precision numbers
    assert closest(points[greedy]) >= best / 2 - rounding
    assert closest(points[swapped]) >= closest(points[greedy]) - rounding


def test_swaps_better_the_greedy_choice() -> None:
    points = unit(np.random.default_rng(3).normal(size=(300, 8)).astype(np.float32))
    gains = [
        closest(points[least_redundant(points, 7, 2000, first)]) - closest(points[least_redundant(points, 7, 0, first)])
        for first in range(4)
    ]
    assert min(gains) >= -1e-3 and max(gains) > 0.01


@pytest.mark.parametrize("num_points", [1, 40, 900])
def test_the_front_changes_nothing(num_points: int) -> None:
    """Greedy k-centre by its definition, every point compared with every choice, on points with duplicates."""
    rng = np.random.default_rng(num_points)
    points = np.repeat(rng.integers(-4, 5, (-(-num_points // 2), 4)), 2, axis=0)[:num_points].astype(np.float32)
    number = min(num_points, 60)
    chosen = [min(3, num_points - 1)]
    while len(chosen) < number:
        nearest = ((points[:, None] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    found = spread.farthest_first(points, number, start=chosen[:1])
    assert found.chosen.tolist() == chosen
    distance = ((points[:, None] - points[chosen]) ** 2).sum(axis=2)
    distance[np.arange(number) >= found.known[:, None]] = np.inf
    others = np.setdiff1d(np.arange(num_points), chosen)
    np.testing.assert_array_equal(found.nearest[others], distance[others].min(axis=1))
    if number > 1:
        np.testing.assert_array_equal(found.second[others], np.sort(distance[others], axis=1)[:, 1])


def test_far_apart_is_better_than_at_random() -> None:
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(20, 8)).astype(np.float32))
    points = unit(np.repeat(centres, 30, axis=0) + rng.normal(scale=0.02, size=(600, 8)).astype(np.float32))
    chosen = least_redundant(points, 20, 0)
    assert sorted((chosen // 30).tolist()) == list(range(20))  # one of every bunch of lookalikes
    at_random = [closest(points[rng.permutation(600)[:20]]) for _ in range(20)]
    assert closest(points[chosen]) > max(at_random)


def test_a_point_amid_the_others_is_not_what_the_greedy_choice_begins_with() -> None:
    """It would be near to all others, whatever is chosen besides."""
    looks = [tuple(look) for look in np.concatenate([np.zeros((400, 2)), on_circle(range(0, 360, 10))]).tolist()]
    tracks = [Summary("a", n, 0, look=look) for n, look in enumerate(looks)]
    plan = Plan("min_redundancy", 3, None, Limits(), spread=SpreadConfig(max_swaps=0))
    for seed in range(10):
        rows = [track_id for _, track_id in made(tracks, plan, seed)[0]]
        assert closest(np.array(looks, np.float32)[rows]) > 1.3


def test_points_that_are_all_the_same() -> None:
    points = on_circle([30] * 6)
    assert len(set(least_redundant(points, 4, 50).tolist())) == 4


@pytest.mark.parametrize("per_class", [2, 3, 500])
def test_under_a_cap_a_class_gives_its_most_spread_out_tracks(per_class: int) -> None:
    """Also when it has no more tracks than asked for: of two lookalikes and a stranger, the stranger comes along."""
    looks = [(1.0, 0.0), (0.9998, 0.0175), (-1.0, 0.0)]
    tracks = [Summary("a", n, 0, look=look) for n, look in enumerate(looks)]
    plan = Plan("min_redundancy", per_class, 2, Limits(), spread=SpreadConfig(max_swaps=0))
    for seed in range(10):
        assert ("a", 2) in made(tracks, plan, seed)[0]


def test_of_a_huge_class_a_pool_is_compared_and_that_is_told() -> None:
    tracks = [Summary("a", n, n % 2, look=tuple(on_circle([n])[0].tolist())) for n in range(50)]
    plan = Plan("min_redundancy", 5, None, Limits(classes=("class 1",)), spread=SpreadConfig(pool=10))
    chosen, choice = made(tracks, plan)
    assert (len(chosen), choice.pooled) == (5, {"class 1": 25})


# ---- counts


def test_counts_name_everything_also_what_was_not_chosen() -> None:
    assert curate.unfilled({"cat": 3, "dog": 1, "bus": 0}, 3) == {"dog": [1, 3], "bus": [0, 3]}


# ---- curate_db.py as a command


def label_ids_of_videos() -> dict[str, list[int]]:
    """24 videos of 1 to 9 tracks; class 0 is in all of them, class 13 in none."""
    rng = np.random.default_rng(7)
    return {f"{'-_abcdef'[n % 8]}ideo{n:06}": [0, *rng.integers(0, 13, rng.integers(0, 9)).tolist()] for n in range(24)}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    fill_store(folder, label_ids_of_videos())
    return folder


@pytest.fixture
def tracks_dir(pristine: Path, tmp_path: Path) -> Path:
    """A folder of tracks to read, or to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "tracks meta"))


def curate_db(tracks_dir: Path, output_file: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPO_DIR / "curate_db.py", "--tracks_dir", tracks_dir, "--output_file", output_file]
    ended = subprocess.run([*command, *argv], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in ended.stderr
    return ended


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines()


def source_lines(tracks_dir: Path) -> dict[Name, bytes]:
    """All lines of all track files, by video and track id, in that order."""
    lines = [line for path in TracksLayout(tracks_dir).meta_paths() for line in lines_of(path)]
    return dict(sorted(((value["yid"], value["track_id"]), line) for line in lines for value in [json.loads(line)]))


def files_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """What is in a folder, and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


RANDOM = ("--criterion", "random", "--num_samples", "10")
COMMANDS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "random": (RANDOM, set()),
    "video_balanced": (
        ("--criterion", "video_balanced", "--num-samples-per-video", "3", "--num-samples", "50"),
        {"num_samples_per_video"},
    ),
    "class_balanced": (
        ("--criterion", "class_balanced", "--num-samples-per-class", "2", "--num-samples", "20"),
        {"num_samples_per_class", "temperature"},
    ),
    "min_redundancy, as documented": (
        (
            *("--criterion", "min_redundancy", "--num-samples", "30", "--n-workers", "2"),
            *("--batch-size", "20", "--num-samples-per-class", "4", "--max-swaps", "200"),
        ),
        {"num_samples_per_class", "max_swaps", "batch_size", "pool"},
    ),
}


@pytest.mark.parametrize(("argv", "own_arguments"), COMMANDS.values(), ids=COMMANDS)
def test_a_subset(tracks_dir: Path, tmp_path: Path, argv: tuple[str, ...], own_arguments: set[str]) -> None:
    subset = tmp_path / "new folder" / "subset.jsonl.gzip"
    first = curate_db(tracks_dir, subset, *argv)
    assert first.returncode == 0, first.stderr
    assert "1 subset done" in first.stderr

    everything, lines = source_lines(tracks_dir), lines_of(subset)
    chosen = [(value["yid"], value["track_id"]) for value in map(json.loads, lines)]
    assert chosen == sorted(set(chosen))
    assert lines == [everything[name] for name in chosen]  # byte for byte

    sidecar = json.loads((subset.parent / "subset.json").read_text())
    assert set(sidecar) == {
        *("version", "input", "criterion", "num_samples", "seed"),
        *own_arguments,
        *("num_tracks", "num_chosen", "classes", "unfilled", "relaxed", "pooled", "left_out"),
    }
    assert (sidecar["num_tracks"], sidecar["num_chosen"]) == (len(everything), len(lines))
    by_class = Counter(json.loads(line)["top10_desc"][0] for line in lines)
    told = {label: counts["chosen"] for label, counts in sidecar["classes"].items() if counts["chosen"]}
    assert told == by_class
    for counts in sidecar["classes"].values():
        assert counts["tracks"] == sum(number for name, number in counts.items() if name != "tracks")
    assert sidecar["left_out"] == {}

    before = files_of(tmp_path)
    second = curate_db(tracks_dir, subset, *argv)
    assert second.returncode == 0
    assert "1 already there: nothing to do" in second.stderr
    assert files_of(tmp_path) == before


def test_the_best_of_every_class_are_in_the_file(tracks_dir: Path, tmp_path: Path) -> None:
    subset = tmp_path / "best.jsonl.gzip"
    curate_db(tracks_dir, subset, "--criterion", "class_balanced", "--num_samples_per_class", "9")
    classes = defaultdict(list)
    for name, line in source_lines(tracks_dir).items():
        value = json.loads(line)
        classes[value["top10_desc"][0]].append((-value["top10_wcls"][0][0], name, line))
    best = [track for tracks in classes.values() for track in sorted(tracks)[:9]]
    assert lines_of(subset) == [line for _, name, line in sorted(best, key=lambda track: track[1])]
    unfilled = json.loads((tmp_path / "best.json").read_text())["unfilled"]
    assert unfilled == {label: [len(tracks), 9] for label, tracks in classes.items() if len(tracks) < 9}
    assert 0 < len(unfilled) < len(classes)


def test_two_workers_write_the_same_bytes_as_one(tracks_dir: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "a.jsonl.gzip", tmp_path / "2" / "a.jsonl.gzip"
    curate_db(tracks_dir, one, *RANDOM, "--seed", "4")
    curate_db(tracks_dir, two, *RANDOM, "--seed", "4", "--num_workers", "2")
    assert one.read_bytes() == two.read_bytes()
    assert (one.parent / "a.json").read_bytes() == (two.parent / "a.json").read_bytes()


def grow(tracks_dir: Path) -> None:
    TrackStore(TracksLayout(tracks_dir), SETTINGS).commit(clip("new", 0), [make_track(1)], VIDEO_HW, LABELS)


CHANGES: dict[str, tuple[Callable[[Path], None] | None, tuple[str, ...], str]] = {
    "another seed": (None, (*RANDOM, "--seed", "9"), "made with other seed:"),
    "another number": (None, ("--criterion", "random", "--num_samples", "11"), "made with other num_samples:"),
    "another criterion": (None, ("--criterion", "video_balanced"), "made with other criterion, num_samples"),
    "more tracks": (grow, RANDOM, "made with other input:"),
}


@pytest.mark.parametrize(("change", "argv", "said"), CHANGES.values(), ids=CHANGES)
def test_another_subset_is_not_replaced_unless_asked(
    tracks_dir: Path, tmp_path: Path, change: Callable[[Path], None] | None, argv: tuple[str, ...], said: str
) -> None:
    subset = tmp_path / "subsets" / "a.jsonl.gzip"
    curate_db(tracks_dir, subset, *RANDOM)
    if change:
        change(tracks_dir)
    before = files_of(subset.parent)
    refused = curate_db(tracks_dir, subset, *argv)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "--overwrite" in refused.stderr
    assert files_of(subset.parent) == before

    assert curate_db(tracks_dir, subset, *argv, "--overwrite").returncode == 0
    assert json.loads((subset.parent / "a.json").read_text()) != json.loads(before[subset.parent / "a.json"][0])


def test_a_sidecar_that_is_not_ours_protects_its_subset(tracks_dir: Path, tmp_path: Path) -> None:
    subset, sidecar = tmp_path / "a.jsonl.gzip", tmp_path / "a.json"
    subset.write_bytes(b"somebody's")
    for content in ("{", "[1, 2]", "5"):
        sidecar.write_text(content)
        ended = curate_db(tracks_dir, subset, *RANDOM)
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        assert subset.read_bytes() == b"somebody's"


KILLED_AFTER_THE_SUBSET = """
def replace(*paths, real=os.replace):
    real(*paths)
    die()

os.replace = replace
"""


def test_a_kill_between_subset_and_sidecar_is_made_good(tracks_dir: Path, tmp_path: Path) -> None:
    """A real kill -9 while a subset is replaced: the old sidecar must not speak for the new subset."""
    subset, sidecar = tmp_path / "a.jsonl.gzip", tmp_path / "a.json"
    curate_db(tracks_dir, subset, *RANDOM)
    before = subset.read_bytes(), sidecar.read_bytes()
    flags = ("--tracks_dir", tracks_dir, "--output_file", subset, *RANDOM, "--seed", "9", "--overwrite")
    run_killed(KILLED_AFTER_THE_SUBSET, "curate_db.py", *flags)
    assert subset.read_bytes() != before[0]

    assert curate_db(tracks_dir, subset, *RANDOM).returncode == 0
    assert (subset.read_bytes(), sidecar.read_bytes()) == before


def test_a_dry_run_counts_and_writes_nothing(tracks_dir: Path, tmp_path: Path) -> None:
    before = files_of(tmp_path)
    ended = curate_db(tracks_dir, tmp_path / "new" / "a.jsonl.gzip", *RANDOM, "--dry-run")
    assert ended.returncode == 0
    assert f"10 of {len(source_lines(tracks_dir))} tracks" in ended.stderr
    assert "1 subset to do" in ended.stderr
    assert files_of(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_classes_in_the_log_are_those_that_were_chosen(tracks_dir: Path, tmp_path: Path) -> None:
    ended = curate_db(tracks_dir, tmp_path / "a", "--criterion", "random", "--num_samples", "1", "--dry_run")
    labels = {json.loads(line)["top10_desc"][0] for line in source_lines(tracks_dir).values()}
    assert f"1 of {len(labels)} classes" in ended.stderr


@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_files_and_lines_that_cannot_be_used_are_counted_and_the_rest_is_used(
    tracks_dir: Path, tmp_path: Path, num_workers: str
) -> None:
    """A torn file, one of something else, one with a bad progress file, a link to nowhere, a line of something else."""
    torn, foreign, unknown, gone, odd, *_ = TracksLayout(tracks_dir).meta_paths()
    torn.write_bytes(torn.read_bytes()[:-30])
    foreign.write_text("<html>not found</html>\n" * 500)
    Path(str(unknown).replace("-meta.jsonl.gzip", "-progress.json")).write_text("{")
    gone.unlink()
    gone.symlink_to("nowhere")
    Path(str(odd).replace("-meta.jsonl.gzip", "-progress.json")).unlink()
    odd.write_bytes(odd.read_bytes() + jsonl.gzip_member(b'{"yid": "x"}'))

    subset, argv = tmp_path / "a.jsonl.gzip", ("--criterion", "video_balanced", "--num_samples_per_video", "99")
    ended = curate_db(tracks_dir, subset, *argv, "--num_workers", num_workers)
    assert ended.returncode == 1
    left_out = json.loads((tmp_path / "a.json").read_text())["left_out"]
    assert left_out["torn gzip"] == left_out["bad record"] == left_out["unreadable track file"] == 1
    for path in (torn, foreign, gone, odd):
        assert str(path) in ended.stderr
    assert f"{unknown.name.removesuffix('-meta.jsonl.gzip')}-progress.json" in ended.stderr

    used = {json.loads(line)["yid"] for line in lines_of(subset)}
    bad = {path.name.removesuffix("-meta.jsonl.gzip") for path in (foreign, unknown, gone)}
    assert used == set(label_ids_of_videos()) - bad


def test_an_embeddings_file_that_cannot_be_read_costs_its_own_video_only(tracks_dir: Path, tmp_path: Path) -> None:
    layout = TracksLayout(tracks_dir)
    video_id = next(iter(label_ids_of_videos()))
    layout.embeddings_path(video_id).write_bytes(b"not numpy")
    ended = curate_db(tracks_dir, tmp_path / "a.jsonl.gzip", "--criterion", "min_redundancy")
    assert ended.returncode == 1
    assert f"{video_id}-embeddings.npy: not an embeddings file" in ended.stderr
    chosen = {json.loads(line)["yid"] for line in lines_of(tmp_path / "a.jsonl.gzip")}
    assert chosen == set(label_ids_of_videos()) - {video_id}


def test_tracks_of_the_published_layouts_can_be_chosen_from(tracks_dir: Path, tmp_path: Path) -> None:
    """One of them has no class scores: by score nothing is chosen of it, at random it may be."""
    with_scores = {"tid": 0, "fn": "x.mp4", "track_ts": [0.0], "track_bbox": [[0, 0, 1, 1]], "top10_lbl": [0],
                   "top10_desc": ["class 0"], "top10_logit_mu": [1.0], "top10_logit_std": [0.0],
                   "top10_wlogit_mu": [0.99], "top10_wlogit_std": [0.0]}  # fmt: skip
    without = {"track_id": 0, "track_ts": [0, 1], "frame_ts": [0.0], "frame_bboxes": [[0, 0, 1, 1]], "yid": "pub-two",
               "track_mp4_filename": "y.mp4", "top10_label_ids": [0], "top10_label_names": ["class 0"]}  # fmt: skip
    published = {"pub-one": with_scores, "pub-two": without}
    for video_id, value in published.items():
        path = TracksLayout(tracks_dir).meta_path(video_id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(value).encode() + b"\n"))
        path.with_name(f"{video_id}-progress.json").write_text('{"segments_complete": [[0, 1]], "num_tracks": 1}')

    best, every = tmp_path / "best.jsonl.gzip", tmp_path / "all.jsonl.gzip"
    by_score = curate_db(tracks_dir, best, "--criterion", "class_balanced", "--num_samples_per_class", "999")
    at_random = curate_db(tracks_dir, every, "--criterion", "random", "--num_samples", "9999")
    assert (by_score.returncode, at_random.returncode) == (0, 0)
    lines = [json.dumps(value).encode() for value in published.values()]
    assert [line in lines_of(best) for line in lines] == [True, False]
    assert [line in lines_of(every) for line in lines] == [True, True]


def test_a_class_is_its_name_in_whatever_vocabulary(tmp_path: Path) -> None:
    """Videos that were parsed with other vocabularies: ids and names pair otherwise."""
    store = TrackStore(TracksLayout(tmp_path / "tracks"), SETTINGS)
    store.commit(clip("one", 0), [make_track(n, label_id=n % 2) for n in range(6)], VIDEO_HW, LABELS)
    others = ("a fox", "class 0", *LABELS[2:])
    TrackStore(TracksLayout(tmp_path / "tracks"), SETTINGS | {"vocab": "mine"}).commit(
        clip("two", 0), [make_track(9 + n, label_id=n % 2) for n in range(6)], VIDEO_HW, others
    )
    path = tmp_path / "a.jsonl.gzip"
    ended = curate_db(tmp_path / "tracks", path, "--criterion", "class_balanced", "--num_samples_per_class", "4")
    assert "fewer than asked for: a fox 3 of 4, class 1 3 of 4" in ended.stderr
    classes = json.loads((tmp_path / "a.json").read_text())["classes"]
    assert {label: (told["tracks"], told["chosen"]) for label, told in classes.items()} == {
        "class 0": (6, 4),
        "a fox": (3, 3),
        "class 1": (3, 3),
    }


def test_a_subset_of_a_subset(tracks_dir: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl.gzip", tmp_path / "second.jsonl.gzip"
    curate_db(tracks_dir, first, "--criterion", "random", "--num_samples", "40")
    argv = ("--criterion", "min_redundancy", "--num_samples_per_class", "2", "--from_subset", str(first))
    ended = curate_db(tracks_dir, second, *argv)
    assert ended.returncode == 0, ended.stderr
    assert set(lines_of(second)) < set(lines_of(first))
    sidecar = json.loads((tmp_path / "second.json").read_text())
    assert sidecar["from_subset"].startswith("40 tracks, sha256:")
    told = sum(counts.get("not in the given subset", 0) for counts in sidecar["classes"].values())
    assert told == len(source_lines(tracks_dir)) - 40
    curate_db(tracks_dir, first, *RANDOM, "--overwrite")
    assert "made with other from_subset" in curate_db(tracks_dir, second, *argv).stderr

    first.write_bytes(gzip.compress(b"{}"))
    assert curate_db(tracks_dir, tmp_path / "third", *argv).returncode == 2


def test_names_of_classes_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    """With commas, other letters, accents encoded either way; of one that is not there, those that are like it."""
    labels = ("dog, wet", "猫", "e\u0301clair", *LABELS[3:])
    store = TrackStore(TracksLayout(tmp_path / "tracks"), SETTINGS)
    store.commit(clip("one", 0), [make_track(n, label_id=n) for n in range(5)], VIDEO_HW, labels)
    argv = ("--criterion", "class_balanced", "--classes", "dog, wet", "猫")
    path = tmp_path / "a.jsonl.gzip"
    assert curate_db(tmp_path / "tracks", path, *argv, "\u00e9clair").returncode == 0
    assert {json.loads(line)["top10_desc"][0] for line in lines_of(path)} == set(labels[:3])
    assert "is it 'dog, wet'?" in curate_db(tmp_path / "tracks", tmp_path / "b", *argv, "dog wet").stderr


def test_without_excluded_videos_nothing_is_excluded(tracks_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("")
    one, two = tmp_path / "1.jsonl.gzip", tmp_path / "2.jsonl.gzip"
    curate_db(tracks_dir, one, *RANDOM)
    assert curate_db(tracks_dir, two, *RANDOM, "--exclude_videos", str(tmp_path / "none.txt")).returncode == 0
    assert one.read_bytes() == two.read_bytes()


def test_more_than_there_are(tracks_dir: Path, tmp_path: Path) -> None:
    ended = curate_db(tracks_dir, tmp_path / "a.jsonl.gzip", "--criterion", "random", "--num_samples", "100000")
    assert ended.returncode == 0
    number = len(source_lines(tracks_dir))
    assert f"fewer than asked for: all {number} of 100000" in ended.stderr
    assert json.loads((tmp_path / "a.json").read_text())["unfilled"] == {"all": [number, 100000]}


def test_a_subset_of_nothing_is_a_gzip_file_that_can_be_chosen_from(tracks_dir: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl.gzip"
    ended = curate_db(tracks_dir, empty, *RANDOM, "--min_length", "1e9")
    assert ended.returncode == 0 and "fewer than asked for: all 0 of 10" in ended.stderr
    assert subprocess.run(["gzip", "-dc"], input=empty.read_bytes(), capture_output=True, check=True).stdout == b""
    ended = curate_db(tracks_dir, tmp_path / "other.jsonl.gzip", *RANDOM, "--exclude_videos", str(empty))
    assert ended.returncode == 0 and "10 of" in ended.stderr


def test_a_folder_is_no_subset(tracks_dir: Path, tmp_path: Path) -> None:
    ended = curate_db(tracks_dir, tmp_path, *RANDOM)
    assert ended.returncode == 2 and ended.stderr.startswith(f"error: {tmp_path}: a folder; a subset is a file in it")


WRONG_USAGE = {
    "random without a number": (("--criterion", "random"), "--criterion random needs --num_samples N"),
    "no such criterion": (("--criterion", "best"), "invalid choice: 'best'"),
    "none at all": (("--criterion", "random", "--num_samples", "0"), "'0' is not a whole number from 1 on"),
    "a seed below 0": ((*RANDOM, "--seed", "-4"), "'-4' is not a whole number from 0 on"),
}


@pytest.mark.parametrize(("argv", "said"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage(tracks_dir: Path, tmp_path: Path, argv: tuple[str, ...], said: str) -> None:
    ended = curate_db(tracks_dir, tmp_path / "a.jsonl.gzip", *argv)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert not (tmp_path / "a.jsonl.gzip").exists()
