"""A video file that is open: its packets, its decoded frames and its clock."""

from __future__ import annotations

import contextlib
import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from trackverse.errors import VideoError
from trackverse.types import MAX_FRAMES
from trackverse.video.container import GET_AGAIN, demux, open_container

# Clips are written in whole milliseconds: a frame that begins this little before a bound is the frame at that bound.
EARLY_S = 0.6e-3
# Durations in headers are rounded or estimated: only a larger gap means that the end is missing.
MAX_MISSING_S = 1.0
DEFAULT_FRAME_S = 1 / 25  # where a file tells neither a frame's duration nor a rate; libav assumes the same
SEEK_BACK_S = (0.0, 1.0, 10.0)
LOOK_AHEAD = 8  # packets; frames are reordered by less, as a rule


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself.

    `frame_hw` px as displayed, after rotation; `fps` the mean frame rate; `duration_s` of the video stream;
    `num_frames` as the header counts them, hidden ones too, None if it doesn't; `rotation` in degrees counterclockwise
    from stored to displayed: 0, 90, 180 or 270.
    """

    frame_hw: tuple[int, int]
    fps: float
    duration_s: float
    num_frames: int | None
    has_audio: bool
    codec: str
    rotation: int


@dataclass(frozen=True)
class Window:
    """A stretch of a video and, with `fps`, the ticks in it: start_s + k / fps.

    With `references_only`, frames that no others are predicted from aren't needed.
    """

    start_s: float = 0.0
    end_s: float = math.inf
    fps: float | None = None
    references_only: bool = False

    def has_begun(self, time_s: float) -> bool:
        return time_s >= self.start_s - EARLY_S

    def is_over(self, time_s: float) -> bool:
        return time_s >= self.end_s - EARLY_S

    def tick(self, time_s: float) -> int:
        """The first tick at or after `time_s`. A frame is on show at it, unless the next frame has the same one."""
        assert self.fps is not None
        return math.ceil((time_s - EARLY_S - self.start_s) * self.fps)

    def can_miss(self, time_s: float, later_s: float) -> bool:
        """Whether a frame at `time_s` isn't needed, given that another one begins at `later_s`.

        Always right when it says yes, whether or not frames begin in between.
        """
        if self.references_only or not self.has_begun(time_s):
            return True
        return self.fps is not None and 1 < self.tick(time_s) == self.tick(later_s)


@contextlib.contextmanager
def open_video(
    path: Path, num_threads: int, *, unsmoothed: Literal["noref", "all"] | None = None
) -> Iterator[OpenVideo]:
    """The video, with its first frame decoded by `num_threads` (0: one per core). Closed at the end of the block.

    `unsmoothed` leaves out the smoothing of block edges, which costs a fifth of decoding H.264: "noref" in frames that
    no others are predicted from, which can't be seen where they are made much smaller; "all" in every frame, which
    grows to a slight blockiness up to the next key frame.
    Raises VideoError with one of the reasons that `read_frames` lists.
    """
    with open_container(path) as container:
        # For libav a cover picture is a video stream too.
        streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{path}: no video stream in it", reason="no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(f"{path}: video of a codec that nothing here decodes", reason="unknown codec")
        stream.codec_context.thread_type = av.codec.context.ThreadType.AUTO
        stream.codec_context.thread_count = num_threads
        if unsmoothed:
            stream.codec_context.options = stream.codec_context.options | {"skip_loop_filter": unsmoothed}
        yield OpenVideo(path, container, stream)


class OpenVideo:
    """One video stream of an open file. Its clock is at 0.0 with the first frame that decodes.

    `stored_hw` px as decoded, `quarter_turns` counterclockwise to turn that upright, `frame_hw` px upright.
    `read_until_s` is where the last decoded frame ends.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        assert stream.time_base is not None  # demuxers always set one
        self.path = path
        self.container = container
        self.stream = stream
        self.time_base: Fraction = stream.time_base
        self.read_until_s = 0.0
        self._at_end = False
        self._end_is_torn = False
        self._origin_pts: int | None = None
        self._from_start = self._decode(self._packets(), Window())
        first = next(self._from_start, None)
        if first is None:
            raise VideoError(f"{path}: no frame in it decodes", reason="no frame decodes")
        self._first_frame = first
        self._origin_pts = first.pts
        self.stored_hw = (first.height, first.width)
        self.quarter_turns = round(first.rotation / 90) % 4
        self.frame_hw = self.stored_hw[::-1] if self.quarter_turns % 2 else self.stored_hw

    def info(self) -> VideoInfo:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return VideoInfo(
            frame_hw=self.frame_hw,
            fps=float(rate) if rate else 1 / self._frame_duration_s(self._first_frame),
            duration_s=self._duration_s(),
            num_frames=self.stream.frames or None,
            has_audio=bool(self.container.streams.audio),
            codec=self.stream.codec_context.codec.canonical_name,
            rotation=90 * self.quarter_turns,
        )

    @property
    def has_times(self) -> bool:
        """Whether frames say when they are shown. If not, they are counted, and nothing can be sought."""
        return self._origin_pts is not None

    @property
    def can_skip(self) -> bool:
        """Whether the decoder leaves out frames that aren't needed.

        In H.264 a frame says for certain whether others are predicted from it. Two fields may share one frame's time.
        """
        context = self.stream.codec_context
        return self.has_times and context.name == "h264" and context.field_order in (0, 1)  # unknown, progressive

    def has_frames_between(self, first_s: float, last_s: float) -> bool:
        """Whether any frame is shown after `first_s` and before `last_s`, as the packets say: nothing is decoded."""
        for packet in self.packets_from(first_s):
            if packet.pts is not None and first_s + EARLY_S < self.time_s(packet.pts) < last_s - EARLY_S:
                return True
            if packet.dts is not None and self.time_s(packet.dts) > last_s:
                return False  # no frame is shown before its decoding time
        return False

    def time_s(self, pts: int) -> float:
        # Not as a product with the fraction: it gives the same, and is half the cost of looking at a packet.
        return (pts - (self._origin_pts or 0)) * self.time_base.numerator / self.time_base.denominator

    def pts(self, time_s: float) -> int:
        """The first one at `time_s` or later."""
        tiny = 1e-3  # of a unit: what floats may be off by
        return (self._origin_pts or 0) + math.ceil(time_s / float(self.time_base) - tiny)

    def pts_bounds(self, window: Window) -> tuple[int, float]:
        """The first pts at which the window has begun, and the first at which it is over."""
        end_s = window.end_s - EARLY_S
        return self.pts(window.start_s - EARLY_S), math.inf if end_s == math.inf else self.pts(end_s)

    def frames(self, window: Window) -> Iterator[tuple[float, VideoFrame]]:
        """Times and frames that begin in the window, times rising; some that its ticks don't need may be missing.

        A video that has no times can be read once.
        """
        self.read_until_s, self._at_end = 0.0, False
        if not self.has_times:
            decoded: Iterator[VideoFrame] = chain([self._first_frame], self._from_start)
        else:
            decoded = self._decode(self.packets_from(window.start_s), window)
        last_s = -math.inf
        for number, frame in enumerate(decoded):
            if number >= MAX_FRAMES:
                raise VideoError(f"{self.path}: over {MAX_FRAMES} frames", reason="too many frames")
            time_s = self.read_until_s if frame.pts is None else self.time_s(frame.pts)
            if time_s <= last_s:
                continue  # a broken clock: what isn't later than the frame before was never on show
            last_s = time_s
            self.read_until_s = time_s + self._frame_duration_s(frame)
            if window.is_over(time_s):
                return
            if window.has_begun(time_s):
                yield time_s, frame
        self._at_end = True

    def check_whole(self) -> None:
        """Raise VideoError if the last reading of frames met the end of the file before the end of the video."""
        if self._at_end:
            self.check_end(self.read_until_s)

    def check_end(self, until_s: float) -> None:
        """Raise VideoError if the file, read to its end, holds less video than it says: only that until `until_s`."""
        declared_s = self._declared_duration_s()
        is_short = declared_s is not None and until_s < declared_s - MAX_MISSING_S
        if self._end_is_torn or is_short:
            of_declared = "" if declared_s is None else f" of {declared_s:.1f}"
            message = f"{self.path}: ends after {until_s:.1f}{of_declared} s{GET_AGAIN}"
            raise VideoError(message, reason="truncated video")

    def packets_from(self, start_s: float) -> Iterator[Packet[VideoStream]]:
        """Packets in decoding order, from a key frame at or before `start_s` on. The last one is empty."""
        for back_s in SEEK_BACK_S:  # some demuxers search by decoding time, or by guess, and land too late
            if not self._seek(self.pts(start_s - back_s), backward=True):
                continue
            packets = self._packets()
            first = next(packets)
            if first.is_keyframe and first.pts is not None and self.time_s(first.pts) <= start_s:
                return chain([first], packets)
        if not self._seek(-(2**40), backward=False):
            raise VideoError(f"{self.path}: can't be searched by time", reason="not seekable")
        return self._packets()

    def _seek(self, pts: int, *, backward: bool) -> bool:
        try:
            self.container.seek(pts, backward=backward, stream=self.stream)
        except av.FFmpegError:
            return False  # a demuxer's way to say that it has no key frame there
        return True

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        for packet in demux(self.container, self.stream):
            if not packet.size:
                self._end_is_torn = packet.is_corrupt
            yield packet

    def _decode(self, packets: Iterator[Packet[VideoStream]], window: Window) -> Iterator[VideoFrame]:
        """The packets' frames in the order of showing, but for those that are cheap to leave out and not needed."""
        context = self.stream.codec_context
        for packet, later_pts in _with_later_pts(packets):
            if self.can_skip:
                is_missable = (
                    packet.pts is not None
                    and later_pts is not None
                    and window.can_miss(self.time_s(packet.pts), self.time_s(later_pts))
                )
                context.skip_frame = "NONREF" if is_missable else "DEFAULT"
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue  # a damaged stretch: decoders find their feet again, and `check_whole` looks at the end
            except av.FFmpegError as error:
                message = f"{self.path}: {context.name} video can't be decoded ({error.strerror})"
                raise VideoError(message, reason="decoder failed") from error
            yield from frames

    def _frame_duration_s(self, frame: VideoFrame) -> float:
        if frame.duration:
            return float(frame.duration * self.time_base)
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(1 / rate) if rate else DEFAULT_FRAME_S

    def _duration_s(self) -> float:
        declared_s = self._declared_duration_s()
        if declared_s is not None:
            return declared_s
        if self.container.duration is not None:  # of the longest stream, and from the container's zero on
            return self.container.duration / av.time_base - float((self._origin_pts or 0) * self.time_base)
        with open_container(self.path) as again:  # no header says it, so the packets do
            packets = demux(again, again.streams[self.stream.index])
            return float(sum(packet.duration or 0 for packet in packets) * self.time_base)

    def _declared_duration_s(self) -> float | None:
        """How long the header says that this very stream is, from its first frame on."""
        if not self.has_times:
            return None
        if self.stream.duration:
            return self.time_s((self.stream.start_time or 0) + self.stream.duration)
        # Matroska's tag says where the stream ends on the container's clock.
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", self.stream.metadata.get("DURATION", ""))
        if tag is None:
            return None
        hours, minutes, seconds = (float(part) for part in tag.groups())
        return self.time_s(0) + 3600 * hours + 60 * minutes + seconds


def _with_later_pts(
    packets: Iterator[Packet[VideoStream]],
) -> Iterator[tuple[Packet[VideoStream], int | None]]:
    """Each packet with the time of a frame after its own: the next one that is known of, None if there is none."""
    waiting: deque[Packet[VideoStream]] = deque()
    known_pts: deque[int] = deque(maxlen=2 * LOOK_AHEAD)
    for packet in chain(packets, [None] * LOOK_AHEAD):
        if packet is not None:
            waiting.append(packet)
            if packet.pts is not None:
                known_pts.append(packet.pts)
        if waiting and (packet is None or len(waiting) > LOOK_AHEAD):
            ready = waiting.popleft()
            later = (pts for pts in known_pts if ready.pts is not None and pts > ready.pts)
            yield ready, min(later, default=None)
