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
# The turns in which pairs are matched, confident detections first, then doubtful ones, and the overlap that each takes.
# Arrays, as numpy takes longer to make one of a number than to compute with it.
SURE, NEVER = np.array(0), np.array(2)
LEAST_OVERLAP = np.array([1 - MAX_COST, 1 - MAX_DOUBTFUL_COST, np.inf], np.float32)
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
    order = np.argsort(-times_s, kind="stable")
    columns = boxes.measured(np.concatenate([track.xyxy for track in tracks]).T).take(order, axis=1)
    is_sure = (np.concatenate([track.scores for track in tracks]) >= sure_score)[order]
    steps, first = np.unique(-times_s[order], return_index=True)
    numbers = np.full(len(times_s), -1)
    direction = _Backward()
    for time_s, start, stop in zip(steps.tolist(), first.tolist(), [*first[1:].tolist(), len(order)], strict=True):
        direction.take(time_s, columns[:, start:stop], is_sure[start:stop], numbers[start:stop])
    labels = np.empty_like(numbers)
    labels[order] = numbers
    return labels


class _Backward:
    """The tracks of one direction of time."""

    def __init__(self) -> None:
        self._live = LiveTracks()
        self._num_tracks = 0
        self._time_s = -np.inf  # of the last frame

    def take(self, time_s: float, seen: Float32, is_sure: Bool, numbers: Int64) -> None:
        """Writes into `numbers` (N,), which are -1, those of the tracks that the `measured` boxes (6, N) go to."""
        live = self._live
        live.predict(time_s - self._time_s)
        live.keep((live.last_seen_s >= time_s - MAX_LOST_S - ROUNDING_S).nonzero()[0])
        rows, columns = self._pairs(seen, is_sure)
        xyxy = seen[:4].T
        live.see(rows, time_s, xyxy.take(columns, axis=0))
        numbers[columns] = live.numbers.take(rows)
        # A track that was seen in one frame only is not looked for, as online.
        live.keep((~live.is_tentative).nonzero()[0])
        new = (is_sure & (numbers < 0)).nonzero()[0]
        if len(new):
            numbers[new] = self._num_tracks + np.arange(len(new))
            live.start(numbers[new], time_s, xyxy[new])
            self._num_tracks += len(new)
        self._time_s = time_s

    def _pairs(self, seen: Float32, is_sure: Bool) -> tuple[Int64, Int64]:
        """Rows of the tracks and of the `measured` boxes (6, N) that belong together."""
        tracks = boxes.measured(self._live.kalman.xyxy.T.astype(np.float32))
        rows, columns = boxes.near_pairs(tracks[:4].T, seen[:4].T)
        overlap, _ = boxes.upright_iou(tracks.take(rows, axis=1), seen.take(columns, axis=1))
        # A doubtful detection goes on with a track that was there a frame ago, or with none.
        was_seen = self._live.last_seen_s == self._time_s
        turns = np.where(is_sure.take(columns), SURE, (NEVER - was_seen).take(rows))
        chosen = assign(rows, columns, overlap - LEAST_OVERLAP.take(turns), turns)
        return rows.take(chosen), columns.take(chosen)
