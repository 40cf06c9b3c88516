"""Which tracks of a shot are one object, and which of its parts follows which.

Two tracks are compared by motion, size, look, class, the time between them and what either direction of time made of
them. The evidence is summed up as log likelihood ratios, the best set of successors is found for all tracks at once (an
assignment with the least cost), and what was joined is looked at anew, with all its boxes and looks together, until
nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trackverse import class_scores, looks, motion, pairs
from trackverse.association import assign
from trackverse.cutting import Links
from trackverse.looks import LookModel
from trackverse.motion import Ends, Scene
from trackverse.rows import Rows
from trackverse.sway import Sway
from trackverse.types import ROUNDING_S, Bool, Float32, Float64, Int64, Track

BLOCK_ROWS, BLOCK_COLUMNS = 64, 1024  # so many chains at a time are compared with so many: what stays in the cache
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
    `first[n]` to before `stop[n]`. Then, all of (N,): when they begin and end, `start_s` and `end_s`; whether at a side
    of the frame, `comes_in` and `goes_out`; how they move there, `heads` and `tails`; their looks, summed up, and how
    many whole ones these are, `look_sums` (N, D) and `look_nums`; and the track they end with, `last`. Once tracks are
    joined, the first one's row has what all of them have.
    """

    tracks: Sequence[Track]
    links: Links
    times_s: Float64
    xyxy: Float64
    first: Int64
    stop: Int64
    scene: Scene
    start_s: Float64
    end_s: Float64
    comes_in: Bool
    goes_out: Bool
    heads: Ends
    tails: Ends
    look_sums: Float32
    look_nums: Float64
    last: Int64

    @staticmethod
    def of(tracks: Sequence[Track], frame_width: float, sway: Sway, links: Links) -> Pieces:
        times_s, boxes, first, stop = Rows.of(tracks)
        xyxy = boxes.astype(np.float64)
        # In float32, as the looks themselves are: with 70,000 tracks they take 300 MB.
        look_sums, look_nums = looks.totals(tracks)
        seen = (sway.put_on(xyxy[row], times_s[row]) for row in (first, stop - 1))  # in the frame as it was
        comes_in, goes_out = (_is_at_side(edges[:, 0], edges[:, 2], frame_width) for edges in seen)
        scene = Scene.of(times_s, xyxy, first)
        heads, tails = (motion.fit_ends(times_s, xyxy, first, scene.box_std, head=head) for head in (True, False))
        return Pieces(
            tracks,
            links,
            times_s,
            xyxy,
            first,
            stop,
            scene,
            times_s[first],
            times_s[stop - 1],
            comes_in,
            goes_out,
            heads,
            tails,
            look_sums,
            look_nums,
            np.arange(len(tracks)),
        )

    def join(self, first: Sequence[int], others: Sequence[int]) -> None:
        """The chains that begin with tracks `others` (K,), in turn, are part of those that begin with the tracks
        `first` (K,) from now on.
        """
        for column in (self.end_s, self.goes_out, self.last):
            column[first] = column[others]  # that of the last one stays
        np.add.at(self.look_sums, first, self.look_sums[others])
        np.add.at(self.look_nums, first, self.look_nums[others])

    def rows(self, chains: Sequence[Sequence[int]]) -> tuple[Int64, Int64]:
        """Of chains of tracks: the rows (T,) of their boxes, one chain after the other, and how many each has (N,)."""
        members = np.concatenate(chains)
        lengths = self.stop[members] - self.first[members]
        member, place = pairs.end_to_end(lengths)
        num_members = np.array([len(chain) for chain in chains])
        num_rows = np.add.reduceat(lengths, np.cumsum(num_members) - num_members)
        return self.first[members][member] + place, num_rows

    def fit_ends(self, chains: Sequence[Sequence[int]]) -> None:
        """Chains of tracks move at their ends as all of them together: a track of a few frames alone has no speed."""
        numbers = np.array([chain[0] for chain in chains])
        rows, num_rows = self.rows(chains)
        where = (self.times_s[rows], self.xyxy.take(rows, axis=0), np.cumsum(num_rows) - num_rows, self.scene.box_std)
        self.heads.put(numbers, motion.fit_ends(*where, head=True))
        self.tails.put(numbers, motion.fit_ends(*where, head=False))

    def distances2(self, i: Int64, j: Int64) -> Float64:
        """Squared distances (N, M) of the mean looks of the chains `i` (N,) from those of the chains `j` (M,)."""
        one, other = self._mean_looks(i), self._mean_looks(j)
        length2, other_length2 = np.vecdot(one, one), np.vecdot(other, other)
        distances2 = length2[:, None] + other_length2 - 2 * (one @ other.T)
        nearest: Float64 = np.maximum(distances2, 0, dtype=np.float64)
        return nearest

    def _mean_looks(self, rows: Int64) -> Float32:
        means: Float32 = np.divide(self.look_sums[rows], self.look_nums[rows, None], dtype=np.float32)
        return means


def _is_at_side(left: Float64, right: Float64, frame_width: float) -> Bool:
    """(N,): whether boxes with these edges (N,) are at a side of a frame `frame_width` px wide; not if that is inf."""
    margin = SIDE_SHARE * (right - left)
    at_side: Bool = ((left <= margin) | (right >= frame_width - margin)) & bool(np.isfinite(frame_width))
    return at_side


def find_chains(pieces: Pieces, model: LookModel | None, config: JoinConfig) -> list[list[int]]:
    """The numbers of the tracks that are one object, in the order of time, for every object."""
    chains = {n: [n] for n in range(len(pieces.tracks))}  # by their first tracks, by which they are known
    duration_s = pieces.end_s.max() - pieces.start_s.min()
    num_begun = (pieces.stop - pieces.first >= MIN_OBJECT_FRAMES).sum()
    limit = config.min_join_evidence + np.log1p(num_begun / max(duration_s, 1.0))
    every, is_new = np.arange(len(chains)), np.ones(len(chains), bool)
    i, j, evidence = every[:0], every[:0], np.zeros(0)
    while True:
        grown, rest = every[is_new[every]], every[~is_new[every]]  # among the rest, nothing has changed
        new = (_candidates(pieces, chains, *two, model, config, limit) for two in ((grown, every), (rest, grown)))
        i, j, evidence = (np.concatenate(columns) for columns in zip((i, j, evidence), *new, strict=True))
        if not len(i):
            return list(chains.values())
        order = np.lexsort((j, i))
        i, j, evidence = i[order], j[order], evidence[order]
        chosen = assign(i, j, evidence - limit, turns=np.zeros_like(i))
        firsts, others = _join(chains, dict(zip(i[chosen].tolist(), j[chosen].tolist(), strict=True)))
        pieces.join(firsts, others)
        pieces.fit_ends([chains[n] for n in dict.fromkeys(firsts)])
        every = np.array(list(chains))
        is_new[:] = False
        is_new[firsts + others] = True
        kept = ~(is_new[i] | is_new[j])
        i, j, evidence = i[kept], j[kept], evidence[kept]


def _join(chains: dict[int, list[int]], successor: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Appends to the chains those that follow them. The numbers (K,) of the chains that go on and, in turn, of those
    (K,) that they go on with.
    """
    firsts, others = [], []
    for n in sorted(successor.keys() - successor.values()):
        last = n
        while last in successor:
            last = successor[last]
            chains[n] += chains.pop(last)
            firsts.append(n)
            others.append(last)
    return firsts, others


def _candidates(
    pieces: Pieces,
    chains: Mapping[int, Sequence[int]],
    i: Int64,
    j: Int64,
    model: LookModel | None,
    config: JoinConfig,
    limit: float,
) -> tuple[Int64, Int64, Float64]:
    """Pairs (P,), (P,) of one of the chains `i` (N,) and a later one of the chains `j` (M,) that may be one object, and
    the evidence (P,) for it.
    """
    # Those that begin soon after the end of one follow each other in the order of time.
    i, j = i[pieces.end_s[i].argsort()], j[pieces.start_s[j].argsort()]
    end_s, start_s = pieces.end_s[i], pieces.start_s[j]
    longest_s = config.max_blind_gap_s if model is None else max(config.max_join_gap_s, config.max_blind_gap_s)
    found: list[tuple[Int64, Int64, Float64]] = [(i[:0], j[:0], np.zeros(0))]
    for top in range(0, len(i), BLOCK_ROWS):
        rows = i[top : top + BLOCK_ROWS]
        earliest_s, latest_s = end_s[top], end_s[top + len(rows) - 1] + longest_s + ROUNDING_S
        first, stop = np.searchsorted(start_s, (earliest_s, latest_s), side="right").tolist()
        for left in range(first, stop, BLOCK_COLUMNS):
            columns = j[left : min(left + BLOCK_COLUMNS, stop)]
            block = _evidence(pieces, rows, columns, model, config)
            kept = np.flatnonzero(block >= limit)
            row, column = np.divmod(kept, len(columns))
            found.append((rows[row], columns[column], block.ravel()[kept].astype(np.float64)))
    i, j, evidence = (np.concatenate(columns) for columns in zip(*found, strict=True))
    agree = _agree(pieces.tracks, chains, i, j, config.min_class_cosine)
    return i[agree], j[agree], evidence[agree]


def _evidence(pieces: Pieces, i: Int64, j: Int64, model: LookModel | None, config: JoinConfig) -> Float32:
    """(N, M): that the chains `i` (N,) and then `j` (M,) are one object; -inf where these don't follow soon enough."""
    gap_s = pieces.start_s[j] - pieces.end_s[i][:, None]
    max_gap_s: float | Float64 = config.max_blind_gap_s
    if model is not None:
        lasts, other_lasts = (pieces.look_nums[numbers] >= MIN_LONG_LOOKS for numbers in (i, j))
        is_long = (lasts & ~pieces.goes_out[i])[:, None] & (other_lasts & ~pieces.comes_in[j])
        max_gap_s = np.where(is_long, config.max_join_gap_s, config.max_blind_gap_s)
    is_far = (gap_s <= 0) | (gap_s > max_gap_s + ROUNDING_S)
    evidence = motion.evidence(
        pieces.tails.take(i), pieces.heads.take(j), np.maximum(gap_s, 0).astype(np.float32), pieces.scene
    )
    tail, is_known = pieces.last[i][:, None], np.zeros(evidence.shape, bool)
    if model is not None:
        known, other_known = (np.flatnonzero(pieces.look_nums[numbers] > 0) for numbers in (i, j))
        both = np.ix_(known, other_known)
        nums, other_nums = (pieces.look_nums[numbers] for numbers in (i[known], j[other_known]))
        is_known[both] = True
        evidence[both] += model.evidence(pieces.distances2(i[known], j[other_known]), nums[:, None], other_nums)
    evidence += ONE_WAY_EVIDENCE * pieces.links.forward(tail, j)
    evidence += ONE_WAY_EVIDENCE * (pieces.links.backward(tail, j) & ~is_known)
    evidence[is_far] = -np.inf
    return evidence


def _agree(
    tracks: Sequence[Track], chains: Mapping[int, Sequence[int]], i: Int64, j: Int64, min_class_cosine: float
) -> Bool:
    """(P,): whether the class scores of the chains `i` (P,) and `j` (P,), as far as they have any, are alike."""
    agree = np.ones(len(i), bool)
    if tracks[0].logits.shape[1] < 2:
        return agree
    for start in range(0, len(i), BLOCK_CHAINS):
        part = slice(start, start + BLOCK_CHAINS)
        numbers, place = np.unique(np.stack([i[part], j[part]]), return_inverse=True)
        # Summed up anew for the few that it matters for: those of all tracks take more memory than their looks.
        sums = np.stack([class_scores.summed_up(tracks[n] for n in chains[number]) for number in numbers.tolist()])
        a, b = place.reshape(2, -1)
        agree[part] = class_scores.agree(sums[a], sums[b], min_class_cosine)
    return agree
