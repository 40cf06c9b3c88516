"""What an element of a Slurm array runs on its node: a stage script, guarded by submitit's process.

That process stays light and does nothing but wait, so that it is there for every signal: USR2, the warning before a
time-out or a preemption, requeues the job. The script runs as its child, and all that the script starts is shielded
from USR2: sites whose process tracking is `pgid` or `linuxproc` send it to every process of the job.
"""

from __future__ import annotations

import logging
import runpy
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

# USR2 kills a Python that has not yet come to install its handler, and such a job is never requeued. A shell's trap is
# older and found in more places than `env --ignore-signal`.
PYTHON = """sh -c 'trap "" USR2; exec "$@"' sh """ + shlex.quote(sys.executable)
STATUS_OF_A_BUG = 70  # EX_SOFTWARE of sysexits.h; Python's own is 1, which means that items failed
# For the script to roll back what it has at hand. Slurm's KillWait, after which it kills the job, is 30 s by default.
SECONDS_TO_END = 10
# Slurm ends a job with TERM and, up to a partition's GraceTime later, KILL; it requeues jobs that are there till then.
SECONDS_TO_BE_KILLED = 300


@dataclass(frozen=True)
class StageJob:
    """A stage script with its command line. Pickled, so it holds text only."""

    script: str
    argv: tuple[str, ...]

    def __call__(self) -> int:
        """The script's exit status, if that is 0 or 1 (some items failed: the job is done, the list says which).

        Any other status becomes this process's own, so that Slurm shows the job as failed: 128 and the signal's number
        for a script that was killed, `STATUS_OF_A_BUG` for one that ended with a traceback.
        """
        command = [sys.executable, "-u", "-m", __name__, self.script, *self.argv]
        script = subprocess.Popen(command, preexec_fn=_ignore_warnings)
        try:
            status = script.wait()
        except BaseException:  # submitit has requeued the job and raises SystemExit
            _end(script)
            raise
        if status in (-signal.SIGTERM, 128 + signal.SIGTERM):
            # The whole job was told to end. If it ends by itself now, it is not requeued: USR2 or KILL must come first.
            time.sleep(SECONDS_TO_BE_KILLED)
        if status not in (0, 1):
            sys.exit(status if status > 0 else 128 - status)
        return status

    def checkpoint(self) -> DelayedSubmission:
        """What to run after preemption or a time-out: the same again, as the state is on the disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(StageJob(self.script, self.argv))


def _ignore_warnings() -> None:
    """In the child, before it becomes the script: what is ignored stays so in all its children. (A handler of Python's,
    as this process has one, would turn into the default, which is to die.)"""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _end(script: subprocess.Popen[bytes]) -> None:
    script.terminate()
    try:
        script.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        script.kill()
        script.wait()


def run_script(script: str, argv: list[str]) -> None:
    """Run the script as `python script argv` does, but for the status after an uncaught exception."""
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script, *argv]
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception:
        logging.exception("the script has a bug")
        sys.exit(STATUS_OF_A_BUG)


if __name__ == "__main__":
    run_script(sys.argv[1], sys.argv[2:])
