"""Subsets on disk: the chosen lines byte for byte, and a sidecar that says how they were chosen."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trackverse import files, jsonl
from trackverse.errors import RecordError, SetupError
from trackverse.index import Index
from trackverse.jsonl import GZIP_MAGIC
from trackverse.layout import check_name, sidecar_beside
from trackverse.store import place_lines, read_columns
from trackverse.track_table import runs
from trackverse.types import Int64


def check_path(path: Path) -> None:
    """Raises SetupError if no subset can be there."""
    if path.is_dir():
        raise SetupError(f"{path}: a folder; a subset is a file in it, NAME.jsonl.gzip")


def write(path: Path, sidecar: dict[str, Any], index: Index, meta_paths: Sequence[Path], index_rows: Int64) -> None:
    """Write the records of rows of the index, in their order, and the sidecar beside them.

    Raises RecordError (reason "track file changed") if one is not there any more; then an old subset is left as it was.
    """
    sidecar_path = sidecar_beside(path)
    with files.atomic_write(path) as file:
        file.writelines(_members(index, meta_paths, index_rows))
        if not len(index_rows):
            file.write(jsonl.NO_LINES)
        file.flush()
        os.fsync(file.fileno())  # now: once the old sidecar is gone, the old subset is not to wait for a slow disk
        # Without a sidecar a subset does not count as made: a kill between the two replacements loses nothing.
        sidecar_path.unlink(missing_ok=True)
    with files.atomic_write(sidecar_path) as file:
        file.write(json.dumps(sidecar, indent=1, ensure_ascii=False).encode() + b"\n")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """What is said of a subset; None if there is no subset or no sidecar, nothing if the sidecar is not one of ours."""
    sidecar_path = sidecar_beside(path)
    if not path.exists() or not sidecar_path.exists():
        return None
    try:
        return dict(jsonl.read_json(sidecar_path))
    except (RecordError, TypeError, ValueError):
        return {}


def is_made(path: Path, made_with: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether the subset is there and was made with these. Raises SetupError for another one, unless `overwrite`."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return False
    differing = [name for name, value in made_with.items() if sidecar.get(name) != value]
    if differing and not overwrite:
        which = ", ".join(differing)
        raise SetupError(f"{path} was made with other {which}: choose another --output_file or --overwrite")
    return not differing


def _members(index: Index, meta_paths: Sequence[Path], index_rows: Int64) -> Iterator[bytes]:
    """Each row's line as a gzip member: copied where it is one, made where several lines share one."""
    numbers = np.searchsorted(index.file_starts, index_rows, side="right") - 1
    offset, num_bytes, crc, line = (index.column(name)[index_rows] for name in ("offset", "num_bytes", "crc", "line"))
    for start, end in runs(numbers):
        meta_path = meta_paths[numbers[start]]
        here = slice(start, end)
        try:
            if num_bytes[here].all():
                with open(meta_path, "rb") as file:
                    places = zip(offset[here].tolist(), num_bytes[here].tolist(), crc[here].tolist(), strict=True)
                    for place in places:
                        yield _copied(file, *place, meta_path)
            else:
                yield from _picked(meta_path, line[here].tolist(), crc[here].tolist())
        except OSError as error:
            raise _changed(meta_path) from error


def _copied(file: BinaryIO, offset: int, num_bytes: int, crc: int, meta_path: Path) -> bytes:
    """The gzip member at a place, known by the CRC of its content, which it ends with."""
    file.seek(offset)
    member = file.read(num_bytes)
    if not member.startswith(GZIP_MAGIC) or member[-8:-4] != crc.to_bytes(4, "little"):
        raise _changed(meta_path)
    return member


def _picked(meta_path: Path, numbers: Sequence[int], crcs: Sequence[int]) -> Iterator[bytes]:
    wanted = dict(zip(numbers, crcs, strict=True))
    found: dict[int, bytes] = {}
    for placed in place_lines(meta_path):
        if placed.number in wanted:
            if placed.crc != wanted[placed.number]:
                break
            found[placed.number] = jsonl.gzip_member(placed.line)
            if len(found) == len(wanted):  # what comes after them may be torn
                yield from (found[number] for number in numbers)
                return
    raise _changed(meta_path)


def _changed(meta_path: Path) -> RecordError:
    return RecordError(
        f"{meta_path}: changed since it was indexed; run again, with --rebuild_index if that does not help",
        reason="track file changed",
        retry=True,
    )


def tracks_in(path: Path) -> dict[str, Int64]:
    """Of each video the ids of its tracks in a subset. Raises SetupError at anything else in it."""
    parts, errors = read_columns(path)
    if errors:
        raise SetupError(f"{path}: not a subset of tracks ({errors[0]})")
    found: dict[str, list[Int64]] = defaultdict(list)
    for part in parts:
        for number, video_id in enumerate(part.video_ids):
            found[video_id].append(part.numbers["track_id"][part.videos == number])
    return {video_id: np.unique(np.concatenate(track_ids)) for video_id, track_ids in sorted(found.items())}


def video_ids_in(path: Path) -> frozenset[str]:
    """The videos of a text file of ids, one a line, of a metafile of JSON lines, or of a subset of tracks.

    Raises SetupError at a line that names no video: a video that is not known to be excluded would be in.
    """
    found = set()
    try:
        for number, line in jsonl.read_lines(path):
            video_id: Any = line.decode().strip()
            if video_id.startswith("{"):
                value = jsonl.parse(line, f"{path}:{number}")
                video_id = value.get("video_id", value.get("yid"))
            if not isinstance(video_id, str):
                raise SetupError(f"{path}:{number}: names no video: neither video_id nor yid is in it")
            found.add(check_name(video_id))
    except (RecordError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: not a list of videos ({error})") from error
    return frozenset(found)
