"""Row numbers of pairs and of stretches; of pairs some at a time, so that memory doesn't grow with their square."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trackverse.types import Float64, Int64

BLOCK_PAIRS = 1 << 13  # what is made of them stays in the cache
PIXEL_LIMIT = 1 << 15  # what lies beyond is as near as that


def end_to_end(counts: Int64) -> tuple[Int64, Int64]:
    """Of stretches of `counts` (K,) places, one after the other: the stretch (P,) of each place, and its place (P,) in
    there.
    """
    stretch = np.repeat(np.arange(len(counts)), counts)
    return stretch, np.arange(len(stretch)) - (np.cumsum(counts) - counts)[stretch]


def beside(frame_of: Int64, left: Float64, right: Float64, rows: Int64) -> Iterator[tuple[Int64, Int64]]:
    """All pairs of one of the `rows` (K,) and any row of the same frame whose box isn't wholly to the left or to the
    right of its own, itself too, as (P,), (P,), in portions. There are some more: of those that miss it by less than
    the widest box. `frame_of`, `left` and `right` (T,).
    """
    low, high = (np.clip(edge, -PIXEL_LIMIT, PIXEL_LIMIT).astype(np.int64) for edge in (left, right))
    widest = int((high - low).max())
    # The frames lie side by side, too far from each other for a box to reach into the next.
    frame_low = (4 * PIXEL_LIMIT + 1) * frame_of
    by_left = np.argsort(frame_low + low)
    start = (frame_low + low)[by_left]
    nearest, furthest = (frame_low + low)[rows] - widest, (frame_low + high)[rows]
    for k, place in ranges(np.searchsorted(start, nearest), np.searchsorted(start, furthest, side="right")):
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
