"""Cut tracks where they may have gone over to another object, so that all evidence of the shot can decide anew.

A track's look that changes for good is evidence enough to cut it. Where associating backward in time contradicts the
online pass (see `both_ways.py`), it is cut unless its looks before and after agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from trackverse import both_ways, looks
from trackverse.looks import LookModel
from trackverse.types import LOOK_FRAMES, Bool, Float64, Int64, Track
from trackverse.vectors import let_go


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
) -> tuple[list[Track], Links]:
    """The parts (N) of all tracks in turn, and what links them.

    `min_cut_evidence`: against a track's being one object, for a cut by looks alone. `min_join_evidence`: for its being
    one, against a cut where it is doubted.
    """
    parts: list[Track] = []
    goes_on: list[bool] = []
    ends: list[tuple[int, int]] = []
    for track, labels in zip(tracks, both_ways.backward(tracks, sure_score), strict=True):
        doubted = both_ways.doubts(labels)
        slips: list[int] = []
        if not _in_turn(track):
            doubted = []  # looks that are not those of the frames in turn can't be shared out
        elif model is not None:
            sums, nums = looks_of(track)
            slips = [_slip(track, k) for k in _changes(sums, nums, model, min_cut_evidence)]
            doubted = _unless_alike(doubted, sums, nums, model, min_join_evidence)
        doubted = [row for row in doubted if all(abs(row - slip) > LOOK_FRAMES for slip in slips)]
        rows = sorted([*slips, *doubted])
        parts += _parts(track, rows)
        goes_on += [row in doubted for row in rows] + [False]
        ends += [_ends(own) for own in (np.split(labels, rows) if rows else [labels])]
    first, last = np.array(ends, np.int64).reshape(-1, 2).T
    return parts, Links(np.array(goes_on, bool), first, last)


def _ends(labels: Int64) -> tuple[int, int]:
    """The first and the last of a part's backward `labels` (T,) that is one; -1 if none is."""
    known = labels[labels >= 0]
    return (int(known[0]), int(known[-1])) if len(known) else (-1, -1)


def seen(track: Track) -> Track:
    """The track without interpolated frames."""
    return part(track, np.flatnonzero(~track.interpolated), slice(None)) if track.interpolated.any() else track


def part(track: Track, rows: Int64 | slice, look_rows: slice) -> Track:
    """Some frames of a track, with some of its looks, and still with the embedding of the whole."""
    kept = (track.times_s[rows], track.xyxy[rows], track.scores[rows], track.logits[rows])
    looks_kept = (track.looks[look_rows], track.interpolated[rows], track.look_weights[look_rows])
    return Track(*kept, track.embedding, *looks_kept)


def looks_of(track: Track) -> tuple[Float64, Float64]:
    """Sums (S, D) of a track's looks, and how many whole looks in plain view each is worth; 0 and 0 if not known."""
    if not track.looks.shape[1]:
        return np.zeros(track.looks.shape), np.zeros(len(track.looks))
    sums = np.array(track.looks, np.float64) / LOOK_FRAMES
    let_go(track.looks)
    length2 = np.vecdot(sums, sums)
    known = np.isfinite(length2) & (length2 > 0)
    nums = track.look_weights.astype(np.float64) / LOOK_FRAMES
    if not known.all():
        sums[~known], nums[~known] = 0, 0
    return sums, nums


def _in_turn(track: Track) -> bool:
    """Whether a track's looks are those of its frames in turn: not when it was joined before, or has only one."""
    return not track.looks.shape[1] or len(track.looks) == -(-len(track) // LOOK_FRAMES)


def _parts(track: Track, rows: Sequence[int]) -> Iterator[Track]:
    """The parts of a track between `rows`, each with the looks that are wholly its own."""
    if not rows:
        yield track
        return
    for start, end in zip([0, *rows], [*rows, len(track)], strict=True):
        last = None if end == len(track) else end // LOOK_FRAMES
        yield part(track, slice(start, end), slice(-(-start // LOOK_FRAMES), last))


def _slip(track: Track, k: int) -> int:
    """The row of a slip that is somewhere in look k: most likely where the box moved most."""
    steps = np.abs(np.diff(track.xyxy[k * LOOK_FRAMES - 1 : (k + 1) * LOOK_FRAMES + 1], axis=0)).sum(axis=1)
    return k * LOOK_FRAMES + int(steps.argmax())


def _unless_alike(
    rows: Sequence[int], sums: Float64, nums: Float64, model: LookModel, min_join_evidence: float
) -> list[int]:
    """Those of `rows` before and after which the looks are not known to be one object's."""
    if not rows:
        return []
    row = np.array(rows, np.int64)
    evidence = looks.across(sums, nums, row // LOOK_FRAMES, -(-row // LOOK_FRAMES), model)
    alike = np.isfinite(evidence) & (evidence >= min_join_evidence)
    return [int(n) for n in row[~alike]]


def _changes(sums: Float64, nums: Float64, model: LookModel, min_cut_evidence: float) -> list[int]:
    """The numbers of the looks in which a track goes over to another object, rising."""
    k, evidence = looks.change(sums, nums, model)
    if evidence > -min_cut_evidence:
        return []
    before = _changes(sums[:k], nums[:k], model, min_cut_evidence)
    after = _changes(sums[k + 1 :], nums[k + 1 :], model, min_cut_evidence)
    return [*before, k, *(k + 1 + n for n in after)]
