"""One HTML page to look at a folder of tracks: what is in it, and a picture of some of it.

    python -m trackverse.report --tracks_dir ${TRACKVERSE_DB}/tracks_meta/coco \\
        --videos_dir ${TRACKVERSE_DB}/videos_mp4 --output_file tracks.html

Reads   <tracks_dir>/<id[:2]>/<id>-meta.jsonl.gzip and, for the pictures, <videos_dir>/<id[:2]>/<id>.mp4.
Writes  <output_file>: complete in itself, it loads nothing from the network and runs no script.

A picture that can't be had leaves a gap on the page; gaps and unreadable track files are counted, and end in status 1.
"""

from __future__ import annotations

import base64
import html
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from trackverse import charts, cli, files, html_page
from trackverse.errors import ItemError, RecordError, SetupError, VideoError
from trackverse.html_page import figure
from trackverse.layout import TracksLayout, lock_path, video_in
from trackverse.records import TrackRecord
from trackverse.store import read_records
from trackverse.types import Float64, UInt8
from trackverse.video import read_frames
from trackverse.wording import counted
from trackverse.worklist import Tally

log = logging.getLogger("trackverse.report")
MARGIN = 0.4  # of the box's longer side, around it: an object is told by its surroundings too
MAX_PICTURE_SIDE = 320  # px: sharp on a dense screen, and 60 pictures make a page of about a megabyte
MIN_PICTURE_SIDE = 24
JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Glance:
    """What the page needs of a track, without its frames.

    `middle_s` and `middle_tlwh` (px) are of the frame that is nearest to the middle of the track. `score` is the mean
    class score × objectness of its best class, None if it isn't recorded; `video_hw` and `first_xy`, the centre of the
    first box as shares of the frame's width and height, are None where the layout doesn't tell the frame's size.
    """

    video_id: str
    track_id: int
    label: str
    score: float | None
    start_s: float
    end_s: float
    middle_s: float
    middle_tlwh: tuple[float, float, float, float]
    video_hw: tuple[int, int] | None
    first_xy: tuple[float, float] | None

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Picture:
    """A JPEG image, its size, and the object's box (tlwh) in its pixels."""

    jpeg: bytes
    hw: tuple[int, int]
    tlwh: tuple[float, float, float, float]


def glance(record: TrackRecord) -> Glance:
    """The short form of a record of any layout."""
    times, weighted = record.times_s, record.top.weighted
    middle = int(np.abs(times - (times[0] + times[-1]) / 2).argmin())
    left, top, width, height = record.tlwh[middle].tolist()
    video_hw = record.origin.video_hw if record.origin and min(record.origin.video_hw) > 0 else None
    first_xy = None
    if video_hw:
        centre = (record.tlwh[0, :2] + record.tlwh[0, 2:] / 2) / video_hw[::-1]
        first_xy = (float(centre[0]), float(centre[1]))
    return Glance(
        record.video_id,
        record.track_id,
        record.top.labels[0],
        float(weighted[0, 0]) if weighted.shape[1] else None,
        float(times[0]),
        float(times[-1]),
        float(times[middle]),
        (left, top, width, height),
        video_hw,
        first_xy,
    )


def read_glances(meta_path: Path, tally: Tally) -> Iterator[Glance]:
    """The tracks of a file as far as it can be read; what is wrong with the rest is counted as one failure."""
    try:
        yield from map(glance, read_records(meta_path))
    except (RecordError, OSError) as error:
        tally.failed[error.reason if isinstance(error, RecordError) else "unreadable track file"] += 1
        log.warning("%s; the rest of the file is left out", error)


def choose(tracks: Sequence[Glance], max_tracks: int) -> list[Glance]:
    """At most `max_tracks` tracks, by class and score: the best of every class, then the second best, and so on.

    Classes come by their number of tracks, so that with few places the most frequent ones are seen.
    """
    sizes = Counter(track.label for track in tracks)

    def by_class(track: Glance) -> tuple[int, str, float, str, int]:
        score = -1.0 if track.score is None else track.score
        return -sizes[track.label], track.label, -score, track.video_id, track.track_id

    ordered = sorted(tracks, key=by_class)
    places = {label: count() for label in sizes}
    # Sorting is stable: tracks of the same place within their class stay in the order of the classes.
    in_turn = sorted(ordered, key=lambda track: next(places[track.label]))
    return sorted(in_turn[:max_tracks], key=by_class)


def picture_of(track: Glance, videos_dir: Path) -> Picture:
    """The object and its surroundings in the middle of the track, out of the source video.

    Raises ItemError (reason "no frame at that time", "bad id", or as `read_frames` says).
    """
    path = video_in(videos_dir, track.video_id)
    batch = next(read_frames(path, start_s=track.middle_s, batch_size=1), None)
    if batch is None:
        raise VideoError(f"{path}: ends before {track.middle_s:.3f} s", reason="no frame at that time")
    image: UInt8 = batch.images[0]
    frame_wh = np.array(image.shape[1::-1], np.float64)
    # The video may have been fetched at another size than the tracks were made from.
    scale = frame_wh / track.video_hw[::-1] if track.video_hw else np.ones(2)
    left_top, size = np.array(track.middle_tlwh[:2]) * scale, np.array(track.middle_tlwh[2:]) * scale
    # A square around the box, moved or cut where the frame ends.
    side = np.clip(size.max() * (1 + 2 * MARGIN), MIN_PICTURE_SIDE, frame_wh).round()
    corner = np.clip(left_top + size / 2 - side / 2, 0, frame_wh - side).round()
    (left, top), (width, height) = corner.astype(int), side.astype(int)
    shrink = min(1.0, MAX_PICTURE_SIDE / side.max())
    small_wh = np.maximum(side * shrink, 1).astype(int).tolist()
    crop = cv2.resize(image[top : top + height, left : left + width], small_wh, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    x, y, w, h = np.concatenate([left_top - corner, size]) * shrink
    return Picture(jpeg.tobytes(), (crop.shape[0], crop.shape[1]), (float(x), float(y), float(w), float(h)))


def make_page(
    tracks: Sequence[Glance], videos_dir: Path, *, title: str = "Tracks", max_tracks: int = 60, tally: Tally
) -> str:
    """The page, as HTML. Pictures that can't be had are counted in `tally`; what it counted before is told as well."""
    shown = choose(tracks, max_tracks)
    cards = [_card(track, _picture_or_reason(track, videos_dir, tally)) for track in shown]
    lengths = np.array([track.length_s for track in tracks])
    begins = [track.first_xy for track in tracks if track.first_xy is not None]
    unplaced = len(tracks) - len(begins)
    sizes = Counter(track.label for track in tracks)
    left_out = f"; {unplaced:,} of unknown frame size left out" * bool(unplaced)
    how = ": the best-scored of each class in turn" if len(shown) < len(tracks) else ", by class and score"
    told = f"{len(shown):,} of {len(tracks):,}{how}. Each picture is of the middle of its track."
    return html_page.filled(
        title=title,
        numbers=_numbers(tracks, lengths),
        notes=[f"{number:,} × {html.escape(reason)}" for reason, number in tally.failed.most_common()],
        figures=(
            figure("Classes", "tracks of each class", charts.classes(sizes)),
            figure("Track lengths", "tracks by seconds from first to last frame", charts.lengths(lengths)),
            figure("Where tracks begin", f"centre of the first box in the frame{left_out}", charts.places(begins)),
        ),
        shown=told if tracks else "There are no tracks.",
        cards=cards,
    )


def _picture_or_reason(track: Glance, videos_dir: Path, tally: Tally) -> Picture | str:
    try:
        return picture_of(track, videos_dir)
    except ItemError as error:
        tally.failed[error.reason] += 1
        log.warning("no picture of track %d: %s", track.track_id, error)
        return error.reason


def _numbers(tracks: Sequence[Glance], lengths: Float64) -> dict[str, str]:
    total_s = float(lengths.sum())
    return {
        "videos with tracks": f"{len({track.video_id for track in tracks}):,}",
        "tracks": f"{len(tracks):,}",
        "tracked in all": f"{total_s / 3600:,.1f} h" if total_s >= 3600 else f"{total_s / 60:.1f} min",
        "classes": f"{len({track.label for track in tracks}):,}",
        "median length": f"{np.median(lengths):.1f} s" if len(lengths) else "–",
    }


def _card(track: Glance, picture: Picture | str) -> str:
    label, video_id = html.escape(track.label), html.escape(track.video_id)
    score = "" if track.score is None else f'<span title="class score × objectness">{track.score:.2f}</span>'
    return (
        f'<li class="panel">{_picture(picture, label)}<div class="told"><b><bdi>{label}</bdi>{score}</b>'
        f"<bdi>{video_id} #{track.track_id}</bdi>"
        f"{_clock(track.start_s)}–{_clock(track.end_s)} · {track.length_s:.1f} s</div></li>"
    )


def _picture(picture: Picture | str, label: str) -> str:
    """As SVG, so that the box is a sharp line at every size. `label` is escaped already."""
    if isinstance(picture, str):
        return f'<div class="picture">no picture: {html.escape(picture)}</div>'
    height, width = picture.hw
    x, y, box_width, box_height = (f"{value:.1f}" for value in picture.tlwh)
    data = base64.b64encode(picture.jpeg).decode()
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f'<image width="{width}" height="{height}" href="data:image/jpeg;base64,{data}"/>'
        f'<rect x="{x}" y="{y}" width="{box_width}" height="{box_height}" rx="1"/></svg>'
    )


def _clock(time_s: float) -> str:
    """75.25 as 1:15.2, 3675.25 as 1:01:15.2; what is shown is cut, not rounded up to 60.0."""
    tenths = math.floor(time_s * 10 + 1e-6)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{tenths / 10:04.1f}"


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.report")
    add = parser.add_argument
    add("--tracks_dir", type=cli.folder, required=True, metavar="DIR", help="folder of tracks, tracks_meta/<vocab>")
    add("--videos_dir", type=cli.folder, required=True, metavar="DIR", help="videos_mp4 or videos_blurred")
    add("--output_file", type=cli.folder, required=True, metavar="FILE", help="the page, an .html file")
    add("--max_tracks", type=cli.at_least_one, default=60, metavar="N", help="at most so many pictures")
    add("--title", metavar="TEXT", help="heading (default: the name of --tracks_dir)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status: 1 if a track file or a picture is missing on the page."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)

    def make() -> int:
        layout = TracksLayout(args.tracks_dir)
        meta_paths = layout.some_meta_paths()
        tally = Tally()
        progress = cli.progress(meta_paths, what="track files", total=len(meta_paths))
        tracks = [track for meta_path in progress for track in read_glances(meta_path, tally)]
        forgotten = {video_id for video_id in {track.video_id for track in tracks} if layout.is_forgotten(video_id)}
        tracks = [track for track in tracks if track.video_id not in forgotten]  # in files of several videos
        title = args.title or f"Tracks of {args.tracks_dir.name}"
        page = make_page(tracks, args.videos_dir, title=title, max_tracks=args.max_tracks, tally=tally)
        try:
            with files.claim(lock_path(args.output_file), wait=True), files.atomic_write(args.output_file) as file:
                file.write(page.encode(errors="replace"))  # a title may have come in bytes that aren't UTF-8
        except OSError as error:
            raise SetupError(f"{args.output_file}: can't be written ({error.strerror})") from error
        tally.done = 1
        log.info("%s: %s; %s", args.output_file, counted(len(tracks), "tracks"), tally.summary("pages"))
        return tally.exit_status

    return cli.run(make, goes_on=False)


if __name__ == "__main__":
    sys.exit(main())
