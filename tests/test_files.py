"""Files that are whole or not there, and claims, with real processes that are really killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trackverse import files

REPO_DIR = Path(__file__).resolve().parent.parent
OLD, NEW = b"old, whole", b"new " * 50_000


class Child:
    """A Python process that runs `code` and says "ready" on its standard output when it is where we want it."""

    def __init__(self, code: str, *arguments: object) -> None:
        argv = [sys.executable, "-c", code, *map(str, arguments)]
        self.process = subprocess.Popen(argv, cwd=REPO_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        assert self.process.wait(300) == -signal.SIGKILL

    def answer(self) -> str:
        """What it prints until it ends by itself."""
        out, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == 0
        return out


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts children that are gone after the test, however it ends."""
    children: list[Child] = []

    def starter(code: str, *arguments: object) -> Child:
        children.append(Child(code, *arguments))
        return children[-1]

    yield starter
    for child in children:
        child.process.kill()
        child.process.communicate()


# ---- atomic_write

HALF_A_WRITE = """
import sys, time
from pathlib import Path
from trackverse import files
with files.atomic_write(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_write_is_seen_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there yet" / "a.json"
    with files.atomic_write(path) as file:
        file.write(NEW)
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("before", [OLD, None], ids=["over an old file", "where nothing was"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit], ids=lambda error: error.__name__)
def test_an_exception_leaves_what_was_there(tmp_path: Path, before: bytes | None, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error), files.atomic_write(path) as file:
        file.write(NEW)
        raise error
    assert [one.read_bytes() for one in tmp_path.iterdir()] == ([] if before is None else [before])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_which_file_it_was(tmp_path: Path, number: int) -> None:
    """The system's own error, of writing and flushing, doesn't."""
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=r"a\.json"), files.atomic_write(path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="other"), files.atomic_write(path):
        raise OSError(number, os.strerror(number), "other")


def test_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path, start: Callable[..., Child]) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(OLD)
    child = start(HALF_A_WRITE, path)
    child.wait_until_ready()
    assert files.temporary_path(path).read_bytes() == b"half"
    child.kill()
    assert path.read_bytes() == OLD

    with files.atomic_write(path) as file:  # what the kill left behind is in nobody's way
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_with_a_claim_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    lock_path = tmp_path / "a.lock"
    writer_is_in, seen = threading.Event(), []

    def second() -> None:
        writer_is_in.wait(300)
        with files.claim(lock_path, wait=True), files.atomic_write(path) as file:
            seen.append(path.read_bytes())
            file.write(b"second")

    thread = threading.Thread(target=second)
    thread.start()
    with files.claim(lock_path), files.atomic_write(path) as file:
        writer_is_in.set()
        time.sleep(0.1)
        file.write(b"first")
        assert not seen
    thread.join(300)
    assert seen == [b"first"]
    assert path.read_bytes() == b"second"


def test_publish_replaces_and_takes_the_temporary_file_away(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(OLD)
    temporary = files.temporary_path(path)
    assert (temporary.parent, temporary.suffix) == (tmp_path, ".mp4")  # FFmpeg goes by the ending
    temporary.write_bytes(NEW)
    files.publish(temporary, path)
    assert path.read_bytes() == NEW
    assert list(tmp_path.iterdir()) == [path]


# ---- claim

HOLD_A_CLAIM = """
import sys, time
from pathlib import Path
from trackverse import files
with files.claim(Path(sys.argv[1])) as claimed:
    assert claimed
    print("ready", flush=True)
    time.sleep(600)
"""
ASK_FOR_A_CLAIM = """
import sys
from pathlib import Path
from trackverse import files
with files.claim(Path(sys.argv[1]), wait=sys.argv[2] == "wait") as claimed:
    print("claimed" if claimed else "busy")
"""


def test_a_claim_keeps_another_process_out_until_it_ends(tmp_path: Path, start: Callable[..., Child]) -> None:
    lock_path = tmp_path / "locks" / "a.lock"
    with files.claim(lock_path) as claimed:
        assert claimed
        assert start(ASK_FOR_A_CLAIM, lock_path, "no wait").answer() == "busy\n"
    assert start(ASK_FOR_A_CLAIM, lock_path, "no wait").answer() == "claimed\n"


def test_a_killed_holder_gives_its_claim_back_and_no_lock_file_stays(
    tmp_path: Path, start: Callable[..., Child]
) -> None:
    lock_path = tmp_path / "a.lock"
    holder = start(HOLD_A_CLAIM, lock_path)
    holder.wait_until_ready()
    with files.claim(lock_path) as claimed:
        assert not claimed
    holder.kill()
    with files.claim(lock_path) as claimed:
        assert claimed
    assert list(tmp_path.iterdir()) == []


def test_who_waits_has_the_claim_when_the_holder_dies(tmp_path: Path, start: Callable[..., Child]) -> None:
    lock_path = tmp_path / "a.lock"
    holder = start(HOLD_A_CLAIM, lock_path)
    holder.wait_until_ready()
    waiting = start(ASK_FOR_A_CLAIM, lock_path, "wait")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.process.wait(0.4)
    holder.kill()
    assert waiting.answer() == "claimed\n"
    assert list(tmp_path.iterdir()) == []


def test_an_exception_gives_the_claim_back(tmp_path: Path) -> None:
    lock_path = tmp_path / "a.lock"
    with pytest.raises(ValueError, match="inside"), files.claim(lock_path):
        raise ValueError("inside")
    assert not lock_path.exists()
    with files.claim(lock_path) as claimed:
        assert claimed


COUNT_UNDER_A_CLAIM = """
import sys
from pathlib import Path
from trackverse import files
counter = Path(sys.argv[2])
for _ in range(60):
    with files.claim(Path(sys.argv[1]), wait=True):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_no_two_processes_are_ever_inside_although_the_lock_file_comes_and_goes(
    tmp_path: Path, start: Callable[..., Child]
) -> None:
    """Removing a lock file is where such locks go wrong: who waits for a removed one must not believe it has it."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    for child in [start(COUNT_UNDER_A_CLAIM, tmp_path / "a.lock", counter) for _ in range(3)]:
        child.answer()
    assert counter.read_text() == "180"


# ---- append_line


def test_lines_are_added_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "failed.jsonl"
    files.append_line(path, "one")
    files.append_line(path, "zwölf")
    assert path.read_text() == "one\nzwölf\n"


def test_a_torn_last_line_is_cut_off_first(tmp_path: Path) -> None:
    path = tmp_path / "failed.jsonl"
    path.write_text('{"key":"a"}\n{"key":"b","rea')
    files.append_line(path, '{"key":"c"}')
    assert path.read_text().splitlines() == ['{"key":"a"}', '{"key":"c"}']


APPEND_MANY = """
import sys
from pathlib import Path
from trackverse import files
for n in range(50):
    with files.claim(Path(sys.argv[1] + ".lock"), wait=True):
        files.append_line(Path(sys.argv[1]), sys.argv[2] * 20_000)
"""


@pytest.mark.parametrize(
    ("torn", "whole"),
    [
        (b"", b""),
        (b"one\n", b"one\n"),
        (b"one\ntw", b"one\n"),
        (b"on", b""),
        (b"one\n" + b"x" * 200_000, b"one\n"),
        (b"o" * 70_000 + b"\n" + b"t" * 66_000, b"o" * 70_000 + b"\n"),
    ],
    ids=["empty", "whole", "torn", "nothing whole", "a long torn line", "across blocks"],
)
def test_only_what_has_no_end_is_cut_off(tmp_path: Path, torn: bytes, whole: bytes) -> None:
    path = tmp_path / "failed.jsonl"
    path.write_bytes(torn)
    assert files.cut_torn_line(path) == (torn != whole)
    assert path.read_bytes() == whole
    assert not files.cut_torn_line(tmp_path / "not there")


def test_lines_of_several_processes_do_not_mix_under_a_claim(tmp_path: Path, start: Callable[..., Child]) -> None:
    path = tmp_path / "failed.jsonl"
    for child in [start(APPEND_MANY, path, letter) for letter in "abc"]:
        child.answer()
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted([letter * 20_000 for letter in "abc"] * 50)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with files.claim(tmp_path / "a.lock"), files.atomic_write(tmp_path / "a"):
        pass
    with files.claim(tmp_path / "b.lock"), files.claim(tmp_path / "b.lock") as second:
        assert not second
    files.append_line(tmp_path / "c", "line")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
