"""Association: our tracker's update() against other ByteTracks, and our second pass over what came of it, milliseconds
a frame on one thread, in one run.

    python benchmarks/tracker.py                     (puts the peers into a virtual environment of their own first)
    python benchmarks/tracker.py --peers DIR         (uses that environment, made by an earlier run with the same flag)

The peers, which associate boxes alone:

trackers      roboflow's `ByteTrackTracker`: Python, an object a track
supervision   its `ByteTrack`: Python, an object a track
ioutrack      `ByteTrack` in Rust
pyxtrackers   `BYTETracker` in Cython and C++

They get the same crowds of 10, 50 and 200 objects, drawn here with a fixed seed at 16 frames/s: people-sized boxes that
walk, hide each other, are missed and are seen with low scores, among a few false ones. Ours also gets a 64-d and a
512-d appearance for every box. Detections are made before the clock runs; each tracker has a process of its own, whose
CPU time is measured, the best of interleaved rounds; ratios are the medians over the rounds.

The second pass (`refine`) goes through the tracks of the whole crowd, and what none of them took, boxes only and with a
64-d appearance, after it has gone through those of the first tenth. The goal: it costs less than the online pass.

Then ten objects with a 64-d appearance that stay in view for an hour: by how much the memory of the tracker's process
grows after the first minutes, with the past of live tracks in a file, as when videos are tracked, and in memory.

The goal: 3, 5 and 7 times faster than `trackers` at 10, 50 and 200 objects with a 64-d appearance, no slower than
`pyxtrackers` at 200, and 512-d at most 1.5 times the cost of 64-d.

Measured on one core of two processors: 2.4 to 3.2, 7.0 to 8.9 and 13 to 18 times faster than `trackers`. At 200,
`pyxtrackers` takes 1.0 to 1.1 times our time with 64-d looks, and 0.9 to 1.5 times ours without. 512-d costs 1.1 to
1.3, 1.3 to 1.4 and 1.7 times 64-d. So the goal is met at 50 and 200, at 10 on one of the processors only, and 512-d
misses it at 200, where reading and moving rows of 512 numbers is what takes the time. With 10 objects, the many calls
of numpy are; with 200, comparing all boxes with all others is a fifth of it. Finding out whether the camera moves takes
a twentieth, with 10 objects.

The second pass costs 0.6, 1.0 and 1.7 times the online pass by boxes only, and 0.4, 0.7 and 1.1 to 1.2 times with
64-d: the goal is met with 10 and 50 objects, and missed with 200. Associating backward in time, which is an online pass
of its own, takes nearly half of it everywhere; with few objects it is cheap because stretches of the clip are gone
through side by side, but with 200 there is no time to be saved that way. Without it, crowds with looks lose up to 17
HOTA; asked only where the online pass had a choice, it costs 0.6 to 1.4 HOTA by boxes. Finding out from the tracks
whether the camera moves takes a tenth of the second pass with 50 objects and a twentieth with 200; giving tracks the
detections that none took online, a thirtieth.

In an hour, memory grows by 0.1 MB with the past in a file, and by 41 MB in memory: 77 bytes a box, which are its place,
score and looks. Tracks that have ended hold the same, which is not counted here: whoever keeps them needs it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trackverse.types import Detections

# Before numpy's first product: "one thread" holds for everybody.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PEERS = {"trackers": "2.6.1", "supervision": "0.26.1", "ioutrack": "0.3.0", "pyxtrackers": "2026.3.3"}
OURS = {"ours, boxes only": 0, "ours, 64-d": 64, "ours, 512-d": 512}
SECOND = {"second pass, boxes only": "ours, boxes only", "second pass, 64-d": "ours, 64-d"}  # after which online pass
TRACK_THRESH = 0.6
CROWDS = {10: 800, 50: 400, 200: 160}  # objects: frames
FPS = 16
FRAME_HW = (1080, 1920)
GOALS = {10: 3.0, 50: 5.0, 200: 7.0}
MEMORY = {"past in a file": True, "past in memory": False}
NUM_STAYING, HOUR_FRAMES, FIRST_FRAMES = 10, 3600 * FPS, 120 * FPS

Update = Callable[[int], object]


def draw_crowd(num_objects: int, num_frames: int, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """A crowd's detections a frame: `xyxy` (N, 4) px, `scores` (N,), `embeddings` (N, 512) of unit length."""
    height = rng.uniform(80, 260, num_objects)
    size = np.stack([0.41 * height, height], -1)
    centre = rng.uniform(0, 1, (num_objects, 2)) * FRAME_HW[::-1]
    velocity = rng.normal(0, 0.5, (num_objects, 2)) * height[:, None] / FPS  # about half a body height a second
    look = rng.normal(0, 1, (num_objects, 512))
    frames = []
    for _ in range(num_frames):
        velocity += rng.normal(0, 0.02, velocity.shape) * height[:, None] / FPS
        outside = (centre < 0) | (centre > FRAME_HW[::-1])
        velocity = np.where(outside & (velocity * (centre - np.array(FRAME_HW[::-1]) / 2) > 0), -velocity, velocity)
        centre = centre + velocity
        seen = (rng.random(num_objects) > 0.03) & ~_is_hidden(centre, size)
        num_false = rng.poisson(0.03 * num_objects)
        middles = np.concatenate([centre[seen], rng.uniform(0, 1, (num_false, 2)) * FRAME_HW[::-1]])
        sizes = np.concatenate([size[seen], rng.uniform(40, 200, (num_false, 2))])
        middles += rng.normal(0, 0.01, middles.shape) * sizes
        true_score = np.where(rng.random(seen.sum()) < 0.15, rng.uniform(0.1, 0.55, seen.sum()), 0.85)
        embeddings = np.concatenate([look[seen], rng.normal(0, 1, (num_false, 512))])
        embeddings = embeddings + rng.normal(0, 0.5, embeddings.shape)
        frames.append(
            {
                "xyxy": np.concatenate([middles - sizes / 2, middles + sizes / 2], 1).astype(np.float32),
                "scores": np.concatenate([true_score, rng.uniform(0.1, 0.6, num_false)]).astype(np.float32),
                "embeddings": (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32),
            }
        )
    return frames


def _is_hidden(centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(N,): more than 70 % of the object lies behind another one that stands nearer, that is, lower in the picture."""
    left_top, right_bottom = centre - size / 2, centre + size / 2
    overlap = np.minimum(right_bottom[:, None], right_bottom) - np.maximum(left_top[:, None], left_top)
    share = np.maximum(overlap, 0).prod(-1) / size.prod(-1)[:, None]
    is_behind = right_bottom[:, None, 1] < right_bottom[:, 1]
    return ((share > 0.7) & is_behind).any(1)


def ours(frames: list[dict[str, np.ndarray]], dim: int) -> Update:
    from trackverse.bytetrack import ByteTrackConfig, ByteTracker

    found = detections(frames, dim)
    tracker = ByteTracker(ByteTrackConfig(track_thresh=TRACK_THRESH))
    return lambda k: tracker.update(k / FPS, found[k])


def detections(frames: list[dict[str, np.ndarray]], dim: int) -> list[Detections]:
    """Of every frame, with an appearance of `dim` numbers."""
    from trackverse.types import Detections

    found = []
    for frame in frames:
        logits = np.zeros((len(frame["scores"]), 1), np.float32)
        embeddings = frame["embeddings"][:, :dim]
        embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        found.append(Detections(frame["xyxy"], frame["scores"], logits, embeddings))
    return found


def time_second_pass(frames: list[dict[str, np.ndarray]], dim: int) -> float:
    """CPU milliseconds a frame, after it has gone through the first tenth, as a worker's next clip takes."""
    second_pass_ms(frames[: len(frames) // 10], dim)
    return second_pass_ms(frames, dim) / len(frames)


def second_pass_ms(frames: list[dict[str, np.ndarray]], dim: int) -> float:
    """CPU milliseconds."""
    from trackverse.bytetrack import ByteTrackConfig, ByteTracker
    from trackverse.refine import RefineConfig, refine
    from trackverse.strays import Strays

    with tempfile.TemporaryFile() as file:
        strays, times_s = Strays(file), np.arange(len(frames)) / FPS
        tracker = ByteTracker(ByteTrackConfig(track_thresh=TRACK_THRESH), strays=strays)
        found = zip(times_s.tolist(), detections(frames, dim), strict=True)
        tracks = [track for time_s, seen in found for track in tracker.update(time_s, seen)] + tracker.finish()
        start = time.process_time()
        refined = refine(
            tracks,
            RefineConfig(),
            frame_times_s=times_s,
            sure_score=TRACK_THRESH,
            frame_width=FRAME_HW[1],
            strays=strays,
        )
        list(refined)
        return (time.process_time() - start) * 1000


def supervision(frames: list[dict[str, np.ndarray]]) -> Update:
    import supervision as sv

    found = [sv.Detections(frame["xyxy"], confidence=frame["scores"]) for frame in frames]
    tracker = sv.ByteTrack(0.6, 30, 0.9, FPS, 2)
    return lambda k: tracker.update_with_detections(found[k])


def trackers(frames: list[dict[str, np.ndarray]]) -> Update:
    import supervision as sv
    from trackers import ByteTrackTracker

    found = [sv.Detections(frame["xyxy"], confidence=frame["scores"]) for frame in frames]
    tracker = ByteTrackTracker(30, FPS, 0.7, 2, 0.1, 0.6)
    return lambda k: tracker.update(found[k])


def ioutrack(frames: list[dict[str, np.ndarray]]) -> Update:
    from ioutrack import ByteTrack

    found = [np.column_stack([frame["xyxy"], frame["scores"]]).astype(np.float32) for frame in frames]
    tracker = ByteTrack(FPS, 2, 0.1, 0.7, 0.6, 0.1)
    return lambda k: tracker.update(found[k])


def pyxtrackers(frames: list[dict[str, np.ndarray]]) -> Update:
    from pyxtrackers import BYTETracker

    found = [np.column_stack([frame["xyxy"], frame["scores"]]).astype(np.float64) for frame in frames]
    tracker = BYTETracker(track_thresh=0.6, match_thresh=0.9, track_buffer=30)
    return lambda k: tracker.update(found[k])


def time_one(name: str, crowd_path: Path) -> float:
    """CPU milliseconds a frame of one tracker on one crowd. The first tenth, in which tracks begin, is not counted, but
    for the second pass.
    """
    with np.load(crowd_path) as arrays:
        num_frames = len(arrays.files) // 3
        keys = ("xyxy", "scores", "embeddings")
        frames = [{key: arrays[f"{key}{number}"] for key in keys} for number in range(num_frames)]
    if name in SECOND:
        return time_second_pass(frames, OURS[SECOND[name]])
    update = ours(frames, OURS[name]) if name in OURS else globals()[name](frames)
    for number in range(num_frames // 10):
        update(number)
    start = time.process_time()
    for number in range(num_frames // 10, num_frames):
        update(number)
    return (time.process_time() - start) * 1000 / (num_frames - num_frames // 10)


def growth(*, in_file: bool) -> float:
    """MB by which memory grows from the third minute of an hour on, of a tracker of objects that stay in view."""
    from trackverse.bytetrack import ByteTrackConfig, ByteTracker
    from trackverse.types import Detections

    rng = np.random.default_rng(0)
    left = 100 * np.arange(NUM_STAYING)
    still = np.stack([left, 0 * left, left + 60, 0 * left + 150], axis=1)
    scores, looks = np.full(NUM_STAYING, 0.9, np.float32), rng.normal(0, 1, (NUM_STAYING, 64)).astype(np.float32)
    with tempfile.TemporaryFile() as file:
        tracker = ByteTracker(ByteTrackConfig(track_thresh=0.6), spool_file=file if in_file else None)
        for number in range(HOUR_FRAMES):
            if number == FIRST_FRAMES:
                before = resident_mb()
            xyxy = (still + rng.normal(0, 1, still.shape)).astype(np.float32)
            ended = tracker.update(number / FPS, Detections(xyxy, scores, scores[:, None], looks))
            assert not ended
        return resident_mb() - before


def resident_mb() -> float:
    """MB of memory that this process takes at the moment (Linux). Its peak may be one of its parent."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024**2


def make_peers(folder: Path) -> Path:
    """The Python of an environment that has the peers in it; made if it isn't there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"putting the peers into {folder} ...", flush=True)
        venv.create(folder, with_pip=True)
        packages = [f"{name}=={version}" for name, version in PEERS.items()]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def measure(name: str, crowd_path: Path, peers_python: Path) -> float:
    """CPU milliseconds a frame; for those of `MEMORY`, MB."""
    python = str(peers_python) if name in PEERS else sys.executable
    command = [python, __file__, "--one", name, str(crowd_path)]
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(run.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="environment of the peers (default: a passing one)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, path = args.one
        print(growth(in_file=MEMORY[name]) if name in MEMORY else time_one(name, Path(path)))
        return
    names = [*OURS, *SECOND, *PEERS]
    with tempfile.TemporaryDirectory() as folder:
        peers_python = make_peers(args.peers or Path(folder) / "peers")
        times: dict[int, dict[str, np.ndarray]] = {}  # of every round
        for num_objects, num_frames in CROWDS.items():
            crowd_path = Path(folder) / f"{num_objects}.npz"
            frames = draw_crowd(num_objects, num_frames, np.random.default_rng(num_objects))
            arrays = {f"{key}{k}": array for k, frame in enumerate(frames) for key, array in frame.items()}
            np.savez(crowd_path, **arrays)
            rounds = [[measure(name, crowd_path, peers_python) for name in names] for _ in range(args.rounds)]
            times[num_objects] = dict(zip(names, np.array(rounds).T, strict=True))
        grown = {name: measure(name, Path(folder), peers_python) for name in MEMORY}
    print(f"{'CPU ms a frame':25}" + "".join(f"{num_objects:>8} objects" for num_objects in CROWDS))
    for name in names:
        print(f"{name:25}" + "".join(f"{times[num_objects][name].min():16.3f}" for num_objects in CROWDS))

    def ratio(num_objects: int, one: str, other: str) -> float:
        return float(np.median(times[num_objects][one] / times[num_objects][other]))

    for num_objects in CROWDS:
        print(
            f"{num_objects} objects, 64-d: {ratio(num_objects, 'trackers', 'ours, 64-d'):.1f} x faster than trackers"
            f" (goal {GOALS[num_objects]:.0f}), {ratio(num_objects, 'pyxtrackers', 'ours, 64-d'):.2f} x pyxtrackers;"
            f" 512-d costs {ratio(num_objects, 'ours, 512-d', 'ours, 64-d'):.2f} x 64-d (goal at most 1.5)"
        )
        costs = [f"{ratio(num_objects, name, online):.2f} x {online}" for name, online in SECOND.items()]
        print(f"{num_objects} objects, the second pass costs {', '.join(costs)} (goal at most 1)")
    num_boxes = NUM_STAYING * (HOUR_FRAMES - FIRST_FRAMES)
    for name, megabytes in grown.items():
        a_box = megabytes * 1024**2 / num_boxes
        print(f"{NUM_STAYING} objects for an hour, {name}: memory grows by {megabytes:.1f} MB, {a_box:.1f} bytes a box")


if __name__ == "__main__":
    main()
