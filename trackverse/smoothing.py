"""Boxes of a track between its detections, and without the detector's jitter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trackverse.motion import MEDIAN_ERROR
from trackverse.pairs import end_to_end
from trackverse.rows import Rows
from trackverse.types import ROUNDING_S, Bool, Float32, Float64, Int64, Track

# Standard deviation of the Gaussian that weighs a box's neighbours in time: a detector's jitter changes from frame to
# frame, a limb or a turn takes longer.
SMOOTHING_S = 0.08
# Where a detector jitters more, or frames come rarely, wider ones are tried in turn, up to most of a second.
WIDTHS_S = SMOOTHING_S * 2 ** np.arange(0, 4, 0.5)
PATIENCE, LONE_PATIENCE = 2, 4  # widths that are tried after the best one of all coordinates, and of one of them
REACH = 3.0  # standard deviations, beyond which the weight is less than 1.2 % of the middle's
# An error this many times the usual one is no jitter (half of the object is hidden, say), and counts no more than that.
MAX_ERROR = 3 / MEDIAN_ERROR  # medians: three standard deviations
BLOCK_FRAMES = 64  # at least, and as many as are in reach: many together are few steps, more are many products
MAX_TRIED = 5_000  # boxes that tell a clip's jitter: in crowds of 50, to widths whose error is within 2 % of the least


def fill(
    frame_times_s: Float64, frame_of: Int64, xyxy: Float64, track_of: Int64, max_gap_s: float
) -> tuple[Int64, Float64, Int64, Bool]:
    """Tracks with the frames between their detections, on straight lines: the frame of each box, the boxes, the track
    of each, and which of them are new.

    The tracks lie one after the other in `frame_of` (T,), `xyxy` (T, 4) and `track_of` (T,), rising. `frame_times_s`
    (F,) are the times of the clip's frames, rising. Gaps longer than `max_gap_s` stay open.
    """
    times_s = frame_times_s[frame_of]
    num_missed = np.append(np.diff(frame_of) - 1, 0)
    stays_open = (np.diff(times_s) > max_gap_s) | (np.diff(track_of) > 0)
    num_missed[:-1][stays_open] = 0
    before, place = end_to_end(1 + num_missed)  # each detection, then what is missed after it
    frames, boxes = frame_of[before] + place, xyxy.take(before, axis=0)
    is_new = place > 0
    new, last = is_new.nonzero()[0], before[is_new]
    speed = (xyxy[last + 1] - xyxy[last]) / (times_s[last + 1] - times_s[last])[:, None]
    boxes[new] += speed * (frame_times_s[frames[new]] - times_s[last])[:, None]
    return frames, boxes, track_of[before], is_new


def scores_of(detected: Float32, new: Bool) -> Float32:
    """Scores (N,) or (N, C) of a track's detections as those of its T frames: 0 where they are `new` (T,)."""
    scores = np.zeros((len(new), *detected.shape[1:]), np.float32)
    scores[~new] = detected
    return scores


def smooth_tracks(tracks: Sequence[Track]) -> list[Track]:
    """The tracks of a clip with smoothed boxes."""
    if not tracks:
        return []
    rows, new = Rows.of(tracks), np.concatenate([track.interpolated for track in tracks])
    frame_times_s, frame_of = np.unique(rows.times_s, return_inverse=True)
    smooth = smoothed_boxes(frame_times_s, frame_of, rows.xyxy.astype(np.float64), rows.owner, new)
    parts = np.split(smooth, rows.first[1:])
    return [replace(track, xyxy=part) for track, part in zip(tracks, parts, strict=True)]


def smoothed_boxes(frame_times_s: Float64, frame_of: Int64, xyxy: Float64, track_of: Int64, new: Bool) -> Float32:
    """Boxes (T, 4) of the tracks of a clip, one after the other (`track_of` (T,) rising), each smoothed over time.
    They lie in the frames `frame_of` (T,) of those at `frame_times_s` (F,).

    Each clip is its own measure: centre and size are smoothed as much as foretells a box best from its neighbours,
    `SMOOTHING_S` at least. `new` (T,) are interpolated boxes, which don't count. No box comes out empty that went in
    with a size.
    """
    smooth = np.empty(xyxy.shape, np.float32)
    widths_s: Float64 | None = None
    stop = 0
    while stop < len(xyxy):
        # Whole tracks, and not too many at a time: new pages of memory take as long as what is computed into them.
        start, last = stop, min(stop + MAX_TRIED, len(xyxy)) - 1
        stop = int(np.searchsorted(track_of, track_of[last], side="right"))
        part = slice(start, stop)
        edges = np.ascontiguousarray(xyxy[part].T)  # coordinates first, as numpy is slow at rows of four
        values = np.concatenate([(edges[:2] + edges[2:]) / 2, edges[2:] - edges[:2]])
        if widths_s is None:
            lines = _Lines(frame_times_s, frame_of[part], values, track_of[part], WIDTHS_S[-1])
            widths_s, values = _best_widths(lines, values, np.flatnonzero(~new[part]))
        else:
            lines = _Lines(frame_times_s, frame_of[part], values, track_of[part], widths_s.max())
            for width_s in np.unique(widths_s[widths_s > 0]):
                own = np.flatnonzero(widths_s == width_s)
                values[own], _ = lines.through(own, width_s)
        middle, half = values[:2], values[2:] / 2
        smooth[part] = np.where((half > 0).all(axis=0), np.concatenate([middle - half, middle + half]), edges).T
    return smooth


def _best_widths(lines: _Lines, values: Float64, seen_rows: Int64) -> tuple[Float64, Float64]:
    """(4,): the width for each coordinate that foretells the `values` (4, T) in the `seen_rows` best, 0 for none; and
    the values, smoothed by them.
    """
    errors, smooth = _Errors(values.take(seen_rows, axis=1)), values.copy()
    best_s, num_worse = np.zeros(4), np.zeros(4, np.int64)  # of each coordinate, and how many were tried since
    for width_s in WIDTHS_S:
        open_ = np.flatnonzero(num_worse < LONE_PATIENCE)
        line, self_weight = lines.through(open_, width_s)
        fell = errors.fall(open_, line.take(seen_rows, axis=1), self_weight[seen_rows])
        better = open_[fell]
        best_s[better], smooth[better] = width_s, line[fell]
        num_worse += 1
        num_worse[better] = 0
        # A Gaussian narrower than a frame averages nothing, so that the error may rise before it falls.
        if num_worse.min() == PATIENCE:
            break
    return best_s, smooth


class _Errors:
    """How well boxes, `values` (4, T), are foretold by their neighbours alone, coordinate by coordinate, in heights."""

    def __init__(self, values: Float64) -> None:
        self._values = values
        self._cap: Float64 | None = None  # of a single error
        self._least = np.full(4, np.inf)

    def fall(self, rows: Int64, line: Float64, self_weight: Float64) -> Bool:
        """(K,): if the errors of `line` (K, T), of which the `rows` (K,) of the values are `self_weight` (T,) part,
        fell.

        Left out of its own line, a value is off by the residual over one less its weight (Allen's PRESS, 1974).
        """
        told = (self_weight < 0.999).nonzero()[0]
        if not len(told):
            return np.zeros(len(rows), bool)
        values = self._values.take(told, axis=1)
        error = np.abs(values[rows] - line.take(told, axis=1))
        error /= (1 - self_weight[told]) * np.maximum(values[3], 1)
        if self._cap is None:  # the first time, of all four
            self._cap = MAX_ERROR * np.median(error, axis=1)
        mean = (np.minimum(error, self._cap[rows, None]) ** 2).mean(axis=1)
        better: Bool = mean < self._least[rows]
        self._least[rows] = np.minimum(mean, self._least[rows])
        return better


class _Lines:
    """Straight lines through the neighbours of each box in time.

    In one frame, the neighbours of all tracks have the same weights. So tracks are cut into stretches of a block of
    frames, each with the frames around it that are in reach, and all stretches whose frames lie alike are multiplied
    with a matrix of weights at once: where frames come regularly, these are all there are.
    """

    def __init__(
        self, frame_times_s: Float64, frame_of: Int64, values: Float64, track_of: Int64, widest_s: float
    ) -> None:
        """`values` (4, T) of tracks, one after the other (`track_of` (T,) rising), in the frames `frame_of` (T,)."""
        first_frame = frame_of.min()
        frame_of = frame_of - first_frame
        self._frame_times_s = frame_times_s = frame_times_s[first_frame : first_frame + frame_of.max() + 1]
        self._margin = margin = self._reach(widest_s)
        self._num_frames = num_frames = max(BLOCK_FRAMES, margin)  # of a block
        width = num_frames + 2 * margin
        block_of = frame_of // num_frames
        is_first = np.append(True, (np.diff(block_of) != 0) | (np.diff(track_of) > 0))
        first, stretch_of = np.flatnonzero(is_first), np.cumsum(is_first) - 1
        self._places = stretch_of * num_frames + frame_of % num_frames

        begin = block_of[first] * num_frames - margin  # the frame in which a stretch with those around it begins
        apart = len(frame_times_s) + width  # no stretch reaches into the next track
        own, begin_at = track_of * apart + frame_of, track_of[first] * apart + begin
        low, high = np.searchsorted(own, begin_at), np.searchsorted(own, begin_at + width)
        stretch, number = end_to_end(high - low)
        rows = low[stretch] + number
        # In float32, from each stretch's first box on, which is exact to 0.001 px.
        self._origins = values.take(first, axis=1)
        self._columns = np.zeros((5, len(first), width), np.float32)  # 1 where there is a box, and its values
        at = stretch * width + frame_of[rows] - begin[stretch]
        self._columns[0].reshape(-1)[at] = 1
        for column, value, origin in zip(self._columns[1:], values, self._origins, strict=True):
            column.reshape(-1)[at] = value.take(rows) - origin.take(stretch)

        # Before and after the clip, where nothing is, frames go on at its usual step.
        step_s = (frame_times_s[-1] - frame_times_s[0]) / max(len(frame_times_s) - 1, 1)
        before = frame_times_s[0] - step_s * np.arange(margin, 0, -1)
        after = frame_times_s[-1] + step_s * np.arange(1, width)
        times_s = sliding_window_view(np.concatenate([before, frame_times_s, after]), width)[::num_frames]
        self._sort_by_kind(times_s, block_of[first])

    def _sort_by_kind(self, times_s: Float64, block_of: Int64) -> None:
        """Finds the stretches whose frames lie alike: each of the block `block_of` (N,), in whose frames with those
        around it it is `times_s` (B, W).
        """
        times_s = np.round((times_s - times_s[:, :1]) / ROUNDING_S) * ROUNDING_S
        kinds: dict[bytes, int] = {}
        kind_of_block = np.array([kinds.setdefault(block.tobytes(), len(kinds)) for block in times_s])
        kind_of = kind_of_block[block_of]
        ends = np.cumsum(np.bincount(kind_of, minlength=len(kinds)))
        self._kinds = [np.frombuffer(block) for block in kinds]  # times of their frames
        self._of_kind = np.split(kind_of.argsort(kind="stable"), ends[:-1])  # their stretches

    def _reach(self, width_s: float) -> int:
        """How many frames from one are in reach of a Gaussian of `width_s` at most."""
        times_s = self._frame_times_s
        end = np.searchsorted(times_s, times_s + REACH * width_s + ROUNDING_S, side="right")
        return int((end - np.arange(len(end))).max()) - 1

    def through(self, coordinates: Int64, width_s: float) -> tuple[Float64, Float64]:
        """Values (K, T) of some coordinates (K,) smoothed by a Gaussian of `width_s`, and how much of each (T,) is its
        own old value.

        A straight line is fitted through the neighbours of each frame, weighted by the Gaussian, and its value in the
        frame is taken: so the ends don't lag behind, and steady motion and growth stay as they are.
        """
        reach = self._reach(width_s)
        block = slice(self._margin, self._margin + self._num_frames)
        near = slice(block.start - reach, block.stop + reach)
        chosen = np.append(0, 1 + coordinates)[:, None]
        shape = (len(chosen), self._columns.shape[1], self._num_frames)
        sums, moments = np.empty(shape, np.float32), np.empty(shape, np.float32)  # of weights, and of weights × time
        time2 = np.empty(shape[1:], np.float32)  # of weights × time²
        for times_s, own in zip(self._kinds, self._of_kind, strict=True):
            columns = self._columns[chosen, own, near]
            since = times_s[near, None] - times_s[block]
            is_near = np.abs(since) <= REACH * width_s + ROUNDING_S
            since = since.astype(np.float32)
            weights = np.exp((since / np.float32(width_s)) ** 2 / -2) * is_near
            sums[:, own] = columns @ weights
            moments[:, own] = columns @ (weights * since)
            time2[own] = columns[0] @ (weights * since**2)
        total, time, level, slope = sums[0], moments[0], sums[1:], moments[1:]
        determinant = total * time2 - time**2
        has_line = determinant > 1e-9  # a frame without neighbours has no line through it
        determinant = np.maximum(determinant, 1e-12)
        old = self._columns[1 + coordinates, :, block]
        line = np.where(has_line, (time2 * level - time * slope) / determinant, old)
        line = line + self._origins[coordinates, :, None]
        self_weight = np.where(has_line, time2 / determinant, 1)
        return line.reshape(len(line), -1).take(self._places, axis=1), self_weight.ravel().take(self._places)
