"""What a track must be to be chosen at all, and what two tracks must be to be chosen together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from trackverse.curate import Boxes, Embeddings, TrackTable
from trackverse.ticks import TICK_S
from trackverse.types import Bool, Float32, Float64, Int64, UInt8

MAX_EXPANDED = 1 << 21  # boxes of pairs that are compared at once: a hundred MB
LOOSER = (1.0, 0.5, 0.0)  # how much of a limit is left at each step of relaxing


@dataclass(frozen=True)
class Limits:
    """None, or an empty list, asks for nothing.

    `min_length` s from first to last frame, `min_area` mean box as a share of the frame, `min_motion` in box sizes a
    second. Of two tracks of a video `max_overlap`, see `overlaps`; of two of a class `min_distance`, Euclidean, of
    their embeddings of length 1.
    """

    min_motion: float | None = None
    max_overlap: float | None = None
    min_distance: float | None = None
    min_length: float | None = None
    min_area: float | None = None
    half_life_s: float = 2.0
    classes: tuple[str, ...] = ()
    exclude_videos: frozenset[str] = frozenset()

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


class Apart:
    """Keeps tracks apart that overlap too much or look too much alike. It remembers what was taken, and why not."""

    def __init__(self, table: TrackTable, limits: Limits, candidates: Int64, embeddings: Embeddings | None) -> None:
        self.refused: dict[int, str] = {}
        self._limits, self._embeddings = limits, embeddings
        self._labels = table["label_id"] if limits.min_distance is not None else np.zeros(0, np.int64)
        self._near: dict[int, list[int]] = defaultdict(list)
        self._overlapped: set[int] = set()
        self._taken: dict[int, list[Float32]] = defaultdict(list)
        if limits.max_overlap is not None:
            for one, other in overlapping(table, candidates, limits.max_overlap, limits.half_life_s):
                self._near[one].append(other)
                self._near[other].append(one)

    def why_not(self, row: int) -> str | None:
        """Why the row can't be taken any more; None if it can. The reason is noted in `refused`."""
        reason = self._why_not(row)
        if reason:
            self.refused[row] = reason
        return reason

    def _why_not(self, row: int) -> str | None:
        if row in self._overlapped:
            return f"overlaps a chosen track by more than {self._limits.max_overlap:g}"
        if self._limits.min_distance is None:
            return None
        assert self._embeddings is not None
        point = self._embedding(row)
        if np.isnan(point).any():
            return "no embedding"
        taken = self._taken[int(self._labels[row])]
        if taken and np.linalg.norm(np.stack(taken) - point, axis=1).min() < self._limits.min_distance:
            return f"nearer than {self._limits.min_distance:g} to a chosen track of its class"
        return None

    def took(self, row: int) -> None:
        """The row is chosen now."""
        self._overlapped.update(self._near.get(row, ()))
        if self._limits.min_distance is not None:
            self._taken[int(self._labels[row])].append(self._embedding(row))

    def blocked_by(self, row: int) -> Int64:
        """The rows that overlap this one too much."""
        return np.array(self._near.get(row, ()), np.int64)

    def _embedding(self, row: int) -> Float32:
        assert self._embeddings is not None
        point: Float32 = self._embeddings(np.array([row]))[0].astype(np.float32)
        return point


def overlapping(table: TrackTable, rows: Int64, max_overlap: float, half_life_s: float) -> Iterator[tuple[int, int]]:
    """The pairs of the given rows, of one video each, whose overlap is above `max_overlap`."""
    for boxes in table.boxes_of(rows):
        one, other, overlap = overlaps(boxes, max_overlap, half_life_s)
        is_too_much = overlap > max_overlap
        yield from zip(boxes.rows[one[is_too_much]].tolist(), boxes.rows[other[is_too_much]].tolist(), strict=True)


def overlaps(boxes: Boxes, least: float, half_life_s: float) -> tuple[Int64, Int64, Float64]:
    """Pairs of tracks of one video, as two row numbers and their overlap, all that may exceed `least` among them.

    Two tracks that share ticks: the volume of the intersection of their boxes over that of the union, through all ticks
    that either has. Two that don't: the IoU of the earlier one's last box and the later one's first, halved for every
    `half_life_s` of the gap between these.
    """
    last = boxes.first + np.diff(boxes.starts) - 1
    order = np.argsort(boxes.first, kind="stable")
    reach = _reach(least, half_life_s)
    ends = np.searchsorted(boxes.first[order], last[order] + reach, side="right")
    numbers = np.arange(len(order))
    counts = np.maximum(ends - numbers - 1, 0)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for part in _portions(counts * np.maximum(last - boxes.first + 1, 1)[order]):
        one = np.repeat(numbers[part], counts[part])
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        one, other = order[one], order[other]
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
