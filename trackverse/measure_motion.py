"""Measure how much tracked objects move by themselves, in the videos, for tracks that are there already.

    python -m trackverse.measure_motion --tracks_dir ${TRACKVERSE_DB}/tracks_meta/coco \\
        --videos_dir ${TRACKVERSE_DB}/videos_blurred

Of every track: the speed of its box beside the camera's motion (which parse_tracks.py stores already), and likewise the
mean speed of the pixels in it, by optical flow; both in box sizes a second. Afterwards `curate_db.py --motion camera`
and `--motion flow` choose by them.

Reads   the track files and <videos_dir>/<id[:2]>/<id>.mp4, --frame_rate frames a second where there are tracks.
Writes  <id>-motion.npy beside each track file, whole or not at all. Files that are there and newer are left alone, so
        that the same command goes on after a kill.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from trackverse import cli, workers
from trackverse.errors import ItemError, RecordError
from trackverse.flow import MotionMeter, Moving
from trackverse.layout import TracksLayout, motion_beside, progress_beside, video_in
from trackverse.records import TrackRecord
from trackverse.store import load_motion, read_records, write_motion
from trackverse.video import probe, read_frames
from trackverse.worklist import Tally

log = logging.getLogger("trackverse.measure_motion")


def is_measured(meta_path: Path) -> bool:
    """Whether the motion was measured after the tracks were last written, and not that beside the camera's alone."""
    path = motion_beside(meta_path)
    written = [each.stat().st_mtime_ns for each in (meta_path, progress_beside(meta_path)) if each.exists()]
    if not path.exists() or path.stat().st_mtime_ns < max(written):
        return False
    try:
        _, camera, flow = load_motion(path).T
    except RecordError:
        return False
    return not (np.isfinite(camera) & np.isnan(flow)).any()


def measure_file(meta_path: Path, videos_dir: Path, *, frame_rate: float, long_side: int) -> tuple[int, str, str]:
    """How many tracks were measured and stored, and, if they were not: why, and the reason in short."""
    cv2.setNumThreads(1)
    try:
        records = list(read_records(meta_path))
        measured = [row for part in _clips(records) for row in _measure(part, videos_dir, frame_rate, long_side)]
        write_motion(motion_beside(meta_path), measured)
    except ItemError as error:
        return 0, str(error), error.reason
    return len(records), "", ""


def _clips(records: Sequence[TrackRecord]) -> Iterator[list[TrackRecord]]:
    """Tracks of one video and clip, those that are there at one time or nearly so together."""

    def clip_of(record: TrackRecord) -> tuple[str, str]:
        return record.video_id, record.origin.clip_id if record.origin else ""

    ordered = sorted(records, key=lambda record: (*clip_of(record), record.times_s[0], record.track_id))
    for _, tracks in groupby(ordered, clip_of):
        together: list[TrackRecord] = []
        for track in tracks:
            if together and track.times_s[0] > max(other.times_s[-1] for other in together) + 1:
                yield together
                together = []
            together.append(track)
        yield together


def _measure(
    records: Sequence[TrackRecord], videos_dir: Path, frame_rate: float, long_side: int
) -> Iterator[tuple[int, float, float, float]]:
    """Track id, start in s, camera motion and flow motion of each. Raises VideoError."""
    path = video_in(videos_dir, records[0].video_id)
    height, width = probe(path).frame_hw
    meter, tracks = None, []
    end_s = max(float(record.times_s[-1]) for record in records)
    batches = read_frames(
        path, start_s=float(records[0].times_s[0]), end_s=end_s + 1e-3, fps=frame_rate, long_side=long_side
    )
    for batch in batches:
        if meter is None:
            # The video may have been fetched at another size than the tracks were made from.
            scales = [_scale(record, (height, width), batch.images.shape[1:3]) for record in records]
            tracks = [Moving(r.times_s, r.tlwh * scale) for r, scale in zip(records, scales, strict=True)]
            meter = MotionMeter(tracks)
        for image, time_s in zip(batch.images, batch.times_s.tolist(), strict=True):
            meter(image, time_s)
    for record, track in zip(records, tracks, strict=False):
        yield record.track_id, float(record.times_s[0]), track.camera_motion, track.flow_motion


def _scale(record: TrackRecord, video_hw: tuple[int, int], image_hw: tuple[int, ...]) -> float:
    """From px of a record to px of an image of its video."""
    return image_hw[1] / (record.origin.video_hw[1] if record.origin else video_hw[1])


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.measure_motion")
    add = parser.add_argument
    add("--tracks_dir", type=cli.folder, required=True, metavar="DIR", help="folder of tracks, tracks_meta/<vocab>")
    add("--videos_dir", type=cli.folder, required=True, metavar="DIR", help="videos_mp4 or videos_blurred")
    add("--frame_rate", type=cli.positive, default=8.0, metavar="X", help="frames to look at a second")
    add("--long_side", type=cli.at_least_one, default=320, metavar="N", help="px of the frames that are looked at")
    add("--num_workers", type=cli.at_least_one, default=1, metavar="N", help="processes")
    add("--overwrite", action="store_true", help="measure again what is measured already")
    add("--dry_run", action="store_true", help="say what would be done, write nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status: 1 if some videos or tracks could not be read."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)

    def make() -> int:
        meta_paths = TracksLayout(args.tracks_dir).some_meta_paths()
        todo = [path for path in meta_paths if args.overwrite or not is_measured(path)]
        tally = Tally(already=len(meta_paths) - len(todo))
        if args.dry_run:
            tally.planned, todo = len(todo), []
        measure = partial(
            measure_file, videos_dir=args.videos_dir, frame_rate=args.frame_rate, long_side=args.long_side
        )
        found = workers.map_each(measure, todo, args.num_workers) if args.num_workers > 1 else map(measure, todo)
        for number, message, reason in cli.progress(found, what="track files", total=len(todo)):
            if reason:
                log.warning("%s", message)
                tally.failed[reason] += 1
            else:
                tally.done += 1
                log.debug("%d tracks measured", number)
        log.info(tally.summary("track files"))
        return tally.exit_status

    return cli.run(make)


if __name__ == "__main__":
    sys.exit(main())
