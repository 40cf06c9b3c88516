"""Track files on disk: committed exactly once, read back as far as they are committed.

A segment's records are appended to `<id>-meta.jsonl.gzip` and their embeddings to `<id>-embeddings.npy` first; they
exist from the moment when `<id>-progress.json` is replaced, because it says how many bytes and rows count. What a kill
left behind them is cut off before the next commit.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trackverse import files, jsonl, members, workers
from trackverse import progress as progress_file
from trackverse.columns import Columns, ColumnsReader
from trackverse.errors import RecordError, SetupError
from trackverse.layout import TracksLayout, motion_beside, progress_beside
from trackverse.member_heads import agree, read_heads, record_member
from trackverse.members import PlacedLine
from trackverse.progress import Progress
from trackverse.records import Origin, TrackRecord, describe, parse_record, to_line
from trackverse.types import Clip, Float16, Float32, Float64, Track
from trackverse.vectors import load_matrix


class TrackStore:
    """The track files of a folder, written a segment at a time. The caller holds the claim on the video.

    `settings` is what the records depend on; a folder made with others is refused (SetupError), never mixed.
    """

    def __init__(self, layout: TracksLayout, settings: dict[str, Any]) -> None:
        self._layout, self._settings = layout, settings

    def progress(self, video_id: str) -> Progress:
        """What is committed of a video. A track file without a progress file is not ours, and refused."""
        path, meta_path = self._layout.progress_path(video_id), self._layout.meta_path(video_id)
        # In this order: another process may make both at this moment, the progress file first.
        if meta_path.exists() and not path.exists():
            raise RecordError(
                f"{meta_path}: has no progress file, so it can't be added to; remove it, or give another --output_dir",
                reason="no progress file",
            )
        progress = progress_file.load(path) or Progress(settings=self._settings)
        for name in self._settings | progress.settings:
            made_with, asked_for = progress.settings.get(name), self._settings.get(name)
            if made_with != asked_for:
                raise SetupError(
                    f"{path}: made with {name} = {made_with!r}, asked for {asked_for!r}; "
                    "give another --output_dir, or the settings that it was made with"
                )
        return progress

    def has(self, clip: Clip) -> bool:
        """Whether the clip's tracks are committed."""
        return self.progress(clip.video_id).has(clip.start_s, clip.end_s)

    def commit(
        self,
        clip: Clip,
        tracks: Iterable[Track],
        video_hw: tuple[int, int],
        labels: Sequence[str],
        *,
        camera_motion: Callable[[Track], float] | None = None,
    ) -> None:
        """Add a clip's tracks and mark it as complete, in one step that a kill can't split.

        Of `tracks`, one at a time is held in memory, and nothing is written before the last one.
        `video_hw`: the source video's size in px; `labels`: the names of the columns of the tracks' logits;
        `camera_motion`: of each track when it comes, NaN where it is not known.
        """
        progress = self.progress(clip.video_id)
        origin = origin_of(clip, video_hw, self._settings)
        members, embeddings, motions = [], [], []
        for number, track in enumerate(tracks, start=progress.num_tracks):
            members.append(record_member(to_line(describe(track, number, origin, labels)).encode()))
            embeddings.append(track.embedding)
            if camera_motion:
                motions.append((number, float(track.times_s[0]), camera_motion(track), np.nan))
        progress_path = self._layout.progress_path(clip.video_id)
        if not progress_path.exists():  # first of all: without it a reader would take every line as committed
            progress_file.save(progress_path, progress)
        append(self._layout.meta_path(clip.video_id), progress.meta_bytes, b"".join(members))
        self._append_embeddings(clip.video_id, progress.num_tracks, embeddings)
        if any(np.isfinite(motion) for _, _, motion, _ in motions):
            path = motion_beside(self._layout.meta_path(clip.video_id))
            committed = load_motion(path)[: progress.num_tracks].tolist()
            write_motion(path, [*((number, *row) for number, row in enumerate(committed)), *motions])
        progress_file.save(
            progress_path,
            progress.plus(clip.start_s, clip.end_s, num_tracks=len(members), num_bytes=sum(map(len, members))),
        )

    def _append_embeddings(self, video_id: str, num_committed: int, embeddings: Sequence[Float32]) -> None:
        """Rows of one committed segment after the other; rows beyond the committed ones are dropped."""
        if not embeddings or not len(embeddings[0]):
            return
        path = self._layout.embeddings_path(video_id)
        rows = np.stack(embeddings).astype(np.float16)
        if num_committed:
            committed = load_embeddings(path)[:num_committed]
            if len(committed) < num_committed:
                raise RecordError(
                    f"{path}: {len(committed)} rows for {num_committed} tracks: the file was cut; remove it, the track "
                    "file and the progress file to parse the video anew",
                    reason="bad embeddings",
                )
            rows = np.concatenate([committed, rows])
        write_embeddings(path, rows)


def append(path: Path, committed_bytes: int, data: bytes) -> None:
    """Add gzip members to a track file, behind those that are committed; what else lies there is cut off.

    The caller holds the claim on the video. Raises RecordError where there is something else, or less than committed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files.check_claims()
    if path.is_symlink():
        raise RecordError(f"{path}: is a link, and nothing is written through links", reason="a link in the way")
    if path.exists() and not path.is_file():
        raise RecordError(f"{path}: is no file that could be added to", reason="not a file")
    with files.naming(path), files.open_to_change(path, "ab") as file:
        _check_not_cut(path, file.tell(), committed_bytes)
        file.truncate(committed_bytes)
        file.write(data if committed_bytes or data else jsonl.NO_LINES)  # which is never committed: it gives way
        file.flush()
        os.fsync(file.fileno())


def num_uncommitted(path: Path, committed_bytes: int) -> int:
    """How many bytes lie in a track file behind the committed ones, if they are of records."""
    num_bytes = path.stat().st_size - committed_bytes
    if not committed_bytes and num_bytes == len(jsonl.NO_LINES) and path.read_bytes() == jsonl.NO_LINES:
        return 0
    return num_bytes


def _check_not_cut(path: Path, num_bytes: int, committed_bytes: int) -> None:
    if num_bytes < committed_bytes:
        raise RecordError(
            f"{path}: {num_bytes} bytes, but its progress file counts {committed_bytes}: the file was cut; "
            "remove it and its progress file to parse the video anew",
            reason="track file cut short",
        )


def origin_of(clip: Clip, video_hw: tuple[int, int], settings: Mapping[str, Any]) -> Origin:
    """Where tracks of a clip come from; `settings` has the detector, the vocabulary and the sampled frame rate."""
    return Origin(clip.video_id, clip.clip_id, video_hw, settings["detector"], settings["vocab"], settings["fps"])


def write_embeddings(path: Path, rows: Float16) -> None:
    """Replace an embeddings file by (N, D) rows."""
    _write_matrix(path, rows)


def _write_matrix(path: Path, rows: npt.NDArray[Any]) -> None:
    buffer = io.BytesIO()  # written by numpy itself, a full disk would be an error without a number
    np.save(buffer, rows)
    with files.atomic_write(path) as file:
        file.write(buffer.getbuffer())


def load_embeddings(path: Path) -> Float16:
    """(N, D) float16 rows of unit length, row n of track n. Raises RecordError (reason "bad embeddings")."""
    try:
        rows: Float16 = load_matrix(path)
    except (OSError, ValueError) as error:
        message = f"{path}: not an embeddings file ({jsonl.shown(error)})"
        raise RecordError(message, reason="bad embeddings") from error
    return rows


def read_lines(meta_path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of the committed records of a track file; of all, if no progress file of ours says which.

    Raises RecordError where the rest can't be read, or was cut off.
    """
    try:
        num_bytes = progress_file.load_meta_bytes(progress_beside(meta_path))
        yield from jsonl.read_lines(meta_path, max_compressed_bytes=num_bytes)
        _check_not_cut(meta_path, meta_path.stat().st_size, num_bytes or 0)
    except OSError as error:
        raise RecordError(f"{meta_path}: can't be read ({error.strerror})", reason="unreadable track file") from error


def read_records(meta_path: Path) -> Iterator[TrackRecord]:
    """The committed records of a track file, of any of the three layouts. Raises RecordError at the first bad line."""
    video_id = meta_path.name.partition("-meta.jsonl")[0]
    for number, line in read_lines(meta_path):
        yield parse_record(line, f"{meta_path}:{number}", video_id)


def write_records(path: Path, records: Iterable[TrackRecord]) -> None:
    """A whole file of records at once, in the same format as the store's."""
    with files.atomic_write(path) as file:
        file.write(b"".join(record_member(to_line(record).encode()) for record in records) or jsonl.NO_LINES)


def place_lines(meta_path: Path) -> Iterator[PlacedLine]:
    """As `read_lines`, with the lines' places."""
    try:
        num_bytes = progress_file.load_meta_bytes(progress_beside(meta_path))
        yield from members.place_lines(meta_path, max_compressed_bytes=num_bytes)
        _check_not_cut(meta_path, meta_path.stat().st_size, num_bytes or 0)
    except OSError as error:
        raise RecordError(f"{meta_path}: can't be read ({error.strerror})", reason="unreadable track file") from error


def read_columns(meta_path: Path) -> tuple[list[Columns], list[RecordError]]:
    """The columns of every committed record of a track file, in parts, and what was wrong with its other lines."""
    parts, errors = columns_in_heads(meta_path), list[RecordError]()
    if parts is None:
        parts, errors = columns_in_records(meta_path)
    try:
        motion = load_motion(motion_beside(meta_path))
    except RecordError as error:
        motion = np.zeros((0, 3))
        errors.append(error)
    for part in parts:
        numbers = part.numbers
        there = np.flatnonzero(numbers["track_id"] < len(motion))
        rows = motion[numbers["track_id"][there]]
        # A video that was tracked anew since has other tracks under the same numbers.
        is_same = np.abs(rows[:, 0] - numbers["start_s"][there]) < 1e-3
        for column, name in enumerate(("camera_motion", "flow_motion"), start=1):
            numbers[name][there[is_same]] = rows[is_same, column]
    return parts, [error.bare() for error in errors]


def columns_in_records(meta_path: Path) -> tuple[list[Columns], list[RecordError]]:
    """As `read_columns`, from the records themselves, without what was measured of them since."""
    reader = ColumnsReader()
    return list(reader.read_all(place_lines(meta_path), meta_path)), reader.errors


def columns_in_heads(meta_path: Path) -> list[Columns] | None:
    """The columns of every committed record from the heads of their gzip members; None if the records must be read."""
    try:
        return read_heads(meta_path, progress_file.load_meta_bytes(progress_beside(meta_path)))
    except RecordError:  # of the progress file: who reads the records tells it
        return None


def heads_fit(meta_path: Path) -> bool:
    """Whether the heads of the gzip members of a track file, if an index would be made from them, fit its records."""
    in_heads = columns_in_heads(meta_path)
    if in_heads is None:
        return True
    in_records, errors = columns_in_records(meta_path)
    return not errors and agree(in_heads, in_records)


def write_motion(path: Path, measured: Iterable[tuple[int, float, float, float]]) -> None:
    """Replace a motion file by what was measured: track id, start in s, and its two motions, of each track."""
    found = list(measured)
    rows = np.full((max((row[0] for row in found), default=-1) + 1, 3), np.nan)
    for track_id, *values in found:
        rows[track_id] = values
    _write_matrix(path, rows)


def load_motion(path: Path) -> Float64:
    """(N, 3) start in s, camera motion and flow motion, row n of track n, NaN where not measured; none without a file.

    Raises RecordError (reason "bad motion file").
    """
    try:
        rows: Float64 = load_matrix(path).astype(np.float64)
        if rows.shape[1] != 3:
            raise ValueError(f"{rows.shape[1]} columns")
    except FileNotFoundError:
        return np.zeros((0, 3))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a motion file ({jsonl.shown(error)})", reason="bad motion file") from error
    return rows


def read_all_columns(meta_paths: Sequence[Path], num_workers: int) -> Iterator[tuple[list[Columns], list[RecordError]]]:
    """`read_columns` of each file, in their order, by `num_workers` processes. Raises WorkerDiedError."""
    if num_workers == 1 or len(meta_paths) < 2:
        yield from map(read_columns, meta_paths)
        return
    yield from workers.map_each(read_columns, meta_paths, num_workers)
