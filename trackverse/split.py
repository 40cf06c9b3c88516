"""Split videos into train, val and test, near-duplicates on one side.

    python -m trackverse.split --tracks_dir ${TRACKVERSE_DB}/tracks_meta/coco --output_dir ${TRACKVERSE_DB}/splits/coco

Videos are split, never the tracks of one. Two videos are near-duplicates, such as an upload and a copy of it, if half
of the tracks of the one that has fewer (--min_share), and at least two, have a twin in the other at one offset of their
clocks: the same class, the same box when they start or end, within half a second, and looks that are alike. So copies
are found that were encoded again, at another size or frame rate, trimmed, put after an intro, or cut into other
segments. If looks were not stored (parse_tracks.py --embedding none, other layouts), at least five tracks must start
and end alike. Not found are copies that are mirrored, cropped, given other borders or played at another speed, those
that have less than half of their tracks from the other video, copies of which the detector saw other tracks for the
most part, and those with a single track.

Reads   the index of --tracks_dir, which is brought up to date as by curate_db.py.
Writes  train.txt, val.txt and test.txt, the ids of the videos (for curate_db.py --exclude_videos), and split.json:
        arguments, seed, sizes, the groups of near-duplicates, a fingerprint of the input. Each whole or not at all, and
        split.json last: without it the lists are not finished.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trackverse import __version__, cli, files, track_table
from trackverse.embeddings import StoredEmbeddings
from trackverse.errors import SetupError
from trackverse.index import Index
from trackverse.index_refresh import ready_index
from trackverse.layout import SPLIT_NAME as TOLD_NAME
from trackverse.layout import SPLIT_PARTS as NAMES
from trackverse.layout import TracksLayout, lock_path
from trackverse.near_duplicates import Looks, near_duplicates
from trackverse.track_table import TrackTable
from trackverse.types import Float16, Int64
from trackverse.wording import counted

log = logging.getLogger("trackverse.split")


def looks_of(index: Index, meta_paths: Sequence[Path], table: TrackTable) -> Looks | None:
    """The stored looks of tracks, None if there are none; those of different embedders, not to be compared, are NaN."""
    try:
        stored = StoredEmbeddings(index, meta_paths, table, failed=Counter())
    except SetupError:
        log.info("no looks are stored: near-duplicates are told by times and boxes alone")
        return None

    def looks(rows: Int64) -> Float16:
        try:
            return stored(rows)
        except SetupError:
            return np.full((len(rows), stored.dim), np.nan, np.float16)

    return looks


def assign(groups: Int64, sizes: Int64, shares: Sequence[float], rng: np.random.Generator) -> Int64:
    """Which split (V,) each video goes to. `groups` (V,) stay together; `sizes` (V,): tracks of each video.

    By chance, each group to the split that is farthest below its share of the tracks so far; larger groups first, so
    that the small ones even things out.
    """
    weights = np.bincount(groups, sizes)
    order = rng.permutation(len(weights))
    order = order[np.argsort(-(np.bincount(groups)[order] > 1).astype(int), kind="stable")]
    filled, split_of = np.zeros(len(shares)), np.zeros(len(weights), np.int64)
    wanted = np.array(shares) / sum(shares)
    for group in order.tolist():
        split = int((wanted * (filled.sum() + weights[group]) - filled).argmax())
        split_of[group] = split
        filled[split] += weights[group]
    return split_of[groups]


def write(folder: Path, lists: dict[str, list[str]], told: dict[str, Any]) -> None:
    """The lists, and last what is told of them: without it, they may be of two different splits."""
    told_path = folder / TOLD_NAME
    with files.claim(lock_path(told_path), wait=True):
        told_path.unlink(missing_ok=True)
        for name, video_ids in lists.items():
            with files.atomic_write(folder / f"{name}.txt") as file:
                file.write("".join(f"{video_id}\n" for video_id in video_ids).encode())
        with files.atomic_write(told_path) as file:
            file.write(json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n")


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.split")
    add = parser.add_argument
    add("--tracks_dir", type=cli.folder, required=True, metavar="DIR", help="folder of tracks, tracks_meta/<vocab>")
    add("--output_dir", type=cli.folder, required=True, metavar="DIR", help="where the lists go")
    add("--shares", type=cli.not_negative, nargs=3, default=[0.8, 0.1, 0.1], metavar="X",
        help="of the tracks, for train, val and test")  # fmt: skip
    add("--min_share", type=cli.fraction, default=0.5, metavar="X", help="twins that make two videos near-duplicates")
    add("--seed", type=cli.at_least_zero, default=0, metavar="N", help="of who goes where")
    add("--num_workers", type=cli.at_least_one, default=1, metavar="N", help="processes that read new track files")
    add("--index_file", type=cli.folder, metavar="FILE", help="where the index is kept (default: in --tracks_dir)")
    add("--dry_run", action="store_true", help="say what would be done, write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status: 1 if some tracks could not be read."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)

    def make() -> int:
        layout = TracksLayout(args.tracks_dir)
        meta_paths = layout.some_meta_paths()
        if not sum(args.shares):
            raise SetupError("--shares: all are 0")
        with ready_index(
            args.index_file or layout.index_path,
            meta_paths,
            num_workers=args.num_workers,
            keep=not args.dry_run,
            rebuild=False,
            watch=lambda items, total: cli.progress(items, what="track files", total=total),
        ) as index:
            table = track_table.make_table(index, dropped=Counter(), is_forgotten=layout.is_forgotten)
            groups = near_duplicates(table, args.min_share, looks_of(index, meta_paths, table))
            sizes = np.bincount(table.videos, minlength=len(table.video_ids))
            splits = assign(groups, sizes, args.shares, np.random.default_rng(args.seed))
            told = {name: getattr(args, name) for name in ("shares", "min_share", "seed")}
            told |= {"version": __version__, "input": index.fingerprint(), "left_out": dict(index.failures())}
        lists: dict[str, list[str]] = {name: [] for name in NAMES}
        for video_id, number in zip(table.video_ids, splits.tolist(), strict=True):
            lists[NAMES[number]].append(video_id)
        for n, name in enumerate(NAMES):
            told[name] = {"videos": len(lists[name]), "tracks": int(sizes[splits == n].sum())}
            log.info("%s: %s", name, ", ".join(counted(number, what) for what, number in told[name].items()))
        copies = [np.flatnonzero(groups == group) for group in np.flatnonzero(np.bincount(groups) > 1)]
        told["near_duplicates"] = [[table.video_ids[video] for video in group.tolist()] for group in copies]
        log.info("%s", counted(len(copies), "groups of near-duplicate videos"))
        if not args.dry_run:
            write(args.output_dir, lists, told)
        return 1 if told["left_out"] else 0

    return cli.run(make)


if __name__ == "__main__":
    sys.exit(main())
