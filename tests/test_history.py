"""What live tracks have seen, compared with lists that are kept track by track."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from trackverse.history import MAX_SLOT_FRAMES, Histories
from trackverse.types import LOOK_FRAMES, Detections

NUM_CLASSES, DIM = 3, 16


@dataclass
class Past:
    """The detections of a track and how much the looks of each count; what it looks like now."""

    rows: list[Detections] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    appearance: np.ndarray = field(default_factory=lambda: np.zeros(DIM))

    def add(self, time_s: float, row: Detections, weight: float, share: float) -> None:
        self.rows.append(row)
        self.times_s.append(time_s)
        self.weights.append(weight)
        # Of `share`, weighed as the look is, goes in; the rest stays.
        blend = (1 - weight * share) * self.appearance + weight * share * row.embeddings[0]
        self.appearance = blend / np.linalg.norm(blend)

    def in_turn(self, values: np.ndarray, look_frames: int) -> np.ndarray:
        return np.add.reduceat(values, np.arange(0, len(values), look_frames), axis=0)

    @property
    def embeddings(self) -> np.ndarray:
        return np.concatenate([row.embeddings for row in self.rows]) * np.array(self.weights)[:, None]


def detections(num: int, rng: np.random.Generator) -> Detections:
    embeddings = rng.normal(0, 1, (num, DIM)) + 1
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    columns = (rng.uniform(0, 900, (num, 4)), rng.random(num), rng.random((num, NUM_CLASSES)), embeddings)
    return Detections(*(column.astype(np.float32) for column in columns))


@pytest.mark.parametrize("look_frames", [LOOK_FRAMES, 5, 1])
@pytest.mark.parametrize("in_file", [False, True], ids=["in memory", "in a file"])
def test_a_track_has_what_was_added_to_it_and_nothing_of_who_had_its_slot_before(
    tmp_path: Path, in_file: bool, look_frames: int
) -> None:
    """Twenty tracks at a time, of which one ends every tenth frame and another one takes its slot over."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        histories, pasts = Histories(file if in_file else None, look_frames), {}
        for frame in range(4 * MAX_SLOT_FRAMES):
            seen = detections(20, rng)
            if frame % 10 == 0:
                if pasts:
                    check(histories, slot := int(rng.choice(list(pasts))), pasts.pop(slot))
                pasts |= {slot: Past() for slot in histories.open(20 - len(pasts), seen).tolist()}
            slots = np.array(sorted(pasts))[rng.random(20) < 0.9]
            rows = rng.permutation(20)[: len(slots)]
            weights, shares = rng.uniform(0.05, 1, len(slots)), rng.choice([0.0, 0.3, 0.9], len(slots))
            for slot, row, weight, share in zip(slots.tolist(), rows.tolist(), weights, shares, strict=True):
                first = not pasts[slot].rows
                pasts[slot].add(frame / 16, seen.select(np.array([row])), weight, 0.9 if first else share)
                shares[slots == slot] = 0.9 if first else share  # a track begins with a confident one
            histories.add(slots, frame / 16, seen, rows, weights.astype(np.float32), shares.astype(np.float32))
        for slot, past in pasts.items():
            check(histories, slot, past)


def check(histories: Histories, slot: int, past: Past) -> None:
    """The track of the slot, which is free afterwards."""
    if not past.rows:
        return
    logits = np.concatenate([row.logits for row in past.rows])
    np.testing.assert_allclose(histories.appearance[slot], past.appearance, atol=1e-4)
    np.testing.assert_allclose(histories.class_sums[slot], logits.sum(axis=0), rtol=1e-4)
    track = histories.take(slot)
    assert len(track.looks) == -(-len(track) // track.look_frames)
    np.testing.assert_array_equal(track.times_s, past.times_s)
    np.testing.assert_array_equal(track.xyxy, np.concatenate([row.xyxy for row in past.rows]))
    np.testing.assert_array_equal(track.scores, np.concatenate([row.scores for row in past.rows]))
    np.testing.assert_array_equal(track.logits, logits)
    looks, weights = (past.in_turn(values, track.look_frames) for values in (past.embeddings, np.array(past.weights)))
    np.testing.assert_allclose(track.looks, looks, atol=1e-5)
    np.testing.assert_allclose(track.look_weights, weights, rtol=1e-4)
    mean = past.embeddings.sum(axis=0)
    np.testing.assert_allclose(track.embedding, mean / np.linalg.norm(mean), atol=1e-5)
