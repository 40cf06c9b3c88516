"""Row numbers of pairs and of stretches; of pairs some at a time, so that memory doesn't grow with their square."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from trackverse.types import Float32, Float64, Int64

BLOCK_PAIRS = 1 << 13  # what is made of them stays in the cache
# What lies beyond is as near as that, which errs on the safe side. So that whole pixels have 16 bits: see `boxes.py`.
PIXEL_LIMIT = 32_000
APART_PX = 4 * PIXEL_LIMIT + 1  # from one group of boxes to the next: too far for a box to reach into it

Edges = TypeVar("Edges", Float32, Float64, Int64)


def end_to_end(counts: Int64) -> tuple[Int64, Int64]:
    """Of stretches of `counts` (K,) places, one after the other: the stretch (P,) of each place, and its place (P,) in
    there.
    """
    stretch = np.repeat(np.arange(len(counts)), counts)
    return stretch, np.arange(len(stretch)) - (np.cumsum(counts) - counts)[stretch]


def in_reach(
    left: Edges, right: Edges, group: Int64, other_left: Edges, other_right: Edges, other_group: Int64
) -> tuple[Int64, Int64, Int64]:
    """The numbers (M,) of M other boxes in an order in which, for each of N boxes, those of its group that aren't
    wholly to the left or to the right of it lie from `first` (N,) to before `end` (N,). Some more lie there: of those
    that miss it by less than the widest of them. Edges in px, within `PIXEL_LIMIT`. Returns order, first and end.
    """
    shift, start = APART_PX * group, other_left + APART_PX * other_group  # the groups lie side by side
    by_left = start.argsort()
    start = start.take(by_left)
    widest = (other_right - other_left).max(initial=0)
    return by_left, start.searchsorted(left + shift - widest), start.searchsorted(right + shift, side="right")


def beside(frame_of: Int64, left: Float64, right: Float64, rows: Int64) -> Iterator[tuple[Int64, Int64]]:
    """All pairs of one of the `rows` (K,) and any row of the same frame whose box isn't wholly to the left or to the
    right of its own, itself too, as (P,), (P,), in portions; and some more, see `in_reach`. `frame_of`, `left` and
    `right` (T,).
    """
    # In whole pixels, which are sorted faster.
    low, high = (np.clip(edge, -PIXEL_LIMIT, PIXEL_LIMIT).astype(np.int64) for edge in (left, right))
    by_left, first, end = in_reach(low[rows], high[rows], frame_of[rows], low, high, frame_of)
    for k, place in ranges(first, end):
        yield rows[k], by_left[place]


def ranges(first: Int64, end: Int64) -> Iterator[tuple[Int64, Int64]]:
    """All pairs (P,), (P,) of a number k and one of the numbers from `first[k]` to before `end[k]`, both (K,), in
    portions: `BLOCK_PAIRS` at most, or those of a single k that has more.
    """
    num = end - first
    for part in portions(num, BLOCK_PAIRS):
        k = np.repeat(np.arange(part.start, part.stop), num[part])
        yield k, np.arange(len(k)) + np.repeat(end[part] - np.cumsum(num[part]), num[part])


def portions(sizes: Int64, max_size: int) -> Iterator[slice]:
    """Slices of a list of jobs of these sizes (K,): each of `max_size` in all at most, or of a single larger one."""
    start, total = 0, np.cumsum(sizes)
    while start < len(sizes):
        before = int(total[start - 1]) if start else 0
        end = max(int(np.searchsorted(total, before + max_size, side="right")), start + 1)
        yield slice(start, end)
        start = end
