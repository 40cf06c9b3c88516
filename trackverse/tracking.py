"""Frames in, tracks out: the detector and the tracker put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from trackverse import boxes, class_scores
from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.camera import CameraMotion, scaled
from trackverse.detectors import Choice, DetectorConfig
from trackverse.detectors.protocol import Detector
from trackverse.errors import VideoError
from trackverse.filters import FilterConfig, why_drop
from trackverse.flow import CameraPath
from trackverse.prefetch import prefetch
from trackverse.refine import RefineConfig, refine
from trackverse.strays import Strays
from trackverse.types import Clip, Detections, FrameBatch, Track, look_frames
from trackverse.vectors import RowFile, cosines, lengths, let_go
from trackverse.video import VideoInfo, read_frames

# Boxes of two classes that are this near each other are of one object (a car, a minivan), unless the classes contradict
# each other (a pizza, its plate) as those of tracks that are not to be joined do: below this cosine of their scores.
DOUBLE_IOU, MIN_CLASS_COSINE = 0.75, RefineConfig.min_class_cosine
MAX_PX = 2**24  # further out, float32 doesn't tell one pixel from the next


@dataclass(frozen=True)
class TrackingSettings:
    """Everything that decides which tracks come out. `frame_rate`: frames looked at a second; `refine`: the second pass
    over the tracks of a clip, None for none; `camera_motion`: follow how the camera moves.
    """

    choice: Choice
    frame_rate: float
    detector: DetectorConfig
    tracker: ByteTrackConfig
    filters: FilterConfig
    refine: RefineConfig | None = None
    camera_motion: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Flat and JSON-able, for progress files: two runs with equal ones give equal records."""
        parts = asdict(self.detector) | asdict(self.tracker) | asdict(self.filters)
        parts |= asdict(self.refine) if self.refine else {}
        chosen = {"detector": self.choice.id, "vocab": self.choice.vocab_id, "dtype": self.choice.dtype}
        return chosen | {"fps": self.frame_rate, "camera_motion": self.camera_motion} | parts


def track_clip(
    path: Path,
    video: VideoInfo,
    clip: Clip,
    detector: Detector,
    settings: TrackingSettings,
    *,
    dropped: Counter[str],
    num_threads: int = 0,
    camera_path: CameraPath | None = None,
) -> Iterator[Track]:
    """The tracks of a clip of the video at `path` that are worth keeping, one at a time: their class scores take much
    memory, and lie in temporary files meanwhile. They come as they end, or with `settings.refine` after the last frame;
    looks lie in a file till then, boxes in memory. The others are counted in `dropped`, once all is done. If
    `settings.camera_motion` says so, `camera_path` learns how the camera moved, up to the end of each track that comes.

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
    refused, times_s = Counter[str](), list[float]()
    camera_path = (camera_path or CameraPath()) if settings.camera_motion else None
    with closing(prefetch(frames)) as batches, TemporaryFile() as spool_file, TemporaryFile() as stray_scores:
        strays = Strays(stray_scores) if settings.refine else None
        tracker = ByteTracker(
            settings.tracker,
            look_frames=look_frames(min(settings.frame_rate, video.fps)),
            spool_file=spool_file,
            strays=strays,
        )
        tracks = track_frames(
            _noting(batches, times_s),
            detector,
            tracker,
            video_hw=video.frame_hw,
            refused=refused,
            camera_path=camera_path,
        )
        if settings.refine:
            tracks = _refined(
                tracks,
                settings.refine,
                sure_score=settings.tracker.track_thresh,
                frame_hw=video.frame_hw,
                times_s=times_s,
                camera_path=camera_path,
                strays=strays,
                dropped=refused,
            )
        yield from _worth_keeping(tracks, video.frame_hw, settings.filters, refused)
    # Only now, so that a clip that fails midway is not counted twice when it is tried again.
    dropped.update(+refused)  # those that are there


def _refined(
    tracks: Iterable[Track],
    config: RefineConfig,
    *,
    sure_score: float,
    frame_hw: tuple[int, int],
    times_s: list[float],
    camera_path: CameraPath | None,
    strays: Strays | None,
    dropped: Counter[str],
) -> Iterator[Track]:
    """The tracks after a second look, when all have come: only then are the `times_s` of all frames known, and where
    the camera went.
    """
    with TemporaryFile() as scores, TemporaryFile() as looks:
        held = on_disk(tracks, scores, looks)
        refined = refine(
            held,
            config,
            frame_times_s=np.array(times_s),
            sure_score=sure_score,
            frame_width=frame_hw[1],
            sway=None if camera_path is None else camera_path.sway(frame_hw),
            strays=strays,
            dropped=dropped,
        )
        for track in refined:  # smoothing may go over the frame's edge by a little
            yield replace(track, xyxy=boxes.clip_to_frame(track.xyxy, frame_hw))


def _worth_keeping(
    tracks: Iterable[Track], frame_hw: tuple[int, int], filters: FilterConfig, dropped: Counter[str]
) -> Iterator[Track]:
    """The tracks that pass the filters; the others are counted in `dropped` by reason."""
    for track in tracks:
        reason = why_drop(track, frame_hw, filters)
        if reason is None:
            yield track
        else:
            dropped[f"tracks {reason}"] += 1
        let_go(track.logits)


def _noting(batches: Iterable[FrameBatch], times_s: list[float]) -> Iterator[FrameBatch]:
    """The batches; the times of their frames are added to `times_s`."""
    for batch in batches:
        times_s += batch.times_s.tolist()
        yield batch


def on_disk(tracks: Iterable[Track], scores_file: IO[bytes], looks_file: IO[bytes]) -> list[Track]:
    """The tracks with their class scores and looks in files, which they are read from when they are used."""
    scores, looks, bare = RowFile(scores_file), RowFile(looks_file), []
    nothing = np.zeros((0, 0), np.float32)
    for track in tracks:
        scores.put(track.logits)
        looks.put(np.concatenate([track.looks, track.embedding[None]]))
        bare.append(replace(track, logits=nothing, looks=nothing, embedding=nothing.ravel()))
    return [
        replace(track, logits=logits, looks=rows[:-1], embedding=rows[-1])
        for track, logits, rows in zip(bare, scores.mapped(), looks.mapped(), strict=True)
    ]


def track_frames(
    batches: Iterable[FrameBatch],
    detector: Detector,
    tracker: ByteTracker,
    *,
    video_hw: tuple[int, int],
    refused: Counter[str],
    camera_path: CameraPath | None = None,
) -> Iterator[Track]:
    """The tracks of a clip as they end, boxes in px of the source video, whose size is `video_hw`.

    Detections that no tracker could use are left out and counted in `refused` by reason. With `camera_path`, which
    learns how the camera moves, tracks are looked for where its motion has moved them to.
    """
    follow = CameraMotion()
    for batch in batches:
        image_hw = batch.images.shape[1:3]
        scale = np.array([video_hw[1] / image_hw[1], video_hw[0] / image_hw[0]] * 2, np.float32)
        for image, time_s, found in zip(batch.images, batch.times_s, detector(batch.images), strict=True):
            in_video = Detections(found.xyxy * scale, found.scores, found.logits, found.embeddings)
            seen = seen_once(usable(in_video, video_hw, refused), refused)
            motion = None
            if camera_path is not None:
                motion = scaled(follow(image, seen.xyxy / scale), scale[:2].astype(np.float64))
                camera_path.add(float(time_s), motion)
            yield from tracker.update(float(time_s), seen, motion)
    yield from tracker.drain()


def seen_once(detections: Detections, refused: Counter[str]) -> Detections:
    """The detections without second boxes on an object that looks like two classes, as detectors suppress boxes class
    by class: of boxes with different best classes, an IoU above `DOUBLE_IOU` and class scores that are distributed
    alike, only the surest stays. The others are counted in `refused`.
    """
    label = class_scores.labels(detections.logits)
    rank = np.argsort(np.argsort(-detections.scores, kind="stable"))
    i, j = boxes.near_pairs(detections.xyxy, detections.xyxy)
    pair = np.flatnonzero((rank[i] < rank[j]) & (label[i] != label[j]))
    i, j = i[pair], j[pair]
    pair = np.flatnonzero(boxes.iou_of_pairs(detections.xyxy[i], detections.xyxy[j]) > DOUBLE_IOU)
    i, j = i[pair], j[pair]
    pair = np.flatnonzero(cosines(detections.logits, i, detections.logits, j) >= MIN_CLASS_COSINE)
    is_kept = np.ones(len(detections), bool)
    for n in pair[np.argsort(rank[i[pair]], kind="stable")]:
        is_kept[j[n]] &= ~is_kept[i[n]]
    if not is_kept.all():
        refused["detections of an object seen as two classes"] += int((~is_kept).sum())
    return detections.select(is_kept)


def usable(detections: Detections, frame_hw: tuple[int, int] | None, refused: Counter[str]) -> Detections:
    """The detections with finite numbers, boxes cut to the frame (None: left as they are if they may be in one); the
    others are counted in `refused` by reason.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an embedding may be too long for its numbers
        length = lengths(detections.embeddings)
    arrays = (detections.xyxy, detections.scores[:, None], detections.logits, length[:, None])
    finite = np.all([np.isfinite(array).all(axis=1) for array in arrays], axis=0)
    xyxy = np.where(finite[:, None], detections.xyxy, np.float32(0))
    if frame_hw is not None:
        xyxy = boxes.clip_to_frame(xyxy, frame_hw)
    else:
        xyxy[(np.abs(xyxy) > MAX_PX).any(axis=1)] = 0
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
