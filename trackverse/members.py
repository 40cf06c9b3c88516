"""Lines of a text file and the gzip members that they lie in, so that lines can be copied without the rest."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from isal import igzip_lib, isal_zlib

from trackverse.errors import RecordError
from trackverse.files import open_regular
from trackverse.jsonl import GZIP_MAGIC, INFLATION_BLOCK_BYTES, MAX_INFLATION, MAX_LINE_BYTES

CHUNK_BYTES = 32 << 10  # read at once: several records, and little to copy where one member ends within it
PIECE_BYTES = 4 << 20  # a gzip member that inflates to more is handed on in pieces
GZIP_WINDOW = 31  # zlib's way to say: gzip, with its largest window


class PlacedLine(NamedTuple):
    """A line of a text file, and where it lies: what it takes to copy it without reading the rest of the file.

    `number` counts from 1. `offset`: the first byte of the gzip member that the line begins in. `num_bytes`: length of
    that member where it holds this line, its end and nothing else, otherwise 0. `crc`: the CRC-32 of what is in that
    member, which ends with it, otherwise of the line.
    """

    number: int
    line: bytes
    offset: int
    num_bytes: int
    crc: int


def place_lines(path: Path, *, max_compressed_bytes: int | None = None) -> Iterator[PlacedLine]:
    """As `jsonl.read_lines`, with the lines' places. Memory is bounded, however large the file."""
    number, begun, begun_at = 0, b"", 0  # a line that the next piece goes on with, and where it began
    try:
        with open_regular(path) as file:
            for piece in _inflate(_chunks(file, max_compressed_bytes), path):
                data = piece.data
                if data and piece.num_bytes and not begun and data.find(b"\n") == len(data) - 1 <= MAX_LINE_BYTES:
                    number += 1
                    if data.strip():
                        crc = isal_zlib.crc32(data)
                        yield PlacedLine(number, data.rstrip(b"\r\n"), piece.offset, piece.num_bytes, crc)
                    continue
                if not begun:
                    begun_at = piece.offset
                lines = (begun + data).split(b"\n")
                begun = lines.pop()
                for line in lines:
                    number += 1
                    yield from _shared_line(path, number, line, begun_at)
                    begun_at = piece.offset
                if len(begun) > MAX_LINE_BYTES:
                    break
        yield from _shared_line(path, number + 1, begun, begun_at)
    except (EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc]  # its stub forgets to say what it is
        raise RecordError(f"{path}: torn gzip after line {number} ({error})", reason="torn gzip") from error


def _shared_line(path: Path, number: int, line: bytes, offset: int) -> Iterator[PlacedLine]:
    """The line, if there is anything in it, as one that has no gzip member of its own."""
    if len(line) > MAX_LINE_BYTES:
        raise RecordError(f"{path}:{number}: line over {MAX_LINE_BYTES >> 20} MB", reason="line too long")
    if line.strip():
        yield PlacedLine(number, line.rstrip(b"\r"), offset, 0, isal_zlib.crc32(line))


def _chunks(file: BinaryIO, num_bytes: int | None) -> Iterator[bytes]:
    """The first `num_bytes` of a file, or all, in pieces."""
    while num_bytes != 0 and (chunk := file.read(min(CHUNK_BYTES, num_bytes or CHUNK_BYTES))):
        num_bytes = None if num_bytes is None else num_bytes - len(chunk)
        yield chunk


class _Piece(NamedTuple):
    """Inflated bytes of the member at `offset`; `num_bytes` of a member that is in this piece as a whole, else 0."""

    data: bytes
    offset: int
    num_bytes: int


def _inflate(chunks: Iterator[bytes], path: Path) -> Iterator[_Piece]:
    """What the chunks of a file inflate to, member by member, long ones in pieces; plain text as it is."""
    chunk, position, num_inflated = next(chunks, b""), 0, 0
    if not chunk.startswith(GZIP_MAGIC):
        for data in chain([chunk], chunks):
            yield _Piece(data, 0, 0)
        return
    while chunk:
        # igzip, because it inflates twice as fast as zlib.
        inflater, inflated, offset, is_whole = isal_zlib.decompressobj(GZIP_WINDOW), b"", position, True
        while not inflater.eof:
            if not chunk:
                yield _Piece(inflated, offset, 0)  # the lines before the tear can be used
                raise EOFError("it ends too early")
            inflated += (data := inflater.decompress(chunk))
            position += len(chunk)
            num_inflated += len(data)
            if num_inflated > max(INFLATION_BLOCK_BYTES, MAX_INFLATION * position):
                message = f"{path}: inflates more than {MAX_INFLATION}-fold; the rest is not read"
                raise RecordError(message, reason="gzip bomb")
            if len(inflated) > PIECE_BYTES:
                yield _Piece(inflated, offset, 0)
                inflated, is_whole = b"", False
            chunk = next(chunks, b"") if not inflater.eof else b""
        rest = inflater.unused_data
        position -= len(rest)
        yield _Piece(inflated, offset, position - offset if is_whole else 0)
        chunk = rest or next(chunks, b"")
        while chunk and not chunk.strip(b"\0"):  # padding, as tapes and some file systems leave it
            position += len(chunk)
            chunk = next(chunks, b"")
