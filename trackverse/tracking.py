"""Frames in, tracks out: the detector and the tracker put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trackverse import boxes
from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.detectors import Choice, DetectorConfig
from trackverse.detectors.protocol import Detector
from trackverse.errors import VideoError
from trackverse.filters import FilterConfig, why_drop
from trackverse.prefetch import prefetch
from trackverse.types import Clip, Detections, FrameBatch, Track
from trackverse.video import VideoInfo, read_frames


@dataclass(frozen=True)
class TrackingSettings:
    """Everything that decides which tracks come out. `frame_rate`: frames looked at a second."""

    choice: Choice
    frame_rate: float
    detector: DetectorConfig
    tracker: ByteTrackConfig
    filters: FilterConfig

    def as_dict(self) -> dict[str, Any]:
        """Flat and JSON-able, for progress files: two runs with equal ones give equal records."""
        parts = asdict(self.detector) | asdict(self.tracker) | asdict(self.filters)
        chosen = {"detector": self.choice.id, "vocab": self.choice.vocab_id, "dtype": self.choice.dtype}
        return chosen | {"fps": self.frame_rate} | parts


def track_clip(
    path: Path,
    video: VideoInfo,
    clip: Clip,
    detector: Detector,
    settings: TrackingSettings,
    *,
    dropped: Counter[str],
    num_threads: int = 0,
) -> Iterator[Track]:
    """The tracks of a clip of the video at `path` that are worth keeping, as they end: their class scores take much
    memory. The others are counted in `dropped`, once all is done.

    Raises VideoError (reason "clip after the video's end", or as `read_frames` says).
    """
    if clip.start_s >= video.duration_s:
        raise VideoError(f"{path}: ends before {clip.clip_id} begins", reason="clip after the video's end")
    frames = read_frames(
        path,
        start_s=clip.start_s,
        end_s=clip.end_s,
        fps=settings.frame_rate,
        long_side=settings.detector.frame_size,
        num_threads=num_threads,
    )
    tracker = ByteTracker(settings.tracker, centre_embeddings=detector.centre_embeddings)
    video_hw = video.frame_hw
    refused = Counter[str]()
    with closing(prefetch(frames)) as batches:
        for track in track_frames(batches, detector, tracker, video_hw=video_hw, refused=refused):
            reason = why_drop(track, video_hw, settings.filters)
            if reason is None:
                yield track
            else:
                refused[f"tracks {reason}"] += 1
    # Only now, so that a clip that fails midway is not counted twice when it is tried again.
    dropped.update(refused)


def track_frames(
    batches: Iterable[FrameBatch],
    detector: Detector,
    tracker: ByteTracker,
    *,
    video_hw: tuple[int, int],
    refused: Counter[str],
) -> Iterator[Track]:
    """The tracks of a clip as they end, boxes in px of the source video, whose size is `video_hw`.

    Detections that no tracker could use are left out and counted in `refused` by reason.
    """
    for batch in batches:
        image_hw = batch.images.shape[1:3]
        scale = np.array([video_hw[1] / image_hw[1], video_hw[0] / image_hw[0]] * 2, np.float32)
        for time_s, found in zip(batch.times_s, detector(batch.images), strict=True):
            scaled = Detections(found.xyxy * scale, found.scores, found.logits, found.embeddings)
            yield from tracker.update(float(time_s), usable(scaled, video_hw, refused))
    yield from tracker.finish()


def usable(detections: Detections, frame_hw: tuple[int, int] | None, refused: Counter[str]) -> Detections:
    """The detections with finite numbers, boxes cut to the frame (None: left as they are); the others are counted in
    `refused` by reason.
    """
    arrays = (detections.xyxy, detections.scores[:, None], detections.logits, detections.embeddings)
    finite = np.all([np.isfinite(array).all(axis=1) for array in arrays], axis=0)
    xyxy = np.where(finite[:, None], detections.xyxy, np.float32(0))
    if frame_hw is not None:
        xyxy = boxes.clip_to_frame(xyxy, frame_hw)
    # A pixel high and wide at least: thinner slivers have no meaningful aspect.
    has_size = (xyxy[:, 2:] - xyxy[:, :2] >= 1).all(axis=1)
    refused.update(
        {
            reason: number
            for reason, number in (
                ("detections not finite", int((~finite).sum())),
                ("detections empty or outside the frame", int((finite & ~has_size).sum())),
            )
            if number
        }
    )
    kept = Detections(xyxy, detections.scores, detections.logits, detections.embeddings)
    return kept.select(finite & has_size)
