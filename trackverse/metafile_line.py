"""A line of a metafile: which video, and which spans of it.

Taken: HD-VILA-100M's lines (`{"video_id", "url", "clip": [{"clip_id", "span": [start, end]}]}`), the mined form
(`{"clip_id": "<id>.<n>", "duration": [start, end]}`), a YouTube id and a URL. Spans are `HH:MM:SS.mmm` or seconds.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from trackverse import jsonl
from trackverse.errors import RecordError
from trackverse.layout import check_name
from trackverse.types import Clip, SourceVideo

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
YOUTUBE_HOSTS = ("youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be")


def parse(line: bytes, where: object) -> SourceVideo:
    """The video of a line. Raises RecordError naming `where` (reason "bad line" or "bad JSON").

    What it is, each line says by itself: a torn first line must not turn all others into something else.
    """
    return parse_json(jsonl.parse(line, where), where) if line.startswith(b"{") else parse_text(line, where)


def parse_json(entry: Any, where: object) -> SourceVideo:
    """The video of HD-VILA's or the mined form's value. Raises RecordError (reason "bad line") naming `where`."""
    try:
        if "duration" in entry and "video_id" not in entry:
            clip_id = jsonl.text(entry["clip_id"])
            video_id = clip_id.removesuffix(".mp4").rpartition(".")[0]
            return SourceVideo(check_name(video_id), None, (_clip(video_id, clip_id, entry["duration"]),))
        video_id = check_name(jsonl.text(entry["video_id"]))
        url = entry.get("url")
        clips = entry.get("clip")
        return SourceVideo(
            video_id,
            jsonl.text(url) if url is not None else youtube_url(video_id),
            None if clips is None else tuple(_clip(video_id, jsonl.text(c["clip_id"]), c["span"]) for c in clips),
        )
    except RecordError as error:
        raise RecordError(f"{where}: {error}", reason="bad line") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{where}: not an HD-VILA line ({jsonl.misfit(error)})", reason="bad line") from error


def _clip(video_id: str, clip_id: str, span: Any) -> Clip:
    start_s, end_s = (parse_time(value) for value in span)
    return Clip(video_id, check_name(clip_id if clip_id.endswith(".mp4") else f"{clip_id}.mp4"), start_s, end_s)


def parse_text(line: bytes, where: object) -> SourceVideo:
    """The video of a YouTube id or an http(s) URL (a YouTube one, or any: then the id is made from it).

    Raises RecordError (reason "bad line") naming `where`.
    """
    text = line.decode(errors="replace")
    if YOUTUBE_ID.fullmatch(text):
        return SourceVideo(text, youtube_url(text), None)
    try:
        url = urlsplit(text)
    except ValueError:
        url = urlsplit("")
    if url.scheme not in ("http", "https") or not url.netloc:
        raise RecordError(f"{where}: neither JSON, nor a YouTube id, nor an http(s) URL", reason="bad line")
    if url.hostname in YOUTUBE_HOSTS:
        video_id = parse_qs(url.query).get("v", [url.path.rpartition("/")[2]])[0]
        if not YOUTUBE_ID.fullmatch(video_id):
            raise RecordError(f"{where}: no video id in {text[:80]!r}", reason="bad line")
        return SourceVideo(video_id, youtube_url(video_id), None)
    # Other sites have no id in the line: 66 bits of the URL's hash keep two videos called `video.mp4` apart.
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())[:11].decode()
    return SourceVideo(digest, text, None)


def youtube_url(video_id: str) -> str | None:
    """The watch page of a YouTube id; None for ids of another shape."""
    return f"https://www.youtube.com/watch?v={video_id}" if YOUTUBE_ID.fullmatch(video_id) else None


def parse_time(value: Any) -> float:
    """Seconds of `HH:MM:SS.mmm`, `MM:SS` or a number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{jsonl.shown(value)} is not a time")
    if isinstance(value, str):
        fields = value.split(":")
        if len(fields) > 3 or not all(re.fullmatch(r"\d{1,9}(\.\d{1,9})?", field) for field in fields):
            raise ValueError(f"{jsonl.shown(value)} is not HH:MM:SS.mmm")
        seconds = sum(float(field) * 60.0**power for power, field in enumerate(reversed(fields)))
    else:
        seconds = float(value) if 0 <= value < 1e15 else math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"{jsonl.shown(value)} is not a time")
    return seconds


def format_time(seconds: float) -> str:
    """Seconds as HD-VILA writes them, `HH:MM:SS.mmm`."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}.{milliseconds % 1000:03}"


def to_json(video: SourceVideo) -> dict[str, Any]:
    """A video in HD-VILA's line shape."""
    entry: dict[str, Any] = {"video_id": video.video_id, "url": video.url}
    if video.clips is not None:
        entry["clip"] = [
            {"clip_id": clip.clip_id, "span": [format_time(clip.start_s), format_time(clip.end_s)]}
            for clip in video.clips
        ]
    return entry
