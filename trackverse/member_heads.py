"""The columns of a record in the head of its gzip member, from which an index is made without inflating the member.

gzip's header has a field for what its readers pass over. Ours, in it, says how long the member is and which columns
`ColumnsReader` finds in the record; a checksum of all bytes of the member ties the two together. A file counts as read
only if every member vouches for itself in this way; else its records are read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from trackverse import jsonl, ticks
from trackverse.columns import DTYPES, Array, Columns, ColumnsReader, is_span, label_number
from trackverse.files import open_regular
from trackverse.members import PlacedLine
from trackverse.types import Int64

# RFC 1952: gzip, deflate, an extra field follows, no time, no flags, of no system in particular.
START = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
TAG = b"T1"  # another one as soon as columns mean something else: then records are read, and all is well
# START, length of the extra field, TAG and length of ours; then ours: CRC-32 of all that follows, length of the member,
# HEAD, video id, label and boxes. After it, as in every member, deflated data, CRC-32 and length of what is in it.
FRAME = struct.Struct("<10sH2sHII")
HEAD = np.dtype(
    [
        ("id_bytes", "<u2"),
        ("label_bytes", "<u2"),
        ("num_frames", "<i4"),
        ("track_id", "<i8"),
        ("score", "<f8"),
        ("start_s", "<f8"),
        ("end_s", "<f8"),
        ("class_score", "<f4"),
        ("area", "<f4"),
        ("box_motion", "<f4"),
        ("first_tick", "<i4"),
    ]
)
FIELD_AT, CHECKED_FROM = 16, 20  # where ours begins, and what its CRC covers
TEXT_AT = FRAME.size + HEAD.itemsize
TRAILER_BYTES = 8
MAX_MEMBER_BYTES = jsonl.MAX_LINE_BYTES
MAX_EXTRA_BYTES = 0xFFFF  # an hour of boxes; a longer track goes without
BLOCK_BYTES = 1 << 20  # read at once: some hundred records


def record_member(line: bytes) -> bytes:
    """A record of ours, one line, as a gzip member of its own with its columns in the head, where they fit in."""
    parts = list(ColumnsReader().read_all([PlacedLine(1, line, 0, 0, 0)], Path()))
    plain = jsonl.gzip_member(line)
    if not parts or len(plain) > MAX_MEMBER_BYTES - MAX_EXTRA_BYTES:
        return plain
    (part,) = parts
    video_id, label = part.video_ids[0].encode(), part.labels[int(part.numbers["label_id"][0])].encode()
    length = TEXT_AT - FIELD_AT + len(video_id) + len(label) + len(part.boxes)
    if length + 4 > MAX_EXTRA_BYTES:
        return plain
    head = np.zeros(1, HEAD)
    for name in HEAD.names or ():
        if name in part.numbers:
            head[name] = part.numbers[name]
    head["id_bytes"], head["label_bytes"] = len(video_id), len(label)
    size = FIELD_AT + length + len(plain) - len(START)
    checked = b"".join([size.to_bytes(4, "little"), head.tobytes(), video_id, label, part.boxes, plain[len(START) :]])
    return FRAME.pack(START, length + 4, TAG, length, zlib.crc32(checked), size)[:CHECKED_FROM] + checked


def read_heads(path: Path, num_bytes: int | None) -> list[Columns] | None:
    """The columns of all records in the first `num_bytes` of a file, or in all of it, in parts.

    None: a member does not vouch for itself, or something is amiss. Memory is bounded as for reading the records.
    """
    parts: list[Columns] = []
    num_read = num_lines = 0
    try:
        with open_regular(path) as file:
            if num_bytes != 0 and not file.peek(len(START)).startswith(START):
                is_empty = num_bytes is None and file.read(len(jsonl.NO_LINES) + 1) in (b"", jsonl.NO_LINES)
                return [] if is_empty else None
            for block, starts, head_ends in _members(file, num_bytes):
                parts.append(_columns(block, starts, head_ends, num_read, num_lines))
                num_read += starts[-1]
                num_lines += len(head_ends)
    except (OSError, ValueError):
        return None
    return parts if num_bytes in (None, num_read) else None


def _members(file: BinaryIO, num_bytes: int | None) -> Iterator[tuple[bytes, list[int], list[int]]]:
    """Pieces of a file, where the members in them start and where their heads end; the last value of the first list is
    where the next piece goes on. Raises ValueError where a member has no head of ours, or has changed since.
    """
    rest, num_left = b"", num_bytes
    while chunk := file.read(BLOCK_BYTES if num_left is None else min(BLOCK_BYTES, num_left)):
        num_left = None if num_left is None else num_left - len(chunk)
        block = rest + chunk
        view, starts, head_ends, at = memoryview(block), [0], list[int](), 0
        while at + TEXT_AT <= len(block):
            start, num_extra, tag, length, crc, size = FRAME.unpack_from(block, at)
            if start != START or tag != TAG or num_extra != length + 4 or size > MAX_MEMBER_BYTES:
                raise ValueError("a member without a head of ours")
            if not TEXT_AT - FIELD_AT <= length <= size - FIELD_AT - TRAILER_BYTES:
                raise ValueError("a head that is longer than its member")
            if at + size > len(block):
                break
            if isal_zlib.crc32(view[at + CHECKED_FROM : at + size]) != crc:
                raise ValueError("a member that has changed")
            head_ends.append(at + FIELD_AT + length)
            at += size
            starts.append(at)
        if at:
            yield block, starts, head_ends
        rest = block[at:]
    if rest:
        raise ValueError("a torn member")


def _columns(block: bytes, starts: Sequence[int], head_ends: Sequence[int], offset: int, num_lines: int) -> Columns:
    """The columns of the members of a piece of a file, which lies at `offset` and begins after `num_lines` lines.

    Raises ValueError for what reading a record would never give.
    """
    heads = np.frombuffer(b"".join([block[at + FRAME.size : at + TEXT_AT] for at in starts[:-1]]), HEAD)
    member_starts = np.array(starts)
    id_at = member_starts[:-1] + TEXT_AT
    label_at = id_at + heads["id_bytes"]
    boxes_at = label_at + heads["label_bytes"]
    box_bytes = np.array(head_ends) - boxes_at
    _check(heads, box_bytes)
    number_of: dict[bytes, int] = {}
    places = [*zip(id_at.tolist(), label_at.tolist(), boxes_at.tolist(), head_ends, strict=True)]
    videos = [number_of.setdefault(block[start:end], len(number_of)) for start, end, _, _ in places]
    labels = [_label(block[start:end]) for _, start, end, _ in places]
    crcs = b"".join([block[at - TRAILER_BYTES : at - 4] for at in starts[1:]])
    nowhere = np.full(len(heads), np.nan)
    numbers: dict[str, Array] = {name: heads[name] for name in HEAD.names or ()} | {
        "label_id": np.array([label_id for label_id, _ in labels]),
        "camera_motion": nowhere,
        "flow_motion": nowhere,
        "line": num_lines + 1 + np.arange(len(heads)),
        "offset": offset + member_starts[:-1],
        "num_bytes": np.diff(member_starts),
        "crc": np.frombuffer(crcs, "<u4"),
    }
    return Columns(
        {name: numbers[name].astype(dtype) for name, dtype in DTYPES.items()},
        np.array(videos, np.int64),
        [video_id.decode() for video_id in number_of],
        b"".join([block[start:end] for _, _, start, end in places]),
        np.concatenate([[0], np.cumsum(box_bytes)]),
        dict(labels),
    )


def _check(heads: Array, box_bytes: Int64) -> None:
    """What is in the tracks of others may be anything."""
    start_s, end_s, num_frames = heads["start_s"], heads["end_s"], heads["num_frames"]
    with np.errstate(invalid="ignore"):
        is_sound = is_span(start_s, end_s, num_frames) & (num_frames > 0) & (heads["track_id"] >= 0)
    if not is_sound.all():
        raise ValueError("a track that can't be")
    first_tick, num_ticks, _ = ticks.ticks_from_to(start_s, end_s)
    if (first_tick != heads["first_tick"]).any() or (8 * num_ticks != box_bytes).any():
        raise ValueError("boxes of another time")


@lru_cache(1 << 16)
def _label(text: bytes) -> tuple[int, str]:
    label = text.decode()
    return label_number(label), label


def agree(some: Sequence[Columns], others: Sequence[Columns]) -> bool:
    """Whether the columns of a file are the same, in whatever parts, but for the last digits of what was computed."""
    if not some or not others:
        return len(some) == len(others)
    ours, theirs = _joined(some), _joined(others)
    return ours[:3] == theirs[:3] and all(
        len(ours[3][name]) == len(theirs[3][name]) and np.allclose(ours[3][name], theirs[3][name], 1e-5, 0, True)
        for name in DTYPES
    )


def _joined(parts: Sequence[Columns]) -> tuple[list[str], dict[int, str], bytes, dict[str, Array]]:
    """The video of each row, the labels, all boxes, and the numbers."""
    return (
        [part.video_ids[number] for part in parts for number in part.videos.tolist()],
        {label_id: label for part in parts for label_id, label in part.labels.items()},
        b"".join(part.boxes for part in parts),
        {name: np.concatenate([part.numbers[name] for part in parts]) for name in DTYPES},
    )
