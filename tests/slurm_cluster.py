"""A real one-node Slurm cluster on loopback for the tests that need one."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPTS_DIR = Path(__file__).parent / "slurm"
PACKAGES = "slurmctld slurmd slurm-client munge"
GPUS, MAX_ARRAY_SIZE = 8, 8
FIRST_PORT = 20_000  # below those from 32768 that the kernel gives to whoever asks for any: nobody comes in between


@dataclass(frozen=True)
class Cluster:
    """Asks and steers the cluster by its own tools. `env`: what a program needs to find it."""

    state_dir: Path
    settings: dict[str, str] = field(repr=False)

    @property
    def env(self) -> dict[str, str]:
        return os.environ | self.settings | {"SLURM_CONF": str(self.state_dir / "slurm.conf")}

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.env, stdout=subprocess.PIPE, text=True, timeout=300, check=True
        ).stdout.strip()

    def jobs(self, *, over: bool = False) -> dict[str, str]:
        """{job id: state} of all jobs; with `over` also of those that ended."""
        lines = self.ask("squeue", "--noheader", "--array", "--format", "%i|%T", *["--states=all"] * over).splitlines()
        return dict(line.split("|") for line in lines)  # type: ignore[misc]  # each line has its two fields

    def state(self, job_id: str) -> str:
        return self.jobs(over=True)[job_id]

    def restarts(self, job_id: str) -> int:
        """How many times a job was put back into the queue and run again."""
        shown = re.search(r"Restarts=(\d+)", self.ask("scontrol", "show", "job", job_id))
        assert shown
        return int(shown[1])

    def time_of(self, what: str, job_id: str) -> str:
        """`StartTime` or `EndTime` of a job, as text that sorts."""
        shown = re.search(rf"{what}=(\S+)", self.ask("scontrol", "show", "job", job_id))
        assert shown
        return shown[1]

    def processes(self, job_id: str) -> list[int]:
        """The processes of a job's steps on this node, those first that Slurm started itself."""
        number = re.search(r"JobId=(\d+)", self.ask("scontrol", "show", "job", job_id))
        assert number
        rows = [line.split() for line in self.ask("scontrol", "listpids", number[1]).splitlines()[1:]]
        tasks = [row for row in rows if row[2].isdigit()]  # not those of the batch script, which waits for srun
        return [int(row[0]) for row in sorted(tasks, key=lambda row: row[3] == "-")]

    def submitted(self, done: subprocess.CompletedProcess[str]) -> str:
        """The number of the job, the first one, that a stage says it has submitted."""
        assert done.returncode == 0, done.stderr
        found = re.search(r"^submitted \d+ of \d+ elements? as job (\d+)", done.stdout, re.MULTILINE)
        assert found, done.stdout
        return found[1]

    def wait_until_empty(self, timeout_s: float = 1800) -> None:
        wait_for(lambda: not self.jobs(), lambda: f"jobs end, but: {self.jobs()}", timeout_s)

    def cancel_all(self) -> None:
        """Leave the queue empty for the next test."""
        self.ask("scancel", f"--user={os.getuid()}", "--full")
        self.wait_until_empty()

    def lose_the_node(self) -> None:
        """As when a node loses its power: everything on it ends at once, and the controller finds it down."""
        for pid in self._on_the_node():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node = self.ask("sinfo", "--noheader", "--Node", "--partition=high", "--format=%N")
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def _on_the_node(self) -> list[int]:
        """slurmd, and all that it has started, known by this cluster's settings in the environment."""
        ours = f"SLURM_CONF={self.state_dir}/slurm.conf".encode()
        pids = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
                name = (path / "comm").read_text().strip()
            except OSError:  # it has ended, or is the kernel's
                continue
            in_a_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
            if ours in variables and (in_a_job or name in ("slurmd", "slurmstepd")):
                pids.append(int(path.name))
        return pids

    def start(self) -> None:
        """Start what doesn't run of the cluster."""
        command = [SCRIPTS_DIR / "start-slurm"]
        started = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=300)
        assert started.returncode == 0, started.stderr


def wait_for(condition: Callable[[], object], what: Callable[[], str], timeout_s: float = 300) -> None:
    """Poll until the condition holds; fail saying what it is that didn't happen."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout_s} s: {what()}")
        time.sleep(0.1)


@contextlib.contextmanager
def running_cluster(proctrack: str = "auto") -> Iterator[Cluster]:
    """Slurm's daemons as on a real cluster, but on one node, on loopback ports of their own and as root. Without an
    accounting database, and with files of no content as GPUs. `proctrack`: how Slurm knows the processes of a job."""
    if os.getuid() != 0 or shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"a real Slurm needs root and the Debian packages {PACKAGES}")
    if proctrack == "cgroup" and not os.access("/sys/fs/cgroup/freezer", os.W_OK):
        pytest.skip("proctrack/cgroup needs a freezer of cgroups v1 that can be written to, or systemd")
    state_dir, port = _place()
    settings = {
        "SLURM_CI_DIR": state_dir,
        "SLURM_CI_PROCTRACK": proctrack,
        "SLURM_CI_CPUS": 16,  # more than there may be: the jobs mostly wait
        "SLURM_CI_GPUS": GPUS,
        "SLURM_CI_MAX_ARRAY": MAX_ARRAY_SIZE,
        "SLURM_CI_FIRST_JOB": random.randrange(1, 60_000_000),
        "SLURM_CI_CTLD_PORT": port,
        "SLURM_CI_D_PORT": port + 1,
    }
    cluster = Cluster(state_dir, {key: str(value) for key, value in settings.items()})
    try:
        cluster.start()
        yield cluster
    finally:
        stop = [SCRIPTS_DIR / "stop-slurm", "--purge"]
        subprocess.run(stop, env=cluster.env, capture_output=True, timeout=600, check=True)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """The cluster that programs find which a test starts."""
    with running_cluster() as cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
        yield cluster


def _place() -> tuple[Path, int]:
    """A folder for one cluster alone, and the first of its two ports, which goes with the folder's number.

    Not in pytest's tmp_path, as names of sockets must be short.
    """
    for number in itertools.count():
        folder = Path(tempfile.gettempdir(), f"slurm-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder, FIRST_PORT + 2 * number
    raise AssertionError("not reached")
