"""Stages as Slurm job arrays: the door to submitit, and the guard against submitting the same work twice.

What is finished is known from the disk alone, so a job that was preempted, that ran out of time or whose node died is
simply run again with the same command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trackverse import files, jsonl, layout
from trackverse.errors import RecordError, SetupError

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

TOOLS = ("sbatch", "squeue", "srun")
SQUEUE_TIMEOUT_S = 60
# Slurm looks at time limits every 30 s, and Python handles a signal only between two calls of C code.
SIGNAL_DELAY_S = 120
MAX_NUM_TIMEOUT = 100  # runs to the time limit before a job counts as hopeless
# How jobs are known, so not the user's to set.
RESERVED_OPTIONS = {"job_name", "array", "output", "error"}
# Slurm's warning USR2 kills a Python that has not yet come to install its handler, and such a job is never requeued.
# A shell's trap is older and found in more places than `env --ignore-signal`.
PYTHON = """sh -c 'trap "" USR2; exec "$@"' sh """ + shlex.quote(sys.executable)


@dataclass(frozen=True)
class Settings:
    """What each element of the array asks for, and how many run at once.

    `time` in minutes is the limit of one run, after which the element is requeued; `extra` holds other sbatch options
    by name, with "" for those without a value.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: int = 0
    cpus: int = 4
    mem: str = "8G"
    time: int = 720
    max_parallel: int = 128
    extra: dict[str, str] = field(default_factory=dict)


def submit(
    script: Path, elements: list[list[str]], output_dir: Path, settings: Settings, *, dry_run: bool = False
) -> str:
    """Submit `script` once per command line of `elements`, as one array; the lines that say what was done.

    Elements that are still queued from an earlier call are left out, and `submitted.json` in `output_dir` says which
    those are. Raises SetupError, with nothing submitted, if all are queued, if the queue can't be asked, if it lists
    jobs of this stage and folder that are not noted, and if there is no Slurm or it refuses the settings.
    """
    name = job_name(script, output_dir)
    jobs = {shlex.join(argv): StageJob(str(script), tuple(argv)) for argv in elements}
    if dry_run:
        return _plan(name, jobs, settings)
    _check_tools()
    logs_dir = _make_logs_dir(output_dir)
    noted_path = layout.submitted_path(output_dir)
    with files.claim(layout.lock_path(noted_path), wait=True):
        listed = _listed_jobs(name)
        noted = _load_noted(noted_path)
        queued = _still_queued(noted.get(name, {}), listed, noted_path)
        before = [queued[command] for command in jobs if command in queued]
        missing = [command for command in jobs if command not in queued]
        if not missing:
            raise SetupError(f"already queued as {_describe(before, listed)}; nothing submitted")
        # Where locks don't reach across hosts, a second array of this name at least waits for the first. Beside jobs
        # that are known to do other elements, there is nothing to wait for.
        dependency = None if listed else "singleton"
        ids = _sbatch(name, [jobs[command] for command in missing], logs_dir, settings, dependency)
        noted[name] = queued | dict(zip(missing, ids, strict=True))
        with files.atomic_write(noted_path) as file:
            file.write(jsonl.dump(noted).encode() + b"\n")
    lines = [f"submitted {len(ids)} of {len(jobs)} elements as job {_numbers(ids)}, logs in {logs_dir}"]
    lines += [f"not submitted again: {_describe(before, listed)}"] * bool(before)
    return "\n".join([*lines, f"see how far it is: squeue --name {name}"])


def job_name(script: Path, output_dir: Path) -> str:
    """The name of a stage's jobs: the same for the same script and output folder, however the folder is spelled."""
    digest = hashlib.sha256(str(output_dir.resolve()).encode()).hexdigest()
    return f"trackverse-{script.stem}-{digest[:12]}"


def _plan(name: str, jobs: dict[str, StageJob], settings: Settings) -> str:
    """What `submit` would ask for. The queue is not asked."""
    wants = [f"{key} {value}" for key, value in vars(settings).items() if value]
    lines = [f"would submit {len(jobs)} elements as {name} ({', '.join(wants)}), but those that are queued already:"]
    return "\n".join([*lines, *(f"  {Path(job.script).name} {command}" for command, job in jobs.items())])


def _check_tools() -> None:
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        raise SetupError(
            f"no {', '.join(absent)} on PATH: --slurm needs a Slurm cluster; without it the stage runs here"
        )


def _make_logs_dir(output_dir: Path) -> Path:
    logs_dir = layout.slurm_logs_dir(output_dir).absolute()
    if set(str(logs_dir)) & set("%\\\n"):
        raise SetupError(
            f"{str(output_dir)!r}: Slurm can't write logs to a folder with %, \\ or a line break in its name"
        )
    try:
        logs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{logs_dir}: can't be made ({error.strerror})") from error
    return logs_dir


def _listed_jobs(name: str) -> dict[str, str]:
    """{job id: state} of this user's jobs called `name` that are not over. Raises SetupError if that can't be told.

    squeue reports some errors with status 0 and no jobs: any word on stderr means that its list can't be trusted. The
    user goes by number, as $USER is not set everywhere; each array element has its own line; names are not shortened.
    """
    command = ["squeue", "--noheader", "--all", "--array", "--user", str(os.getuid()), "--format", "%i|%T|%j"]
    # SQUEUE_STATES, SQUEUE_PARTITION and their like would hide jobs.
    env = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=SQUEUE_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"can't tell what is queued: squeue is silent for {SQUEUE_TIMEOUT_S} s") from error
    if done.returncode or done.stderr.strip():
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise SetupError(f"can't tell what is queued, so nothing is submitted: squeue says: {said}")
    rows = [line.split("|", 2) for line in done.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if row[2:] == [name]}


def _load_noted(path: Path) -> dict[str, dict[str, str]]:
    """{job name: {command line: job id}} of `submitted.json`."""
    try:
        noted = jsonl.read_json(path)
        return {str(name): {str(key): str(value) for key, value in ids.items()} for name, ids in noted.items()}
    except FileNotFoundError:
        return {}
    except (RecordError, AttributeError) as error:
        raise SetupError(f"{path}: not a list of submitted jobs; remove it once none of them is queued") from error


def _still_queued(noted: dict[str, str], listed: dict[str, str], noted_path: Path) -> dict[str, str]:
    """{command line: job id} of what was noted and is still listed. Raises SetupError if more is listed than noted."""
    if unknown := listed.keys() - noted.values():
        raise SetupError(
            f"{_describe(unknown, listed)} works on this folder, but {noted_path} doesn't know on what: "
            f"wait for it, or end it with scancel; nothing submitted"
        )
    return {command: job_id for command, job_id in noted.items() if job_id in listed}


def _describe(ids: Collection[str], listed: dict[str, str]) -> str:
    """The jobs with their states, as in "job 12 (1 running, 3 pending)"."""
    states = Counter(listed[job_id].lower() for job_id in ids)
    return f"job {_numbers(ids)} ({', '.join(f'{n} {state}' for state, n in states.most_common())})"


def _numbers(ids: Collection[str]) -> str:
    """The numbers of the arrays that the jobs belong to."""
    return ", ".join(sorted({job_id.partition("_")[0] for job_id in ids}, key=int))


def _sbatch(name: str, jobs: list[StageJob], logs_dir: Path, settings: Settings, dependency: str | None) -> list[str]:
    """Submit the jobs as one array; their ids. Raises SetupError with sbatch's words if it refuses."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    extra = {key.replace("-", "_"): value or True for key, value in settings.extra.items()}
    if taken := RESERVED_OPTIONS & extra.keys():
        raise SetupError(f"--slurm_extra {sorted(taken)[0]}: is set by --slurm itself")
    executor = submitit.SlurmExecutor(logs_dir / "%j", max_num_timeout=MAX_NUM_TIMEOUT, python=PYTHON)
    executor.update_parameters(
        job_name=name,
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        gpus_per_node=settings.gpus or None,
        cpus_per_task=settings.cpus,
        ntasks_per_node=1,
        mem=settings.mem,
        time=settings.time,
        signal_delay_s=min(SIGNAL_DELAY_S, settings.time * 30),
        array_parallelism=settings.max_parallel,
        dependency=dependency,
        setup=[f"export PYTHONPATH={shlex.quote(str(layout.REPO_DIR))}${{PYTHONPATH:+:$PYTHONPATH}}"],
        # From Slurm 22.05 on, srun doesn't take the number over from sbatch.
        srun_args=["--cpus-per-task", str(settings.cpus)],
        additional_parameters={"requeue": True} | extra,
    )
    try:
        # submitit prints sbatch's words before it raises them.
        with _outside_of_any_job(), contextlib.redirect_stderr(io.StringIO()):
            return [str(job.job_id) for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SetupError(f"nothing submitted: {' '.join(str(error).split())}") from error
    finally:
        # What submitit needs of these is by now in the job's own folder.
        for leftover in (*logs_dir.glob("*.pkl"), *logs_dir.glob(".submission_file_*")):
            leftover.unlink()


@contextlib.contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """In a shell that is itself a Slurm job, hide that job's settings, which sbatch would take over."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    conf = {key: value for key, value in os.environ.items() if key == "SLURM_CONF"}
    with clean_env():
        os.environ.update(conf)  # says where the cluster is
        yield


@dataclass(frozen=True)
class StageJob:
    """What an element of the array runs: a stage script with its command line. Pickled, so it holds text only."""

    script: str
    argv: tuple[str, ...]

    def __call__(self) -> int:
        """The script's exit status, if that is 0 or 1 (some items failed: the job is done, the list says which).

        Any other status is raised, so that Slurm shows the job as failed. submitit ends a job that it has requeued
        with SystemExit as well: that must pass.
        """
        _shield_forks()
        sys.path.insert(0, str(Path(self.script).parent))
        sys.argv = [self.script, *self.argv]
        try:
            runpy.run_path(self.script, run_name="__main__")
        except SystemExit as end:
            if end.code not in (None, 0, 1):
                raise
            return int(end.code or 0)
        return 0

    def checkpoint(self) -> DelayedSubmission:
        """What to run after preemption or a time-out: the same again, as the state is on the disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(StageJob(self.script, self.argv))


def _shield_forks() -> None:
    """Undo submitit's signal handlers in forked children: they would requeue the job once more, and not end on SIGTERM.

    The signals are blocked during the fork, so that one sent to a child at once finds the child's own handling.
    """
    handled = {signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT}

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)

    def release_in_child() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        release()

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, handled),
        after_in_parent=release,
        after_in_child=release_in_child,
    )
