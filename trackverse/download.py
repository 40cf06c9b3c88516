"""One video from its page into the work folder: the only door to yt-dlp."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from yt_dlp import YoutubeDL
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.globals import supported_js_runtimes
from yt_dlp.networking.exceptions import RequestError, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, UnavailableVideoError

from trackverse import downloaded, files, jsonl, refusals, video
from trackverse.errors import ItemError, SetupError, TrackverseError, VideoError
from trackverse.public_web import PrivateAddressError, PublicRH
from trackverse.refusals import CONDITIONAL, INSTALL_HINT, PERMANENT, TRANSIENT
from trackverse.slow_bodies import PacedBody
from trackverse.types import SourceVideo

log = logging.getLogger(__name__)

YOUTUBE_DOMAINS = ("youtube.com", "youtu.be", "youtube-nocookie.com")
YOUTUBE_PAUSE_S = 10.0  # a guest gets about 300 videos an hour (yt-dlp's wiki, "Extractors")
MAX_PAUSE_S = 86_400
SILENCE_S = 30.0  # in which nothing comes
MAX_TRIES = 5  # runs in a row in which a video fails for what might have passed
PROXY_SCHEMES = ("http", "socks4", "socks4a", "socks5", "socks5h")
FILE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT} | {
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EFBIG,
}
NEVER_WHOLE = ("no video stream", "not a video", "frame too large")  # however often it is fetched
# Not what YouTube enlarged to 720p from less ("AI-upscaled" in yt-dlp's notes): its details were never filmed.
REAL = "[format_note!*=?AI-upscaled]"
MAX_FILE_BYTES = 32 << 30  # twelve hours at the 6 Mbit/s of a good 720p; who sends more means to fill the disk


@dataclass(frozen=True)
class DownloadConfig:
    """How videos are fetched. Raises SetupError for numbers below 0 and for a proxy not of `PROXY_SCHEMES`.

    `resolution`: wanted pixels of the smaller side; the best up to it, else the smallest above it. `cookies_path`: a
    cookie file of this process alone, which yt-dlp updates. `pause_s` between videos; None: `YOUTUBE_PAUSE_S` for
    YouTube, else 0. `retries` of one request, with 1, 2, 4, ... 30 s between them.
    """

    resolution: int = 720
    audio: bool = False
    proxy: str | None = None
    cookies_path: Path | None = None
    allow_private: bool = False
    pause_s: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if self.proxy and self.proxy.partition("://")[0] not in PROXY_SCHEMES:
            raise SetupError(f"--proxy {self.proxy}: not one of {', '.join(PROXY_SCHEMES)}://HOST:PORT")
        if self.retries < 0 or (self.pause_s is not None and not 0 <= self.pause_s <= MAX_PAUSE_S):
            raise SetupError(f"--retries is from 0, --sleep from 0 to {MAX_PAUSE_S}")


def fetch(source: SourceVideo, video_path: Path, provenance_path: Path, config: DownloadConfig) -> None:
    """Download a video to `video_path` (MP4, one video stream) and where it came from to `provenance_path`.

    The video appears last and whole. Partial data wait in a hidden folder beside it, and an attempt after a kill or a
    broken connection goes on from there. Raises ItemError, StopWorkError and SetupError as the module says.
    """
    url = _check_url(source)
    if is_youtube(url):
        check_youtube_tools()
    partial_dir = files.temporary_path(video_path).with_suffix("")
    if partial_dir.is_symlink():
        partial_dir.unlink()  # what somebody laid there must not be written through
    try:
        try:
            try:
                info, downloaded_path = _download(url, partial_dir, config)
            except ItemError as error:
                if error.reason != refusals.RANGE_REFUSED:
                    raise
                # What came before is whole, or of another file, and yt-dlp takes neither for what it is.
                _remove(partial_dir)
                info, downloaded_path = _download(url, partial_dir, config)
            mp4_path = downloaded.as_mp4(downloaded_path, keep_audio=config.audio)
            found = downloaded.check_whole(mp4_path, info)
        except VideoError as error:
            _remove(partial_dir)
            kind = PERMANENT if error.reason in NEVER_WHOLE else TRANSIENT
            # The file is gone by now: its URL says more, and the next run gets it again.
            said = str(error).removesuffix(video.GET_AGAIN)
            said = re.sub(rf"^{re.escape(str(partial_dir))}/[^/:]+: ", "", said)
            raise refusals.failure(f"{url}: {said}", error.reason, kind) from error
        except ItemError as error:
            # Only after a broken connection is what came worth keeping.
            if error.reason not in (refusals.BROKEN_CONNECTION, refusals.SERVER_ERROR):
                _remove(partial_dir)
            raise
        with files.atomic_write(provenance_path) as file:
            # Titles may hold half a surrogate pair, which UTF-8 can't.
            file.write(jsonl.dump(downloaded.provenance(url, info, found)).encode(errors="replace") + b"\n")
        # The folder goes first, as nobody would come back for it once the video is there.
        temporary = files.temporary_path(video_path)
        os.replace(mp4_path, temporary)
        _remove(partial_dir)
        files.publish(temporary, video_path)
    except OSError as error:
        raise SetupError(f"{video_path}: can't be written ({error})") from error


def pause_s(source: SourceVideo, config: DownloadConfig) -> float:
    """Seconds to wait before this video if another went before it."""
    if config.pause_s is not None:
        return config.pause_s
    return YOUTUBE_PAUSE_S if source.url and is_youtube(source.url) else 0.0


def is_youtube(url: str) -> bool:
    """Whether the URL is of YouTube. What can't be read as a URL is not."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return any(host == domain or host.endswith("." + domain) for domain in YOUTUBE_DOMAINS)


@functools.cache
def check_youtube_tools() -> None:
    """Raises SetupError unless yt-dlp has what YouTube takes: its EJS package and the JavaScript runtime deno."""
    try:
        ejs = f"yt-dlp-ejs=={importlib.metadata.version('yt-dlp-ejs')}"
    except importlib.metadata.PackageNotFoundError as error:
        raise SetupError(f"YouTube needs the package yt-dlp-ejs: {INSTALL_HINT}") from error
    if not any(wanted.startswith(ejs) for wanted in importlib.metadata.requires("yt-dlp") or []):
        raise SetupError(f"{ejs} is not the one that this yt-dlp needs: {INSTALL_HINT}")
    deno = supported_js_runtimes.value["deno"]().info
    if deno is None or not deno.supported:
        what = "is not there" if deno is None else f"{deno.version} is too old"
        raise SetupError(f"YouTube needs the JavaScript runtime deno, which {what}: {INSTALL_HINT}")


@contextlib.contextmanager
def private_cookies(path: Path | None) -> Iterator[Path | None]:
    """A copy of a cookie file for this process alone: yt-dlp writes its file back, and a shared one would be torn.

    Raises SetupError if the file can't be read as cookies in Netscape's format.
    """
    if path is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="trackverse-") as private_dir:
        copy = Path(private_dir, "cookies.txt")
        try:
            shutil.copyfile(path, copy)
            YoutubeDLCookieJar(copy).load()
        except (OSError, ValueError) as error:
            raise SetupError(f"{path}: not a cookie file in Netscape's format ({error})") from error
        yield copy


# --- asking yt-dlp ---------------------------------------------------------------------------------------------------


def _check_url(source: SourceVideo) -> str:
    """The URL, if it is one of the web. Raises ItemError (reason "bad URL")."""
    try:
        parts = urlsplit(source.url or "")
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_web = False
    if not source.url or not is_web:
        told = f"{source.url[:200]!r} is not an http(s) URL" if source.url else "the metafile gives no URL"
        raise refusals.failure(told, "bad URL", PERMANENT)
    return source.url


def _download(url: str, partial_dir: Path, config: DownloadConfig) -> tuple[dict[str, Any], Path]:
    """yt-dlp's description of the video, and the file that it made of it in `partial_dir`."""
    messages = _Messages()
    try:
        with _Session(options(config) | {"logger": messages}, partial_dir, config.allow_private) as ydl:
            info = ydl.extract_info(url)
    except TrackverseError:
        raise
    # Some 1800 extractors read strangers' pages: whatever else they throw is about this video, and several in a row
    # stop the worker.
    except Exception as error:
        raise translate(error, messages.warnings) from error
    if not info or not info.get("requested_downloads"):
        raise refusals.failure(f"{url}: has no video, or a list of them", "not one video", PERMANENT)
    return info, Path(info["requested_downloads"][0]["filepath"])


def options(config: DownloadConfig) -> dict[str, Any]:
    """yt-dlp's parameters. (Its Python side reads no user configuration.)"""
    backoff = {kind: lambda n: min(30.0, 2.0**n) for kind in ("http", "fragment", "extractor")}
    return {
        "quiet": True,
        "noprogress": True,
        "color": "no_color",
        "format": f"bv*{REAL}+ba/b{REAL}/bv*+ba/b" if config.audio else f"bv{REAL}/b{REAL}/bv/b",
        # `res` is the smaller side. `fps` before `vcodec` keeps the frame rate; plain `res` would prefer AV1.
        "format_sort": [f"res:{config.resolution}", "fps", "vcodec:h264"],
        "merge_output_format": "mp4",
        # With the format in the name, a download that goes on after a kill never mixes two formats.
        "outtmpl": {"default": "%(format_id).60s.%(ext)s"},
        "restrictfilenames": True,
        "noplaylist": True,
        "playlist_items": "1",
        "match_filter": _refuse_lists_and_streams,
        "skip_unavailable_fragments": False,
        "external_downloader": {"default": "native"},
        # What yt-dlp starts ffmpeg for: to fetch streams that it can't itself (this fails, as no protocol but that
        # of files is left: ffmpeg would ask any address), to mend files (we do, with bounds), and to join two.
        "external_downloader_args": {"ffmpeg_i": downloaded.FFMPEG_LIMITS},
        "postprocessor_args": {"ffmpeg_i": downloaded.FFMPEG_LIMITS},
        "fixup": "never",
        "max_filesize": MAX_FILE_BYTES,
        "progress_hooks": [_refuse_endless],
        "socket_timeout": SILENCE_S,
        "retries": config.retries,
        "fragment_retries": config.retries,
        "extractor_retries": config.retries,
        "retry_sleep_functions": backoff,
        "ffmpeg_location": downloaded.ffmpeg_path(),
        "proxy": config.proxy,
        "cookiefile": config.cookies_path and str(config.cookies_path),
    }


def _refuse_endless(progress: dict[str, Any]) -> None:
    """yt-dlp's progress hook: raises ItemError for more than `MAX_FILE_BYTES`, whatever was announced."""
    if (progress.get("downloaded_bytes") or 0) > MAX_FILE_BYTES:
        raise refusals.failure(f"over {MAX_FILE_BYTES >> 30} GB", "file too large", PERMANENT)


def _refuse_lists_and_streams(info: Any, *, incomplete: bool) -> None:
    """yt-dlp's match filter: raises ItemError for what is not one finished video."""
    if info.get("playlist_index") is not None:
        what = info.get("playlist") or "the page"
        raise refusals.failure(f"{what}: a list of videos, not one", "not one video", PERMANENT)
    if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
        raise refusals.failure("is live, or not yet on", "upcoming", CONDITIONAL)


class _Session(YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """A YoutubeDL that writes into `folder`, and whose pages, manifests and media all come through `PublicRH`."""

    def __init__(self, params: dict[str, Any], folder: Path, allow_private: bool) -> None:
        self._folder, self._allow_private = folder, allow_private
        super().__init__(params)

    def prepare_filename(self, *args: Any, **kwargs: Any) -> str:
        """As a part of the template, the folder would have its `$NAME` and `~` replaced, and an id may contain them."""
        return str(self._folder / super().prepare_filename(*args, **kwargs))

    def urlopen(self, request: Any) -> Any:
        """As YoutubeDL's; what hardly comes is a broken connection. (Packed pages are read in there, unwatched.)"""
        response = super().urlopen(request)
        if isinstance(response.fp, HTTPResponse):
            response.fp = PacedBody(response.fp)
        return response

    def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
        return super().build_request_director(handlers if self._allow_private else [PublicRH], preferences)


class _Messages:
    """yt-dlp's messages go to our log; its warnings are kept, as some say why the error that follows came about."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        log.debug("yt-dlp: %s", message)

    def warning(self, message: str) -> None:
        self.warnings.append(message)
        log.debug("yt-dlp: warning: %s", message)

    def error(self, message: str) -> None:
        log.debug("yt-dlp: %s", message)  # comes again as an exception


# --- what went wrong -------------------------------------------------------------------------------------------------


def translate(error: Exception, warnings: Sequence[str]) -> TrackverseError:
    """Our error for one of yt-dlp's, by its text first and its type last. `warnings`: what yt-dlp said before it."""
    cause: BaseException | None = error
    if isinstance(error, DownloadError):
        cause = error.exc_info[1] if error.exc_info else None
    elif isinstance(error, UnavailableVideoError):  # in spite of its name: a file that can't be written
        cause = error.__context__
    text = " ".join(str(error).removeprefix("ERROR: ").split())
    line = re.split(r" \(caused by|; please report this issue", text)[0]
    if isinstance(cause, PrivateAddressError):
        return refusals.failure(line, "private address", CONDITIONAL)
    if isinstance(cause, OSError) and cause.errno in FILE_ERRNOS:
        return SetupError(f"yt-dlp can't write: {line}")
    if known := refusals.translate(text, line, warnings):
        return known
    if cause is None or isinstance(cause, TransportError) or isinstance(getattr(cause, "cause", None), TransportError):
        return refusals.failure(line, refusals.BROKEN_CONNECTION, TRANSIENT)
    if isinstance(cause, RequestError) or (isinstance(cause, ExtractorError) and cause.expected):
        return refusals.failure(line, "refused by the site", PERMANENT)
    return refusals.failure(f"{type(cause).__name__}: {line}", refusals.EXTRACTOR_FAILED, TRANSIENT)


def _remove(folder: Path) -> None:
    if folder.exists():  # yt-dlp makes it when the first data come
        shutil.rmtree(folder)
