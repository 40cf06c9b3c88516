"""Disks that fill up, folders that may not be written, clocks that are wrong, files of other versions, and signals.

The tests may run as root, to whom permissions mean nothing: so the kernel's answer is put in place of a full disk's, a
read-only folder's and a lost permission's, at every call that changes a file from some call on (see syscalls.py). One
test fills a real small disk, where it may mount one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import material
import pytest
import syscalls
from campaign import Bench, Point, site
from material import STAGES, STREET_ID
from warm import Warm, killed_at_the_end

from trackverse.layout import TracksLayout

NEEDS_ROOM = ("write", "append", "open", "mkdir", "symlink", "fallocate")
NEEDS_PERMISSION = ("open", "mkdir", "symlink", "rename", "unlink", "rmdir", "chmod", "fchmod")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bench]]:
    folder = tmp_path_factory.mktemp("disks")
    with site(folder / "site") as address, Warm(folder / "logs") as warm:
        yield {name: Bench(warm, stage, folder / name, address) for name, stage in STAGES.items()}


def failing_from(first: int, error: int, kinds: tuple[str, ...]) -> syscalls.Verdict:
    def decide(call: syscalls.Call, number: int) -> int | None:
        return error if number >= first and call.kind in kinds else None

    return decide


@pytest.mark.parametrize(
    ("what", "error", "kinds", "from_frac"),
    [
        ("disk full", errno.ENOSPC, NEEDS_ROOM, 0.5),
        ("read-only", errno.EROFS, NEEDS_PERMISSION, 0.0),
        ("permission lost", errno.EACCES, NEEDS_PERMISSION, 0.6),
    ],
    ids=["disk full midway", "read-only folder", "permission lost midway"],
)
@pytest.mark.parametrize("name", [name for name in STAGES if name != "blur in place"])
def test_what_cannot_be_written_is_said_and_nothing_is_lost(
    benches: dict[str, Bench], name: str, what: str, error: int, kinds: tuple[str, ...], from_frac: float
) -> None:
    bench = benches[name]
    workdir = bench.fresh()
    run = bench.start(workdir, failing_from(round(from_frac * len(bench.kinds)), error, kinds))
    assert run.wait() in (1, 2), run.said
    assert "Traceback" not in run.said
    assert os.strerror(error) in run.said, run.said
    assert bench.finish(workdir) == []


def test_a_real_disk_that_is_full(benches: dict[str, Bench], tmp_path: Path) -> None:
    """A disk of 300 kB: room for the input and a little more."""
    bench = benches["cut"]
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a disk here; the test above puts the kernel's answer in its place")
    try:
        workdir = material.copy(bench.fresh(), disk / "work")
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        run = bench.start(workdir)
        assert run.wait() in (1, 2), run.said
        assert "Traceback" not in run.said and "No space left" in run.said
        filler.unlink()
        assert bench.finish(workdir) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# ---- time and versions


def test_a_clock_that_was_set_back_changes_nothing(benches: dict[str, Bench]) -> None:
    """Everything on the disk is a year in the future, and the clock runs backwards besides."""
    backwards = "import time\nstart = time.time() - 4e7\ntime.time = lambda: start - time.monotonic()\n"
    for name in ("download", "parse"):
        bench = benches[name]
        workdir = bench.fresh()
        bench.kill_at(Point(len(bench.kinds) // 2), workdir)
        for path in workdir.rglob("*"):
            future = path.lstat().st_mtime + 365 * 86400
            os.utime(path, (future, future), follow_symlinks=False)
        run = bench.start(workdir, prelude=backwards)
        assert run.wait() == bench.stage.status, run.said
        assert material.differences(material.contents(workdir), bench.undisturbed) == []


def finished(bench: Bench) -> tuple[Path, TracksLayout]:
    workdir = bench.fresh()
    assert bench.start(workdir).wait() == 0
    return workdir, TracksLayout(material.tracks_dir(workdir))


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "failed.jsonl"}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("of a later version", "newer version"),
        ("half a progress file", "bad JSON"),
        ("of the published pipeline", "bad progress file"),
        ("no progress file", "no progress file"),
        ("more than there is", "track file cut short"),
    ],
)
def test_a_progress_file_that_we_did_not_write_is_told_and_its_tracks_are_left_alone(
    benches: dict[str, Bench], what: str, reason: str
) -> None:
    bench = benches["parse"]
    workdir, layout = finished(bench)
    path = layout.progress_path(STREET_ID)
    entry = json.loads(path.read_text())
    first_only = {"segments_complete": entry["segments_complete"][:1]}
    if what == "of a later version":
        path.write_text(json.dumps(entry | first_only | {"schema": "trackverse/2"}))
    elif what == "half a progress file":
        os.truncate(path, 40)  # as a version that wrote in place would leave it
    elif what == "of the published pipeline":
        path.write_text(json.dumps(first_only))
    elif what == "no progress file":
        path.unlink()
    else:
        path.write_text(json.dumps(entry | first_only | {"meta_bytes": entry["meta_bytes"] + 1}))
    before = files_in(layout.output_dir)
    run = bench.start(workdir)
    assert run.wait() == 1 and "Traceback" not in run.said, run.said
    assert reason in run.said and path.name.split("-")[0] in run.said
    assert files_in(layout.output_dir) == before


def test_half_a_scenes_file_is_made_anew(benches: dict[str, Bench]) -> None:
    bench = benches["cut"]
    workdir = bench.fresh()
    bench.start(workdir).wait()
    path = next((workdir / "video_scenes").glob("*/*.json"))
    os.truncate(path, path.stat().st_size // 2)
    assert bench.finish(workdir) == []


# ---- signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
@pytest.mark.parametrize("name", STAGES)
def test_a_signal_ends_in_order(benches: dict[str, Bench], name: str, number: int, status: int) -> None:
    """In the middle of its work, at a write: what was begun is undone, and no claim or temporary file stays."""
    bench = benches[name]
    workdir = bench.fresh()
    half, is_sent = threading.Event(), threading.Event()

    def decide(call: syscalls.Call, at: int) -> None:
        if at == len(bench.kinds) // 2:
            half.set()
            is_sent.wait()

    run = bench.start(workdir, decide)
    with killed_at_the_end(run):
        assert half.wait(300)
        run.signal(number)
        is_sent.set()
        assert run.wait() == status, run.said
    lines = run.said.strip().splitlines()
    assert "the same command goes on from here" in lines[-1]
    assert "Traceback" not in run.said
    litter = [path for path in workdir.rglob(".*") if not (name == "download" and path.suffix == ".tmp")]
    assert litter == []  # but for the partial download, from which the next run goes on
    assert bench.finish(workdir) == []
