"""One of the scripts, run in a process that kills itself in the middle, so that nobody has to look in time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from trackverse.layout import REPO_DIR

BEFORE = """
import os, runpy, signal, sys

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""
AFTER = """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_killed(
    patch: str, script: str, *args: object, cwd: Path = REPO_DIR, env: Mapping[str, str] | None = None
) -> None:
    """Run a script after a `patch` in Python, which makes some function `die()`; it must have been killed."""
    command = [sys.executable, "-c", BEFORE + patch + AFTER, REPO_DIR / script, *map(str, args)]
    killed = subprocess.run(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
