"""The loop of every stage: what is done, passed over, noted and tried again, and what two processes do side by side."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from trackverse import layout
from trackverse.errors import ItemError, RecordError, SetupError, StopWorkError
from trackverse.worklist import Failure, Tally, Worklist, load_failures

REPO_DIR = Path(__file__).resolve().parent.parent


def gone(name: str) -> ItemError:
    return ItemError(f"{name}: it was removed", reason="removed")


def slow(name: str) -> ItemError:
    return ItemError(f"{name}: timed out", reason="transient", retry=True)


class Desk:
    """A stage at its smallest: an item is a word, and doing it writes a file of that name into a folder."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.failed_path = layout.failed_path(output_dir)

    def worklist(self, items: Iterable[str], **options: Any) -> Worklist[str]:
        return Worklist(
            items,
            key=lambda item: item,
            is_done=lambda item: (self.output_dir / item).exists(),
            claim_path=lambda item: layout.lock_path(self.output_dir / item),
            failed_path=self.failed_path,
            tally=Tally(),
            **options,
        )

    def run(
        self, items: Iterable[str], errors: dict[str, Callable[[str], Exception]] | None = None, **options: Any
    ) -> tuple[list[str], Tally]:
        """The items that were worked on, in order, and what became of all of them."""
        todo = self.worklist(items, **options)
        worked_on = []
        for item in todo:
            worked_on.append(item)
            with todo.attempt(item):
                if errors and item in errors:
                    raise errors[item](item)
                self.output_dir.mkdir(parents=True, exist_ok=True)
                (self.output_dir / item).write_text("done")
        return worked_on, todo.tally

    def files(self) -> set[str]:
        return {path.name for path in self.output_dir.glob("*")} if self.output_dir.exists() else set()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "stage")


# ---- one process


def test_the_first_run_does_everything_and_the_second_nothing(desk: Desk) -> None:
    assert desk.run("abc") == (["a", "b", "c"], Tally(done=3))
    assert desk.files() == {"a", "b", "c"}  # no lock file, no empty list of failures
    worked_on, tally = desk.run("abcd")
    assert (worked_on, tally) == (["d"], Tally(done=1, already=3))


def test_a_failure_is_noted_and_the_others_are_done(desk: Desk) -> None:
    worked_on, tally = desk.run("abc", {"b": gone})
    assert worked_on == ["a", "b", "c"]
    assert tally == Tally(done=2, failed=Counter({"removed": 1}))
    assert load_failures(desk.failed_path) == {"b": Failure("removed", "b: it was removed", retry=False)}
    (line,) = desk.failed_path.read_text().splitlines()
    assert set(json.loads(line)) == {"key", "at", "reason", "message", "retry"}


# What the second run does with three items that failed in the first: x gone, y gone, z timed out.
RETRIES = {
    "unasked, only what may be better now": (None, ["z"], {"removed": 2}),
    "all": ("all", ["x", "y", "z"], {}),
    "those with a reason": ("removed", ["x", "y", "z"], {}),
    "those with a reason that none has": ("private", ["z"], {"removed": 2}),
}


@pytest.mark.parametrize(("retry_failed", "worked_on", "failed_before"), RETRIES.values(), ids=RETRIES)
def test_what_is_tried_again(
    desk: Desk, retry_failed: str | None, worked_on: list[str], failed_before: dict[str, int]
) -> None:
    desk.run("xyz", {"x": gone, "y": gone, "z": slow})
    again, tally = desk.run("xyz", retry_failed=retry_failed)
    assert again == worked_on
    assert tally == Tally(done=len(worked_on), failed_before=Counter(failed_before))
    assert set(load_failures(desk.failed_path)) == set("xyz") - set(worked_on)


def test_a_reason_picks_among_what_failed_for_good(desk: Desk) -> None:
    def private(name: str) -> ItemError:
        return ItemError(f"{name}: private", reason="private")

    desk.run("xy", {"x": gone, "y": private})
    assert desk.run("xy", retry_failed="private") == (["y"], Tally(done=1, failed_before=Counter({"removed": 1})))


def test_what_fails_again_is_counted_as_failed_now(desk: Desk) -> None:
    desk.run("x", {"x": gone})
    _, tally = desk.run("x", {"x": slow}, retry_failed="all")
    assert tally == Tally(failed=Counter({"transient": 1}))
    assert load_failures(desk.failed_path)["x"].reason == "transient"


def far(name: str) -> ItemError:
    return ItemError(f"{name}: geo-blocked", reason="geo-blocked", kind="conditional")


def timed_out(name: str) -> ItemError:
    return ItemError(f"{name}: timed out", reason="timeout", retry=True, kind="transient")


def test_a_class_picks_all_its_reasons_and_is_told_in_the_table(desk: Desk) -> None:
    desk.run("xyz", {"x": far, "y": gone, "z": timed_out})
    entry = json.loads(desk.failed_path.read_text().splitlines()[0])
    assert (entry["reason"], entry["kind"]) == ("geo-blocked", "conditional")
    again, tally = desk.run("xyz", {"x": far, "z": timed_out}, retry_failed="conditional")
    assert again == ["x", "z"]
    assert [line.split() for line in tally.table()] == [
        ["class", "reason", "now", "before"],
        ["done", "0", "0"],
        ["-", "removed", "0", "1"],
        ["conditional", "geo-blocked", "1", "0"],
        ["transient", "timeout", "1", "0"],
    ]


def test_a_stage_without_classes_has_no_table(desk: Desk) -> None:
    assert desk.run("xy", {"y": gone})[1].table() == []


def test_what_may_be_better_now_is_tried_in_so_many_runs_in_a_row(desk: Desk) -> None:
    for _ in range(3):
        assert desk.run("x", {"x": timed_out}, max_tries=3)[0] == ["x"]
    again, tally = desk.run("x", max_tries=3)
    assert again == [] and tally.failed_before == Counter({"timeout": 1}) and tally.exit_status == 1
    assert load_failures(desk.failed_path)["x"].tries == 3
    assert desk.run("x", max_tries=3, retry_failed="transient") == (["x"], Tally(done=1))


def test_another_failure_in_between_starts_the_count_anew(desk: Desk) -> None:
    for error in (timed_out, timed_out, far, timed_out):
        desk.run("x", {"x": error}, max_tries=3, retry_failed="all")
    assert load_failures(desk.failed_path)["x"].tries == 1


def test_who_stops_may_take_back_failures_of_this_run(desk: Desk) -> None:
    """x failed for good in an earlier run and y never: both stand afterwards as they stood before."""
    desk.run("x", {"x": gone})
    before = load_failures(desk.failed_path)

    def blocked(name: str) -> StopWorkError:
        return StopWorkError("blocked", unmark=["x", "y"])

    desk.run("xyz", {"x": timed_out, "y": timed_out, "z": blocked}, retry_failed="all")
    assert load_failures(desk.failed_path) == before


@pytest.mark.parametrize("tries", ["many", None, [1]])
def test_a_failure_whose_tries_are_no_number_is_passed_over(desk: Desk, tries: Any) -> None:
    desk.run("x", {"x": gone})
    entry = json.loads(desk.failed_path.read_text()) | {"key": "y", "tries": tries}
    desk.failed_path.write_text(json.dumps(entry))
    assert load_failures(desk.failed_path) == {}


def test_the_last_word_on_an_item_counts(desk: Desk) -> None:
    desk.run("x", {"x": gone})
    desk.run("x", retry_failed="all")
    (desk.output_dir / "x").unlink()
    assert desk.run("x") == (["x"], Tally(done=1))


def test_an_item_done_otherwise_counts_as_done_although_it_failed(desk: Desk) -> None:
    desk.run("x", {"x": gone})
    (desk.output_dir / "x").touch()
    assert desk.run("x") == ([], Tally(already=1))


def test_stop_work_ends_the_loop_and_marks_nothing(desk: Desk) -> None:
    worked_on, tally = desk.run("abc", {"b": lambda name: StopWorkError("not a bot?")})
    assert worked_on == ["a", "b"]
    assert tally == Tally(done=1, stopped="not a bot?")
    assert tally.exit_status == 1
    assert desk.files() == {"a"}
    assert desk.run("abc") == (["b", "c"], Tally(done=2, already=1))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SetupError])
def test_a_bug_goes_up_marks_nothing_and_frees_the_claim(desk: Desk, error: type[BaseException]) -> None:
    with pytest.raises(error):
        desk.run("ab", {"a": lambda name: error(name)})  # type: ignore[return-value]
    assert desk.files() == set()
    assert desk.run("ab") == (["a", "b"], Tally(done=2))


def test_a_dry_run_counts_and_writes_nothing(desk: Desk) -> None:
    assert desk.run("ab", dry_run=True) == ([], Tally(planned=2))
    assert not desk.output_dir.exists()
    desk.run("abc", {"b": gone, "c": slow})
    before = {path: path.read_bytes() for path in desk.output_dir.iterdir()}
    _, tally = desk.run("abcd", dry_run=True)
    assert tally == Tally(already=1, planned=2, failed_before=Counter({"removed": 1}))
    assert {path: path.read_bytes() for path in desk.output_dir.iterdir()} == before


def test_what_must_be_there_is_asked_for_before_anything_is_written_and_only_if_there_is_work(desk: Desk) -> None:
    def prepare() -> None:
        raise SetupError("no weights")

    with pytest.raises(SetupError):
        desk.run("ab", prepare=prepare)
    assert not desk.output_dir.exists()
    desk.run("ab")
    assert desk.run("ab", prepare=prepare) == ([], Tally(already=2))
    assert desk.run("abc", prepare=prepare, dry_run=True) == ([], Tally(already=2, planned=1))


def test_an_item_whose_files_cannot_be_read_fails_and_is_not_overwritten(desk: Desk) -> None:
    def is_done(item: str) -> bool:
        if item == "b":
            raise RecordError(f"{item}-progress.json: torn", reason="bad progress file")
        return item == "c"

    todo = Worklist(
        "abc",
        key=str,
        is_done=is_done,
        claim_path=lambda item: layout.lock_path(desk.output_dir / item),
        failed_path=desk.failed_path,
        tally=Tally(),
    )
    assert list(todo) == ["a"]
    assert todo.tally == Tally(already=1, failed=Counter({"bad progress file": 1}))


def test_neighbours_with_one_claim_are_done_in_order_under_it(desk: Desk) -> None:
    lock_path = desk.output_dir / ".video.lock"
    todo = Worklist(
        ["v.0", "v.1", "w.0"],
        key=str,
        is_done=lambda item: item == "v.0",
        claim_path=lambda item: lock_path.with_name(f".{item[0]}.lock"),
        failed_path=desk.failed_path,
        tally=Tally(),
    )
    held = [(item, desk.files()) for item in todo]
    assert held == [("v.1", {".v.lock"}), ("w.0", {".w.lock"})]
    assert desk.files() == set()


# ---- the list of failures


def test_lines_that_are_no_failures_are_told_and_passed_over(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.run("xy", {"x": gone, "y": gone})
    lines = desk.failed_path.read_text().splitlines()
    odd = ['{"key":"z","rea', "[]", '"x"', "5", '{"key":"z"}', '{"key":["z"],"reason":"a","message":"b","retry":true}']
    desk.failed_path.write_text("\n".join([lines[0], *odd, lines[1]]))
    with caplog.at_level(logging.WARNING):
        assert set(load_failures(desk.failed_path)) == {"x", "y"}
    assert [f"failed.jsonl:{number}:" in caplog.text for number in range(1, 9)] == [False, *[True] * 6, False]


# ---- what is said at the end

SUMMARIES = {
    "all done": (Tally(done=3), "3 clips done", 0),
    "nothing left": (Tally(already=3), "0 clips done, 3 already there: nothing to do", 0),
    "nothing at all": (Tally(), "0 clips done: nothing to do", 0),
    "failures by reason, most frequent first": (
        Tally(done=1, failed=Counter({"no video stream": 1, "truncated video": 2})),
        "1 clip done, 3 failed (2 truncated video, 1 no video stream)",
        1,
    ),
    "failures of earlier runs": (
        Tally(already=1, failed_before=Counter({"removed": 2})),
        "0 clips done, 1 already there, 2 failed before (2 removed): --retry_failed tries again: nothing to do",
        1,
    ),
    "done by others": (Tally(done=1, elsewhere=2), "1 clip done, 2 done by another process", 0),
    "all done by others": (Tally(elsewhere=2), "0 clips done, 2 done by another process", 0),
    "a dry run": (Tally(planned=7, already=1), "7 clips to do, 1 already there", 0),
    "dropped is not failed": (
        Tally(done=1, dropped=Counter({"too short": 4})),
        "1 clip done, 4 dropped (4 too short)",
        0,
    ),
    "dropped parts of an item": (
        Tally(done=2, dropped=Counter({"tracks too short": 2, "detections not finite": 1, "tracks listed": 1})),
        "2 clips done, 4 dropped (2 tracks too short, 1 detection not finite, 1 track listed)",
        0,
    ),
    "stopped": (Tally(done=1, stopped="blocked"), "1 clip done, stopped early: blocked", 1),
}


@pytest.mark.parametrize(("tally", "line", "exit_status"), SUMMARIES.values(), ids=SUMMARIES)
def test_summary(tally: Tally, line: str, exit_status: int) -> None:
    assert tally.summary("clips") == line
    assert tally.exit_status == exit_status


def test_workers_counts_add_up() -> None:
    total = Tally(done=1, failed=Counter(a=1), stopped="first")
    total.add(
        Tally(2, 3, 4, 5, Counter(a=1, b=1), Counter(c=1), Counter(d=1), "second", {"a": "transient"}, Counter(e=2))
    )
    assert total == Tally(
        3, 3, 4, 5, Counter(a=2, b=1), Counter(c=1), Counter(d=1), "first", {"a": "transient"}, Counter(e=2)
    )


# ---- several processes

WORKER = """
import contextlib, os, sys
from collections import Counter
from pathlib import Path
from trackverse import files, layout
from trackverse.errors import ItemError
from trackverse.worklist import Tally, Worklist

claim = files.claim

@contextlib.contextmanager
def tell_if_busy(path, **options):
    with claim(path, **options) as is_mine:
        if not is_mine:
            print("busy", file=sys.stderr, flush=True)
        yield is_mine

files.claim = tell_if_busy
output_dir = Path(sys.argv[1])
todo = Worklist(
    sys.argv[2:],
    key=str,
    is_done=lambda item: (output_dir / item).exists(),
    claim_path=lambda item: layout.lock_path(output_dir / item),
    failed_path=layout.failed_path(output_dir),
    tally=Tally(),
)
print("ready", flush=True)
sys.stdin.readline()
for item in todo:
    with todo.attempt(item):
        with open(output_dir / "log", "ab", buffering=0) as log:  # one write: the workers share it, without a claim
            log.write(f"{item} {os.getpid()}\\n".encode())
        sys.stdin.readline()
        if item.startswith("bad"):
            raise ItemError(f"{item}: never", reason="bad")
        with files.atomic_write(output_dir / item) as file:
            file.write(b"done")
print(todo.tally.done, todo.tally.elsewhere, todo.tally.failed.total())
"""


def start_workers(output_dir: Path, *lists: list[str]) -> list[subprocess.Popen[str]]:
    """One process for each list, all set to go. In the middle of each item they wait to be let go on."""
    output_dir.mkdir()
    argv = [sys.executable, "-c", WORKER, str(output_dir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen([*argv, *items], cwd=REPO_DIR, text=True, **pipes) for items in lists]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    return workers


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def wait_until_busy(worker: subprocess.Popen[str]) -> None:
    """Until it has found an item taken."""
    assert worker.stderr is not None
    assert worker.stderr.readline() == "busy\n"


def wait_for_items(output_dir: Path, num_begun: int, *workers: subprocess.Popen[str]) -> None:
    """Until so many items are begun."""
    log = output_dir / "log"
    while not log.exists() or len(log.read_text().splitlines()) < num_begun:
        assert [worker.poll() for worker in workers] == [None] * len(workers)
        time.sleep(0.01)


def counts(worker: subprocess.Popen[str]) -> tuple[int, int, int]:
    """(done, elsewhere, failed) of a worker that is let go on to its end."""
    out, _ = worker.communicate(timeout=300)
    done, elsewhere, failed = map(int, out.split())
    return done, elsewhere, failed


def test_two_processes_share_a_list_and_both_see_all_of_it_done(tmp_path: Path) -> None:
    items = [f"item{n}" for n in range(40)]
    workers = start_workers(tmp_path / "out", items, items)
    for worker in workers:
        go(worker)
    wait_for_items(tmp_path / "out", 2, *workers)  # one of each, as it needs to be let go on for the next
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n" * len(items))
        worker.stdin.flush()
    tallies = [counts(worker) for worker in workers]
    logged = [line.split()[0] for line in (tmp_path / "out" / "log").read_text().splitlines()]
    assert sorted(logged) == sorted(items)  # each once
    assert sum(done for done, _, _ in tallies) == 40
    assert all(done > 0 for done, _, _ in tallies)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"log", *items}
    _, tally = Desk(tmp_path / "out").run(items)
    assert tally == Tally(already=40)


@pytest.mark.parametrize(("item", "result"), [("a", (0, 1, 0)), ("bad", (0, 0, 1))], ids=["done", "failed"])
def test_an_item_that_another_one_holds_is_waited_for_at_the_end(
    tmp_path: Path, item: str, result: tuple[int, int, int]
) -> None:
    """The second process finds the item taken: it must neither do it again nor end before it knows how it went."""
    first, second = start_workers(tmp_path / "out", [item], [item])
    go(first)
    wait_for_items(tmp_path / "out", 1, first)
    go(second)
    wait_until_busy(second)
    assert counts(first) == (1 - result[2], 0, result[2])
    assert counts(second) == result
    assert len((tmp_path / "out" / "log").read_text().splitlines()) == 1


def test_an_item_whose_worker_is_killed_is_done_by_the_one_that_waits(tmp_path: Path) -> None:
    first, second = start_workers(tmp_path / "out", ["a"], ["a"])
    go(first)
    wait_for_items(tmp_path / "out", 1, first)
    go(second)
    wait_until_busy(second)
    first.kill()
    first.communicate()
    assert counts(second) == (1, 0, 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"log", "a"}
