"""Video out: H.264 in MP4, whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from trackverse import files
from trackverse.errors import VideoError
from trackverse.types import UInt8
from trackverse.video.planes import Planes

DEFAULT_CRF = 20  # x264's quality scale: 18 can hardly be told from the source, 23 is x264's own default
DEFAULT_KEYFRAME_S = 0.5
DEFAULT_PRESET = "fast"
TICKS_A_FRAME = 1000  # how finely a frame's time is told
BT709 = 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709 and AVCOL_TRC_BT709
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


class VideoWriter:
    """Writes images as an H.264 video, silent, with its index in front: one every 1 / `fps` s, or when they say.

    A context manager: the file is there when the block has ended well, and nothing is left of it otherwise. An odd
    width or height grows by one repeated column or row, since 4:2:0 video has none. A key frame comes at least every
    `keyframe_s`. `preset`: x264's, from "ultrafast" (large files) to "placebo". Raises VideoError with
    reason "no frames" for an empty video and "write failed" for a full disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        frame_hw: tuple[int, int],
        fps: float,
        crf: int = DEFAULT_CRF,
        keyframe_s: float = DEFAULT_KEYFRAME_S,
        preset: str = DEFAULT_PRESET,
    ) -> None:
        self._path = path
        self._frame_hw = frame_hw
        self._rate = Fraction(fps).limit_denominator(1001)  # 29.97…: 30000/1001
        self._crf = crf
        self._keyframe_s = keyframe_s
        self._preset = preset
        self._num_frames = 0
        self._next_pts = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(published(self._path))
            self._container = stack.enter_context(open_mp4(temporary))
            self._encoder = Encoder(
                self._container,
                frame_hw=self._frame_hw,
                rate=self._rate,
                time_base=1 / (self._rate * TICKS_A_FRAME),
                crf=self._crf,
                keyframe_s=self._keyframe_s,
                preset=self._preset,
            )
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, image: UInt8) -> None:
        """Add one frame: (H, W, 3) uint8 RGB of `frame_hw`."""
        self._container.mux(list(self._encoder.encode(image, self._pts(None))))

    def write_planes(self, planes: Planes, time_s: float | None = None) -> None:
        """Add one frame as video has it, of `frame_hw` with odd sides grown by one. It must not change afterwards.

        `time_s`: when it is shown, rising; without, a frame later than the one before.
        """
        self._container.mux(list(self._encoder.encode_planes(planes, self._pts(time_s))))

    def _pts(self, time_s: float | None) -> int:
        """Of one more frame."""
        pts = self._next_pts if time_s is None else round(time_s * self._rate * TICKS_A_FRAME)
        self._num_frames += 1
        self._next_pts = pts + TICKS_A_FRAME
        return pts

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    def _finish(self, exc_type: object, *_: object) -> None:
        if exc_type is None:
            if self._num_frames == 0:
                raise VideoError(f"{self._path}: a video of no frames", reason="no frames")
            self._container.mux(list(self._encoder.flush()))


class Encoder:
    """An H.264 stream in an output container, for upright RGB images of one size."""

    def __init__(
        self,
        container: OutputContainer,
        *,
        frame_hw: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        crf: int = DEFAULT_CRF,
        keyframe_s: float = DEFAULT_KEYFRAME_S,
        preset: str = DEFAULT_PRESET,
    ) -> None:
        self._frame_hw = frame_hw
        self._time_base = time_base
        self._keyframe_s = keyframe_s
        self._next_keyframe_s = 0.0
        self._reformatter = VideoReformatter()
        # x264's macroblock tree gives other bytes from run to run where pictures are small. Half-second groups of
        # pictures hardly need it: 768 x 576 grew by 1 % without.
        options = {"crf": str(crf), "preset": preset, "forced-idr": "1", "mbtree": "0"}
        self._stream: VideoStream = container.add_stream("libx264", rate=rate, options=options)
        context = self._stream.codec_context
        context.height, context.width = (side + side % 2 for side in frame_hw)
        context.pix_fmt = "yuv420p"
        context.time_base = time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE

    def encode(self, image: UInt8, pts: int) -> Iterator[Packet[VideoStream]]:
        """The packets that are ready once the (H, W, 3) uint8 `image` is shown from `pts` time bases on."""
        height, width = self._frame_hw
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(f"an image of {image.shape} {image.dtype} for a video of {height} x {width} x 3 uint8")
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._reformatter.reformat(
            VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24"),  # without a copy
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        yield from self._encode(frame, pts)

    def encode_planes(self, planes: Planes, pts: int) -> Iterator[Packet[VideoStream]]:
        """As `encode`, of a picture as video has it, which the encoder keeps for a while."""
        height, width = (side + side % 2 for side in self._frame_hw)
        if planes.hw != (height, width):
            raise ValueError(f"planes of {planes.hw} for a video of {height} x {width}")
        yield from self._encode(planes.frame, pts)

    def _encode(self, frame: VideoFrame, pts: int) -> Iterator[Packet[VideoStream]]:
        frame.pts, frame.time_base = pts, self._time_base
        time_s = float(pts * self._time_base)
        if time_s >= self._next_keyframe_s - 1e-6:
            frame.pict_type = PictureType.I
            self._next_keyframe_s = time_s + self._keyframe_s
        yield from self._stream.encode(frame)

    def flush(self) -> Iterator[Packet[VideoStream]]:
        """The packets that were held back."""
        yield from self._stream.encode(None)


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """A temporary path whose file becomes `path` at the end of the block, or is removed if the block fails.

    What libav complains of within the block becomes a VideoError of reason "write failed".
    """
    temporary = files.temporary_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.unlink(missing_ok=True)  # never go on writing in a file that a dead one may still have open
    try:
        yield temporary
        files.publish(temporary, path)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: can't be written ({error.strerror})", reason="write failed", retry=True) from error
    finally:
        temporary.unlink(missing_ok=True)


def open_mp4(path: Path) -> OutputContainer:
    """An MP4 file to write, with its index in front so that it plays while it loads."""
    # The unit of edit lists: by default whole milliseconds, too coarse to end a clip between two frames.
    options = {"movflags": "+faststart", "movie_timescale": "90000"}
    return av.open(str(path.absolute()), "w", format="mp4", options=options)
