"""How a camera in somebody's hands sways: by optical flow (see `camera.py`), or from the tracks of a clip alone, what
all its objects do at once.

Boxes that sway with the picture look as if their objects did: who is hidden is looked for where the last swing pointed.
Taken off before tracks are compared, and put back after, the sway does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from trackverse import slow_camera
from trackverse.boxes import STANDING_STILL, Boxes, moved
from trackverse.in_common import CAUTION, LEAST, MAX_OBJECTS, InCommon
from trackverse.rows import Rows
from trackverse.ticks import usual_step_s
from trackverse.types import ROUNDING_S, Bool, Float64, Int64, Track

# What goes on for longer than this in one direction may be a crowd's way as well as the camera's: hands and steps sway
# once or twice a second. Slow pans and zooms are looked for in how each object's speed changes: see `slow_camera.py`.
SLOW_S = 0.5
# Where the camera is known, only what it does for so long stays, so that places and sizes don't drift away from the
# picture's when it walks on and on. 2 s do nearly as well, and so does for ever; 0.5 leave a quick pan in.
KNOWN_SLOW_S = 4.0
# Slow pans and zooms that are found from tracks are not known so well that they drift away soon. 4 s do a little less
# well, and for ever a little better, until a clip is long.
FOUND_SLOW_S = 16.0
# Over what time three places of an object tell a bend of its way. Longer, and people who turn together are the camera.
BEND_S = 0.2
# Of the median's length: a bend, or a way beside the others', that is longer is a track that slips, and counts as that.
MAX_ERROR = 3.0
MAX_SLOW_OBJECTS = 8  # that tell of slow pans and zooms; 6 to 16 find as much, and more take longer


@dataclass(frozen=True)
class Sway:
    """How the picture is turned, scaled and shifted by the sway in the frames at `times_s` (F,): x' = A x + b in px,
    `motion` (F, 2, 3).
    """

    times_s: Float64
    motion: Float64

    @staticmethod
    def along(times_s: Float64, motions: Float64, frame_hw: tuple[int, int]) -> Sway:
        """Of a camera that is known to have moved the picture, of size `frame_hw`, by `motions` (F, 2, 3) into each
        frame from the one before.
        """
        middle = np.array(frame_hw[::-1]) / 2
        turn, shift = motions[:, :, :2], motions[:, :, 2:]
        x, y = (turn @ middle + shift[:, :, 0] - middle).T
        growth, angle = np.log(np.linalg.det(turn)) / 2, np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
        return Sway(times_s, _motion(_sway(times_s, np.cumsum([x, y, growth, angle], axis=1), KNOWN_SLOW_S), middle))

    @staticmethod
    def of(tracks: Sequence[Track], frame_times_s: Float64) -> Sway:
        """From tracks whose boxes are all detected, in the frames of a clip at `frame_times_s` (F,)."""
        longest = sorted(tracks, key=len, reverse=True)
        a_frame = np.cumsum([len(track) for track in longest]) / len(frame_times_s)  # boxes of the longest, together
        num, num_slow = np.searchsorted(a_frame, (MAX_OBJECTS, MAX_SLOW_OBJECTS)) + 1
        quick = Sway._quick(longest[:num], frame_times_s)
        speed, middle = slow_camera.speeds(quick.taken_off(longest[:num_slow]), frame_times_s)
        path = np.cumsum(speed * np.diff(frame_times_s, prepend=frame_times_s[:1]), axis=1)
        path = np.concatenate([path, 0 * path[:1]])
        return quick._over(_motion(_sway(frame_times_s, path, FOUND_SLOW_S), middle))

    @staticmethod
    def _quick(tracks: Sequence[Track], frame_times_s: Float64) -> Sway:
        """As `of`, only what comes and goes within `SLOW_S`."""
        rows = Rows.of(tracks)
        edges, frame_of = rows.xyxy.T.astype(np.float64), np.searchsorted(frame_times_s, rows.times_s)
        places = _Places(rows.owner, frame_of, (edges[:2] + edges[2:]) / 2, edges[3] - edges[1])
        camera, own = places.bends(max(1, round(BEND_S / usual_step_s(frame_times_s))))
        if not camera:
            return Sway(frame_times_s, np.tile(STANDING_STILL, (len(frame_times_s), 1, 1)))
        way, weight = places.ways(len(frame_times_s))
        # The more objects, the more of what they have in common is the camera's.
        path = np.cumsum(way * (camera / (camera + own / np.maximum(weight, LEAST))), axis=1)
        x, y = _sway(frame_times_s, path, SLOW_S)
        return Sway(frame_times_s, _motion(np.stack([x, y, 0 * x, 0 * x]), np.zeros(2)))

    def _over(self, slow: Float64) -> Sway:
        """This sway of a picture that has been moved by `slow` (F, 2, 3)."""
        motion = self.motion[:, :, :2] @ slow
        motion[:, :, 2] += self.motion[:, :, 2]
        return Sway(self.times_s, motion)

    @cached_property
    def is_still(self) -> bool:
        return bool((self.motion == STANDING_STILL).all())

    def taken_off(self, tracks: Sequence[Track]) -> list[Track]:
        """The tracks as a camera that doesn't sway has them."""
        if self.is_still:
            return list(tracks)
        return [replace(track, xyxy=self.take_off(track.xyxy, track.times_s)) for track in tracks]

    def take_off(self, xyxy: Boxes, times_s: Float64) -> Boxes:
        """Boxes (T, 4) in the frames at these times (T,), as a camera that doesn't sway has them."""
        return xyxy if self.is_still else moved(xyxy, self._back[self._frames(times_s)])

    def put_on(self, xyxy: Boxes, times_s: Float64) -> Boxes:
        """Boxes (T, 4) that a camera that doesn't sway has in the frames at these times (T,), as this one has them."""
        return xyxy if self.is_still else moved(xyxy, self.motion[self._frames(times_s)])

    @cached_property
    def _back(self) -> Float64:
        """The opposite of `motion`."""
        turn = np.linalg.inv(self.motion[:, :, :2])
        return np.concatenate([turn, -turn @ self.motion[:, :, 2:]], axis=2)

    def _frames(self, times_s: Float64) -> Int64:
        return np.searchsorted(self.times_s, times_s)


@dataclass(frozen=True)
class _Places:
    """The boxes of tracks, one after the other: `track_of` and `frame_of` (T,), `centre` (2, T), `height` (T,)."""

    track_of: Int64
    frame_of: Int64
    centre: Float64
    height: Float64

    def bends(self, lag: int) -> tuple[float, float]:
        """How much ways bend within twice `lag` frames, squared: that of the camera, px², less what may be chance, and
        those of the objects, heights². At constant speed, whether a crowd's or the camera's, nothing bends.
        """
        before = np.flatnonzero(self._go_on(2 * lag))
        if not len(before):
            return 0.0, 1.0
        middle, after = before + lag, before + 2 * lag
        bend = self.centre[:, after] - 2 * self.centre[:, middle] + self.centre[:, before]
        height, frame = self.height[middle], self.frame_of[middle]
        bend /= _excess(bend, height)
        in_common = InCommon()
        in_common.add(bend, height, frame, 2 * lag)
        camera, error, own = in_common.variances()
        return max(camera - CAUTION * error, 0.0), own

    def ways(self, num_frames: int) -> tuple[Float64, Float64]:
        """The mean way (2, F) of all boxes into each frame from the one before, 0 where none is known, and its weight
        (F,), 1 / heights².
        """
        row = np.flatnonzero(self._go_on(1))
        way, frame, height = self.centre[:, row + 1] - self.centre[:, row], self.frame_of[row + 1], self.height[row]
        weight = 1 / height**2
        mean, total = _means(way, frame, weight, num_frames)
        weight = weight / _excess(way - mean[:, frame], height)
        return _means(way, frame, weight, num_frames)[0], total

    def _go_on(self, lag: int) -> Bool:
        """(T - lag,): whether the box `lag` rows later is the same track's, and as many frames later."""
        num = max(len(self.track_of) - lag, 0)
        same_track = self.track_of[lag:] == self.track_of[:num]
        whole: Bool = same_track & (self.frame_of[lag:] - self.frame_of[:num] == lag)
        return whole


def _excess(ways: Float64, height: Float64) -> Float64:
    """(S,): how many times longer than the longest that counts each of the `ways` (2, S) is, 1 at least."""
    length = np.sqrt((ways**2).sum(axis=0)) / height
    longest = MAX_ERROR * float(np.median(length)) if len(length) else 0.0
    excess: Float64 = np.maximum(1, length / max(longest, LEAST))
    return excess


def _means(values: Float64, frame: Int64, weight: Float64, num_frames: int) -> tuple[Float64, Float64]:
    """The weighted means (2, F) of the values (2, S) in each frame, 0 where there are none, and their weights (F,)."""
    total = np.asarray(np.bincount(frame, weight, num_frames), np.float64)
    sums = np.stack([np.bincount(frame, weight * value, num_frames) for value in values])
    return sums / np.maximum(total, LEAST), total


def _sway(times_s: Float64, path: Float64, slow_s: float) -> Float64:
    """(K, F): what of a path (K, F) is not its course over `slow_s` before and after."""
    half_s = max(slow_s, usual_step_s(times_s))
    # Twice over: a single mean lets a fifth of what sways at 1.5 Hz through.
    sway: Float64 = path - _slow(times_s, _slow(times_s, path, half_s), half_s)
    return sway


def _motion(sway: Float64, middle: Float64) -> Float64:
    """(F, 2, 3) of a shift in x and y, the logarithm of a scale and an angle, (4, F), about a place (2,)."""
    x, y, growth, angle = sway
    cos, sin = np.exp(growth) * np.cos(angle), np.exp(growth) * np.sin(angle)
    turn = np.stack([cos, -sin, sin, cos]).T.reshape(-1, 2, 2)
    shift = np.stack([x, y], axis=1) + middle - turn @ middle
    return np.concatenate([turn, shift[:, :, None]], axis=2)


def _slow(times_s: Float64, path: Float64, half_s: float) -> Float64:
    """(K, F): the course of a path (K, F) at its mean speed in the `half_s` before and after each time."""
    first = np.searchsorted(times_s, times_s - half_s - ROUNDING_S)
    last = np.searchsorted(times_s, times_s + half_s + ROUNDING_S, side="right") - 1
    apart = times_s[last] - times_s[first]
    speed = np.divide(path[:, last] - path[:, first], apart, out=np.zeros_like(path), where=apart > 0)
    course = (speed[:, 1:] + speed[:, :-1]) / 2 * np.diff(times_s)
    return np.cumsum(np.concatenate([0 * path[:, :1], course], axis=1), axis=1)
