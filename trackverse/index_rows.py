"""The columns of a track file as rows of the index, video after video."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from trackverse.columns import DTYPES, Columns

SCHEMA = pa.schema([*((name, pa.from_numpy_dtype(dtype)) for name, dtype in DTYPES.items()), ("boxes", pa.binary())])


def digest_of(parts: Sequence[Columns]) -> int:
    """Of a file's records, and of what was measured of them beside."""
    crc = zlib.crc32(b"".join(part.numbers["crc"].tobytes() for part in parts))
    for name in ("camera_motion", "flow_motion") if parts else ():
        values = np.concatenate([part.numbers[name] for part in parts])  # the same, whatever the parts
        crc = crc if np.isnan(values).all() else zlib.crc32(values.tobytes(), crc)
    return crc


def rows_of(parts: Sequence[Columns]) -> tuple[pa.Table, list[list[Any]], bool]:
    """A file's rows, one video after the other, their [id, number of rows], and whether their track ids rise."""
    ids = sorted({video_id for part in parts for video_id in part.video_ids})
    number_of = {video_id: number for number, video_id in enumerate(ids)}
    nothing = [np.zeros(0, np.int64)]
    videos = np.concatenate(
        nothing + [np.array([number_of[name] for name in part.video_ids], np.int64)[part.videos] for part in parts]
    )
    table = pa.concat_tables([SCHEMA.empty_table(), *map(_table, parts)])
    if len(ids) > 1:
        table = table.take(pa.array(np.argsort(videos, kind="stable")))
        videos = np.sort(videos)
    steps = np.diff(table.column("track_id").to_numpy())
    counts = np.bincount(videos, minlength=len(ids)).tolist()
    is_sorted = bool(((steps > 0) | (np.diff(videos) > 0)).all())
    return table, [[video_id, number] for video_id, number in zip(ids, counts, strict=True)], is_sorted


def _table(part: Columns) -> pa.Table:
    starts = pa.py_buffer(part.box_starts.astype(np.int32))
    boxes = pa.Array.from_buffers(pa.binary(), len(part.videos), [None, starts, pa.py_buffer(part.boxes)])
    return pa.table([*(pa.array(part.numbers[name]) for name in DTYPES), boxes], schema=SCHEMA)
