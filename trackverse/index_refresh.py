"""The index of a folder of tracks, brought up to date: what has changed since is read, the rest is taken over.

A file that has changed since it was indexed is read again, alone; a damaged index is made anew. An index is replaced
whole or not at all.
"""

from __future__ import annotations

import errno
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trackverse import files
from trackverse.columns import Columns
from trackverse.errors import RecordError, SetupError
from trackverse.index import FORMAT, GROUP_ROWS, Index, open_index
from trackverse.index_entries import FileEntry, pack
from trackverse.index_rows import SCHEMA, digest_of, rows_of
from trackverse.layout import lock_path, motion_beside, progress_beside
from trackverse.store import read_all_columns

log = logging.getLogger(__name__)

MAX_MESSAGES = 3  # of what is wrong with a file; the rest is counted
Watch = Callable[[Iterable[Any], int], Iterator[Any]]


def is_current(index: Index | None, meta_paths: Sequence[Path]) -> bool:
    """Whether the index is of these very files, and none has changed since."""
    if index is None or [entry.name for entry in index.entries] != [name_of(path) for path in meta_paths]:
        return False
    return all(
        entry.stamp is not None and entry.stamp == stamp_of(path)
        for entry, path in zip(index.entries, meta_paths, strict=True)
    )


@contextmanager
def ready_index(
    path: Path, meta_paths: Sequence[Path], *, num_workers: int, keep: bool, rebuild: bool, watch: Watch
) -> Iterator[Index]:
    """The index of the files as they are now, for the length of the block; the one at `path` as far as it holds.

    It is written where it is not up to date: to `path`, one process at a time, or, unless `keep`, to a place that is
    gone after the block. If the block meets damage in it, the next run makes it anew.
    """
    index = None if rebuild else open_index(path)
    # A claim that stands here may be a killed process's, which only the next one at work takes away.
    if index and is_current(index, meta_paths) and not lock_path(path).is_symlink():
        with _removed_if_damaged(path):
            yield _checked(index)
        return
    with ExitStack() as stack:
        if keep:
            with _writing(path):
                # Another process may have brought it up to date while we waited.
                index = None if rebuild else open_index(path)
                if not index or not is_current(index, meta_paths):
                    index = refresh(path, meta_paths, num_workers=num_workers, old=index, watch=watch)
        else:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
            index = refresh(temporary, meta_paths, num_workers=num_workers, old=index, watch=watch)
        yield index


@contextmanager
def _removed_if_damaged(path: Path) -> Iterator[None]:
    """Remove an index in which the block meets damage, where that can be."""
    try:
        yield
    except RecordError as error:
        if error.reason != "damaged index":
            raise
        with suppress(OSError):
            path.unlink()
        raise RecordError(f"{error}; the same command makes it anew", reason=error.reason, retry=True) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """The claim on the index at `path`. Raises SetupError if nothing can be written there."""
    try:
        with files.claim(lock_path(path), wait=True):
            yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        told = f"{path}: the index can't be written ({error.strerror}); give --index_file FILE where it can"
        raise SetupError(told) from error


def _checked(index: Index) -> Index:
    """The index, after what was wrong with its files is told again."""
    for entry in index.entries:
        for message in entry.messages:
            log.warning("%s", message)
    return index


def refresh(
    path: Path,
    meta_paths: Sequence[Path],
    *,
    num_workers: int = 1,
    old: Index | None = None,
    watch: Watch = lambda items, _: iter(items),
) -> Index:
    """Write the index of the files at `path`, and open it. What `old` knows of unchanged files is taken over.

    `watch` is given what is read, a file at a time, and the number of files, to show the progress. If `old` turns out
    to be damaged, all files are read.
    """
    try:
        with files.atomic_write(path) as file, IndexWriter(file) as writer:
            _write(writer, meta_paths, num_workers, old, watch)
    except RecordError as error:
        if old is None or error.reason != "damaged index":
            raise
        log.warning("%s; it is made anew", error)
        return refresh(path, meta_paths, num_workers=num_workers, watch=watch)
    return Index(path)


def _write(writer: IndexWriter, meta_paths: Sequence[Path], num_workers: int, old: Index | None, watch: Watch) -> None:
    known = {entry.name: (entry, number) for number, entry in enumerate(old.entries)} if old else {}
    stamps = [stamp_of(path) for path in meta_paths]  # before they are read: a change meanwhile is seen next time
    kept: list[tuple[FileEntry, int] | None] = []
    for path, stamp in zip(meta_paths, stamps, strict=True):
        entry = known.get(name_of(path))
        kept.append(entry if entry and stamp is not None and entry[0].stamp == stamp else None)
    to_read = [path for path, entry in zip(meta_paths, kept, strict=True) if entry is None]
    if old and to_read:
        log.info("%d of %d track files are new or have changed since they were indexed", len(to_read), len(meta_paths))
    parts = watch(read_all_columns(to_read, num_workers), len(to_read))
    source = _Rows(old) if old else None
    if old:
        writer.labels.update(old.labels)
    for path, stamp, entry in zip(meta_paths, stamps, kept, strict=True):
        if entry is None:
            columns, errors = next(parts)
            writer.add(name_of(path), stamp, columns, errors)
        else:
            assert old is not None and source is not None
            start, end = old.file_starts[entry[1]], old.file_starts[entry[1] + 1]
            writer.keep(entry[0], source.between(int(start), int(end)))
    next(parts, None)  # so that the pool of readers ends


def stamp_of(meta_path: Path) -> list[int] | None:
    """Sizes and times of change of a track file, its progress file and its motion file, 0 and 0 where one is not there;
    None if the first can't be looked at.
    """
    stamp: list[int] = []
    for path in (meta_path, progress_beside(meta_path), motion_beside(meta_path)):
        try:
            stat = path.stat()
            stamp += [stat.st_size, stat.st_mtime_ns]
        except OSError:
            stamp += [0, 0]
    return stamp if any(stamp[:2]) else None


def name_of(meta_path: Path) -> str:
    """What an index calls a track file, wherever the folder of all tracks lies."""
    return f"{meta_path.parent.name}/{meta_path.name}"


class _Rows:
    """Rows of an index, from front to back, holding one group at a time."""

    def __init__(self, index: Index) -> None:
        self._groups = index.groups(SCHEMA.names)
        self._start, self._group = 0, SCHEMA.empty_table()

    def between(self, start: int, end: int) -> pa.Table:
        """The rows from `start` up to `end`; starts must rise from call to call."""
        parts = [self._group.slice(0, 0)]
        while True:
            group_end = self._start + len(self._group)
            if start < group_end:
                parts.append(self._group.slice(start - self._start, min(end, group_end) - start))
                start = min(end, group_end)
            if start >= end:
                return pa.concat_tables(parts)
            self._start, self._group = group_end, next(self._groups)


class IndexWriter:
    """Writes an index into a file: rows in groups, what is said of the files at the end."""

    def __init__(self, file: Any) -> None:
        self._parquet = pq.ParquetWriter(file, SCHEMA, compression="zstd", write_page_checksum=True)
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._entries: list[FileEntry] = []
        self.labels: dict[int, str] = {}

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self._flush()
            self._parquet.add_key_value_metadata({b"format": FORMAT, b"files": pack(self._entries, self.labels)})
        self._parquet.close()

    def keep(self, entry: FileEntry, rows: pa.Table) -> None:
        """Take a file's rows over from another index."""
        self._entries.append(entry)
        for message in entry.messages:
            log.warning("%s", message)
        self._add_rows(rows)

    def add(self, name: str, stamp: list[int] | None, parts: Sequence[Columns], errors: Sequence[RecordError]) -> None:
        """Add a file as it was read."""
        if any(error.reason == "unreadable track file" for error in errors):
            stamp = None  # what keeps it from being read may be over next time
        for part in parts:
            self.labels |= part.labels
        for error in errors[:MAX_MESSAGES]:
            log.warning("%s", error)
        if len(errors) > MAX_MESSAGES:
            log.warning("%s: %d more like these", name, len(errors) - MAX_MESSAGES)
        table, videos, is_sorted = rows_of(parts)
        self._entries.append(
            FileEntry(
                name,
                stamp,
                videos,
                digest_of(parts),
                is_sorted,
                dict(sorted(Counter(error.reason for error in errors).items())),
                [str(error) for error in errors[:MAX_MESSAGES]],
            )
        )
        self._add_rows(table)

    def _add_rows(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._num_waiting += len(rows)
        if self._num_waiting >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables([SCHEMA.empty_table(), *self._waiting])
        self._parquet.write_table(table, row_group_size=GROUP_ROWS)
        self._waiting, self._num_waiting = [], 0
