"""Worker processes: what they give back, and what becomes of the others when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trackverse import cli, files, workers
from trackverse.errors import RecordError, WorkerDiedError
from trackverse.layout import REPO_DIR

# What the workers do: importable, as they are spawned.


def double(number: int) -> int:
    return 2 * number


def double_but_die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def double_but_complain_at_three(number: int) -> int:
    if number == 3:
        raise RecordError("3 is no number", reason="bad number")
    return 2 * number


def sleep_or_complain(number: int, folder: Path) -> int:
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return double_but_complain_at_three(number) if number == 3 else time.sleep(600) or 0


class LongStoryError(Exception):
    """Takes so long to tell that its worker is told to end before it is told."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self) -> tuple[object, ...]:
        self.told.touch()
        time.sleep(30)
        return LongStoryError, (self.told,)


def complain_both(number: int, told: Path) -> None:
    if number == 1:
        raise LongStoryError(told)
    while not told.exists():
        time.sleep(0.01)
    raise RecordError("both failed", reason="bad number")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_come_in_order() -> None:
    assert list(workers.run_each(double, [(1,), (2,), (3,)])) == [2, 4, 6]
    assert list(workers.map_each(double, range(20), 2)) == [2 * number for number in range(20)]
    assert list(workers.run_each(double, [])) == list(workers.map_each(double, [], 2)) == []


def test_a_worker_that_is_killed_is_told_and_the_others_go_on() -> None:
    first, died, last = workers.run_each(double_but_die_at_three, [(1,), (3,), (4,)])
    assert (first, last) == (2, 8)
    assert isinstance(died, WorkerDiedError)
    assert "killed by SIGKILL (out of memory?)" in str(died)
    with pytest.raises(WorkerDiedError, match="a worker process was killed"):
        list(workers.map_each(double_but_die_at_three, range(20), 2))


def test_an_error_in_a_worker_is_raised_with_its_traceback_and_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="3 is no number") as raised:
        list(workers.run_each(sleep_or_complain, [(3, tmp_path), (1, tmp_path)]))
    assert "in double_but_complain_at_three" in "".join(raised.value.__notes__)
    assert raised.value.reason == "bad number"
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2 and not any(map(is_alive, pids))


def test_a_worker_that_is_told_to_end_while_it_complains_says_no_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecordError, match="both failed"):
        list(workers.run_each(complain_both, [(2, tmp_path / "told"), (1, tmp_path / "told")], cli.end_in_order))
    assert capfd.readouterr().err == ""


def test_a_loop_that_is_left_leaves_no_worker_behind(tmp_path: Path) -> None:
    """As a signal does, whose handler raises while the loop waits for results."""

    def interrupt_when_all_work() -> None:
        while len(multiprocessing.active_children()) < 2 or len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    def handle(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        threading.Thread(target=interrupt_when_all_work).start()
        with pytest.raises(InterruptedError):
            list(workers.run_each(sleep_or_complain, [(0, tmp_path), (1, tmp_path)]))
    finally:
        signal.signal(signal.SIGUSR1, before)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2 and not any(map(is_alive, pids))


KILLED = """
import sys, test_workers
from trackverse import cli, workers

if __name__ == "__main__":
    list(workers.run_each(test_workers.claim_and_sleep, [(n, sys.argv[1]) for n in range(2)], test_workers.set_up))
"""


def set_up() -> None:
    cli.set_up_worker(verbose=False)


def claim_and_sleep(number: int, folder: str) -> None:
    with files.claim(Path(folder, f"{number}.lock")):
        time.sleep(600)


def test_when_the_process_that_waits_is_killed_its_workers_end_and_give_back_what_they_hold(tmp_path: Path) -> None:
    code = tmp_path / "killed.py"
    code.write_text(KILLED)
    claims = [tmp_path / f"{number}.lock" for number in range(2)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (REPO_DIR, Path(__file__).parent)))}
    waiting = subprocess.Popen([sys.executable, code, tmp_path], env=environment)
    end = time.monotonic() + 300
    while not all(path.is_symlink() for path in claims) and time.monotonic() < end:
        time.sleep(0.01)
    pids = [int(str(path.readlink()).split(":")[1]) for path in claims]
    waiting.kill()
    waiting.wait()
    while any(map(files._started, pids)) and time.monotonic() < end:  # pid 1 need not have reaped them
        time.sleep(0.01)
    assert not any(map(files._started, pids))
    assert not any(path.is_symlink() for path in claims)
