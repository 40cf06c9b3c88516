"""Files that are whole or not there, and claims that end with their process, on this host or another.

A claim is a symbolic link whose text says who holds it: making one either succeeds or finds another there, on NFS,
Lustre and every other file system that has links, and it is there together with its text. Nothing is asked of `flock`.
A holder gives a sign of life every `BEAT_S`. One of this host that has ended, however it ended, is known by its number,
and its claim is taken over at once; one of another host when there was no sign of life for `LEASE_S`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from trackverse.errors import StopWorkError

log = logging.getLogger(__name__)

# NFS clients may show what others did up to 60 s late (acregmax), and a loaded node stands still for some seconds.
BEAT_S, LEASE_S = 15.0, 120.0
FIRST_LOOK_S, MAX_LOOK_S = 0.005, 0.5  # between two looks at a claim that is waited for
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Look(NamedTuple):
    """A claim as it was found: its text, and its last sign of life as the file's server tells the time."""

    text: str
    beat_ns: int


# Claims are the process's, as the kernel's locks are: by their text, those that it wants and those that it holds; and
# those of others that it saw, with the time on its own clock at which it first saw them so. No clock is compared with
# another one.
_wanted: dict[str, Path] = {}
_held: dict[str, Path] = {}
_seen: dict[Path, tuple[_Look, float]] = {}


@contextlib.contextmanager
def claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the claim `path` for the length of the block; yields False if another process holds it.

    With `wait` the block starts when the claim is free. It is removed at the end, so that claims leave no litter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"{_place()}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(4)}"
    is_over = threading.Event()
    pause_s = FIRST_LOOK_S
    _wanted[text] = path  # before it is there, for a signal may come right after
    try:
        while not (is_mine := _take(path, text)) and wait:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, MAX_LOOK_S)
        if is_mine:
            _held[text] = path
            threading.Thread(target=_beat, args=(path, text, is_over), daemon=True).start()
        yield is_mine
    finally:
        is_over.set()
        _give_back(text)


def _give_back(text: str) -> None:
    _held.pop(text, None)
    path = _wanted.get(text)
    with contextlib.suppress(OSError):  # where it can't be removed, it is taken over once this process has ended
        if path and _text(path) == text:
            path.unlink(missing_ok=True)
    _wanted.pop(text, None)  # last: a signal may come before


def give_back_claims() -> None:
    """For a process that ends in the middle: loops that hold claims may never be told to end."""
    for text in list(_wanted):
        _give_back(text)


def clear_claim(path: Path, *temporaries: Path) -> None:
    """Remove a claim that a killed process left, and what it left with it, unless somebody holds the claim."""
    if os.path.lexists(path):
        with claim(path) as is_mine:
            for temporary in temporaries if is_mine else ():
                temporary.unlink(missing_ok=True)


def is_dead(path: Path) -> bool:
    """Whether the holder of a claim is certain to have ended: only of those on this host can it be told at once."""
    return _has_ended(_text(path) or "")


def check_claims() -> None:
    """Raises StopWorkError if a claim of this process was taken over, so that it must not finish what it began.

    That happens to who stood still for `LEASE_S` (a suspended job, a sleeping laptop) while another host waited.
    """
    for text, path in list(_held.items()):
        if (now := _text(path)) != text:
            who = f"by {now.partition(':')[0]}" if now else "and given back"
            raise StopWorkError(f"{path}: taken over {who}, as this process stood still for over {LEASE_S:.0f} s")


def _take(path: Path, text: str) -> bool:
    """Try once; whether the claim is ours now.

    A dead one is replaced by who holds the claim `<path>.<token of the dead one>`, so that it happens only once: that
    claim becomes the claim itself. If its holder is killed in between, it is taken over in the same way.
    """
    try:
        path.symlink_to(text)
    except FileExistsError:
        found = _look(path)
        if found is None or not _is_over(path, found):
            return False
        who, _, token = (found.text or "an older version:old").rpartition(":")
        turn = path.with_name(f"{path.name}.{token}")
        if not _take(turn, text):
            return False
        if _look(path) != found:  # another process was quicker
            turn.unlink(missing_ok=True)
            return False
        os.replace(turn, path)
        log.info("%s: taken over from %s, which is gone", path, who.partition(":")[0])
    _seen.pop(path, None)
    return True


def _is_over(path: Path, found: _Look) -> bool:
    """Whether the claim that was found is a dead one's."""
    if _has_ended(found.text):
        return True
    before, since_s = _seen.get(path, (None, 0.0))
    if found == before:
        return time.monotonic() - since_s >= LEASE_S
    _seen[path] = found, time.monotonic()
    return False


def _has_ended(text: str) -> bool:
    """Whether the holder was a process of this host that is no more."""
    place, _, rest = text.partition(":")
    pid, _, rest = rest.partition(":")
    return place == _place() and _started(int(pid)) != rest.partition(":")[0]


@functools.cache
def _place() -> str:
    """Where a process's number means something: a host, from one start of it to the next, and a container in it."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}-{boot_id[:8]}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none, or only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # its name may contain anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _text(path: Path) -> str | None:
    """What a claim says; None if there is none, empty if it is the lock file of an older version."""
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def _look(path: Path) -> _Look | None:
    try:
        return _Look(_text(path) or "", path.lstat().st_mtime_ns)
    except FileNotFoundError:
        return None


def _beat(path: Path, text: str, is_over: threading.Event) -> None:
    """Give a sign of life until the claim is given back, or lost."""
    while not is_over.wait(BEAT_S) and _text(path) == text:
        with contextlib.suppress(OSError):
            os.utime(path, follow_symlinks=False)


def _fsync_dir(directory: Path) -> None:
    """Make a rename in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` whole at the end of the block, or not at all.

    Written beside `path` under a fixed hidden name, so that what a kill left behind is replaced by the next writer. Who
    writes a file that others may write at the same time holds a claim on it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # never go on writing in a file that a dead one may still have open
    try:
        with naming(path), open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        check_claims()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_dir(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A full disk found in the block, by writing or flushing, says which file it was: of itself it doesn't."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)
        raise


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
    check_claims()
    os.replace(temporary, path)
    _fsync_dir(path.parent)


def open_regular(path: Path) -> io.BufferedReader:
    """A file that others made, open for reading, through links too. Raises OSError at once for what is no file: a named
    pipe would be waited for, and a device may have no end.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def open_to_change(path: Path, mode: str) -> IO[bytes]:
    """A file to be written in place. Raises OSError for a link: in a folder of others, it may lead to anything."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))


def append_line(path: Path, line: str) -> None:
    """Add one line to a log; the caller holds a claim on it. A torn last line of a killed writer is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_torn_line(path)
    check_claims()
    with naming(path), open_to_change(path, "ab") as file:
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def cut_torn_line(path: Path) -> bool:
    """Cut off what comes after the last line break, which no writer has finished; whether there was anything."""
    if not path.exists():
        return False
    with open_to_change(path, "r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:  # from the back, in blocks: the log may be long
            start = max(0, end - 65536)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        if end < size:
            file.truncate(end)
    return end < size
