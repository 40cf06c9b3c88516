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

# Pairs of tracks, or of boxes, are gone through this many at a time, so that memory doesn't grow with their square.
BLOCK_PAIRS = 1 << 16
BLOCK_ROWS = 1 << 10  # and those of so many tracks, each of which is compared by looks with all the others' partners
BLOCK_CHAINS = 1 << 8  # likewise, pairs of which the class scores are compared
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
    del pieces
    chains.sort(key=lambda chain: (tracks[chain[0]].times_s[0], chain[0]))
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
    """All pairs of one of the `rows` (K,) and any row of the same frame, itself too, as (P,), (P,), in portions;
    `frame_of` (T,).
    """
    by_frame = np.argsort(frame_of, kind="stable")
    first = np.searchsorted(frame_of[by_frame], np.arange(frame_of.max() + 2))
    for k, place in _ranges(first[frame_of[rows]], first[frame_of[rows] + 1]):
        yield rows[k], by_frame[place]


def _ranges(first: Int64, end: Int64) -> Iterator[tuple[Int64, Int64]]:
    """All pairs (P,), (P,) of a number k and one of the numbers from `first[k]` to before `end[k]`, both (K,), in
    portions: `BLOCK_PAIRS` of `BLOCK_ROWS` k at most, or those of a single k that has more.
    """
    num = end - first
    total, start = np.cumsum(num), 0
    while start < len(num):
        before = int(total[start - 1]) if start else 0
        last = min(int(np.searchsorted(total, before + BLOCK_PAIRS, side="right")), start + BLOCK_ROWS)
        part = slice(start, max(last, start + 1))
        k = np.repeat(np.arange(start, part.stop), num[part])
        yield k, np.arange(len(k)) + np.repeat(first[part] + num[part] + before - total[part], num[part])
        start = part.stop


# ---- joining


@dataclass(frozen=True)
class _Pieces:
    """What joining needs to know of N tracks: their boxes, `times_s` (T,) and `xyxy` (T, 4), the n-th's from row
    `first[n]` to before `stop[n]`. `comes_in`, `goes_out` (N,): begins or ends at a side of the frame. `look_sums`
    (N, D) and `look_nums` (N,): their looks, summed up, and how many whole ones these are; once tracks are joined, the
    first one's row has what all of them have.
    """

    tracks: Sequence[Track]
    times_s: Float64
    xyxy: Float64
    first: Int64
    stop: Int64
    scene: Scene
    look_sums: Float32
    look_nums: Float64
    comes_in: Bool
    goes_out: Bool
    links: Links

    @staticmethod
    def of(tracks: Sequence[Track], frame_width: float, links: Links) -> _Pieces:
        times_s = np.concatenate([track.times_s for track in tracks])
        xyxy = np.concatenate([track.xyxy for track in tracks]).astype(np.float64)
        stop = np.cumsum([len(track) for track in tracks])
        first = np.append(0, stop[:-1])
        # In float32, as the looks themselves are: with 70,000 tracks they take 300 MB.
        look_sums, look_nums = np.empty((len(tracks), tracks[0].looks.shape[1]), np.float32), np.empty(len(tracks))
        for n, track in enumerate(tracks):
            sums, nums = cutting.looks_of(track)
            look_sums[n], look_nums[n] = sums.sum(axis=0), nums.sum()
        margin = SIDE_SHARE * (xyxy[:, 2] - xyxy[:, 0])
        at_side = (xyxy[:, 0] <= margin) | (xyxy[:, 2] >= frame_width - margin)
        at_side &= bool(np.isfinite(frame_width))
        scene = Scene.of(xyxy)
        sides = at_side[first], at_side[stop - 1]
        return _Pieces(tracks, times_s, xyxy, first, stop, scene, look_sums, look_nums, *sides, links)

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

    def join(self, first: int, other: int) -> None:
        """The chain that begins with track `other` is part of the one that begins with `first` from now on."""
        self.look_sums[first] += self.look_sums[other]
        self.look_nums[first] += self.look_nums[other]

    def distances2(self, a: Int64, i: Int64, b: Int64, j: Int64) -> Float64:
        """Squared distances (P,) of the mean looks of the chains that begin with the tracks `a[i]` from the `b[j]`'s.

        The stretches of `a` (N,) and `b` (M,) that `i` and `j` (P,) lie in should be short: each is compared with all
        of the other one.
        """
        low_i, low_j = i.min(), j.min()
        one, other = self._mean_looks(a[low_i : i.max() + 1]), self._mean_looks(b[low_j : j.max() + 1])
        length2, other_length2 = np.einsum("nd,nd->n", one, one), np.einsum("nd,nd->n", other, other)
        i, j = i - low_i, j - low_j
        distances2: Float64 = np.maximum(length2[i] + other_length2[j] - 2 * (one @ other.T)[i, j], 0)
        return distances2

    def _mean_looks(self, rows: Int64) -> Float64:
        means: Float64 = self.look_sums[rows] / np.maximum(self.look_nums[rows], 1e-12)[:, None]
        return means


def _look_model(tracks: Sequence[Track]) -> LookModel | None:
    """How much the looks of these tracks tell, if anything."""
    start_s, end_s = (np.array([track.times_s[n] for track in tracks]) for n in (0, -1))
    return looks.fit(map(cutting.looks_of, tracks), start_s, end_s)


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
                pieces.join(chain[0], chains[last][0])
                chain += chains[last]
            linked.append(chain)
        chains = linked


def _candidates(
    pieces: _Pieces, chains: Sequence[Sequence[int]], model: LookModel | None, config: RefineConfig, limit: float
) -> tuple[Int64, Int64, Float64]:
    """Pairs of chains (P,), (P,) that may be one object, the second after the first, and the evidence (P,) for it."""
    heads, tails = np.array([chain[0] for chain in chains]), np.array([chain[-1] for chain in chains])
    head_ends, tail_ends = pieces.ends(chains)
    start_s, end_s, nums = pieces.start_s[heads], pieces.end_s[tails], pieces.look_nums[heads]
    is_known = (nums > 0) & (model is not None)
    stays, returns = (
        is_known & (nums >= MIN_LONG_LOOKS) & ~at_side for at_side in (pieces.goes_out[tails], pieces.comes_in[heads])
    )
    # Those that begin soon after the end of one follow each other in the order of time.
    by_end, by_start = np.argsort(end_s, kind="stable"), np.argsort(start_s, kind="stable")
    reach_s = np.where(stays, max(config.max_join_gap_s, config.max_blind_gap_s), config.max_blind_gap_s)
    latest_s = (end_s + reach_s + 2 * ROUNDING_S)[by_end]
    found = []
    for row, column in _ranges(
        np.searchsorted(start_s[by_start], end_s[by_end], side="right"),
        np.searchsorted(start_s[by_start], latest_s, side="right"),
    ):
        i, j = by_end[row], by_start[column]
        gap_s = start_s[j] - end_s[i]
        max_gap_s = np.where(stays[i] & returns[j], config.max_join_gap_s, config.max_blind_gap_s)
        near = np.flatnonzero(gap_s <= max_gap_s + ROUNDING_S)
        row, column, i, j = row[near], column[near], i[near], j[near]
        evidence = motion.evidence(tail_ends, head_ends, i, j, gap_s[near], pieces.scene)
        known = is_known[i] & is_known[j]
        if model is not None and known.any():
            distance2 = pieces.distances2(heads[by_end], row[known], heads[by_start], column[known])
            evidence[known] += model.evidence(distance2, nums[i[known]], nums[j[known]])
        evidence += ONE_WAY_EVIDENCE * pieces.links.forward(tails[i], heads[j])
        evidence += ONE_WAY_EVIDENCE * (pieces.links.backward(tails[i], heads[j]) & ~known)
        kept = np.flatnonzero(evidence >= limit)
        found.append((i[kept], j[kept], evidence[kept]))
    i, j, evidence = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.lexsort((j, i))
    i, j, evidence = i[order], j[order], evidence[order]
    agree = _agree(pieces.tracks, chains, i, j, config.min_class_cosine)
    return i[agree], j[agree], evidence[agree]


def _agree(
    tracks: Sequence[Track], chains: Sequence[Sequence[int]], i: Int64, j: Int64, min_class_cosine: float
) -> Bool:
    """(P,): whether the class scores of the chains `i` (P,) and `j` (P,), as far as they have any, are alike."""
    agree = np.ones(len(i), bool)
    for start in range(0, len(i), BLOCK_CHAINS):
        part = slice(start, start + BLOCK_CHAINS)
        numbers, place = np.unique(np.stack([i[part], j[part]]), return_inverse=True)
        # Summed up anew for the few that it matters for: those of all tracks take more memory than their looks.
        classes = np.stack([np.sum([_class_sum(tracks[n]) for n in chains[number]], axis=0) for number in numbers])
        classes /= np.maximum(np.sqrt(np.einsum("nc,nc->n", classes, classes)), 1e-12)[:, None]
        has_class = classes.sum(axis=1) > 0
        a, b = place.reshape(2, -1)
        agree[part] = np.einsum("pc,pc->p", classes[a], classes[b]) >= min_class_cosine
        agree[part] |= ~(has_class[a] & has_class[b])
    return agree


def _class_sum(track: Track) -> Float64:
    total: Float64 = track.logits.sum(axis=0, dtype=np.float64)
    let_go(track.logits)
    return total


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
    num_hidden, num = (np.bincount(gap_of[long], weights, len(seen) + 1) for weights in (hidden[long], None))
    shares = num_hidden / np.maximum(num, 1)
    may: Bool = new & (gap_s <= max_blink_s)
    may[long] = shares[gap_of[long]] >= min_hidden_share
    return may


def _whole(parts: Sequence[Track], times_s: Float64, xyxy: Float32, new: Bool) -> Track:
    """The track of all parts; scores are 0 in the frames that are new."""
    sums = np.concatenate([part.looks for part in parts])
    let_go(parts[0].looks)
    known = sums[np.isfinite(sums).all(axis=1)]
    # Only now, when it is known what belongs together: parts have that of the track which they were cut out of. It is
    # all there is of one so short that no look is wholly its own.
    known = known if len(known) else np.stack([part.embedding for part in parts])
    embedding = unit(known.sum(axis=0, keepdims=True))[0]
    if len(parts) == 1 and not new.any():
        return replace(parts[0], xyxy=xyxy, looks=sums, embedding=embedding)
    scores = np.zeros(len(new), np.float32)
    scores[~new] = np.concatenate([part.scores for part in parts])
    logits = np.zeros((len(new), parts[0].logits.shape[1]), np.float32)
    logits[~new] = np.concatenate([part.logits for part in parts])
    let_go(parts[0].logits)
    weights = np.concatenate([part.look_weights for part in parts])
    return Track(times_s, xyxy, scores, logits, embedding, sums, new, weights)
