"""Every call by which a process changes files, seen before the kernel does it: the fault points of the campaign.

A filter that a process installs on itself (seccomp, with user notification) stops it, its threads and the programs that
it starts at each of these calls until a watcher answers: go on, fail with this error, or nothing because it was killed
there. So a fault can be put at every write, fsync, rename and append, also at those of FFmpeg's and yt-dlp's own code,
which no patch of Python's functions sees, and the product's code knows nothing of it. Takes Linux 5.5 and no root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import select
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# name: (number on x86-64, number on aarch64, which argument is a file descriptor, which is a path)
_TABLE: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
    "write": (1, 64, 0, None),
    "pwrite64": (18, 68, 0, None),
    "writev": (20, 66, 0, None),
    "pwritev": (296, 70, 0, None),
    "sendfile": (40, 71, 0, None),
    "copy_file_range": (326, 285, 2, None),
    "fallocate": (285, 47, 0, None),
    "ftruncate": (77, 46, 0, None),
    "fsync": (74, 82, 0, None),
    "fdatasync": (75, 83, 0, None),
    "fchmod": (91, 52, 0, None),
    "open": (2, None, None, 0),
    "openat": (257, 56, None, 1),
    "creat": (85, None, None, 0),
    "rename": (82, None, None, 1),
    "renameat": (264, 38, None, 3),
    "renameat2": (316, 276, None, 3),
    "link": (86, None, None, 1),
    "linkat": (265, 37, None, 3),
    "symlink": (88, None, None, 1),
    "symlinkat": (266, 36, None, 2),
    "unlink": (87, None, None, 0),
    "unlinkat": (263, 35, None, 1),
    "rmdir": (84, None, None, 0),
    "mkdir": (83, None, None, 0),
    "mkdirat": (258, 34, None, 1),
    "truncate": (76, 45, None, 0),
    "chmod": (90, None, None, 0),
    "fchmodat": (268, 53, None, 1),
}
_FLAGS_OF = {"open": 1, "openat": 2}  # which argument holds the flags
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
_NAME_OF = {row[_COLUMN or 0]: name for name, row in _TABLE.items() if row[_COLUMN or 0] is not None}
_SECCOMP = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls of the listener
_CONTINUE = 1
_NOTICE = "QIIiIQ6Q"  # id, thread, flags; call number, architecture, instruction pointer, six arguments


class _Program(ctypes.Structure):
    _fields_ = (("num_steps", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def install_filter() -> int:
    """Stop this process at the calls of the table from now on; the descriptor that a watcher must read. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(b"".join(_steps()))
    program = _Program(len(code) // 8, ctypes.cast(code, ctypes.c_void_p))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = int(libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program)))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter with user notification")
    return listener


def _steps() -> list[bytes]:
    """The filter in the kernel's small language: calls of the table are notified, opening only where it may change."""

    def step(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    load, jump_if_equal, jump_if_any_bit, end = 0x20, 0x15, 0x45, 0x06
    steps = [step(load, 0, 0, 0)]  # the number of the call
    for number, name in _NAME_OF.items():
        if name in _FLAGS_OF:
            steps += [
                step(jump_if_equal, 0, 4, number),
                step(load, 0, 0, 16 + 8 * _FLAGS_OF[name]),
                step(jump_if_any_bit, 0, 1, _WRITING),
                step(end, 0, 0, _NOTIFY),
                step(end, 0, 0, _ALLOW),
            ]
        else:
            steps += [step(jump_if_equal, 0, 1, number), step(end, 0, 0, _NOTIFY)]
    return [*steps, step(end, 0, 0, _ALLOW)]


@dataclass(frozen=True)
class Call:
    """One call that changes a file: `name` as in the kernel, the file's `path`, and the thread that stands there."""

    name: str
    path: Path
    thread: int
    args: tuple[int, ...]

    @property
    def kind(self) -> str:
        """What the campaign counts it as."""
        if self.name in ("write", "pwrite64", "writev", "pwritev", "sendfile", "copy_file_range"):
            return "append" if int(self._fd_info("flags:"), 8) & os.O_APPEND else "write"
        return {"fdatasync": "fsync", "openat": "open", "creat": "open", "mkdirat": "mkdir"}.get(
            self.name, self.name.removesuffix("at2").removesuffix("at")
        )

    def _fd_info(self, key: str) -> str:
        try:
            text = Path(f"/proc/{self.thread}/fdinfo/{self.args[0]}").read_text()
        except FileNotFoundError:  # the call is to a descriptor that is closed
            return "0"
        return text.partition(key)[2].split()[0]

    def write_half(self) -> None:
        """Do the first half of a write: what a kill in the middle of it leaves."""
        if self.name != "write":
            return
        with open(f"/proc/{self.thread}/mem", "rb") as memory:
            memory.seek(self.args[1])
            data = memory.read(self.args[2] // 2)
        with open(f"/proc/{self.thread}/fd/{self.args[0]}", "r+b") as file:
            if self.kind == "append":
                file.seek(0, os.SEEK_END)
            else:
                file.seek(int(self._fd_info("pos:")))
            file.write(data)


# What to do at a call, given its number from 0: nothing, or the error number that it fails with.
Verdict = Callable[[Call, int], int | None]


def watch(listener: int, folder: Path, decide: Verdict, is_over: Callable[[], bool]) -> None:
    """Answer for the calls that change files below `folder` until the watched processes are gone.

    `decide` is asked for each; calls elsewhere pass. It may kill the process instead of answering.
    """
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    number = 0
    while True:
        events = poll.poll(50)
        if events and not events[0][1] & select.POLLIN:
            return  # nobody is left who has the filter
        if not events:
            if is_over():
                return
            continue
        notice = bytearray(struct.calcsize(_NOTICE))
        try:
            fcntl.ioctl(listener, _RECEIVE, notice)
        except (FileNotFoundError, InterruptedError):  # killed meanwhile
            continue
        notice_id, thread, _flags, call_number, _arch, _ip, *args = struct.unpack(_NOTICE, notice)
        call = _understand(_NAME_OF[call_number], thread, tuple(args))
        error = None
        if call is not None and call.path.is_relative_to(folder):
            error = decide(call, number)
            number += 1
        answer = (0, 0, _CONTINUE) if error is None else (0, -error, 0)
        try:
            fcntl.ioctl(listener, _SEND, bytearray(struct.pack("QqiI", notice_id, *answer)))
        except FileNotFoundError:  # killed while it waited
            continue


def _understand(name: str, thread: int, args: tuple[int, ...]) -> Call | None:
    """The call with the path that it is about; None for pipes and sockets, and for a thread that is gone."""
    _, _, fd_argument, path_argument = _TABLE[name]
    try:
        if fd_argument is not None:
            path = Path(str(Path(f"/proc/{thread}/fd/{args[fd_argument]}").readlink()).removesuffix(" (deleted)"))
        else:
            assert path_argument is not None
            with open(f"/proc/{thread}/mem", "rb") as memory:
                memory.seek(args[path_argument])
                text = memory.read(4096).partition(b"\0")[0]
            path = Path(os.fsdecode(text))
            if not path.is_absolute():
                path = _base(name, thread, args, path_argument) / path
    except (OSError, OverflowError, ValueError):
        return None
    return Call(name, path, thread, args) if path.is_absolute() else None


def _base(name: str, thread: int, args: tuple[int, ...], path_argument: int) -> Path:
    """The folder that a relative path begins in: of the descriptor before it in calls "at", else the working folder."""
    fd = ctypes.c_int(args[path_argument - 1] & 0xFFFFFFFF).value if "at" in name and path_argument else -100
    return Path(f"/proc/{thread}/cwd" if fd < 0 else f"/proc/{thread}/fd/{fd}").readlink()


def kill(pid: int) -> None:
    """kill -9 of a process and of all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
