"""Boxes of a track between its detections, and without the detector's jitter."""

from __future__ import annotations

import numpy as np

from trackverse.types import Bool, Float64, Int64

# Standard deviation of the Gaussian that weighs a box's neighbours in time: a detector's jitter changes from frame to
# frame, a limb or a turn takes longer.
SMOOTHING_S = 0.08
REACH = 3.0  # standard deviations, beyond which the weight is less than 1.2 % of the middle's


def fill(times_s: Float64, xyxy: Float64, frame_times_s: Float64, max_gap_s: float) -> tuple[Float64, Float64, Bool]:
    """A track with the frames between its detections, on straight lines: times, boxes and which of them are new.

    `frame_times_s` (F,) are the clip's frames, rising, those of the track among them. Gaps longer than `max_gap_s`
    stay open.
    """
    gap_s = np.diff(times_s)
    after = np.searchsorted(times_s, frame_times_s)
    inside = (after > 0) & (after < len(times_s))
    new = frame_times_s[inside]
    after = after[inside]
    new = new[(new != times_s[after]) & (gap_s[after - 1] <= max_gap_s)]
    times = np.concatenate([times_s, new])
    order = np.argsort(times, kind="stable")
    boxes = np.stack([np.interp(new, times_s, side) for side in xyxy.T], axis=-1)
    return times[order], np.concatenate([xyxy, boxes])[order], order >= len(times_s)


def smoothed(times_s: Float64, values: Float64, track_of: Int64) -> Float64:
    """Values (T, K) of tracks, one after the other (`track_of` (T,) rising), each smoothed over time.

    A straight line is fitted through the neighbours of each frame, weighted by a Gaussian of `SMOOTHING_S`, and its
    value in the frame is taken: so the ends don't lag behind, and steady motion and growth stay as they are.
    """
    ones = np.ones_like(times_s)
    sums = [ones, 0 * ones, 0 * ones]  # of weights, weights × time, weights × time²
    level, slope = values.copy(), np.zeros_like(values)  # of weights × values, weights × time × values
    for step in range(1, len(times_s)):
        since = times_s[step:] - times_s[:-step]
        near = (since <= REACH * SMOOTHING_S) & (track_of[step:] == track_of[:-step])
        if not near.any():
            break
        row = np.flatnonzero(near)
        weight = np.exp(-((since[row] / SMOOTHING_S) ** 2) / 2)
        for here, there, offset in ((row, row + step, since[row]), (row + step, row, -since[row])):
            sums[0][here] += weight
            sums[1][here] += weight * offset
            sums[2][here] += weight * offset**2
            level[here] += weight[:, None] * values[there]
            slope[here] += (weight * offset)[:, None] * values[there]
    determinant = sums[0] * sums[2] - sums[1] ** 2
    line = (sums[2][:, None] * level - sums[1][:, None] * slope) / np.maximum(determinant, 1e-12)[:, None]
    # A frame without neighbours has no line through it.
    return np.where((determinant > 1e-9)[:, None], line, values)
