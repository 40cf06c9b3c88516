"""Stages as Slurm job arrays: what is submitted, what is already queued, and how sbatch's refusals are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trackverse.errors import SetupError


@dataclass(frozen=True)
class Settings:
    """What each array element asks for, and how many run at once. `time` is minutes; `extra` any other sbatch options."""

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
    """Being written."""
    raise SetupError("--slurm is being written")
