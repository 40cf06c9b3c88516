"""Online association of detections into tracks: ByteTrack (Zhang et al. 2022) with appearance and true time.

    tracker = ByteTracker(config)
    for time_s, detections in ...:
        ended += tracker.update(time_s, detections)
    ended += tracker.finish()

A frame is associated in three steps (§3): confident detections with the tracks, by motion and appearance; those left
with tracks that were seen only once, by overlap; doubtful detections with the tracks that were there a frame ago and
are left, by overlap. What is left of the confident detections starts new tracks. Every track is returned exactly once,
whole, when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from trackverse import boxes
from trackverse.association import assign, cosine
from trackverse.history import Histories
from trackverse.kalman import Agility, KalmanState
from trackverse.types import Bool, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import unit

# 99 % of a two-dimensional normal distribution's squared Mahalanobis distances: beyond it is a jump, not a motion.
MAX_GATE = 9.21
# Overlap alone decides where there is no appearance: ByteTrack's own limit on 1 − IoU.
MAX_OVERLAP_COST = 0.9
# ByteTrack's limit on 1 − IoU for tracks that were seen only once.
MAX_TENTATIVE_COST = 0.7
# Cost of a class distribution at a right angle to the track's: it decides between boxes that overlap nearly equally and
# never against a clear overlap.
CLASS_WEIGHT = 0.05
# With how many other objects in view half of the mean embedding is taken off: see `_centred`.
CENTRE_PRIOR = 4
# A box of which this share lies behind another one still shows its own object; one with `CLEAR_MARGIN` more shows the
# other one. In between its looks count in part, and always `MIN_VIEW`, so that what is hidden all its life has some.
CLEAR_SHARE, CLEAR_MARGIN, MIN_VIEW = np.float32(0.4), np.float32(0.5), np.float32(0.05)
# However rarely frames come, the next one is in time: only a step this many times as long as the shortest is a hole.
MIN_HOLE_STEPS = 1.5
# Frame times are rounded: 8 frames of 0.1 s must not come out as more than 0.8 s.
ROUNDING_S = 1e-6


@dataclass(frozen=True)
class ByteTrackConfig:
    """Thresholds of the association; the defaults are the published ones for Detic's scores. Kept when `>=`.

    `track_thresh`: from this score on a detection is confident. `new_track_margin`: how much more starts a track.
    `match_thresh`: largest cost of confident pairs, `motion_weight` × (1 − IoU) + the rest × cosine distance.
    `low_match_thresh`: largest 1 − IoU of doubtful pairs. `max_lost_s`: how long an unseen track is looked for, at
    frame rates so low that it is less than a frame: in the next frame.
    `embedding_momentum`: share of the old appearance that a new detection leaves.
    """

    track_thresh: float = 0.55
    new_track_margin: float = 0.1
    match_thresh: float = 0.45
    low_match_thresh: float = 0.5
    motion_weight: float = 0.4
    max_lost_s: float = 0.8
    embedding_momentum: float = 0.5


class ByteTracker:
    """The tracks of one clip. Struct of arrays: row n of every array is the same live track.

    `centre_embeddings`: compare appearances after taking off what all objects share. For colours and for features of a
    network that was trained to tell classes apart, which are all alike; features that tell objects apart lose by it.
    `scores_file`: where the class scores of live tracks lie, in place of memory.
    """

    def __init__(
        self, config: ByteTrackConfig, *, centre_embeddings: bool = False, scores_file: IO[bytes] | None = None
    ) -> None:
        self._config = config
        self._centre_embeddings = centre_embeddings
        self._time_s: float | None = None
        self._shortest_step_s = np.inf  # between two frames so far
        self._live = _Live.none()
        self._agility = Agility()
        self._histories = Histories(scores_file)
        self._embedding_sum: Float32 | float = 0.0  # of all detections so far, for `_centred`
        self._num_embeddings = 0
        self._num_frames_with_objects = 0

    def update(self, time_s: float, detections: Detections, camera: Float64 | None = None) -> list[Track]:
        """Take in the detections of a frame; returns the tracks that ended, each once.

        `camera` (2, 3): how the picture moved since the frame before, in px (see `camera.py`). Boxes must be finite and
        not empty (see `tracking.usable`). Raises ValueError if time does not rise.
        """
        live = self._live
        if self._time_s is not None:
            if not time_s > self._time_s:
                raise ValueError(f"time {time_s} s does not follow {self._time_s} s")
            self._shortest_step_s = min(self._shortest_step_s, time_s - self._time_s)
            live.kalman.predict(time_s - self._time_s, self._agility.value)
        if camera is not None:
            live.kalman.move(camera)
        patience_s = max(self._config.max_lost_s, MIN_HOLE_STEPS * self._shortest_step_s)
        ended = self._end(live.last_seen_s < time_s - patience_s - ROUNDING_S)
        was_seen = self._live.last_seen_s == self._time_s
        self._time_s = time_s
        if self._centre_embeddings:
            self._embedding_sum = self._embedding_sum + detections.embeddings.sum(axis=0)
            self._num_embeddings += len(detections)
            self._num_frames_with_objects += bool(len(detections))
        self._associate(detections, was_seen)
        # A track that was seen in one frame only is not looked for: most are slips of the detector.
        return ended + self._end((self._live.num_seen == 1) & (self._live.last_seen_s < time_s))

    def finish(self) -> list[Track]:
        """The tracks that are still alive; the tracker is empty afterwards."""
        return list(self.drain())

    def drain(self) -> Iterator[Track]:
        """As `finish`, one track at a time, so that the class scores of only one need be in memory."""
        slots, self._live = self._live.slots.tolist(), self._live.select(np.zeros(len(self._live), bool))
        yield from map(self._histories.take, slots)

    def _associate(self, detections: Detections, was_seen: Bool) -> None:
        """Match the frame's detections to the tracks as they stand, then start tracks from what is left."""
        if not len(detections):
            return
        config, live = self._config, self._live
        overlap = boxes.upright_iou(live.kalman.xyxy.astype(np.float32), detections.xyxy)
        confident = detections.scores >= config.track_thresh
        tentative = live.num_seen == 1
        views = _views(detections)
        track_of = np.full(len(detections), -1)  # row of the track that a detection goes to
        free_tracks, free = np.ones(len(live), bool), np.ones(len(detections), bool)

        def match(tracks: Bool, candidates: Bool, max_cost: float, *, by_looks: bool = False) -> None:
            rows, columns = (tracks & free_tracks).nonzero()[0], (candidates & free).nonzero()[0]
            if not len(rows) or not len(columns):
                return
            cost = 1 - overlap.take(rows, axis=0).take(columns, axis=1)
            if by_looks:
                cost = self._weigh_looks(cost, rows, detections, columns)
            if detections.logits.shape[1] > 1:
                cost[cost > max_cost] = np.inf
                cost += self._contradiction(rows, detections.logits[columns])
                max_cost += CLASS_WEIGHT
            i, j = assign(cost, max_cost)
            free_tracks[rows[i]], free[columns[j]] = False, False
            track_of[columns[j]] = rows[i]

        if detections.embeddings.shape[1]:
            match(~tentative, confident, config.match_thresh, by_looks=True)
        else:
            match(~tentative, confident, MAX_OVERLAP_COST)
        match(tentative, confident, MAX_TENTATIVE_COST)
        match(was_seen, ~confident, config.low_match_thresh)
        if not free_tracks.all():
            columns = (~free).nonzero()[0]
            self._extend(track_of[columns], detections.select(columns), views[columns])
        new = free & (detections.scores >= config.track_thresh + config.new_track_margin)
        if new.any():
            self._start(detections.select(new), views[new])

    def _weigh_looks(self, overlap_cost: Float32, rows: Int64, detections: Detections, columns: Int64) -> Float32:
        """Cost (K, L) of giving the tracks of `rows` (K,) the detections of `columns` (L,), inf beyond reach."""
        weight = np.float32(self._config.motion_weight)
        seen = self._centred(detections.embeddings[columns])
        cost = cosine(self._centred(self._live.embeddings[rows]), seen)
        cost -= 1
        cost *= weight - 1
        cost += weight * overlap_cost
        # Where looks may outvote motion, boxes that don't overlap can be one object, if it is a motion and no jump.
        if weight <= self._config.match_thresh:
            jump = (overlap_cost == 1) & (cost <= self._config.match_thresh)
            i, j = np.divmod(jump.ravel().nonzero()[0], len(columns))
            too_far = self._live.kalman.distance(rows[i], detections.xyxy[columns[j]]) > MAX_GATE
            cost[i[too_far], j[too_far]] = np.inf
        return cost

    def _contradiction(self, rows: Int64, logits: Float32) -> Float32:
        """(K, L): 0 where the detections' class scores (L, C) are distributed as the track's over time, `CLASS_WEIGHT`
        where they have nothing in common.
        """
        return np.float32(CLASS_WEIGHT) * (1 - cosine(unit(self._live.class_scores[rows]), logits))

    def _centred(self, embeddings: Float32) -> Float32:
        """(N, D) at unit length; with `centre_embeddings`, less a share of what all detections of the clip so far have
        in common.

        Of n objects in view, each is 1/n of that itself, and an object alone is all of it: the share grows with the
        mean number of other objects.
        """
        if not self._centre_embeddings:
            return embeddings
        num_others = self._num_embeddings / max(self._num_frames_with_objects, 1) - 1
        share = max(num_others, 0.0) / (max(num_others, 0.0) + CENTRE_PRIOR)
        mean = self._embedding_sum / np.float32(max(self._num_embeddings, 1))
        return unit(embeddings - np.float32(share) * mean)

    def _extend(self, rows: Int64, detections: Detections, views: Float32) -> None:
        """Give the tracks of `rows` (K,) one detection each, whose looks count `views` (K,)."""
        assert self._time_s is not None
        live = self._live
        self._agility.learn(live.kalman.update(rows, detections.xyxy))
        live.last_seen_s[rows] = self._time_s
        live.num_seen[rows] += 1
        if detections.logits.shape[1] > 1:
            live.class_scores[rows] += detections.logits
        self._histories.add(live.slots[rows], self._time_s, detections, views)
        if not detections.embeddings.shape[1]:
            return
        # A doubtful detection is mostly an occluded one: its appearance is another object's.
        sure = (detections.scores >= self._config.track_thresh).nonzero()[0]
        share = (1 - np.float32(self._config.embedding_momentum)) * views[sure, None]
        smooth = live.embeddings[rows[sure]]
        smooth *= 1 - share
        smooth += share * detections.embeddings[sure]
        live.embeddings[rows[sure]] = unit(smooth)

    def _start(self, detections: Detections, views: Float32) -> None:
        """A new track for each detection, whose looks count `views` (N,)."""
        assert self._time_s is not None
        slots = self._histories.open(detections)
        self._histories.add(slots, self._time_s, detections, views)
        self._live = self._live.join(_Live.start(self._time_s, detections, slots))

    def _end(self, ended: Bool) -> list[Track]:
        """Take tracks out of the live ones and return them."""
        if not ended.any():
            return []
        tracks = [self._histories.take(slot) for slot in self._live.slots[ended].tolist()]
        self._live = self._live.select(~ended)
        return tracks


def _views(detections: Detections) -> Float32:
    """How much (N,) the looks of detections say about themselves: 1 in plain view, next to nothing where another object
    stands before them, whose looks they have.
    """
    if not detections.embeddings.shape[1]:
        return np.ones(len(detections), np.float32)
    in_view = CLEAR_SHARE + CLEAR_MARGIN - boxes.hidden_share(detections.xyxy)
    views: Float32 = np.minimum(np.maximum(in_view / CLEAR_MARGIN, MIN_VIEW), np.float32(1))
    return views


@dataclass
class _Live:
    """The live tracks, a row each: `num_seen` (N,) frames, `embeddings` (N, D) of unit length, `class_scores` (N, C)
    summed over time, `slots` (N,) of `Histories`.
    """

    kalman: KalmanState
    last_seen_s: Float64
    num_seen: Int64
    slots: Int64
    embeddings: Float32
    class_scores: Float32

    def __len__(self) -> int:
        return len(self.slots)

    @staticmethod
    def none() -> _Live:
        return _Live.start(0.0, Detections.empty(0, 0), np.zeros(0, np.int64))

    @staticmethod
    def start(time_s: float, detections: Detections, slots: Int64) -> _Live:
        """Tracks of one detection each."""
        num = len(detections)
        return _Live(
            KalmanState.start(detections.xyxy),
            np.full(num, time_s),
            np.ones(num, np.int64),
            slots,
            unit(detections.embeddings),
            detections.logits.copy(),
        )

    def select(self, rows: Bool) -> _Live:
        return _Live(
            self.kalman.select(rows),
            self.last_seen_s[rows],
            self.num_seen[rows],
            self.slots[rows],
            self.embeddings[rows],
            self.class_scores[rows],
        )

    def join(self, other: _Live) -> _Live:
        """These tracks, then the other ones."""
        if not len(self):  # in the first frame these don't know yet how wide the rows are
            return other
        return _Live(
            self.kalman.join(other.kalman),
            np.concatenate([self.last_seen_s, other.last_seen_s]),
            np.concatenate([self.num_seen, other.num_seen]),
            np.concatenate([self.slots, other.slots]),
            np.concatenate([self.embeddings, other.embeddings]),
            np.concatenate([self.class_scores, other.class_scores]),
        )
