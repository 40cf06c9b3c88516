"""Which tracks of a shot are one object, and which of its parts follows which.

Two tracks are compared by motion, size, look, class, the time between them and what either direction of time made of
them. The evidence is summed up as log likelihood ratios, the best set of successors is found for all tracks at once (an
assignment with the least cost), and what was joined is looked at anew, with all its boxes and looks together, until
nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from trackverse import looks, motion, pairs
from trackverse.cutting import Links
from trackverse.looks import LookModel
from trackverse.motion import Ends, Scene
from trackverse.types import ROUNDING_S, Bool, Float32, Float64, Int64, Track
from trackverse.vectors import let_go

BLOCK_CHAINS = 1 << 8  # so many pairs of chains at a time have their class scores compared
# Only what was seen for this many looks (a second at 16 frames/s) is known again after long: slips of the detector that
# happen to look alike would make long tracks of a few frames.
MIN_LONG_LOOKS = 2
# Nats for a link that one direction of time made where the other one didn't. By boxes alone, the online pass was right
# in a quarter to two thirds of the cases, by looks in three quarters; 0.5 to 1.5 do equally well, of both directions.
# Backward, no looks are used: where there are, they know better.
ONE_WAY_EVIDENCE = 1.0
# Of a box's width; nearer than that to a side of the frame, its object is leaving or coming in.
SIDE_SHARE = 0.1
# A track of fewer frames is part of an object, or a slip of the detector: it doesn't say that more objects come and go.
# At one frame a second, four fifths of a street's tracks are seen once.
MIN_OBJECT_FRAMES = 2


@dataclass(frozen=True)
class JoinConfig:
    """Limits of joining. Kept when `>=`.

    `min_join_evidence`: from this log likelihood ratio on, two tracks are one object. Where one ends and one begins,
    an object may have left and another one come: 1.5 stands for prior odds of 2 : 9, and they fall further with the
    number of tracks, seen more than once, that begin in a second.
    `max_join_gap_s`: longest time out of sight; where looks are few there is only motion, which says little after
    `max_blind_gap_s`: by motion alone 3, 4 and 5 do equally well, with a short look besides 4 does better than 3.
    `min_class_cosine`: classes whose scores over the tracks are further apart contradict each other.
    """

    min_join_evidence: float = 1.5
    max_join_gap_s: float = 30.0
    max_blind_gap_s: float = 4.0
    min_class_cosine: float = 0.5


@dataclass(frozen=True)
class Pieces:
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
    def of(tracks: Sequence[Track], frame_width: float, links: Links) -> Pieces:
        times_s = np.concatenate([track.times_s for track in tracks])
        xyxy = np.concatenate([track.xyxy for track in tracks]).astype(np.float64)
        stop = np.cumsum([len(track) for track in tracks])
        first = np.append(0, stop[:-1])
        # In float32, as the looks themselves are: with 70,000 tracks they take 300 MB.
        look_sums, look_nums = looks.totals(tracks)
        margin = SIDE_SHARE * (xyxy[:, 2] - xyxy[:, 0])
        at_side = (xyxy[:, 0] <= margin) | (xyxy[:, 2] >= frame_width - margin)
        at_side &= bool(np.isfinite(frame_width))
        scene = Scene.of(xyxy)
        sides = at_side[first], at_side[stop - 1]
        return Pieces(tracks, times_s, xyxy, first, stop, scene, look_sums, look_nums, *sides, links)

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
        members = np.concatenate(chains)
        lengths = self.stop[members] - self.first[members]
        member, place = pairs.end_to_end(lengths)
        rows = self.first[members][member] + place
        num_members = np.array([len(chain) for chain in chains])
        num_rows = np.add.reduceat(lengths, np.cumsum(num_members) - num_members)
        where = (self.times_s[rows], self.xyxy.take(rows, axis=0), np.cumsum(num_rows) - num_rows)
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


def find_chains(pieces: Pieces, model: LookModel | None, config: JoinConfig) -> list[list[int]]:
    """The numbers of the tracks that are one object, in the order of time, for every object."""
    chains = [[n] for n in range(len(pieces.start_s))]
    duration_s = pieces.end_s.max() - pieces.start_s.min()
    num_begun = (pieces.stop - pieces.first >= MIN_OBJECT_FRAMES).sum()
    limit = config.min_join_evidence + np.log1p(num_begun / max(duration_s, 1.0))
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
    pieces: Pieces, chains: Sequence[Sequence[int]], model: LookModel | None, config: JoinConfig, limit: float
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
    for row, column in pairs.ranges(
        np.searchsorted(start_s[by_start], end_s[by_end], side="right"),
        np.searchsorted(start_s[by_start], latest_s, side="right"),
    ):
        i, j = by_end.take(row), by_start.take(column)
        gap_s = start_s.take(j) - end_s.take(i)
        max_gap_s = np.where(stays.take(i) & returns.take(j), config.max_join_gap_s, config.max_blind_gap_s)
        near = np.flatnonzero(gap_s <= max_gap_s + ROUNDING_S)
        row, column, i, j = (numbers.take(near) for numbers in (row, column, i, j))
        evidence = motion.evidence(tail_ends, head_ends, i, j, gap_s.take(near), pieces.scene)
        known = is_known.take(i) & is_known.take(j)
        if model is not None and known.any():
            distance2 = pieces.distances2(heads[by_end], row[known], heads[by_start], column[known])
            evidence[known] += model.evidence(distance2, nums[i[known]], nums[j[known]])
        tail, head = tails.take(i), heads.take(j)
        evidence += ONE_WAY_EVIDENCE * pieces.links.forward(tail, head)
        evidence += ONE_WAY_EVIDENCE * (pieces.links.backward(tail, head) & ~known)
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
    if tracks[0].logits.shape[1] < 2:
        return agree
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
