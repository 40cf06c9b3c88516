"""What becomes of a downloaded file: an MP4, if it is whole, and what is told of it. The only door to ffmpeg itself."""

from __future__ import annotations

import datetime
import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from trackverse import refusals, video
from trackverse.errors import SetupError, VideoError
from trackverse.refusals import PERMANENT, TRANSIENT

DURATION_TOLERANCE_S, DURATION_TOLERANCE_FRAC = 1.0, 0.02
FFMPEG_TOLD_TO_END = 255  # its status when it handles a signal itself
# What a downloaded file may be: playlists (hls, concat, dash) would make ffmpeg open other files.
FFMPEG_LIMITS = ["-protocol_whitelist", "file", "-format_whitelist", "mov,matroska,mpegts,mpeg,flv,avi,asf,ogg,aac,mp3"]


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg on PATH, else the one that imageio-ffmpeg brings. Raises SetupError if there is none."""
    try:
        return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise SetupError("no ffmpeg: install it, or pip install imageio-ffmpeg") from error


def as_mp4(path: Path, *, keep_audio: bool) -> Path:
    """`path` itself if it is an MP4 of the wanted streams, else a file beside it to which they are copied unchanged."""
    with open(path, "rb") as file:
        is_mp4 = file.read(8)[4:] == b"ftyp"
    if is_mp4 and (keep_audio or not video.probe(path).has_audio):
        return path
    mp4_path = path.with_suffix(".whole.mp4")
    # `V` leaves out pictures that are attached as a cover.
    streams = ["-map", "0:V:0", *(["-map", "0:a:0?"] if keep_audio else [])]
    command = [ffmpeg_path(), "-nostdin", "-v", "error", "-y", *FFMPEG_LIMITS, "-i", f"file:{path}", *streams]
    command += ["-c", "copy", f"file:{mp4_path}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        if refusals.SETUP.search(done.stderr):
            raise SetupError(f"{mp4_path}: can't be written ({said})")
        if done.returncode < 0 or done.returncode == FFMPEG_TOLD_TO_END:  # which says nothing about the video
            raise refusals.failure(f"ffmpeg was ended by a signal ({said})", "killed", TRANSIENT)
        raise refusals.failure(f"can't be copied into an MP4 ({said})", "does not fit MP4", PERMANENT)
    return mp4_path


def check_whole(path: Path, info: dict[str, Any]) -> video.VideoInfo:
    """What the file holds. Raises VideoError if its end is missing."""
    found = video.decodes_at_both_ends(path)
    announced_s = float(info.get("duration") or 0)
    missing_s = announced_s - found.duration_s
    if missing_s > max(DURATION_TOLERANCE_S, DURATION_TOLERANCE_FRAC * announced_s):
        raise VideoError(f"{found.duration_s:.1f} s came of {announced_s:.1f} s", reason="truncated video")
    return found


def provenance(url: str, info: dict[str, Any], found: video.VideoInfo) -> dict[str, Any]:
    """Where the video came from and what was taken; null where the site doesn't say."""
    keys = ("extractor", "title", "uploader", "channel_id", "license", "upload_date")
    return {
        "url": url,
        **{key: None if info.get(key) is None else str(info[key]) for key in keys},
        "retrieved_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "format": info.get("format"),
        "hw": list(found.frame_hw),
        "fps": found.fps,
        "duration": found.duration_s,
    }
