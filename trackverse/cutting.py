"""Cut tracks where they may have gone over to another object, so that all evidence of the shot can decide anew.

A track's look that changes for good is evidence enough to cut it. Where associating backward in time contradicts the
online pass (see `both_ways.py`), it is cut unless its looks before and after agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trackverse import both_ways
from trackverse.looks import LookModel, laid_out
from trackverse.types import Bool, Int64, Track


@dataclass(frozen=True)
class Links:
    """What the two directions of time made of N parts in turn. `goes_on` (N,): forward, one track with the next part;
    `first`, `last` (N,): the backward tracks of its first and its last detection, -1 for none.
    """

    goes_on: Bool
    first: Int64
    last: Int64

    def forward(self, i: Int64, j: Int64) -> Bool:
        """(P,): whether the parts `i` (P,) went on with the parts `j` (P,)."""
        linked: Bool = self.goes_on.take(i) & (i + 1 == j)
        return linked

    def backward(self, i: Int64, j: Int64) -> Bool:
        """(P,): whether the parts `j` (P,), backward in time, went on with the parts `i` (P,)."""
        last = self.last.take(i)
        linked: Bool = (last >= 0) & (last == self.first.take(j))
        return linked


def cut(
    tracks: Sequence[Track],
    model: LookModel | None,
    *,
    sure_score: float,
    min_cut_evidence: float,
    min_join_evidence: float,
) -> tuple[list[Track], Int64, Links]:
    """The parts (N) of all tracks in turn, the number (N,) of the track that each is of, and what links them. A track
    that isn't cut is its own part.

    `min_cut_evidence`: against a track's being one object, for a cut by looks alone. `min_join_evidence`: for its being
    one, against a cut where it is doubted.
    """
    # Rows are numbered through the tracks, one after the other.
    lengths = np.array([len(track) for track in tracks])
    stop = np.cumsum(lengths)
    first = stop - lengths
    labels = both_ways.backward(tracks, sure_score)
    doubted = both_ways.doubts(labels, lengths)
    # Looks that are not those of the frames in turn can't be shared out.
    in_turn = np.array([_in_turn(track) for track in tracks])
    doubted = doubted[in_turn[np.searchsorted(stop, doubted, side="right")]]
    slips = np.zeros(0, np.int64)
    if model is not None:
        slips, doubted = _by_looks(tracks, first, doubted, model, min_cut_evidence, min_join_evidence)
    ends = np.union1d(np.concatenate([slips, doubted]), stop)
    starts = np.append(0, ends[:-1])
    track_of = np.searchsorted(stop, starts, side="right")
    places = zip(track_of.tolist(), (starts - first[track_of]).tolist(), (ends - first[track_of]).tolist(), strict=True)
    parts = [_between(tracks[n], start, end) for n, start, end in places]
    return parts, track_of, Links(np.isin(ends, doubted), *_end_labels(labels, starts, ends))


def _end_labels(labels: Int64, starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
    """Of parts, the first and the last of their backward `labels` (T,) that is one; -1 if none is."""
    known = np.flatnonzero(labels >= 0)
    first, last = np.searchsorted(known, starts), np.searchsorted(known, ends) - 1
    labels = np.append(labels[known], -1)
    return np.where(first <= last, labels[first], -1), np.where(first <= last, labels[last], -1)


def part(track: Track, rows: Int64 | slice, look_rows: slice) -> Track:
    """Some frames of a track, with some of its looks, and still with the embedding of the whole."""
    kept = (track.times_s[rows], track.xyxy[rows], track.scores[rows], track.logits[rows])
    looks_kept = (track.looks[look_rows], track.interpolated[rows], track.look_weights[look_rows])
    return Track(*kept, track.embedding, *looks_kept, track.look_frames)


def _in_turn(track: Track) -> bool:
    """Whether a track's looks are those of its frames in turn: not when it was joined before, or has only one."""
    return not track.looks.shape[1] or len(track.looks) == -(-len(track) // track.look_frames)


def _between(track: Track, start: int, end: int) -> Track:
    """The part of a track from one frame to before another one, with the looks that are wholly its own."""
    if end - start == len(track):
        return track
    last = None if end == len(track) else end // track.look_frames
    return part(track, slice(start, end), slice(-(-start // track.look_frames), last))


def _by_looks(
    tracks: Sequence[Track],
    first: Int64,
    doubted: Int64,
    model: LookModel,
    min_cut_evidence: float,
    min_join_evidence: float,
) -> tuple[Int64, Int64]:
    """The rows at which looks change for good; and the rows `doubted` (K,) without those near such a change, and those
    before and after which looks are known to be one object's. The tracks' rows begin at `first` (N,).
    """
    slips, settled, look_frames = [], np.zeros(len(doubted), bool), tracks[0].look_frames
    track_of = np.searchsorted(first, doubted, side="right") - 1
    for start, looks in laid_out(tracks):
        own = slice(*np.searchsorted(track_of, [start, start + len(looks.counts)]))
        row, first_look = doubted[own] - first[track_of[own]], looks.first[track_of[own] - start]
        evidence = looks.across(first_look + row // look_frames, first_look - (-row // look_frames), model)
        settled[own] = np.isfinite(evidence) & (evidence >= min_join_evidence)
        for n, k in looks.changes(model, min_cut_evidence):
            track = tracks[start + n]
            if _in_turn(track):
                slip = _slip(track, k)
                settled[own] |= (track_of[own] == start + n) & (np.abs(row - slip) <= look_frames)
                slips.append(first[start + n] + slip)
    return np.array(slips, np.int64), doubted[~settled]


def _slip(track: Track, k: int) -> int:
    """The row of a slip that is somewhere in look k: most likely where the box moved most."""
    start, stop = k * track.look_frames, (k + 1) * track.look_frames
    steps = np.abs(np.diff(track.xyxy[start - 1 : stop + 1], axis=0)).sum(axis=1)
    return start + int(steps.argmax())
