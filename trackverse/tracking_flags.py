"""The flags that the two tracking stages share, and what their values stand for."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from trackverse import cli
from trackverse.bytetrack import ByteTrackConfig
from trackverse.detectors import EMBEDDINGS, DetectorConfig
from trackverse.filters import FilterConfig
from trackverse.tracking import TrackingSettings

# The association's defaults for NanoDet, whose good scores begin at 0.45. Colours tell people apart less surely than a
# detector's features, so that overlap counts more; but they hold for longer. Looked for on the demo's street.
NANODET_TRACKING = ByteTrackConfig(
    track_thresh=0.45,
    new_track_margin=0.05,
    match_thresh=0.7,
    motion_weight=0.8,
    max_lost_s=2.0,
    embedding_momentum=0.9,
)

HELP: Mapping[str, str] = {
    "frame_size": "long side in px of the frames that the detector sees",
    "conf": "least score of a detection",
    "nms": "largest IoU of two detections of one class",
    "embedding": "what tells objects apart: colours, a small network, or overlap alone",
    "track_thresh": "from this score on, a detection is confident",
    "new_track_margin": "how far above --track_thresh a detection must be to start a track",
    "match_thresh": "largest cost (motion and appearance) of giving a track a confident detection",
    "low_match_thresh": "largest 1 - IoU of giving a track a doubtful detection",
    "motion_weight": "share of the motion in the cost; the rest is appearance",
    "max_lost_s": "seconds that a track is looked for after it was last seen",
    "embedding_momentum": "share of a track's old appearance that a new detection leaves",
    "min_track_len": "shortest track to keep, in seconds",
    "min_track_area": "smallest mean box to keep, as a share of the frame; 0 keeps all",
}
# Scores, overlaps and shares, which go from 0 to 1. Costs may go further: a cosine distance reaches 2.
SHARES = frozenset(
    {"conf", "nms", "track_thresh", "low_match_thresh", "motion_weight", "embedding_momentum", "min_track_area"}
)


def add(parser: cli.Parser, *, frame_rate: float, filters: FilterConfig) -> None:
    """The flags; `frame_rate` and `filters` are the stage's own defaults."""
    group = parser.add_argument_group("detection and association")
    group.add_argument("--vocab", default="coco", metavar="NAME", help="the classes to look for: coco (80)")
    group.add_argument(
        "--frame_rate", type=cli.positive, default=frame_rate, metavar="X", help="frames to look at a second"
    )
    for config in (DetectorConfig(), NANODET_TRACKING, filters):
        for field in fields(config):
            default = getattr(config, field.name)
            if field.name == "embedding":
                group.add_argument("--embedding", choices=EMBEDDINGS, default=default, help=HELP[field.name])
                continue
            if field.type == "int":
                kind: Callable[[str], float] = cli.at_least_one
            else:
                kind = cli.fraction if field.name in SHARES else cli.not_negative
            group.add_argument(f"--{field.name}", type=kind, default=default, metavar="X", help=HELP[field.name])


def settings(args: Namespace) -> TrackingSettings:
    """The settings that the flags stand for."""

    def given(config: type[Any]) -> Any:
        return config(**{field.name: getattr(args, field.name) for field in fields(config)})

    return TrackingSettings(
        args.vocab, args.frame_rate, given(DetectorConfig), given(ByteTrackConfig), given(FilterConfig)
    )


def threads_of_a_worker(num_workers: int) -> int:
    """How many threads each of the workers may use, so that together they use the cores once."""
    return max(1, len(os.sched_getaffinity(0)) // num_workers)
