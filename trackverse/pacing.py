"""One pace for all processes that work on a folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from trackverse import files
from trackverse.layout import lock_path

log = logging.getLogger(__name__)
SECONDS_PER_HOUR = 3600.0


class Pace:
    """At most `max_per_hour` starts an hour, evenly spaced, of all processes that share the file `path`.

    The file holds the time of the last start. Whoever is next holds its lock while it waits, so the others queue up
    behind the lock, and a process that is killed while it waits takes no turn. None: no limit, and no file.
    """

    def __init__(self, path: Path, max_per_hour: int | None) -> None:
        self._path = path
        self._interval_s = SECONDS_PER_HOUR / max_per_hour if max_per_hour else 0.0

    def wait(self) -> None:
        """Return when it is this process's turn to start."""
        if not self._interval_s:
            return
        with files.claim(lock_path(self._path), wait=True):
            time.sleep(self._remaining_s(time.time()))
            with files.atomic_write(self._path) as file:
                file.write(f"{time.time():.3f}\n".encode())

    def tidy(self) -> None:
        """Remove what a process that was killed during its turn has left."""
        files.clear_claim(lock_path(self._path), files.temporary_path(self._path))

    def _remaining_s(self, now_s: float) -> float:
        try:
            since_s = now_s - float(self._path.read_text())
        except FileNotFoundError:
            return 0.0
        except ValueError:
            log.warning("%s: holds no time: waiting as if something had just been started", self._path)
            return self._interval_s
        # A start in the future (or "nan") says that a clock was set back: nobody knows how long ago it was.
        return max(0.0, self._interval_s - since_s) if since_s >= 0 else self._interval_s
