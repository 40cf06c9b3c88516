"""Boxes of a track between its detections, and without the detector's jitter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trackverse.pairs import end_to_end
from trackverse.types import Bool, Float32, Float64, Int64, Track

# Standard deviation of the Gaussian that weighs a box's neighbours in time: a detector's jitter changes from frame to
# frame, a limb or a turn takes longer.
SMOOTHING_S = 0.08
# Where a detector jitters more, or frames come rarely, wider ones are tried in turn, up to most of a second.
WIDTHS_S = SMOOTHING_S * 2 ** np.arange(0, 4, 0.5)
PATIENCE, LONE_PATIENCE = 2, 4  # widths that are tried after the best one of all coordinates, and of one of them
REACH = 3.0  # standard deviations, beyond which the weight is less than 1.2 % of the middle's
# An error this many times the usual one is no jitter (half of the object is hidden, say), and counts no more than that.
MAX_ERROR = 3 / 0.6745  # medians of a normal distribution's absolute values: three standard deviations
MAX_TRIED = 5_000  # boxes that tell a clip's jitter: in crowds of 50, to widths whose error is within 2 % of the least


def fill(
    times_s: Float64, xyxy: Float64, track_of: Int64, frame_times_s: Float64, max_gap_s: float
) -> tuple[Float64, Float64, Int64, Bool]:
    """Tracks with the frames between their detections, on straight lines: times, boxes, the track of each, and which of
    them are new.

    The tracks lie one after the other in `times_s` (T,), `xyxy` (T, 4) and `track_of` (T,), rising. `frame_times_s`
    (F,) are the clip's frames, rising, those of the tracks among them. Gaps longer than `max_gap_s` stay open.
    """
    frame_of = np.searchsorted(frame_times_s, times_s)
    num_missed = np.append(np.diff(frame_of) - 1, 0)
    stays_open = (np.diff(times_s) > max_gap_s) | (np.diff(track_of) > 0)
    num_missed[:-1][stays_open] = 0
    before, place = end_to_end(1 + num_missed)  # each detection, then what is missed after it
    times, boxes = frame_times_s[frame_of[before] + place], xyxy.take(before, axis=0)
    is_new = place > 0
    new, last = is_new.nonzero()[0], before[is_new]
    speed = (xyxy[last + 1] - xyxy[last]) / (times_s[last + 1] - times_s[last])[:, None]
    boxes[new] += speed * (times[new] - times_s[last])[:, None]
    return times, boxes, track_of[before], is_new


def scores_of(detected: Float32, new: Bool) -> Float32:
    """Scores (N,) or (N, C) of a track's detections as those of its T frames: 0 where they are `new` (T,)."""
    scores = np.zeros((len(new), *detected.shape[1:]), np.float32)
    scores[~new] = detected
    return scores


def smooth_tracks(tracks: Sequence[Track]) -> list[Track]:
    """The tracks of a clip with smoothed boxes."""
    if not tracks:
        return []
    lengths = [len(track) for track in tracks]
    times_s = np.concatenate([track.times_s for track in tracks])
    xyxy = np.concatenate([track.xyxy for track in tracks]).astype(np.float64)
    new = np.concatenate([track.interpolated for track in tracks])
    smooth = smoothed_boxes(times_s, xyxy, np.repeat(np.arange(len(tracks)), lengths), new)
    parts = np.split(smooth, np.cumsum(lengths)[:-1])
    return [replace(track, xyxy=part) for track, part in zip(tracks, parts, strict=True)]


def smoothed_boxes(times_s: Float64, xyxy: Float64, track_of: Int64, new: Bool | None = None) -> Float32:
    """Boxes (T, 4) of the tracks of a clip, one after the other (`track_of` (T,) rising), each smoothed over time.

    Each clip is its own measure: centre and size are smoothed as much as foretells a box best from its neighbours,
    `SMOOTHING_S` at least. `new` (T,) are interpolated boxes, which don't count. No box comes out empty that went in
    with a size.
    """
    seen = np.ones(len(xyxy), bool) if new is None else ~new
    low, high = xyxy.T[:2], xyxy.T[2:]
    values = np.concatenate([(low + high) / 2, high - low])
    smooth = values.copy()
    num_tried = int(np.searchsorted(track_of, track_of[min(MAX_TRIED, len(track_of)) - 1], side="right"))
    tried, others, seen_rows = slice(num_tried), slice(num_tried, None), seen[:num_tried].nonzero()[0]
    errors = _Errors(values.take(seen_rows, axis=1))
    best_s, num_worse = np.zeros(4), np.zeros(4, np.int64)  # width of each coordinate, and how many were tried since
    for width_s in WIDTHS_S:
        open_ = np.flatnonzero(num_worse < LONE_PATIENCE)
        line, self_weight = _lines(times_s[tried], values[open_, tried], track_of[tried], width_s)
        is_better = errors.fall(open_, line.take(seen_rows, axis=1), self_weight[seen_rows])
        better = open_[is_better]
        smooth[better, tried] = line[is_better]
        best_s[better] = width_s
        num_worse += 1
        num_worse[better] = 0
        # A Gaussian narrower than a frame averages nothing, so that the error may rise before it falls.
        if num_worse.min() == PATIENCE:
            break
    for width_s in np.unique(best_s[best_s > 0]):
        own = np.flatnonzero(best_s == width_s)
        smooth[own, others] = _lines(times_s[others], values[own, others], track_of[others], width_s)[0]
    half = smooth[2:] / 2
    boxes = np.concatenate([smooth[:2] - half, smooth[:2] + half])
    return np.where((half > 0).all(axis=0), boxes, xyxy.T).T.astype(np.float32, order="C")


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


def _lines(times_s: Float64, values: Float64, track_of: Int64, width_s: float) -> tuple[Float64, Float64]:
    """Values (K, T) of tracks smoothed by a Gaussian of `width_s`, and how much of each (T,) is its own old value.

    A straight line is fitted through the neighbours of each frame, weighted by the Gaussian, and its value in the frame
    is taken: so the ends don't lag behind, and steady motion and growth stay as they are.
    """
    columns = np.concatenate([np.ones((1, len(times_s))), values])
    sums = np.stack([columns, np.zeros_like(columns)])  # of weights × columns, of weights × time × columns
    time2 = np.zeros(len(times_s))  # of weights × time²
    room = np.empty_like(sums)  # new arrays of this size take as long as what is computed into them
    for step in range(1, len(times_s)):
        since = times_s[step:] - times_s[:-step]
        near = (since <= REACH * width_s) & (track_of[step:] == track_of[:-step])
        if not near.any():
            break
        weights = np.empty((2, 1, len(since)))
        weight, moment = weights[:, 0]
        np.exp((since / width_s) ** 2 / -2, out=weight)
        weight *= near
        np.multiply(weight, since, out=moment)
        here, there = slice(None, -step), slice(step, None)
        sums[:, :, here] += np.multiply(weights, columns[:, there], out=room[:, :, here])
        np.negative(moment, out=moment)
        sums[:, :, there] += np.multiply(weights, columns[:, here], out=room[:, :, here])
        moment *= since
        time2[here] -= moment
        time2[there] -= moment
    (total, time), (level, slope) = sums[:, 0], sums[:, 1:]
    determinant = total * time2 - time**2
    line = (time2 * level - time * slope) / np.maximum(determinant, 1e-12)
    # A frame without neighbours has no line through it.
    has_line = determinant > 1e-9
    return np.where(has_line, line, values), np.where(has_line, time2 / np.maximum(determinant, 1e-12), 1.0)
