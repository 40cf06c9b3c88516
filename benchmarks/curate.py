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
    from trackverse.member_heads import record_member

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
                file.write(record_member(json.dumps(record, separators=(",", ":")).encode()))


def take_off_heads(folder: Path) -> None:
    """The same members without what parse_tracks.py puts in front of them for the index; and no index."""
    from trackverse.member_heads import FIELD_AT, FRAME

    for path in folder.glob("*/*-meta.jsonl.gzip"):
        data, at, bare = path.read_bytes(), 0, []
        while at < len(data):
            _, _, _, length, _, size = FRAME.unpack_from(data, at)
            bare += [b"\x1f\x8b\x08\0\0\0\0\0\0\xff", data[at + FIELD_AT + length : at + size]]
            at += size
        path.write_bytes(b"".join(bare))
    (folder / "index.parquet").unlink()


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


def ours_select(folder: Path, name: str = "class_balanced") -> int:
    from trackverse import curate, selection
    from trackverse.embeddings import StoredEmbeddings
    from trackverse.index import ready_index
    from trackverse.layout import TracksLayout

    layout = TracksLayout(folder)
    meta_paths = layout.meta_paths()
    with ready_index(
        layout.index_path, meta_paths, num_workers=1, keep=True, rebuild=False, watch=lambda items, _: iter(items)
    ) as index:
        table = curate.make_table(index, dropped=Counter())
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


def write_index(folder: Path, num_rows: int, dim: int = 0) -> None:
    """An index of generated rows beside hollow track files, as large and as old as it says, and embeddings."""
    import pyarrow as pa

    from trackverse import index as index_module
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
            os.truncate(path, TRACKS_A_VIDEO * 4000)  # a hole, which takes no room
            columns, boxes, starts = made_rows(rng, TRACKS_A_VIDEO)
            packed = pa.Array.from_buffers(
                pa.binary(), TRACKS_A_VIDEO, [None, pa.py_buffer(starts.astype(np.int32)), pa.py_buffer(boxes)]
            )
            rows = pa.table([*(pa.array(column) for column in columns.values()), packed], schema=SCHEMA)
            name = index_module._name(path)
            writer.keep(FileEntry(name, stamp_of(path), [[video_id, TRACKS_A_VIDEO]], number, True, {}, []), rows)
            if dim:
                looks = rng.normal(size=(TRACKS_A_VIDEO, dim)).astype(np.float32)
                looks /= np.linalg.norm(looks, axis=1, keepdims=True)
                np.save(layout.embeddings_path(video_id), looks.astype(np.float16))


def made_rows(rng: np.random.Generator, number: int) -> tuple[dict[str, np.ndarray], bytes, np.ndarray]:
    """The index's columns of a video of so many tracks, some 15 at a time, and their boxes, which drift."""
    from trackverse.columns import DTYPES
    from trackverse.ticks import TICK_S

    columns = {name: np.zeros(number, dtype) for name, dtype in DTYPES.items()}
    num_ticks = np.minimum(6 + rng.geometric(0.15, number), 60)
    first = rng.integers(0, number, number)
    columns["track_id"] = np.arange(number)
    columns["line"] = np.arange(number) + 1
    columns["label_id"] = np.minimum(rng.zipf(1.3, number) - 1, NUM_CLASSES - 1)
    columns["score"] = rng.uniform(size=number).round(4)
    columns["class_score"] = columns["score"].astype(np.float32)
    columns["start_s"] = (first - rng.uniform(0.1, 0.9, number)) * TICK_S
    columns["end_s"] = columns["start_s"] + num_ticks * TICK_S
    columns["num_frames"] = (num_ticks * 8).astype(np.int32)
    columns["box_motion"] = rng.gamma(1.0, 0.2, number).astype(np.float32)
    columns["first_tick"] = first.astype(np.int32)
    columns["offset"] = np.arange(number) * 4000 + rng.integers(0, 999, number)
    columns["num_bytes"] = rng.integers(3000, 5000, number).astype(np.int32)
    columns["crc"] = rng.integers(0, 1 << 32, number).astype(np.uint32)
    starts = np.concatenate([[0], np.cumsum(num_ticks)])
    size = np.exp(rng.normal(5, 0.5, (number, 2)))
    columns["area"] = (size.prod(axis=1) / (720 * 1280)).astype(np.float32)
    centre = rng.uniform((0, 0), (1280, 720), (number, 2))
    track = np.repeat(np.arange(number), num_ticks)
    way = (np.arange(starts[-1]) - starts[track])[:, None] * rng.normal(0, 8, (number, 2))[track]
    corners = np.concatenate([(centre - size / 2)[track] + way, (centre + size / 2)[track] + way], axis=1)
    boxes = np.rint(np.clip(corners, 0, [1280, 720, 1280, 720])).astype("<u2").tobytes()
    return {name: columns[name].astype(dtype) for name, dtype in DTYPES.items()}, boxes, starts * 8


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


def write_points(path: Path, number: int) -> None:
    make_points(number).astype(np.float16).tofile(path)


def spread_of(path: Path, num_points: int, rows: np.ndarray) -> tuple[float, float]:
    return distances(np.memmap(path, np.float16, "r", shape=(num_points, DIM))[np.sort(rows)].astype(np.float32))


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
    queue.put((seconds, int(peak.split()[1]) * 1024 / 1e6, found))


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
