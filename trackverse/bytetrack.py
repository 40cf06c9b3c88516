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

from dataclasses import dataclass, field

import numpy as np

from trackverse import boxes
from trackverse.association import assign, cosine_distance
from trackverse.kalman import KalmanState
from trackverse.types import Bool, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import unit

# 99 % of a two-dimensional normal distribution's squared Mahalanobis distances: beyond it is a jump, not a motion.
MAX_GATE = 9.21
# Overlap alone decides where there is no appearance: ByteTrack's own limit on 1 − IoU.
MAX_OVERLAP_COST = 0.9
# ByteTrack's limit on 1 − IoU for tracks that were seen only once.
MAX_TENTATIVE_COST = 0.7
# With how many other objects in view half of the mean embedding is taken off: see `_centred`.
CENTRE_PRIOR = 4
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


@dataclass
class _History:
    """What a live track has seen so far, a row a frame."""

    times_s: list[float] = field(default_factory=list)
    xyxy: list[Float32] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    logits: list[Float32] = field(default_factory=list)
    embedding_sum: Float32 | float = 0.0

    def add(self, time_s: float, detections: Detections, n: int) -> None:
        """One more frame: row `n` of its detections. Copied, since a view would keep the whole frame's arrays alive."""
        self.times_s.append(time_s)
        self.xyxy.append(detections.xyxy[n].copy())
        self.scores.append(float(detections.scores[n]))
        self.logits.append(detections.logits[n].copy())
        self.embedding_sum = self.embedding_sum + detections.embeddings[n]

    def track(self) -> Track:
        embedding = np.asarray(self.embedding_sum, np.float32)
        return Track(
            np.array(self.times_s),
            np.stack(self.xyxy),
            np.array(self.scores, np.float32),
            np.stack(self.logits),
            unit(embedding[None])[0],
        )


class ByteTracker:
    """The tracks of one clip. Struct of arrays: row n of every array is the same live track.

    `centre_embeddings`: compare appearances after taking off what all objects share. For colours and for features of a
    network that was trained to tell classes apart, which are all alike; features that tell objects apart lose by it.
    """

    def __init__(self, config: ByteTrackConfig, *, centre_embeddings: bool = False) -> None:
        self._config = config
        self._centre_embeddings = centre_embeddings
        self._time_s: float | None = None
        self._shortest_step_s = np.inf  # between two frames so far
        self._kalman = KalmanState.empty()
        self._last_seen_s: Float64 = np.zeros(0)
        self._embeddings: Float32 | None = None  # (N, D) from the first frame on
        self._histories: list[_History] = []
        self._embedding_sum: Float32 | float = 0.0  # of all detections so far, for `_centred`
        self._num_embeddings = 0
        self._num_frames_with_objects = 0

    def update(self, time_s: float, detections: Detections) -> list[Track]:
        """Take in the detections of a frame; returns the tracks that ended, each once.

        Boxes must be finite and not empty (see `tracking.usable`). Raises ValueError if time does not rise.
        """
        if self._time_s is not None:
            if not time_s > self._time_s:
                raise ValueError(f"time {time_s} s does not follow {self._time_s} s")
            self._shortest_step_s = min(self._shortest_step_s, time_s - self._time_s)
            self._kalman.predict(time_s - self._time_s)
        patience_s = max(self._config.max_lost_s, MIN_HOLE_STEPS * self._shortest_step_s)
        ended = self._end(time_s - self._last_seen_s > patience_s + ROUNDING_S)
        was_seen = self._last_seen_s == self._time_s
        self._time_s = time_s
        self._embedding_sum = self._embedding_sum + detections.embeddings.sum(axis=0)
        self._num_embeddings += len(detections)
        self._num_frames_with_objects += bool(len(detections))
        self._associate(detections, was_seen)
        # A track that was seen in one frame only is not looked for: most are slips of the detector.
        return ended + self._end((self._last_seen_s < time_s) & self._is_tentative())

    def finish(self) -> list[Track]:
        """The tracks that are still alive; the tracker is empty afterwards."""
        return self._end(np.ones(len(self._histories), bool))

    def _associate(self, detections: Detections, was_seen: Bool) -> None:
        """Match the frame's detections to the tracks as they stand, then start tracks from what is left."""
        config = self._config
        overlap_cost = 1.0 - boxes.iou(boxes.xyah_to_xyxy(self._kalman.mean), detections.xyxy.astype(np.float64))
        cost, max_cost = self._confident_cost(detections, overlap_cost)
        tentative = self._is_tentative()
        confident = detections.scores >= config.track_thresh
        free_tracks, free = np.ones(len(tentative), bool), np.ones(len(detections), bool)

        def match(tracks: Bool, candidates: Bool, cost: Float64, max_cost: float) -> None:
            rows, columns = np.flatnonzero(tracks & free_tracks), np.flatnonzero(candidates & free)
            i, j = assign(cost[np.ix_(rows, columns)], max_cost)
            free_tracks[rows[i]], free[columns[j]] = False, False
            self._extend(rows[i], detections.select(columns[j]))

        match(~tentative, confident, cost, max_cost)
        match(tentative, confident, overlap_cost, MAX_TENTATIVE_COST)
        match(was_seen, ~confident, overlap_cost, config.low_match_thresh)
        new = free & (detections.scores >= config.track_thresh + config.new_track_margin)
        self._start(detections.select(new))

    def _confident_cost(self, detections: Detections, overlap_cost: Float64) -> tuple[Float64, float]:
        """Cost (N, M) of giving tracks confident detections, inf beyond reach; and the largest cost to accept."""
        gate = self._kalman.gate(boxes.xyxy_to_xyah(detections.xyxy.astype(np.float64)))
        reachable = (overlap_cost < 1) | (gate <= MAX_GATE)
        if self._embeddings is None or not self._embeddings.shape[1]:
            return np.where(reachable, overlap_cost, np.inf), MAX_OVERLAP_COST
        distance = cosine_distance(self._centred(self._embeddings), self._centred(detections.embeddings))
        weight = self._config.motion_weight
        cost = weight * overlap_cost + (1 - weight) * distance
        return np.where(reachable, cost, np.inf), self._config.match_thresh

    def _centred(self, embeddings: Float32) -> Float32:
        """With `centre_embeddings`, less a share of what all detections of the clip so far have in common.

        Of n objects in view, each is 1/n of that itself, and an object alone is all of it: the share grows with the
        mean number of other objects.
        """
        if not self._centre_embeddings:
            return embeddings
        num_others = self._num_embeddings / max(self._num_frames_with_objects, 1) - 1
        share = max(num_others, 0.0) / (max(num_others, 0.0) + CENTRE_PRIOR)
        mean = self._embedding_sum / np.float32(max(self._num_embeddings, 1))
        centred: Float32 = embeddings - np.float32(share) * mean
        return centred

    def _extend(self, rows: Int64, detections: Detections) -> None:
        """Give the tracks of `rows` (K,) one detection each."""
        assert self._time_s is not None
        self._kalman.update(rows, boxes.xyxy_to_xyah(detections.xyxy.astype(np.float64)))
        self._last_seen_s[rows] = self._time_s
        for row, n in zip(rows, range(len(detections)), strict=True):
            self._histories[row].add(self._time_s, detections, n)
        # A doubtful detection is mostly an occluded one: its appearance is another object's.
        sure = detections.scores >= self._config.track_thresh
        if self._embeddings is not None:
            momentum = self._config.embedding_momentum
            smooth = momentum * self._embeddings[rows[sure]] + (1 - momentum) * detections.embeddings[sure]
            self._embeddings[rows[sure]] = unit(smooth)

    def _start(self, detections: Detections) -> None:
        """A new track for each detection."""
        assert self._time_s is not None
        self._kalman = self._kalman.join(KalmanState.start(boxes.xyxy_to_xyah(detections.xyxy.astype(np.float64))))
        self._last_seen_s = np.append(self._last_seen_s, np.full(len(detections), self._time_s))
        embeddings = detections.embeddings
        self._embeddings = embeddings if self._embeddings is None else np.concatenate([self._embeddings, embeddings])
        for n in range(len(detections)):
            self._histories.append(_History())
            self._histories[-1].add(self._time_s, detections, n)

    def _end(self, ended: Bool) -> list[Track]:
        """Take tracks out of the live ones and return them."""
        if not ended.any():
            return []
        tracks = []
        for row in np.flatnonzero(ended):
            tracks.append(self._histories[row].track())
            self._histories[row] = _History()  # so that its copy in the track is the only one
        self._kalman = self._kalman.select(~ended)
        self._last_seen_s = self._last_seen_s[~ended]
        if self._embeddings is not None:
            self._embeddings = self._embeddings[~ended]
        self._histories = [self._histories[row] for row in np.flatnonzero(~ended)]
        return tracks

    def _is_tentative(self) -> Bool:
        """(N,): seen in one frame so far."""
        return np.array([len(history.times_s) == 1 for history in self._histories], bool)
