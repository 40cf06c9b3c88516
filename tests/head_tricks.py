"""Gzip members with heads of columns, taken apart and put together wrongly, their checksums right."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from trackverse import jsonl
from trackverse.member_heads import CHECKED_FROM, FIELD_AT, FRAME, HEAD, TEXT_AT

PLAIN = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # gzip's header without an extra field


def members_of(data: bytes) -> list[bytes]:
    """The gzip members of a file, all of which have heads; none of one without a record."""
    members = []
    while data not in (b"", jsonl.NO_LINES):
        size = FRAME.unpack_from(data)[-1]
        members.append(data[:size])
        data = data[size:]
    return members


def without_head(member: bytes) -> bytes:
    """As members were before they had heads."""
    return PLAIN + member[_head_end(member) :]


def with_head_of(member: bytes, other: bytes) -> bytes:
    """The member, with another one's columns."""
    return _sealed(other[: _head_end(other)] + member[_head_end(member) :])


def spoiled_head(member: bytes, name: str, value: Any) -> bytes:
    """The member, with another value in a column."""
    head = np.frombuffer(member[FRAME.size : TEXT_AT], HEAD).copy()
    kind = HEAD[name]
    if kind.kind == "f":
        head[name] = np.clip(value, np.finfo(kind).min, np.finfo(kind).max) if np.isfinite(value) else value
    else:
        bounds = np.iinfo(kind)
        head[name] = int(min(max(value, bounds.min), bounds.max)) if np.isfinite(value) else 0
    return _sealed(member[: FRAME.size] + head.tobytes() + member[TEXT_AT:])


def _head_end(member: bytes) -> int:
    return FIELD_AT + FRAME.unpack_from(member)[3]


def _sealed(member: bytes) -> bytes:
    """With the length and the checksum that it has."""
    start, extra, tag, length, _, _ = FRAME.unpack_from(member)
    sized = FRAME.pack(start, extra, tag, length, 0, len(member)) + member[FRAME.size :]
    crc = zlib.crc32(sized[CHECKED_FROM:])
    return FRAME.pack(start, extra, tag, length, crc, len(member)) + member[FRAME.size :]
