"""The one door to video files that others made: what is opened, how large it may get, and its packets."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from trackverse.errors import VideoError

MAX_SIDE = 16384  # px: no codec in use goes further, so a larger frame is damage or malice
MAX_PIXELS = 8192 * 4320  # 8K; a decoder holds up to 17 frames of H.264, here 1 GB of them
# The most bytes that libav may ask for at once. Its index of a file has 24 of them for each frame that the header
# claims: a few bytes of header would take several GB by its own limit of 2 GB.
MAX_ALLOCATION = 256 << 20
# Containers of video. Playlists, picture sequences and text are left out: they make libav open other files and hosts.
CONTAINERS = "mov,matroska,avi,flv,mpegts,mpeg,asf,ogg,ivf,h264,hevc,m4v"
GET_AGAIN = "; remove it and get it again"  # how messages about a damaged file end
StreamT = TypeVar("StreamT", bound=Stream)


def open_container(path: Path, containers: str = CONTAINERS) -> InputContainer:
    """The file, open for reading packets.

    Only `containers` of video are taken, and no file or host that they might name is opened; how large frames and
    libav's own tables may get is bounded. Raises VideoError if the file isn't there or is no such video.
    """
    _check_file(path)
    _bound_allocations()
    # The bound on pixels holds while libav looks for the streams, and for a size that changes midway.
    bounds = {"max_pixels": str(MAX_PIXELS)}
    options = {"format_whitelist": containers, "protocol_whitelist": "file", "enable_drefs": "0"} | bounds
    try:
        container = av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise _open_error(path, error) from error
    for stream in container.streams.video:
        if stream.codec_context is None:
            continue
        if max(stream.width, stream.height) > MAX_SIDE or stream.width * stream.height > MAX_PIXELS:
            container.close()
            limit = f"{MAX_SIDE} a side or {MAX_PIXELS / 1e6:.1f} million"
            message = f"{path}: frames of {stream.width} x {stream.height} px, over {limit}"
            raise VideoError(message, reason="frame too large")
        stream.codec_context.options = bounds
    return container


@functools.cache
def _bound_allocations() -> None:
    """Set libav's limit on one allocation, for which PyAV has no call, in the libavutil that PyAV has loaded."""
    maps = Path("/proc/self/maps")
    loaded = re.search(r"/\S*libavutil\S*", maps.read_text()) if maps.exists() else None
    if loaded:
        set_limit = ctypes.CDLL(loaded[0]).av_max_alloc
        set_limit.argtypes, set_limit.restype = [ctypes.c_size_t], None
        set_limit(MAX_ALLOCATION)


def demux(container: InputContainer, stream: StreamT) -> Iterator[Packet[StreamT]]:
    """The stream's packets, in the order of the file, from where the container is.

    The last one is empty, which makes a decoder give what it holds back. It is marked as corrupt if the one before it
    is torn, or if the demuxer lost its way there.
    """
    is_torn = False
    try:
        packets: Iterator[Packet[Any]] = container.demux(stream)
        for packet in packets:
            if packet.size:
                is_torn = packet.is_corrupt
                yield packet
    except av.FFmpegError:
        is_torn = True
    except IndexError:
        pass  # after the last packet, PyAV trips over streams that came up midway
    last: Packet[Any] = Packet()
    last.stream = stream
    last.is_corrupt = is_torn
    yield last


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file", reason="video missing", retry=True) from error
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}", reason="unreadable file", retry=True) from error
    if size == 0:
        raise VideoError(f"{path}: empty file{GET_AGAIN}", reason="empty file")


def _open_error(path: Path, error: av.FFmpegError) -> VideoError:
    """Why libav can't open a file that exists."""
    if not path.is_file():
        return VideoError(f"{path}: not a file", reason="not a video")
    if isinstance(error, PermissionError):
        return VideoError(f"{path}: {error.strerror}", reason="unreadable file", retry=True)
    with open(path, "rb") as file:
        head = file.read(8)
    if head[4:] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":  # what MP4 and Matroska begin with
        return VideoError(f"{path}: cut off or damaged{GET_AGAIN}", reason="truncated video")
    return VideoError(f"{path}: not a video file ({error.strerror})", reason="not a video")
