"""A shelf of small videos, drawn with PyAV, most of them odd in one way. Each maker's docstring says in which.

Every frame has its number written into it as two grey patches, so that a test knows which source frames it was given:
`frame_number(image)`. A maker writes into a folder and returns the path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 30
FRAME_HW = (64, 96)
SHOT_COLORS = ((200, 60, 40), (30, 90, 210), (60, 200, 80))
DIGIT_STEP = 22  # grey levels between two digits: far more than a codec loses
DIGIT_ZERO = 25
SAMPLE_RATE = 48_000


def draw(number: int, *, hw: tuple[int, int] = FRAME_HW, shot: int = 0) -> np.ndarray:
    """Frame `number` (0 to 99) of a shot, (H, W, 3) uint8 RGB: digits on the left, a square moving down on the right.

    The square starts at the top, so a picture that is upside down or on its side is told apart.
    """
    height, width = hw
    image = np.empty((height, width, 3), np.uint8)
    image[:] = SHOT_COLORS[shot % len(SHOT_COLORS)]
    for place, digit in enumerate(divmod(number, 10)):
        image[:, place * width // 4 : (place + 1) * width // 4] = DIGIT_ZERO + DIGIT_STEP * digit
    side = max(min(hw) // 4, 1)
    top = (number // 2) % max(height - side, 1)
    image[top : top + side, -side - 4 : -4] = 255
    return image


def frame_number(image: np.ndarray) -> int:
    """The number that was drawn into a frame of any size from 8 px on."""
    height, width = image.shape[:2]
    digits = []
    for place in range(2):
        left = place * width // 4
        patch = image[height // 4 : -(height // 4), left + width // 16 : left + width // 4 - width // 16]
        digits.append(round((float(patch.mean()) - DIGIT_ZERO) / DIGIT_STEP))
    return 10 * digits[0] + digits[1]


def write(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    rate: int = FPS,
    rotation: int | None = None,
    sound: Callable[[np.ndarray], np.ndarray] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode images; `pts` in frames of 1 / `rate` s; `rotation` degrees counterclockwise to show them by.

    `sound` gives the samples in [-1, 1] of an AAC stream as long as the video, from their times in s.
    """
    if options is None:
        options = {"crf": "8"} if codec == "libx264" else {}
    if codec == "libx264":
        options = {"mbtree": "0"} | options  # with it, x264 writes other bytes from run to run in pictures this small
    pts = range(len(images)) if pts is None else pts
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if codec == "mpeg4":
            stream.bit_rate = 2_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound else None
        for image, time in zip(images, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound and audio:
            _write_sound(container, audio, sound(np.arange(SAMPLE_RATE * len(images) // rate) / SAMPLE_RATE))
    return path


def _write_sound(container: Any, stream: Any, samples: np.ndarray) -> None:
    for start in range(0, len(samples), 1024):
        block = np.ascontiguousarray(samples[None, start : start + 1024], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def tone_from_one_second(times_s: np.ndarray) -> np.ndarray:
    """Silence for a second, then 440 Hz."""
    return np.where(times_s < 1.0, 0.0, 0.5 * np.sin(2 * np.pi * 440 * times_s))


def plain(folder: Path) -> Path:
    """Nothing odd: 60 frames at 30 fps, H.264 without B-frames, a key frame every 20 frames."""
    images = [draw(number) for number in range(60)]
    return write(folder / "plain.mp4", images, options={"crf": "8", "g": "20", "bf": "0", "sc_threshold": "0"})


def two_shots(folder: Path) -> Path:
    """A hard cut after 36 of 75 frames, in a video with B-frames."""
    images = [draw(number, shot=int(number >= 36)) for number in range(75)]
    return write(folder / "two_shots.mp4", images, options={"crf": "8"})


def b_frames(folder: Path) -> Path:
    """Three B-frames in a row, pyramids of them, and open groups: frames are stored far from where they are shown."""
    images = [draw(number) for number in range(75)]
    options = {"crf": "8", "g": "24", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1:b-adapt=0"}
    return write(folder / "b_frames.mp4", images, options=options)


def hevc(folder: Path) -> Path:
    """HEVC as x265 makes it: open groups, whose key frames have frames behind them that are shown before them."""
    images = [draw(number) for number in range(75)]
    options = {"x265-params": "crf=8:keyint=24:min-keyint=24:scenecut=0:pools=1:log-level=none"}
    return write(folder / "hevc.mp4", images, codec="libx265", options=options)


def with_sound(folder: Path) -> Path:
    """B-frames, and a sound that begins at 1.0 s."""
    images = [draw(number) for number in range(75)]
    return write(folder / "with_sound.mp4", images, sound=tone_from_one_second, options={"crf": "8", "g": "40"})


VARIABLE_PTS = (0, 1, 2, 10, 11, 30, 31, 32, 33, 60, 61, 62, 63)


def variable_rate(folder: Path) -> Path:
    """Frames come in bursts with still stretches of up to a second: frame n begins at VARIABLE_PTS[n] / 30 s."""
    images = [draw(number) for number in range(len(VARIABLE_PTS))]
    return write(folder / "variable_rate.mp4", images, pts=VARIABLE_PTS)


def late_start(folder: Path) -> Path:
    """The first frame's pts is at 1.5 s instead of 0."""
    images = [draw(number) for number in range(60)]
    return write(folder / "late_start.mp4", images, pts=range(45, 105))


def late_start_matroska(folder: Path) -> Path:
    """Pts from 1.5 s on in a container whose declared duration counts from zero, times rounded to milliseconds."""
    images = [draw(number) for number in range(60)]
    return write(folder / "late_start.mkv", images, pts=range(45, 105))


def transport_stream(folder: Path) -> Path:
    """No index, no durations, no frame count; pts start where they like; seeking is by guess."""
    images = [draw(number) for number in range(60)]
    return write(folder / "stream.ts", images, options={"crf": "8", "g": "15"})


def without_times(folder: Path) -> Path:
    """A bare H.264 stream: its frames have no pts at all, and there is nothing to seek in."""
    images = [draw(number) for number in range(60)]
    return write(folder / "bare.h264", images)


def mpeg4_avi(folder: Path) -> Path:
    """MPEG-4 with B-frames in AVI, which stores decoding times only."""
    images = [draw(number) for number in range(60)]
    return write(folder / "old.avi", images, codec="mpeg4", options={"bf": "2", "g": "12"})


def flash(folder: Path) -> Path:
    """A Flash video: streams may come up anywhere in the file."""
    return write(folder / "flash.flv", [draw(number) for number in range(60)])


def damaged_flash(folder: Path) -> Path:
    """A few bytes of garbage after 30 frames, in which libav finds a stream that it did not see at the beginning."""
    data = bytearray(flash(folder).read_bytes())
    position = 13  # behind the header
    for _ in range(32):  # tags: type, 3 bytes of size, 7 bytes of time and stream; the body; 4 bytes of size again
        position += 11 + int.from_bytes(data[position + 1 : position + 4], "big") + 4
    data[position + 3 : position + 23] = bytes.fromhex("ebe859c9b3dd383e29e9861868ab759e685b4860")
    path = folder / "damaged_flash.flv"
    path.write_bytes(data)
    return path


def one_frame(folder: Path) -> Path:
    """A video of a single frame."""
    return write(folder / "one_frame.mp4", [draw(7)])


def odd_size(folder: Path) -> Path:
    """97 x 63 px: width and height that 4:2:0 H.264 can't have."""
    images = [draw(number, hw=(63, 97)) for number in range(30)]
    return write(folder / "odd_size.mp4", images, codec="mpeg4")


def rotated(folder: Path, degrees: int) -> Path:
    """Stored on its side or head, with a display matrix that turns it upright by `degrees` counterclockwise."""
    images = [np.rot90(draw(number), -degrees // 90) for number in range(30)]
    return write(folder / f"rotated_{degrees}.mp4", images, rotation=degrees)


def huge(folder: Path) -> Path:
    """Frames wider than any camera's: 16400 x 16 px."""
    return write(folder / "huge.mkv", [np.zeros((16, 16400, 3), np.uint8)], codec="ffv1")


def other_codec(folder: Path, codec: str, suffix: str) -> Path:
    """45 frames of a codec other than H.264, with a key frame every 20 frames.

    In a thread of its own: for root, SVT-AV1 lets the thread that opens it, and all that this one starts from then on,
    run before everything else on the machine, and never takes that back.
    """
    options = {"g": "20", "crf": "20"} | ({"x265-params": "log-level=none"} if codec == "libx265" else {})
    images = [draw(number) for number in range(45)]
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(write, folder / f"{codec}{suffix}", images, codec=codec, options=options).result()


def lossless_matroska(folder: Path) -> Path:
    """FFV1, a codec that doesn't go into every MP4."""
    images = [draw(number) for number in range(45)]
    return write(folder / "lossless.mkv", images, codec="ffv1")


def truncated(folder: Path) -> Path:
    """The index in front, the last third of the data missing: an interrupted download."""
    images = [draw(number) for number in range(75)]
    whole = write(folder / "whole.mp4", images, container_options={"movflags": "faststart"})
    return _first_bytes_of(whole, folder / "truncated.mp4", 2 / 3)


def truncated_matroska(folder: Path) -> Path:
    """Cut off without a torn packet to tell: only the declared duration does."""
    images = [draw(number) for number in range(75)]
    return _first_bytes_of(write(folder / "whole.mkv", images), folder / "truncated.mkv", 0.4)


def without_index(folder: Path) -> Path:
    """An MP4 file cut off before the index at its end: nothing in it can be found."""
    return _first_bytes_of(plain(folder), folder / "without_index.mp4", 2 / 3)


def zero_bytes(folder: Path) -> Path:
    """An empty file."""
    path = folder / "zero_bytes.mp4"
    path.touch()
    return path


def text(folder: Path) -> Path:
    """An error page, saved under a video's name."""
    path = folder / "text.mp4"
    path.write_text("<html><body>Sorry, this video is not available.</body></html>\n" * 20)
    return path


def ansi_text(folder: Path) -> Path:
    """Plain text whose file name makes libav render it as a video of a terminal."""
    path = folder / "readme.txt"
    path.write_text("not a video\n" * 20)
    return path


def playlist(folder: Path) -> Path:
    """A playlist under a video's name, by which libav would open another file."""
    path = folder / "playlist.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{transport_stream(folder)}\n#EXT-X-ENDLIST\n")
    return path


def audio_only(folder: Path) -> Path:
    """An MP4 file of sound alone."""
    path = folder / "audio_only.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        _write_sound(container, stream, np.zeros(SAMPLE_RATE))
    return path


def _first_bytes_of(whole: Path, path: Path, frac: float) -> Path:
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * frac)])
    return path
