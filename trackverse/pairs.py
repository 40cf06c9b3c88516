"""Row numbers of pairs and of stretches; of pairs some at a time, so that memory doesn't grow with their square."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trackverse.types import Float32, Float64, Int64

BLOCK_PAIRS = 1 << 13  # what is made of them stays in the cache
PIXEL_LIMIT = 32_000  # what lies beyond is as near as that, which errs on the safe side
APART_PX = 4 * PIXEL_LIMIT + 1  # from one group of boxes to the next: too far for a box to reach into it

Int16 = npt.NDArray[np.int16]


def end_to_end(counts: Int64) -> tuple[Int64, Int64]:
    """Of stretches of `counts` (K,) places, one after the other: the stretch (P,) of each place, and its place (P,) in
    there.
    """
    stretch = np.repeat(np.arange(len(counts)), counts)
    return stretch, np.arange(len(stretch)) - (np.cumsum(counts) - counts)[stretch]


def whole_pixels(edges: Float32 | Float64) -> Int16:
    """Edges of many boxes, px: three times as fast to compare in 16 bits, and six times as fast to sort."""
    return np.minimum(np.maximum(edges, -PIXEL_LIMIT), PIXEL_LIMIT).astype(np.int16)


def in_reach(
    left: Int16, right: Int16, group: Int64, other_left: Int16, other_right: Int16, other_group: Int64
) -> tuple[Int64, Int64, Int64]:
    """The numbers (M,) of M other boxes in an order in which, for each of N boxes, those of its group that aren't
    wholly to the left or to the right of it lie from `first` (N,) to before `end` (N,). Some more lie there: of those
    that miss it by less than the widest of them. Edges in whole px. Returns order, first and end.
    """
    by_left = np.lexsort((other_left, other_group.astype(np.min_scalar_type(other_group.max(initial=0)))))
    shift, start = APART_PX * group, (other_left + APART_PX * other_group).take(by_left)  # the groups lie side by side
    widest = np.subtract(other_right, other_left, dtype=np.int64).max(initial=0)
    return by_left, start.searchsorted(left + shift - widest), start.searchsorted(right + shift, side="right")


def beside(frame_of: Int64, left: Float64, right: Float64, rows: Int64) -> Iterator[tuple[Int64, Int64]]:
    """All pairs of one of the `rows` (K,) and any row of the same frame whose box isn't wholly to the left or to the
    right of its own, itself too, as (P,), (P,), in portions; and some more, see `in_reach`. `frame_of`, `left` and
    `right` (T,).
    """
    low, high = whole_pixels(left), whole_pixels(right)
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
