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
from trackverse.live import LiveTracks
from trackverse.types import ROUNDING_S, Bool, Float32, Int64, Track

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
    direction = _Backward()
    for time_s, rows in zip(steps.tolist(), np.split(order, first[1:]), strict=True):
        labels[rows] = direction.take(time_s, xyxy[rows], is_sure[rows])
    return labels


class _Backward:
    """The tracks of one direction of time."""

    def __init__(self) -> None:
        self._live = LiveTracks()
        self._num_tracks = 0
        self._time_s = -np.inf  # of the last frame

    def take(self, time_s: float, xyxy: Float32, is_sure: Bool) -> Int64:
        """The numbers (N,) of the tracks that a frame's boxes (N, 4) go to, -1 for none."""
        live = self._live
        live.predict(time_s - self._time_s)
        live.keep((live.last_seen_s >= time_s - MAX_LOST_S - ROUNDING_S).nonzero()[0])
        numbers = np.full(len(xyxy), -1)
        rows, columns = self._pairs(xyxy, is_sure)
        live.see(rows, time_s, xyxy[columns])
        numbers[columns] = live.numbers[rows]
        # A track that was seen in one frame only is not looked for, as online.
        live.keep((~live.is_tentative).nonzero()[0])
        new = np.flatnonzero(is_sure & (numbers < 0))
        numbers[new] = self._num_tracks + np.arange(len(new))
        live.start(numbers[new], time_s, xyxy[new])
        self._num_tracks += len(new)
        self._time_s = time_s
        return numbers

    def _pairs(self, xyxy: Float32, is_sure: Bool) -> tuple[Int64, Int64]:
        """Rows of the tracks and of the boxes (N, 4) that belong together."""
        tracks, seen = self._live.kalman.xyxy.astype(np.float32), np.asfortranarray(xyxy)
        rows, columns = boxes.near_pairs(tracks, seen)
        overlap = boxes.upright_iou_of_pairs(tracks, rows, seen, columns)
        sure = is_sure.take(columns)
        # A doubtful detection goes on with a track that was there a frame ago, or with none.
        was_seen = self._live.last_seen_s == self._time_s
        least = np.where(was_seen, np.float32(1 - MAX_DOUBTFUL_COST), np.float32(np.inf)).take(rows)
        least[sure] = 1 - MAX_COST
        chosen = assign(rows, columns, overlap - least, np.where(sure, 0, 1))
        return rows[chosen], columns[chosen]
