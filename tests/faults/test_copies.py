"""Several copies of a stage over the same folder, on one host and on what takes itself for several.

Another host is stood in for by processes that go by another place than their own: to them, a claim's process number
means nothing. Claims ask nothing of `flock`; here it does nothing at all, as on a folder that doesn't carry it to other
hosts.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import material
import pytest
import syscalls
from campaign import Bench, site
from material import STAGES
from warm import Warm, killed_at_the_end

NO_FLOCK = "import fcntl\nfcntl.flock = lambda file, flags: None\n"
SHORT = "from trackverse import files\nfiles.BEAT_S, files.LEASE_S, files.MAX_LOOK_S = 0.1, {lease_s}, 0.05\n"


def on_host(name: str, *, lease_s: float = 60.0) -> str:
    """What makes a process one of another host, that looks often. A `lease_s` of a second is for who waits for a dead
    one's claim: on a busy machine, the living may stand still for longer."""
    return SHORT.format(lease_s=lease_s) + NO_FLOCK + f"files._place = lambda: {name!r}\n"


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    folder = tmp_path_factory.mktemp("copies")
    with site(folder / "site") as address, Warm(folder / "logs") as warm:
        yield {name: Bench(warm, STAGES[name], folder / name, address) for name in ("parse", "cut")}


def done_in(said: str) -> int:
    """How many clips a copy says that it did itself."""
    found = re.search(r"(\d+) clips? done", said)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("num_copies", [2, 8])
@pytest.mark.parametrize("hosts", [1, 2], ids=["one host", "two hosts"])
def test_each_segment_is_done_once_however_many_are_at_it(
    benches: dict[str, Bench], num_copies: int, hosts: int
) -> None:
    bench = benches["parse"]
    workdir = bench.fresh()
    runs = [bench.start(workdir, prelude=on_host(f"host {n % hosts}")) for n in range(num_copies)]
    with killed_at_the_end(*runs):
        assert [run.wait() for run in runs] == [0] * num_copies, [run.said for run in runs]
    assert material.differences(material.contents(workdir), bench.undisturbed) == []
    assert sum(done_in(run.said) for run in runs) == 3


def test_copies_that_cut_write_the_same_parts(benches: dict[str, Bench]) -> None:
    bench = benches["cut"]
    workdir = bench.fresh()
    runs = [bench.start(workdir, prelude=on_host(f"host {n % 2}")) for n in range(4)]
    with killed_at_the_end(*runs):
        assert [run.wait() for run in runs] == [1] * 4, [run.said for run in runs]  # a listed video is not there
    assert material.differences(material.contents(workdir), bench.undisturbed) == []


class HeldAtItsClaim:
    """Holds a run that has claimed a video, at the next call that changes a file, until it is let go on."""

    def __init__(self) -> None:
        self.is_there, self.go_on = threading.Event(), threading.Event()
        self._has_claimed = False

    def __call__(self, call: syscalls.Call, number: int) -> None:
        if self._has_claimed:
            self.is_there.set()
            self.go_on.wait()
        self._has_claimed |= call.kind == "symlink" and call.path.name.endswith("-meta.jsonl.gzip.lock")


def claim_in(workdir: Path) -> Path | None:
    return next((path for path in workdir.rglob("*-meta.jsonl.gzip.lock") if path.is_symlink()), None)


def test_a_dead_workers_claim_is_taken_over_from_another_host_within_the_stated_time(benches: dict[str, Bench]) -> None:
    """Two minutes; here, a second."""
    bench = benches["parse"]
    workdir = bench.fresh()
    held = HeldAtItsClaim()
    first = bench.start(workdir, held, prelude=on_host("host a"))
    with killed_at_the_end(first):
        assert held.is_there.wait(300)
    held.go_on.set()
    assert first.wait() == -signal.SIGKILL
    assert claim_in(workdir) is not None
    begin = time.monotonic()
    second = bench.start(workdir, prelude=on_host("host b", lease_s=1.0))
    assert second.wait() == 0, second.said
    assert time.monotonic() - begin > 0.9  # not before it is certain
    assert "taken over from host a" in second.said
    assert material.differences(material.contents(workdir), bench.undisturbed) == []


def test_who_stood_still_too_long_finds_its_claim_taken_and_writes_nothing(benches: dict[str, Bench]) -> None:
    """A suspended process wakes up while another host does, or has done, its segments."""
    bench = benches["parse"]
    workdir = bench.fresh()
    held = HeldAtItsClaim()
    first = bench.start(workdir, held, prelude=on_host("host a"))
    with killed_at_the_end(first):
        assert held.is_there.wait(300)
        first.signal(signal.SIGSTOP)
        held.go_on.set()
        second = bench.start(workdir, prelude=on_host("host b", lease_s=1.0))
        assert second.wait() == 0, second.said
        first.signal(signal.SIGCONT)
        assert first.wait() in (0, 1)
    assert first.status == 0 or "taken over" in first.said or "given back" in first.said
    assert material.differences(material.contents(workdir), bench.undisturbed) == []


def test_a_lock_file_of_an_older_version_is_no_lock_for_ever(benches: dict[str, Bench]) -> None:
    bench = benches["parse"]
    workdir = bench.fresh()
    for video_id in (material.STREET_ID, "StreetDemo2"):
        lock = material.tracks_dir(workdir) / "St" / f".{video_id}-meta.jsonl.gzip.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    run = bench.start(workdir, prelude=on_host("host a", lease_s=1.0))
    assert run.wait() == 0, run.said
    assert Counter("older version" in line for line in run.said.splitlines())[True] == 2
    assert material.differences(material.contents(workdir), bench.undisturbed) == []
