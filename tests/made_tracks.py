"""Tracks, and folders of them, without a detector: drawn from a seed, so that a test can make them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trackverse.layout import TracksLayout
from trackverse.store import TrackStore
from trackverse.types import Clip, Track

LABELS = tuple(f"class {n}" for n in range(14))
VIDEO_HW = (720, 1280)
SETTINGS = {"detector": "nanodet sha256:0123", "vocab": "coco", "fps": 16.0}
EMBEDDING_DIM = 8


def make_track(
    seed: int, *, num_frames: int = 5, label_id: int | None = None, num_labels: int = 14, start_s: float = 0.0
) -> Track:
    """A track that drifts to the right; `label_id` is the class that it looks most like, if given."""
    rng = np.random.default_rng(seed)
    left_top = rng.uniform(0, 300, 2) + np.arange(num_frames)[:, None] * [3.0, 0.0]
    logits = rng.uniform(0.0, 0.4, (num_frames, num_labels))
    if label_id is not None:
        logits[:, label_id] = rng.uniform(0.5, 1.0, num_frames)
    embedding = rng.normal(size=EMBEDDING_DIM)
    return Track(
        start_s + np.arange(num_frames) / 16,
        np.concatenate([left_top, left_top + rng.uniform(50, 200, 2)], axis=1).astype(np.float32),
        rng.uniform(0.3, 1.0, num_frames).astype(np.float32),
        logits.astype(np.float32),
        (embedding / np.linalg.norm(embedding)).astype(np.float32),
    )


def clip(video_id: str, number: int) -> Clip:
    """The `number`-th ten seconds of a video."""
    return Clip(video_id, f"{video_id}.{number}.mp4", 10.0 * number, 10.0 * (number + 1))


def fill_store(folder: Path, label_ids_of: dict[str, Sequence[int]], *, seed: int = 0) -> TracksLayout:
    """Track files in `folder`: for each video, one track of each of the given classes, in two segments."""
    layout = TracksLayout(folder)
    store = TrackStore(layout, SETTINGS)
    for number, (video_id, label_ids) in enumerate(label_ids_of.items()):
        tracks = [
            make_track(seed + 1000 * number + n, label_id=label_id, num_frames=3)
            for n, label_id in enumerate(label_ids)
        ]
        half = len(tracks) // 2
        for segment, part in enumerate((tracks[:half], tracks[half:])):
            store.commit(clip(video_id, segment), part, VIDEO_HW, LABELS)
    return layout
