"""What class an object is of, and whether the class scores of two contradict each other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from trackverse.types import Bool, Float32, Float64, Int64, Track
from trackverse.vectors import TINY, let_go

LABEL_FRAMES = 16  # of a track, whose class scores say what it is; those of the others needn't be read


def labels(scores: Float32) -> Int64:
    """(N,): the best class of scores (N, C); 0 where there is one class or none."""
    return scores.argmax(axis=1) if scores.shape[1] > 1 else np.zeros(len(scores), np.int64)


def label(track: Track) -> int:
    """The class of a track by some of its frames; 0 where there is one class or none."""
    num_frames, num_classes = track.logits.shape
    if num_classes < 2:
        return 0
    best = int(track.logits[:: -(-num_frames // LABEL_FRAMES)].sum(axis=0).argmax())
    let_go(track.logits)
    return best


def summed_up(tracks: Iterable[Track]) -> Float64:
    """(C,): the class scores of tracks, summed over time; they are in memory one track at a time."""
    sums = []
    for track in tracks:
        sums.append(track.logits.sum(axis=0, dtype=np.float64))
        let_go(track.logits)
    total: Float64 = np.sum(sums, axis=0)
    return total


def agree(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating], min_cosine: float) -> Bool:
    """(P,): whether class scores in the same rows of (P, C) and (P, C), or (1, C), are distributed alike, as far as
    both have any.
    """
    cosine = np.vecdot(one, other) / np.maximum(np.sqrt(np.vecdot(one, one) * np.vecdot(other, other)), TINY)
    alike: Bool = (cosine >= min_cosine) | ~((one > 0).any(axis=1) & (other > 0).any(axis=1))
    return alike
