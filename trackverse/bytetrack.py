"""Online association of detections into tracks: ByteTrack (Zhang et al. 2022) with appearance and true time.

    tracker = ByteTracker(config)
    for time_s, detections in ...:
        ended += tracker.update(time_s, detections)
    ended += tracker.finish()

A frame is associated in three steps (§3): confident detections with the tracks, by motion and appearance; those left
with tracks that were seen only once, likewise; doubtful detections with the tracks that are left, by overlap, those
that were there a frame ago first. What is left of the confident detections starts new tracks. Every track is returned
exactly once, whole, when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, NamedTuple

import numpy as np

from trackverse import class_scores
from trackverse.association import LOST_MARGIN, MAX_OVERLAP_COST, assign, assign_lazily
from trackverse.boxes import NOTHING
from trackverse.camera_shift import CameraShift
from trackverse.common_look import CommonLook
from trackverse.history import Histories
from trackverse.kalman import Innovations
from trackverse.live import LiveTracks
from trackverse.strays import Strays
from trackverse.types import LOOK_FRAMES, ROUNDING_S, Bool, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import TINY, cosines, lengths, unit
from trackverse.views import Near, near_and_views, overlapping

# 99 % of a two-dimensional normal distribution's squared Mahalanobis distances: beyond it is a jump, not a motion.
MAX_GATE = 9.21
# Cost of a class distribution at a right angle to the track's: it decides between boxes that overlap nearly equally and
# never against a clear overlap.
CLASS_WEIGHT = 0.05
# Class scores that have hardly anything in common are of another object (a jersey, where its wearer isn't detected),
# unless the boxes overlap well: then, the detector has slipped in the class. With a cosine of 0.3 or an overlap of 0.5,
# tracks of detectors that waver between classes lose as much as is gained.
NO_LIKENESS, LEAST_STRANGE_OVERLAP = np.array(0.1, np.float32), np.array(0.4, np.float32)
# However rarely frames come, the next one is in time: only a step this many times as long as the shortest is a hole.
MIN_HOLE_STEPS = 1.5
UNIT_TOLERANCE = 0.01  # what was stored with fewer digits is a bit off
LEAST_SHARE = 1e-6  # of the old appearance, and of the new one
# Pairs with so many numbers of looks and class scores to compare take longer than finding out which ones decide.
MANY_FLOATS = 150_000
# The turns in which pairs are matched: confident detections with tracks (0), and with those that were seen only once
# (1); doubtful ones with tracks that were there a frame ago (2), and with others (3). An array, as numpy takes longer
# to make one of a number than to compute with it.
DOUBTFUL_AND_LOST = np.array(3)


@dataclass(frozen=True)
class ByteTrackConfig:
    """Thresholds of the association; the defaults are the published ones for Detic's scores. Kept when `>=`.

    `track_thresh`: from this score on a detection is confident. `new_track_margin`: how much more starts a track.
    `match_thresh`: largest cost of confident pairs, `motion_weight` × (1 − IoU) + the rest × cosine distance.
    `low_match_thresh`: largest 1 − IoU of doubtful pairs. `max_lost_s`: how long an unseen track is looked for, at
    frame rates so low that it is less than a frame: in the next frame.
    `embedding_momentum`: share of the old appearance that a new detection leaves. `max_common_likeness`: how alike
    different objects of a class may look, by cosine; what they have more in common is taken off (see `common_look.py`).
    The larger `match_thresh`, the less: with 0.45, 0.5 does best in crowds, with 0.6 it is 0.2 to 0.4.
    """

    track_thresh: float = 0.55
    new_track_margin: float = 0.1
    match_thresh: float = 0.45
    low_match_thresh: float = 0.5
    motion_weight: float = 0.4
    max_lost_s: float = 0.8
    embedding_momentum: float = 0.5
    max_common_likeness: float = 0.5


class ByteTracker:
    """The tracks of one clip. Struct of arrays: row n of every array is the same live track.

    `look_frames`: detections that go into one look of a track, see `types.look_frames`.
    `spool_file`: where the past of live tracks lies, in place of memory, which stays the same however long they are.
    `strays` get the detections that no track takes.
    """

    def __init__(
        self,
        config: ByteTrackConfig,
        *,
        look_frames: int = LOOK_FRAMES,
        spool_file: IO[bytes] | None = None,
        strays: Strays | None = None,
    ) -> None:
        self._config = config
        self._common_look = CommonLook(config.max_common_likeness)
        self._are_unit: bool | None = None  # the embeddings, once there was one
        self._new_share = np.array(min(max(1 - config.embedding_momentum, LEAST_SHARE), 1 - LEAST_SHARE), np.float32)
        # Arrays, as numpy takes longer to make one of a number than to compute with it.
        self._sure_score = np.array(config.track_thresh, np.float32)
        self._new_score = np.array(config.track_thresh + config.new_track_margin, np.float32)
        self._motion_weight = np.array(config.motion_weight, np.float32)
        self._looks_weight = np.array(1 - self._motion_weight)
        self._least_overlap = _least(MAX_OVERLAP_COST, config.low_match_thresh)
        self._least_likeness = _least(config.match_thresh, config.low_match_thresh)
        self._time_s = -np.inf  # of the last frame
        self._shortest_step_s = np.inf  # between two frames so far
        self._camera_shift = CameraShift()
        self._live = LiveTracks()  # their numbers are slots of the histories
        self._histories = Histories(spool_file, look_frames)
        self._strays = strays

    def update(self, time_s: float, detections: Detections, camera: Float64 | None = None) -> list[Track]:
        """Take in the detections of a frame; returns the tracks that ended, each once.

        `camera` (2, 3), in every frame or in none: how the picture moved since the frame before, in px (see
        `camera.py`); without it, what all boxes do at once tells (see `camera_shift.py`). Boxes must be finite and not
        empty (see `tracking.usable`); if the first embeddings have unit length, all must. Raises ValueError if time
        does not rise.
        """
        detections = self._at_unit_length(detections)
        live = self._live
        step_s = time_s - self._time_s
        if not step_s > 0:
            raise ValueError(f"time {time_s} s does not follow {self._time_s} s")
        self._shortest_step_s = min(self._shortest_step_s, step_s)
        live.predict(step_s)
        is_known = camera is not None
        if not is_known and self._camera_shift.is_moving:
            is_sure = detections.scores >= self._config.track_thresh
            camera = self._camera_shift.find(live.kalman.xyxy, detections.xyxy[is_sure])
        if camera is not None:
            live.kalman.move(camera)
        patience_s = max(self._config.max_lost_s, MIN_HOLE_STEPS * self._shortest_step_s)
        ended = self._end(live.last_seen_s < time_s - patience_s - ROUNDING_S)
        was_seen = live.last_seen_s == self._time_s
        self._time_s = time_s
        innovations = self._associate(detections, was_seen)
        if not is_known and innovations is not None:
            self._camera_shift.learn(time_s, innovations.off, innovations.height2)
        # A track that was seen in one frame only is not looked for: most are slips of the detector.
        return ended + self._end(live.is_tentative & (live.last_seen_s < time_s))

    def finish(self) -> list[Track]:
        """The tracks that are still alive; the tracker is empty afterwards."""
        return list(self.drain())

    def drain(self) -> Iterator[Track]:
        """As `finish`, one track at a time, so that the class scores of only one need be in memory."""
        slots = self._live.numbers.tolist()
        self._live.keep(np.zeros(0, np.int64))
        yield from map(self._histories.take, slots)

    def _at_unit_length(self, detections: Detections) -> Detections:
        """With embeddings that are: some of Detic's are three hundred times as long as others, and would be all that
        counts in a track.
        """
        if self._are_unit is None and detections.embeddings.size:
            length = lengths(detections.embeddings)
            known = length[length > TINY]
            self._are_unit = bool((np.abs(known - 1) < UNIT_TOLERANCE).all()) if len(known) else None
        if self._are_unit is False:
            return replace(detections, embeddings=unit(detections.embeddings))
        return detections

    def _associate(self, detections: Detections, was_seen: Bool) -> Innovations | None:
        """Match the frame's detections to the tracks as they stand, then start tracks from what is left. Returns how
        far off the tracks were that are seen, None if none is.
        """
        if not len(detections):
            return None
        live = self._live
        is_sure = detections.scores >= self._sure_score
        labels = class_scores.labels(detections.logits)
        self._common_look.learn(self._time_s, detections.embeddings, labels)
        near, views = self._near(detections, labels)
        rows, taken = self._matched(near, detections, labels, is_sure, was_seen)
        innovations = live.see(rows, self._time_s, detections.xyxy.take(taken, axis=0))
        slots = live.numbers.take(rows)
        is_new = detections.scores >= self._new_score
        is_new[taken] = False
        new = is_new.nonzero()[0]
        if len(new):
            new_slots = self._histories.open(len(new), detections)
            live.start(new_slots, self._time_s, detections.xyxy.take(new, axis=0))
            taken, slots = np.concatenate([taken, new]), np.concatenate([slots, new_slots])
        if self._strays is not None:
            self._strays.put(self._time_s, detections.select(np.delete(np.arange(len(detections)), taken)))
        # A doubtful detection is mostly an occluded one: its appearance is another object's.
        shares = is_sure.take(taken) * self._new_share
        self._histories.add(slots, self._time_s, detections, taken, views.take(taken), shares)
        return innovations

    def _near(self, detections: Detections, labels: Int64) -> tuple[Near, Float32]:
        """The pairs of tracks and detections that may be one object, and how much (M,) the looks of all detections say
        about themselves.
        """
        kalman, config = self._live.kalman, self._config
        if not detections.embeddings.shape[1]:
            return overlapping(kalman.xyxy, detections.xyxy), np.ones(len(detections), np.float32)
        # Where looks may outvote motion, boxes that don't overlap can be one object, if it is a motion and no jump.
        reached = kalman.reach(MAX_GATE) if config.motion_weight <= config.match_thresh else kalman.xyxy
        has_classes = detections.logits.shape[1] > 1
        return near_and_views(kalman.xyxy, reached, detections.xyxy, labels if has_classes else None)

    def _matched(
        self, near: Near, detections: Detections, labels: Int64, is_sure: Bool, was_seen: Bool
    ) -> tuple[Int64, Int64]:
        """Rows (K,) of tracks and (K,) of detections that go together best, turn by turn."""
        rows, columns = near.rows, near.columns
        if not len(rows):
            return rows, columns
        num_classes, num_dims = detections.logits.shape[1], detections.embeddings.shape[1]
        sure = is_sure.take(columns)
        turns = np.where(sure, self._live.is_tentative.take(rows), (DOUBTFUL_AND_LOST - was_seen).take(rows))
        least = self._least_likeness if num_dims else self._least_overlap
        pairs, looks = _Pairs(rows, columns, near.overlap, sure, least.take(turns)), self._looks(detections, labels)
        if len(rows) * (num_classes + num_dims) < MANY_FLOATS:
            chosen = assign(rows, columns, self._gain(pairs, detections, looks), turns)
        else:
            most = self._gain_at_most(pairs, detections)
            chosen = assign_lazily(
                rows, columns, most, turns, lambda some: self._gain(pairs.take(some), detections, looks)
            )
        return rows.take(chosen), columns.take(chosen)

    def _looks(self, detections: Detections, labels: Int64) -> _Looks:
        """What is compared of live tracks and detections; these are of the classes `labels` (M,)."""
        common, slots = self._common_look, self._live.numbers
        if not common.is_needed:
            return _Looks(self._histories.appearance, slots, detections.embeddings)
        tracks = self._histories.appearance.take(slots, axis=0)
        track_labels = class_scores.labels(self._histories.class_sums.take(slots, axis=0))
        seen = common.taken_off(detections.embeddings, labels)
        return _Looks(common.taken_off(tracks, track_labels), np.arange(len(slots)), seen)

    def _gain(self, pairs: _Pairs, detections: Detections, looks: _Looks) -> Float32:
        """By how much (P,) the pairs go together better than they must; less than 0 where they may not."""
        gain = pairs.overlap - pairs.least
        if detections.embeddings.shape[1]:
            gain = np.where(pairs.is_sure, self._gain_by_looks(pairs, detections, looks), gain)
        if detections.logits.shape[1] > 1:
            self._favour_class(gain, pairs, detections.logits)
        return gain

    def _gain_by_looks(self, pairs: _Pairs, detections: Detections, looks: _Looks) -> Float32:
        """As `_gain`, as if all detections were confident."""
        gain = looks.cosines(pairs)
        gain *= self._looks_weight
        gain += self._motion_weight * pairs.overlap
        gain -= pairs.least
        apart = ((pairs.overlap == NOTHING) & (gain >= NOTHING)).nonzero()[0]
        if len(apart):
            xyxy = detections.xyxy.take(pairs.columns.take(apart), axis=0)
            distance = self._live.kalman.distance(pairs.rows.take(apart), xyxy)
            gain[apart[distance > MAX_GATE]] = -np.inf
        return gain

    def _gain_at_most(self, pairs: _Pairs, detections: Detections) -> Float32:
        """What `_gain` can be (P,) at most, whatever looks and class scores are."""
        most = pairs.overlap
        if detections.embeddings.shape[1]:
            most = np.where(pairs.is_sure, self._motion_weight * most + self._looks_weight, most)
        most = most - pairs.least
        if detections.logits.shape[1] > 1:
            most += np.float32(CLASS_WEIGHT) * (most >= 0)
        return most

    def _favour_class(self, gain: Float32, pairs: _Pairs, logits: Float32) -> None:
        """Add to the `gain` (P,) of pairs that may be: nothing where the class scores `logits` (M, C) of the detection
        and those of the track over time have nothing in common, `CLASS_WEIGHT` where they are distributed alike. With
        no likeness and little overlap, they may not be.
        """
        may = (gain >= 0).nonzero()[0]
        slots = self._live.numbers.take(pairs.rows.take(may))
        likeness = cosines(self._histories.class_sums, slots, logits, pairs.columns.take(may))
        gain[may] += np.float32(CLASS_WEIGHT) * likeness
        strange = (likeness < NO_LIKENESS) & (pairs.overlap.take(may) < LEAST_STRANGE_OVERLAP)
        if strange.any():  # or unknown
            may, slots = may[strange], slots[strange]
            is_known = self._histories.class_sums[slots].any(axis=1) & logits[pairs.columns[may]].any(axis=1)
            gain[may[is_known]] = -np.inf

    def _end(self, ended: Bool) -> list[Track]:
        """Take tracks out of the live ones and return them."""
        rows = ended.nonzero()[0]
        if not len(rows):
            return []
        tracks = [self._histories.take(slot) for slot in self._live.numbers.take(rows).tolist()]
        self._live.keep((~ended).nonzero()[0])
        return tracks


def _least(max_cost: float, max_doubtful_cost: float) -> Float32:
    """(4,): by turn, the least likeness of pairs that may be matched; of doubtful ones, the least overlap."""
    least_doubtful = 1 - max_doubtful_cost
    return np.array([1 - max_cost, 1 - max_cost, least_doubtful, least_doubtful + LOST_MARGIN], np.float32)


class _Pairs(NamedTuple):
    """As `Near`, with whether the detection `is_sure` (P,), and what the likeness of the pair must be at `least` (P,);
    of a doubtful one, its overlap.
    """

    rows: Int64
    columns: Int64
    overlap: Float32
    is_sure: Bool
    least: Float32

    def take(self, numbers: Int64) -> _Pairs:
        return _Pairs(
            self.rows.take(numbers),
            self.columns.take(numbers),
            self.overlap.take(numbers),
            self.is_sure.take(numbers),
            self.least.take(numbers),
        )


class _Looks(NamedTuple):
    """Embeddings at unit length, or 0 where a look isn't known: of `tracks` (S, D), the n-th live one's in row
    `rows[n]`, and of `detections` (M, D).
    """

    tracks: Float32
    rows: Int64
    detections: Float32

    def cosines(self, pairs: _Pairs) -> Float32:
        """(P,): how alike tracks and detections look; where one has no look, how much they overlap."""
        rows = self.rows.take(pairs.rows)
        cosine = cosines(self.tracks, rows, self.detections, pairs.columns, is_unit=True)
        unknown = (cosine == NOTHING).nonzero()[0]  # or at a right angle, for once exactly
        if len(unknown):
            is_known = self.tracks[rows[unknown]].any(axis=1) & self.detections[pairs.columns[unknown]].any(axis=1)
            unknown = unknown[~is_known]
            cosine[unknown] = pairs.overlap[unknown]
        return cosine
