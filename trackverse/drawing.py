"""Tracks drawn into their video: boxes in steady colours, id, class, score and where the object came from. A box is
thick where the object was detected, thin in the frames between those that were looked at, and dashed where it was not
detected, whether the second pass filled the gap or not.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trackverse.boxes import tlwh_to_xyxy
from trackverse.prefetch import prefetch
from trackverse.records import TrackRecord
from trackverse.types import Float64, Int64, UInt8
from trackverse.video import VideoInfo, VideoWriter, read_planes
from trackverse.video.planes import Planes, yuv_of

TRAIL_S = 2.0
# An object that is not seen for longer than this is not drawn in between.
MAX_GAP_S = 1.0
PRESET = "ultrafast"  # x264: files to look at, twice as large as with "superfast", drawn in four fifths of the time
DASH_WIDTHS = 6  # how long a dash is, in line widths
MAX_LABEL_ROWS = 3  # above or below a box; further off, nobody knows whose label it is
FRAMES_AHEAD = 8  # that are decoded while another one is drawn and encoded
FONT, BLACK = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
GOLDEN_RATIO = 0.618033988749895  # steps of it around the colour circle keep neighbouring ids apart

Colour = tuple[int, int, int]
Point = tuple[int, int]


def colour_of(track_id: int) -> Colour:
    """A bright RGB colour, always the same for an id."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * GOLDEN_RATIO % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_tracks(
    source: Path, destination: Path, records: Sequence[TrackRecord], *, start_s: float, video: VideoInfo
) -> None:
    """Write `source` with the tracks drawn in; its first frame is at `start_s` on the clock of the records."""
    with (
        closing(prefetch(read_planes(source), depth=FRAMES_AHEAD)) as frames,
        VideoWriter(destination, frame_hw=video.frame_hw, fps=video.fps, preset=PRESET) as writer,
    ):
        for time_s, planes in frames:
            canvas = _Canvas(planes)
            labels = [_draw(canvas, record, start_s + time_s, video.fps) for record in records]
            for label in filter(None, labels):  # after all boxes, so that none crosses a label
                _draw_label(canvas, label)
            writer.write_planes(planes, time_s)


class _Canvas:
    """Draws into a picture as video has it, so that it need not be made RGB and back. Colours are RGB, points px."""

    def __init__(self, planes: Planes) -> None:
        self.hw = planes.hw
        self._planes = planes.split()
        self._has_letters = np.zeros(planes.hw, bool)

    def rectangle(self, corner: Point, other: Point, colour: Colour, width: int) -> None:
        for plane, value, shift in self._each(colour):
            cv2.rectangle(plane, corner, other, value, _halved(width, shift), cv2.LINE_AA, shift)

    def lines(self, points: Int64, colour: Colour, width: int) -> None:
        """Through points (N, 2)."""
        for plane, value, shift in self._each(colour):
            cv2.polylines(plane, [points.astype(np.int32)], False, value, _halved(width, shift), cv2.LINE_AA, shift)

    def letters(self, ink: UInt8, corner: Point, colour: Colour) -> None:
        """A rectangle of the size of `ink` (h, w), which says how black it is, 0 to 255. Sides and corner are even."""
        for (plane, value, shift), black in zip(self._each(colour), yuv_of(BLACK), strict=True):
            area = plane[corner[1] >> shift :, corner[0] >> shift :][: len(ink) >> shift, : ink.shape[1] >> shift]
            share = cv2.resize(ink, (ink.shape[1] >> shift, len(ink) >> shift), interpolation=cv2.INTER_AREA) / 255
            area[:] = value + (black - value) * share[: len(area), : area.shape[1]]
        self._has_letters[_area(corner, ink.shape)] = True

    def is_free(self, corner: Point, hw: tuple[int, int]) -> bool:
        """Whether a rectangle lies in the picture, where no letters are."""
        area = self._has_letters[_area(corner, hw)]
        return min(corner) >= 0 and area.shape == hw and not area.any()

    def _each(self, colour: Colour) -> Iterator[tuple[UInt8, int, int]]:
        """Every plane, the colour's value in it, and how many times its points are halved."""
        return zip(self._planes, yuv_of(colour), (0, 1, 1), strict=True)


def _halved(width: int, times: int) -> int:
    return max(width >> times, 1)


def _area(corner: Point, hw: tuple[int, ...]) -> tuple[slice, slice]:
    return slice(corner[1], corner[1] + hw[0]), slice(corner[0], corner[0] + hw[1])


@dataclass(frozen=True)
class _Label:
    """What is written of a box whose upper left corner is `corner`, and whose lower edge is at `bottom`."""

    text: str
    corner: Point
    bottom: int
    colour: Colour


def _draw(canvas: _Canvas, record: TrackRecord, time_s: float, fps: float) -> _Label | None:
    """Draw the track's box and trail as they are at `time_s`, if it is there then; returns what to write beside it.
    `fps`: the video's.
    """
    times = record.times_s
    tolerance_s = 0.5 / fps  # sampled times are rounded to 0.1 ms in records
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
    is_missed = record.frames is not None and bool(record.frames.interpolated[nearest])
    if not is_seen:
        is_missed |= times[after] - times[before] > _longest_step_s(record, fps) + tolerance_s
    if is_missed:
        _draw_dashed(canvas, (left, top, right, bottom), colour, width)
    else:
        canvas.rectangle((left, top), (right, bottom), colour, 2 * width if is_seen else width)
    trail = (times >= time_s - TRAIL_S) & (times <= time_s)
    feet = record.tlwh[trail, :2] + record.tlwh[trail, 2:] * (0.5, 1.0)
    canvas.lines(feet.round().astype(np.int64), colour, width)
    score = f" {record.frames.scores[nearest]:.2f}" if record.frames is not None and not is_missed else ""
    return _Label(f"{record.track_id} {record.top.labels[0]}{score}", (left, top), bottom, colour)


def _longest_step_s(record: TrackRecord, fps: float) -> float:
    """From one frame of the video that was looked at to the next."""
    sampled = record.origin.fps if record.origin is not None and record.origin.fps else fps
    return math.ceil(max(fps / sampled, 1)) / fps


def _draw_dashed(canvas: _Canvas, xyxy: tuple[int, int, int, int], colour: Colour, width: int) -> None:
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
            canvas.lines(np.array([a, b]), colour, width)


def _line_width(canvas: _Canvas) -> int:
    """Thin lines that look the same on a phone clip and in 4K."""
    return max(1, min(canvas.hw) // 400)


def _between(record: TrackRecord, before: int, after: int, time_s: float) -> Float64:
    """The box (4,) on the straight line between two seen ones."""
    times = record.times_s
    share = (time_s - times[before]) / (times[after] - times[before])
    box: Float64 = (1 - share) * record.tlwh[before] + share * record.tlwh[after]
    return box


def _draw_label(canvas: _Canvas, label: _Label) -> None:
    """Black letters on the track's colour."""
    scale, margin = max(0.3, min(canvas.hw) / 1400), 2 * _line_width(canvas)
    (width, height), _ = cv2.getTextSize(label.text, FONT, scale, 1)
    width, height = _even(width + 2 * margin + 1), _even(height + 2 * margin + 1)
    ink = np.zeros((height, width), np.uint8)
    cv2.putText(ink, label.text, (margin, height - margin), FONT, scale, 255, 1, cv2.LINE_AA)
    canvas.letters(ink, _place_of(canvas, label, (height, width)), label.colour)


def _place_of(canvas: _Canvas, label: _Label, hw: tuple[int, int]) -> Point:
    """The corner of a label of this size: above its box or below, or further off where other labels are; over them and
    within the box if there is no room.
    """
    left, top = label.corner
    left = _even(max(0, min(left, canvas.hw[1] - hw[1])))
    for rows in range(1, MAX_LABEL_ROWS + 1):
        for near in (top - rows * hw[0], label.bottom + (rows - 1) * hw[0]):
            if canvas.is_free((left, _even(near)), hw):
                return left, _even(near)
    return left, _even(max(top, 0))


def _even(number: int) -> int:
    return number - number % 2
