"""The flags that say which tracks to choose, and what their values stand for."""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from trackverse import __version__, cli, subset
from trackverse.constraints import Limits
from trackverse.curate import SpreadConfig
from trackverse.errors import SetupError
from trackverse.index import Index
from trackverse.selection import Plan
from trackverse.track_table import TrackTable

SWAPPING = ("max_swaps", "batch_size", "pool")
USED_BY: dict[str, tuple[str, ...]] = {
    "random": (),
    "video_balanced": ("num_samples_per_video",),
    "class_balanced": ("num_samples_per_class", "temperature"),
    "min_redundancy": ("num_samples_per_class", *SWAPPING),
    "max_motion": (),
    "diverse": SWAPPING,
}
PER_GROUP = {name: next((flag for flag in flags if "_per_" in flag), "num_samples") for name, flags in USED_BY.items()}
MOTIONS = {"box": "box_motion", "camera": "camera_motion", "flow": "flow_motion"}
LIMITS = ("min_length", "min_area", "min_motion", "max_overlap", "half_life_s", "min_distance")


def add(parser: cli.Parser) -> None:
    """The flags of the criteria and of the limits."""
    group = parser.add_argument_group("how to choose").add_argument
    group("--criterion", choices=list(USED_BY), help="see above; none: only --stats")
    group("--num_samples", type=cli.at_least_one, metavar="N", help="at most so many tracks (random: how many)")
    group("--num_samples_per_video", type=cli.at_least_one, default=3, metavar="N", help="for video_balanced")
    group("--num_samples_per_class", type=cli.at_least_one, default=500, metavar="N", help="for the two by class")
    group("--temperature", type=temperature, default=0.0, metavar="T", help="class_balanced: 0 best first, inf any")
    swaps = "min_redundancy, diverse: batches of candidates that are measured to better the first choice"
    group("--max_swaps", type=cli.at_least_zero, default=2000, metavar="N", help=swaps)
    group("--batch_size", type=cli.at_least_one, default=20, metavar="N", help="candidates of a batch")
    text = "of a class (diverse: in all) with more tracks, so many by chance are compared"
    group("--pool", type=cli.at_least_one, default=SpreadConfig.pool, metavar="N", help=text)
    group("--seed", type=cli.at_least_zero, default=0, metavar="N", help="of everything random")
    group = parser.add_argument_group("limits, for every criterion").add_argument
    group("--min_length", type=cli.not_negative, metavar="S", help="seconds from first to last frame")
    group("--min_area", type=cli.fraction, metavar="X", help="mean box as a share of the frame")
    group("--min_motion", type=cli.not_negative, metavar="X", help="mean speed, in box sizes a second")
    text = "the box's; beside the camera's: the box's, its pixels' (known by trackverse.measure_motion)"
    group("--motion", choices=list(MOTIONS), default="box", help=text)
    text = "of two tracks of a video: space-time IoU, or IoU across a gap"
    group("--max_overlap", type=cli.fraction, metavar="X", help=text)
    text = "an overlap across a gap counts half for every so many seconds"
    group("--half_life_s", type=cli.positive, default=Limits.half_life_s, metavar="S", help=text)
    text = "of two tracks of a class (diverse: of any two): distance of their embeddings, of length 1, from 0 to 2"
    group("--min_distance", type=cli.not_negative, metavar="X", help=text)
    group("--classes", nargs="+", default=[], metavar="NAME", help="only these classes")
    text = "only tracks that are in this subset, a .jsonl.gzip file that was chosen from the same tracks"
    group("--from_subset", type=cli.folder, metavar="FILE", help=text)
    text = "none of these videos: ids, one a line, a metafile, or a subset (validation)"
    group("--exclude_videos", type=cli.folder, metavar="FILE", help=text)
    group("--relax", action="store_true", help="loosen limits for classes or videos that would stay short")


def temperature(text: str) -> float:
    """A number from 0 to infinity, both included."""
    return np.inf if text == "inf" else cli.not_negative(text)


def check(args: Namespace) -> None:
    """Raises SetupError for flags that don't go together."""
    if args.criterion is None:
        if not args.stats:
            raise SetupError("nothing to do: give --criterion NAME, --stats or both")
        return
    if args.num_samples is None and PER_GROUP[args.criterion] == "num_samples":
        raise SetupError(f"--criterion {args.criterion} needs --num_samples N")
    if args.relax and not any(getattr(args, name) is not None for name in LIMITS if name != "half_life_s"):
        raise SetupError("--relax: there is no limit to relax; give --min_motion, --max_overlap or another one")
    if args.exclude_videos:
        subset.video_ids_in(args.exclude_videos)


def made_with(args: Namespace, index: Index) -> dict[str, Any]:
    """What the subset is a function of: the arguments that matter, the seed, the tracks."""
    if args.criterion is None:
        return {}
    values = {name: getattr(args, name) for name in ("criterion", "num_samples", *USED_BY[args.criterion], "seed")}
    values |= {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    if args.max_overlap is None:
        del values["half_life_s"]
    if args.classes:
        values["classes"] = sorted(set(args.classes))
    if args.exclude_videos:
        excluded = subset.video_ids_in(args.exclude_videos)
        digest = hashlib.sha256("\n".join(sorted(excluded)).encode()).hexdigest()
        values["exclude_videos"] = f"{len(excluded)} videos, sha256:{digest}"
    if args.from_subset:
        tracks = subset.tracks_in(args.from_subset)
        listed = "\n".join(f"{video_id} {track_ids.tolist()}" for video_id, track_ids in tracks.items())
        digest = hashlib.sha256(listed.encode()).hexdigest()
        values["from_subset"] = f"{sum(map(len, tracks.values()))} tracks, sha256:{digest}"
    if args.motion != "box" and (args.criterion == "max_motion" or args.min_motion is not None):
        values["motion"] = args.motion
    if args.relax:
        values["relax"] = True
    values = {name: "inf" if value == np.inf else value for name, value in values.items()}
    return {"version": __version__, "input": index.fingerprint()} | values


def rng(args: Namespace) -> np.random.Generator:
    """Where all chance comes from."""
    return np.random.default_rng(args.seed)


def plan(args: Namespace, table: TrackTable) -> Plan:
    """The plan that the flags stand for. Raises SetupError for a class that no track is of."""
    among = subset.tracks_in(args.from_subset) if args.from_subset else None
    if among is not None and not set(among) & set(table.video_ids):
        raise SetupError(f"{args.from_subset}: none of its videos is in {args.tracks_dir}")
    is_asked = args.stats or args.criterion == "max_motion" or args.min_motion is not None
    if args.motion != "box" and is_asked and np.isnan(table[MOTIONS[args.motion]]).all():
        raise SetupError(f"--motion {args.motion}: not measured; run python -m trackverse.measure_motion first")
    excluded = subset.video_ids_in(args.exclude_videos) if args.exclude_videos else frozenset()
    given = {field.name: getattr(args, field.name) for field in fields(Limits) if field.name in LIMITS}
    criterion = args.criterion or "random"
    return Plan(
        criterion,
        getattr(args, PER_GROUP[criterion]) or 0,
        args.num_samples,
        Limits(**given, classes=classes_of(args.classes, table), exclude_videos=excluded, among=among),
        args.relax,
        motion=MOTIONS[args.motion],
        temperature=args.temperature,
        spread=SpreadConfig(args.max_swaps, args.batch_size, args.pool),
    )


def classes_of(names: Sequence[str], table: TrackTable) -> tuple[str, ...]:
    """The table's classes of these names, however accents are encoded. Raises SetupError for one that is not there."""
    by_name: dict[str, list[str]] = {}
    for label in table.labels.values():
        by_name.setdefault(unicodedata.normalize("NFC", label), []).append(label)
    found: list[str] = []
    for name in names:
        plain = unicodedata.normalize("NFC", name)
        if plain not in by_name:
            like = difflib.get_close_matches(plain, by_name, n=3)
            meant = f"; is it {' or '.join(map(repr, like))}?" if like else ""
            raise SetupError(f"--classes: no track is of class {name!r}{meant}")
        found += by_name[plain]
    return tuple(found)
