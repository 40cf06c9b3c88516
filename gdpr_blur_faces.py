"""Blur the faces in videos with deface, and what looks like a licence plate on the vehicles that are found.

./gdpr_blur_faces.sh                                     # every video of $TRACKVERSE_DB/videos_mp4
./gdpr_blur_faces.sh --output_dir blurred a.mp4 folder   # these, under the same names in another folder
./gdpr_blur_faces.sh --in_place folder --jobs 4          # these, replaced, four at a time
./gdpr_blur_faces.sh --plates region                     # the lower two thirds of vehicles, to be safer

Without paths, videos go to WORKDIR/videos_blurred/<first two characters of the id>/<id>.mp4. The frames' size, number,
times and rotation stay as they were, and so does the audio. The same command again does only what is missing, or what
was blurred with other --plates; any number of copies may run at once. Failures are listed with their reasons in
failed.jsonl in the output folder. NOT every face and NOT every plate is found: look at the result before publishing.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trackverse import blur, cli, plates, stage
from trackverse.errors import SetupError
from trackverse.layout import Layout, failed_path, lock_path
from trackverse.worklist import Tally, Worklist

DEFAULTS = blur.BlurConfig()


@dataclass(frozen=True)
class Job:
    """One video to blur; `name` is its path below the folder that was named, and how failures are known."""

    name: str
    source_path: Path
    output_path: Path


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__)
    cli.add_workdir(parser)
    parser.add_argument("inputs", nargs="*", type=cli.folder, metavar="PATH", help="videos or folders of videos")
    parser.add_argument("--output_dir", type=cli.folder, metavar="DIR", help="write there, under the same names")
    text = "replace the videos by the blurred ones; NAME.blurred.json beside each says what was blurred"
    parser.add_argument("--in_place", action="store_true", help=text)
    parser.add_argument("--no_audio", dest="audio", action="store_false", help="leave the audio out")
    parser.add_argument("--keep_audio", action="store_true", help="keep the audio: done anyhow without --no_audio")
    parser.add_argument(
        "--plates",
        default="auto",
        metavar="{auto,region,off,MODEL.onnx}",
        help="blur what looks like a plate on a vehicle; the lower two thirds of vehicles; nothing; or what a plate "
        "detector of yours finds (float32 RGB from 0 to 1 [1, 3, H, W] in, [N, 5] left, top, right, bottom, score out)",
    )
    parser.add_argument(
        "--face_thresh",
        type=cli.fraction,
        default=DEFAULTS.face_thresh,
        metavar="SCORE",
        help="least score of a face: lower blurs more, also what is no face",
    )
    parser.add_argument(
        "--detector_size",
        type=cli.at_least_one,
        metavar="PIXELS",
        help="long side of the frames for the detector only: faster, misses small faces (default: as they are)",
    )
    return parser


def stage_dir(args: Namespace) -> Path:
    """Where the list of failures goes: the output folder, or with --in_place the folder that all the videos are in."""
    if args.in_place and args.output_dir:
        raise SetupError("--in_place and --output_dir: only one of them")
    if args.output_dir:
        return Path(args.output_dir)
    if not args.inputs:
        return Layout(cli.workdir(args)).blurred_dir
    if not args.in_place:
        raise SetupError("where to? give --output_dir DIR, or --in_place to replace the videos")
    return Path(os.path.commonpath([path if path.is_dir() else path.parent for path in args.inputs]))


def find_jobs(args: Namespace) -> list[Job]:
    """All the videos of the command line, or of the work folder."""
    target_dir = stage_dir(args)
    jobs = []
    for path in args.inputs or [Layout(cli.workdir(args)).videos_dir]:
        if not path.exists():
            raise SetupError(f"{path}: no such file or folder: download videos first, or name some")
        root = target_dir if args.inputs and args.in_place else path if path.is_dir() else path.parent
        for source_path in blur.find_videos(path) if path.is_dir() else [path]:
            if args.output_dir and source_path.is_relative_to(target_dir) and path.is_dir():
                continue  # a blurred one of an earlier run, where the output folder is inside the input folder
            name = source_path.relative_to(root)
            jobs.append(Job(str(name), source_path, source_path.resolve() if args.in_place else target_dir / name))
    jobs = list(dict.fromkeys(jobs))
    for output_path, times in Counter(job.output_path for job in jobs).items():
        if times > 1:
            raise SetupError(f"{output_path}: {times} of the videos would get this name: run the command for each")
    for job in jobs:
        if job.output_path == job.source_path and not args.in_place:
            raise SetupError(f"{job.source_path}: would be replaced: choose another --output_dir, or give --in_place")
    return jobs


def load_blurrers(args: Namespace) -> list[blur.Blurrer]:
    config = blur.BlurConfig(face_thresh=args.face_thresh, detector_size=args.detector_size)
    finder = plates.load_finder(args.plates)
    return [blur.FaceBlurrer(config), *([plates.PlateBlurrer(finder)] if finder else [])]


def is_done(job: Job, wanted: set[str], *, in_place: bool) -> bool:
    """Whether everything wanted is blurred in the output. One from elsewhere is somebody's own: it is left alone."""
    done = blur.blurred_in_place(job.output_path) if in_place else blur.blurred_in(job.output_path)
    return wanted <= done or (not in_place and not done and job.output_path.exists())


def is_forgotten(job: Job) -> bool:
    """Whether the video, by its name, is to be forgotten in the work folder that it lies in."""
    work = Layout.above(job.source_path.parent)
    return work is not None and work.is_forgotten(job.source_path.stem)


def work(args: Namespace, rank: int) -> Tally:
    """Blur this worker's share of the videos."""
    wanted = {blur.FaceBlurrer.what} | ({f"plates {plates.name_of(args.plates)}"} if args.plates != "off" else set())
    blurrers: list[blur.Blurrer] = []  # their networks are loaded only if there is something to do
    todo = Worklist(
        stage.share(find_jobs(args), args, rank),
        key=lambda job: job.name,
        is_done=lambda job: is_done(job, wanted, in_place=args.in_place),
        claim_path=lambda job: lock_path(job.output_path),
        failed_path=failed_path(stage_dir(args)),
        tally=Tally(),
        retry_failed=args.retry_failed,
        dry_run=args.dry_run,
        is_forgotten=is_forgotten,
        prepare=lambda: blurrers or blurrers.extend(load_blurrers(args)),
    )
    for job in cli.progress(todo, what="videos"):
        with todo.attempt(job):
            blur.blur_video(job.source_path, job.output_path, blurrers, keep_audio=args.audio)
    return todo.tally


if __name__ == "__main__":
    sys.exit(stage.start(make_parser(), work, what="videos", output_dir=stage_dir))
