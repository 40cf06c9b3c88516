"""Choosing subsets: our way against the published one, in one run, on one generated store.

    python benchmarks/curate.py --num_tracks 20000
    python benchmarks/curate.py --num_tracks 20000 --rows 4100000

The store has long-tailed classes (Zipf), 500 tracks a video, about 12 kB of JSON and 4 kB of gzip a track.

published   every line through `gzip` and `json.loads` into lists of records in memory; classes sorted by mean class
            score × objectness; the chosen records dumped and written to a gzip file at level 9; minimum redundancy by
            swaps: a random choice, then 2000 times, of the closest pair, one is replaced by the best of 20 random
            candidates, if that is farther from its nearest neighbour.
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
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

TRACKS_A_VIDEO = 500
NUM_CLASSES = 1000
NUM_FRAMES = 170
PER_CLASS = 50
DIM = 2048


def write_store(folder: Path, num_tracks: int) -> None:
    """Track files of the project's layout, each record a gzip member; the frames repeat from video to video."""
    rng = np.random.default_rng(0)
    times = np.round(np.arange(NUM_FRAMES) / 16, 4).tolist()
    bodies = []
    for _ in range(TRACKS_A_VIDEO):
        boxes = np.cumsum(rng.normal(size=(NUM_FRAMES, 4)), axis=0) + np.array([300, 200, 200, 250])
        scores, classes = rng.uniform(0.3, 1, (2, NUM_FRAMES))
        bodies.append(
            {
                "track_ts": [times[0], times[-1]],
                "frame_ts": times,
                "frame_bboxes": np.round(np.maximum(boxes, 1), 2).tolist(),
                "frame_obj": np.round(scores, 4).tolist(),
                "frame_lbl": rng.integers(0, 3, NUM_FRAMES).tolist(),
                "frame_desc": [("person", "dog", "car")[n] for n in rng.integers(0, 3, NUM_FRAMES)],
                "frame_cls": np.round(classes, 4).tolist(),
                "frame_wcls": np.round(scores * classes, 4).tolist(),
            }
        )
    labels = np.minimum(rng.zipf(1.3, num_tracks) - 1, NUM_CLASSES - 1)
    for first in range(0, num_tracks, TRACKS_A_VIDEO):
        video_id = f"{first // TRACKS_A_VIDEO:04x}video"
        path = folder / video_id[:2] / f"{video_id}-meta.jsonl.gzip"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for number, body in enumerate(bodies[: num_tracks - first]):
                label = int(labels[first + number])
                means = np.sort(rng.uniform(size=10))[::-1].round(4).tolist()
                record = {
                    "yid": video_id,
                    "track_id": number,
                    "clip_id": f"{video_id}.0.mp4",
                    "video_size": [720, 1280],
                }
                record |= body | {
                    "top10_lbl": [label, *range(9)],
                    "top10_desc": [f"class {label}"] * 10,
                    "top10_cls": [means, [0.1] * 10],
                    "top10_wcls": [means, [0.1] * 10],
                    "mp4_filename": f"{video_id[:2]}/{video_id}-{number}.mp4",
                    "schema": "trackverse/1",
                }
                file.write(gzip.compress(json.dumps(record, separators=(",", ":")).encode() + b"\n", 6))


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
        (path.name.partition("-meta")[0], n) for path in sorted(folder.glob("*/*-meta.jsonl.gzip")) for n in range(500)
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


def ours_select(folder: Path) -> int:
    from trackverse import curate, selection
    from trackverse.constraints import Limits
    from trackverse.index import ready_index
    from trackverse.layout import TracksLayout

    layout = TracksLayout(folder)
    with ready_index(
        layout.index_path,
        layout.meta_paths(),
        num_workers=1,
        keep=True,
        rebuild=False,
        watch=lambda items, _: iter(items),
    ) as index:
        table = curate.make_table(index, dropped=Counter())
        plan = selection.Plan("class_balanced", PER_CLASS, None, Limits())
        choice = selection.choose(table, plan, np.random.default_rng(0))
        selection.by_class_and_reason(table, choice)
        index.fingerprint()
        return len(choice.rows)


def ours_write(folder: Path, output: Path) -> Callable[[], None]:
    from trackverse import subset
    from trackverse.index import Index
    from trackverse.layout import TracksLayout

    layout = TracksLayout(folder)
    index, meta_paths = Index(layout.index_path), layout.meta_paths()
    return lambda: subset.write(output, {}, index, meta_paths, np.arange(0, len(index), 10))


def write_index(folder: Path, num_rows: int) -> None:
    """An index of generated rows beside empty track files, which are as large and as old as it says."""
    import pyarrow as pa

    from trackverse import index as index_module
    from trackverse.columns import DTYPES
    from trackverse.index import SCHEMA, FileEntry, _Writer, stamp_of
    from trackverse.layout import TracksLayout

    rng = np.random.default_rng(0)
    layout = TracksLayout(folder)
    with open(layout.index_path, "wb") as file, _Writer(file) as writer:
        writer.labels = {n: f"class {n}" for n in range(NUM_CLASSES)}
        for number in range(num_rows // TRACKS_A_VIDEO):
            video_id = f"{number:06x}video"
            path = layout.meta_path(video_id)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            columns = {name: np.zeros(TRACKS_A_VIDEO, dtype) for name, dtype in DTYPES.items()}
            columns["track_id"] = np.arange(TRACKS_A_VIDEO)
            columns["label_id"] = np.minimum(rng.zipf(1.3, TRACKS_A_VIDEO) - 1, NUM_CLASSES - 1)
            columns["score"] = rng.uniform(size=TRACKS_A_VIDEO).round(4)
            columns["end_s"] = rng.uniform(3, 30, TRACKS_A_VIDEO)
            columns["area"] = rng.uniform(size=TRACKS_A_VIDEO).astype(np.float32)
            columns["offset"] = np.arange(TRACKS_A_VIDEO) * 4000
            boxes = pa.array([b"\1\2\3\4\5\6\7\10" * 8] * TRACKS_A_VIDEO, pa.binary())
            rows = pa.table([*(pa.array(columns[name]) for name in DTYPES), boxes], schema=SCHEMA)
            name = index_module._name(path)
            writer.keep(FileEntry(name, stamp_of(path), [[video_id, TRACKS_A_VIDEO]], number, True, {}, []), rows)


def distances(points: np.ndarray) -> tuple[float, float]:
    """The smallest and the mean distance of the points to their nearest neighbours."""
    squares = (points.astype(np.float64) ** 2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * (points.astype(np.float64) @ points.astype(np.float64).T)
    np.fill_diagonal(apart, np.inf)
    nearest = np.sqrt(np.maximum(apart.min(axis=1), 0))
    return float(nearest.min()), float(nearest.mean())


def make_points(number: int) -> np.ndarray:
    """Features as of a network: bunches of lookalikes whose spread differs."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, DIM)).astype(np.float32) * 0.15
    owner = rng.integers(0, 200, number)
    points = centres[owner]
    points += (
        rng.normal(size=(number, DIM)).astype(np.float32) * rng.uniform(0.1, 0.3, (200, 1)).astype(np.float32)[owner]
    )
    return points


def published_swaps(points: np.ndarray, number: int, max_swaps: int = 2000, batch_size: int = 20) -> np.ndarray:
    """Swaps from a random choice, as described above."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(points))
    chosen, rest = order[:number].copy(), order[number:].copy()
    squares = (points**2).sum(axis=1)

    def to_chosen(rows: np.ndarray) -> np.ndarray:
        return squares[rows, None] + squares[chosen] - 2 * points[rows] @ points[chosen].T

    apart = to_chosen(chosen)
    np.fill_diagonal(apart, np.inf)
    for _ in range(max_swaps):
        leaving = int(np.unravel_index(apart.argmin(), apart.shape)[0])
        places = rng.choice(len(rest), min(batch_size, len(rest)), replace=False)
        distance = to_chosen(rest[places])
        distance[:, leaving] = np.inf
        best = int(distance.min(axis=1).argmax())
        if distance[best].min() > apart[leaving].min():
            chosen[leaving], rest[places[best]] = rest[places[best]], chosen[leaving]
            apart[leaving] = apart[:, leaving] = distance[best]
    return chosen


def ours_spread(points: np.ndarray, number: int) -> np.ndarray:
    from trackverse import spread

    found = spread.farthest_first(points, number, start=[0])
    return spread.widen(points, found, max_swaps=2000, batch_size=20)[0]


def products(points: np.ndarray, number: int) -> None:
    """The distance products alone."""
    for start in range(0, len(points), 4096):
        points[start : start + 4096] @ points[:number].T


def measured(function: Callable[..., Any], *args: Any, prepare: bool = False) -> tuple[float, float, Any]:
    """CPU seconds and peak MB of a call in a process of its own, and what it gave. `prepare`: of what it returns."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measure, args=(queue, function, args, prepare))
    process.start()
    result = queue.get()
    process.join()
    return result


def _measure(queue: Any, function: Callable[..., Any], args: tuple[Any, ...], prepare: bool) -> None:
    if prepare:
        function, args = function(*args), ()
    start = time.process_time()
    found = function(*args)
    seconds = time.process_time() - start
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, found))


def _spread(function: Callable[..., Any], num_points: int, number: int) -> Callable[[], Any]:
    points = make_points(num_points)
    return lambda: (lambda rows: None if rows is None else distances(points[rows]))(function(points, number))


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
            same = gzip.decompress(output.read_bytes()).splitlines()
            paths = sorted(folder.glob("*/*-meta.jsonl.gzip"))
            source = [each for path in paths for each in gzip.decompress(path.read_bytes()).splitlines()]
            print(f"identical bytes: {same == source[::10]}")
        for num_rows in args.rows:
            rows_dir = folder / f"rows{num_rows}"
            rows_dir.mkdir()
            measured(write_index, rows_dir, num_rows)
            line(
                f"ours: select again, {num_rows:,} rows", measured(ours_select, rows_dir), per_track * num_rows or None
            )
            print(f"  index {(rows_dir / 'index.parquet').stat().st_size / 1e6:.0f} MB; published, extrapolated: "
                  f"{per_track * num_rows:.0f} CPU s")  # fmt: skip
        for num_points, number in zip(args.points[::2], args.points[1::2], strict=True):
            base = None
            if not args.no_swaps:
                swaps = measured(_spread, published_swaps, num_points, number, prepare=True)
                line(f"published: swaps, {num_points:,} to {number:,}", swaps)
                base = swaps[0]
            line(
                f"distance products alone, {num_points:,} x {number:,}",
                measured(_spread, products, num_points, number, prepare=True),
            )
            line(
                f"ours: k-centre and swaps, {num_points:,} to {number:,}",
                measured(_spread, ours_spread, num_points, number, prepare=True),
                base,
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
