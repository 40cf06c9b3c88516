"""What a track must be to be chosen at all, and what two tracks must be to be chosen together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from trackverse.curate import GATHER_BYTES, Boxes, Embeddings, TrackTable
from trackverse.ticks import TICK_S
from trackverse.types import Bool, Float32, Float64, Int64, UInt8

MAX_EXPANDED = 1 << 21  # boxes of pairs that are compared at once: a hundred MB
LOOSER = (1.0, 0.5, 0.0)  # how much of a limit is left at each step of relaxing


@dataclass(frozen=True)
class Limits:
    """None, or an empty list, asks for nothing.

    `min_length` s from first to last frame, `min_area` mean box as a share of the frame, `min_motion` in box sizes a
    second. Of two tracks of a video `max_overlap`, see `overlaps`; of two of a class `min_distance`, Euclidean, of
    their embeddings of length 1. `among`: of each video the ids of the only tracks that may be chosen.
    """

    min_motion: float | None = None
    max_overlap: float | None = None
    min_distance: float | None = None
    min_length: float | None = None
    min_area: float | None = None
    half_life_s: float = 2.0
    classes: tuple[str, ...] = ()
    exclude_videos: frozenset[str] = frozenset()
    among: Mapping[str, Int64] | None = None

    def relaxed(self, step: int) -> Limits:
        """Step 0: these limits; 1: half-way to none; 2: none. Classes and excluded videos are never relaxed."""
        share = LOOSER[step]

        def lower(value: float | None) -> float | None:
            return None if value is None or not share else value * share

        overlap = None if self.max_overlap is None or not share else 1 - (1 - self.max_overlap) * share
        return replace(
            self,
            min_motion=lower(self.min_motion),
            max_overlap=overlap,
            min_distance=lower(self.min_distance),
            min_length=lower(self.min_length),
            min_area=lower(self.min_area),
        )

    def can_relax(self) -> bool:
        """Whether `relaxed` differs at all."""
        return self.relaxed(len(LOOSER) - 1) != self


class Refusals(NamedTuple):
    """For each of N rows why it can't be chosen: `codes` (N,) uint8, numbers of `reasons`; 0: it can."""

    codes: UInt8
    reasons: list[str]


def refusals(table: TrackTable, limits: Limits, *, motion: str = "box_motion") -> Refusals:
    """Which tracks the limits refuse, each for the first reason that holds. `motion`: the column that it is in."""
    codes = np.zeros(len(table), np.uint8)
    reasons = ["chosen or not needed"]

    def refuse(reason: str, mask: Bool) -> None:
        reasons.append(reason)
        codes[(codes == 0) & mask] = len(reasons) - 1

    if limits.exclude_videos:
        is_excluded = np.array([video_id in limits.exclude_videos for video_id in table.video_ids], bool)
        refuse("excluded video", is_excluded[table.videos])
    if limits.among is not None:
        refuse("not in the given subset", ~_is_among(table, limits.among))
    if limits.classes:
        wanted = [label_id for label_id, label in table.labels.items() if label in limits.classes]
        refuse("other class", ~np.isin(table["label_id"], wanted))
    if limits.min_length is not None:
        # Times are rounded to 0.1 ms.
        refuse(f"shorter than {limits.min_length:g} s", table["end_s"] - table["start_s"] < limits.min_length - 1e-6)
    for limit, column, what in (
        (limits.min_area, "area", "area"),
        (limits.min_motion, motion, "motion"),
    ):
        if limit is not None:
            values = table[column]
            refuse(f"{what} not known", np.isnan(values))
            refuse(f"{what} below {limit:g}", values < np.float32(limit))
    return Refusals(codes, reasons)


def _is_among(table: TrackTable, among: Mapping[str, Int64]) -> Bool:
    """(N,) which tracks of the table are listed."""
    found = np.zeros(len(table), bool)
    track_ids = table["track_id"]
    numbers = np.flatnonzero(np.array([video_id in among for video_id in table.video_ids], bool))
    starts, ends = np.searchsorted(table.videos, numbers, "left"), np.searchsorted(table.videos, numbers, "right")
    for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True):
        found[start:end] = np.isin(track_ids[start:end], among[table.video_ids[number]])
    return found


class Apart:
    """Keeps tracks apart that overlap too much or look too much alike. It remembers what was taken, and why not."""

    def __init__(self, table: TrackTable, limits: Limits, embeddings: Embeddings | None) -> None:
        self.refused: dict[int, str] = {}
        self._table, self._limits = table, limits
        self._rows = np.zeros(0, np.int64)  # prepared
        self._near = _Pairs(np.zeros((0, 2), np.int64))
        self._taken: set[int] = set()
        self._alike = None
        if limits.min_distance is not None:
            assert embeddings is not None
            self._alike = Lookalikes(table["label_id"], limits.min_distance, embeddings)

    def prepare(self, rows: Int64) -> None:
        """Find the overlaps of these rows, with each other and those that were prepared before, and their looks."""
        if not len(rows):
            return
        self._rows = np.concatenate([self._rows, rows])
        if self._limits.max_overlap is not None:
            self._near = _Pairs(
                overlapping(self._table, self._rows, self._limits.max_overlap, self._limits.half_life_s)
            )
        if self._alike is not None:
            self._alike.prepare(rows)

    def why_not(self, row: int) -> str | None:
        """Why the row can't be taken any more; None if it can. The reason is noted in `refused`."""
        reason = None
        if not self._taken.isdisjoint(self._near.of(row).tolist()):
            reason = f"overlaps a chosen track by more than {self._limits.max_overlap:g}"
        elif self._alike is not None:
            reason = self._alike.why_not(row)
        if reason:
            self.refused[row] = reason
        return reason

    def took(self, row: int) -> None:
        """The row is chosen now."""
        self._taken.add(row)
        if self._alike is not None:
            self._alike.took(row)

    def blocked_by(self, row: int) -> Int64:
        """The rows that overlap this one too much."""
        return self._near.of(row)


class Lookalikes:
    """Which rows look too much like one of their class that is taken."""

    def __init__(self, labels: Int64, least: float, embeddings: Embeddings) -> None:
        self._labels, self._least, self._embeddings = labels, least, embeddings
        self._looks = np.zeros((0, embeddings.dim), np.float16)  # of the rows that are held
        self._place_of: dict[int, int] = {}
        self._taken: dict[int, Float32] = defaultdict(lambda: np.zeros((4, embeddings.dim), np.float32))
        self._num_taken: dict[int, int] = defaultdict(int)

    def prepare(self, rows: Int64) -> None:
        """Hold the looks of the first of these rows, as many as GATHER_BYTES take; the others are read one by one."""
        rows = rows[: GATHER_BYTES // (2 * self._embeddings.dim)]
        self._looks = self._embeddings(rows)
        self._place_of = {row: place for place, row in enumerate(rows.tolist())}

    def why_not(self, row: int) -> str | None:
        """Why the row can't be taken any more; None if it can."""
        point = self._look(row)
        if np.isnan(point).any():
            return "no embedding"
        label = int(self._labels[row])
        taken = self._taken[label][: self._num_taken[label]]
        if len(taken) and np.linalg.norm(taken - point, axis=1).min() < self._least:
            return f"nearer than {self._least:g} to a chosen track of its class"
        return None

    def took(self, row: int) -> None:
        """The row is chosen now."""
        label = int(self._labels[row])
        taken, number = self._taken[label], self._num_taken[label]
        if number == len(taken):
            self._taken[label] = taken = np.concatenate([taken, np.zeros_like(taken)])
        taken[number] = self._look(row)
        self._num_taken[label] = number + 1

    def _look(self, row: int) -> Float32:
        place = self._place_of.get(row)
        look = self._embeddings(np.array([row]))[0] if place is None else self._looks[place]
        point: Float32 = look.astype(np.float32)
        return point


class _Pairs:
    """Pairs of rows (P, 2), to be looked up from either side."""

    def __init__(self, pairs: Int64) -> None:
        both = np.concatenate([pairs, pairs[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        self._from, self._to = both[:, 0].copy(), both[:, 1].copy()

    def of(self, row: int) -> Int64:
        """All rows that are in a pair with this one."""
        start, end = np.searchsorted(self._from, [row, row + 1])
        return self._to[start:end]


def overlapping(table: TrackTable, rows: Int64, max_overlap: float, half_life_s: float) -> Int64:
    """(P, 2) the pairs of the given rows, of one video each, whose overlap is above `max_overlap`."""
    found = [np.zeros((0, 2), np.int64)]
    for boxes in table.boxes_of(rows):
        if len(boxes.rows) > 1:
            one, other, overlap = overlaps(boxes, max_overlap, half_life_s)
            is_too_much = overlap > max_overlap
            found.append(np.stack([boxes.rows[one[is_too_much]], boxes.rows[other[is_too_much]]], axis=1))
    return np.concatenate(found)


def overlaps(boxes: Boxes, least: float, half_life_s: float) -> tuple[Int64, Int64, Float64]:
    """Pairs of tracks of one video, as two row numbers and their overlap, all that may exceed `least` among them.

    Two tracks that share ticks: the volume of the intersection of their boxes over that of the union, through all ticks
    that either has. Two that don't: the IoU of the earlier one's last box and the later one's first, halved for every
    `half_life_s` of the gap between these.
    """
    last = boxes.first + np.diff(boxes.starts) - 1
    order = np.argsort(boxes.first, kind="stable")
    reach, may = _reach(least, half_life_s), _Bounds(boxes, last, least)
    ends = np.searchsorted(boxes.first[order], last[order] + reach, side="right")
    numbers = np.arange(len(order))
    counts = np.maximum(ends - numbers - 1, 0)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for part in _portions(counts * np.maximum(last - boxes.first + 1, 1)[order]):
        one = np.repeat(numbers[part], counts[part])
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        one, other = order[one], order[other]
        may_exceed = may(one, other)
        one, other = one[may_exceed], other[may_exceed]
        shares_ticks = boxes.first[other] <= last[one]
        overlap = np.zeros(len(one))
        overlap[shares_ticks] = _volumes(boxes, last, one[shares_ticks], other[shares_ticks])
        apart = ~shares_ticks
        gap_s = (boxes.first[other] - last[one])[apart] * TICK_S
        before, after = boxes.xyxy[boxes.starts[one[apart] + 1] - 1], boxes.xyxy[boxes.starts[other[apart]]]
        intersection = _intersection(before, after)
        union = _area(before) + _area(after) - intersection
        iou = np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)
        overlap[apart] = iou * 0.5 ** (gap_s / half_life_s)
        found.append((one, other, overlap))
    ones, others, values = zip(*found, strict=True)
    return np.concatenate(ones), np.concatenate(others), np.concatenate(values)


class _Bounds:
    """What can be told of the overlap of two tracks from each as a whole, which is much cheaper than by their boxes."""

    def __init__(self, boxes: Boxes, last: Int64, least: float) -> None:
        self._first, self._last, self._least = boxes.first, last, least
        self._volume = np.add.reduceat(_area(boxes.xyxy), boxes.starts[:-1])
        self._left_top = np.minimum.reduceat(boxes.xyxy[:, :2], boxes.starts[:-1])
        self._right_bottom = np.maximum.reduceat(boxes.xyxy[:, 2:], boxes.starts[:-1])

    def __call__(self, one: Int64, other: Int64) -> Bool:
        """(P,) whether the overlap of pairs may be above `least`: they meet somewhere, and neither is much larger."""
        meets = (self._left_top[one] < self._right_bottom[other]) & (self._left_top[other] < self._right_bottom[one])
        volume_one, volume_other = self._volume[one], self._volume[other]
        # The intersection is in the smaller one, the union holds the larger one.
        is_like = np.minimum(volume_one, volume_other) >= np.maximum(volume_one, volume_other) * (self._least - 1e-9)
        shares_ticks = self._first[other] <= self._last[one]
        may: Bool = meets.all(axis=1) & (is_like | ~shares_ticks)
        return may


def _reach(least: float, half_life_s: float) -> int:
    """Across how many ticks a gap may be so that even equal boxes overlap by more than `least`."""
    if least >= 1:
        return 0
    ticks = np.log2(1 / least) * half_life_s / TICK_S if least > 0 else np.inf
    return int(min(ticks, 1 << 40)) + 1


def _portions(sizes: Int64) -> Iterator[slice]:
    """Slices of a list of jobs, each of jobs of MAX_EXPANDED in all, or of a single larger one."""
    start, total = 0, np.cumsum(sizes)
    while start < len(sizes):
        before = int(total[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(total, before + MAX_EXPANDED, side="right")))
        yield slice(start, end)
        start = end


def _volumes(boxes: Boxes, last: Int64, one: Int64, other: Int64) -> Float64:
    """Volume overlap of pairs that share ticks; the first of each pair begins first."""
    begin, end = boxes.first[other], np.minimum(last[one], last[other]) + 1
    counts = end - begin
    pair = np.repeat(np.arange(len(one)), counts)
    within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    in_one = (boxes.starts[one] + begin - boxes.first[one])[pair] + within
    in_other = boxes.starts[other][pair] + within
    shared = np.bincount(pair, _intersection(boxes.xyxy[in_one], boxes.xyxy[in_other]), minlength=len(one))
    volume = np.add.reduceat(_area(boxes.xyxy), boxes.starts[:-1]) if len(boxes.rows) else np.zeros(0)
    union = volume[one] + volume[other] - shared
    return np.divide(shared, union, out=np.zeros(len(one)), where=union > 0)


def _intersection(a: Float32, b: Float32) -> Float64:
    size = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).astype(np.float64)
    area: Float64 = size[:, 0] * size[:, 1]
    return area


def _area(xyxy: Float32) -> Float64:
    return _intersection(xyxy, xyxy)
