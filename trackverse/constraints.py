"""What a track must be to be chosen at all, and what two tracks must be to be chosen together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from trackverse.curate import GATHER_BYTES, Embeddings
from trackverse.overlaps import Overlaps
from trackverse.track_table import TrackTable
from trackverse.types import ROUNDING_S, Bool, Float32, Int64, UInt8

MAX_PAIRS = 1 << 18  # of tracks near in time that are compared before any is chosen, for each video
LOOSER = (1.0, 0.5, 0.0)  # how much of a limit is left at each step of relaxing


@dataclass(frozen=True)
class Limits:
    """None, or an empty list, asks for nothing.

    `min_length` s from first to last frame, `min_area` mean box as a share of the frame, `min_motion` in box sizes a
    second. Of two tracks of a video `max_overlap`, see `Overlaps`; of two of a class `min_distance`, Euclidean, of
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

        overlap = None
        if self.max_overlap is not None and share:
            overlap = self.max_overlap + (1 - self.max_overlap) * (1 - share)  # to the last bit the same for share 1
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
        length_s = table["end_s"] - table["start_s"]
        refuse(f"shorter than {limits.min_length:g} s", length_s < limits.min_length - ROUNDING_S)
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
        self._crowds: dict[int, Overlaps] = {}  # by video
        self._taken: list[int] = []
        self._blocked: set[int] = set()
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
            self._find_overlaps(self._limits.max_overlap)
            for row in self._taken:
                self._blocked.update(self.blocked_by(row).tolist())
        if self._alike is not None:
            self._alike.prepare(rows)

    def _find_overlaps(self, max_overlap: float) -> None:
        """The pairs of most videos are few, and found together, fastest. Where tracks crowd, pairs are as many as the
        square of their number: there, each track is compared with the others only once it is taken."""
        pairs = [np.zeros((0, 2), np.int64)]
        for boxes in self._table.boxes_of(self._rows):
            if len(boxes.rows) > 1:
                overlaps = Overlaps(boxes, max_overlap, self._limits.half_life_s)
                if overlaps.num_near > MAX_PAIRS:
                    self._crowds[int(self._table.videos[boxes.rows[0]])] = overlaps
                else:
                    pairs.append(overlaps.pairs())
        self._near = _Pairs(np.concatenate(pairs))

    def why_not(self, row: int) -> str | None:
        """Why the row can't be taken any more; None if it can. The reason is noted in `refused`."""
        reason = None
        if row in self._blocked:
            reason = f"overlaps a chosen track by more than {self._limits.max_overlap:g}"
        elif self._alike is not None:
            reason = self._alike.why_not(row)
        if reason:
            self.refused[row] = reason
        return reason

    def took(self, row: int) -> None:
        """The row is chosen now."""
        self._taken.append(row)
        self._blocked.update(self.blocked_by(row).tolist())
        if self._alike is not None:
            self._alike.took(row)

    def blocked_by(self, row: int) -> Int64:
        """The rows that overlap this one too much."""
        crowd = self._crowds.get(int(self._table.videos[row]))
        return self._near.of(row) if crowd is None else crowd.of(row)


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
