"""What of a stage is queued: squeue's list, and the note of which job does which command line."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from trackverse import files, jsonl
from trackverse.errors import RecordError, SetupError

SQUEUE_TIMEOUT_S = 60
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
Note = dict[str, dict[str, str]]  # {job name: {command line: job id}}


@dataclass(frozen=True)
class Queued:
    """A job in the queue: Slurm's word for its state, and why it doesn't run ("None" if it does)."""

    state: str
    reason: str

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING


def job_name(script: Path, output_dir: Path) -> str:
    """The name of a stage's jobs: the same for the same script and output folder, however the folder is spelled."""
    digest = hashlib.sha256(str(output_dir.resolve()).encode()).hexdigest()
    return f"trackverse-{script.stem}-{digest[:12]}"


def listed_jobs(name: str) -> dict[str, Queued]:
    """{job id: state} of this user's jobs called `name` that are not over. Raises SetupError if that can't be told.

    squeue reports some errors with status 0 and no jobs: any word on stderr means that its list can't be trusted. The
    user goes by number, as $USER is not set everywhere; each array element has its own line; names are not shortened.
    """
    command = ["squeue", "--noheader", "--all", "--array", "--user", str(os.getuid()), "--format", "%i|%T|%r|%j"]
    # SQUEUE_STATES, SQUEUE_PARTITION and their like would hide jobs.
    env = {key: value for key, value in os.environ.items() if not key.startswith("SQUEUE_")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=SQUEUE_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"can't tell what is queued: squeue is silent for {SQUEUE_TIMEOUT_S} s") from error
    except OSError as error:
        raise SetupError(f"can't tell what is queued: squeue can't be run ({error.strerror})") from error
    if done.returncode or done.stderr.strip():
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise SetupError(f"can't tell what is queued: squeue says: {said}")
    rows = [line.split("|", 3) for line in done.stdout.splitlines()]
    return {row[0]: Queued(row[1], row[2]) for row in rows if row[3:] == [name]}


def load_note(path: Path) -> Note:
    """What `submitted.json` says; nothing if there is none. Raises SetupError if it can't be read."""
    try:
        noted = jsonl.read_json(path)
        return {str(name): {str(key): str(value) for key, value in ids.items()} for name, ids in noted.items()}
    except FileNotFoundError:
        return {}
    except (RecordError, AttributeError) as error:
        raise SetupError(f"{path}: not a list of submitted jobs; remove it once none of them is queued") from error


def save_note(path: Path, note: Note) -> None:
    with files.atomic_write(path) as file:
        file.write(jsonl.dump(note).encode() + b"\n")


def still_queued(noted: dict[str, str], listed: dict[str, Queued], note_path: Path) -> dict[str, str]:
    """{command line: job id} of what was noted and is still listed. Raises SetupError if more is listed than noted."""
    if unknown := listed.keys() - noted.values():
        raise SetupError(
            f"{describe(unknown, listed)} works on this folder, but {note_path} doesn't know on what: "
            f"wait for it, or end it with scancel; nothing submitted"
        )
    return {command: job_id for command, job_id in noted.items() if job_id in listed}


def describe(ids: Collection[str], listed: dict[str, Queued]) -> str:
    """The jobs with their states, as in "job 12 (1 running, 3 pending)"."""
    states = Counter(listed[job_id].state.lower() for job_id in ids)
    return f"job {numbers(ids)} ({', '.join(f'{n} {state}' for state, n in states.most_common())})"


def numbers(ids: Collection[str]) -> str:
    """The numbers of the arrays that the jobs belong to."""
    return ", ".join(sorted({job_id.partition("_")[0] for job_id in ids}, key=int))
