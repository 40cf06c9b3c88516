"""The segments of a video, planned and judged from one decoding of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from trackverse import quality
from trackverse.errors import RecordError, VideoError
from trackverse.quality import ScoreFilter, Scores, Verdict, judge_clip, judge_frames
from trackverse.scenes import (
    CutConfig,
    Segment,
    Span,
    VideoScenes,
    num_listed,
    plan_segments,
    span_scenes,
    to_milliseconds,
    why_drop_length,
)
from trackverse.shots import LONG_SIDE, MIN_SHOT_S, CutFinder, FadeFinder, content_change
from trackverse.types import SourceVideo, UInt8
from trackverse.video import CloseLook, VideoInfo, glance_through, probe

MAX_SPANS = 10_000  # of a video: a day of clips of nine seconds. Each is compared with all before it
DEFAULT_FPS = 25.0  # of files that tell none
LATE_S = 1.0  # how long after its frame a cut is found, as a rule


def find_segments(
    video: SourceVideo,
    video_path: Path,
    config: CutConfig,
    filters: Sequence[ScoreFilter],
    *,
    clip_mode: str | None,
) -> VideoScenes:
    """The scenes of a video and its segments, judged.

    Raises VideoError, reason "video missing" if there is no file, and RecordError, reason "too many spans" for more
    than `MAX_SPANS`.

    The video is decoded once. Only segments that were not judged on the way, such as those that begin and end between
    two samples, are read again.
    """
    if not video_path.exists():
        raise VideoError(f"{video_path}: not there, download_videos.py gets it", reason="video missing", retry=True)
    if len(video.clips or ()) > MAX_SPANS:
        raise RecordError(f"{video.video_id}: lists {len(video.clips or ())} spans", reason="too many spans")
    info = probe(video_path)
    spans = None if video.clips is None else [(clip.start_s, clip.end_s) for clip in video.clips]
    judging = JudgingOnTheWay(spans, info.duration_s, filters, config.least_kept_s)
    scenes = detect_scenes(video_path, info, config.scene_detector, judging, fast=config.fast)

    def judged(segment: Segment) -> Segment:
        length: Scores = {} if config.length == "off" else {"length": round(segment.clip.duration_s, 3)}
        reason = segment.reason or why_drop_length(segment.clip, config)
        if reason:
            return replace(segment, scores=length, reason=reason)
        verdict = judging.verdict((segment.clip.start_s, segment.clip.end_s))
        scores, reason = verdict or judge_clip(video_path, filters, segment.clip)
        return replace(segment, scores=length | scores, reason=reason)

    return VideoScenes(
        video_id=video.video_id,
        url=video.url,
        duration_s=info.duration_s,
        config=config,
        num_listed=num_listed(video),
        clip_mode=clip_mode,
        scenes=tuple(scenes),
        segments=tuple(map(judged, plan_segments(video, scenes, min_piece_s=1 / (info.fps or DEFAULT_FPS)))),
    )


def detect_scenes(
    video_path: Path, info: VideoInfo, detector: str, judging: JudgingOnTheWay | None = None, *, fast: bool = False
) -> list[Span]:
    """The shots of a video as (start, end) s, without gaps; one that is the whole video for the detector "none".

    `judging` is shown samples and cuts as they come. `fast` looks only at frames that others are predicted from, and
    once more at those around each cut. Raises VideoError if the video can't be read to its end.
    """
    if detector == "none":
        return span_scenes([], info.duration_s)
    judging = judging or JudgingOnTheWay(None, info.duration_s, filters=[], min_len_s=0.0)
    sample_fps = quality.FPS if judging.filters else None
    glances = glance_through(
        video_path, long_side=LONG_SIDE, sample_fps=sample_fps, sample_long_side=quality.LONG_SIDE, fast=fast
    )
    hard, fades = CutFinder(detector, every_frame=not fast), FadeFinder()
    starts = _Starts()
    with CloseLook(video_path, LONG_SIDE) as close_look:

        def note(cuts: Sequence[tuple[float, float]], faded: Sequence[float]) -> None:
            exact = [_first_of_shot(close_look, *bounds) for bounds in cuts] if fast else [at for _, at in cuts]
            judging.cut(starts.add(exact, faded))

        for glance in glances:
            note(hard.see(glance.image, glance.time_s), fades.see(glance.image, glance.time_s))
            if glance.sample is not None:
                judging.see(glance.sample, glance.time_s)
        note(hard.rest(), [])
    judging.end()
    return span_scenes(sorted(starts.all_s), info.duration_s)


class _Starts:
    """Where shots start. A hard cut and a fade close together are one change, known by the one that was found first."""

    def __init__(self) -> None:
        self._hard: list[float] = []
        self._faded: list[float] = []

    @property
    def all_s(self) -> set[float]:
        return {*self._hard, *self._faded}

    def add(self, hard: Sequence[float], faded: Sequence[float]) -> list[float]:
        """Those of these times in s that are new."""
        new_hard = [at for at in hard if _is_apart(at, self._faded)]
        new_faded = [at for at in faded if _is_apart(at, self._hard + new_hard)]
        self._hard += new_hard
        self._faded += new_faded
        return [*new_hard, *new_faded]


def _is_apart(at_s: float, others_s: Sequence[float]) -> bool:
    return all(abs(at_s - other_s) >= MIN_SHOT_S for other_s in others_s[-8:])


def _first_of_shot(close_look: CloseLook, before_s: float, after_s: float) -> float:
    """The time of the frame that begins the new shot, given those of two frames on either side of the cut."""
    frames = close_look.frames(before_s, after_s)
    changes = [content_change(old, new) for (_, old), (_, new) in pairwise(frames)]
    return frames[int(np.argmax(changes)) + 1][0] if changes else after_s


class JudgingOnTheWay:
    """Judges stretches of a video by samples of their first seconds, while the video is read from start to end.

    The stretches are `spans` (None: the whole video), divided where cuts are found. Kept in memory are the samples of
    the last seconds, since a cut is found late and every stretch is judged once its samples are complete.
    """

    def __init__(
        self, spans: Sequence[Span] | None, duration_s: float, filters: Sequence[ScoreFilter], min_len_s: float
    ) -> None:
        spans = [(0.0, duration_s)] if spans is None else spans
        self.filters = filters
        self._min_len_s = min_len_s
        self._stretches = [(to_milliseconds(start), to_milliseconds(min(end, duration_s))) for start, end in spans]
        self._samples: deque[tuple[float, UInt8]] = deque()
        self._verdicts: dict[Span, Verdict] = {}

    def verdict(self, stretch: Span) -> Verdict | None:
        """The scores of a stretch and the reason to drop it; None if it was not judged."""
        return self._verdicts.get(_looked_at(stretch))

    def see(self, image: UInt8, time_s: float) -> None:
        """The next sample (H, W, 3)."""
        self._samples.append((to_milliseconds(time_s), image))
        self._judge_until(time_s - LATE_S)
        while self._samples[0][0] < time_s - quality.FIRST_S - 2 * LATE_S:
            self._samples.popleft()

    def cut(self, times_s: Sequence[float]) -> None:
        """New shots begin at these times."""
        for at in map(to_milliseconds, times_s):
            over = [(start, end) for start, end in self._stretches if start < at < end]
            parts = [part for start, end in over for part in ((start, at), (at, end))]
            self._stretches = [one for one in self._stretches if one not in over] + parts

    def end(self) -> None:
        """The video is over."""
        self._judge_until(float("inf"))

    def _judge_until(self, settled_s: float) -> None:
        """Judge the stretches whose samples are there; no cut before `settled_s` is to come."""
        for stretch in self._stretches:
            start, end = looked_at = _looked_at(stretch)
            is_long_enough = round(stretch[1] - start, 3) >= self._min_len_s
            if end <= settled_s and is_long_enough and looked_at not in self._verdicts:
                images = [image for time_s, image in self._samples if start <= time_s < end]
                if images:
                    self._verdicts[looked_at] = judge_frames(self.filters, np.stack(images))
        self._stretches = [stretch for stretch in self._stretches if stretch[1] > settled_s]


def _looked_at(stretch: Span) -> Span:
    """The part of a stretch that it is judged by."""
    start, end = stretch
    return start, min(end, start + quality.FIRST_S)
