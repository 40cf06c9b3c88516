"""Sequences as MOTChallenge has them, in folders that are made for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUM_FRAMES, FPS = 100, 10


def crowd(missed: range = range(40, 44)) -> np.ndarray:
    """(N, 7) MOT rows of three people of 40 x 80 px: two stroll past each other, one stands and is `missed`."""
    rows = []
    for frame in range(1, NUM_FRAMES + 1):
        people = {1: (100 + 4 * frame, 100), 2: (600 - 4 * frame, 300), 3: (800, 200)}
        for person, (left, top) in people.items():
            if person != 3 or frame not in missed:
                rows.append((frame, person, left, top, 40, 80, 0.9))
    return np.array(rows)


def write_sequence(
    folder: Path, rows: np.ndarray, *, filename: str = "det.txt", benchmark: str = "mine", fps: float = FPS
) -> Path:
    """A sequence's folder with its rows as they stand; in det.txt nobody has an id."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = rows[:, 1] if filename == "gt.txt" else np.full(len(rows), -1)
    sure = np.ones(len(rows)) if filename == "gt.txt" else rows[:, 6]  # in gt.txt: that the box counts
    table = np.column_stack([rows[:, 0], ids, rows[:, 2:6], sure, np.ones(len(rows)), np.ones(len(rows))])
    np.savetxt(folder / filename, table, fmt="%g", delimiter=",")
    text = f"[Sequence]\nname=x\nframeRate={fps}\nseqLength={NUM_FRAMES}\nbenchmark={benchmark}\n"
    (folder / "seqinfo.ini").write_text(text)
    return folder


def shuffled(text: str) -> str:
    return "".join(np.random.default_rng(0).permutation(text.splitlines(keepends=True)))
