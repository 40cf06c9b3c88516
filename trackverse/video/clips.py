"""Clips out of videos: exact to the frame, and without encoding again where that works."""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Literal

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from trackverse.errors import VideoError
from trackverse.video import editlist
from trackverse.video.container import StreamT, demux, open_container
from trackverse.video.reading import Painter
from trackverse.video.source import DEFAULT_FRAME_S, OpenVideo, Window, open_video
from trackverse.video.writing import Encoder, open_mp4, published

log = logging.getLogger(__name__)

MAX_HELD_BYTES = 64_000_000  # two to three minutes of 720p
CODECS_COPIED = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4"})


def cut_clip(
    source: Path,
    destination: Path,
    start_s: float,
    end_s: float,
    *,
    mode: Literal["copy", "encode"] = "copy",
    audio: bool = True,
) -> None:
    """Write the frames that begin in [start_s, end_s), and their sound, as the MP4 file `destination`, atomically.

    "copy" keeps the encoded frames as they are, from the key frame before the clip on; an edit list hides those outside
    of it. Players and `read_frames` show exactly the clip. "encode" writes H.264 with a key frame every half second and
    nothing hidden. A codec that MP4 doesn't hold, or a video without frame times, is encoded in either mode.

    Raises VideoError as `read_frames` does, and with reason "no frames" or "write failed".
    """
    cut_clips(source, {destination: (start_s, end_s)}, mode=mode, audio=audio)


def cut_clips(
    source: Path,
    clips: Mapping[Path, tuple[float, float]],
    *,
    mode: Literal["copy", "encode"] = "copy",
    audio: bool = True,
) -> None:
    """Cut several clips, start and end by destination, as `cut_clip` does. Those that are copied share one opening."""
    if mode == "encode":
        for destination, span_s in clips.items():
            _encode_clip(source, destination, Window(*span_s), audio=audio)
        return
    # One frame is decoded, for its time and its rotation; threads would run ahead of it.
    with open_video(source, num_threads=1, unsmoothed="all") as video:
        for destination, span_s in clips.items():
            window = Window(*span_s)
            span = _find_span(video, window)
            if span is None:
                log.info("%s: can't be copied to MP4 (codec, or frames without times), the clip is encoded", source)
                _encode_clip(source, destination, window, audio=audio)
            else:
                with published(destination) as temporary:
                    _write_copy(video, window, span, temporary, audio=audio)


def _encode_clip(source: Path, destination: Path, window: Window, *, audio: bool) -> None:
    with open_video(source, num_threads=0) as video, published(destination) as temporary:
        _write_encoded(video, window, temporary, audio=audio)


@dataclass(frozen=True)
class _Span:
    """A clip's packets from a key frame on, to be taken once; it shows `first_pts` to `end_pts` of them.

    `unsought_pts` are the key frames that readers must not begin at.
    """

    packets: Iterator[Packet[VideoStream]]
    first_pts: int
    end_pts: int
    unsought_pts: frozenset[int]


def _find_span(video: OpenVideo, window: Window) -> _Span | None:
    """Where the clip's packets are; None if they can't be copied to MP4."""
    if video.stream.codec_context.codec.canonical_name not in CODECS_COPIED or not video.has_times:
        return None
    shown_pts: list[int] = []
    end_pts: list[int] = []  # where the clip ends at the latest
    key_pts: list[int] = []
    open_pts: set[int] = set()  # key frames after which frames come that are shown before them
    held: list[Packet[VideoStream]] = []
    num_packets = num_bytes = file_end_pts = 0
    begin_pts, over_pts = video.pts_bounds(window)  # compared as they are: this loop is most of what a clip costs
    for number, packet in enumerate(_packets(video, window), start=1):
        num_bytes += packet.size
        if num_bytes <= MAX_HELD_BYTES:
            held.append(packet)
        pts, dts = packet.pts, packet.dts
        if pts is None or dts is None:
            return None
        if dts >= over_pts:
            break  # and so are all that follow: no frame is shown before its decoding time
        if packet.is_keyframe:
            key_pts.append(pts)
        elif key_pts and pts < key_pts[-1]:
            open_pts.add(key_pts[-1])
        if (packet_end_pts := pts + (packet.duration or 1)) > file_end_pts:
            file_end_pts = packet_end_pts
        if pts >= over_pts:
            end_pts.append(pts)
        elif pts >= begin_pts and not packet.is_discard:
            shown_pts.append(pts)
            num_packets = number
    else:  # no break: the file ended
        video.check_end(video.time_s(file_end_pts))
    if not shown_pts:
        raise _no_frames(video, window)
    if window.end_s < math.inf:
        end_pts.append(video.pts(window.end_s))
    packets = iter(held) if num_packets <= len(held) else _packets(video, window)  # too many to hold are read again
    first_pts = min(shown_pts)
    unsought = _unsought(key_pts, open_pts, first_pts)
    return _Span(islice(packets, num_packets), first_pts, min([file_end_pts, *end_pts]), unsought)


def _unsought(key_pts: list[int], open_pts: set[int], first_pts: int) -> frozenset[int]:
    """The key frames of a clip that is shown from `first_pts` on which readers must not begin at.

    A frame that is shown before an open key frame and stored behind it needs the key frame before, too. If that is a
    hidden one, readers that list the shown ones, such as torchcodec, go by decoding times, and end up at the open one.
    """
    if first_pts in key_pts[:1]:
        return frozenset()
    return frozenset(takewhile(open_pts.__contains__, (pts for pts in key_pts if pts >= first_pts)))


def _packets(video: OpenVideo, window: Window) -> Iterator[Packet[VideoStream]]:
    """The video's packets from a key frame at or before the window on, with decoding times wherever these can be told.

    Matroska stores none. libav derives them, but not for the first packets: those are put before the first known one.
    """
    waiting: list[Packet[VideoStream]] = []
    for packet in video.packets_from(window.start_s):
        if packet.size == 0:
            break
        if not waiting and packet.dts is not None:
            yield packet
            continue
        waiting.append(packet)
        if packet.dts is not None:
            for num_back, early in enumerate(reversed(waiting)):
                early.dts = packet.dts - num_back * max(packet.duration or 0, 1)
            yield from waiting
            waiting = []
    yield from waiting


def _no_frames(video: OpenVideo, window: Window) -> VideoError:
    message = f"{video.path}: no frame from {window.start_s:.3f} to {window.end_s:.3f} s"
    return VideoError(message, reason="no frames")


def _write_copy(video: OpenVideo, window: Window, span: _Span, path: Path, *, audio: bool) -> None:
    with open_mp4(path) as output:
        stream = output.add_stream_from_template(video.stream, opaque=True)
        moved = (_move(_found_from_before(packet, span), stream, span.first_pts) for packet in span.packets)
        sound = _copied_sound(video, output, span.first_pts, window) if audio else iter(())
        _interleave(output, moved, sound)
    editlist.end_first_track_after(path, float((span.end_pts - span.first_pts) * video.time_base))


def _found_from_before(packet: Packet[VideoStream], span: _Span) -> Packet[VideoStream]:
    """The packet, not marked as one to begin at where readers must not."""
    if packet.pts in span.unsought_pts:
        packet.is_keyframe = False
    return packet


def _write_encoded(video: OpenVideo, window: Window, path: Path, *, audio: bool) -> None:
    frames = video.frames(window)
    first = next(frames, None)
    if first is None:
        video.check_whole()
        raise _no_frames(video, window)
    first_pts = video.pts(first[0])
    with open_mp4(path) as output:
        rate = video.stream.average_rate or video.stream.guessed_rate or Fraction(round(1 / DEFAULT_FRAME_S))
        encoder = Encoder(output, frame_hw=video.frame_hw, rate=rate, time_base=video.time_base)
        packets = _encoded(video, chain([first], frames), encoder, first_pts)
        sound = _copied_sound(video, output, first_pts, window) if audio else iter(())
        _interleave(output, packets, sound)
    video.check_whole()


def _encoded(
    video: OpenVideo, frames: Iterator[tuple[float, VideoFrame]], encoder: Encoder, first_pts: int
) -> Iterator[Packet[VideoStream]]:
    painter = Painter(video)
    for time_s, frame in frames:
        yield from encoder.encode(painter.paint(frame), video.pts(time_s) - first_pts)
    yield from encoder.flush()


def _copied_sound(
    video: OpenVideo, output: OutputContainer, first_pts: int, window: Window
) -> Iterator[Packet[AudioStream]]:
    """The window's sound as packets of a new stream of `output`, with its 0 where the video has `first_pts`."""
    if not video.container.streams.audio:
        return iter(())
    template = video.container.streams.audio[0]
    codec = template.codec_context.codec.canonical_name
    if codec not in output.supported_codecs:
        log.warning("%s: %s sound doesn't go into MP4, the clip is silent", video.path, codec)
        return iter(())
    stream = output.add_stream_from_template(template, opaque=True)
    end_s = math.inf if window.end_s == math.inf else float(video.pts(window.end_s) * video.time_base)
    return _sound_packets(video.path, stream, first_pts * video.time_base, end_s)


def _sound_packets(path: Path, stream: AudioStream, start_s: Fraction, end_s: float) -> Iterator[Packet[AudioStream]]:
    """The first audio stream's packets that sound in [start_s, end_s) of the container's time, with start_s as their 0.

    Read from a container of their own, so that they come alongside the video's however those are read.
    """
    with open_container(path) as container:
        source = container.streams.audio[0]
        assert source.time_base is not None  # demuxers always set one
        start_pts = round(start_s / source.time_base)
        with contextlib.suppress(av.FFmpegError):  # where it can't seek, it reads from the beginning
            container.seek(start_pts, stream=source)
        for packet in demux(container, source):
            if packet.pts is None or packet.dts is None:
                continue  # the empty one at the end
            if packet.pts * source.time_base >= end_s:
                break
            if packet.pts + (packet.duration or 0) > start_pts:
                yield _move(packet, stream, start_pts)


def _move(packet: Packet[StreamT], stream: StreamT, zero_pts: int) -> Packet[StreamT]:
    """The packet as one of another `stream`, `zero_pts` earlier."""
    assert packet.pts is not None and packet.dts is not None
    packet.pts -= zero_pts
    packet.dts -= zero_pts
    packet.stream = stream
    return packet


def _interleave(
    output: OutputContainer, video: Iterator[Packet[VideoStream]], sound: Iterator[Packet[AudioStream]]
) -> None:
    """Write the packets of both streams in the order that a player needs them in."""
    packets: Iterator[Packet[VideoStream] | Packet[AudioStream]] = heapq.merge(video, sound, key=_decoding_time_s)
    for packet in packets:
        output.mux_one(packet)


def _decoding_time_s(packet: Packet[VideoStream] | Packet[AudioStream]) -> float:
    return float((packet.dts or 0) * packet.time_base)
