"""Whole tracks, when it is known which parts and which strays are one object: short gaps filled, boxes smoothed, class
scores and looks put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from trackverse import boxes, pairs, smoothing
from trackverse.strays import Seen
from trackverse.sway import Sway
from trackverse.types import Bool, Float32, Float64, Int64, Track
from trackverse.vectors import let_go


def whole_tracks(
    chains: Sequence[Sequence[Track]],
    embeddings: Float32,
    seen: Seen,
    stray_class_scores: Float32 | None,
    sway: Sway,
    *,
    max_blink_s: float,
    max_fill_gap_s: float,
    min_hidden_share: float,
) -> Iterator[Track]:
    """The tracks of N chains of parts, each one object's, of these `embeddings` (N, D); by the time they start, one at
    a time, so that the class scores of only one need be in memory. `seen`: where they are seen, the strays among it,
    the class scores (S, C) of all of which lie in a file. For the limits, see `RefineConfig`.
    """
    seen, by_start = _by_start(seen, len(chains))
    times_s, chain_of, xyxy, new = _filled(seen, sway.times_s, max_blink_s, max_fill_gap_s, min_hidden_share)
    xyxy = sway.put_on(xyxy, times_s)
    scores, stray = smoothing.scores_of(seen.scores, new), np.full(len(new), -1)
    stray[~new] = seen.stray
    ends = pairwise(np.searchsorted(chain_of, np.arange(len(chains) + 1)).tolist())
    for n, (start, stop) in zip(by_start.tolist(), ends, strict=True):
        parts, own = chains[n], slice(start, stop)
        logits = _class_scores(parts, new[own], stray[own], stray_class_scores)
        looks = np.concatenate([part.looks for part in parts])
        weights = np.concatenate([part.look_weights for part in parts])
        let_go(parts[0].looks)
        own_columns = (times_s[own], xyxy[own], scores[own], logits)
        yield Track(*own_columns, embeddings[n], looks, new[own], weights, parts[0].look_frames)


def _by_start(seen: Seen, num_chains: int) -> tuple[Seen, Int64]:
    """All detections, those of a chain in the order of time, and the chains by the time they start; and the numbers
    (N,) of these, as they are numbered anew.
    """
    num_frames = seen.frame.max() + 1
    start = np.full(num_chains, num_frames)
    np.minimum.at(start, seen.chain, seen.frame)
    by_start = start.argsort(kind="stable")
    chain = by_start.argsort().take(seen.chain)
    order = np.argsort(chain * num_frames + seen.frame, kind="stable")
    xyxy = seen.xyxy.take(order, axis=0)
    return Seen(chain[order], seen.frame[order], xyxy, seen.scores[order], seen.stray[order]), by_start


def _filled(
    seen: Seen, frame_times_s: Float64, max_blink_s: float, max_fill_gap_s: float, min_hidden_share: float
) -> tuple[Float64, Int64, Float32, Bool]:
    """Times, chains, boxes and marks of interpolation of all tracks, filled and smoothed."""
    frame, xyxy, chain, new = smoothing.fill(frame_times_s, seen.frame, seen.xyxy, seen.chain, max_fill_gap_s)
    may = _may_be_filled(frame_times_s[frame], frame, xyxy, new, max_blink_s, min_hidden_share)
    kept = np.flatnonzero(~new | may)
    frame, xyxy, chain, new = frame[kept], xyxy.take(kept, axis=0), chain[kept], new[kept]
    return frame_times_s[frame], chain, smoothing.smoothed_boxes(frame_times_s, frame, xyxy, chain, new), new


def _may_be_filled(
    times_s: Float64, frame_of: Int64, xyxy: Float64, new: Bool, max_blink_s: float, min_hidden_share: float
) -> Bool:
    """(T,): interpolated boxes of a gap that is short, or in which the object is hidden."""
    # gap n lies between the n-th detection and the one before
    seen, gap_of = np.flatnonzero(~new), np.cumsum(~new, dtype=np.int64)
    gap_s = times_s[seen[np.minimum(gap_of, len(seen) - 1)]] - times_s[seen[gap_of - 1]]
    long = np.flatnonzero(new & (gap_s > max_blink_s))
    edges, hidden = np.ascontiguousarray(xyxy.T), np.zeros(len(new))
    for rows, beside in pairs.beside(frame_of, edges[0], edges[2], long):
        known = np.flatnonzero(~new.take(beside))
        rows, beside = rows.take(known), beside.take(known)
        np.maximum.at(hidden, rows, boxes.common_area(edges.take(rows, axis=1), edges.take(beside, axis=1)))
    hidden = hidden[long] / boxes.area(xyxy[long])
    num_hidden, num = (np.bincount(gap_of[long], weights, len(seen) + 1) for weights in (hidden, None))
    shares = num_hidden / np.maximum(num, 1)
    may: Bool = new & (gap_s <= max_blink_s)
    may[long] = shares[gap_of[long]] >= min_hidden_share
    return may


def _class_scores(parts: Sequence[Track], new: Bool, stray: Int64, stray_class_scores: Float32 | None) -> Float32:
    """(T, C) of the track of all parts: 0 in the frames that are `new` (T,), and where there is a `stray` (T,), its."""
    if len(parts[0]) == len(new):
        return parts[0].logits
    scores, is_stray = np.zeros((len(new), parts[0].logits.shape[1]), np.float32), stray >= 0
    scores[~(new | is_stray)] = np.concatenate([part.logits for part in parts])
    let_go(parts[0].logits)
    if stray_class_scores is not None and is_stray.any():
        scores[is_stray] = stray_class_scores[stray[is_stray]]
        let_go(stray_class_scores)
    return scores
