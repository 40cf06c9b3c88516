"""Which links of the online tracks hold in both directions of time?

The online pass knows only what came before: where one object hides another, it takes the wrong one out at the other
side now and then. Associated from the last frame to the first one, the same detections are taken wrong elsewhere. What
both directions agree upon is nearly always one object; where they don't, nothing is sure, and all evidence of the shot
has to decide (`refine.py`).

A clip is cut into stretches, which are gone through side by side, a frame of each at a time, because numpy takes nearly
as long for ten boxes as for a hundred. At its later end, a stretch goes on with the online tracks that are there, whose
boxes tell how they move; afterwards these get the numbers that they have in the stretch that they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trackverse import boxes
from trackverse.association import LOST_MARGIN, MAX_OVERLAP_COST, assign
from trackverse.live import LiveTracks
from trackverse.rows import Rows
from trackverse.ticks import usual_step_s
from trackverse.types import ROUNDING_S, Bool, Float32, Float64, Int64, Track

LEAST_DOUBTFUL = 0.5  # ByteTrack's, of the overlap of doubtful detections
# The turns in which pairs are matched, confident detections first, then doubtful ones, and the overlap that each takes.
# Arrays, as numpy takes longer to make one of a number than to compute with it.
SURE, DOUBTFUL_AND_LOST = np.array(0), np.array(2)
LEAST_OVERLAP = np.array([1 - MAX_OVERLAP_COST, LEAST_DOUBTFUL, LEAST_DOUBTFUL + LOST_MARGIN], np.float32)
MAX_LOST_S = 1.0  # how long an unseen track is looked for; half as long finds less, twice as long no more
# Of a stretch: at its ends, it isn't seen what an online track did wrong there, and 2 s find a little less for it.
MIN_STRETCH_S, MIN_STRETCH_FRAMES = 4.0, 16
MAX_BESIDE = 512  # boxes that are gone through side by side; more take no less time in one go
KNOWN_S = 0.5  # for so long, online tracks tell how they move before a stretch begins


def backward(tracks: Sequence[Track], sure_score: float) -> Int64:
    """The numbers (T,) of the backward tracks that the detections of the tracks, one track after the other, are in; -1
    for none. `sure_score`: from this score on, a detection is confident.
    """
    if not tracks:
        return np.zeros(0, np.int64)
    rows = Rows.of(tracks)
    seen_s = -rows.times_s
    times_s = np.unique(seen_s)
    frame_of = np.searchsorted(times_s, seen_s)  # which `unique` takes twice as long to tell
    columns = boxes.measured(rows.xyxy.T)
    is_sure = np.concatenate([track.scores for track in tracks]) >= sure_score
    plan = _plan(times_s, frame_of, rows.owner)
    columns, is_sure = columns.take(plan.row, axis=1), is_sure.take(plan.row)
    direction, numbers = _Backward(plan), []
    for step, (start, stop) in enumerate(pairwise(plan.first.tolist())):
        part = slice(start, stop)
        online = plan.online[part] if step < plan.num_known else None
        direction.go_on(plan.times_s[step])
        numbers.append(direction.take(columns[:, part], is_sure[part], plan.stretch[part], online))
    return _joined(plan, np.concatenate(numbers))


def doubts(labels: Int64, lengths: Int64) -> Int64:
    """The rows, rising, before which a track may have gone over to another object: its backward `labels` change there.
    Those of no track (-1) go with the one before. `labels` (T,) of tracks of these `lengths` (N,), one after the other.
    """
    known = np.flatnonzero(labels >= 0)
    track_of = np.repeat(np.arange(len(lengths)), lengths)[known]
    doubted: Int64 = known[1:][(np.diff(labels[known]) != 0) & (np.diff(track_of) == 0)]
    return doubted


@dataclass(frozen=True)
class _Plan:
    """How T detections in F frames are gone through, K stretches side by side.

    Step n takes the detections `row` (P,) of the `stretch` (P,) from number `first[n]` to before `first[n + 1]`, when
    the stretches are at `times_s[n]`, (steps, K). In the first `num_known` steps these are detections of the stretch
    before, and it is known which belong together: those of the same number `online` (P,), of `num_online`; later -1.
    """

    row: Int64
    stretch: Int64
    first: Int64
    times_s: Float64
    online: Int64
    num_online: int
    num_known: int

    @property
    def num_stretches(self) -> int:
        return int(self.times_s.shape[1])


def _plan(times_s: Float64, frame_of: Int64, track_of: Int64) -> _Plan:
    """For frames at `times_s` (F,), rising, and detections in the frames (T,) and online tracks (T,) given."""
    num_frames = len(times_s)
    step_s = usual_step_s(times_s)
    shortest = max(MIN_STRETCH_S / step_s, MIN_STRETCH_FRAMES, len(frame_of) / MAX_BESIDE)  # frames
    num_stretches = max(int(num_frames / shortest), 1)
    begin = np.arange(num_stretches + 1) * num_frames // num_stretches
    num_known = min(int(KNOWN_S / step_s) + 1, int(np.diff(begin).min())) if num_stretches > 1 else 0
    stretch = np.searchsorted(begin, frame_of, side="right") - 1
    to_next = begin.take(stretch + 1) - frame_of  # frames
    known = np.flatnonzero((to_next <= num_known) & (stretch < num_stretches - 1))
    own, next_ = np.arange(len(frame_of)), stretch[known] + 1
    tracks, online = np.unique(next_ * (track_of.max() + 1) + track_of[known], return_inverse=True)
    row, online = np.concatenate([own, known]), np.concatenate([np.full(len(own), -1), online])
    step = num_known + np.concatenate([frame_of - begin.take(stretch), -to_next[known]])
    stretch = np.concatenate([stretch, next_])
    order = np.argsort(step * num_stretches + stretch, kind="stable")
    steps = np.arange(num_known + int(np.diff(begin).max()))
    first = np.searchsorted(step[order], np.append(steps, len(steps)))
    frames = np.clip(steps[:, None] - num_known + begin[:-1], 0, begin[1:] - 1)
    return _Plan(row[order], stretch[order], first, times_s[frames], online[order], len(tracks), num_known)


class _Backward:
    """The tracks of one direction of time. The number of a track in the k-th of K stretches leaves the remainder k when
    it is divided by K.
    """

    def __init__(self, plan: _Plan) -> None:
        self._live = LiveTracks()
        self._num_stretches = plan.num_stretches
        self._num_online = self._num_tracks = plan.num_online
        self._time_s = self._time_before_s = plan.times_s[0]  # of this frame of each stretch and of the one before it

    def go_on(self, time_s: Float64) -> None:
        """To the frames at `time_s` (K,)."""
        live, own = self._live, self._stretches()
        self._time_before_s, self._time_s = self._time_s, time_s
        live.predict((time_s - self._time_before_s).take(own))
        live.keep((live.last_seen_s >= time_s.take(own) - MAX_LOST_S - ROUNDING_S).nonzero()[0])

    def take(self, seen: Float32, is_sure: Bool, stretch: Int64, online: Int64 | None) -> Int64:
        """The numbers (N,) of the tracks that the `measured` boxes (6, N) in a stretch (N,) each go to; -1 for none.
        `online` (N,): the numbers of their online tracks, where it is known what belongs together.
        """
        live, xyxy, time_s = self._live, seen[:4].T, self._time_s.take(stretch)
        rows, columns = self._pairs(seen, is_sure, stretch) if online is None else self._known(online)
        live.see(rows, time_s.take(columns), xyxy.take(columns, axis=0))
        numbers = np.full(len(stretch), -1)
        numbers[columns] = live.numbers.take(rows)
        # A track that was seen in one frame only is not looked for, as online.
        live.keep((~live.is_tentative).nonzero()[0])
        new = (is_sure & (numbers < 0)).nonzero()[0]
        if online is None:
            new_tracks = self._num_tracks + np.arange(len(new))
            self._num_tracks += len(new)
        else:
            new_tracks = online[new]
        numbers[new] = new_tracks * self._num_stretches + stretch[new]
        live.start(numbers[new], time_s[new], xyxy[new])
        return numbers

    def _stretches(self) -> Int64:
        """(N,): where the live tracks are."""
        return self._live.numbers % self._num_stretches

    def _known(self, online: Int64) -> tuple[Int64, Int64]:
        """As `_pairs`, for detections of online tracks (N,)."""
        row_of = np.full(self._num_online, -1)
        row_of[self._live.numbers // self._num_stretches] = np.arange(len(self._live))
        rows = row_of.take(online)
        columns = (rows >= 0).nonzero()[0]
        return rows.take(columns), columns

    def _pairs(self, seen: Float32, is_sure: Bool, stretch: Int64) -> tuple[Int64, Int64]:
        """Rows of the tracks and of the `measured` boxes (6, N) that belong together."""
        live, own = self._live, self._stretches()
        tracks = boxes.measured(live.kalman.xyxy.T.astype(np.float32))
        rows, columns = boxes.near_pairs_of_groups(tracks[:4].T, own, seen[:4].T, stretch, self._num_stretches)
        overlap, _ = boxes.upright_iou(tracks.take(rows, axis=1), seen.take(columns, axis=1))
        was_seen = live.last_seen_s == self._time_before_s.take(own)
        turns = np.where(is_sure.take(columns), SURE, (DOUBTFUL_AND_LOST - was_seen).take(rows))
        chosen = assign(rows, columns, overlap - LEAST_OVERLAP.take(turns), turns)
        return rows.take(chosen), columns.take(chosen)


def _joined(plan: _Plan, numbers: Int64) -> Int64:
    """The numbers (T,) of all detections, from those that they have in their stretches (P,): a track that a stretch
    began with goes on with the one that its last known detection has in the stretch before.
    """
    is_known = plan.online >= 0
    labels = np.empty(np.count_nonzero(~is_known), np.int64)
    labels[plan.row[~is_known]] = numbers[~is_known]
    known = np.flatnonzero(is_known & (numbers >= 0))[::-1]  # the last ones first
    known = known[np.sort(np.unique(numbers[known], return_index=True)[1])]
    known = known[labels[plan.row[known]] >= 0]
    # No two go on with the same.
    known = known[np.unique(labels[plan.row[known]], return_index=True)[1]]
    track, before = numbers[known], labels[plan.row[known]]
    joined = np.arange(numbers.max(initial=-1) + 1)
    for stretch in range(1, plan.num_stretches):
        own = plan.stretch[known] == stretch
        joined[track[own]] = joined[before[own]]
    return np.where(labels >= 0, joined.take(labels), -1)
