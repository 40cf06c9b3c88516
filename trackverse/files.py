"""Files that are whole or not there, and claims that end with their process.

Claims are `flock` locks: the kernel drops them when the process ends, however it ends. Shared folders need a file
system whose `flock` reaches across hosts (Lustre with `-o flock`, NFS from Linux 2.6.12 on).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def _fsync_dir(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_locked(path: Path, wait: bool) -> BinaryIO | None:
    """Open and lock `path`; None if another holder has it and `wait` is false."""
    while True:
        if path.is_symlink():
            path.unlink()  # locks and temporary files are ours: what somebody laid there must not be written through
        file = open(path, "a+b")  # noqa: SIM115  the caller closes it: closing is what gives the claim back
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The holder before us may have unlinked or renamed the file while we waited: then ours is a ghost.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `path` for the length of the block; yields False if another process holds it.

    With `wait` the block starts when the lock is free. The file is removed at the end, so that claims leave no litter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _open_locked(path, wait)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` whole at the end of the block, or not at all.

    Written beside `path` under a fixed hidden name that is locked: a second writer waits, and what a kill left behind
    is overwritten by the next writer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    file = _open_locked(temporary, wait=True)
    assert file is not None
    with file:
        try:
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _fsync_dir(path.parent)


def temporary_path(path: Path) -> Path:
    """Where a file is written before it becomes `path`: beside it, hidden, with the same ending."""
    return path.with_name(f".{path.stem}.tmp{path.suffix}")


def publish(temporary: Path, path: Path) -> None:
    """Turn a finished temporary file into `path`: flushed to the disk first, then renamed."""
    fd = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    _fsync_dir(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line to a log that several processes write. A torn last line of a killed writer is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
