"""Tracks drawn into their video: boxes in steady colours, id, class, score and where the object came from. A box is
thick where the object was detected, thin in the frames between, and dashed where the second pass filled a gap.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trackverse.boxes import tlwh_to_xyxy
from trackverse.prefetch import prefetch
from trackverse.records import TrackRecord
from trackverse.types import Float64, UInt8
from trackverse.video import VideoInfo, VideoWriter, read_frames

TRAIL_S = 2.0
# An object that is not seen for longer than this is not drawn in between.
MAX_GAP_S = 1.0
PRESET = "ultrafast"  # x264: files to look at, twice as large as with "superfast", drawn in four fifths of the time
DASH_WIDTHS = 6  # how long a dash is, in line widths
GOLDEN_RATIO = 0.618033988749895  # steps of it around the colour circle keep neighbouring ids apart


def colour_of(track_id: int) -> tuple[int, int, int]:
    """A bright RGB colour, always the same for an id."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * GOLDEN_RATIO % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_tracks(
    source: Path, destination: Path, records: Sequence[TrackRecord], *, start_s: float, video: VideoInfo
) -> None:
    """Write `source` with the tracks drawn in; its first frame is at `start_s` on the clock of the records."""
    with (
        closing(prefetch(read_frames(source, fps=None))) as batches,
        VideoWriter(destination, frame_hw=video.frame_hw, fps=video.fps, preset=PRESET) as writer,
    ):
        for batch in batches:
            for image, time_s in zip(batch.images, batch.times_s, strict=True):
                # Sampled times are rounded to 0.1 ms in records, so half a frame of tolerance is needed at both ends.
                canvas = np.ascontiguousarray(image)
                labels = [_draw(canvas, record, start_s + float(time_s), 0.5 / video.fps) for record in records]
                for label in filter(None, labels):  # after all boxes, so that none crosses a label
                    _draw_label(canvas, label)
                writer.write(canvas)


@dataclass(frozen=True)
class _Label:
    text: str
    corner: tuple[int, int]
    colour: tuple[int, int, int]


def _draw(canvas: UInt8, record: TrackRecord, time_s: float, tolerance_s: float) -> _Label | None:
    """Draw the track's box and trail as they are at `time_s`, if it is there then; returns what to write beside it."""
    times = record.times_s
    if not times[0] - tolerance_s <= time_s <= times[-1] + tolerance_s:
        return None
    after = min(int(np.searchsorted(times, time_s)), len(times) - 1)
    before = max(after - 1, 0)
    nearest = after if abs(times[after] - time_s) <= abs(times[before] - time_s) else before
    is_seen = abs(times[nearest] - time_s) <= tolerance_s
    if not is_seen and times[after] - times[before] > MAX_GAP_S:
        return None
    box = record.tlwh[nearest] if is_seen else _between(record, before, after, time_s)
    colour = colour_of(record.track_id)
    width = _line_width(canvas)
    left, top, right, bottom = (int(value) for value in tlwh_to_xyxy(box).round())
    is_filled = record.frames is not None and bool(record.frames.interpolated[nearest])
    if is_filled:
        _draw_dashed(canvas, (left, top, right, bottom), colour, width)
    else:
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, 2 * width if is_seen else width, cv2.LINE_AA)
    trail = (times >= time_s - TRAIL_S) & (times <= time_s)
    feet = record.tlwh[trail, :2] + record.tlwh[trail, 2:] * (0.5, 1.0)
    cv2.polylines(canvas, [feet.round().astype(np.int32)], False, colour, width, cv2.LINE_AA)
    score = f" {record.frames.scores[nearest]:.2f}" if record.frames is not None and not is_filled else ""
    return _Label(f"{record.track_id} {record.top.labels[0]}{score}", (left, top), colour)


def _draw_dashed(canvas: UInt8, xyxy: tuple[int, int, int, int], colour: tuple[int, int, int], width: int) -> None:
    """A box of dashes as long as the gaps between them."""
    left, top, right, bottom = xyxy
    dash = DASH_WIDTHS * width
    for start, end in (
        ((left, top), (right, top)),
        ((left, bottom), (right, bottom)),
        ((left, top), (left, bottom)),
        ((right, top), (right, bottom)),
    ):
        length = max(end[0] - start[0], end[1] - start[1])
        for near in range(0, length, 2 * dash):
            far = min(near + dash, length)
            a, b = (
                (start[0] + (end[0] - start[0]) * at // length, start[1] + (end[1] - start[1]) * at // length)
                for at in (near, far)
            )
            cv2.line(canvas, a, b, colour, width, cv2.LINE_AA)


def _line_width(canvas: UInt8) -> int:
    """Thin lines that look the same on a phone clip and in 4K."""
    return max(1, int(min(canvas.shape[:2])) // 400)


def _between(record: TrackRecord, before: int, after: int, time_s: float) -> Float64:
    """The box (4,) on the straight line between two seen ones."""
    times = record.times_s
    share = (time_s - times[before]) / (times[after] - times[before])
    box: Float64 = (1 - share) * record.tlwh[before] + share * record.tlwh[after]
    return box


def _draw_label(canvas: UInt8, label: _Label) -> None:
    """Black letters on the track's colour, above the box or, at the frame's upper edge, inside."""
    scale, font = max(0.3, min(canvas.shape[:2]) / 1400), cv2.FONT_HERSHEY_SIMPLEX
    margin = 2 * _line_width(canvas)
    (width, height), _ = cv2.getTextSize(label.text, font, scale, 1)
    width, height = width + 2 * margin, height + 2 * margin
    left = max(0, min(label.corner[0], canvas.shape[1] - width))
    bottom = label.corner[1] if label.corner[1] >= height else label.corner[1] + height
    cv2.rectangle(canvas, (left, bottom - height), (left + width, bottom), label.colour, cv2.FILLED)
    cv2.putText(canvas, label.text, (left + margin, bottom - margin), font, scale, (0, 0, 0), 1, cv2.LINE_AA)
