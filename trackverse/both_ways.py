"""Which links of the online tracks hold in both directions of time?

The online pass knows only what came before: where one object hides another, it takes the wrong one out at the other
side now and then. Associated from the last frame to the first one, the same detections are taken wrong elsewhere. What
both directions agree upon is nearly always one object; where they don't, nothing is sure, and all evidence of the shot
has to decide (`refine.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trackverse import boxes
from trackverse.association import assign
from trackverse.kalman import Agility, KalmanState
from trackverse.types import ROUNDING_S, Bool, Float32, Float64, Int64, Track

# ByteTrack's limits on 1 − IoU, of confident detections and of doubtful ones.
MAX_COST, MAX_DOUBTFUL_COST = 0.9, 0.5
MAX_LOST_S = 1.0  # how long an unseen track is looked for; half as long finds less, twice as long no more


def backward(tracks: Sequence[Track], sure_score: float) -> list[Int64]:
    """For each track, the numbers (T,) of the backward tracks that its detections are in; -1 for none. `sure_score`:
    from this score on, a detection is confident.
    """
    if not tracks:
        return []
    ends = np.cumsum([len(track) for track in tracks])
    return np.split(_backward(tracks, sure_score), ends[:-1])


def doubts(labels: Int64) -> list[int]:
    """The rows, rising, before which a track may have gone over to another object: its backward `labels` (T,) change
    there. Those of no track (-1) go with the one before.
    """
    known = np.flatnonzero(labels >= 0)
    rows: list[int] = known[1:][np.diff(labels[known]) != 0].tolist()
    return rows


def _backward(tracks: Sequence[Track], sure_score: float) -> Int64:
    """The number of the backward track that every detection of the tracks, one after the other, is in; -1 for none."""
    times_s = np.concatenate([track.times_s for track in tracks])
    xyxy = np.concatenate([track.xyxy for track in tracks])
    is_sure = np.concatenate([track.scores for track in tracks]) >= sure_score
    order = np.argsort(-times_s, kind="stable")
    steps, first = np.unique(-times_s[order], return_index=True)
    labels = np.full(len(times_s), -1)
    live = _Live()
    for time_s, rows in zip(steps.tolist(), np.split(order, first[1:]), strict=True):
        labels[rows] = live.take(time_s, xyxy[rows], is_sure[rows])
    return labels


class _Live:
    """The tracks that are looked for: row n of every array is the same one."""

    def __init__(self) -> None:
        self._kalman = KalmanState.start(np.zeros((0, 4)))
        self._agility = Agility()
        self._last_seen_s: Float64 = np.zeros(0)
        self._numbers: Int64 = np.zeros(0, np.int64)
        self._is_new: Bool = np.zeros(0, bool)
        self._num_tracks = 0
        self._time_s: float | None = None

    def take(self, time_s: float, xyxy: Float32, is_sure: Bool) -> Int64:
        """The numbers (N,) of the tracks that a frame's boxes (N, 4) go to, -1 for none."""
        if self._time_s is not None:
            self._kalman.predict(time_s - self._time_s, self._agility.value)
        self._keep(self._last_seen_s >= time_s - MAX_LOST_S - ROUNDING_S)
        numbers = np.full(len(xyxy), -1)
        rows, columns = self._pairs(xyxy, is_sure)
        self._time_s = time_s
        if len(rows):
            self._agility.learn(*self._kalman.update(rows, xyxy[columns]))
            self._last_seen_s[rows] = time_s
            self._is_new[rows] = False
            numbers[columns] = self._numbers[rows]
        # A track that was seen in one frame only is not looked for, as online.
        self._keep(~self._is_new)
        new = np.flatnonzero(is_sure & (numbers < 0))
        if len(new):
            numbers[new] = self._num_tracks + np.arange(len(new))
            self._num_tracks += len(new)
            self._kalman = self._kalman.join(KalmanState.start(xyxy[new]))
            self._last_seen_s = np.append(self._last_seen_s, np.full(len(new), time_s))
            self._numbers = np.append(self._numbers, numbers[new])
            self._is_new = np.append(self._is_new, np.ones(len(new), bool))
        return numbers

    def _pairs(self, xyxy: Float32, is_sure: Bool) -> tuple[Int64, Int64]:
        """Rows of the tracks and of the boxes (N, 4) that belong together."""
        tracks, seen = self._kalman.xyxy.astype(np.float32), np.asfortranarray(xyxy)
        rows, columns = boxes.near_pairs(tracks, seen)
        overlap = boxes.upright_iou_of_pairs(tracks, rows, seen, columns)
        sure = is_sure.take(columns)
        # A doubtful detection goes on with a track that was there a frame ago, or with none.
        was_seen = self._last_seen_s == self._time_s
        least = np.where(was_seen, np.float32(1 - MAX_DOUBTFUL_COST), np.float32(np.inf)).take(rows)
        least[sure] = 1 - MAX_COST
        chosen = assign(rows, columns, overlap - least, np.where(sure, 0, 1))
        return rows[chosen], columns[chosen]

    def _keep(self, kept: Bool) -> None:
        if kept.all():
            return
        self._kalman = self._kalman.select(kept.nonzero()[0])
        self._last_seen_s, self._numbers = self._last_seen_s[kept], self._numbers[kept]
        self._is_new = self._is_new[kept]
