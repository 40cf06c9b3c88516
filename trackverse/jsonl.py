"""JSON lines, plain and gzipped, read with bounds and written without surprises."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trackverse.errors import RecordError

SCHEMA = "trackverse/1"  # in everything that we write
MAX_LINE_BYTES = 64 << 20  # a ten-minute track at 16 fps is 2 MB; beyond this a line is an attack or an accident


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, inflated if it is gzip (by its first two bytes, whatever it is called)."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else open(path, "rb")  # type: ignore[return-value]


def read_lines(path: Path, *, max_compressed_bytes: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of a text file, plain or gzip; empty lines are passed over.

    `max_compressed_bytes`: read only that much of the file. Raises RecordError (reason "torn gzip" or "line too long").
    """
    number = 0
    try:
        with open(path, "rb") as raw:
            bounded = raw if max_compressed_bytes is None else io.BytesIO(raw.read(max_compressed_bytes))
            is_gzip = bounded.read(2) == b"\x1f\x8b"
            bounded.seek(0)
            with gzip.GzipFile(fileobj=bounded, mode="rb") if is_gzip else bounded as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise RecordError(
                            f"{path}:{number}: line over {MAX_LINE_BYTES >> 20} MB", reason="line too long"
                        )
                    if line.strip():
                        yield number, line.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordError(f"{path}: torn gzip after line {number} ({error})", reason="torn gzip") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse(line: bytes | str, where: str) -> Any:
    """The value of a JSON text; NaN and Infinity are refused. Raises RecordError (reason "bad JSON") naming `where`."""
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: {error}", reason="bad JSON") from error


def dump(value: Any) -> str:
    """One line of compact JSON. NaN and Infinity raise ValueError: they are bugs, not data."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """The value in a small JSON file. Raises RecordError (reason "bad JSON")."""
    return parse(path.read_bytes(), str(path))


def gzip_member(line: str) -> bytes:
    """One line as a gzip member of its own, so that members can be joined and picked by copying bytes."""
    return gzip.compress(line.encode() + b"\n", compresslevel=6, mtime=0)
