#!/usr/bin/env python3
"""Choose a subset of the tracks.

    python curate_db.py --output_file ${TRACKVERSE_DB}/tracks_subsets/coco/random-50k.jsonl.gzip \\
        --tracks_dir ${TRACKVERSE_DB}/tracks_meta/coco --criterion random --num_samples 50000 --num_workers 16

Criteria (--num_samples caps all of them; a track's class is the best of its ten):
  random            --num_samples tracks, each set of them equally likely
  video_balanced    --num_samples_per_video random tracks of every video
  class_balanced    the --num_samples_per_class best tracks of every class, by mean class score x objectness; with
                    --temperature T drawn one by one, with chances in proportion to exp(score / T); inf: by chance alone
  min_redundancy    the --num_samples_per_class tracks of every class that look least alike (stored embeddings)
  max_motion        the --num_samples tracks that move most
  diverse           the --num_samples tracks of all classes that look least alike
Balanced ones give in turns: under a cap no class or video gives its second before all have given their first. Ties go
by video and track id. The same arguments, seed and tracks give the same subset, whatever the number of workers.

Limits (--min_length and so on) hold for every criterion. One that leaves a class short is kept, and told; with --relax
it is loosened for that class, half-way, then altogether, and the sidecar says which, to what and for how many tracks.

Reads   <tracks_dir>/<id[:2]>/<id>-meta.jsonl.gzip, once: then <tracks_dir>/index.parquet, which is kept up to date;
        and, where looks are compared, <id>-embeddings.npy.
Writes  <output_file>, the chosen lines byte for byte, and <output_file's name>.json beside it: arguments, seed, what
        became of every class's tracks, what could not be filled, a fingerprint of the input. --stats: a page of charts.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

from trackverse import cli, curation_flags, files, selection, stage, subset, track_table
from trackverse.embeddings import StoredEmbeddings
from trackverse.index import Index, open_index
from trackverse.index_refresh import is_current, ready_index
from trackverse.layout import TracksLayout, lock_path, stats_beside
from trackverse.stats import page, stats_of
from trackverse.worklist import Tally

log = logging.getLogger("trackverse.curate_db")


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__, itemwise=False)
    add = parser.add_argument
    add("--output_file", type=cli.folder, required=True, metavar="FILE", help="the subset, a .jsonl.gzip file")
    add("--tracks_dir", type=cli.folder, required=True, metavar="DIR", help="folder of tracks, tracks_meta/<vocab>")
    curation_flags.add(parser)
    add(
        "--stats", action="store_true", help="tell what is in the tracks and the subset, with charts in NAME-stats.html"
    )
    add("--index_file", type=cli.folder, metavar="FILE", help="where the index is kept (default: in --tracks_dir)")
    add("--rebuild_index", action="store_true", help="read all track files again")
    add("--overwrite", action="store_true", help="replace a subset that was made with other arguments or tracks")
    return parser


def work(args: Namespace, rank: int) -> Tally:
    """One subset; whoever else makes the same file waits, and finds it there."""
    with nullcontext() if args.dry_run or args.status else files.claim(lock_path(args.output_file), wait=True):
        return make(args)


def make(args: Namespace) -> Tally:
    """Bring the index up to date, choose, write."""
    meta_paths = TracksLayout(args.tracks_dir).meta_paths()[: args.limit]
    path = args.index_file or TracksLayout(args.tracks_dir).index_path
    if args.status:  # which asks for no more than whether it is there
        index = open_index(path)
        current = index is not None and is_current(index, meta_paths)
        is_there = current and subset.is_made(args.output_file, curation_flags.made_with(args, index), overwrite=False)
        return Tally(already=int(is_there), planned=int(not is_there))
    # What a dry run or a part of the files needs is not worth keeping.
    with ready_index(
        path,
        meta_paths,
        num_workers=args.num_workers,
        keep=not args.dry_run and not args.limit,
        rebuild=args.rebuild_index,
        watch=lambda items, total: cli.progress(items, what="track files", total=total),
    ) as index:
        return choose_and_write(args, index, meta_paths)


def choose_and_write(args: Namespace, index: Index, meta_paths: Sequence[Path]) -> Tally:
    tally = Tally(failed=index.failures())
    made_with = curation_flags.made_with(args, index)
    if args.criterion and subset.is_made(args.output_file, made_with, overwrite=args.overwrite):
        return Tally(already=1)
    layout = TracksLayout(args.tracks_dir)
    table = track_table.make_table(index, dropped=tally.dropped, is_forgotten=layout.is_forgotten)
    plan = curation_flags.plan(args, table)
    told = {f"all of {args.tracks_dir.name}": stats_of(table, motion=plan.motion)} if args.stats else {}
    if args.criterion:
        choice = selection.choose(
            table,
            plan,
            curation_flags.rng(args),
            lambda: StoredEmbeddings(index, meta_paths, table, failed=tally.failed),
        )
        by_class = selection.by_class_and_reason(table, choice)
        tell(by_class, len(choice.rows), len(table))
        if line := selection.short_of(choice, plan.cap):
            log.info("%s", line)
        if args.stats:
            told[args.output_file.name] = stats_of(table, choice.rows, motion=plan.motion)
    for name, stats in told.items():
        cli.show("\n".join([f"{name}:", *stats.lines()]))
    if args.dry_run:
        tally.planned = 1
        if args.criterion:
            cli.show("\n".join(selection.as_text(by_class)))
        return tally
    if args.criterion:
        report = selection.report(table, choice, by_class) | {"left_out": dict(tally.failed + tally.dropped)}
        subset.write(args.output_file, made_with | report, index, meta_paths, table.index_rows(choice.rows))
    if args.stats:
        with files.atomic_write(stats_beside(args.output_file)) as file:
            file.write(page(told).encode())
    tally.done = 1
    return tally


def tell(by_class: dict[str, dict[str, int]], num_chosen: int, num_tracks: int) -> None:
    """One line of what is chosen."""
    filled = {label: counts["chosen"] for label, counts in by_class.items() if counts["chosen"]}
    most = ", ".join(f"{number} {label}" for label, number in islice(filled.items(), 10))
    log.info("%d of %d tracks, %d of %d classes: %s", num_chosen, num_tracks, len(filled), len(by_class), most)


def check(args: Namespace) -> None:
    subset.check_path(args.output_file)
    TracksLayout(args.tracks_dir).some_meta_paths()
    curation_flags.check(args)


def output_dir(args: Namespace) -> Path:
    return Path(args.output_file).parent


if __name__ == "__main__":
    sys.exit(stage.start(make_parser(), work, what="subsets", output_dir=output_dir, spread=False, check=check))
