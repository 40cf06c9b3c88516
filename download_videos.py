"""Download the videos of a metafile: 720p, original frame rate, an MP4 each and a JSON file that says where it is from.

python download_videos.py --workdir data/hdvila-100m --metafile assets/hdvila/hdvila100m_metadata.json
python download_videos.py --workdir data/hdvila-100m --metafile ids.txt --num_workers 4 --max_per_hour 300
python download_videos.py --workdir data/hdvila-100m --metafile part0.jsonl part1.jsonl --cookies cookies.txt --slurm
python download_videos.py --workdir data/hdvila-100m --metafile ids.txt --retry_failed geo-blocked --proxy socks5://host:1080

Videos go to WORKDIR/videos_mp4/<first two characters of the id>/<id>.mp4. The same command again fetches only what is
missing; any number of copies may run at once. Failures are listed in WORKDIR/videos_mp4/failed.jsonl with their class:

transient    a broken connection, a server's error: tried again by the next runs, until it has failed in 5 in a row
conditional  geo-blocked, age, members only, login, upcoming: tried again with --retry_failed conditional, when somebody
             else, somewhere else or later might get it
permanent    removed, private, DRM, 404: tried again with --retry_failed permanent

--retry_failed also takes a reason of failed.jsonl, or nothing for all. When the site refuses us and not the video (rate
limit, bot check, many 403 in a row), the worker stops with status 1 and the video is not marked. Processes behind one
IP address share what the site gives that address: --max_per_hour holds for all that work on one folder.
"""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace

from trackverse import cli, download, stage
from trackverse.download import DownloadConfig
from trackverse.errors import SetupError
from trackverse.layout import Layout, failed_path, lock_path
from trackverse.pacing import Pace
from trackverse.refusals import SuspectStreak
from trackverse.worklist import Tally, Worklist

log = logging.getLogger("trackverse.download_videos")
DEFAULTS = DownloadConfig()


def make_parser() -> cli.Parser:
    parser = cli.stage_parser(__doc__)
    cli.add_workdir(parser)
    parser.add_argument(
        "--metafile",
        type=cli.folder,
        nargs="+",
        required=True,
        metavar="FILE",
        help="videos to download: HD-VILA's metadata, or a text file of ids or URLs, one a line",
    )
    parser.add_argument("--audio", action="store_true", help="keep the sound")
    parser.add_argument(
        "--resolution",
        type=cli.at_least_one,
        default=DEFAULTS.resolution,
        metavar="PIXELS",
        help="of the smaller side: the best up to this, else the smallest above",
    )
    parser.add_argument(
        "--sleep",
        type=float,
        metavar="SECONDS",
        help=f"pause between videos (default: {download.YOUTUBE_PAUSE_S:g} for YouTube, else 0)",
    )
    parser.add_argument(
        "--max_per_hour",
        type=cli.at_least_one,
        metavar="N",
        help="start at most N videos an hour, all workers and copies over this work folder together "
        "(default: no limit; YouTube gives a guest about 300)",
    )
    parser.add_argument("--retries", type=int, default=DEFAULTS.retries, metavar="N", help="of a broken request")
    parser.add_argument("--proxy", metavar="URL", help="http, socks4 or socks5 proxy (default: the environment's)")
    parser.add_argument(
        "--cookies", type=cli.folder, metavar="FILE", help="cookies in Netscape's format; never changed"
    )
    parser.add_argument(
        "--allow_private", action="store_true", help="also take URLs of this host and of private networks"
    )
    return parser


def check(args: Namespace) -> None:
    """Say at once what YouTube's videos would lack; its first video is then an error, and no other site's is."""
    try:
        download.check_youtube_tools()
    except SetupError as error:
        log.warning("%s", error)


def work(args: Namespace, rank: int) -> Tally:
    """Download this worker's share of the videos."""
    layout = Layout(cli.workdir(args))
    tally = Tally()
    streak, pace = SuspectStreak(), Pace(layout.last_start_path, args.max_per_hour)
    todo = Worklist(
        stage.videos(args, args.metafile, rank, tally),
        key=lambda video: video.video_id,
        is_done=lambda video: layout.video_path(video.video_id).exists(),
        claim_path=lambda video: lock_path(layout.video_path(video.video_id)),
        failed_path=failed_path(layout.videos_dir),
        tally=tally,
        retry_failed=args.retry_failed,
        max_tries=download.MAX_TRIES,
        dry_run=args.dry_run,
        is_forgotten=lambda video: layout.is_forgotten(video.video_id),
    )
    with download.private_cookies(args.cookies) as cookies_path:
        config = DownloadConfig(
            resolution=args.resolution,
            audio=args.audio,
            proxy=args.proxy,
            cookies_path=cookies_path,
            allow_private=args.allow_private,
            pause_s=args.sleep,
            retries=args.retries,
        )
        for number, video in enumerate(cli.progress(todo, what="videos")):
            if number:
                time.sleep(download.pause_s(video, config))
            pace.wait()
            with todo.attempt(video), streak.watch(video.video_id):
                video_path, provenance_path = layout.video_path(video.video_id), layout.provenance_path(video.video_id)
                download.fetch(video, video_path, provenance_path, config)
    if not args.dry_run:
        pace.tidy()
    return tally


if __name__ == "__main__":
    sys.exit(
        stage.start(
            make_parser(),
            work,
            what="videos",
            output_dir=lambda args: Layout(cli.workdir(args)).videos_dir,
            parts="metafile",
            check=check,
        )
    )
