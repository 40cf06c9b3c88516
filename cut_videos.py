"""Find the shots of downloaded videos, keep those that trackers can use, and cut them into clips.

python cut_videos.py --workdir data/hdvila-100m --metafile assets/hdvila/hdvila_part0.jsonl
python cut_videos.py --workdir data/hdvila-100m --metafile ids.txt --no_clips --num_workers 8
python cut_videos.py --workdir data/hdvila-100m --metafile part0.jsonl part1.jsonl --vocab lvis --num_parts 128 --slurm

What becomes a clip: the scenes of the video (from one hard cut to the next) or, where the metafile lists spans, what
the spans and the scenes have in common. Of spans that overlap, the one listed first keeps what both have. Dropped,
each with its reason: what is shorter than --min_scene_len or longer than --max_scene_len, and, judged by two frames a
second of its first 8 s (what its length rules out is not), cartoons and what is not nice to look at. Of these, flat
drawings (title cards too) and low technical quality (black, blank, blurred) are found out of the box.

WORKDIR/video_clips/<first two characters of the id>/<id>/<id>.<n>.mp4  the kept clips
WORKDIR/video_scenes/<first two characters of the id>/<id>.json         every segment, with scores and reasons
WORKDIR/mined_segments/<vocab>/part<k>.jsonl                            the kept segments of all videos of WORKDIR
The same command again cuts only videos whose scenes file is missing.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from typing import Literal

from trackverse import cli, filter_flags, scenes, stage
from trackverse.layout import Layout, failed_path, lock_path
from trackverse.scenes import CutConfig, VideoScenes
from trackverse.segments import find_segments
from trackverse.types import SourceVideo
from trackverse.video import cut_clips
from trackverse.wording import counted
from trackverse.worklist import Tally, Worklist

log = logging.getLogger("trackverse.cut_videos")
DEFAULTS = CutConfig()


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__)
    cli.add_workdir(parser)
    parser.add_argument("--metafile", type=cli.folder, nargs="+", required=True, metavar="FILE", help="which videos")
    add = parser.add_argument_group("where shots change").add_argument
    help_text = "PySceneDetect's detector of hard cuts; none: the metafile's spans or the whole video"
    add("--scene_detector", choices=scenes.DETECTORS, default=DEFAULTS.scene_detector, help=help_text)
    help_text = "look only at frames that others are predicted from (H.264), and closely around each cut"
    add("--fast", action="store_true", help=help_text)
    filter_flags.add(parser)
    add = parser.add_argument_group("what is written").add_argument
    add("--no_clips", action="store_true", help="only scenes and segments, no clip files")
    help_text = "copy: quick and without loss, frames before the first are hidden; encode: slow, plain files"
    add("--mode", choices=("copy", "encode"), default="copy", help=help_text)
    help_text = "leave out the sound, which is kept where the video has one (download_videos.py --audio)"
    add("--no_audio", dest="audio", action="store_false", help=help_text)
    help_text = "folder below mined_segments, where parse_tracks.py of this vocabulary looks; a name, nothing else"
    add("--vocab", type=cli.file_name, default="coco", metavar="NAME", help=help_text)
    help_text = "part files of about the same length of video, for as many jobs (the published data set: 128)"
    add("--num_parts", type=cli.at_least_one, default=1, metavar="N", help=help_text)
    return parser


def work(args: Namespace, rank: int) -> Tally:
    """This worker's videos, one after the other."""
    layout = Layout(cli.workdir(args))
    tally = Tally()
    outdated: set[str] = set()
    clip_mode = None if args.no_clips else args.mode + " without sound" * (not args.audio)
    config = CutConfig(scene_detector=args.scene_detector, fast=args.fast, **filter_flags.settings(args))
    filters = [] if args.dry_run else filter_flags.load(args)

    def is_done(video: SourceVideo) -> bool:
        cut = scenes.load_whole(layout.scenes_path(video.video_id))
        if cut is None or (clip_mode and not cut.clip_mode):
            return False
        if not scenes.is_up_to_date(cut, video, config, clip_mode):
            outdated.add(video.video_id)
        return True

    todo = Worklist(
        stage.videos(args, args.metafile, rank, tally),
        key=lambda video: video.video_id,
        is_done=is_done,
        claim_path=lambda video: lock_path(layout.scenes_path(video.video_id)),
        failed_path=failed_path(layout.scenes_dir),
        tally=tally,
        retry_failed=args.retry_failed,
        dry_run=args.dry_run,
        is_forgotten=lambda video: layout.is_forgotten(video.video_id),
    )
    for video in cli.progress(todo, what="videos"):
        with todo.attempt(video):
            path = layout.video_path(video.video_id)
            cut = find_segments(video, path, config, filters, clip_mode=clip_mode)
            if clip_mode:
                write_clips(cut, layout, args.mode, audio=args.audio)
            scenes.save(layout.scenes_path(video.video_id), cut)  # last: from now on the video is done
            tally.dropped.update(segment.reason for segment in cut.segments if segment.reason)
            tally.shortened.update(scenes.why_shortened(video, cut.duration_s))
    if outdated:
        fix = f"remove their files in {layout.scenes_dir} to cut them again"
        log.warning("%s cut with other settings or spans: %s", counted(len(outdated), "videos"), fix)
    return tally


def write_clips(cut: VideoScenes, layout: Layout, mode: Literal["copy", "encode"], *, audio: bool) -> None:
    """The kept clips as files, and no others: what an earlier cut kept and this one doesn't is removed."""
    paths = {layout.clip_path(cut.video_id, clip.clip_id): clip for clip in cut.kept}
    spans = {path: (clip.start_s, clip.end_s) for path, clip in paths.items()}
    cut_clips(layout.video_path(cut.video_id), spans, mode=mode, audio=audio)
    clips_dir = layout.clips_video_dir(cut.video_id)
    for path in set(clips_dir.glob("*.mp4")) - paths.keys():
        path.unlink()


def finish(args: Namespace) -> None:
    """What all videos of the folder came to, whoever cut them."""
    scenes.write_mined_parts(Layout(cli.workdir(args)), args.vocab, args.num_parts)


def is_finished(args: Namespace) -> bool:
    """Whether `finish` was there last: a job may be killed between its last video and that."""
    return scenes.are_mined_parts_written(Layout(cli.workdir(args)), args.vocab, args.num_parts)


if __name__ == "__main__":
    sys.exit(
        stage.start(
            make_parser(),
            work,
            what="videos",
            output_dir=lambda args: Layout(cli.workdir(args)).scenes_dir,
            parts="metafile",
            check=filter_flags.check,
            finish=finish,
            is_finished=is_finished,
        )
    )
