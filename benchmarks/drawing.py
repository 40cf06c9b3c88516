"""Drawing tracks into a video: how much faster than the video plays, and than the same with OpenCV, in one run.

    python benchmarks/drawing.py

Ten seconds of 1280 x 720 px at 30 frames/s, the demo's street enlarged, and twelve tracks that cross it.

ours      `draw_tracks`, as track_objects.py --visualize calls it: boxes, labels and trails in the decoder's own planes,
          H.264 out.
opencv    what most scripts do: VideoCapture, rectangle, polylines and putText on BGR frames, VideoWriter ("mp4v":
          MPEG-4 Part 2, cheaper to encode than H.264, and no browser plays it).

Time on the clock and CPU time, the best of interleaved rounds. The goal is three times faster than the video plays, on
two cores; measured, 6.1 times (5.5 ms a frame), and OpenCV 5.3 times.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from trackverse.drawing import colour_of, draw_tracks
from trackverse.layout import ASSETS_DIR
from trackverse.records import Origin, TrackRecord, describe
from trackverse.types import Track
from trackverse.video import VideoWriter, probe, read_frames

STREET = ASSETS_DIR / "demo" / "street.mp4"
FRAME_HW, FPS = (720, 1280), 30
TRAIL_FRAMES = 2 * FPS


def write_video(path: Path) -> int:
    """The street at another size and pace; returns the number of frames."""
    images = [image for batch in read_frames(STREET) for image in batch.images]
    with VideoWriter(path, frame_hw=FRAME_HW, fps=FPS) as writer:
        for image in images:
            writer.write(np.asarray(cv2.resize(image, FRAME_HW[::-1]), np.uint8))
    return len(images)


def make_tracks(num_tracks: int, num_frames: int, rng: np.random.Generator) -> list[TrackRecord]:
    """People-sized boxes that walk through the picture, seen in every frame."""
    records = []
    for number in range(num_tracks):
        height = rng.uniform(0.2, 0.5) * FRAME_HW[0]
        size = np.array([0.4 * height, height])
        ends = rng.uniform(0, 1, (2, 2)) * (FRAME_HW[::-1] - size)
        left_top = np.linspace(*ends, num_frames)
        xyxy = np.concatenate([left_top, left_top + size], axis=1).astype(np.float32)
        scores = np.full(num_frames, 0.75, np.float32)
        looks = np.ones(1, np.float32)
        track = Track(np.arange(num_frames) / FPS, xyxy, scores, scores[:, None], looks)
        origin = Origin("street", "street.0.mp4", FRAME_HW, "drawn", "coco", FPS)
        records.append(describe(track, number, origin, ("person",)))
    return records


def draw_with_opencv(source: Path, destination: Path, records: Iterable[TrackRecord]) -> None:
    capture = cv2.VideoCapture(str(source))
    writer = cv2.VideoWriter(str(destination), cv2.VideoWriter.fourcc(*"mp4v"), FPS, FRAME_HW[::-1])
    boxes = {record.track_id: record.tlwh.round().astype(int) for record in records}
    number = 0
    while True:
        is_there, frame = capture.read()
        if not is_there:
            break
        for track_id, tlwh in boxes.items():
            colour = colour_of(track_id)[::-1]
            trail = tlwh[max(0, number - TRAIL_FRAMES) : number + 1]
            feet = np.stack([trail[:, 0] + trail[:, 2] // 2, trail[:, 1] + trail[:, 3]], axis=-1)
            left, top, width, height = tlwh[number].tolist()
            cv2.polylines(frame, [feet.astype(np.int32)], False, colour, 2)
            cv2.rectangle(frame, (left, top), (left + width, top + height), colour, 2)
            cv2.putText(frame, f"{track_id} person 0.75", (left, top - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)
        writer.write(frame)
        number += 1
    capture.release()
    writer.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_tracks", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5, help="of which the best counts")
    args = parser.parse_args()
    cv2.setNumThreads(2)
    with tempfile.TemporaryDirectory() as folder:
        source, destination = Path(folder) / "street.mp4", Path(folder) / "drawn.mp4"
        num_frames = write_video(source)
        video, records = probe(source), make_tracks(args.num_tracks, num_frames, np.random.default_rng(0))
        ways: dict[str, Callable[[], None]] = {
            "ours": lambda: draw_tracks(source, destination, records, start_s=0.0, video=video),
            "opencv": lambda: draw_with_opencv(source, destination, records),
        }
        best = dict.fromkeys(ways, (np.inf, np.inf))
        for _ in range(args.rounds):
            for name, draw in ways.items():
                clock, cpu = time.perf_counter(), time.process_time()
                draw()
                spent = time.perf_counter() - clock, time.process_time() - cpu
                best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
    print(f"{'':<8}{'ms a frame':>12}{'CPU ms':>8}{'x real time':>13}")
    for name, (clock, cpu) in best.items():
        print(
            f"{name:<8}{1e3 * clock / num_frames:>12.1f}{1e3 * cpu / num_frames:>8.1f}{num_frames / FPS / clock:>13.1f}"
        )
    print(f"ours is {best['opencv'][0] / best['ours'][0]:.2f} times as fast as opencv")


if __name__ == "__main__":
    main()
