"""Choosing subsets: our way against the published one, in one run, on one generated store.

    python benchmarks/curate.py --num_tracks 20000
    python benchmarks/curate.py --num_tracks 20000 --rows 4100000

The store has long-tailed classes (Zipf), 500 tracks a video, about 12 kB of JSON and 4 kB of gzip a track, packed as
parse_tracks.py does; then once more without the heads of its gzip members, as other tracks are.

published   every line through `gzip` and `json.loads` into lists of records in memory; classes sorted by mean class
            score × objectness; the chosen records dumped and written to a gzip file at level 9; minimum redundancy by
            swaps: a random choice, then the others one by one, in random order: one that is farther from all chosen
            ones than the closest two of these are from each other takes the place of either. Until a pass through
            the others swaps nothing, five passes at most. Each distance is computed from the embeddings, for half of
            what `torch.cdist` costs that the published code calls. "at its best": with lengths computed once.
ours        `curate_db.py`'s own functions. "again": with the index there.

Each part runs in a process of its own: CPU seconds of that process, its peak memory. `--rows`: selection from a
generated index of so many rows; the published way is extrapolated from its cost a track in the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from made_store import DIM, TRACKS_A_VIDEO, take_off_heads, write_index, write_points, write_store

PER_CLASS = 50


def published_select(folder: Path) -> int:
    """Load, then the best of every class. A part of each record is kept, as all of 200 k would not fit."""
    by_class = defaultdict(list)
    for path in sorted(folder.glob("*/*-meta.jsonl.gzip")):
        with gzip.open(path, "rt") as file:
            for line in file:
                record = json.loads(line)
                kept = {
                    name: record[name]
                    for name in ("yid", "track_id", "track_ts", "frame_ts", "top10_wcls", "top10_lbl")
                }
                by_class[record["top10_lbl"][0]].append((-record["top10_wcls"][0][0], len(by_class), kept))
    return sum(len(sorted(tracks, key=lambda track: track[0])[:PER_CLASS]) for tracks in by_class.values())


def published_write(folder: Path, output: Path) -> Callable[[], None]:
    names = (
        (path.name.partition("-meta")[0], n)
        for path in sorted(folder.glob("*/*-meta.jsonl.gzip"))
        for n in range(TRACKS_A_VIDEO)
    )
    chosen = set(islice(names, 0, None, 10))

    def write() -> None:
        with gzip.open(output, "wt") as file:
            for path in sorted(folder.glob("*/*-meta.jsonl.gzip")):
                with gzip.open(path, "rt") as source:
                    for line in source:
                        record = json.loads(line)
                        if (record["yid"], record["track_id"]) in chosen:
                            file.write(json.dumps(record) + "\n")

    return write


def ours_select(folder: Path, name: str = "class_balanced") -> int:
    from trackverse import selection, track_table
    from trackverse.embeddings import StoredEmbeddings
    from trackverse.index_refresh import ready_index
    from trackverse.layout import TracksLayout

    layout = TracksLayout(folder)
    meta_paths = layout.meta_paths()
    with ready_index(
        layout.index_path, meta_paths, num_workers=1, keep=True, rebuild=False, watch=lambda items, _: iter(items)
    ) as index:
        table = track_table.make_table(index, dropped=Counter())
        choice = selection.choose(
            table,
            plan_of(name),
            np.random.default_rng(0),
            lambda: StoredEmbeddings(index, meta_paths, table, failed=Counter()),
        )
        selection.by_class_and_reason(table, choice)
        index.fingerprint()
        return len(choice.rows)


PLANS = {
    "random": ("random", 50_000, {}, {}),
    "video_balanced": ("video_balanced", 3, {}, {}),
    "class_balanced": ("class_balanced", PER_CLASS, {}, {}),
    "class_balanced, drawn": ("class_balanced", PER_CLASS, {}, {"temperature": 0.1}),
    "max_motion": ("max_motion", 50_000, {}, {}),
    "class_balanced, four limits": (
        "class_balanced", PER_CLASS, {"min_length": 5.0, "min_area": 0.05, "min_motion": 0.1}, {}),
    "class_balanced, --max_overlap": ("class_balanced", PER_CLASS, {"max_overlap": 0.5}, {}),
    "class_balanced, --min_distance": ("class_balanced", PER_CLASS, {"min_distance": 0.3}, {}),
    "min_redundancy": ("min_redundancy", PER_CLASS, {}, {}),
    "diverse": ("diverse", 1000, {}, {}),
}  # fmt: skip
LOOKING = ("class_balanced, --min_distance", "min_redundancy", "diverse")  # what needs embeddings


def plan_of(name: str) -> Any:
    from trackverse.constraints import Limits
    from trackverse.selection import Plan

    criterion, number, limits, more = PLANS[name]
    return Plan(criterion, number, number if criterion in ("random", "max_motion", "diverse") else None,
                Limits(**limits), **more)  # fmt: skip


def ours_write(folder: Path, output: Path) -> Callable[[], None]:
    from trackverse import subset
    from trackverse.index import Index
    from trackverse.layout import TracksLayout

    layout = TracksLayout(folder)
    index, meta_paths = Index(layout.index_path), layout.meta_paths()
    return lambda: subset.write(output, {}, index, meta_paths, np.arange(0, len(index), 10))


def is_identical(folder: Path, subset: Path) -> bool:
    """Whether a subset's lines are every tenth of the store's."""

    def lines(paths: Iterable[Path]) -> Iterator[bytes]:
        for path in paths:
            with gzip.open(path) as file:
                yield from file

    source = islice(lines(sorted(folder.glob("*/*-meta.jsonl.gzip"))), 0, None, 10)
    return all(one == other for one, other in zip_longest(source, lines([subset])))


def distances(points: np.ndarray) -> tuple[float, float]:
    """The smallest and the mean distance of the points to their nearest neighbours."""
    squares = (points.astype(np.float64) ** 2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * (points.astype(np.float64) @ points.astype(np.float64).T)
    np.fill_diagonal(apart, np.inf)
    nearest = np.sqrt(np.maximum(apart.min(axis=1), 0))
    return float(nearest.min()), float(nearest.mean())


def published_swaps(points: np.ndarray, number: int, at_its_best: bool) -> np.ndarray:
    """Swaps from a random choice, as described above."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(points))
    chosen, rest = order[:number].copy(), order[number:].copy()
    squares = (points**2).sum(axis=1)
    centres = points[chosen]

    def to_chosen(row: int) -> np.ndarray:
        lengths = squares[chosen] if at_its_best else np.einsum("nd,nd->n", centres, centres)
        return lengths + squares[row] - 2 * (centres @ points[row])

    apart = np.stack([to_chosen(row) for row in chosen])
    np.fill_diagonal(apart, np.inf)
    closest = apart.min(axis=1)
    for _ in range(5):
        has_swapped = False
        for place in rng.permutation(len(rest)):
            distance = to_chosen(rest[place])
            if distance.min() > closest.min():
                one = int(closest.argmin())
                leaving = (one, int(apart[one].argmin()))[rng.integers(2)]
                chosen[leaving], rest[place] = rest[place], chosen[leaving]
                centres[leaving] = points[chosen[leaving]]
                distance[leaving] = np.inf
                apart[leaving] = apart[:, leaving] = distance
                closest = apart.min(axis=1)
                has_swapped = True
        if not has_swapped:
            break
    return chosen


class Filed:
    """Embeddings in a file, which are read when they are asked for, as `StoredEmbeddings` does."""

    def __init__(self, path: Path, dim: int) -> None:
        self.dim, self._path = dim, path

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.dim), np.float16)
        with open(self._path, "rb") as file:
            for start in range(0, len(rows), 512):
                some = rows[start : start + 512]
                if len(some):
                    file.seek(int(some[0]) * 2 * self.dim)
                    found[start : start + 512] = np.fromfile(file, np.float16, len(some) * self.dim).reshape(
                        -1, self.dim
                    )
        return found


def ours_spread(path: Path, num_points: int, number: int, max_swaps: int = 2000) -> np.ndarray:
    from trackverse.curate import Quota, SpreadConfig, pick_spread

    return pick_spread(
        np.arange(num_points),
        np.zeros(num_points, np.int64),
        Quota(number, None),
        SpreadConfig(max_swaps=max_swaps),
        Filed(path, DIM),
        np.random.default_rng(0),
        given={},
    )[0]


def products(path: Path, num_points: int, number: int) -> float:
    """The distance products alone."""
    points = np.fromfile(path, np.float16).reshape(num_points, DIM).astype(np.float32)
    start = time.process_time()
    for row in range(0, num_points, 4096):
        points[row : row + 4096] @ points[:number].T
    return time.process_time() - start


def swaps(path: Path, num_points: int, number: int, at_its_best: bool) -> np.ndarray:
    points = np.fromfile(path, np.float16).reshape(num_points, DIM).astype(np.float32)
    return published_swaps(points, number, at_its_best)


def spread_of(path: Path, num_points: int, rows: np.ndarray) -> tuple[float, float]:
    return distances(np.memmap(path, np.float16, "r", shape=(num_points, DIM))[np.sort(rows)].astype(np.float32))


def measured(function: Callable[..., Any], *args: Any, prepare: bool = False) -> tuple[float, float, Any]:
    """CPU seconds and peak MB of a call in a process of its own, and what it gave. `prepare`: of what it returns."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, function, args, prepare))
    process.start()
    sender.close()  # so that the process's is the only one, and its death ends what can be received
    try:
        result: tuple[float, float, Any] = receiver.recv()
    except EOFError:
        process.join()
        sys.exit(f"{function.__name__}: its process ended with status {process.exitcode}")
    process.join()
    return result


def _measure(sender: Connection, function: Callable[..., Any], args: tuple[Any, ...], prepare: bool) -> None:
    import trackverse.selection  # noqa: F401  what is loaded once is not what is measured

    if prepare:
        function, args = function(*args), ()
    start = time.process_time()
    found = function(*args)
    seconds = time.process_time() - start
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not children.ru_utime, "all is done in this process"
    # ru_maxrss would count what the process was before it became this program.
    peak = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    sender.send((seconds, int(peak.split()[1]) * 1024 / 1e6, found))


def line(what: str, found: tuple[float, float, Any], base: float | None = None) -> None:
    ratio = "" if base is None else f"{base / found[0]:>9.1f}x"
    print(
        f"{what:<46}{found[0]:>10.2f}{found[1]:>10.0f}{ratio:>10}  {found[2] if found[2] is not None else ''}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_tracks", type=int, default=20_000, help="of the store")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="of generated indexes")
    parser.add_argument("--criteria", nargs="*", default=list(PLANS), choices=list(PLANS), help="for --rows")
    parser.add_argument("--dim", type=int, default=0, help="of embeddings beside generated indexes; 0: none")
    parser.add_argument(
        "--points", type=int, nargs="*", default=[5000, 500], help="points and how many to keep, in pairs"
    )
    parser.add_argument("--no_swaps", action="store_true", help="without the published swaps")
    args = parser.parse_args()
    print(f"{'':<46}{'CPU s':>10}{'MB':>10}{'ratio':>10}  chosen, or min and mean distance", flush=True)
    folder = Path(tempfile.mkdtemp())
    try:
        per_track = 0.0
        if args.num_tracks:
            write_store(folder, args.num_tracks)
            published = measured(published_select, folder)
            per_track = published[0] / args.num_tracks
            line(f"published: select, {args.num_tracks:,} tracks", published)
            line("ours: index and select", measured(ours_select, folder), published[0])
            line("ours: select again", measured(ours_select, folder), published[0])
            output = folder / "subset.jsonl.gzip"
            writing = measured(published_write, folder, output, prepare=True)
            line("published: write a tenth", writing)
            line("ours: write a tenth", measured(ours_write, folder, output, prepare=True), writing[0])
            print(f"identical bytes: {measured(is_identical, folder, output)[2]}")
            take_off_heads(folder)
            line("ours: index and select, tracks without heads", measured(ours_select, folder), published[0])
        for num_rows in args.rows:
            rows_dir = folder / f"rows{num_rows}"
            rows_dir.mkdir()
            measured(write_index, rows_dir, num_rows, args.dim)
            names = [name for name in args.criteria if args.dim or name not in LOOKING]
            for name in names:
                found = measured(ours_select, rows_dir, name)
                line(f"  {name}, {num_rows:,} rows", found, per_track * num_rows or None)
            print(f"  index {(rows_dir / 'index.parquet').stat().st_size / 1e6:.0f} MB; published, extrapolated: "
                  f"{per_track * num_rows:.0f} CPU s", flush=True)  # fmt: skip
            shutil.rmtree(rows_dir)
        for num_points, number in zip(args.points[::2], args.points[1::2], strict=True):
            path = folder / "points"
            measured(write_points, path, num_points)
            base = None
            for what in () if args.no_swaps else ("swaps", "swaps at its best"):
                seconds, peak, rows = measured(swaps, path, num_points, number, what != "swaps")
                found = seconds, peak, spread_of(path, num_points, rows)
                base = base or seconds
                line(f"published: {what}, {num_points:,} to {number:,}", found, base)
            _, peak, alone = measured(products, path, num_points, number)
            line(f"distance products alone, {num_points:,} x {number:,}", (alone, peak, None))
            for what, max_swaps in (("k-centre alone", 0), ("k-centre and swaps", 2000)):
                seconds, peak, rows = measured(ours_spread, path, num_points, number, max_swaps)
                found = seconds, peak, spread_of(path, num_points, rows)
                line(f"ours: {what}, {num_points:,} to {number:,}", found, base or alone)
            by_chance = np.random.default_rng(1).permutation(num_points)[:number]
            print(f"  by chance: {spread_of(path, num_points, by_chance)}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
