#!/usr/bin/env python3
"""Detect and track the objects of a work folder's clips, to look at.

    python track_objects.py --workdir data/hdvila-100m --frame-rate 8 --conf 0.2 --track_thresh 0.6 --match_thresh 0.3
    python track_objects.py --workdir data/hdvila-100m --visualize

Reads   video_clips/<id[:2]>/<id>/<clip_id> of the work folder, and where each clip begins from video_scenes/.
Writes  object_tracks/<id[:2]>/<id>/<clip>.txt (MOT text, frames and ids from 1), <clip>.mp4 with the tracks drawn in
        (--visualize) and <clip>.jsonl.gzip (records, times on the source video's clock). What is there stays, whatever
        the flags were: to see a clip with others, remove its files.
"""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace

from trackverse import cli, scenes, stage, tracking_flags
from trackverse.drawing import draw_tracks
from trackverse.errors import SetupError
from trackverse.export import write_mot
from trackverse.filters import FilterConfig
from trackverse.layout import Layout, ObjectTracksLayout, failed_path, lock_path
from trackverse.records import describe
from trackverse.store import origin_of, write_records
from trackverse.tracking import track_clip
from trackverse.types import Clip
from trackverse.video import frame_times, probe
from trackverse.worklist import Tally, Worklist


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__)
    cli.add_workdir(parser)
    parser.add_argument("--visualize", action="store_true", help="also write a video with the tracks drawn in")
    # To look at, so small and short tracks are shown too.
    tracking_flags.add(parser, frame_rate=16, filters=FilterConfig(min_track_len=1.0, min_track_area=0.0))
    return parser


def work(args: Namespace, rank: int) -> Tally:
    """This worker's clips, one after the other."""
    settings = tracking_flags.settings(args)
    layout = Layout(cli.workdir(args))
    threads = tracking_flags.threads_of_a_worker(args.num_workers)
    detector = functools.cache(lambda: tracking_flags.load(args, settings))

    def outputs(clip: Clip) -> ObjectTracksLayout:
        return ObjectTracksLayout(layout.object_tracks_video_dir(clip.video_id), clip.clip_id)

    tally = Tally()
    todo = Worklist(
        my_clips(args, layout, rank),
        key=lambda clip: clip.clip_id,
        is_done=lambda clip: outputs(clip).is_done(drawn=args.visualize),
        claim_path=lambda clip: lock_path(outputs(clip).records_path),
        failed_path=failed_path(layout.object_tracks_dir),
        tally=tally,
        retry_failed=args.retry_failed,
        dry_run=args.dry_run,
        is_forgotten=lambda clip: layout.is_forgotten(clip.video_id),
        prepare=detector,
    )
    for clip in cli.progress(todo, what="clips"):
        with todo.attempt(clip):
            path = layout.clip_path(clip.video_id, clip.clip_id)
            video = probe(path)
            # The file begins where the clip does: track on its clock, then move the tracks to the source video's.
            in_file = replace(clip, start_s=0.0, end_s=video.duration_s)
            found = track_clip(path, video, in_file, detector(), settings, dropped=tally.dropped, num_threads=threads)
            tracks = [replace(track, times_s=track.times_s + clip.start_s) for track in found]
            origin = origin_of(clip, video.frame_hw, settings.as_dict())
            records = [describe(track, n, origin, detector().labels) for n, track in enumerate(tracks)]
            output = outputs(clip)
            write_mot(output.mot_path, records, start_s=clip.start_s, frame_times_s=frame_times(path))
            if args.visualize:
                draw_tracks(path, output.video_path, records, start_s=clip.start_s, video=video)
            write_records(output.records_path, records)  # last: from now on the clip is done
    return tally


def my_clips(args: Namespace, layout: Layout, rank: int) -> Iterator[Clip]:
    """This worker's share of the clips that cut_videos.py wrote."""
    cuts = (scenes.load_whole(path) for path in layout.scenes_paths())
    kept = (clip for cut in cuts if cut and cut.clip_mode for clip in cut.kept)
    return stage.share(kept, args, rank)


def check(args: Namespace) -> None:
    """What must hold before anything starts."""
    tracking_flags.settings(args)
    layout = Layout(cli.workdir(args))
    if not layout.clips_dir.is_dir():
        raise SetupError(f"{layout.clips_dir}: no clips there; run cut_videos.py on this work folder first")


if __name__ == "__main__":
    sys.exit(
        stage.start(
            make_parser(),
            work,
            what="clips",
            output_dir=lambda args: Layout(cli.workdir(args)).object_tracks_dir,
            check=check,
        )
    )
