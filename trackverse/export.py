"""Tracks in formats that other tools read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trackverse import mot
from trackverse.records import TrackRecord


def write_mot(path: Path, records: Iterable[TrackRecord], *, start_s: float, fps: float) -> None:
    """MOTChallenge text: `frame,id,left,top,width,height,confidence,class,visibility`, a line a box, by frame and id.

    Frames count from 1 at `start_s`, `fps` a second; ids and class ids from 1 as in MOT; visibility is -1, unknown.
    """
    rows = []
    for record in records:
        assert record.frames is not None, "only our own records have objectness"
        for time_s, (left, top, width, height), score in zip(
            record.times_s, record.tlwh, record.frames.scores, strict=True
        ):
            box = f"{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.4f}"
            frame = round((time_s - start_s) * fps) + 1
            rows.append((frame, record.track_id + 1, f"{box},{record.top.label_ids[0] + 1},-1"))
    mot.write_boxes(path, rows)
