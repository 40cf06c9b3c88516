"""Detections that no track took online, and which of them belong to one after all.

Online, only a sure detection starts a track, and doubtful ones go on with one that is there already. So who comes from
afar, or out from behind somebody else, is doubted for a while before the track begins, and where a track was lost and
joined again, doubtful detections lie in between. When the tracks of a shot are known, these go on with them backward in
time: from where a track begins, and from where a gap of it ends. What is of another class than its track is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from trackverse import boxes, class_scores, motion, pairs
from trackverse.association import assign
from trackverse.rows import Rows
from trackverse.sway import Sway
from trackverse.types import Detections, Float32, Float64, Int64, Track
from trackverse.vectors import RowFile

# Of a stray with the box that is sought, more than online (0.5): nothing that comes after puts a wrong one right. 0.6
# gains nothing more, and loses where the camera moves; 0.8 finds less.
MIN_OVERLAP = 0.7


@dataclass(frozen=True)
class Seen:
    """Where objects are seen: the `chain` (T,) of tracks, each one object's, that T detections belong to, the number of
    their `frame` (T,), their boxes `xyxy` (T, 4) and `scores` (T,), and which of the strays they are, `stray` (T,), -1
    for those of tracks.
    """

    chain: Int64
    frame: Int64
    xyxy: Float64
    scores: Float32
    stray: Int64

    @staticmethod
    def of(chains: Sequence[Sequence[Track]], frame_times_s: Float64) -> Seen:
        """Where N chains are seen, without strays, in the frames at `frame_times_s` (F,). Of one chain at least."""
        rows = Rows.of_chains(chains)
        scores = np.concatenate([track.scores for chain in chains for track in chain])
        frame, xyxy = np.searchsorted(frame_times_s, rows.times_s), rows.xyxy.astype(np.float64)
        return Seen(rows.owner, frame, xyxy, scores, np.full(len(scores), -1))


class Strays:
    """The detections of a shot that no track took, a frame at a time. Their class scores lie in a `file`: there may be
    thousands of detections, with 1203 scores each. Their looks are not kept: who is doubted is mostly hidden, and looks
    like somebody else.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._class_scores = RowFile(file)
        self._times_s: list[float] = []
        self._xyxy: list[Float32] = []
        self._scores: list[Float32] = []

    def put(self, time_s: float, detections: Detections) -> None:
        """Those of a frame, later than the ones before."""
        if len(detections):
            self._class_scores.put(detections.logits)
            self._times_s.append(time_s)
            self._xyxy.append(detections.xyxy)
            self._scores.append(detections.scores)

    @property
    def times_s(self) -> Float64:
        """(F,) of the frames that have any."""
        return np.array(self._times_s)

    @property
    def class_scores(self) -> Float32 | None:
        """(S, C) of all of them, in the file; None if there are none."""
        return self._class_scores.together() if self._times_s else None

    def joined_to(
        self,
        seen: Seen,
        chains: Sequence[Sequence[Track]],
        sway: Sway,
        *,
        max_unseen_s: float,
        min_class_cosine: float,
    ) -> Seen:
        """Where N chains of tracks, each one object's, are `seen`, and behind it the strays that are these objects'. No
        stray is two objects'.

        The `sway`, known in all frames of the shot, is taken off the boxes. `max_unseen_s`: for how long an object is
        looked for when neither a track nor a stray has it. `min_class_cosine`: see `JoinConfig`.
        """
        if not self._times_s:
            return seen
        frame = np.searchsorted(sway.times_s, self._times_s).repeat([len(scores) for scores in self._scores])
        xyxy = sway.take_off(np.concatenate(self._xyxy), sway.times_s[frame]).astype(np.float64)
        chain = _chains_of(_Ways.back(seen, sway.times_s), frame, xyxy, sway.times_s, max_unseen_s)
        chain = _without_other_classes(chain, chains, self._class_scores.together(), min_class_cosine)
        own = np.flatnonzero(chain >= 0)
        return Seen(
            np.append(seen.chain, chain[own]),
            np.append(seen.frame, frame[own]),
            np.concatenate([seen.xyxy, xyxy[own]]),
            np.append(seen.scores, np.concatenate(self._scores)[own]),
            np.append(seen.stray, own),
        )


@dataclass(frozen=True)
class _Ways:
    """K ways back through the frames of a shot in which an object was not seen: the chain that it is of, `chain` (K,),
    the frame after the way and the frame before it, `after` and `before` (K,), -1 for none, the object's box `xyxy`
    (K, 4) in the frame after, and the `speed` (K, 4) of its edges, px/s.
    """

    chain: Int64
    after: Int64
    before: Int64
    xyxy: Float64
    speed: Float64

    @staticmethod
    def back(seen: Seen, frame_times_s: Float64) -> _Ways:
        """From where the chains begin, and where gaps of theirs end."""
        chain, after, xyxy, times_s = seen.chain, seen.frame, seen.xyxy, frame_times_s[seen.frame]
        first = np.flatnonzero(np.diff(chain, prepend=-1))
        before = np.append(-1, after[:-1])
        before[first] = -1
        row = np.flatnonzero(after - before > 1)
        is_head = before[row] < 0
        heads = motion.fit_ends(times_s, xyxy, first, motion.MIN_BOX_STD, head=True).velocity.T[chain[row]]
        gap_s = np.where(is_head, np.inf, times_s[row] - times_s[row - 1])[:, None]
        # As fast as the object goes on, or straight across the gap.
        speed = np.where(is_head[:, None], np.tile(heads, 2), (xyxy[row] - xyxy[row - 1]) / gap_s)
        return _Ways(chain[row], after[row], before[row], xyxy[row], speed)


def _chains_of(ways: _Ways, frame_of: Int64, xyxy: Float64, frame_times_s: Float64, max_unseen_s: float) -> Int64:
    """(S,): the chains that strays belong to, -1 for none. The strays lie in the frames `frame_of` (S,), rising, at
    `xyxy` (S, 4). All ways are gone side by side, a frame at a time; each from the last stray that was found on it.
    """
    chain_of, strays = np.full(len(frame_of), -1), boxes.measured(xyxy.T)
    stop = np.cumsum(np.bincount(frame_of, minlength=len(frame_times_s)))
    first = np.append(0, stop[:-1])
    last, last_s, frame = ways.xyxy.copy(), frame_times_s[ways.after], ways.after - 1
    going = np.flatnonzero(last_s - frame_times_s[frame] <= max_unseen_s)
    while len(going):
        sought = last[going] - ways.speed[going] * (last_s[going] - frame_times_s[frame[going]])[:, None]
        way, stray, overlap = _near(boxes.measured(sought.T), strays, first[frame[going]], stop[frame[going]])
        free = np.flatnonzero(chain_of[stray] < 0)
        chosen = free[assign(way[free], stray[free], overlap[free], np.zeros(len(free), np.int64))]
        way, stray = going[way[chosen]], stray[chosen]
        chain_of[stray], last[way], last_s[way] = ways.chain[way], xyxy[stray], frame_times_s[frame_of[stray]]
        frame[going] -= 1
        unseen_s = last_s[going] - frame_times_s[frame[going]]
        going = going[(frame[going] > ways.before[going]) & (unseen_s <= max_unseen_s)]
    return chain_of


def _without_other_classes(
    chain_of: Int64, chains: Sequence[Sequence[Track]], logits: Float32, min_class_cosine: float
) -> Int64:
    """`chain_of` (S,), with -1 for strays whose `logits` (S, C) contradict the class scores of their chain."""
    if logits.shape[1] < 2:
        return chain_of
    agreed = chain_of.copy()
    for n in np.unique(chain_of[chain_of >= 0]).tolist():
        own = np.flatnonzero(chain_of == n)
        alike = class_scores.agree(logits[own], class_scores.summed_up(chains[n])[None], min_class_cosine)
        agreed[own[~alike]] = -1
    return agreed


def _near(sought: Float64, strays: Float64, first: Int64, stop: Int64) -> tuple[Int64, Int64, Float64]:
    """The pairs of a `measured` box (6, K) that is sought and one of the strays (6, S) from number `first` (K,) to
    before `stop` (K,), whose overlap is enough: row numbers (P,) of both, and the overlap (P,).
    """
    found = [(first[:0], first[:0], sought[0, :0])]
    for i, j in pairs.ranges(first, stop):
        overlap, _ = boxes.upright_iou(sought.take(i, axis=1), strays.take(j, axis=1))
        kept = np.flatnonzero(overlap >= MIN_OVERLAP)
        found.append((i[kept], j[kept], overlap[kept]))
    i, j, overlap = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return i, j, overlap
