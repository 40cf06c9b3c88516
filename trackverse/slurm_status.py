"""How far a stage's Slurm array is: what the disk says of each part, and what squeue says of its job."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trackverse import layout
from trackverse.slurm_queue import Queued, describe
from trackverse.wording import counted
from trackverse.worklist import Tally

DONE, RUNNING, QUEUED, FAILED = "done", "running", "queued", "failed"
NOT_SUBMITTED, UNKNOWN = "not submitted", "?"


@dataclass(frozen=True)
class Part:
    """One element of the array: its command line, and what of it is on the disk.

    `tally` is a dry run's: `planned` items are still to do.
    """

    label: str
    command: str
    tally: Tally

    @property
    def num_failed(self) -> int:
        return self.tally.failed.total() + self.tally.failed_before.total()

    def state(self, noted: dict[str, str], listed: dict[str, Queued] | None) -> str:
        """One word. What is finished is known from the disk alone, and so if `listed`, the queue, can't be had."""
        job = (listed or {}).get(noted.get(self.command, ""))
        if job:
            return QUEUED if job.is_waiting else RUNNING
        if not self.tally.planned:
            return FAILED if self.num_failed else DONE
        if listed is None:
            return UNKNOWN
        return FAILED if self.command in noted else NOT_SUBMITTED


def table(
    parts: list[Part], noted: dict[str, str], listed: dict[str, Queued] | None, stage_dir: Path
) -> tuple[list[str], bool]:
    """A line a part and a last one with the sums; and whether any has failed.

    `noted`: the job of each command line; `listed`: what is queued, None if that can't be told.
    """
    rows = [("part", "state", "done", "to do", "failed", "job")]
    states: Counter[str] = Counter()
    for part in parts:
        state = part.state(noted, listed)
        states[state] += 1
        done, todo, failed = part.tally.already, part.tally.planned, part.num_failed
        about = _about(part, state, noted, listed, stage_dir)
        rows.append((part.label, state, str(done), str(todo), str(failed), about))
    width = max(len(row[0]) for row in rows)
    lines = [
        f"{label:<{width}}  {state:<13} {done:>8} {todo:>8} {failed:>8}  {about}".rstrip()
        for label, state, done, todo, failed, about in rows
    ]
    by_state = ", ".join(f"{n} {state}" for state, n in states.most_common())
    lines.append(f"{counted(len(parts), 'parts')}: {by_state}")
    if unknown := (listed or {}).keys() - noted.values():
        lines.append(f"also in the queue, but not noted on what: {describe(unknown, listed or {})}")
    return lines, bool(states[FAILED])


def _about(part: Part, state: str, noted: dict[str, str], listed: dict[str, Queued] | None, stage_dir: Path) -> str:
    """The job's number, and why it waits or where its log is."""
    job_id = noted.get(part.command)
    if job_id is None or state == DONE:
        return ""
    if state == QUEUED and listed and listed[job_id].reason != "None":
        return f"{job_id} ({listed[job_id].reason})"
    if state == FAILED:
        return f"{job_id}, log: {layout.slurm_log_path(stage_dir, job_id)}"
    return job_id
