"""How much tracked objects move by themselves: what is left of the picture's motion when the camera's is taken out.

Dense optical flow (DIS: Kroeger et al. 2016) between frames some tenths of a second apart; what most of the background
does is the camera's turn, scale and shift.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from trackverse.boxes import STANDING_STILL, xyxy_to_tlwh
from trackverse.camera import fitted
from trackverse.sway import Sway
from trackverse.ticks import TICK_S
from trackverse.types import Bool, Float32, Float64, Track, UInt8

GRID_PX = 8  # of a picture of 320 px: every eighth pixel tells of the camera
MARGIN = 0.1  # of a box's sides: there is background
EPSILON_S = 1e-3  # times are rounded to 0.1 ms


@dataclass
class Moving:
    """A track as it is measured: `times_s` (T,) and `tlwh` (T, 4) px of the frames that are given.

    `camera_way` and `flow_way` in box sizes, over `camera_s` and `flow_s`; `anchor`: time, box (4,) and the camera's
    place (3, 3) at the last tick.
    """

    times_s: Float64
    tlwh: Float64
    camera_way: float = 0.0
    camera_s: float = 0.0
    flow_way: float = 0.0
    flow_s: float = 0.0
    anchor: tuple[float, Float64, Float64] | None = field(default=None, repr=False)

    def covers(self, time_s: float) -> bool:
        """Whether the track is there at that time."""
        return bool(self.times_s[0] - EPSILON_S <= time_s <= self.times_s[-1] + EPSILON_S)

    def step(self, time_s: float, camera: Float64) -> None:
        """Add the way since the last tick, once half a second is over, or the track is and nothing is measured yet.

        Called at the times of frames in which the track is, in their order. `camera` (3, 3): its place, from px of the
        first frame to px of this one.
        """
        if self.anchor is not None:
            since_s, before, camera_before = self.anchor
            is_over = time_s + TICK_S / 8 > self.times_s[-1] and not self.camera_s and time_s > since_s
            if time_s - since_s < TICK_S - EPSILON_S and not is_over:
                return
            self.camera_way += _way(before, self.box_at(time_s), camera @ np.linalg.inv(camera_before))
            self.camera_s += time_s - since_s
        self.anchor = time_s, self.box_at(time_s), camera

    def box_at(self, time_s: float) -> Float64:
        """(4,) its box, linear between its frames."""
        return np.array([np.interp(time_s, self.times_s, side) for side in self.tlwh.T])

    @property
    def camera_motion(self) -> float:
        """As `ticks.box_motion`, beside the camera's motion, in box sizes a second; NaN: not measured."""
        return self.camera_way / self.camera_s if self.camera_s else np.nan

    @property
    def flow_motion(self) -> float:
        """Mean speed of its pixels beside the camera's, in box sizes a second; NaN: not measured."""
        return self.flow_way / self.flow_s if self.flow_s else np.nan


class CameraPath:
    """How the camera moved through the frames of a clip, which are added in their order."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._motions: list[Float64] = []  # (3, 3), into each frame from the one before

    def add(self, time_s: float, motion: Float64) -> None:
        """A frame, and how the picture moved since the one before: (2, 3), as `camera.CameraMotion` has it."""
        self._times_s.append(time_s)
        self._motions.append(np.vstack([motion, [0, 0, 1]]))

    def sway(self, frame_hw: tuple[int, int]) -> Sway:
        """How the camera sways, in frames of this size."""
        return Sway.along(np.array(self._times_s), np.array(self._motions).reshape(-1, 3, 3)[:, :2], frame_hw)

    def motion_of(self, track: Track) -> float:
        """The camera motion of a track of these frames, as `Moving` has it; NaN if there are none."""
        moving = Moving(track.times_s, xyxy_to_tlwh(track.xyxy.astype(np.float64)))
        first = bisect.bisect_left(self._times_s, moving.times_s[0] - EPSILON_S)
        last = bisect.bisect_right(self._times_s, moving.times_s[-1] + EPSILON_S)
        place = np.eye(3)  # beside that before the track's first frame, which doesn't matter
        for time_s, motion in zip(self._times_s[first:last], self._motions[first:last], strict=True):
            place = motion @ place
            moving.step(time_s, place)
        return moving.camera_motion


class MotionMeter:
    """Called on each frame of a clip in turn; adds up the motion of its tracks."""

    def __init__(self, tracks: Sequence[Moving]) -> None:
        self._tracks = tracks
        self._flow: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]
        self._last: tuple[float, UInt8] | None = None
        self._camera: Float64 = np.eye(3)  # from the first frame to the last one

    def __call__(self, image: UInt8, time_s: float) -> None:
        """`image` (H, W, 3) uint8 RGB, of one size throughout; times rise."""
        grey: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        here = [track for track in self._tracks if track.covers(time_s)]
        if self._last is not None:
            before_s, before = self._last
            both = [track for track in here if track.covers(before_s)]
            if both:
                flow: Float32 = self._flow.calc(before, grey, None)
                boxes = [track.box_at(before_s) for track in self._tracks if track.covers(before_s)]
                camera = _camera(flow, boxes)
                self._camera = np.vstack([camera, [0, 0, 1]]) @ self._camera
                for track in both:
                    track.flow_way += _own_way(flow, camera, track.box_at(before_s))
                    track.flow_s += time_s - before_s
        for track in here:
            track.step(time_s, self._camera)
        self._last = time_s, grey


def _camera(flow: Float32, boxes: Sequence[Float64]) -> Float64:
    """(2, 3) the motion that most of the picture outside the (tlwh) boxes shares; standing still if there is none."""
    is_background: Bool = np.ones(flow.shape[:2], bool)
    for box in boxes:
        is_background[_inside(box, flow.shape[:2], 0.0)] = False
    grid = np.zeros_like(is_background)
    grid[GRID_PX // 2 :: GRID_PX, GRID_PX // 2 :: GRID_PX] = True
    rows, columns = np.nonzero(grid & is_background)
    points = np.stack([columns, rows], axis=1).astype(np.float32)
    return fitted(points, points + flow[rows, columns]) if len(points) else STANDING_STILL


def _own_way(flow: Float32, camera: Float64, box: Float64) -> float:
    """How far the pixels of a (tlwh) box move on average, beside the camera's motion, in sizes of the box."""
    rows, columns = _inside(box, flow.shape[:2], MARGIN)
    x, y = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
    by_camera = np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.T - np.stack([x, y], axis=-1)
    way = np.linalg.norm(flow[rows, columns] - by_camera, axis=-1)
    return float(way.mean()) / _size(box) if way.size else 0.0


def _way(before: Float64, after: Float64, camera: Float64) -> float:
    """From one (tlwh) box to another, seen from a camera that moved by (3, 3): centre and size, in sizes."""
    size = _size(before) * np.sqrt(abs(np.linalg.det(camera[:2, :2])))
    centre = camera[:2] @ np.append(before[:2] + before[2:] / 2, 1.0)
    way = after[:2] + after[2:] / 2 - centre
    return float(np.hypot(np.hypot(*way), _size(after) - size) / ((size + _size(after)) / 2))


def _size(box: Float64) -> float:
    return float(np.sqrt(max(box[2] * box[3], 1.0)))


def _inside(box: Float64, hw: tuple[int, int], margin: float) -> tuple[slice, slice]:
    """Rows and columns of the pixels in a (tlwh) box but for its margins; one at least, where it is in the picture."""
    slices = []
    for start, length, limit in ((box[1], box[3], hw[0]), (box[0], box[2], hw[1])):
        low = int(np.clip(np.floor(start + margin * length), 0, limit))
        high = int(np.clip(np.ceil(start + (1 - margin) * length), 0, limit))
        slices.append(slice(low, max(high, min(low + 1, limit))))
    return slices[0], slices[1]
