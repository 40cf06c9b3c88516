"""A real one-node Slurm cluster on loopback for the tests that need one."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS_DIR = Path(__file__).parent / "slurm"
PACKAGES = "slurmctld slurmd slurm-client munge"


@dataclass(frozen=True)
class Cluster:
    """Asks and steers the cluster by its own tools."""

    state_dir: Path

    def jobs(self, *, over: bool = False) -> dict[str, str]:
        """{job id: state} of all jobs; with `over` also of those that ended."""
        command = ["squeue", "--noheader", "--array", "--format", "%i|%T", *["--states=all"] * over]
        lines = subprocess.check_output(command, text=True, timeout=20).splitlines()
        return dict(line.split("|") for line in lines)  # type: ignore[misc]  # each line has its two fields

    def wait_until_empty(self, timeout_s: float = 60) -> None:
        wait_for(lambda: not self.jobs(), lambda: f"jobs end, but: {self.jobs()}", timeout_s)

    def cancel_all(self) -> None:
        """Leave the queue empty for the next test."""
        subprocess.run(["scancel", f"--user={os.getuid()}", "--full"], timeout=20, check=True)
        self.wait_until_empty()


def wait_for(condition: Callable[[], object], what: Callable[[], str], timeout_s: float = 60) -> None:
    """Poll until the condition holds; fail saying what it is that didn't happen."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout_s} s: {what()}")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """Slurm's daemons as on a real cluster, but on one node, on free loopback ports and as root. Without an accounting
    database: a script over squeue stands in for `sacct`."""
    if os.getuid() != 0 or shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"a real Slurm needs root and the Debian packages {PACKAGES}")
    state_dir = Path(tempfile.mkdtemp(prefix="slurm-"))  # not in pytest's tmp_path: names of sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CI_DIR", str(state_dir))
        patch.setenv("SLURM_CI_CPUS", "8")  # more than there may be: the jobs mostly wait
        patch.setenv("SLURM_CI_FIRST_JOB", str(random.randrange(1, 60_000_000)))
        patch.setenv("SLURM_CI_CTLD_PORT", str(_free_port()))
        patch.setenv("SLURM_CI_D_PORT", str(_free_port()))
        try:
            started = subprocess.run([SCRIPTS_DIR / "start-slurm"], capture_output=True, text=True, timeout=120)
            assert started.returncode == 0, started.stderr
            patch.setenv("SLURM_CONF", str(state_dir / "slurm.conf"))
            patch.setenv("PATH", f"{state_dir}/bin:{os.environ['PATH']}")
            yield Cluster(state_dir)
        finally:
            subprocess.run([SCRIPTS_DIR / "stop-slurm", "--purge"], capture_output=True, timeout=60, check=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
