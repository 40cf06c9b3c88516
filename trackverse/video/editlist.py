"""The edit list of an MP4 file: which stretch of a track a player shows. Plain bytes, see ISO/IEC 14496-12, 8.6.6."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def end_first_track_after(path: Path, shown_s: float) -> None:
    """Make the first track of the MP4 at `path` end `shown_s` seconds after its first shown frame, in place.

    libavformat writes an edit list that shows a track to its last frame. A clip that is copied out of a video holds
    frames behind its end that earlier ones are predicted from; this hides them. Raises ValueError if `path` is not an
    MP4 file with an edit list.
    """
    with open(path, "r+b") as file:
        whole = (0, path.stat().st_size)
        movie = _find(file, whole, "moov")
        header, _ = _find(file, movie, "mvhd")
        timescale = _unpack(file, header + (20 if _version(file, header) else 12), ">I")
        edits, _ = _find(file, _find(file, _find(file, movie, "trak"), "edts"), "elst")
        is_wide = _version(file, edits) == 1
        last_edit = edits + 8 + (_unpack(file, edits + 4, ">I") - 1) * (20 if is_wide else 12)
        file.seek(last_edit)
        # Rounded down: a track that ends a tick early still shows its last frame, one that ends late may show the next.
        file.write(struct.pack(">Q" if is_wide else ">I", int(shown_s * timescale)))


def _find(file: BinaryIO, span: tuple[int, int], kind: str) -> tuple[int, int]:
    """Start and end of the body of the first box of that kind within `span`."""
    for found, body in _boxes(file, span):
        if found == kind.encode():
            return body
    raise ValueError(f"no {kind} box")


def _boxes(file: BinaryIO, span: tuple[int, int]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Kind and body of the boxes side by side within `span`."""
    start, end = span
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        body = start + 8
        if size == 1:  # the true size follows in 64 bits
            size, body = _unpack(file, body, ">Q"), body + 8
        box_end = start + size if size else end
        if not body <= box_end <= end:
            raise ValueError(f"a box of {size} bytes at byte {start} does not fit")
        yield kind, (body, box_end)
        start = box_end


def _version(file: BinaryIO, body: int) -> int:
    return _unpack(file, body, ">B")


def _unpack(file: BinaryIO, offset: int, layout: str) -> int:
    file.seek(offset)
    (number,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    return int(number)
