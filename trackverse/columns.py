"""The few numbers of a record by which subsets are chosen, read without building the rest of it.

simdjson finds them in the text of a record and copies its frame times and boxes into arrays as they are; what is
computed of those is computed for many tracks at once. Knows the keys of the three layouts, as `records` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simdjson

from trackverse import jsonl, ticks
from trackverse.errors import RecordError
from trackverse.members import PlacedLine
from trackverse.records import MISFITS
from trackverse.types import Float64, Int64

BATCH_TRACKS = 256  # enough for numpy to be fast, 1.4 MB of frames
BATCH_TIMES = 1 << 18  # frames and ticks: 40 MB of numbers at most, as a track is to have fewer
ROOM_FRAMES = 1 << 16  # that a batch has room for before it has to make more
MAX_TIME_S = 1e6  # eleven days: what claims to be later is no time in a video
# Two frames that claim to be days apart would have half a million ticks between them.
MAX_TRACK_S, MAX_MEAN_GAP_S = 86_400.0, 2.0
MAX_COORDINATE = 1e9  # px
MAX_PX = 65535  # of the boxes that are kept as two bytes a side
Array = npt.NDArray[Any]
_OUR_SCHEMA = f'"{jsonl.SCHEMA}"'.encode()

# The columns of N tracks. `offset`, `num_bytes` and `crc` are as in `members.PlacedLine`.
DTYPES: dict[str, npt.DTypeLike] = {
    "track_id": np.int64,
    "label_id": np.int64,  # of the best of the top ten: `label_number`
    "score": np.float64,  # its mean class score × objectness; NaN where the layout has none
    "class_score": np.float32,  # its mean class score; likewise
    "start_s": np.float64,
    "end_s": np.float64,
    "num_frames": np.int32,
    "area": np.float32,  # mean box area as a share of the frame's; NaN where the layout has no frame size
    "box_motion": np.float32,  # as `ticks.box_motion`
    "camera_motion": np.float32,  # as `flow.Moving` has it; NaN where it was not measured
    "flow_motion": np.float32,  # likewise
    "first_tick": np.int32,  # of `boxes`
    "line": np.int32,
    "offset": np.int64,
    "num_bytes": np.int32,
    "crc": np.uint32,
}


@dataclass(frozen=True)
class Columns:
    """N tracks: `numbers`, the columns of `DTYPES`, each (N,); `videos` (N,), which of `video_ids` each is of.

    `boxes`: of each track its boxes at the ticks, (ticks, 4) uint16 left, top, right, bottom px, end to end as bytes
    that begin at `box_starts` (N + 1,).
    """

    numbers: dict[str, Array]
    videos: Int64
    video_ids: list[str]
    boxes: bytes
    box_starts: Int64
    labels: dict[int, str]


@dataclass
class ColumnsReader:
    """Lines in, columns out. What is no record is noted in `errors`, with its file and line number."""

    errors: list[RecordError] = field(default_factory=list)
    _parser: simdjson.Parser = field(default_factory=simdjson.Parser)

    def read_all(self, lines: Iterable[PlacedLine], meta_path: Path) -> Iterator[Columns]:
        """The columns of a file's lines, some tracks at a time, so that a huge file does not fill the memory.

        If the lines end in a RecordError, those before it are used, and it is noted.
        """
        video_id = meta_path.name.removesuffix("-meta.jsonl.gzip")  # for the layout that doesn't carry it
        batch = _Batch()
        end: list[RecordError] = []
        try:
            for placed in lines:  # each is parsed while it is in the cache, and let go
                try:
                    batch.add(placed, *self._parse(placed, video_id))
                except (*MISFITS, RuntimeError) as error:
                    self._parser = simdjson.Parser()  # the old one keeps ten bytes for each of the longest line
                    self.errors.append(_refusal(error, placed.line, f"{meta_path}:{placed.number}"))
                if batch.is_full:
                    yield batch.columns()
                    batch.clear()
        except RecordError as error:
            end.append(error)
        if batch.rows:
            yield batch.columns()
        self.errors += end

    def _parse(self, placed: PlacedLine, video_id: str) -> tuple[str, str, tuple[Any, ...], Float64, Float64]:
        """What `_found` is, without its middle if that will do."""
        if placed.num_bytes and (short := _without_scores(placed.line)):
            try:
                return self._found(short, video_id)
            except (*MISFITS, RuntimeError):
                pass  # the whole line shall say what is wrong with it
        return self._found(placed.line, video_id)

    def _found(self, line: bytes, video_id: str) -> tuple[str, str, tuple[Any, ...], Float64, Float64]:
        """Video id, label, (track id, label number, score, class score, frame px), times (T,), boxes (4 T,)."""
        record: Any = self._parser.parse(line)
        try:
            weighted = class_score = frame_px = np.nan
            label_ids, names = "top10_lbl", "top10_desc"
            track_id, times, boxes = _OWN
            # What is not there takes much longer to find out than what is.
            if "top10_wcls" in record:
                weighted = record.at_pointer("/top10_wcls/0/0")
                class_score = record.at_pointer("/top10_cls/0/0")
                height, width = record["video_size"]
                frame_px = height * width
            elif "top10_label_ids" in record:
                label_ids, names = "top10_label_ids", "top10_label_names"
            else:
                track_id, times, boxes = "tid", "track_ts", "track_bbox"
                weighted, class_score = record["top10_wlogit_mu"][0], record["top10_logit_mu"][0]
            video_id, label = record.get("yid", video_id), record[names][0]
            if not isinstance(video_id, str) or not isinstance(label, str):
                raise TypeError(f"{video_id!r} or {label!r} is not text")
            jsonl.whole(record[label_ids][0])
            row = (
                jsonl.whole(record[track_id]),
                label_number(label),
                float(weighted),
                float(class_score),
                float(frame_px) if frame_px > 0 else np.nan,
            )
            num_frames = len(record[times])
            frame_times = np.frombuffer(record[times].as_buffer(of_type="d"))
            frame_boxes = np.frombuffer(record[boxes].as_buffer(of_type="d"))
        finally:
            del record  # the parser is used again only when nobody looks at its last record
        if not num_frames or num_frames != len(frame_times) or len(frame_boxes) != 4 * num_frames:
            raise ValueError(f"{len(frame_boxes)} numbers of boxes for {num_frames} frames")
        start_s, end_s = float(frame_times[0]), float(frame_times[-1])
        if not is_span(start_s, end_s, num_frames):
            raise ValueError(f"{num_frames} frames from {start_s:g} to {end_s:g} s")
        return video_id, label, row, frame_times, frame_boxes


_OWN = ("track_id", "frame_ts", "frame_bboxes")


def _without_scores(line: bytes) -> bytes | None:
    """A line of ours without the frames' scores and classes, half of it; None: not ours.

    Only for a line whose gzip member vouches for it: what our own writer wrote is JSON, unless it has changed.
    """
    start, end = line.find(b'"frame_obj"'), line.rfind(b'"top10_lbl"')
    if not 0 < start < end or line.find(_OUR_SCHEMA, end) < 0:
        return None
    return line[:start] + line[end:]


def is_span(start_s: Any, end_s: Any, num_frames: Any) -> Any:
    """Whether a track of so many frames can be from one time to the other. Numbers, or arrays (N,) of them."""
    length_s = end_s - start_s
    is_dense = (length_s <= MAX_TRACK_S) & (length_s <= MAX_MEAN_GAP_S * num_frames)
    return is_dense & (start_s > -MAX_TIME_S) & (start_s <= end_s) & (end_s < MAX_TIME_S)


@lru_cache(1 << 16)
def label_number(label: str) -> int:
    """A number for a class that depends on its name alone: the same class has other ids in other vocabularies."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest()) >> 1


def _refusal(error: Exception, line: bytes, where: str) -> RecordError:
    """Our error for what simdjson, or a value of the wrong kind, raised. Python's parser says whether it is JSON."""
    try:
        jsonl.parse(line, where)
    except RecordError as not_json:
        return not_json
    told = " ".join(str(error).split())
    return RecordError(f"{where}: not a track record ({told})", reason="bad record")


@dataclass
class _Batch:
    """Tracks that are read: of each its row and its number of frames, and all their times and boxes end to end."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    number_of: dict[str, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    num_frames: int = 0
    _num_ticks: float = 0
    # Filled from the front, and used again: memory that the system has to clear costs more than all that is computed.
    _times: Float64 = field(default_factory=lambda: np.empty(ROOM_FRAMES))
    _boxes: Float64 = field(default_factory=lambda: np.empty(4 * ROOM_FRAMES))

    def add(
        self, placed: PlacedLine, video_id: str, label: str, row: tuple[Any, ...], times: Float64, boxes: Float64
    ) -> None:
        """Note what was found in a line."""
        self.labels[row[1]] = label
        number = self.number_of.setdefault(video_id, len(self.number_of))
        self.rows.append((number, *row, placed.number, placed.offset, placed.num_bytes, placed.crc))
        self.counts.append(len(times))
        self._num_ticks += (times[-1] - times[0]) / ticks.TICK_S
        start, self.num_frames = self.num_frames, self.num_frames + len(times)
        if self.num_frames > len(self._times):
            self._times = np.concatenate([self._times, np.empty(self.num_frames)])
            self._boxes = np.concatenate([self._boxes, np.empty(4 * self.num_frames)])
        self._times[start : self.num_frames] = times
        self._boxes[4 * start : 4 * self.num_frames] = boxes

    @property
    def is_full(self) -> bool:
        """Whether it is time to make columns of what there is."""
        return len(self.rows) >= BATCH_TRACKS or self.num_frames + self._num_ticks >= BATCH_TIMES

    def columns(self) -> Columns:
        """What is noted, computed and in columns."""
        counts, number = np.array(self.counts, np.int64), self.num_frames
        tlwh = self._boxes[: 4 * number].reshape(-1, 4)
        return _columns(self.rows, counts, self._times[:number], tlwh, list(self.number_of), self.labels)

    def clear(self) -> None:
        """Begin anew, without the room that a very long track took."""
        self.rows, self.counts, self.labels, self.number_of = [], [], {}, {}
        self.num_frames, self._num_ticks = 0, 0
        if len(self._times) > 2 * ROOM_FRAMES:
            self._times, self._boxes = np.empty(ROOM_FRAMES), np.empty(4 * ROOM_FRAMES)


def _columns(
    rows: Sequence[tuple[Any, ...]],
    counts: Int64,
    times_s: Float64,
    tlwh: Float64,
    video_ids: list[str],
    labels: dict[int, str],
) -> Columns:
    if max(tlwh.max(initial=0), -tlwh.min(initial=0)) > MAX_COORDINATE:  # JSON may say 1e200, but nothing may overflow
        tlwh = np.clip(tlwh, -MAX_COORDINATE, MAX_COORDINATE)
    ends = np.cumsum(counts)
    starts = ends - counts
    first_tick, num_ticks, at_ticks = ticks.boxes_at_ticks(times_s, tlwh, counts)
    corners = np.concatenate([at_ticks[:, :2], at_ticks[:, :2] + at_ticks[:, 2:]], axis=1)
    video, track_id, label_id, score, class_score, frame_px, line, offset, num_bytes, crc = (
        zip(*rows, strict=True) if rows else [()] * 10
    )
    numbers: dict[str, Any] = {
        "track_id": track_id,
        "label_id": label_id,
        "score": score,
        "class_score": class_score,
        "start_s": times_s[starts],
        "end_s": times_s[ends - 1],
        "num_frames": counts,
        "area": ticks.mean_area(tlwh, counts) / np.array(frame_px, np.float64),
        "box_motion": ticks.motion_between(times_s, tlwh, counts, num_ticks, at_ticks),
        "camera_motion": np.full(len(counts), np.nan),
        "flow_motion": np.full(len(counts), np.nan),
        "first_tick": first_tick,
        "line": line,
        "offset": offset,
        "num_bytes": num_bytes,
        "crc": crc,
    }
    return Columns(
        {name: np.asarray(numbers[name]).astype(dtype) for name, dtype in DTYPES.items()},
        np.array(video, np.int64),
        video_ids,
        np.rint(np.clip(corners, 0, MAX_PX)).astype("<u2").tobytes(),
        np.concatenate([[0], np.cumsum(num_ticks)]) * 8,
        labels,
    )
