#!/usr/bin/env python3
"""Choose a subset of the tracks.

    python curate_db.py --output_file ${TRACKVERSE_DB}/tracks_subsets/coco/random-50k.jsonl.gzip \\
        --tracks_dir ${TRACKVERSE_DB}/tracks_meta/coco --criterion random --num_samples 50000 --num_workers 16

Criteria (--num_samples caps all of them; a track's class is the best of its ten):
  random            --num_samples tracks, each set of them equally likely
  video_balanced    --num_samples_per_video random tracks of every video
  class_balanced    the --num_samples_per_class best tracks of every class, by mean class score x objectness
  min_redundancy    the --num_samples_per_class tracks of every class that look least alike (stored embeddings)
The same arguments, seed and tracks give the same subset.

Reads   <tracks_dir>/<id[:2]>/<id>-meta.jsonl.gzip and, for min_redundancy, <id>-embeddings.npy.
Writes  <output_file>, the chosen lines byte for byte, and <output_file's name>.json beside it: arguments, seed, counts
        by class, what could not be filled, a fingerprint of the input.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trackverse import __version__, cli, curate, files, stage
from trackverse.curate import TrackTable
from trackverse.errors import SetupError
from trackverse.layout import TracksLayout, lock_path
from trackverse.store import commit_subset, embeddings_of, fingerprint, load_sidecar, summarise_all
from trackverse.types import Int64
from trackverse.worklist import Tally

log = logging.getLogger("trackverse.curate_db")
USED_BY = {
    "random": (),
    "video_balanced": ("num_samples_per_video",),
    "class_balanced": ("num_samples_per_class",),
    "min_redundancy": ("num_samples_per_class", "max_swaps", "batch_size"),
}


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__, itemwise=False)
    add = parser.add_argument
    add("--output_file", type=cli.folder, required=True, metavar="FILE", help="the subset, a .jsonl.gzip file")
    add("--tracks_dir", type=cli.folder, required=True, metavar="DIR", help="folder of tracks, tracks_meta/<vocab>")
    add("--criterion", choices=list(USED_BY), required=True, help="how to choose")
    add("--num_samples", type=cli.at_least_one, metavar="N", help="at most so many tracks (random: how many)")
    add("--num_samples_per_video", type=cli.at_least_one, default=3, metavar="N", help="for video_balanced")
    add("--num_samples_per_class", type=cli.at_least_one, default=500, metavar="N", help="for the two by class")
    add("--max_swaps", type=int, default=2000, metavar="N", help="min_redundancy: tries to better the first choice")
    add("--batch_size", type=cli.at_least_one, default=20, metavar="N", help="min_redundancy: candidates of a try")
    add("--seed", type=int, default=0, metavar="N", help="of everything random")
    add("--overwrite", action="store_true", help="replace a subset that was made with other arguments or tracks")
    return parser


def work(args: Namespace, rank: int) -> Tally:
    """One subset; whoever else makes the same file waits, and finds it there."""
    with nullcontext() if args.dry_run else files.claim(lock_path(args.output_file), wait=True):
        return make(args, Tally())


def make(args: Namespace, tally: Tally) -> Tally:
    """Read all tracks, choose, write."""
    meta_paths = TracksLayout(args.tracks_dir).meta_paths()[: args.limit]
    made_by = made_with(args, meta_paths)
    if (there := is_there(args, made_by)) or args.status:  # which asks for no more
        tally.already, tally.planned = int(there), int(not there)
        return tally

    summaries = cli.progress(summarise_all(meta_paths, args.num_workers), what="track files", total=len(meta_paths))
    table = curate.make_table(summaries, failed=tally.failed, dropped=tally.dropped)
    rows, unfilled = choose(table, args, meta_paths, tally)
    by_class = curate.count_by_class(table, rows)
    most = ", ".join(f"{number} {label}" for label, number in islice(by_class.items(), 10))
    num_filled = sum(number > 0 for number in by_class.values())
    log.info("%d of %d tracks, %d of %d classes: %s", len(rows), len(table), num_filled, len(by_class), most)
    if args.dry_run:
        tally.planned = 1
        return tally

    report = {"num_tracks": len(table), "num_chosen": len(rows), "num_by_class": by_class}
    report |= {"unfilled": unfilled, "left_out": dict(tally.failed + tally.dropped)}
    picks = [(meta_paths[table.files[row]], int(table.lines[row])) for row in rows]
    commit_subset(args.output_file, picks, made_by | report)
    tally.done = 1
    return tally


def made_with(args: Namespace, meta_paths: Sequence[Path]) -> dict[str, Any]:
    """What the subset is a function of: the arguments that matter to the criterion, the seed, the tracks."""
    names = ["criterion", "num_samples", *USED_BY[args.criterion], "seed"]
    return {"version": __version__, "input": fingerprint(meta_paths)} | {name: getattr(args, name) for name in names}


def is_there(args: Namespace, made_by: dict[str, Any]) -> bool:
    """Whether the subset is there, made of the same tracks with the same arguments. Another one is not replaced."""
    sidecar = load_sidecar(args.output_file)
    if sidecar is None:
        return False
    differing = [name for name, value in made_by.items() if sidecar.get(name) != value]
    if differing and not args.overwrite:
        which = ", ".join(differing)
        raise SetupError(f"{args.output_file} was made with other {which}: choose another --output_file or --overwrite")
    return not differing


def choose(
    table: TrackTable, args: Namespace, meta_paths: Sequence[Path], tally: Tally
) -> tuple[Int64, dict[str, list[int]]]:
    """The chosen rows, and what could not be filled: [chosen, asked for] by class, by video or in all."""
    rng = np.random.default_rng(args.seed)
    if args.criterion == "random":
        rows = curate.choose_random(table, args.num_samples, rng)
        return rows, curate.unfilled({"all": len(rows)}, args.num_samples)
    if args.criterion == "video_balanced":
        rows = curate.choose_video_balanced(table, args.num_samples_per_video, args.num_samples, rng)
        return rows, curate.unfilled(curate.count_by_video(table, rows), args.num_samples_per_video)
    if args.criterion == "class_balanced":
        rows = curate.choose_class_balanced(table, args.num_samples_per_class, args.num_samples)
    else:
        embeddings = embeddings_of(meta_paths, table.files, table.track_ids, failed=tally.failed)
        per_class, swaps = args.num_samples_per_class, {"max_swaps": args.max_swaps, "batch_size": args.batch_size}
        rows = curate.choose_min_redundancy(table, embeddings, per_class, args.num_samples, rng=rng, **swaps)
    return rows, curate.unfilled(curate.count_by_class(table, rows), args.num_samples_per_class)


def check(args: Namespace) -> None:
    if not any(TracksLayout(args.tracks_dir).meta_paths()):
        raise SetupError(f"{args.tracks_dir}: no *-meta.jsonl.gzip files; parse_tracks.py makes them")
    if args.criterion == "random" and args.num_samples is None:
        raise SetupError("--criterion random needs --num_samples N")


def output_dir(args: Namespace) -> Path:
    return Path(args.output_file).parent


if __name__ == "__main__":
    sys.exit(stage.start(make_parser(), work, what="subset", output_dir=output_dir, spread=False, check=check))
