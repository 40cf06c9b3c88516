"""Which tracks of a video overlap, in space and time, by more than a limit."""

from __future__ import annotations

import numpy as np

from trackverse.pairs import end_to_end, portions
from trackverse.ticks import TICK_S
from trackverse.track_table import Boxes
from trackverse.types import Bool, Float32, Float64, Int64

MAX_EXPANDED = 1 << 21  # boxes of pairs that are compared at once: a hundred MB


class Overlaps:
    """The overlaps above `limit` of the tracks of one video.

    Two tracks that share ticks overlap by the volume of the intersection of their boxes over that of the union, through
    all ticks that either has. Two that don't: by the IoU of the earlier one's last box and the later one's first,
    halved for every `half_life_s` of the gap between these.
    """

    def __init__(self, boxes: Boxes, limit: float, half_life_s: float) -> None:
        self._boxes, self._limit, self._half_life_s = boxes, limit, half_life_s
        self._first, self._num_ticks = boxes.first, np.diff(boxes.starts)
        self._last = self._first + self._num_ticks - 1
        self._reach = _reach(limit, half_life_s)
        # What tells of most pairs that they don't overlap is much cheaper than their boxes.
        self._volume = np.add.reduceat(_area(boxes.xyxy), boxes.starts[:-1])
        self._left_top = np.minimum.reduceat(boxes.xyxy[:, :2], boxes.starts[:-1])
        self._right_bottom = np.maximum.reduceat(boxes.xyxy[:, 2:], boxes.starts[:-1])
        self._order = np.argsort(self._first, kind="stable")
        ends = np.searchsorted(self._first[self._order], self._last[self._order] + self._reach, side="right")
        # of each in this order, how many of those after it are near enough in time
        self._num_later = np.maximum(ends - np.arange(len(ends)) - 1, 0)
        self._by_row = np.argsort(boxes.rows)

    @property
    def num_near(self) -> int:
        """How many pairs are near enough in time to be looked at."""
        return int(self._num_later.sum())

    def pairs(self) -> Int64:
        """(P, 2) rows of the pairs that overlap too much."""
        found = [np.zeros((0, 2), np.int64)]
        for part in portions(self._num_later * self._num_ticks[self._order], MAX_EXPANDED):
            one, within = end_to_end(self._num_later[part])
            one += part.start
            one, other = self._order[one], self._order[one + 1 + within]
            is_too_much = self._is_too_much(one, other)
            found.append(self._boxes.rows[np.stack([one[is_too_much], other[is_too_much]], axis=1)])
        return np.concatenate(found)

    def of(self, row: int) -> Int64:
        """The rows that overlap this one too much."""
        place = int(self._by_row[np.searchsorted(self._boxes.rows, row, sorter=self._by_row)])
        first, last = self._first[place], self._last[place]
        is_near = (self._first <= last + self._reach) & (first <= self._last + self._reach)
        is_near[place] = False
        near = np.flatnonzero(is_near)
        is_later = self._first[near] >= first
        one, other = np.where(is_later, place, near), np.where(is_later, near, place)
        found = [np.zeros(0, np.int64)]
        for part in portions(self._num_ticks[one], MAX_EXPANDED):
            found.append(near[part][self._is_too_much(one[part], other[part])])
        return self._boxes.rows[np.concatenate(found)]

    def _is_too_much(self, one: Int64, other: Int64) -> Bool:
        """(P,) whether pairs overlap by more than the limit; the first of each pair begins first."""
        found = self._may_be(one, other)
        one, other = one[found], other[found]
        shares_ticks = self._first[other] <= self._last[one]
        overlap = np.zeros(len(one))
        overlap[shares_ticks] = self._by_volume(one[shares_ticks], other[shares_ticks])
        overlap[~shares_ticks] = self._across_gap(one[~shares_ticks], other[~shares_ticks])
        found[found] = overlap > self._limit
        return found

    def _may_be(self, one: Int64, other: Int64) -> Bool:
        """(P,) whether the overlap of pairs may be too much: they meet somewhere, and neither is much larger."""
        meets = (self._left_top[one] < self._right_bottom[other]) & (self._left_top[other] < self._right_bottom[one])
        volume_one, volume_other = self._volume[one], self._volume[other]
        # The intersection is in the smaller one, the union holds the larger one.
        is_like = np.minimum(volume_one, volume_other) >= np.maximum(volume_one, volume_other) * (self._limit - 1e-9)
        shares_ticks = self._first[other] <= self._last[one]
        may: Bool = meets.all(axis=1) & (is_like | ~shares_ticks)
        return may

    def _by_volume(self, one: Int64, other: Int64) -> Float64:
        """(P,) overlap of pairs that share ticks."""
        boxes = self._boxes
        begin, end = self._first[other], np.minimum(self._last[one], self._last[other]) + 1
        pair, within = end_to_end(end - begin)
        in_one = (boxes.starts[one] + begin - self._first[one])[pair] + within
        in_other = boxes.starts[other][pair] + within
        shared = np.bincount(pair, _intersection(boxes.xyxy[in_one], boxes.xyxy[in_other]), minlength=len(one))
        union = self._volume[one] + self._volume[other] - shared
        return np.divide(shared, union, out=np.zeros(len(one)), where=union > 0)

    def _across_gap(self, one: Int64, other: Int64) -> Float64:
        """(P,) overlap of pairs that share no ticks."""
        gap_s = (self._first[other] - self._last[one]) * TICK_S
        before, after = self._boxes.xyxy[self._boxes.starts[one + 1] - 1], self._boxes.xyxy[self._boxes.starts[other]]
        intersection = _intersection(before, after)
        union = _area(before) + _area(after) - intersection
        iou = np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)
        overlap: Float64 = iou * 0.5 ** (gap_s / self._half_life_s)
        return overlap


def _reach(limit: float, half_life_s: float) -> int:
    """Across how many ticks a gap may be so that even equal boxes overlap by more than `limit`."""
    if limit >= 1:
        return 0
    ticks = np.log2(1 / limit) * half_life_s / TICK_S if limit > 0 else np.inf
    return int(min(ticks, 1 << 40)) + 1


def _intersection(a: Float32, b: Float32) -> Float64:
    size = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).astype(np.float64)
    area: Float64 = size[:, 0] * size[:, 1]
    return area


def _area(xyxy: Float32) -> Float64:
    return _intersection(xyxy, xyxy)
