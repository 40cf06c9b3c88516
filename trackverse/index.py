"""The index of a folder of tracks: one Parquet file with a row a track, from which subsets are chosen.

It holds the columns of `columns.DTYPES` and the tracks' coarse boxes, and, in its metadata, of which files it was made.
`index_refresh` writes it.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trackverse.columns import DTYPES, Array
from trackverse.errors import RecordError
from trackverse.files import open_regular
from trackverse.index_entries import check_column, unpack
from trackverse.types import Int64, UInt16

log = logging.getLogger(__name__)

FORMAT = b"trackverse-index/2"
GROUP_ROWS = 1 << 17  # rows that are written, checked and read together: about 10 MB
BOX_BYTES = 8


class Index:
    """An index that is there: `entries` of the files, sorted by name, and their rows, in that order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _damage_told(path):
            with open_regular(path) as file:
                self._metadata = pq.read_metadata(file)
            stored = self._metadata.metadata or {}
            if stored.get(b"format") != FORMAT:
                raise RecordError(f"{path}: not an index of this version", reason="damaged index")
            self.entries, self.labels = unpack(stored[b"files"])
            group_rows = [self._metadata.row_group(n).num_rows for n in range(self._metadata.num_row_groups)]
            if not sum(entry.num_rows for entry in self.entries) == sum(group_rows) == self._metadata.num_rows:
                raise ValueError("files and rows don't match")
            if max(group_rows, default=0) > GROUP_ROWS:
                raise ValueError("too many rows in a group")

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    @cached_property
    def file_starts(self) -> Int64:
        """(files + 1,) the first row of each file, and the number of all rows."""
        return np.cumsum([0, *(entry.num_rows for entry in self.entries)])

    def column(self, name: str) -> Array:
        """A column of `DTYPES`, (N,). Raises RecordError (reason "damaged index")."""
        with _damage_told(self.path):
            table = pq.read_table(
                self.path, columns=[name], page_checksum_verification=True, use_threads=False, memory_map=False
            )
            column: Array = table.column(0).combine_chunks().to_numpy(zero_copy_only=False)
            check_column(name, column, len(self), self.labels)
            return column

    def groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows in pieces of at most GROUP_ROWS, for columns that are too large to hold."""
        with _damage_told(self.path), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for number in range(file.num_row_groups):
                group = file.read_row_group(number, columns=list(columns), use_threads=False)
                if len(group) != self._metadata.row_group(number).num_rows:
                    raise ValueError("a group of another length")
                yield group

    def boxes(self) -> Iterator[tuple[Int64, Int64, UInt16]]:
        """The coarse boxes of all rows, some thousand rows at a time: of M rows their first ticks (M,), and their boxes
        end to end, (K, 4) left, top, right, bottom px, those of row n from `starts[n]` to `starts[n + 1]`.
        """
        with _damage_told(self.path):
            for group in self.groups(["first_tick", "boxes"]):
                first_tick = group.column("first_tick").to_numpy()
                check_column("first_tick", first_tick, len(group), self.labels)
                column = group.column("boxes").combine_chunks()
                chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
                starts = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
                if (np.diff(starts) <= 0).any() or (np.diff(starts) % BOX_BYTES).any():
                    raise ValueError("a track without boxes, or with a torn one")
                data = np.frombuffer(chunk.buffers()[2] or b"", np.uint8)[starts[0] : starts[-1]].view("<u2")
                yield first_tick, (starts - starts[0]).astype(np.int64) // BOX_BYTES, data.reshape(-1, 4)

    def fingerprint(self) -> str:
        """A hash of all records that are in the index: it changes when a track comes, goes or changes."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(f"{Path(entry.name).name} {entry.num_rows} {entry.digest} {entry.reasons}\n".encode())
        return digest.hexdigest()

    def failures(self) -> Counter[str]:
        """How many lines and files could not be used, by reason."""
        total = Counter[str]()
        for entry in self.entries:
            total.update(entry.reasons)
        return total


def open_index(path: Path) -> Index | None:
    """The index at `path`, None if there is none or it is damaged, which is told."""
    if not path.exists():
        return None
    try:
        return Index(path)
    except RecordError as error:
        log.warning("%s; it is made anew", error)
        return None


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Whatever a damaged index makes the libraries raise, as our error."""
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        zlib.error,
    ) as error:
        told = " ".join(str(error).split())[:200]
        raise RecordError(f"{path}: damaged ({told})", reason="damaged index") from error


def columns_of(index: Index) -> Mapping[str, Array]:
    """The index's columns, each read when it is asked for."""
    return _Lazy(index)


class _Lazy(Mapping[str, Array]):
    def __init__(self, index: Index) -> None:
        self._index = index

    def __getitem__(self, name: str) -> Array:
        return self._index.column(name)

    def __iter__(self) -> Iterator[str]:
        return iter(DTYPES)

    def __len__(self) -> int:
        return len(DTYPES)
