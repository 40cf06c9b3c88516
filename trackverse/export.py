"""Tracks in formats that other tools read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trackverse import mot
from trackverse.records import TrackRecord
from trackverse.types import Float64


def write_mot(path: Path, records: Iterable[TrackRecord], *, start_s: float, frame_times_s: Float64) -> None:
    """MOTChallenge text: `frame,id,left,top,width,height,confidence,class,visibility`, a line a box, by frame and id.

    Frames are numbered from 1 in the order of their `frame_times_s` (F,), which count from `start_s` on the records'
    clock; ids and class ids from 1 as in MOT; visibility is -1, unknown.
    """
    rows = []
    between_s = start_s + (frame_times_s[1:] + frame_times_s[:-1]) / 2  # times in records are rounded
    for record in records:
        assert record.frames is not None, "only our own records have objectness"
        numbers = np.searchsorted(between_s, record.times_s) + 1
        for frame, (left, top, width, height), score in zip(
            numbers.tolist(), record.tlwh, record.frames.scores, strict=True
        ):
            box = f"{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.4f}"
            rows.append((frame, record.track_id + 1, f"{box},{record.top.label_ids[0] + 1},-1"))
    mot.write_boxes(path, rows)
