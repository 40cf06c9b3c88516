"""A second look at the tracks of a whole shot, when it is over: what the online pass could not know.

    tracks = refine(tracks, RefineConfig(), frame_times_s=times_s)

1. A track that lies on another one nearly all the time is a duplicate, and goes.
2. Where a track's look changes for good, it has slipped to another object, and is cut there. So is a track where going
   through its detections backward in time contradicts it, unless its looks say that it is one object.
3. Tracks that are one object are joined: by motion, size, look, class, the time between them and what either direction
   of time made of them. The evidence is summed up as log likelihood ratios, the best set of successors is found for all
   tracks at once (an assignment with the least cost), and what was joined is looked at anew, with all its boxes and
   looks together, until nothing changes.
4. What was seen for a few frames only, or doubted nearly all the time, goes.
5. Short gaps are filled, and boxes smoothed, as much as the clip's boxes jitter.

The clip that the tracks come from is taken to be one shot: the stages track one shot at a time, so nothing is ever
joined across a cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from trackverse import boxes, cutting, looks, motion, smoothing
from trackverse.cutting import Links
from trackverse.looks import LookModel
from trackverse.motion import Ends, Scene
from trackverse.types import Bool, Float32, Float64, Int64, Track
from trackverse.vectors import let_go, unit

# Pairs of tracks are gone through this many at a time, so that memory doesn't grow with their square.
BLOCK_PAIRS = 1 << 20
BLOCK_ROWS = 1 << 13  # likewise, of boxes that are compared with all others of their frame
# Only what was seen for this many looks (a second at 16 frames/s) is known again after long: slips of the detector that
# happen to look alike would make long tracks of a few frames.
MIN_LONG_LOOKS = 2
ROUNDING_S = 1e-6
# Nats for a link that one direction of time made where the other one didn't. By boxes alone, the online pass was right
# in a quarter to two thirds of the cases, by looks in three quarters; 0.5 to 1.5 do equally well, of both directions.
# Backward, no looks are used: where there are, they know better.
ONE_WAY_EVIDENCE = 1.0
# Of a box's width; nearer than that to a side of the frame, its object is leaving or coming in.
SIDE_SHARE = 0.1
# What was seen for less than this is a slip of the detector: five frames at most, and two where frames come rarely, as
# for ByteTrack, which confirms in a second one.
MIN_SEEN_S, MIN_SEEN, ENOUGH_SEEN = 0.5, 2, 5
MAX_BLINK = 2  # frames that a detector misses now and then, however rarely they come


@dataclass(frozen=True)
class RefineConfig:
    """Limits of the second pass. Kept when `>=`.

    `min_join_evidence`: from this log likelihood ratio on, two tracks are one object. Where one ends and one begins,
    an object may have left and another one come: 1.5 stands for prior odds of 2 : 9, and they fall further with the
    number of tracks that begin in a second.
    `min_cut_evidence`: a track is cut where the evidence against its being one object is this large.
    `max_join_gap_s`: longest time out of sight; where looks are few there is only motion, which says little after
    `max_blind_gap_s`.
    `max_blink_s`: gaps up to this long are filled, and those of `MAX_BLINK` frames; longer ones, up to
    `max_fill_gap_s`, where other objects would hide this one, by `min_hidden_share` of it in the mean: what isn't
    detected in full view is not where a line has it.
    `min_duplicate_iou`, `min_duplicate_share`: a duplicate overlaps that much in that share of its frames.
    `min_sure_share`: of the detections of a track, this many are confident; a lamp post that a detector takes for a
    person is doubted nearly all the time, an occluded person a half of it.
    `min_class_cosine`: classes whose scores over the tracks are further apart contradict each other.
    """

    min_join_evidence: float = 1.5
    min_cut_evidence: float = 6.0
    max_join_gap_s: float = 30.0
    max_blind_gap_s: float = 3.0
    max_blink_s: float = 0.3
    max_fill_gap_s: float = 1.0
    min_hidden_share: float = 0.7
    min_duplicate_iou: float = 0.8
    min_duplicate_share: float = 0.8
    min_sure_share: float = 1 / 3
    min_class_cosine: float = 0.5


def refine(
    tracks: Sequence[Track],
    config: RefineConfig,
    *,
    frame_times_s: Float64 | None = None,
    sure_score: float = 0.0,
    frame_width: float = np.inf,
) -> list[Track]:
    """The tracks of a shot after a second look, by the time they start.

    `frame_times_s`: of all frames that were looked at; without, those in which any track was seen. `sure_score`: from
    this score on, a detection is confident. `frame_width`: px; who leaves at its sides and comes back after more than
    `max_blind_gap_s` is a new track.
    """
    return list(refined(tracks, config, frame_times_s=frame_times_s, sure_score=sure_score, frame_width=frame_width))


def refined(
    tracks: Sequence[Track],
    config: RefineConfig,
    *,
    frame_times_s: Float64 | None = None,
    sure_score: float = 0.0,
    frame_width: float = np.inf,
) -> Iterator[Track]:
    """As `refine`, one track at a time, so that the class scores of only one need be in memory."""
    tracks = [cutting.seen(track) for track in tracks if not track.interpolated.all()]
    if not tracks:
        return
    tracks = [tracks[n] for n in np.flatnonzero(~_is_duplicate(tracks, config))]
    model = _look_model(tracks)
    tracks, links = cutting.cut(
        tracks,
        model,
        sure_score=sure_score,
        min_cut_evidence=config.min_cut_evidence,
        min_join_evidence=config.min_join_evidence,
    )
    pieces = _Pieces.of(tracks, frame_width, links)
    seen_s = np.unique(np.concatenate([track.times_s for track in tracks]))
    frame_times_s = seen_s if frame_times_s is None else np.union1d(frame_times_s, seen_s)
    min_seen = fewest_seen(frame_times_s)
    chains = []
    for chain in _chains(pieces, model, config):
        is_sure = np.concatenate([tracks[n].scores for n in chain]) >= sure_score
        if len(is_sure) >= min_seen and is_sure.mean() >= config.min_sure_share:
            chains.append(chain)
    if not chains:
        return
    chains.sort(key=lambda chain: (pieces.start_s[chain[0]], chain[0]))
    joined = [[tracks[n] for n in chain] for chain in chains]
    for parts, (times_s, xyxy, new) in zip(joined, _boxes(joined, frame_times_s, config), strict=True):
        yield _whole(parts, times_s, xyxy, new)


def fewest_seen(frame_times_s: Float64) -> int:
    """In how many frames an object must be seen, in a shot with frames at these times (F,)."""
    return int(np.clip((MIN_SEEN_S + ROUNDING_S) / _step_s(frame_times_s), MIN_SEEN, ENOUGH_SEEN))


def _step_s(frame_times_s: Float64) -> float:
    """From one frame (F,) to the next, in the middle."""
    return float(np.median(np.diff(frame_times_s))) if len(frame_times_s) > 1 else MIN_SEEN_S


# ---- duplicates


def _is_duplicate(tracks: Sequence[Track], config: RefineConfig) -> Bool:
    """(N,): tracks that lie on a longer one. Three frames of each are looked at, then all of the few in question."""
    xyxy = np.concatenate([track.xyxy for track in tracks]).astype(np.float64)
    lengths = np.array([len(track) for track in tracks])
    track_of = np.repeat(np.arange(len(tracks)), lengths)
    # By length and score: of two that are the same, the later one in this order stays.
    rank = np.lexsort((np.array([track.scores.mean() for track in tracks]), lengths)).argsort()
    _, frame_of = np.unique(np.concatenate([track.times_s for track in tracks]), return_inverse=True)
    samples = np.unique((np.cumsum(lengths) - lengths)[:, None] + lengths[:, None] * np.array([1, 2, 3]) // 4)
    found = []
    for rows, beside in _same_frame(frame_of, samples):
        longer = rank[track_of[beside]] > rank[track_of[rows]]
        rows, beside = rows[longer], beside[longer]
        on = boxes.iou_of_pairs(xyxy[rows], xyxy[beside]) >= config.min_duplicate_iou
        found.append(np.stack([track_of[rows[on]], track_of[beside[on]]], axis=-1))
    pairs = np.unique(np.concatenate(found), axis=0)

    dropped = np.zeros(len(tracks), bool)
    for shorter, other in pairs[np.argsort(rank[pairs[:, 0]], kind="stable")]:
        a, b = tracks[shorter], tracks[other]
        _, i, j = np.intersect1d(a.times_s, b.times_s, assume_unique=True, return_indices=True)
        num_on = int((boxes.iou_of_pairs(a.xyxy[i], b.xyxy[j]) >= config.min_duplicate_iou).sum())
        dropped[shorter] |= not dropped[other] and num_on >= config.min_duplicate_share * len(a)
    return dropped


def _same_frame(frame_of: Int64, rows: Int64) -> Iterator[tuple[Int64, Int64]]:
    """All pairs of one of the `rows` (K,) and any row of the same frame, itself too, as (P,), (P,), some thousand of
    the rows at a time; `frame_of` (T,).
    """
    by_frame = np.argsort(frame_of, kind="stable")
    first = np.searchsorted(frame_of[by_frame], np.arange(frame_of.max() + 2))
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        num_beside = np.diff(first)[frame_of[part]]
        turn = np.arange(num_beside.sum()) - np.repeat(np.cumsum(num_beside) - num_beside, num_beside)
        repeated = np.repeat(part, num_beside)
        yield repeated, by_frame[first[frame_of[repeated]] + turn]


# ---- joining


@dataclass(frozen=True)
class _Pieces:
    """What joining needs to know of N tracks: their boxes, `times_s` (T,) and `xyxy` (T, 4), the n-th's from row
    `first[n]` to before `stop[n]`; of looks as in `looks.fit`; `class_sums` (N, C). `comes_in`, `goes_out` (N,): begins
    or ends at a side of the frame.
    """

    times_s: Float64
    xyxy: Float64
    first: Int64
    stop: Int64
    scene: Scene
    look_sums: Float64
    look_nums: Float64
    track_of_look: Int64
    class_sums: Float64
    comes_in: Bool
    goes_out: Bool
    links: Links

    @staticmethod
    def of(tracks: Sequence[Track], frame_width: float, links: Links) -> _Pieces:
        times_s = np.concatenate([track.times_s for track in tracks])
        xyxy = np.concatenate([track.xyxy for track in tracks]).astype(np.float64)
        stop = np.cumsum([len(track) for track in tracks])
        first = np.append(0, stop[:-1])
        class_sums = np.empty((len(tracks), tracks[0].logits.shape[1]))
        for number, track in enumerate(tracks):
            class_sums[number] = _class_sum(track)
        margin = SIDE_SHARE * (xyxy[:, 2] - xyxy[:, 0])
        at_side = (xyxy[:, 0] <= margin) | (xyxy[:, 2] >= frame_width - margin)
        at_side &= bool(np.isfinite(frame_width))
        return _Pieces(
            times_s,
            xyxy,
            first,
            stop,
            Scene.of(xyxy),
            *_looks(tracks),
            class_sums,
            at_side[first],
            at_side[stop - 1],
            links,
        )

    @property
    def start_s(self) -> Float64:
        """(N,)."""
        return self.times_s[self.first]

    @property
    def end_s(self) -> Float64:
        """(N,)."""
        return self.times_s[self.stop - 1]

    def ends(self, chains: Sequence[Sequence[int]]) -> tuple[Ends, Ends]:
        """The heads and the tails of chains of tracks: a track of a few frames alone has no speed."""
        rows = np.concatenate([np.arange(self.first[n], self.stop[n]) for chain in chains for n in chain])
        lengths = self.stop - self.first
        num_rows = np.array([lengths[chain].sum() for chain in chains])
        where = (self.times_s[rows], self.xyxy[rows], np.cumsum(num_rows) - num_rows)
        return motion.fit_ends(*where, head=True), motion.fit_ends(*where, head=False)


def _looks(tracks: Sequence[Track]) -> tuple[Float64, Float64, Int64]:
    """Sums (S, D) and numbers (S,) of the looks of all tracks in turn, and the track (S,) of each."""
    num_looks = [len(track.looks) for track in tracks]
    sums, nums = np.empty((sum(num_looks), tracks[0].looks.shape[1])), np.empty(sum(num_looks))
    for track, end in zip(tracks, np.cumsum(num_looks), strict=True):  # no list beside: they may take a gigabyte
        own = slice(end - len(track.looks), end)
        sums[own], nums[own] = cutting.looks_of(track)
    return sums, nums, np.repeat(np.arange(len(tracks)), num_looks)


def _look_model(tracks: Sequence[Track]) -> LookModel | None:
    """How much the looks of these tracks tell, if anything."""
    start_s, end_s = (np.array([track.times_s[n] for track in tracks]) for n in (0, -1))
    return looks.fit(*_looks(tracks), start_s, end_s)


def _class_sum(track: Track) -> Float64:
    total: Float64 = track.logits.sum(axis=0, dtype=np.float64)
    let_go(track.logits)
    return total


def _chains(pieces: _Pieces, model: LookModel | None, config: RefineConfig) -> list[list[int]]:
    """The numbers of the tracks that are one object, in the order of time, for every object."""
    chains = [[n] for n in range(len(pieces.start_s))]
    duration_s = pieces.end_s.max() - pieces.start_s.min()
    limit = config.min_join_evidence + np.log1p(len(chains) / max(duration_s, 1.0))
    while True:
        i, j, evidence = _candidates(pieces, chains, model, config, limit)
        if not len(i):
            return chains
        chosen = _best(i, j, evidence - limit)
        successor = dict(zip(i[chosen].tolist(), j[chosen].tolist(), strict=True))
        linked = []
        for n in sorted(set(range(len(chains))) - set(successor.values())):
            chain, last = list(chains[n]), n
            while last in successor:
                last = successor[last]
                chain += chains[last]
            linked.append(chain)
        chains = linked


def _candidates(
    pieces: _Pieces, chains: Sequence[Sequence[int]], model: LookModel | None, config: RefineConfig, limit: float
) -> tuple[Int64, Int64, Float64]:
    """Pairs of chains (P,), (P,) that may be one object, the second after the first, and the evidence (P,) for it."""
    heads, tails = np.array([chain[0] for chain in chains]), np.array([chain[-1] for chain in chains])
    head_ends, tail_ends = pieces.ends(chains)
    start_s, end_s = pieces.start_s[heads], pieces.end_s[tails]
    chain_of = np.empty(len(pieces.start_s), np.int64)
    chain_of[[n for chain in chains for n in chain]] = np.repeat(np.arange(len(chains)), [len(c) for c in chains])
    nums = np.bincount(chain_of[pieces.track_of_look], pieces.look_nums, minlength=len(chains)).astype(np.float64)
    # In place, and squared without a copy: looks and class scores may take half a gigabyte each.
    means = looks.totals(pieces.look_sums, chain_of[pieces.track_of_look], len(chains))
    means /= np.maximum(nums, 1e-12)[:, None]
    length2 = np.einsum("nd,nd->n", means, means)
    classes = looks.totals(pieces.class_sums, chain_of, len(chains))
    classes /= np.maximum(np.sqrt(np.einsum("nc,nc->n", classes, classes)), 1e-12)[:, None]
    has_class = classes.sum(axis=1) > 0

    found = []
    num_rows = max(1, BLOCK_PAIRS // len(chains))
    for block in np.split(np.arange(len(chains)), np.arange(num_rows, len(chains), num_rows)):
        gap_s = start_s - end_s[block, None]
        sure = (nums[block, None] > 0) & (nums > 0) & (model is not None)
        well_known = (nums[block, None] >= MIN_LONG_LOOKS) & (nums >= MIN_LONG_LOOKS) & sure
        well_known &= ~(pieces.goes_out[tails[block]][:, None] | pieces.comes_in[heads])
        max_gap_s = np.where(well_known, config.max_join_gap_s, config.max_blind_gap_s)
        row, j = np.nonzero((gap_s > 0) & (gap_s <= max_gap_s + ROUNDING_S))
        i = block[row]
        evidence = motion.evidence(tail_ends, head_ends, i, j, gap_s[row, j], pieces.scene)
        known = sure[row, j]
        if model is not None:
            a, b = i[known], j[known]
            distance2 = np.maximum(length2[a] + length2[b] - 2 * (means[block] @ means.T)[row[known], b], 0)
            evidence[known] += model.evidence(distance2, nums[a], nums[b])
        evidence += ONE_WAY_EVIDENCE * pieces.links.forward(tails[i], heads[j])
        evidence += ONE_WAY_EVIDENCE * (pieces.links.backward(tails[i], heads[j]) & ~known)
        kept = np.flatnonzero(evidence >= limit)
        cosine = np.einsum("pc,pc->p", classes[i[kept]], classes[j[kept]])
        agree = (cosine >= config.min_class_cosine) | ~(has_class[i[kept]] & has_class[j[kept]])
        found.append((i[kept[agree]], j[kept[agree]], evidence[kept[agree]]))
    i, j, evidence = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return i, j, evidence


def _best(i: Int64, j: Int64, gain: Float64) -> Int64:
    """Of pairs with a gain >= 0, those with the largest sum that use no `i` and no `j` twice."""
    rows, i = np.unique(i, return_inverse=True)
    columns, j = np.unique(j, return_inverse=True)
    # A column of its own for every row stands for no partner. Just below 0, so that a pair exactly at the limit counts.
    alone = np.arange(len(rows))
    top = float(gain.max()) + 1
    cost = np.concatenate([top - gain, np.full(len(rows), top + 1e-9)])
    at = (np.concatenate([i, alone]), np.concatenate([j, len(columns) + alone]))
    graph = coo_array((cost, at), shape=(len(rows), len(columns) + len(rows))).tocsr()
    row, column = min_weight_full_bipartite_matching(graph)
    pair_of = coo_array((np.arange(1, len(i) + 1), (i, j)), shape=(len(rows), len(columns))).tocsr()
    taken = column < len(columns)
    chosen: Int64 = np.asarray(pair_of[row[taken], column[taken]]).ravel() - 1
    return chosen


# ---- what comes out


def _boxes(
    joined: Sequence[Sequence[Track]], frame_times_s: Float64, config: RefineConfig
) -> list[tuple[Float64, Float32, Bool]]:
    """Times, boxes and marks of interpolation of every joined track, filled and smoothed."""
    filled = []
    for parts in joined:
        times_s = np.concatenate([part.times_s for part in parts])
        xyxy = np.concatenate([part.xyxy for part in parts]).astype(np.float64)
        filled.append(smoothing.fill(times_s, xyxy, frame_times_s, config.max_fill_gap_s + ROUNDING_S))
    lengths = np.array([len(track[0]) for track in filled])
    times_s, xyxy = (np.concatenate([track[n] for track in filled]) for n in (0, 1))
    new = np.concatenate([track[2] for track in filled])
    track_of = np.repeat(np.arange(len(filled)), lengths)
    max_blink_s = max(config.max_blink_s, (MAX_BLINK + 1) * _step_s(frame_times_s)) + ROUNDING_S
    kept = ~new | _may_be_filled(times_s, xyxy, new, max_blink_s, config.min_hidden_share)
    times_s, xyxy, new, track_of = times_s[kept], xyxy[kept], new[kept], track_of[kept]
    smooth32 = smoothing.smoothed_boxes(times_s, xyxy, track_of, new)
    ends = np.searchsorted(track_of, np.arange(1, len(filled)))
    return list(zip(np.split(times_s, ends), np.split(smooth32, ends), np.split(new, ends), strict=True))


def _may_be_filled(times_s: Float64, xyxy: Float64, new: Bool, max_blink_s: float, min_hidden_share: float) -> Bool:
    """(T,): interpolated boxes of a gap that is short, or in which the object is hidden."""
    # gap n lies between the n-th detection and the one before
    seen, gap_of = np.flatnonzero(~new), np.cumsum(~new, dtype=np.int64)
    gap_s = times_s[seen[np.minimum(gap_of, len(seen) - 1)]] - times_s[seen[gap_of - 1]]
    long = np.flatnonzero(new & (gap_s > max_blink_s))
    _, frame_of = np.unique(times_s, return_inverse=True)
    hidden = np.zeros(len(new))
    for rows, beside in _same_frame(frame_of, long):
        rows, beside = rows[~new[beside]], beside[~new[beside]]
        low, high = np.maximum(xyxy[rows, :2], xyxy[beside, :2]), np.minimum(xyxy[rows, 2:], xyxy[beside, 2:])
        np.maximum.at(hidden, rows, boxes.area(np.concatenate([low, high], axis=-1)) / boxes.area(xyxy[rows]))
    sums = looks.totals(np.stack([hidden[long], np.ones(len(long))], axis=-1), gap_of[long], len(seen) + 1)
    shares = sums[:, 0] / np.maximum(sums[:, 1], 1)
    may: Bool = new & (gap_s <= max_blink_s)
    may[long] = shares[gap_of[long]] >= min_hidden_share
    return may


def _whole(parts: Sequence[Track], times_s: Float64, xyxy: Float32, new: Bool) -> Track:
    """The track of all parts; scores are 0 in the frames that are new."""
    if len(parts) == 1 and not new.any():
        return replace(parts[0], xyxy=xyxy)
    scores = np.zeros(len(new), np.float32)
    scores[~new] = np.concatenate([part.scores for part in parts])
    logits = np.zeros((len(new), parts[0].logits.shape[1]), np.float32)
    logits[~new] = np.concatenate([part.logits for part in parts])
    let_go(parts[0].logits)
    sums = np.concatenate([part.looks for part in parts])
    known = sums[np.isfinite(sums).all(axis=1)]
    embedding = parts[0].embedding if len(parts) == 1 else unit(known.sum(axis=0, keepdims=True))[0]
    weights = np.concatenate([part.look_weights for part in parts])
    return Track(times_s, xyxy, scores, logits, embedding, sums, new, weights)
