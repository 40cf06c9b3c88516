"""Video in: what a file holds, and its frames as upright RGB arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from trackverse.errors import VideoError
from trackverse.types import Float64, FrameBatch, UInt8
from trackverse.video.planes import Planes, plane_rows
from trackverse.video.source import EARLY_S, OpenVideo, VideoInfo, Window, open_video

MAX_BATCH_BYTES = 64 << 20  # of images: 32 frames of 640 x 640 px, and two of 4K
BT709, UNSPECIFIED_COLORS = 1, 2  # AVCOL_SPC_BT709, AVCOL_SPC_UNSPECIFIED
HD_HEIGHT = 720  # px; by convention untagged video of this height and more is BT.709, and smaller one BT.601


def probe(path: Path) -> VideoInfo:
    """What a video holds, once its first frame has decoded. Raises VideoError as `read_frames` does."""
    with open_video(path, num_threads=1) as video:
        return video.info()


def decodes_at_both_ends(path: Path) -> VideoInfo:
    """`probe`, and decode the first and the last second. Raises VideoError as `read_frames` does."""
    info = probe(path)
    for window in (Window(end_s=1.0), Window(start_s=max(info.duration_s - 1.0, 0.0))):
        with open_video(path, num_threads=0) as video:
            for _ in video.frames(window):
                pass
            video.check_whole()
    return info


def read_frames(
    path: Path,
    *,
    start_s: float = 0.0,
    end_s: float = math.inf,
    fps: float | None = None,
    long_side: int | None = None,
    batch_size: int = 32,
    num_threads: int = 0,
) -> Generator[FrameBatch, None, None]:
    """The upright frames that begin in [start_s, end_s), in batches of up to `batch_size`, with their true times.

    Of large frames a batch has fewer, so that its images stay below `MAX_BATCH_BYTES` or are one.

    With `fps`, for each tick start_s + k / fps the frame that is on show then, each frame once at most: a slower video
    gives all its frames. (A first frame that begins between the first two ticks stands for the first.) `long_side` px
    bounds the longer side; nothing is enlarged. `num_threads` of the decoder; 0 is one per core.
    A stretch past the end of the video gives no batch.

    Raises VideoError with reason
        "video missing", "unreadable file", "empty file", "not a video": before the first batch,
        "no video stream", "unknown codec", "frame too large", "no frame decodes", "not seekable": likewise,
        "decoder failed", "too many frames", "unknown pixel format": where the libraries give up,
        "truncated video": after the frames that decode, or before the first batch if the file can't be opened.
    """
    window = Window(start_s, end_s, fps)
    with open_video(path, num_threads) as video:
        painter = Painter(video, long_side)
        batch_size = max(1, min(batch_size, MAX_BATCH_BYTES // painter.image_bytes))
        images: list[UInt8] = []
        times_s: list[float] = []
        for time_s, frame in _on_ticks(video, window):
            images.append(painter.paint(frame))
            times_s.append(time_s)
            if len(images) == batch_size:
                yield FrameBatch(np.stack(images), np.array(times_s))
                images, times_s = [], []
        if images:
            yield FrameBatch(np.stack(images), np.array(times_s))
        video.check_whole()


def read_planes(path: Path, *, num_threads: int = 0) -> Generator[tuple[float, Planes], None, None]:
    """Times and upright pictures of all frames, in full size, as video has them. Raises VideoError as `read_frames`."""
    with open_video(path, num_threads) as video:
        painter = Painter(video)
        for time_s, frame in video.frames(Window()):
            yield time_s, painter.planes(frame)
        video.check_whole()


def frame_times(path: Path) -> Float64:
    """Times (F,) of all frames. Raises VideoError as `read_frames`."""
    with open_video(path, num_threads=0) as video:
        times_s = np.array([time_s for time_s, _ in video.frames(Window())])
        video.check_whole()
    return times_s


@dataclass(frozen=True)
class Glance:
    """A frame at `time_s`, as a small upright RGB image (H, W, 3), and larger if it was sampled."""

    time_s: float
    image: UInt8
    sample: UInt8 | None


def glance_through(
    path: Path, *, long_side: int, sample_fps: float | None, sample_long_side: int, fast: bool = False
) -> Generator[Glance, None, None]:
    """All frames of a video, made small to `long_side` px, and from the same decoding some of `sample_long_side` px.

    Sampled is the first frame at or after each k / `sample_fps` s; none with `sample_fps` None. `fast` leaves out
    frames of H.264 that no others are predicted from: `CloseLook` shows those. Decoded by one thread, which costs less
    than several. Raises VideoError as `read_frames` does.
    """
    # Cuts are the same with blocky frames; the scores of samples are not, as blocks look sharp.
    is_smooth = sample_fps is not None and not fast
    with open_video(path, num_threads=1, unsmoothed="noref" if is_smooth else "all") as video:
        # The mean over all pixels: with fewer, moving texture flickers, and cuts drown in it.
        small, large = Painter(video, long_side, Interpolation.AREA), Painter(video, sample_long_side)
        num_ticks = 0  # that have passed
        for time_s, frame in video.frames(Window(references_only=fast)):
            sample = None
            if sample_fps is not None and time_s >= num_ticks / sample_fps - EARLY_S:
                sample = large.paint(frame)
                num_ticks = math.floor((time_s + EARLY_S) * sample_fps) + 1
            yield Glance(time_s, small.paint(frame), sample)
        video.check_whole()


class CloseLook:
    """Shows the frames of a video that `glance_through` left out, decoding only from the last key frame before them.

    A context manager. The video is opened when it is first needed.
    """

    def __init__(self, path: Path, long_side: int) -> None:
        self._path = path
        self._long_side = long_side
        self._stack = contextlib.ExitStack()
        self._video: OpenVideo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def frames(self, first_s: float, last_s: float) -> list[tuple[float, UInt8]]:
        """Times and small images (H, W, 3) of the frames from `first_s` to `last_s`, both included.

        Empty if these two follow one another. Raises VideoError as `read_frames` does.
        """
        if self._video is None:
            self._video = self._stack.enter_context(open_video(self._path, num_threads=1, unsmoothed="all"))
        if not (self._video.can_skip and self._video.has_frames_between(first_s, last_s)):
            return []
        painter = Painter(self._video, self._long_side, Interpolation.AREA)
        window = Window(first_s, last_s + 2 * EARLY_S)
        return [(time_s, painter.paint(frame)) for time_s, frame in self._video.frames(window)]


def _on_ticks(video: OpenVideo, window: Window) -> Iterator[tuple[float, VideoFrame]]:
    """Times and frames of the window; with a rate, those that are on show at a tick."""
    if window.fps is None:
        yield from video.frames(window)
        return
    shown: tuple[float, VideoFrame] | None = None
    shown_tick = 0
    for time_s, frame in video.frames(window):
        tick = window.tick(time_s)
        if shown is None and tick == 1:
            tick = 0
        if shown is not None and shown_tick < tick:
            yield shown
        shown, shown_tick = (time_s, frame), tick
    if shown is not None and shown_tick < window.tick(min(window.end_s, video.read_until_s)):
        yield shown


class Painter:
    """Makes decoded frames of one video into upright RGB images of one size."""

    def __init__(
        self,
        video: OpenVideo,
        long_side: int | None = None,
        interpolation: Interpolation = Interpolation.BILINEAR,
    ) -> None:
        self._path = video.path
        self._quarter_turns = video.quarter_turns
        scale = 1.0 if long_side is None else min(1.0, long_side / max(video.stored_hw))
        self._height, self._width = (max(1, round(side * scale)) for side in video.stored_hw)
        self.image_bytes = 3 * self._height * self._width
        self._interpolation = interpolation
        self._reformatter = VideoReformatter()

    def paint(self, frame: VideoFrame) -> UInt8:
        """The frame as (H, W, 3) uint8 RGB: scaled and converted in one step, turned afterwards when it is small."""
        rgb = self._converted(frame, "rgb24", Colorspace.ITU709 if _is_untagged_hd(frame) else None)
        image: UInt8 = np.asarray(rgb.to_ndarray(), dtype=np.uint8)
        return np.rot90(image, self._quarter_turns)

    def planes(self, frame: VideoFrame) -> Planes:
        """The frame as planes of its own; most are copied as they are, without any conversion."""
        is_bt709 = _is_untagged_hd(frame) or frame.colorspace == BT709
        converted = self._converted(frame, "yuv420p", Colorspace.ITU709 if is_bt709 else None)
        is_turned = self._quarter_turns % 2 == 1
        planes = Planes.empty((self._width, self._height) if is_turned else (self._height, self._width))
        for rows, target in zip(plane_rows(converted), planes.split(), strict=True):
            upright = np.rot90(rows, self._quarter_turns)
            height, width = upright.shape
            target[:height, :width] = upright
            target[height:], target[:, width:] = target[height - 1 : height], target[:, width - 1 : width]
        return planes

    def _converted(self, frame: VideoFrame, pixel_format: str, source: Colorspace | None) -> VideoFrame:
        is_yuv = pixel_format == "yuv420p"
        try:
            return self._reformatter.reformat(
                frame,
                width=self._width,
                height=self._height,
                format=pixel_format,
                src_colorspace=source,
                dst_colorspace=Colorspace.ITU709 if is_yuv else None,
                dst_color_range=ColorRange.MPEG if is_yuv else None,
                interpolation=self._interpolation,
                threads=1,  # the decoder has the other cores
            )
        except av.FFmpegError as error:
            message = f"{self._path}: frames of format {frame.format.name} can't be converted ({error.strerror})"
            raise VideoError(message, reason="unknown pixel format") from error


def _is_untagged_hd(frame: VideoFrame) -> bool:
    return bool(frame.colorspace == UNSPECIFIED_COLORS and frame.height >= HD_HEIGHT)
