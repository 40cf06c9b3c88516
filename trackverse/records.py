"""The track record: what a track looks like on disk. With `columns`, its quick reader, what knows the keys.

Format: one JSON object a line, each line a gzip member of its own, so that a subset is made by copying bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trackverse import boxes, jsonl
from trackverse.errors import RecordError
from trackverse.types import Bool, Float64, Int64, Track

NUM_TOP = 10
MAX_LABEL_CHARS = 30  # in a file name: with an id of 200 bytes it stays below the 255 that file systems take

# What reading a value as something else than it is can raise (OverflowError: a whole number of hundreds of digits).
MISFITS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError)
LARGEST = 1e9  # of a time in s or of a coordinate in px; what is larger would not survive being reckoned with


@dataclass(frozen=True)
class Origin:
    """Where a track was found, and by what. `video_hw` in px; `fps` is the sampled frame rate, None for every frame."""

    video_id: str
    clip_id: str
    video_hw: tuple[int, int]
    detector: str
    vocab: str
    fps: float | None


@dataclass(frozen=True)
class FrameClasses:
    """Per frame: objectness `scores` (T,), best class `label_ids` (T,), its name and its `class_scores` (T,).

    `interpolated` (T,): there the object was not detected; the box is what lies between, the class is the track's, and
    the scores are 0.
    """

    scores: Float64
    label_ids: Int64
    labels: tuple[str, ...]
    class_scores: Float64
    interpolated: Bool


@dataclass(frozen=True)
class TopClasses:
    """The best classes of a track, at most ten, by mean score × objectness.

    `class_scores` and `weighted` (class score × objectness) are (2, K): mean and standard deviation over time.
    """

    label_ids: tuple[int, ...]
    labels: tuple[str, ...]
    class_scores: Float64
    weighted: Float64


@dataclass(frozen=True)
class TrackRecord:
    """One track: `times_s` (T,) on the source video's clock, `tlwh` (T, 4) px of the source video.

    `origin` and `frames` are None, and `top` may lack its scores, where a published layout doesn't have them.
    """

    video_id: str
    track_id: int
    times_s: Float64
    tlwh: Float64
    top: TopClasses
    mp4_filename: str
    origin: Origin | None
    frames: FrameClasses | None


def describe(track: Track, track_id: int, origin: Origin, labels: Sequence[str]) -> TrackRecord:
    """The record of a track; `labels` are the names of the C columns of its logits."""
    scores, logits = track.scores.astype(np.float64), track.logits.astype(np.float64)
    seen = ~track.interpolated
    weighted = logits[seen] * scores[seen, None]
    # Stable, so that equal classes come in the order of their ids.
    top = np.argsort(-weighted.mean(axis=0), kind="stable")[:NUM_TOP]
    best = np.where(seen, logits.argmax(axis=1), top[0])
    return TrackRecord(
        origin.video_id,
        track_id,
        track.times_s,
        boxes.xyxy_to_tlwh(track.xyxy.astype(np.float64)),
        TopClasses(
            tuple(top.tolist()),
            tuple(labels[label_id] for label_id in top),
            np.stack([logits[seen][:, top].mean(axis=0), logits[seen][:, top].std(axis=0)]),
            np.stack([weighted[:, top].mean(axis=0), weighted[:, top].std(axis=0)]),
        ),
        mp4_filename(track, origin, labels[top[0]]),
        origin,
        FrameClasses(
            scores,
            best,
            tuple(labels[n] for n in best),
            logits[np.arange(len(best)), best],
            track.interpolated,
        ),
    )


def mp4_filename(track: Track, origin: Origin, label: str) -> str:
    """`<id[:2]>/<id>-<label>-<hash>.mp4`; the hash is of the track's ends, so that a re-run gives the same name."""
    ends = np.concatenate([track.times_s[[0, -1]].round(4), track.xyxy[[0, -1]].astype(np.float64).round(2).ravel()])
    digest = hashlib.sha256(f"{origin.clip_id} {ends.tolist()}".encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9]+", "_", label)[:MAX_LABEL_CHARS]
    return f"{origin.video_id[:2]}/{origin.video_id}-{name}-{digest}.mp4"


def to_line(record: TrackRecord) -> str:
    """The record as one line of JSON. Numbers are rounded to what they mean: 0.01 px, 0.1 ms, 1e-4 of a score."""
    assert record.origin is not None and record.frames is not None, "only our own records are written"
    origin, frames, top = record.origin, record.frames, record.top
    times = _rounded(record.times_s, 4)
    return jsonl.dump(
        {
            "yid": record.video_id,
            "track_id": record.track_id,
            "clip_id": origin.clip_id,
            "video_size": list(origin.video_hw),
            "track_ts": [times[0], times[-1]],
            "frame_ts": times,
            "frame_bboxes": _rounded(record.tlwh, 2),
            "frame_obj": _rounded(frames.scores, 4),
            "frame_lbl": frames.label_ids.tolist(),
            "frame_desc": list(frames.labels),
            "frame_cls": _rounded(frames.class_scores, 4),
            "frame_wcls": _rounded(frames.class_scores * frames.scores, 4),
            "frame_interp": frames.interpolated.astype(int).tolist(),
            "top10_lbl": list(top.label_ids),
            "top10_desc": list(top.labels),
            "top10_cls": _rounded(top.class_scores, 4),
            "top10_wcls": _rounded(top.weighted, 4),
            "mp4_filename": record.mp4_filename,
            "schema": jsonl.SCHEMA,
            "detector": origin.detector,
            "vocab": origin.vocab,
            "fps": origin.fps,
        }
    )


def _rounded(array: Float64, digits: int) -> Any:
    return np.round(array.astype(np.float64), digits).tolist()


def parse_record(line: bytes, where: str, video_id: str | None = None) -> TrackRecord:
    """The record in a line of our layout or of one of the two published ones.

    `video_id` is for the layout that doesn't carry it. Raises RecordError (reason "bad JSON" or "bad record").
    """
    value = jsonl.parse(line, where)
    try:
        if "track_bbox" in value:
            return _parse_tid_layout(value, video_id)
        if "top10_label_ids" in value:
            return _parse_label_ids_layout(value)
        return _parse_own_layout(value)
    except MISFITS as error:
        raise _not_a_record(where, error) from error


def _not_a_record(where: str, error: Exception) -> RecordError:
    return RecordError(f"{where}: not a track record ({jsonl.misfit(error)})", reason="bad record")


@dataclass(frozen=True)
class TrackSummary:
    """What a subset is chosen by: the track's best class and its mean class score × objectness (None: not recorded)."""

    video_id: str
    track_id: int
    label_id: int
    label: str
    score: float | None


def parse_summary(line: bytes, where: str, video_id: str) -> TrackSummary:
    """The summary of a record of any layout, without its frames. Raises as `parse_record` does."""
    value = jsonl.parse(line, where)
    try:
        if "top10_label_ids" in value:
            label_ids, labels, weighted = value["top10_label_ids"], value["top10_label_names"], None
        else:
            label_ids, labels = value["top10_lbl"], value["top10_desc"]
            weighted = value["top10_wlogit_mu"] if "tid" in value else value["top10_wcls"][0]
        return TrackSummary(
            jsonl.text(value.get("yid", video_id)),
            jsonl.whole(value["tid"] if "tid" in value else value["track_id"]),
            jsonl.whole(label_ids[0]),
            jsonl.text(labels[0]),
            None if weighted is None else float(_column(weighted)[0]),
        )
    except MISFITS as error:
        raise _not_a_record(where, error) from error


def _parse_own_layout(value: dict[str, Any]) -> TrackRecord:
    times = _times(value["frame_ts"])
    scores, classes = _column(value["frame_obj"], len(times)), _column(value["frame_cls"], len(times))
    label_ids, labels = _names(value["frame_lbl"], value["frame_desc"])
    if len(labels) != len(times):
        raise ValueError(f"{len(labels)} classes for {len(times)} frames")
    height, width = value["video_size"]
    return TrackRecord(
        jsonl.text(value["yid"]),
        jsonl.whole(value["track_id"]),
        times,
        _tlwh(value["frame_bboxes"], len(times)),
        TopClasses(
            *_names(value["top10_lbl"], value["top10_desc"]), _pair(value["top10_cls"]), _pair(value["top10_wcls"])
        ),
        jsonl.text(value["mp4_filename"]),
        Origin(
            jsonl.text(value["yid"]),
            jsonl.text(value["clip_id"]),
            (jsonl.whole(height), jsonl.whole(width)),
            jsonl.text(value["detector"]),
            jsonl.text(value["vocab"]),
            None if value["fps"] is None else float(_column([value["fps"]])[0]),
        ),
        FrameClasses(
            scores,
            np.array(label_ids, np.int64),
            labels,
            classes,
            # Records were written without it before gaps were filled.
            _column(value["frame_interp"], len(times)) != 0 if "frame_interp" in value else np.zeros(len(times), bool),
        ),
    )


def _parse_tid_layout(value: dict[str, Any], video_id: str | None) -> TrackRecord:
    """`tid, fn, track_ts` (all frame times), `track_bbox`, `top10_logit_mu/std`, `top10_wlogit_mu/std`."""
    times = _times(value["track_ts"])
    return TrackRecord(
        jsonl.text(value.get("yid", video_id)),
        jsonl.whole(value["tid"]),
        times,
        _tlwh(value["track_bbox"], len(times)),
        TopClasses(
            *_names(value["top10_lbl"], value["top10_desc"]),
            _pair([value["top10_logit_mu"], value["top10_logit_std"]]),
            _pair([value["top10_wlogit_mu"], value["top10_wlogit_std"]]),
        ),
        jsonl.text(value["fn"]),
        None,
        None,
    )


def _parse_label_ids_layout(value: dict[str, Any]) -> TrackRecord:
    """`track_id, track_ts, frame_ts, frame_bboxes, yid, track_mp4_filename, top10_label_ids, top10_label_names`."""
    times = _times(value["frame_ts"])
    unknown = np.zeros((2, 0))
    return TrackRecord(
        jsonl.text(value["yid"]),
        jsonl.whole(value["track_id"]),
        times,
        _tlwh(value["frame_bboxes"], len(times)),
        TopClasses(*_names(value["top10_label_ids"], value["top10_label_names"]), unknown, unknown),
        jsonl.text(value["track_mp4_filename"]),
        None,
        None,
    )


def _column(value: Any, length: int | None = None) -> Float64:
    column = np.array(value, np.float64)
    if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
        raise ValueError("a list of numbers is empty, nested or not finite")
    if length not in (None, len(column)):
        raise ValueError(f"{len(column)} numbers for {length} frames")
    return column


def _times(value: Any) -> Float64:
    times = _column(value)
    if np.abs(times).max() > LARGEST:
        raise ValueError(f"a time beyond {LARGEST:g} s")
    return times


def _tlwh(value: Any, num_frames: int) -> Float64:
    tlwh = np.array(value, np.float64)
    if tlwh.shape != (num_frames, 4) or not (np.abs(tlwh) <= LARGEST).all():
        raise ValueError(f"boxes of shape {tlwh.shape} for {num_frames} frames, or beyond {LARGEST:g} px")
    return tlwh


def _names(label_ids: Any, labels: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    if not label_ids or len(label_ids) != len(labels):
        raise ValueError("no top classes, or not as many names as ids")
    return tuple(jsonl.whole(label_id) for label_id in label_ids), tuple(jsonl.text(label) for label in labels)


def _pair(value: Any) -> Float64:
    pair = np.array(value, np.float64)
    if pair.ndim != 2 or len(pair) != 2 or not np.isfinite(pair).all():
        raise ValueError("class scores are not [means, deviations]")
    return pair
