"""From a video to its segments: where the shots change, which stretches become clips, and the files that say so.

Boundaries are whole milliseconds, as metafiles write them, and rounded down: a shot that starts with the frame at
6.6667 s starts at 6.666, so that this frame is in it and the frame before is not.
"""

from __future__ import annotations

import heapq
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from trackverse import files, jsonl, metafile_line
from trackverse.errors import RecordError
from trackverse.layout import Layout, check_name, lock_path
from trackverse.types import Clip, SourceVideo
from trackverse.wording import counted

log = logging.getLogger(__name__)

DETECTORS = ("adaptive", "content", "none")
CLIP_NUMBER = re.compile(r"\.(\d{1,18})\.mp4$")
MAX_PAST_END_S = 0.1  # durations are rounded: a span that ends this little after the video isn't counted
Span = tuple[float, float]


@dataclass(frozen=True)
class CutConfig:
    """What the segments of a video depend on; stored with them.

    `length`, `cartoon` and `aesthetics` are "off", "score" or "drop". The models say what judged; None: nothing.
    """

    scene_detector: str = "adaptive"
    fast: bool = False
    length: str = "drop"
    min_scene_len_s: float = 3.0
    max_scene_len_s: float = 600.0
    cartoon: str = "drop"
    cartoon_model: str | None = None
    max_cartoon: float = 0.0
    aesthetics: str = "drop"
    aesthetics_model: str | None = None
    min_aesthetics: float = 4.0

    @property
    def least_kept_s(self) -> float:
        """What is shorter is dropped for its length."""
        return self.min_scene_len_s if self.length == "drop" else 0.0


@dataclass(frozen=True)
class Segment:
    """A stretch of video that is kept as a clip or dropped for a reason, and its scores by the filters' names."""

    clip: Clip
    reason: str | None = None
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoScenes:
    """What is known of a video that was cut.

    `config` is None where the file was written under settings that this version doesn't have; `num_listed` clips were
    asked for by the metafile (None: it has no list); `clip_mode` is how the clips were written ("copy" or "encode",
    then perhaps " without sound"; None: they weren't).
    """

    video_id: str
    url: str | None
    duration_s: float
    config: CutConfig | None
    num_listed: int | None
    clip_mode: str | None
    scenes: tuple[Span, ...]
    segments: tuple[Segment, ...]

    @property
    def kept(self) -> tuple[Clip, ...]:
        """The clips that weren't dropped."""
        return tuple(segment.clip for segment in self.segments if segment.reason is None)


# ---- where the shots change


def span_scenes(cuts: Iterable[float], duration_s: float) -> list[Span]:
    """The shots of a video as (start, end) s, without gaps, from the times of its cuts."""
    times_s = [0.0, *(cut_s for cut_s in cuts if cut_s < duration_s), duration_s]  # headers may be wrong
    return list(pairwise(to_milliseconds(time_s) for time_s in times_s))


def to_milliseconds(time_s: float) -> float:
    """Rounded down, but for the last bits of floating point."""
    return math.floor(time_s * 1000 + 1e-6) / 1000


# ---- which stretches become clips


def plan_segments(video: SourceVideo, scenes: Sequence[Span], min_piece_s: float) -> list[Segment]:
    """The stretches that could be clips: the scenes, or what the metafile's spans and the scenes have in common.

    Without a list in the metafile, scene n is called `<video_id>.<n>.mp4`. With one, a span within one scene keeps its
    name; the pieces of a span over several scenes are numbered on from the highest number in the list. Pieces shorter
    than `min_piece_s` (a frame) are not counted. What an earlier span of the list holds already is left out of the
    later ones. A span without any piece is dropped.
    """
    if video.clips is None:
        clips = [Clip(video.video_id, _clip_id(video, n), *span) for n, span in enumerate(scenes)]
        return [Segment(clip) for clip in clips]
    numbers = [int(match[1]) for clip in video.clips if (match := CLIP_NUMBER.search(clip.clip_id))]
    free_numbers = count(max(numbers, default=-1) + 1)
    taken: set[str] = set()
    held: list[Span] = []
    segments = []
    for clip in video.clips:
        span = (to_milliseconds(clip.start_s), to_milliseconds(clip.end_s))
        pieces = _intersections(_free_part(span, held), scenes, min_piece_s)
        if clip.clip_id in taken:
            segments.append(Segment(clip, "clip_id listed twice"))
            continue
        if not pieces:
            is_held = bool(_intersections(span, scenes, min_piece_s))
            segments.append(Segment(clip, "span within others" if is_held else _why_no_piece(clip)))
        elif len(pieces) == 1:
            segments.append(Segment(replace(clip, start_s=pieces[0][0], end_s=pieces[0][1])))
        else:
            segments += [Segment(Clip(video.video_id, _clip_id(video, next(free_numbers)), *span)) for span in pieces]
        taken.add(clip.clip_id)
        held.append(span)
    return segments


def why_shortened(video: SourceVideo, duration_s: float) -> list[str]:
    """A reason for each of the listed spans that is shortened, but not dropped, for the video's end or other spans."""
    reasons = []
    held: list[Span] = []
    for clip in video.clips or ():
        span = (clip.start_s, clip.end_s)
        free = _free_part(span, held)
        if free[0] < min(free[1], duration_s):
            reasons += ["span overlaps another"] * (free != span) + ["span ends after the video"] * (
                free[1] > duration_s + MAX_PAST_END_S
            )
        held.append(span)
    return reasons


def _free_part(span: Span, held: Iterable[Span]) -> Span:
    """What of a span no other one has: its end, its beginning, or what is left in between; empty if nothing is."""
    start, end = span
    for other_start, other_end in held:
        if max(start, other_start) < min(end, other_end):
            start, end = (other_end, end) if other_start <= start else (start, other_start)
    return start, end


def _clip_id(video: SourceVideo, number: int) -> str:
    return f"{video.video_id}.{number}.mp4"


def _intersections(span: Span, scenes: Sequence[Span], min_piece_s: float) -> list[Span]:
    start_s, end_s = span
    pieces = [(max(start_s, scene_start), min(end_s, scene_end)) for scene_start, scene_end in scenes]
    return [(start, end) for start, end in pieces if end - start >= min_piece_s]


def _why_no_piece(clip: Clip) -> str:
    return "span empty or reversed" if clip.end_s <= clip.start_s else "span beyond the end of the video"


def why_drop_length(clip: Clip, config: CutConfig) -> str | None:
    """The reason to drop a clip for its length; None to keep it."""
    if config.length != "drop":
        return None
    if round(clip.duration_s, 3) < config.min_scene_len_s:
        return f"shorter than {config.min_scene_len_s:g} s"
    if round(clip.duration_s, 3) > config.max_scene_len_s:
        return f"longer than {config.max_scene_len_s:g} s"
    return None


# ---- the file of a video's scenes


def is_up_to_date(cut: VideoScenes, video: SourceVideo, config: CutConfig, clip_mode: str | None) -> bool:
    """Whether cutting the video again would give the same; clips that nobody asks for do no harm."""
    return (cut.config, cut.num_listed) == (config, num_listed(video)) and clip_mode in (None, cut.clip_mode)


def num_listed(video: SourceVideo) -> int | None:
    """How many clips the metafile lists for a video; None if it leaves that to the scenes."""
    return None if video.clips is None else len(video.clips)


def save(path: Path, cut: VideoScenes) -> None:
    """Write the file whose being there means that the video is cut."""
    entry = {
        "schema": jsonl.SCHEMA,
        "video_id": cut.video_id,
        "url": cut.url,
        "duration": cut.duration_s,
        "settings": asdict(cut.config) if cut.config else None,
        "num_listed": cut.num_listed,
        "clip_mode": cut.clip_mode,
        "scenes": cut.scenes,
        "segments": [_segment_to_json(segment) for segment in cut.segments],
    }
    with files.atomic_write(path) as file:
        file.write(jsonl.dump(entry).encode() + b"\n")


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    clip = segment.clip
    entry = {"clip_id": clip.clip_id, "start": clip.start_s, "end": clip.end_s, "scores": segment.scores}
    return entry | {"kept": segment.reason is None, "reason": segment.reason}


def load(path: Path) -> VideoScenes | None:
    """The scenes in a file, None if there is no file. Raises RecordError (reason "bad scenes file")."""
    try:
        entry = jsonl.read_json(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"{path}: can't be read ({error.strerror})", reason="bad scenes file") from error
    try:
        video_id = check_name(entry["video_id"])
        if video_id != path.stem:
            raise ValueError(f"it is of {jsonl.shown(video_id)}")
        return VideoScenes(
            video_id,
            entry["url"],
            _seconds(entry["duration"]),
            _config_of_json(entry["settings"]),
            entry["num_listed"],
            entry["clip_mode"],
            tuple((_seconds(start), _seconds(end)) for start, end in entry["scenes"]),
            tuple(_segment_of_json(video_id, segment) for segment in entry["segments"]),
        )
    except (RecordError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordError(f"{path}: not a scenes file ({jsonl.misfit(error)})", reason="bad scenes file") from error


def load_whole(path: Path) -> VideoScenes | None:
    """Like `load`, but a file that can't be used is as good as none: it is told, and cutting the video mends it."""
    try:
        return load(path)
    except RecordError as error:
        log.warning("passed over: %s", error)
        return None


def _config_of_json(settings: dict[str, Any] | None) -> CutConfig | None:
    return CutConfig(**settings) if settings and settings.keys() == {one.name for one in fields(CutConfig)} else None


def _segment_of_json(video_id: str, entry: dict[str, Any]) -> Segment:
    clip = Clip(video_id, check_name(entry["clip_id"]), _seconds(entry["start"]), _seconds(entry["end"]))
    reason = entry["reason"]
    if not isinstance(reason, str | None):
        raise TypeError("a reason that is not text")
    return Segment(clip, reason, dict(entry["scores"]))


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError("a time that is not finite")
    return seconds


# ---- the kept segments of all videos, in parts


def write_mined_parts(layout: Layout, vocab: str, num_parts: int) -> None:
    """Bring `mined_segments/<vocab>/part<k>.jsonl` up to date: the kept segments of every video that is cut by now.

    Made anew from all scenes files of the work folder, one process at a time: whichever of several commands ends last,
    the parts are complete. Same scenes, same bytes; a part that would not change is not touched. Parts of a run with
    a larger `num_parts` are removed, else their segments would be there twice.
    """
    paths = {layout.mined_part_path(vocab, part) for part in range(num_parts)}
    first_path = layout.mined_part_path(vocab, 0)
    with files.claim(lock_path(first_path), wait=True):
        for path, content in _mined_parts(layout, vocab, num_parts):
            if not _holds(path, content):
                with files.atomic_write(path) as file:
                    file.write(content)
        for path in first_path.parent.iterdir():
            if re.fullmatch(r"part\d+\.jsonl", path.name) and path not in paths:
                log.info("removed %s: --num_parts is %d now", path, num_parts)
                path.unlink()


def are_mined_parts_written(layout: Layout, vocab: str, num_parts: int) -> bool:
    """Whether `write_mined_parts` would change nothing."""
    return all(_holds(path, content) for path, content in _mined_parts(layout, vocab, num_parts))


def _mined_parts(layout: Layout, vocab: str, num_parts: int) -> Iterator[tuple[Path, bytes]]:
    kept_s = {cut.video_id: sum(clip.duration_s for clip in cut.kept) for cut in _all_cut(layout) if cut.kept}
    for part, video_ids in enumerate(balance(kept_s, num_parts)):
        cuts = (load(layout.scenes_path(video_id)) for video_id in sorted(video_ids))
        lines = [jsonl.dump(metafile_line.to_json(SourceVideo(cut.video_id, cut.url, cut.kept))) for cut in cuts if cut]
        yield layout.mined_part_path(vocab, part), "".join(f"{line}\n" for line in lines).encode()
    log.info("%s: %s, %.2f h", vocab, counted(len(kept_s), "videos"), sum(kept_s.values()) / 3600)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _all_cut(layout: Layout) -> Iterator[VideoScenes]:
    cuts = filter(None, map(load_whole, layout.scenes_paths()))
    return (cut for cut in cuts if not layout.is_forgotten(cut.video_id))


def balance(weights: dict[str, float], num_parts: int) -> list[list[str]]:
    """The keys in `num_parts` lists of about the same total weight: the heaviest first, each to the lightest list."""
    parts: list[list[str]] = [[] for _ in range(num_parts)]
    lightest = [(0.0, part) for part in range(num_parts)]
    for key in sorted(weights, key=lambda key: (-weights[key], key)):
        total, part = lightest[0]
        parts[part].append(key)
        heapq.heapreplace(lightest, (total + weights[key], part))
    return parts
