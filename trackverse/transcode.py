"""The same video with other pixels: every frame changed by a function, everything else as it went in.

Frame size, frame times (also uneven ones), rotation flag, pixel format, colour tags and the audio (copied, not encoded
again) are those of the source. Text and data streams, cover pictures and the container's tags are left out: cover
pictures show faces, and tags hold names and places.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from trackverse.errors import StopWorkError, VideoError
from trackverse.types import Float64, UInt8
from trackverse.video.container import open_container

# Draws on an upright (H, W, 3) uint8 RGB image in place and says whether it did.
Change = Callable[[UInt8], bool]

# crf 18 is where x264's loss stops being visible: a detector that comes later should see what it would have seen.
_X264 = ("libx264", {"crf": "18", "preset": "veryfast"})
_VP9 = ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"})
CONTAINERS = "mov,matroska"  # those that are written, too
ENCODERS = {".mp4": _X264, ".m4v": _X264, ".mov": _X264, ".mkv": _X264, ".webm": _VP9}  # by file ending
WITH_INDEX = (".mp4", ".m4v", ".mov")


def change_frames(
    source_path: Path, output_path: Path, change: Change, *, comment: str, keep_audio: bool = True
) -> Float64:
    """Write the source with `change` applied to every frame and `comment` as its only tag; the frames' `times_s` (T,).

    A frame that `change` leaves alone is encoded from the decoder's own pixels, without a conversion of colours.

    Raises VideoError: reason "unknown video ending", "unreadable video", "no frame decodes", "write failed", and those
    of opening a video, as `read_frames` lists them. Raises StopWorkError when the disk is full.
    """
    if source_path.suffix.lower() not in ENCODERS:
        raise VideoError(f"{source_path}: not one of {', '.join(ENCODERS)}", reason="unknown video ending")
    first_frame = _first_frame(source_path)
    with _open(source_path) as source, _create(output_path) as output:
        video = _video_stream(source, source_path)
        target = _add_video_like(output, video, *ENCODERS[source_path.suffix.lower()])
        _copy_rotation(first_frame, target)
        copies: dict[Stream, Stream] = {
            audio: output.add_stream_from_template(audio) for audio in source.streams.audio if keep_audio
        }
        output.metadata["comment"] = comment
        times_s: list[float] = []
        for packet in _packets(source, [video, *copies], source_path):
            if packet.stream in copies:
                packet.stream = copies[packet.stream]
                output.mux(packet)
                continue
            for frame in _decode(packet, source_path):
                output.mux(target.encode(_changed(frame, change, target.format.name)))
                times_s.append(_time_s(frame.pts, frame.time_base, source_path))
        output.mux(target.encode(None))
    return np.array(times_s) - times_s[0]


def frame_times(path: Path) -> Float64:
    """The `times_s` (T,) of a video's frames, rising, as its packets say: nothing is decoded.

    Raises VideoError (reason "unreadable video", and those of opening a video).
    """
    with _open(path) as source:
        packets = (packet for packet in source.demux(_video_stream(source, path)) if packet.size)
        times_s: Float64 = np.array(sorted(_time_s(packet.pts, packet.time_base, path) for packet in packets))
    return times_s - times_s[:1]


def comment_of(path: Path) -> str:
    """The comment tag of a video, empty if it has none. Raises VideoError if it can't be opened."""
    with _open(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}  # Matroska shouts its keys
    return tags.get("comment", "")


def _time_s(pts: int | None, time_base: Fraction | None, path: Path) -> float:
    if pts is None or time_base is None:
        raise VideoError(f"{path}: has frames without a time", reason="unreadable video")
    return float(pts * time_base)


def _first_frame(path: Path) -> VideoFrame:
    with _open(path) as source:
        for frame in source.decode(_video_stream(source, path)):
            return frame
    raise VideoError(f"{path}: no frame can be decoded", reason="no frame decodes")


def _video_stream(source: InputContainer, path: Path) -> VideoStream:
    for stream in source.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    raise VideoError(f"{path}: has no video stream", reason="no video stream")


def _add_video_like(output: OutputContainer, video: VideoStream, codec: str, options: dict[str, str]) -> VideoStream:
    """A new video stream with the size, clock, pixel format and colour tags of `video`."""
    target = output.add_stream(codec, rate=video.average_rate, options=options)
    assert isinstance(target, VideoStream)
    ours, theirs = target.codec_context, video.codec_context
    ours.width, ours.height = theirs.width, theirs.height
    ours.pix_fmt = _pixel_format(video, target)
    assert video.time_base is not None  # every demuxer sets it
    ours.time_base = target.time_base = video.time_base
    if theirs.sample_aspect_ratio:
        ours.sample_aspect_ratio = theirs.sample_aspect_ratio
    ours.color_range, ours.colorspace = theirs.color_range, theirs.colorspace
    ours.color_primaries, ours.color_trc = theirs.color_primaries, theirs.color_trc
    return target


def _pixel_format(video: VideoStream, target: VideoStream) -> str:
    """The source's own pixel format where the encoder has it, else the common one."""
    if target.codec.name == "libx264" and (video.width % 2 or video.height % 2):
        return "yuv444p"  # H.264 can't cut a pair of pixels that share their colour in half
    own = video.codec_context.pix_fmt
    return own if own in {format.name for format in target.codec.video_formats or ()} else "yuv420p"


def _packets(source: InputContainer, streams: Sequence[Stream], path: Path) -> Iterator[Packet[Stream]]:
    packets = source.demux(streams)
    while True:
        with _reading(path):
            packet = next(packets, None)
        if packet is None:
            return
        # The demuxer ends with one empty packet for each stream: it flushes the video decoder, audio has no use for it.
        if packet.size or packet.stream.type == "video":
            yield packet


def _decode(packet: Packet[Stream], path: Path) -> list[VideoFrame]:
    with _reading(path):
        return [frame for frame in packet.decode() if isinstance(frame, VideoFrame)]


def _copy_rotation(frame: VideoFrame, target: VideoStream) -> None:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer, whatever PyAV's stubs say
    if matrix is not None:
        target.set_display_matrix(np.frombuffer(matrix, np.int32).tolist())


def _changed(frame: VideoFrame, change: Change, pixel_format: str) -> VideoFrame:
    """The frame to encode in place of `frame`, at the same time."""
    quarter_turns = round(frame.rotation / 90)
    image = _turned(frame.to_ndarray(format="rgb24"), quarter_turns)
    changed = frame
    if change(image):
        changed = VideoFrame.from_ndarray(_turned(image, -quarter_turns), format="rgb24")
    # By default the way back from RGB would be BT.601, whatever matrix the way there used.
    result = changed.reformat(format=pixel_format, dst_colorspace=frame.colorspace, dst_color_range=frame.color_range)
    result.pts, result.time_base, result.duration = frame.pts, frame.time_base, frame.duration
    result.pict_type = PictureType.NONE  # or the encoder would repeat the source's choice of key frames
    return result


def _turned(image: npt.NDArray[Any], quarter_turns: int) -> UInt8:
    """(H, W, 3) turned counterclockwise, as memory of its own."""
    return np.ascontiguousarray(np.rot90(image, quarter_turns), np.uint8)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise VideoError(f"{path}: can't be read as a video ({error.strerror})", reason="unreadable video") from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    with open_container(path, CONTAINERS) as source, _reading(path):
        yield source


@contextlib.contextmanager
def _create(path: Path) -> Iterator[OutputContainer]:
    try:
        # MP4's index goes in front, so that it plays while it loads; other containers would complain of the option.
        options = {"movflags": "+faststart"} if path.suffix.lower() in WITH_INDEX else {}
        with av.open(str(path.absolute()), "w", options=options) as output:
            yield output
    except av.FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StopWorkError(
                f"{path.parent}: {error.strerror}: make room, then run the same command again"
            ) from error
        raise VideoError(f"{path}: can't be written ({error.strerror})", reason="write failed", retry=True) from error
