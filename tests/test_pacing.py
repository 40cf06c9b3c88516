"""One pace for all: what two waits in a row cost, what the file may hold, and what a kill leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from trackverse.files import claim
from trackverse.layout import REPO_DIR, lock_path
from trackverse.pacing import Pace

INTERVAL_S = 0.2
MAX_PER_HOUR = round(3600 / INTERVAL_S)
WAITER = """
import sys
from pathlib import Path
from trackverse.pacing import Pace

pace = Pace(Path(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    pace.wait()
    print("started", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "videos" / "last_start.txt"


def waited_s(path: Path) -> float:
    """How long the next start had to wait."""
    start = time.monotonic()
    Pace(path, MAX_PER_HOUR).wait()
    return time.monotonic() - start


def start_waiter(path: Path, max_per_hour: int, times: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WAITER, str(path), str(max_per_hour), str(times)]
    waiter = subprocess.Popen(argv, cwd=REPO_DIR, stdout=subprocess.PIPE, text=True)
    assert waiter.stdout is not None and waiter.stdout.readline() == "ready\n"
    return waiter


def test_the_first_starts_at_once_and_the_next_waits(path: Path) -> None:
    assert Pace(path, 1)._remaining_s(time.time()) == 0
    waited_s(path)
    noted_s = float(path.read_text())
    waited_s(path)
    assert float(path.read_text()) - noted_s > INTERVAL_S - 0.01
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_no_limit_leaves_no_file(path: Path) -> None:
    Pace(path, None).wait()
    assert not path.parent.exists()


CONTENTS = {
    "a start long ago": (lambda: f"{time.time() - 60}", 0.0),
    "a start in a far future: the clock was set back": (lambda: f"{time.time() + 1e6}", INTERVAL_S),
    "not a number": (lambda: "nan", INTERVAL_S),
    "infinite": (lambda: "inf", INTERVAL_S),
    "no number": (lambda: "yesterday", INTERVAL_S),
    "nothing": (lambda: "", INTERVAL_S),
    "not text": (lambda: "\udcff", INTERVAL_S),
}


@pytest.mark.parametrize(("content", "expected_s"), CONTENTS.values(), ids=CONTENTS)
def test_whatever_the_file_holds_a_start_waits_at_most_one_interval(path: Path, content, expected_s: float) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir()
    path.write_bytes(content().encode(errors="surrogateescape"))
    assert Pace(path, MAX_PER_HOUR)._remaining_s(time.time()) == pytest.approx(expected_s, abs=0.01)
    assert waited_s(path) > expected_s - 0.01
    assert abs(float(path.read_text()) - time.time()) < 300


def test_processes_take_turns(path: Path) -> None:
    before_s = time.time()
    waiters = [start_waiter(path, MAX_PER_HOUR, 4) for _ in range(3)]
    for waiter in waiters:
        assert waiter.communicate(timeout=300)[0].split() == ["started"] * 4
    # The last of twelve starts, as it was noted under the lock: no load can make it come too early.
    assert float(path.read_text()) - before_s > 11 * INTERVAL_S - 0.01
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_who_is_killed_while_it_waits_takes_no_turn_and_blocks_nobody(path: Path) -> None:
    waited_s(path)
    before = path.read_text()
    waiter = start_waiter(path, 1, 1)  # it would wait for an hour
    deadline = time.monotonic() + 300
    while True:  # until it holds the lock
        with claim(lock_path(path)) as free:
            if not free:
                break
        assert time.monotonic() < deadline
        time.sleep(0.01)  # in which it can take it
    waiter.kill()
    waiter.communicate()
    assert path.read_text() == before
    assert waited_s(path) < 300  # and not an hour
    assert [left.name for left in path.parent.iterdir()] == [path.name]
