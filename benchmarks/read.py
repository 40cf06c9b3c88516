"""Reading video: our reader against the published way, on one core, in one run.

    python benchmarks/read.py

Both sample a generated 720p30 H.264 video at 16 frames/s and 480 px on the long side.

ours        `trackverse.video.read_frames`: frames that no tick falls on are never converted and, where the codec allows
            it, never decoded; the others are scaled and converted to RGB in one step.
published   every frame is decoded; each sampled one becomes a full-size RGB image, `frame.to_image()`, that Pillow
            resizes with its default filter.
all frames  the same, but every decoded frame is converted and resized, and the samples are picked afterwards.

Measured is the CPU time of this process, the best of interleaved rounds. The goal is 2.5 times less than published.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from trackverse.video import VideoWriter, read_frames

SIZE_HW = (720, 1280)
SMALL_HW = (270, 480)
VIDEO_FPS = 30
SAMPLED_FPS = 16


def write_video(path: Path, seconds: int, rng: np.random.Generator) -> None:
    """A texture that moves across the picture at 4 px a frame, under grain that changes with every frame."""
    height, width = SIZE_HW
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 4, 3), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.integers(-6, 7, (2 * height, 2 * width, 1), dtype=np.int16)
    with VideoWriter(path, frame_hw=SIZE_HW, fps=VIDEO_FPS, crf=23, keyframe_s=5) as writer:
        for number in range(seconds * VIDEO_FPS):
            left = abs((4 * number) % (2 * width) - width)
            top, side = rng.integers(0, height), rng.integers(0, width)
            picture = texture[:, left : left + width] + grain[top : top + height, side : side + width]
            writer.write(np.clip(picture, 0, 255).astype(np.uint8))


def read_ours(path: Path) -> Iterator[np.ndarray]:
    for batch in read_frames(path, fps=SAMPLED_FPS, long_side=max(SMALL_HW), num_threads=1):
        yield from batch.images


def read_published(path: Path) -> Iterator[np.ndarray]:
    for is_sampled, frame in _decoded(path):
        if is_sampled:
            yield np.asarray(frame.to_image().resize(SMALL_HW[::-1]))


def read_all_frames(path: Path) -> Iterator[np.ndarray]:
    for is_sampled, frame in _decoded(path):
        image = np.asarray(frame.to_image().resize(SMALL_HW[::-1]))
        if is_sampled:
            yield image


def _decoded(path: Path) -> Iterator[tuple[bool, av.VideoFrame]]:
    """Every frame, and whether it is on show at a tick."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            first_tick, next_first_tick = (-(-SAMPLED_FPS * n // VIDEO_FPS) for n in (number, number + 1))
            yield first_tick < next_first_tick, frame


def cpu_seconds(read: Callable[[Path], Iterator[np.ndarray]], path: Path) -> tuple[float, int]:
    """CPU seconds of this process for a whole reading, and the number of images it gave."""
    start = time.process_time()
    num_images = sum(1 for _ in read(path))
    return time.process_time() - start, num_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="length of the video")
    parser.add_argument("--rounds", type=int, default=3, help="readings by each reader, of which the best counts")
    args = parser.parse_args()
    readers = {"ours": read_ours, "published": read_published, "all frames": read_all_frames}
    best_s = dict.fromkeys(readers, float("inf"))
    num_images = dict.fromkeys(readers, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texture.mp4"
        write_video(path, args.seconds, np.random.default_rng(0))
        print(
            f"{args.seconds} s of {SIZE_HW[1]}x{SIZE_HW[0]} at {VIDEO_FPS} frames/s, {path.stat().st_size / 1e6:.1f} MB"
        )
        for _ in range(args.rounds):
            for name, read in readers.items():
                seconds, num_images[name] = cpu_seconds(read, path)
                best_s[name] = min(best_s[name], seconds)
    print(f"{'reader':<12}{'images':>8}{'CPU s':>8}{'times ours':>12}")
    for name in readers:
        print(f"{name:<12}{num_images[name]:>8}{best_s[name]:>8.2f}{best_s[name] / best_s['ours']:>12.2f}")


if __name__ == "__main__":
    main()
