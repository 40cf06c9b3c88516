"""What Detic costs a frame, and which part of it.

    python benchmarks/detic.py
    python benchmarks/detic.py --kinds swinb --threads 1
    python benchmarks/detic.py --weights FILE       # a published checkpoint; --vocab lvis must be there, too
    python benchmarks/detic.py --weights drawn/detic_r18.pth --vocab drawn/vocabulary.npy --pictures drawn/held_out

A photo of 600 x 400 px at --frame_size 480 (a network input of 480 x 320), 1203 classes, weights made up by the rule of
the tests: a network's cost does not depend on what it has learnt, save that confident weights propose 256 boxes always.
Measured are the CPU time of this process and the time on the clock, the best of interleaved rounds. Threads that wait
for each other count as busy: on a machine that does other work, --threads 1 gives the truest CPU time.

"plain" stands in for the published code, which needs old Pythons: tests/plain_detic.py takes the same steps in the same
order with torch and torchvision, frame by frame. Before it is timed, it must find the same as we do. Also printed: what
the published code itself took, measured once on another machine, and how fast this one multiplies matrices, which
limits the rest.

Of bfloat16 it is also said which share of float32's detections it has, within 0.5 px and 0.01 of score. That depends on
what the network has learnt: one that training/train_drawn_detic.py trained, which found 88 % of 300 held-out shapes
(0.75 of mean IoU), kept 98.0 % of 3223 detections, 99.1 % of those of 0.3 or more, and all of 351 on photographs of a
cup and of a street. On a quarter of the scenes, rounding one part alone cost 2.3 % (backbone), 1.1 % (pyramid), 0.7 %
(proposals) or 0.3 % (box heads) of the detections, all of them 2.8 %. What is lost is mostly moved by more than 0.5 px.
A Swin-B of the same training, stopped after 600 of 700 steps (an hour of a busy core), which found 78 % of 277 shapes
(0.75 of mean IoU), kept 98.9 % of 4278 detections, 98.9 % of 1233 of 0.3 or more. With its first stage in bfloat16,
too, it kept 94.2 % (95.1 % of those of 0.3 or more): of 445 detections, all rounding then lost 3.8 % (the backbone's
alone 3.4, the pyramid's 0.7, the proposals' 0.4, the box heads' 0.2); with the patch embedding in float32 2.5 %, with
the first stage, too, which takes 4 % more time, 1.1 %. The shortcuts, the second stage, or pyramid and proposals in
float32 hardly changed anything.
Made-up weights know no objects and magnify what is rounded off: of their detections 5 to 10 % stay, and rounding one
part alone loses half of them already.

A processor without instructions for bfloat16 is made to do it here all the same, once; load_detic takes float32 there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from detic_weights import made_up_checkpoint, made_up_vocabulary
from plain_detic import Found, PlainDetic

from trackverse.detectors.detic import load_detic
from trackverse.detectors.detic.checkpoint import read_entries
from trackverse.detectors.detic.detector import DTYPES, Detic
from trackverse.detectors.detic.device import multiplies_bfloat16
from trackverse.detectors.detic.preprocess import network_hw, network_input, resize
from trackverse.detectors.vocabulary import load_vocabulary
from trackverse.types import Detections

FRAME_SIZE = 480
BATCH_SIZES = (1, 4)
NUM_CLASSES = 1203
PUBLISHED_CPU_S = {"r18": 0.73, "swinb": 2.14}  # float32, batch 1, the same input, on two AVX-512 cores
MAX_OFF_PX, MAX_OFF_SCORE = 0.5, 0.01
PARTS = ("backbone", "proposals", "heads", "whole")


class Stopwatch:
    """The least CPU time and clock time of each part, in seconds a frame."""

    def __init__(self) -> None:
        self.best: dict[tuple[object, ...], tuple[float, float]] = {}

    def measure(self, key: tuple[object, ...], num_frames: int, work: Callable[[], object]) -> object:
        cpu, clock = time.process_time(), time.perf_counter()
        result = work()
        spent = (time.process_time() - cpu) / num_frames, (time.perf_counter() - clock) / num_frames
        known = self.best.get(key, spent)
        self.best[key] = min(known[0], spent[0]), min(known[1], spent[1])
        return result


def read_pictures(folder: Path | None) -> list[np.ndarray]:
    """The (H, W, 3) pictures of a folder, sorted by name; without one, a photo."""
    if folder is None:
        return [skimage.data.coffee()]
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]


def run(detector: Detic, vocabulary: Tensor, frames: np.ndarray, watch: Stopwatch, key: tuple[object, ...]) -> None:
    """One pass part by part, and one as users have it, with resizing and suppression."""
    small = [resize(frame, network_hw(frame.shape[:2], FRAME_SIZE, FRAME_SIZE)) for frame in frames]
    sizes = [image.shape[:2] for image in small]
    count, network, pixels = len(frames), detector.network, network_input(small, torch.device("cpu"))
    with torch.inference_mode():
        pyramid = watch.measure((*key, "backbone"), count, lambda: network.features(pixels))
        proposals = watch.measure((*key, "proposals"), count, lambda: network.proposals(pyramid))
        watch.measure((*key, "heads"), count, lambda: network.heads(pyramid, proposals, sizes, vocabulary, 0.1))
    watch.measure((*key, "whole"), count, lambda: detector(frames))


def run_plain(plain: PlainDetic, frame: np.ndarray, watch: Stopwatch, key: tuple[object, ...]) -> None:
    """The same of the stand-in, on one frame."""
    pixels, small_hw = plain.pixels(frame), plain.small_hw(frame.shape[:2])
    with torch.no_grad():
        pyramid = watch.measure((*key, "backbone"), 1, lambda: plain.features(pixels))
        proposals = watch.measure((*key, "proposals"), 1, lambda: plain.proposals(pyramid))
        watch.measure((*key, "heads"), 1, lambda: plain.heads(pyramid, proposals[0], small_hw))
    watch.measure((*key, "whole"), 1, lambda: plain(frame))


def is_found(exact: Detections | Found, rounded: Detections) -> np.ndarray:
    """(N,) whether the rounded detections have each exact one: same class, nearly the same place and score."""
    off_px = np.abs(exact.xyxy[:, None] - rounded.xyxy[None]).max(axis=2)
    off_score = np.abs(exact.scores[:, None] - rounded.scores[None])
    same_class = exact.logits.argmax(axis=1)[:, None] == rounded.logits.argmax(axis=1)[None]
    return (same_class & (off_px <= MAX_OFF_PX) & (off_score <= MAX_OFF_SCORE)).any(axis=1)


def multiplication_gflop_s(size: int = 1024) -> float:
    """Billion additions and multiplications a CPU second, in float32."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    watch = Stopwatch()
    for _ in range(10):
        watch.measure(("matmul",), 1, lambda: a @ b)
    return 2 * size**3 / watch.best["matmul",][0] / 1e9


def load_all(weights: Path, vocabulary: np.ndarray) -> tuple[PlainDetic, dict[str, Detic]]:
    """The stand-in, and our network in each number format."""
    with mock.patch("trackverse.detectors.detic.detector.multiplies_bfloat16", return_value=True):
        ours = {dtype: load_detic(weights, vocabulary, dtype=dtype, frame_size=FRAME_SIZE) for dtype in DTYPES}
    return PlainDetic(read_entries(weights), vocabulary, (FRAME_SIZE, FRAME_SIZE)), ours


def compare(weights: Path, vocabulary: np.ndarray, pictures: list[np.ndarray], rounds: int) -> None:
    """Times one checkpoint's networks in turn on the first picture; prints what they took, and found in all of them."""
    plain, detectors = load_all(weights, vocabulary)
    kind = detectors["float32"].name.removeprefix("detic-")
    exact, rounded = ([detectors[dtype](picture[None])[0] for picture in pictures] for dtype in DTYPES)
    same = is_found(plain(pictures[0]), exact[0])
    if not same.all():
        raise SystemExit(f"{kind}: float32 has only {same.mean():.1%} of what the plain code finds")
    take_time(kind, plain, detectors, vocabulary, pictures[0], rounds)
    found = np.concatenate([is_found(*pair) for pair in zip(exact, rounded, strict=True)])
    scores = np.concatenate([detections.scores for detections in exact])
    remark = "" if multiplies_bfloat16(torch.device("cpu")) else " (this processor has no instructions for it)"
    for least in (0.1, 0.3):
        of_these = found[scores >= least]
        share = f"{of_these.mean():.1%}" if len(of_these) else "none"
        print(f"{kind:<6} bfloat16{remark} has {share} of float32's {len(of_these)} detections of {least} or more")


def take_time(
    kind: str,
    plain: PlainDetic,
    detectors: dict[str, Detic],
    vocabulary: np.ndarray,
    frame: np.ndarray,
    rounds: int,
) -> None:
    watch = Stopwatch()
    columns = functional.normalize(torch.from_numpy(vocabulary), dim=0)
    is_native = multiplies_bfloat16(torch.device("cpu"))
    settings = [(dtype, batch_size) for dtype in detectors for batch_size in BATCH_SIZES]
    for number in range(1 + rounds):  # the first warms up; being slow, it never counts
        run_plain(plain, frame, watch, (kind, "plain", 1))
        for dtype, batch_size in settings:
            if dtype == "float32" or is_native or number == 0:
                run(detectors[dtype], columns, np.stack([frame] * batch_size), watch, (kind, dtype, batch_size))
    for dtype, batch_size in [("plain", 1), *settings]:
        spent = [watch.best[kind, dtype, batch_size, part] for part in PARTS]
        row = "".join(f"{cpu:>7.2f} /{clock:>5.2f}" for cpu, clock in spent)
        print(f"{kind:<6} {dtype:<9} batch {batch_size}{row}")
    for batch_size in BATCH_SIZES:
        plain_s, own_s = (watch.best[kind, *key, "whole"][0] for key in (("plain", 1), ("float32", batch_size)))
        print(f"{kind:<6} float32 batch {batch_size} finds the same {plain_s / own_s:.2f} times cheaper than plain")
    print(f"{kind:<6} the published code took {PUBLISHED_CPU_S[kind]:.2f} CPU s elsewhere")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("r18", "swinb"), default=["r18", "swinb"], help="backbones")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a checkpoint, instead of made-up ones of --kinds")
    parser.add_argument("--vocab", default="lvis", help="of --weights: a name, a text file, or a (512, C) .npy file")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="of .png files to look at, instead of a photo")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that torch may use")
    parser.add_argument("--rounds", type=int, default=3, help="passes by each setting, of which the best counts")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; CPU s / clock s a frame, backbone with pyramid"
    )
    print(f"matrices are multiplied at {multiplication_gflop_s():.0f} GFLOP a CPU second")
    print(f"{'':<24}" + "".join(f"{part:>14}" for part in PARTS))
    pictures = read_pictures(args.pictures)
    if args.weights:
        matrix = np.load(args.vocab) if args.vocab.endswith(".npy") else load_vocabulary(args.vocab).matrix
        compare(args.weights, matrix, pictures, args.rounds)
        return
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{kind}.pth"
            torch.save(made_up_checkpoint(kind), path)
            compare(path, made_up_vocabulary(NUM_CLASSES), pictures, args.rounds)


if __name__ == "__main__":
    main()
