"""Which videos are copies of each other, found by their tracks alone, wherever in the other one a copy begins.

As recordings are told by pairs of peaks in their spectra (Wang, An Industrial-Strength Audio Search Algorithm, ISMIR
2003), so are videos by pairs of tracks that start soon after each other. The key of a pair is made of the classes and
first boxes of both and of the time between their starts. A trimmed start, an intro or other spans change none of these;
where a track ends, they often do, so lengths are no part of it. Two videos with pairs of one key, at one offset of
their clocks, are candidates, which are then compared track by track.

A box is its place in the picture, in units of √(frame width × height), so a copy may be of another resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trackverse.boxes import iou_of_pairs
from trackverse.pairs import ranges
from trackverse.track_table import TrackTable
from trackverse.types import Bool, Float16, Float32, Float64, Int64, UInt64
from trackverse.vectors import cosines

Looks = Callable[[Int64], Float16]  # of rows (N,) of the table, (N, D): NaN where a track has none

MIN_TWINS = 2
# So many ends of tracks must agree: those of two whole tracks, or one of each of four.
MIN_ENDS = 4
# Without looks, so many tracks must agree at both ends: videos of a few shots, of a person in the middle of the picture
# each, agree in less by chance.
MIN_WHOLE = 5
# Starts and ends of the same object in a video and in its copy were found to be one or two frames of 1/10 s apart if
# they weren't missed altogether, so are offsets that are computed from them.
TIME_S = 0.5
MIN_IOU = 0.5  # of the boxes of twins at the end that they share
# Of tracks in street scenes encoded twice, twins had a cosine of 0.9 or more in three cases of four, others of one
# class in one of ten.
MIN_COSINE = 0.9

# Two grids, each shifted by half a cell against the other: what is near shares a cell in one of them, or nearly so.
SHIFTS = (0.25, 0.75)  # and not 0: the starts of two tracks that begin together may come in either order
CENTRE_CELL = 0.25
SIZE_CELL = 0.5  # of the logarithm of width and height
APART_CELL_S = 0.5
NUM_PARTNERS = 4  # how many of the next tracks each is paired with
NUM_OFFSETS = 3  # that two videos are compared at: tracks that begin with each segment may outvote the true one
NUM_NEXT = 4  # with how many of those that share a key each is compared: many copies, or a common key, cost no more
# A candidate needs a hit for each ten tracks of the video that has fewer: copies of a hard scene (small persons, lost
# now and then) had one for each eight or fewer.
MIN_HITS_SHARE = 0.1
NOMINAL_PX = 1280 * 720  # of frames whose size the tracks' layout doesn't tell
BLOCK = 1 << 22  # keys or hits that are looked at together, some 200 MB


@dataclass(frozen=True)
class _Tracks:
    """N tracks sorted by video and start: `rows` (N,) of the table, `videos` (N,), `starts` (V + 1,) of each video,
    `boxes` (N, 2, 4), the first and the last: left, top, right, bottom.
    """

    rows: Int64
    videos: Int64
    starts: Int64
    label_id: Int64
    start_s: Float64
    end_s: Float64
    boxes: Float16

    def of(self, video: int) -> slice:
        return slice(*self.starts[video : video + 2].tolist())


def near_duplicates(table: TrackTable, min_share: float, looks: Looks | None = None) -> Int64:
    """The group (V,) of each video of the table: those of near-duplicates share one.

    Near-duplicates have twins, at one offset of their clocks: at least two, and `min_share` of the tracks of the video
    that has fewer. Of all its tracks, not of those in the stretch of time that both have: with the offset free, there
    is nearly always a short stretch, the end of one video and the beginning of the other, that is alike by chance.
    """
    tracks = _tracks_of(table)
    sizes = np.diff(tracks.starts)
    pairs = [
        (one, other)
        for one, other, offset_s in _candidates(tracks)
        if _is_copy(tracks, one, other, offset_s, min_share * min(sizes[one], sizes[other]), looks)
    ]
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (ends[:, 0], ends[:, 1])), shape=(len(sizes), len(sizes)))
    groups: Int64 = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def _tracks_of(table: TrackTable) -> _Tracks:
    order = np.lexsort((table["end_s"], table["start_s"], table.videos))
    videos = table.videos[order]
    return _Tracks(
        order,
        videos,
        np.searchsorted(videos, np.arange(len(table.video_ids) + 1)),
        table["label_id"][order],
        table["start_s"][order],
        table["end_s"][order],
        _end_boxes(table)[order],
    )


def _end_boxes(table: TrackTable) -> Float16:
    """The first and the last box of each track of the table, (N, 2, 4)."""
    pieces = [np.zeros((0, 2, 4), np.uint16)]
    pieces += [xyxy[np.stack([starts[:-1], starts[1:] - 1], axis=1)] for _, starts, xyxy in table.boxes()]
    px = np.concatenate(pieces)
    if table.order is not None:
        px = px[table.order]
    # The index has no frame sizes, but boxes in px, and as shares of the frame.
    num_videos = len(table.video_ids)
    is_known = table["area"] > 0
    area_px = (px[..., 2:].astype(np.float32) - px[..., :2]).prod(axis=2).mean(axis=1)
    sum_px, sum_shares = (
        np.bincount(table.videos[is_known], values[is_known], num_videos) for values in (area_px, table["area"])
    )
    frame_px = np.full(num_videos, float(NOMINAL_PX))
    np.divide(sum_px, sum_shares, out=frame_px, where=(sum_px > 0) & (sum_shares > 0))
    scale = (1 / np.sqrt(frame_px)).astype(np.float32)
    boxes = np.empty(px.shape, np.float16)
    for start in range(0, len(px), BLOCK):
        part = slice(start, start + BLOCK)
        boxes[part] = px[part] * scale[table.videos[part], None, None]
    return boxes


def _candidates(tracks: _Tracks) -> Iterator[tuple[int, int, float]]:
    """Two videos and how many seconds later than in the one things start in the other; of a pair, NUM_OFFSETS times."""
    found = [np.zeros(0, np.uint64), *_hits(tracks)]
    hits = np.concatenate(found)
    found.clear()
    hits.sort()
    bounds = np.searchsorted(hits, tracks.starts.astype(np.uint64) << np.uint64(32))
    sizes = np.diff(tracks.starts)
    video = 0
    while video < len(sizes):
        stop = max(video + 1, int(np.searchsorted(bounds, bounds[video] + BLOCK, side="right")) - 1)
        some = np.unique(hits[bounds[video] : bounds[stop]])
        one, other = (some >> np.uint64(32)).astype(np.int64), (some & np.uint64(0xFFFFFFFF)).astype(np.int64)
        a, b = tracks.videos[one], tracks.videos[other]
        for at, votes in _best_offsets(a * len(sizes) + b, offsets_s := tracks.start_s[other] - tracks.start_s[one]):
            at = at[votes >= MIN_HITS_SHARE * np.minimum(sizes[a[at]], sizes[b[at]])]
            yield from zip(a[at].tolist(), b[at].tolist(), offsets_s[at].tolist(), strict=True)
        video = stop


def _best_offsets(pairs: Int64, offsets_s: Float64) -> Iterator[tuple[Int64, Int64]]:
    """Of M hits of pairs of videos: for each pair, the hit in the middle of the `TIME_S` that most hits' offsets are
    in, and how many these are; then the same of the other hits, NUM_OFFSETS times in all.
    """
    left = np.lexsort((offsets_s, pairs))
    for _ in range(NUM_OFFSETS if len(left) else 0):
        number = np.cumsum(np.diff(pairs[left], prepend=pairs[left[:1]]) != 0)
        ordered = offsets_s[left]
        place = number * (np.ptp(ordered) + 2 * TIME_S) + ordered  # one line, on which pairs are far from each other
        votes = np.searchsorted(place, place + TIME_S, side="right") - np.arange(len(place))
        by_votes = np.lexsort((votes, number))
        best = by_votes[np.flatnonzero(np.diff(number, append=-1) != 0)]
        middle = best + votes[best] // 2
        yield left[middle], votes[best]
        left = left[np.abs(ordered - ordered[middle][number]) > TIME_S]
        if not len(left):
            break


def _hits(tracks: _Tracks) -> Iterator[UInt64]:
    """Twins that begin pairs of one key in two videos: numbers a × 2³² + b (M,), rows a < b, some several times."""
    for shift in SHIFTS:
        own = _own_keys(tracks, shift)
        keys, bits = _sorted_keys(tracks, own, shift)
        for begin in range(0, len(keys), BLOCK):
            block = keys[begin : begin + BLOCK + NUM_NEXT]
            slots = _shuffled(block, bits, back=True).astype(np.int64)
            block = block >> np.uint64(bits)  # not in place: the next block begins in this one
            for apart in range(1, NUM_NEXT + 1):
                at = np.flatnonzero(block[apart:][:BLOCK] == block[:-apart][:BLOCK])
                one, one_mate = _pair_at(slots[at], own)
                other, other_mate = _pair_at(slots[at + apart], own)
                is_hit = tracks.videos[one] != tracks.videos[other]
                is_hit &= _is_there(tracks, one, other, 0) & _is_there(tracks, one_mate, other_mate, 0)
                one, other = one[is_hit].astype(np.uint64), other[is_hit].astype(np.uint64)
                yield np.minimum(one, other) << np.uint64(32) | np.maximum(one, other)


def _own_keys(tracks: _Tracks, shift: float) -> UInt64:
    """A hash (N,) of each track's class and of the cell of its first box."""
    keys = _mixed(tracks.label_id.astype(np.uint64))
    for axis in (0, 1):
        low, high = (tracks.boxes[:, 0, side].astype(np.float32) for side in (axis, axis + 2))
        centre, size = (low + high) / 2, np.log(np.maximum(high - low, 1e-3))
        keys = _with_cell(keys, centre / CENTRE_CELL + shift)
        keys = _with_cell(keys, size / SIZE_CELL + shift)
    return keys


def _sorted_keys(tracks: _Tracks, own: UInt64, shift: float) -> tuple[UInt64, int]:
    """The keys (P,) of all pairs, sorted; their lowest bits, as many as the second number says, are the pair's slot
    (row × NUM_PARTNERS + how many rows later its other track is - 1), shuffled.
    """
    number = len(tracks.rows)
    bits = (number * NUM_PARTNERS).bit_length()
    firsts = [np.flatnonzero(tracks.videos[step:] == tracks.videos[:-step]) for step in range(1, NUM_PARTNERS + 1)]
    keys = np.empty(sum(map(len, firsts)), np.uint64)
    end = 0
    for step in range(NUM_PARTNERS):
        rows = firsts.pop(0)
        for begin in range(0, len(rows), BLOCK):
            slots = rows[begin : begin + BLOCK] * NUM_PARTNERS + step
            one, mate = _pair_at(slots, own)
            apart_s = tracks.start_s[mate] - tracks.start_s[one]
            key = _with_cell(_mixed(own[one]) + own[mate], apart_s / APART_CELL_S + shift)
            keys[end : end + len(slots)] = (key >> np.uint64(bits) << np.uint64(bits)) | _shuffled(slots, bits)
            end += len(slots)
    keys.sort()
    return keys, bits


def _shuffled(slots: Int64 | UInt64, bits: int, *, back: bool = False) -> UInt64:
    """Other numbers of so many bits, and back. So who is next to whom among those of a key differs from key to key."""
    odd = 0x9E3779B97F4A7C15
    factor = pow(odd, -1, 1 << bits) if back else odd
    return slots.astype(np.uint64) * np.uint64(factor) & np.uint64((1 << bits) - 1)


def _pair_at(slots: Int64, own: UInt64) -> tuple[Int64, Int64]:
    """The two tracks of pairs, ordered by their hashes: by their starts, noise would swap those that begin together."""
    first = slots // NUM_PARTNERS
    second = first + slots % NUM_PARTNERS + 1
    is_swapped = own[first] > own[second]
    return np.where(is_swapped, second, first), np.where(is_swapped, first, second)


def _with_cell(keys: UInt64, values: Float32 | Float64) -> UInt64:
    return _mixed(keys + np.floor(values).astype(np.int64).astype(np.uint64))


def _mixed(keys: UInt64) -> UInt64:
    """Hashes (N,) of numbers: the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _is_copy(tracks: _Tracks, one: int, other: int, offset_s: float, least_twins: float, looks: Looks | None) -> bool:
    """Whether two videos are near-duplicates, if things start `offset_s` later in the other one.

    Twins start or end together, with the same box there, and their looks are alike. Where they were cut, the other end
    may be anything. If looks are missing, some tracks must agree at both ends.
    """
    rows = [_together(tracks, tracks.of(one), tracks.of(other), offset_s, end) for end in (0, 1)]
    pairs, num_ends = np.unique(np.concatenate(rows, axis=1), axis=1, return_counts=True)
    least_twins = max(least_twins, MIN_TWINS)
    if _num_tracks(pairs) < least_twins:
        return False
    alike = _cosines(looks, tracks, *pairs) if looks else None
    if alike is None or np.isnan(alike).any():
        return _num_tracks(pairs[:, num_ends == 2]) >= MIN_WHOLE
    is_twin = alike >= MIN_COSINE
    num_twins, num_whole = (_num_tracks(pairs[:, is_twin & (num_ends >= ends)]) for ends in (1, 2))
    return num_twins >= least_twins and num_twins + num_whole >= MIN_ENDS


def _num_tracks(pairs: Int64) -> int:
    """How many tracks of either video are in pairs (2, M)."""
    return min(len(np.unique(rows)) for rows in pairs)


def _together(tracks: _Tracks, one: slice, other: slice, offset_s: float, end: int) -> Int64:
    """(2, M) pairs of tracks of two videos that start (`end` 0) or end (1) together, with the same box."""
    times_s = (tracks.start_s, tracks.end_s)[end]
    wanted, there = times_s[one] + offset_s, times_s[other]
    order = np.argsort(there, kind="stable")
    first = np.searchsorted(there[order], wanted - TIME_S)
    last = np.searchsorted(there[order], wanted + TIME_S, side="right")
    found = [np.zeros((2, 0), np.int64)]
    for row, place in ranges(first, last):
        rows, others = one.start + row, other.start + order[place]
        is_there = _is_there(tracks, rows, others, end)
        found.append(np.stack([rows[is_there], others[is_there]]))
    return np.concatenate(found, axis=1)


def _is_there(tracks: _Tracks, one: Int64, other: Int64, end: int) -> Bool:
    """(M,) whether two tracks are of one class and their boxes at the one end are the same."""
    a, b = (tracks.boxes[rows, end].astype(np.float32) for rows in (one, other))
    is_there: Bool = (tracks.label_id[one] == tracks.label_id[other]) & (iou_of_pairs(a, b) >= MIN_IOU)
    return is_there


def _cosines(looks: Looks, tracks: _Tracks, one: Int64, other: Int64) -> Float32:
    """(M,) of the looks of tracks; NaN where one has none."""
    (one, i), (other, j) = (np.unique(rows, return_inverse=True) for rows in (one, other))
    a, b = (looks(tracks.rows[rows]).astype(np.float32) for rows in (one, other))
    return cosines(a, i, b, j)
