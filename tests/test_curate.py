"""Choosing subsets: each criterion against a slow, plain oracle, and curate_db.py as users run it."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, fill_store, make_track

from trackverse import curate, jsonl
from trackverse.curate import TrackTable
from trackverse.errors import RecordError
from trackverse.layout import TracksLayout
from trackverse.records import TrackSummary
from trackverse.store import TrackStore
from trackverse.vectors import unit

REPO_DIR = Path(__file__).resolve().parent.parent

# ---- tables

Tracks = list[TrackSummary]


@st.composite
def track_lists(draw: st.DrawFn, min_size: int = 0) -> Tracks:
    """Tracks of a few videos and classes, with scores that are often equal and sometimes not there."""
    names = draw(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), unique=True, min_size=min_size, max_size=25)
    )
    scores = st.none() | st.sampled_from([0.1, 0.5, 0.9])
    return [
        TrackSummary(video_id, track_id, label_id, f"class {label_id}", draw(scores))
        for video_id, track_id in names
        for label_id in [draw(st.integers(0, 3))]
    ]


def table_of(tracks: Sequence[TrackSummary], num_files: int = 1) -> TrackTable:
    """The table of tracks that are dealt out to files one by one."""
    files = [([(track, line) for line, track in enumerate(tracks[n::num_files], 1)], []) for n in range(num_files)]
    failed, dropped = Counter[str](), Counter[str]()
    table = curate.make_table(files, failed=failed, dropped=dropped)
    assert not failed
    return table


Name = tuple[str, int]


def names(table: TrackTable, rows: np.ndarray) -> list[Name]:
    return [(table.video_ids[table.videos[row]], int(table.track_ids[row])) for row in rows]


def by(tracks: Tracks, chosen: Sequence[Name], key: Callable[[TrackSummary], Any]) -> tuple[Counter[Any], Counter[Any]]:
    """How many tracks each group has, and how many of them are chosen."""
    return Counter(map(key, tracks)), Counter(key(track) for track in tracks if name_of(track) in chosen)


def name_of(track: TrackSummary) -> Name:
    return track.video_id, track.track_id


CAPS = st.none() | st.integers(0, 30)


def test_a_table_is_sorted_and_says_where_each_record_is() -> None:
    first = [TrackSummary("b", 10, 5, "dog", 0.5), TrackSummary("b", 9, 2, "cat", None)]
    second = [TrackSummary("a", 0, 5, "dog", 0.25)]
    files = [([(first[0], 1), (first[1], 4)], []), ([(second[0], 2)], [])]
    table = curate.make_table(files, failed=Counter(), dropped=Counter())
    assert names(table, np.arange(3)) == [("a", 0), ("b", 9), ("b", 10)]
    assert list(zip(table.files.tolist(), table.lines.tolist(), strict=True)) == [(1, 2), (0, 4), (0, 1)]
    assert table.label_ids.tolist() == [5, 2, 5]
    assert np.array_equal(table.scores, [0.25, np.nan, 0.5], equal_nan=True)
    assert table.labels == {5: "dog", 2: "cat"}


def test_a_track_that_is_listed_twice_counts_once_and_is_told() -> None:
    track = TrackSummary("a", 0, 1, "cat", 0.5)
    dropped = Counter[str]()
    table = curate.make_table([([(track, 1), (track, 3)], []), ([(track, 1)], [])], failed=Counter(), dropped=dropped)
    assert (len(table), table.files.tolist(), table.lines.tolist()) == (1, [0], [1])
    assert dropped == Counter({"track listed twice": 2})


def test_lines_that_cannot_be_used_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    errors = [RecordError("a.gzip:7: no good", reason="bad record"), RecordError("a.gzip: torn", reason="torn gzip")]
    failed = Counter[str]()
    with caplog.at_level(logging.WARNING):
        table = curate.make_table([([], errors)], failed=failed, dropped=Counter())
    assert len(table) == 0
    assert failed == Counter({"bad record": 1, "torn gzip": 1})
    assert caplog.messages == ["a.gzip:7: no good", "a.gzip: torn"]


# ---- what holds for every criterion

Chooser = Callable[[TrackTable, int, int | None, int], np.ndarray]


def embeddings_for(table: TrackTable) -> np.ndarray:
    """An embedding for each track that depends on its name alone; the fifth ids have none."""
    seeds = [[*video_id.encode(), track_id] for video_id, track_id in names(table, np.arange(len(table)))]
    rows = [np.random.default_rng(seed).normal(size=4) for seed in seeds]
    embeddings = unit(np.array(rows, np.float32).reshape(-1, 4))
    embeddings[table.track_ids == 5] = np.nan
    return embeddings


def min_redundancy(table: TrackTable, per_group: int, cap: int | None, seed: int) -> np.ndarray:
    return curate.choose_min_redundancy(
        table, embeddings_for(table), per_group, cap, max_swaps=10, batch_size=3, rng=np.random.default_rng(seed)
    )


CRITERIA: dict[str, Chooser] = {
    "random": lambda table, _, cap, seed: curate.choose_random(
        table, len(table) if cap is None else cap, np.random.default_rng(seed)
    ),
    "video_balanced": lambda table, per_group, cap, seed: curate.choose_video_balanced(
        table, per_group, cap, np.random.default_rng(seed)
    ),
    "class_balanced": lambda table, per_group, cap, _: curate.choose_class_balanced(table, per_group, cap),
    "min_redundancy": min_redundancy,
}
GROUPS: dict[str, Callable[[TrackSummary], Any]] = {
    "random": lambda track: "all",
    "video_balanced": lambda track: track.video_id,
    "class_balanced": lambda track: track.label_id,
    "min_redundancy": lambda track: track.label_id,
}
CAN_BE_CHOSEN: dict[str, Callable[[TrackSummary], bool]] = {
    "random": lambda track: True,
    "video_balanced": lambda track: True,
    "class_balanced": lambda track: track.score is not None,
    "min_redundancy": lambda track: track.track_id != 5,
}
each_criterion = pytest.mark.parametrize("criterion", CRITERIA)


@each_criterion
@given(tracks=track_lists(), per_group=st.integers(1, 8), cap=CAPS, seed=st.integers(0, 5))
def test_numbers(criterion: str, tracks: Tracks, per_group: int, cap: int | None, seed: int) -> None:
    """Nothing twice, no more than asked for of a group and in all, as many as there are, and in turns under a cap."""
    table = table_of(tracks)
    rows = CRITERIA[criterion](table, per_group, cap, seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    chosen = names(table, rows)

    usable = [track for track in tracks if CAN_BE_CHOSEN[criterion](track)]
    assert set(chosen) <= set(map(name_of, usable))
    there, taken = by(usable, chosen, GROUPS[criterion])
    if criterion == "random":
        per_group = len(tracks)
    could_give = {group: min(number, per_group) for group, number in there.items()}
    assert len(chosen) == min(sum(could_give.values()), len(tracks) if cap is None else cap)
    for group, other in itertools.permutations(there, 2):
        assert taken[group] <= could_give[group]
        if taken[group] > taken[other] + 1:
            assert taken[other] == could_give[other], "one gave its second before another gave its first"


@each_criterion
@given(tracks=track_lists(min_size=1), per_group=st.integers(1, 4), cap=CAPS, data=st.data())
def test_the_order_of_files_and_lines_changes_nothing(
    criterion: str, tracks: Tracks, per_group: int, cap: int | None, data: st.DataObject
) -> None:
    shuffled, num_files = data.draw(st.permutations(tracks)), data.draw(st.integers(1, 5))
    table, other = table_of(tracks), table_of(shuffled, num_files)
    choose = CRITERIA[criterion]
    assert names(table, choose(table, per_group, cap, 1)) == names(other, choose(other, per_group, cap, 1))


@each_criterion
def test_nothing_to_choose_from(criterion: str) -> None:
    assert CRITERIA[criterion](table_of([]), 3, 10, 0).shape == (0,)
    assert CRITERIA[criterion](table_of([]), 3, None, 0).shape == (0,)


@pytest.mark.parametrize("criterion", ["random", "video_balanced", "min_redundancy"])
def test_another_seed_is_another_choice(criterion: str) -> None:
    table = table_of([TrackSummary(f"v{n % 3}", n + 6, n % 2, f"class {n % 2}", 0.5) for n in range(60)])
    choose = CRITERIA[criterion]
    choices = {tuple(choose(table, 4, 8, seed).tolist()) for seed in range(6)}
    assert len(choices) > 3
    assert choose(table, 4, 8, 3).tolist() == choose(table, 4, 8, 3).tolist()


# ---- criterion by criterion


def test_random_takes_every_set_equally_often() -> None:
    table = table_of([TrackSummary("a", n, 0, "class 0", None) for n in range(5)])
    rng = np.random.default_rng(0)
    counts = Counter(tuple(curate.choose_random(table, 2, rng).tolist()) for _ in range(5000))
    assert set(counts) == set(itertools.combinations(range(5), 2))
    assert all(abs(count - 500) < 5 * np.sqrt(500 * 0.9) for count in counts.values())


def test_video_balanced_takes_every_track_of_a_video_equally_often() -> None:
    """Under a cap as well: neither early videos nor early tracks are favoured."""
    table = table_of([TrackSummary(video_id, n, 0, "class 0", None) for video_id in "abc" for n in range(4)])
    rng = np.random.default_rng(0)
    counts = Counter(row for _ in range(4000) for row in curate.choose_video_balanced(table, 2, 5, rng).tolist())
    expected = 4000 * 5 / 12
    assert all(abs(counts[row] - expected) < 5 * np.sqrt(expected) for row in range(12))


@given(track_lists(), st.integers(1, 6), CAPS)
def test_class_balanced_takes_exactly_the_best(tracks: Tracks, per_class: int, cap: int | None) -> None:
    scored = [track for track in tracks if track.score is not None]
    best_first = sorted(scored, key=lambda track: (-track.score, name_of(track)))
    classes = defaultdict(list)
    for track in best_first:
        classes[track.label_id].append(track)
    expected = []
    for turn in range(per_class):
        expected += [track for track in best_first if classes[track.label_id][turn : turn + 1] == [track]]
    table = table_of(tracks)
    chosen = names(table, curate.choose_class_balanced(table, per_class, cap))
    assert chosen == sorted(map(name_of, expected[:cap]))


BEST = {
    "the better scores": ([("a", 0, 0.2), ("a", 1, 0.9), ("b", 0, 0.5)], 2, [("a", 1), ("b", 0)]),
    "ties by video, then by track": ([("b", 0, 0.5), ("a", 10, 0.5), ("a", 9, 0.5)], 2, [("a", 9), ("a", 10)]),
    "never one without a score": ([("a", 0, None), ("a", 1, 0.0)], 2, [("a", 1)]),
}


@pytest.mark.parametrize(("tracks", "per_class", "chosen"), BEST.values(), ids=BEST)
def test_class_balanced_by_hand(tracks: list[Any], per_class: int, chosen: list[Name]) -> None:
    table = table_of([TrackSummary(video_id, n, 0, "class 0", score) for video_id, n, score in tracks])
    assert names(table, curate.choose_class_balanced(table, per_class, None)) == chosen


# ---- far apart

ANGLES = st.lists(st.integers(0, 359), min_size=2, max_size=9)


def on_circle(degrees: Sequence[float]) -> np.ndarray:
    """(N, 2) points of length 1."""
    radians = np.deg2rad(np.array(degrees, float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def closest(points: np.ndarray) -> float:
    """The smallest distance between two of the points."""
    return min(float(np.linalg.norm(a.astype(float) - b)) for a, b in itertools.combinations(points, 2))


def spread(points: np.ndarray, num_samples: int, max_swaps: int, seed: int, batch_size: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return curate.least_redundant(points, num_samples, max_swaps=max_swaps, batch_size=batch_size, rng=rng)


@given(ANGLES, st.integers(2, 9), st.integers(0, 40), st.integers(0, 3))
def test_swaps_never_bring_points_closer(degrees: list[int], num_samples: int, max_swaps: int, seed: int) -> None:
    """And the greedy choice that they begin with is at least half as good as the best of all choices, as proven."""
    points = on_circle(degrees)
    greedy, swapped = spread(points, num_samples, 0, seed), spread(points, num_samples, max_swaps, seed)
    for rows in (greedy, swapped):
        assert len(set(rows.tolist())) == min(num_samples, len(points))
    best = max(closest(points[list(rows)]) for rows in itertools.combinations(range(len(points)), len(greedy)))
    rounding = 2e-3  # of the root of a difference of single-precision numbers
    assert closest(points[greedy]) >= best / 2 - rounding
    assert closest(points[swapped]) >= closest(points[greedy]) - rounding


def test_swaps_better_the_greedy_choice() -> None:
    points = unit(np.random.default_rng(3).normal(size=(300, 8)).astype(np.float32))
    for seed in range(4):
        greedy, swapped = (closest(points[spread(points, 7, max_swaps, seed, 20)]) for max_swaps in (0, 2000))
        assert swapped > greedy + 0.01


def test_far_apart_is_better_than_at_random() -> None:
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(20, 8)).astype(np.float32))
    points = unit(np.repeat(centres, 30, axis=0) + rng.normal(scale=0.02, size=(600, 8)).astype(np.float32))
    chosen = spread(points, 20, 0, 0)
    assert sorted((chosen // 30).tolist()) == list(range(20))  # one of every bunch of lookalikes
    at_random = [closest(points[rng.permutation(600)[:20]]) for _ in range(20)]
    assert closest(points[chosen]) > max(at_random)


def test_points_that_are_all_the_same() -> None:
    points = on_circle([30] * 6)
    assert len(set(spread(points, 4, 50, 0).tolist())) == 4


@pytest.mark.parametrize("num_points", [0, 1, 3])
def test_fewer_points_than_asked_for(num_points: int) -> None:
    assert sorted(spread(on_circle(range(num_points)), 5, 10, 0).tolist()) == list(range(num_points))


@pytest.mark.parametrize("per_class", [2, 3, 500])
def test_under_a_cap_a_class_gives_its_most_spread_out_tracks(per_class: int) -> None:
    """Also when it has no more tracks than asked for: of two lookalikes and a stranger, the stranger comes along."""
    table = table_of([TrackSummary("a", n, 0, "class 0", None) for n in range(3)])
    for seed in range(10):
        rows = curate.choose_min_redundancy(
            table, on_circle([0, 1, 180]), per_class, 2, max_swaps=0, batch_size=1, rng=np.random.default_rng(seed)
        )
        assert 2 in rows.tolist()


# ---- counts


def test_counts_name_everything_also_what_was_not_chosen() -> None:
    tracks = [TrackSummary("a", n, label_id, f"class {label_id}", None) for n, label_id in enumerate([7, 2, 2, 5])]
    table = table_of([*tracks, TrackSummary("b", 0, 2, "class 2", None)])
    by_class = curate.count_by_class(table, np.array([1, 2, 3]))
    assert list(by_class.items()) == [("class 2", 2), ("class 5", 1), ("class 7", 0)]
    assert curate.count_by_video(table, np.array([0, 3])) == {"a": 2, "b": 0}
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
    ended = subprocess.run([*command, *argv], capture_output=True, text=True, timeout=60)
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
        {"num_samples_per_class"},
    ),
    "min_redundancy, as documented": (
        (
            *("--criterion", "min_redundancy", "--num-samples", "30", "--n-workers", "2"),
            *("--batch-size", "20", "--num-samples-per-class", "4", "--max-swaps", "200"),
        ),
        {"num_samples_per_class", "max_swaps", "batch_size"},
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
        *("num_tracks", "num_chosen", "num_by_class", "unfilled", "left_out"),
    }
    assert (sidecar["num_tracks"], sidecar["num_chosen"]) == (len(everything), len(lines))
    by_class = Counter(json.loads(line)["top10_desc"][0] for line in lines)
    assert {label: number for label, number in sidecar["num_by_class"].items() if number} == by_class
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
    before = files_of(tmp_path)
    refused = curate_db(tracks_dir, subset, *argv)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "--overwrite" in refused.stderr
    assert files_of(tmp_path) == before

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
import os, runpy, signal, sys

def replace(*paths, real=os.replace):
    real(*paths)
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_kill_between_subset_and_sidecar_is_made_good(tracks_dir: Path, tmp_path: Path) -> None:
    """A real kill -9 while a subset is replaced: the old sidecar must not speak for the new subset."""
    subset, sidecar = tmp_path / "a.jsonl.gzip", tmp_path / "a.json"
    curate_db(tracks_dir, subset, *RANDOM)
    before = subset.read_bytes(), sidecar.read_bytes()
    command = [REPO_DIR / "curate_db.py", "--tracks_dir", tracks_dir, "--output_file", subset, *RANDOM, "--seed", "9"]
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_THE_SUBSET, *command, "--overwrite"], cwd=REPO_DIR)
    assert killed.returncode == -signal.SIGKILL
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
    odd.write_bytes(odd.read_bytes() + jsonl.gzip_member('{"yid": "x"}'))

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


WRONG_USAGE = {
    "random without a number": (("--criterion", "random"), "--criterion random needs --num_samples N"),
    "no such criterion": (("--criterion", "best"), "invalid choice: 'best'"),
    "none at all": (("--criterion", "random", "--num_samples", "0"), "0 is not 1 or more"),
}


@pytest.mark.parametrize(("argv", "said"), WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage(tracks_dir: Path, tmp_path: Path, argv: tuple[str, ...], said: str) -> None:
    ended = curate_db(tracks_dir, tmp_path / "a.jsonl.gzip", *argv)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert not (tmp_path / "a.jsonl.gzip").exists()
