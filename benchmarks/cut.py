"""Finding shots and cutting clips: our ways against the usual ones, on one generated video, in one run.

    python benchmarks/cut.py

The video is 720p30 H.264 with a key frame at least every 5 s: cameras that pan over textured ground under grain, with
hard cuts, dissolves and fades through black at known frames.

ours         `trackverse.segments.detect_scenes`; "fast": as with --fast
and filters  `trackverse.segments.find_segments`, as cut_videos.py calls it: the same, and its filters' scores of every
             shot of 3 s and more, from the same decoding
scenedetect  PySceneDetect's `open_video`, `SceneManager` and `AdaptiveDetector` as they come
copy         `trackverse.video.cut_clips` in its mode "copy", for stretches of 2 to 4 s from anywhere
ffmpeg       one `ffmpeg -c copy` for each of them

Measured is CPU time, children included, the best of interleaved rounds. A hard cut counts as found within a frame of
its place, a dissolve or fade within half a second of its frames; a found cut that is none of them is false. A clip's
start is off by how far its first shown frame lies, in the source, from the frame that was asked for.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import imageio_ffmpeg
import numpy as np
from scenedetect import AdaptiveDetector, SceneManager, open_video

from trackverse import cli, filter_flags
from trackverse.scenes import CutConfig
from trackverse.segments import detect_scenes, find_segments
from trackverse.types import SourceVideo
from trackverse.video import VideoWriter, cut_clips, probe, read_frames

SIZE_HW = (720, 1280)
FPS = 30
SHOT_FRAMES = (60, 130)  # at least and at most, transitions left out
KINDS = ("hard", "hard", "hard", "dissolve", "hard", "hard", "fade")  # of the transitions, over and over
TRANSITION_FRAMES = {"hard": 0, "dissolve": 30, "fade": 30}
SLACK_FRAMES = {"hard": 1, "dissolve": FPS // 2, "fade": FPS // 2}
NUM_CLIPS = 30  # HD-VILA-100M has as many of a video
Result = TypeVar("Result")


@dataclass(frozen=True)
class Transition:
    """From the last shot's last whole frame to the next one's first: `first` to `last`, which is that frame."""

    kind: str
    first: int
    last: int

    def explains(self, cut: int) -> bool:
        """Whether a cut found at this frame is this transition."""
        slack = SLACK_FRAMES[self.kind]
        return self.first - slack <= cut <= self.last + slack


# ---- the video


class Shot:
    """Rough ground in colours of its own, with a camera that pans over it at a speed of its own."""

    def __init__(self, rng: np.random.Generator) -> None:
        height, width = SIZE_HW
        wide = (2 * width, height)
        coarse = cv2.resize(rng.integers(0, 256, (9, 32, 3), dtype=np.uint8), wide, interpolation=cv2.INTER_CUBIC)
        fine = cv2.resize(rng.integers(0, 256, (height // 4, width // 2, 3), dtype=np.uint8), wide)
        self._view = ((0.65 * coarse + 0.35 * fine) * rng.uniform(0.4, 1, 3)).astype(np.uint8)
        self._speed = int(rng.integers(1, 6))  # px a frame
        self._now = 0

    def next_image(self) -> np.ndarray:
        left = abs((self._now * self._speed) % (2 * SIZE_HW[1]) - SIZE_HW[1])
        self._now += 1
        return self._view[:, left : left + SIZE_HW[1]]


def write_video(path: Path, seconds: int, rng: np.random.Generator) -> list[Transition]:
    """Write the video; its transitions."""
    grain = rng.integers(-4, 5, (2 * SIZE_HW[0], 2 * SIZE_HW[1], 1), dtype=np.int16)
    transitions: list[Transition] = []
    number = 0
    with VideoWriter(path, frame_hw=SIZE_HW, fps=FPS, crf=23, keyframe_s=5) as writer:

        def write(image: np.ndarray) -> None:
            nonlocal number
            top, left = (int(rng.integers(0, side)) for side in SIZE_HW)
            noisy = image + grain[top : top + SIZE_HW[0], left : left + SIZE_HW[1]]
            writer.write(np.clip(noisy, 0, 255).astype(np.uint8))
            number += 1

        shot = Shot(rng)
        while True:
            for _ in range(rng.integers(*SHOT_FRAMES)):
                write(shot.next_image())
            if number >= seconds * FPS:
                return transitions
            kind = KINDS[len(transitions) % len(KINDS)]
            old, shot = shot, Shot(rng)
            transitions.append(Transition(kind, number, number + TRANSITION_FRAMES[kind]))
            for share in np.linspace(0, 1, TRANSITION_FRAMES[kind], endpoint=False):
                write(mix(kind, old.next_image(), shot.next_image(), share))


def mix(kind: str, old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    """A frame of a transition, of which `share` in [0, 1) has passed."""
    if kind == "fade":  # down to black, then up from it
        shares = (max(0.0, 1 - 2 * share), max(0.0, 2 * share - 1))
    else:
        shares = (1 - share, share)
    return np.asarray(cv2.addWeighted(old, shares[0], new, shares[1], 0))


# ---- the peers


def find_ours(path: Path) -> list[int]:
    return [round(start_s * FPS) for start_s, _ in detect_scenes(path, probe(path), "adaptive")[1:]]


def find_and_filter(path: Path, *, fast: bool = False) -> list[int]:
    parser = cli.Parser(None)
    filter_flags.add(parser)
    args = parser.parse_args(["--cartoon_model", "built_in", "--aesthetics_model", "built_in"])
    config = CutConfig(fast=fast, **filter_flags.settings(args))
    filters = filter_flags.load(args)
    found = find_segments(SourceVideo("shots", None, None), path, config, filters, clip_mode=None)
    return [round(start_s * FPS) for start_s, _ in found.scenes[1:]]


def find_fast(path: Path) -> list[int]:
    return [round(start_s * FPS) for start_s, _ in detect_scenes(path, probe(path), "adaptive", fast=True)[1:]]


def find_fast_and_filter(path: Path) -> list[int]:
    return find_and_filter(path, fast=True)


def find_with_scenedetect(path: Path) -> list[int]:
    manager = SceneManager()
    manager.add_detector(AdaptiveDetector())
    manager.detect_scenes(open_video(str(path), backend="opencv"))
    return [start.frame_num for start, _ in manager.get_scene_list()[1:]]


def cut_ours(source: Path, clips: dict[Path, tuple[float, float]]) -> None:
    cut_clips(source, clips, mode="copy")


def cut_with_ffmpeg(source: Path, clips: dict[Path, tuple[float, float]]) -> None:
    for destination, (start_s, end_s) in clips.items():
        span = ["-ss", f"{start_s:.3f}", "-i", str(source), "-t", f"{end_s - start_s:.3f}"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *span, "-c", "copy", str(destination)]
        subprocess.run(command, check=True)


# ---- the measuring


def best_of(rounds: int, ways: dict[str, Callable[[], Result]]) -> dict[str, tuple[float, Result]]:
    """For each way the least CPU seconds, children included, and what it gave."""
    best: dict[str, tuple[float, Result]] = {}
    for _ in range(rounds):
        for name, run in ways.items():
            start_s = cpu_s()
            result = run()
            used_s = cpu_s() - start_s
            if name not in best or used_s < best[name][0]:
                best[name] = (used_s, result)
    return best


def cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def print_scenes(best: dict[str, tuple[float, list[int]]], transitions: Sequence[Transition], peer: str) -> None:
    heads = f"{'hard':>8}{'fade':>8}{'dissolve':>10}{'false':>7}{'precision':>11}"
    print(f"{'shots':<14}{heads}{'CPU s':>8}{peer + ' / this':>20}")
    for name, (used_s, cuts) in best.items():
        columns = []
        for kind in ("hard", "fade", "dissolve"):
            asked = [one for one in transitions if one.kind == kind]
            columns.append(f"{sum(any(one.explains(cut) for cut in cuts) for one in asked)}/{len(asked)}")
        num_false = sum(not any(one.explains(cut) for one in transitions) for cut in cuts)
        precision = 1 - num_false / max(len(cuts), 1)
        found = f"{columns[0]:>8}{columns[1]:>8}{columns[2]:>10}{num_false:>7}{precision:>11.2f}"
        print(f"{name:<14}{found}{used_s:>8.2f}{best[peer][0] / used_s:>20.2f}")


def print_clips(best: dict[str, tuple[float, list[float]]], peer: str) -> None:
    print(f"{'clips':<14}{'exact starts':>14}{'mean error s':>14}{'largest s':>11}{'CPU s':>8}{peer + ' / this':>20}")
    for name, (used_s, errors_s) in best.items():
        exact = f"{sum(error < 0.5 / FPS for error in errors_s)}/{len(errors_s)}"
        off = f"{exact:>14}{np.mean(errors_s):>14.3f}{max(errors_s):>11.3f}"
        print(f"{name:<14}{off}{used_s:>8.2f}{best[peer][0] / used_s:>20.2f}")


class FrameFinder:
    """Which frame of a video a picture is, told by its pixels at a small size."""

    LONG_SIDE = 64

    def __init__(self, path: Path) -> None:
        batches = list(read_frames(path, long_side=self.LONG_SIDE))
        self._images = np.concatenate([batch.images for batch in batches]).astype(np.int16)
        self._times_s = np.concatenate([batch.times_s for batch in batches])

    def start_error_s(self, clip_path: Path, start_s: float) -> float:
        """How far in the source the clip's first shown frame is from the first one at `start_s` or later."""
        first = next(read_frames(clip_path, long_side=self.LONG_SIDE, batch_size=1)).images[0]
        found = np.abs(self._images - first).mean(axis=(1, 2, 3)).argmin()
        asked = np.searchsorted(self._times_s, start_s - 1e-3)
        return float(abs(self._times_s[found] - self._times_s[asked]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="length of the video, at least")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, of which the best counts")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shots.mp4"
        transitions = write_video(path, args.seconds, rng)
        print(f"{probe(path).duration_s:.0f} s of {SIZE_HW[1]}x{SIZE_HW[0]}, {path.stat().st_size / 1e6:.1f} MB")
        finders = {
            "ours": find_ours,
            "and filters": find_and_filter,
            "fast": find_fast,
            "fast, filters": find_fast_and_filter,
            "scenedetect": find_with_scenedetect,
        }
        found = best_of(args.rounds, {name: (lambda find=find: find(path)) for name, find in finders.items()})
        print_scenes(found, transitions, peer="scenedetect")

        starts_s = np.round(rng.uniform(0, args.seconds - 4, NUM_CLIPS) * FPS) / FPS
        spans = [(start_s, start_s + rng.uniform(2, 4)) for start_s in starts_s]
        finder = FrameFinder(path)

        def cut_all(name: str, cut: Callable[[Path, dict[Path, tuple[float, float]]], None]) -> list[Path]:
            clips = {Path(folder) / f"{name}{number}.mp4": span for number, span in enumerate(spans)}
            cut(path, clips)
            return list(clips)

        cutters = {"copy": cut_ours, "ffmpeg": cut_with_ffmpeg}
        ways = {name: (lambda name=name, cut=cut: cut_all(name, cut)) for name, cut in cutters.items()}
        written = best_of(args.rounds, ways)
        errors = {
            name: (used_s, [finder.start_error_s(one, start) for one, (start, _) in zip(paths, spans, strict=True)])
            for name, (used_s, paths) in written.items()
        }
        print_clips(errors, peer="ffmpeg")


if __name__ == "__main__":
    main()
