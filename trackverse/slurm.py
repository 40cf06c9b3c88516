"""Stages as Slurm job arrays: the door to submitit, and the guard against submitting the same work twice.

What is finished is known from the disk alone, so a job that was preempted, that ran out of time or whose node died is
simply run again with the same command line.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from trackverse import files, layout
from trackverse.errors import SetupError
from trackverse.slurm_job import PYTHON, StageJob
from trackverse.slurm_queue import describe, job_name, listed_jobs, load_note, numbers, save_note, still_queued
from trackverse.wording import counted

TOOLS = ("sbatch", "squeue", "srun", "scontrol")
SCONTROL_TIMEOUT_S = 60
# Slurm looks at time limits every 30 s, and needs some to put the job back into the queue.
SIGNAL_DELAY_S = 120
MAX_NUM_TIMEOUT = 100  # runs to the time limit before a job counts as hopeless
# How jobs are known, and how they learn of their end, so not the user's to set.
RESERVED_OPTIONS = {"job_name", "array", "output", "error", "signal"}


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
    script: Path, elements: dict[str, list[str]], output_dir: Path, settings: Settings, *, dry_run: bool = False
) -> str:
    """Submit `script` once per command line of `elements`, as one array; the lines that say what was done.

    `elements` goes by what each is known as: those that are still queued from an earlier call are left out, and
    `submitted.json` in `output_dir` says which those are. More elements than the site takes in one array become
    several, of which each waits for the one before.
    Raises SetupError, with nothing submitted, if all are queued, if the queue can't be asked, if it lists jobs of this
    stage and folder that are not noted, and if there is no Slurm or it refuses the settings.
    """
    name = job_name(script, output_dir)
    jobs = {known_as: StageJob(str(script), tuple(argv)) for known_as, argv in elements.items()}
    if dry_run:
        return _plan(name, jobs, settings)
    _check_tools()
    extra = _extra_options(settings)
    logs_dir = _make_logs_dir(output_dir)
    note_path = layout.submitted_path(output_dir)
    with files.claim(layout.lock_path(note_path), wait=True):
        listed = listed_jobs(name)
        note = load_note(note_path)
        queued = still_queued(note.get(name, {}), listed, note_path)
        before = [queued[command] for command in jobs if command in queued]
        missing = [command for command in jobs if command not in queued]
        if not missing:
            raise SetupError(f"already queued as {describe(before, listed)}; nothing submitted")
        ids: list[str] = []
        for commands in _batches(missing, _max_array_size()):
            # Where locks don't reach across hosts, a second array of this name at least waits for the first, and so do
            # the arrays of one submission, which are no more at once than the user wants. Beside jobs that are known to
            # do other elements, there is nothing to wait for.
            waits_for = filter(None, ["singleton" if ids or not listed else None, settings.extra.get("dependency")])
            options = extra | {"dependency": ",".join(waits_for) or None}
            try:
                ids += _sbatch(name, [jobs[command] for command in commands], logs_dir, settings, options)
            except SetupError as error:
                if not ids:
                    raise SetupError(f"nothing submitted: {error}") from error
                raise SetupError(f"of {len(missing)} elements, only {len(ids)} submitted: {error}") from error
            note[name] = note.get(name, {}) | dict(zip(missing, ids, strict=False))
            save_note(note_path, note)
    arrays = "one after another, " if "," in numbers(ids) else ""
    which = f"{len(ids)} of {counted(len(jobs), 'elements')}"
    lines = [f"submitted {which} as job {numbers(ids)}, {arrays}logs in {logs_dir}"]
    lines += [f"not submitted again: {describe(before, listed)}"] * bool(before)
    return "\n".join([*lines, "see how far it is: the same command with --status"])


def _plan(name: str, jobs: dict[str, StageJob], settings: Settings) -> str:
    """What `submit` would ask for. The queue is not asked."""
    wants = [f"{key} {value}" for key, value in vars(settings).items() if value]
    what = f"{counted(len(jobs), 'elements')} as {name} ({', '.join(wants)})"
    lines = [f"would submit {what}, but those that are queued already:"]
    return "\n".join([*lines, *(f"  {Path(job.script).name} {shlex.join(job.argv)}" for job in jobs.values())])


def _check_tools() -> None:
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        raise SetupError(
            f"no {', '.join(absent)} on PATH: --slurm needs a Slurm cluster; without it the stage runs here"
        )


def _extra_options(settings: Settings) -> dict[str, str | bool | None]:
    """`--slurm_extra` as submitit takes it. Raises SetupError for what is not the user's to set."""
    extra = {key.replace("-", "_"): value or True for key, value in settings.extra.items()}
    if taken := RESERVED_OPTIONS & extra.keys():
        raise SetupError(f"--slurm_extra {sorted(taken)[0]}: is set by --slurm itself")
    return {"requeue": True, **extra}


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


def _max_array_size() -> int:
    """How many elements the site takes in one array. Raises SetupError if it doesn't say."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"nothing submitted: scontrol is silent for {SCONTROL_TIMEOUT_S} s") from error
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return max(1, int(value))  # it is one more than the largest index; 0 where there are no arrays
    raise SetupError(f"nothing submitted: scontrol names no MaxArraySize: {' '.join(done.stderr.split())}")


def _batches(commands: list[str], size: int) -> Iterator[list[str]]:
    rest = iter(commands)
    while batch := list(islice(rest, size)):
        yield batch


def _sbatch(
    name: str, jobs: list[StageJob], logs_dir: Path, settings: Settings, options: dict[str, str | bool | None]
) -> list[str]:
    """Submit the jobs as one array; their ids. Raises SetupError with sbatch's words if it refuses."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

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
        setup=[f"export PYTHONPATH={shlex.quote(str(layout.REPO_DIR))}${{PYTHONPATH:+:$PYTHONPATH}}"],
        # From Slurm 22.05 on, srun doesn't take the number over from sbatch.
        srun_args=["--cpus-per-task", str(settings.cpus)],
        additional_parameters={key: value for key, value in options.items() if value is not None},
    )
    try:
        # submitit prints sbatch's words before it raises them.
        with _outside_of_any_job(), contextlib.redirect_stderr(io.StringIO()):
            return [str(job.job_id) for job in executor.submit_array(jobs)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SetupError(" ".join(str(error).split())) from error
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
