"""Tracks drawn into their video: boxes in steady colours, id, class, score and where the object came from."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from trackverse.records import TrackRecord
from trackverse.types import Float64, UInt8
from trackverse.video import VideoInfo, VideoWriter, read_frames

TRAIL_S = 2.0
# An object that is not seen for longer than this is not drawn in between.
MAX_GAP_S = 1.0
GOLDEN_RATIO = 0.618033988749895  # steps of it around the colour circle keep neighbouring ids apart


def colour_of(track_id: int) -> tuple[int, int, int]:
    """A bright RGB colour, always the same for an id."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * GOLDEN_RATIO % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_tracks(
    source: Path, destination: Path, records: Sequence[TrackRecord], *, start_s: float, video: VideoInfo
) -> None:
    """Write `source` with the tracks drawn in; its first frame is at `start_s` on the clock of the records."""
    with VideoWriter(destination, frame_hw=video.frame_hw, fps=video.fps) as writer:
        for batch in read_frames(source, fps=None):
            for image, time_s in zip(batch.images, batch.times_s, strict=True):
                # Sampled times are rounded to 0.1 ms in records, so half a frame of tolerance is needed at both ends.
                canvas = np.ascontiguousarray(image)
                for record in records:
                    _draw(canvas, record, start_s + float(time_s), tolerance_s=0.5 / video.fps)
                writer.write(canvas)


def _draw(canvas: UInt8, record: TrackRecord, time_s: float, tolerance_s: float) -> None:
    times = record.times_s
    if not times[0] - tolerance_s <= time_s <= times[-1] + tolerance_s:
        return
    after = min(int(np.searchsorted(times, time_s)), len(times) - 1)
    before = max(after - 1, 0)
    nearest = after if abs(times[after] - time_s) <= abs(times[before] - time_s) else before
    is_seen = abs(times[nearest] - time_s) <= tolerance_s
    if not is_seen and times[after] - times[before] > MAX_GAP_S:
        return
    box = record.tlwh[nearest] if is_seen else _between(record, before, after, time_s)
    colour = colour_of(record.track_id)
    # Line and letters of the same look on a phone clip and in 4K.
    unit = max(1, round(min(canvas.shape[:2]) / 360))
    left, top, width, height = (round(float(value)) for value in box)
    line = cv2.LINE_AA
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, 2 * unit if is_seen else unit, line)
    trail = (times >= time_s - TRAIL_S) & (times <= time_s)
    foot = record.tlwh[trail, :2] + record.tlwh[trail, 2:] * (0.5, 1.0)
    cv2.polylines(canvas, [foot.round().astype(np.int32)], False, colour, unit, line)
    score = f" {record.frames.scores[nearest]:.2f}" if record.frames is not None else ""
    _draw_label(canvas, f"{record.track_id} {record.top.labels[0]}{score}", (left, top), colour, unit)


def _between(record: TrackRecord, before: int, after: int, time_s: float) -> Float64:
    """The box (4,) on the straight line between two seen ones."""
    times = record.times_s
    share = (time_s - times[before]) / (times[after] - times[before])
    box: Float64 = (1 - share) * record.tlwh[before] + share * record.tlwh[after]
    return box


def _draw_label(canvas: UInt8, text: str, corner: tuple[int, int], colour: tuple[int, int, int], unit: int) -> None:
    """Black letters on the track's colour, above the box or, at the frame's edge, inside."""
    scale, font = 0.4 * unit, cv2.FONT_HERSHEY_SIMPLEX
    (width, height), _ = cv2.getTextSize(text, font, scale, unit)
    left = max(0, min(corner[0], canvas.shape[1] - width - 2 * unit))
    bottom = corner[1] if corner[1] >= height + 4 * unit else corner[1] + height + 4 * unit
    cv2.rectangle(canvas, (left, bottom - height - 4 * unit), (left + width + 2 * unit, bottom), colour, cv2.FILLED)
    cv2.putText(canvas, text, (left + unit, bottom - 2 * unit), font, scale, (0, 0, 0), unit, cv2.LINE_AA)
