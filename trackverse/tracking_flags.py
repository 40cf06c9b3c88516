"""The flags that the two tracking stages share, and what their values stand for."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import cv2

from trackverse import cli
from trackverse.bytetrack import ByteTrackConfig
from trackverse.detectors import DEFAULTS, DETECTORS, EMBEDDINGS, DetectorConfig, choose_detector, load_detector
from trackverse.detectors.protocol import Detector
from trackverse.filters import FilterConfig
from trackverse.refine import RefineConfig
from trackverse.tracking import TrackingSettings

# The association's defaults for NanoDet, whose good scores begin at 0.5: from 0.45 on, second boxes on a person are
# sure enough to become tracks. Colours tell people apart less surely than a detector's features, so that overlap counts
# more; but they hold for longer. Looked for on the demo's street at four sizes, mirrored or not, forward and backward
# in time, at every frame or every second one: the mean of these 32 decided, since each alone hangs on few encounters.
# To take off all of what people have in common does as well.
NANODET_TRACKING = ByteTrackConfig(
    track_thresh=0.5,
    new_track_margin=0.0,
    match_thresh=0.7,
    motion_weight=0.8,
    max_lost_s=2.0,
    embedding_momentum=0.9,
    max_common_likeness=0.2,
)
TRACKING_DEFAULTS: Mapping[str, ByteTrackConfig] = {
    "nanodet": NANODET_TRACKING,
    "detic": ByteTrackConfig(),
    "detectron2": ByteTrackConfig(),
}
Config = TypeVar("Config", DetectorConfig, ByteTrackConfig, FilterConfig)

HELP: Mapping[str, str] = {
    "frame_size": "long side in px of the frames that the detector sees",
    "conf": "least score of a detection",
    "nms": "largest IoU of two detections of one class",
    "embedding": "what tells objects apart: the detector's features, colours, a small network, or overlap alone",
    "track_thresh": "from this score on, a detection is confident",
    "new_track_margin": "how far above --track_thresh a detection must be to start a track",
    "match_thresh": "largest cost (motion and appearance) of giving a track a confident detection",
    "low_match_thresh": "largest 1 - IoU of giving a track a doubtful detection",
    "motion_weight": "share of the motion in the cost; the rest is appearance",
    "max_lost_s": "seconds that a track is looked for after it was last seen",
    "embedding_momentum": "share of a track's old appearance that a new detection leaves",
    "max_common_likeness": "how alike different objects may look; what they have more in common is taken off",
    "min_track_len": "shortest track to keep, in seconds",
    "min_track_area": "smallest mean box to keep, as a share of the frame; 0 keeps all",
}
# Scores, overlaps and shares, which go from 0 to 1. Costs may go further: a cosine distance reaches 2.
SHARES = frozenset(
    {
        "conf",
        "nms",
        "track_thresh",
        "low_match_thresh",
        "motion_weight",
        "embedding_momentum",
        "max_common_likeness",
        "min_track_area",
    }
)


def add(parser: cli.Parser, *, frame_rate: float, filters: FilterConfig) -> None:
    """The flags; `frame_rate` and `filters` are the stage's own defaults, the others those of the detector."""
    group = parser.add_argument_group("which detector")
    add = group.add_argument
    text = "classes: coco (NanoDet, Detic); lvis, in1k_coco or a text file of one a line (Detic)"
    add("--vocab", metavar="NAME", help=text)
    text = "default: NanoDet, or Detic if --weights or --vocab ask for it"
    add("--detector", choices=DETECTORS, help=text)
    text = "checkpoint of Detic or detectron2; python -m trackverse.weights gets Detic's"
    add("--weights", type=cli.folder, metavar="FILE", help=text)
    add("--config", type=cli.folder, metavar="FILE", help="configuration of the model, for detectron2")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1; auto takes a GPU if there is one")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="kind of number that Detic computes with, where the processor has it",
    )
    text = "frames at once for Detic, fewer when memory runs out (default: auto)"
    add("--batch_size", type=cli.number_or_auto, metavar="N", help=text)

    add = parser.add_argument_group("detection and association").add_argument
    add("--frame_rate", type=cli.positive, default=frame_rate, metavar="X", help="frames to look at a second")
    for defaults in (DEFAULTS, TRACKING_DEFAULTS, dict.fromkeys(DEFAULTS, filters)):
        for field in fields(defaults["nanodet"]):
            shown = f"{HELP[field.name]} ({_default_text(defaults, field.name)})"
            if field.name == "embedding":
                add("--embedding", choices=EMBEDDINGS, help=shown)
                continue
            if field.type == "int":
                kind: Callable[[str], float] = cli.at_least_one
            else:
                kind = cli.fraction if field.name in SHARES else cli.not_negative
            add(f"--{field.name}", type=kind, metavar="X", help=shown)
    text = "look again at the tracks of a clip: join, begin earlier, fill gaps, smooth boxes, drop duplicates (default)"
    add("--refine", action="store_true", default=True, help=text)
    add("--no_refine", dest="refine", action="store_false", help="keep the tracks as they are found")
    text = "find out by optical flow how the camera moves, and look for the tracks there (default)"
    add("--camera_motion", action="store_true", default=True, help=text)
    text = "leave out the optical flow: only what all boxes do at once tells how the camera moves"
    add("--no_camera_motion", dest="camera_motion", action="store_false", help=text)
    parser.set_defaults(filter_defaults=filters)


def _default_text(defaults: Mapping[str, Any], name: str) -> str:
    nanodet, detic = (getattr(defaults[detector], name) for detector in ("nanodet", "detic"))
    return f"default: {nanodet}" if nanodet == detic else f"default: {nanodet} with NanoDet, {detic} with Detic"


def settings(args: Namespace) -> TrackingSettings:
    """The settings that the flags stand for. Raises SetupError if they don't go together."""
    choice = choose_detector(args.detector, args.vocab, args.weights, config=args.config, dtype=args.dtype)

    def given(defaults: Config) -> Config:
        flags = {field.name: getattr(args, field.name) for field in fields(defaults)}
        return replace(defaults, **{name: value for name, value in flags.items() if value is not None})

    return TrackingSettings(
        choice,
        args.frame_rate,
        given(DEFAULTS[choice.name]),
        given(TRACKING_DEFAULTS[choice.name]),
        given(args.filter_defaults),
        RefineConfig() if args.refine else None,
        args.camera_motion,
    )


def load(args: Namespace, settings: TrackingSettings) -> Detector:
    """The detector of these settings, on the device and with the share of the cores that the flags say, which is
    OpenCV's too: a thread for every core would be as many for every worker.
    """
    num_threads = threads_of_a_worker(args.num_workers)
    cv2.setNumThreads(num_threads)
    return load_detector(
        settings.choice,
        settings.detector,
        device=args.device,
        batch_size=args.batch_size,
        num_threads=num_threads,
    )


def threads_of_a_worker(num_workers: int) -> int:
    """How many threads each of the workers may use, so that together they use the cores once."""
    return max(1, len(os.sched_getaffinity(0)) // num_workers)
