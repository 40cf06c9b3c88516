"""Tracking a clip: how much of the wall time the detector has, with and without decoding ahead, in one run.

    python benchmarks/parse.py
    python benchmarks/parse.py --detic        # Detic with made-up weights: the work is that of real ones

ahead       as parse_tracks.py does it: frames are decoded in a thread while the detector computes.
in turn     decode a batch, detect in it, associate, decode the next one.

The second pass over the tracks is part of both, but not with --detic: made-up weights give 1,300 tracks in five
seconds, over which it takes a seventh of all time.

Both track the demo's street and commit the tracks to a store. The goal is 90 % of the wall time inside the detector.
The process's peak memory is printed, too.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from trackverse import tracking
from trackverse.detectors import CPU_BATCH_SIZE, DEFAULTS, Choice, choose_detector, load_detector
from trackverse.detectors.batching import FittingBatches
from trackverse.detectors.protocol import Detector
from trackverse.filters import FilterConfig
from trackverse.layout import ASSETS_DIR, REPO_DIR, TracksLayout
from trackverse.refine import RefineConfig
from trackverse.store import TrackStore
from trackverse.tracking import TrackingSettings, track_clip
from trackverse.tracking_flags import TRACKING_DEFAULTS
from trackverse.types import Clip, Detections, UInt8
from trackverse.video import probe

STREET = ASSETS_DIR / "demo" / "street.mp4"


class Timed:
    """A detector that adds up the seconds spent in it."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.name, self.labels = detector.name, detector.labels
        self.embedding_dim = detector.embedding_dim
        self.seconds = 0.0

    def __call__(self, images: UInt8) -> list[Detections]:
        start = time.perf_counter()
        found = self._detector(images)
        self.seconds += time.perf_counter() - start
        return found


def track_street(detector: Timed, choice: Choice, end_s: float) -> tuple[float, float]:
    """Seconds in all, and in the detector, of tracking the street until `end_s` and storing the tracks."""
    filters = FilterConfig(min_track_area=0.0)
    tracker = TRACKING_DEFAULTS[choice.name]
    second_pass = None if choice.name == "detic" else RefineConfig()
    settings = TrackingSettings(choice, 16.0, DEFAULTS[choice.name], tracker, filters, second_pass)
    clip = Clip("street", "street.0.mp4", 0.0, end_s)
    detector.seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = TrackStore(TracksLayout(Path(folder)), settings.as_dict())
        start = time.perf_counter()
        video = probe(STREET)
        tracks = track_clip(STREET, video, clip, detector, settings, dropped=Counter())
        store.commit(clip, tracks, video.frame_hw, detector.labels)
        return time.perf_counter() - start, detector.seconds


def load_made_up_detic(folder: Path) -> tuple[Choice, Detector]:
    """Detic R18 for COCO's 80 classes, with the weights and the vocabulary of the tests."""
    sys.path.insert(0, str(REPO_DIR / "tests"))
    import torch
    from detic_weights import made_up_checkpoint, made_up_vocabulary

    from trackverse.detectors.detic import load_detic

    path = folder / "r18.pth"
    torch.save({"model": made_up_checkpoint("r18")}, path)
    return Choice("detic", "coco", path), FittingBatches(load_detic(path, made_up_vocabulary(80)), CPU_BATCH_SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detic", action="store_true", help="Detic R18 instead of NanoDet, on less of the video")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.detic:
            choice, loaded = load_made_up_detic(Path(folder))
        else:
            choice = choose_detector("nanodet", None, None)
            loaded = load_detector(choice, DEFAULTS["nanodet"])
        detector, end_s = Timed(loaded), 5.0 if args.detic else 30.0
        track_street(detector, choice, 1.0)  # the first frames of a network are slow
        print(f"{loaded.name}, {end_s:g} s of street\n{'':<10}{'seconds':>9}{'detector':>10}{'share':>8}")
        ahead_s, detector_s = track_street(detector, choice, end_s)
        print(f"{'ahead':<10}{ahead_s:>9.2f}{detector_s:>10.2f}{detector_s / ahead_s:>8.1%}")
        tracking.prefetch = lambda items: items  # type: ignore[assignment]
        turn_s, detector_s = track_street(detector, choice, end_s)
        print(f"{'in turn':<10}{turn_s:>9.2f}{detector_s:>10.2f}{detector_s / turn_s:>8.1%}")
        print(f"ahead is {turn_s / ahead_s:.2f} times as fast")
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on Linux; elsewhere, other units
        print(f"peak memory {kilobytes / 1024:.0f} MB")


if __name__ == "__main__":
    main()
