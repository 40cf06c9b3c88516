"""How much a box moves, and where it is at the ticks of a clock: arithmetic on many tracks at once.

Tracks are given end to end: `counts` (N,) says how many of the rows of `times_s` and of the boxes each one has, at
least one. Boxes are tlwh px.
"""

from __future__ import annotations

import numpy as np

from trackverse.pairs import end_to_end
from trackverse.types import Bool, Float64, Int64

TICK_S = 0.5  # boxes are looked at every half second: a detector's jitter from frame to frame is not motion


def usual_step_s(times_s: Float64) -> float:
    """From one of the times (F,) to the next: the median. inf where there is no next one."""
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else np.inf


def boxes_at_ticks(times_s: Float64, tlwh: Float64, counts: Int64) -> tuple[Int64, Int64, Float64]:
    """Where each track's box is at the ticks from its first to its last frame, linear between frames.

    Tick n is n × TICK_S on the source video's clock. Returns the number of the first tick (N,), how many ticks (N,) and
    the boxes at all of them, end to end. A track between two ticks gets its first box at the one nearest to its middle.
    """
    ends = np.cumsum(counts)
    starts = ends - counts
    first_s, last_s = times_s[starts], times_s[ends - 1]
    first_tick, num_ticks, is_between = ticks_from_to(first_s, last_s)
    track, within = end_to_end(num_ticks)
    tick_s = (first_tick[track] + within) * TICK_S
    # One clock for all tracks, on which each begins after the one before has ended.
    shift = np.arange(len(counts)) * (float((last_s - first_s).max(initial=0.0)) + 2 * TICK_S) - first_s
    before = np.searchsorted(times_s + np.repeat(shift, counts), tick_s + shift[track], side="right") - 1
    before = np.clip(before, starts[track], ends[track] - 1)
    after = np.minimum(before + 1, ends[track] - 1)
    step = times_s[after] - times_s[before]
    share = np.divide(tick_s - times_s[before], step, out=np.zeros(len(step)), where=step > 0)
    share = np.where(is_between[track], 0, np.clip(share, 0, 1))[:, None]
    return first_tick, num_ticks, tlwh[before] * (1 - share) + tlwh[after] * share


def ticks_from_to(first_s: Float64, last_s: Float64) -> tuple[Int64, Int64, Bool]:
    """Of N tracks from their first and last frames' times: the first tick, how many (one at least), and whether there
    is none between the two, so that it is the one nearest to their middle.
    """
    first_tick = np.ceil(first_s / TICK_S - 1e-6).astype(np.int64)
    num_ticks = np.floor(last_s / TICK_S + 1e-6).astype(np.int64) - first_tick + 1
    is_between = num_ticks < 1
    first_tick[is_between] = np.rint((first_s + last_s)[is_between] / 2 / TICK_S).astype(np.int64)
    num_ticks[is_between] = 1
    return first_tick, num_ticks, is_between


def box_motion(times_s: Float64, tlwh: Float64, counts: Int64) -> Float64:
    """(N,) mean speed of each track's box from tick to tick, in box sizes a second.

    The step between two ticks is the way of the centre together with the growth of the size, √(Δx² + Δy² + Δsize²),
    where the size is √(width × height); it counts in sizes, the mean of the two. A track of fewer than two ticks is
    measured from its first to its last frame; one of a single instant has a motion of 0.
    """
    return motion_between(times_s, tlwh, counts, *boxes_at_ticks(times_s, tlwh, counts)[1:])


def motion_between(times_s: Float64, tlwh: Float64, counts: Int64, num_ticks: Int64, at_ticks: Float64) -> Float64:
    """`box_motion` of tracks whose boxes at the ticks are known."""
    ends = np.cumsum(counts)
    is_short = num_ticks < 2
    track = np.repeat(np.arange(len(counts)), num_ticks)
    is_step = np.diff(track) == 0  # between two ticks of one track
    steps = _steps(at_ticks[:-1][is_step], at_ticks[1:][is_step])
    speed = np.bincount(track[1:][is_step], steps, minlength=len(counts)) / np.maximum(num_ticks - 1, 1) / TICK_S
    if is_short.any():
        first, last = (ends - counts)[is_short], ends[is_short] - 1
        time = times_s[last] - times_s[first]
        step = _steps(tlwh[first], tlwh[last])
        speed[is_short] = np.divide(step, time, out=np.zeros(len(time)), where=time > 0)
    return speed


def _steps(first: Float64, second: Float64) -> Float64:
    """(N,) how far boxes are from each other, in their mean size."""
    sizes = [np.sqrt(np.maximum(tlwh[:, 2] * tlwh[:, 3], 1.0)) for tlwh in (first, second)]  # of a pixel at least
    way = (second[:, :2] + second[:, 2:] / 2) - (first[:, :2] + first[:, 2:] / 2)
    step: Float64 = np.hypot(np.hypot(way[:, 0], way[:, 1]), sizes[1] - sizes[0]) / ((sizes[0] + sizes[1]) / 2)
    return step


def mean_area(tlwh: Float64, counts: Int64) -> Float64:
    """(N,) mean area of each track's boxes in px²."""
    if not len(counts):
        return np.zeros(0)
    area = np.maximum(tlwh[:, 2], 0) * np.maximum(tlwh[:, 3], 0)
    means: Float64 = np.add.reduceat(area, np.cumsum(counts) - counts) / counts
    return means
