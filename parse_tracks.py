#!/usr/bin/env python3
"""Detect and track the objects of every listed clip, and store the tracks.

    export TRACKVERSE_DB=/path/to/trackverse/folder
    python parse_tracks.py --output_dir ${TRACKVERSE_DB}/tracks_meta/coco \\
        --clips_metafile ${TRACKVERSE_DB}/mined_segments/coco/part0.jsonl --vocab coco

Reads   videos_mp4/<id[:2]>/<id>.mp4 of the work folder (or videos_blurred/ with --blurred) and the segments that
        cut_videos.py kept.
Writes  <output_dir>/<id[:2]>/<id>-meta.jsonl.gzip, <id>-embeddings.npy and <id>-progress.json; and <id>-motion.npy, the
        motion of each track's box beside the camera's.

A segment's tracks are committed whole; after a kill, the same command goes on with the first segment that is missing.
With --slurm, each part given becomes one element of a job array.
"""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from collections.abc import Iterator

from trackverse import cli, stage, tracking_flags
from trackverse.errors import RecordError
from trackverse.filters import FilterConfig
from trackverse.flow import CameraPath
from trackverse.layout import Layout, TracksLayout, failed_path, lock_path
from trackverse.store import TrackStore
from trackverse.tracking import track_clip
from trackverse.types import Clip, SourceVideo
from trackverse.video import probe
from trackverse.worklist import Tally, Worklist


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__)
    cli.add_workdir(parser)
    parser.add_argument("--clips_metafile", type=cli.folder, nargs="+", required=True, metavar="FILE",
                        help="segments to track: one or more parts of mined_segments/")  # fmt: skip
    parser.add_argument("--output_dir", type=cli.folder, required=True, metavar="DIR", help="where the tracks go")
    parser.add_argument("--blurred", action="store_true", help="read videos_blurred/ instead of videos_mp4/")
    tracking_flags.add(parser, frame_rate=16, filters=FilterConfig())
    return parser


def work(args: Namespace, rank: int) -> Tally:
    settings = tracking_flags.settings(args)
    layout, tracks_layout = Layout(cli.workdir(args)), TracksLayout(args.output_dir)
    store = TrackStore(tracks_layout, settings.as_dict())
    threads = tracking_flags.threads_of_a_worker(args.num_workers)
    detector = functools.cache(lambda: tracking_flags.load(args, settings))

    tally = Tally()
    todo = Worklist(
        listed_clips(stage.videos(args, args.clips_metafile, rank, tally), tally),
        key=lambda clip: clip.clip_id,
        is_done=store.has,
        claim_path=lambda clip: lock_path(tracks_layout.meta_path(clip.video_id)),
        failed_path=failed_path(args.output_dir),
        tally=tally,
        retry_failed=args.retry_failed,
        dry_run=args.dry_run,
        is_forgotten=lambda clip: layout.is_forgotten(clip.video_id),
        prepare=detector,
    )
    for clip in cli.progress(todo, what="clips"):
        with todo.attempt(clip):
            path = layout.blurred_path(clip.video_id) if args.blurred else layout.video_path(clip.video_id)
            video = probe(path)
            camera = CameraPath()
            tracks = track_clip(path, video, clip, detector(), settings, dropped=tally.dropped, num_threads=threads,
                                camera_path=camera)  # fmt: skip
            store.commit(clip, tracks, video.frame_hw, detector().labels, camera_motion=camera.motion_of)
    return tally


def listed_clips(videos: Iterator[SourceVideo], tally: Tally) -> Iterator[Clip]:
    """The clips of the videos; a video that lists none is counted, since the scenes are cut_videos.py's to find."""
    without = stage.BadEntries(tally)
    for video in videos:
        if not video.clips:
            fix = "the metafile lists no clips; run cut_videos.py and give its mined_segments"
            without.add(RecordError(f"{video.video_id}: {fix}", reason="no clips listed"))
        yield from video.clips or ()
    without.sum_up()


if __name__ == "__main__":
    sys.exit(
        stage.start(
            make_parser(),
            work,
            what="clips",
            parts="clips_metafile",
            output_dir=lambda args: args.output_dir,
            check=tracking_flags.settings,
        )
    )
