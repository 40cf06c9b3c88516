"""JSON lines, plain and gzipped, read with bounds and written without surprises."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from trackverse.errors import RecordError
from trackverse.files import open_regular

SCHEMA = "trackverse/1"  # in everything that we write
# A ten-minute track at 16 fps is 2 MB. Beyond this a line is an attack or an accident: parsed, it would take up to 25
# times as much memory ("[[],[],...").
MAX_LINE_BYTES = 16 << 20
# JSON shrinks to a tenth, as a rule. Only repetition shrinks to a 230th or, at gzip's best, to a thousandth.
MAX_INFLATION = 100
INFLATION_BLOCK_BYTES = 4 << 20  # how often that is looked at; a smaller file may be anything
ARRAY_BLOCK_BYTES = 1 << 16
_BLANKS = re.compile(r"[ \t\r\n]*")
GZIP_MAGIC = b"\x1f\x8b"
NO_LINES = gzip.compress(b"", mtime=0)  # gzip takes a file without any member for a torn one
MAX_SHOWN = 200  # letters of a foreign value or message that go into ours


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, inflated if it is gzip (by its first two bytes, whatever it is called)."""
    with open_regular(path) as file:
        is_gzip = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if is_gzip else open(path, "rb")  # type: ignore[return-value]


def read_lines(path: Path, *, max_compressed_bytes: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of a text file, plain or gzip; empty lines are passed over.

    `max_compressed_bytes`: read only that much of the file. Raises RecordError (reason "torn gzip", "line too long" or
    "gzip bomb"); the rest of the file is not read then.
    """
    number = 0
    try:
        with open_regular(path) as raw:
            bounded = raw if max_compressed_bytes is None else io.BufferedReader(_FirstBytes(raw, max_compressed_bytes))
            is_gzip = bounded.peek(2)[:2] == GZIP_MAGIC
            gauge = _Gauge(path, raw)
            with gzip.GzipFile(fileobj=bounded, mode="rb") if is_gzip else bounded as file:
                while line := file.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    gauge.add(len(line))
                    if len(line) > MAX_LINE_BYTES:
                        raise _too_long(f"{path}:{number}: line")
                    if line.strip():
                        yield number, line.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordError(f"{path}: torn gzip after line {number} ({error})", reason="torn gzip") from error


def read_lines_from(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """(place of its first byte, line) of each line of a plain text file that begins at byte `start` or later.

    As `read_lines`, which see; of what lies before, one line at most is read.
    """
    with open_regular(path) as file:
        if start:
            file.seek(start - 1)
            while (part := file.readline(MAX_LINE_BYTES)) and not part.endswith(b"\n"):
                pass
        place = file.tell()
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise _too_long(f"{path}: line from byte {place} on")
            if line.strip():
                yield place, line.rstrip(b"\r\n")
            place += len(line)


def _too_long(what: str) -> RecordError:
    return RecordError(f"{what} over {MAX_LINE_BYTES >> 20} MB; the rest is not read", reason="line too long")


class _FirstBytes(io.RawIOBase):
    """The first `num_bytes` of an open file, as a file."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._num_left = file, num_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._num_left))
        buffer[: len(data)] = data
        self._num_left -= len(data)
        return len(data)


class _Gauge:
    """Raises RecordError (reason "gzip bomb") when much more comes out of a file than is in it."""

    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        self._path, self._raw = path, raw
        self._num_bytes, self._look_at = 0, INFLATION_BLOCK_BYTES

    def add(self, num_bytes: int) -> None:
        """So many bytes came out."""
        self._num_bytes += num_bytes
        if self._num_bytes >= self._look_at:
            self._look_at += INFLATION_BLOCK_BYTES
            if self._num_bytes > MAX_INFLATION * self._raw.tell():
                message = f"{self._path}: inflates more than {MAX_INFLATION}-fold; the rest is not read"
                raise RecordError(message, reason="gzip bomb")


class ArrayItems(Iterator[tuple[int, Any]]):
    """(number from 1, value) of each item of a file that is one JSON array, plain or gzip, an item in memory at a time.

    `next` raises RecordError: reason "bad JSON" for an item that `parse` would refuse, after which it goes on, or, at
    the end of all, for the rest that can't be read, as with "line too long" and "gzip bomb".
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open_bytes(path)
        self._gauge = _Gauge(path, self._file.fileobj if isinstance(self._file, gzip.GzipFile) else self._file)
        self._text, self._at = "", 0
        self._decode = codecs.getincrementaldecoder("utf-8-sig")(
            "surrogateescape"
        ).decode  # half letters cost their item alone
        self._number = 0
        self._is_over = False

    def __next__(self) -> tuple[int, Any]:
        if self._is_over:
            raise StopIteration
        self._number += 1
        try:
            return self._number, self._next_value()
        except StopIteration:
            self._end()
            raise
        except _BadItemError as error:
            raise RecordError(f"{self._path}: item {self._number}: {shown(error)}", reason="bad JSON") from error
        except RecordError:
            self._end()
            raise
        except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
            self._end()
            message = f"{self._path}: item {self._number}: the rest can't be read ({shown(error)})"
            raise RecordError(message, reason="bad JSON") from error

    def _end(self) -> None:
        self._is_over, self._text = True, ""
        self._file.close()

    def _next_value(self) -> Any:
        mark = self._next_mark()
        if mark != ("[" if self._number == 1 else ",") and not (mark == "]" and self._number > 1):
            raise ValueError(f"{mark!r} instead of a comma")
        if self._number == 1 and self._peek() == "]":
            mark = self._next_mark()
        if mark == "]":
            if self._has_more():
                raise ValueError("something follows the array")
            raise StopIteration
        while True:
            try:
                value, end = _STRICT.raw_decode(self._text, self._skip_blanks())
            except json.JSONDecodeError:  # it may go on in the file, and else it is an error there
                if not self._read_more():
                    raise
            except ValueError as error:
                _, self._at = _LENIENT.raw_decode(self._text, self._at)
                raise _BadItemError(str(error)) from error
            else:
                if end < len(self._text) or not self._read_more():  # a number may go on, too
                    self._at = end
                    return value

    def _next_mark(self) -> str:
        mark = self._peek()
        self._at += 1
        return mark

    def _peek(self) -> str:
        """The next letter that is not blank."""
        if not self._has_more():
            raise ValueError("the file ends")
        return self._text[self._at]

    def _has_more(self) -> bool:
        """Whether anything but blanks is still to come."""
        while self._skip_blanks() == len(self._text):
            if not self._read_more():
                return False
        return True

    def _skip_blanks(self) -> int:
        found = _BLANKS.match(self._text, self._at)
        assert found  # it matches nothing, too
        self._at = found.end()
        return self._at

    def _read_more(self) -> bool:
        """Add to the text from the file, as much again as there is of this item; whether there was any."""
        self._text, self._at = self._text[self._at :], 0
        if len(self._text) > MAX_LINE_BYTES:
            raise _too_long(f"{self._path}: item {self._number}")
        data = self._file.read(max(len(self._text), ARRAY_BLOCK_BYTES))
        self._gauge.add(len(data))
        self._text += self._decode(data, final=not data)
        return bool(data)


class _BadItemError(ValueError):
    """An item of an array that is not taken, but whose end is known."""


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs. Raises ValueError for a key that comes twice: readers differ in which counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown(key)} is there twice")
        found[key] = value
    return found


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=unique)
_LENIENT = json.JSONDecoder(parse_int=str)


def parse(line: bytes | str, where: object) -> Any:
    """The value of a JSON text. NaN, Infinity and a key that is there twice are refused.

    Raises RecordError (reason "bad JSON") naming `where`.
    """
    try:
        return json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: {shown(error)}", reason="bad JSON") from error


def shown(value: object) -> str:
    """A foreign value or error as a few letters of one line; of what holds other values, only the kind."""
    if isinstance(value, str | int | float | None):
        text = repr(value[:MAX_SHOWN] if isinstance(value, str) else value)
    else:
        text = f"{value}" if isinstance(value, Exception) else f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def text(value: Any) -> str:
    """A value that must be text. Raises TypeError, and ValueError for what UTF-8 can't hold."""
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not text")
    value.encode()  # a lone surrogate, which JSON can spell, raises here and not where it is written
    return value


def whole(value: Any) -> int:
    """A value that must be a whole number from 0 on. Raises TypeError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise TypeError(f"{shown(value)} is not a whole number")
    return value


def misfit(error: Exception) -> str:
    """What is wrong with a value, by what looking into it raised: of a KeyError, that the key is missing."""
    return f"no {error}" if isinstance(error, KeyError) else shown(error)


def dump(value: Any) -> str:
    """One line of compact JSON. NaN and Infinity raise ValueError: they are bugs, not data."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """The value in a small JSON file. Raises RecordError (reason "bad JSON" or "line too long")."""
    with open_regular(path) as file:
        text = file.read(MAX_LINE_BYTES + 1)
    if len(text) > MAX_LINE_BYTES:
        raise _too_long(f"{path}:")
    return parse(text, str(path))


def gzip_member(line: bytes) -> bytes:
    """One line as a gzip member of its own, so that members can be joined and picked by copying bytes."""
    return gzip.compress(line + b"\n", compresslevel=6, mtime=0)
