"""The fault campaign: every stage is killed at every call that changes a file, and at random moments, then run again.

    make faults                                         at least 500 kills; a table at the end, status 1 after any loss
    python tests/faults/campaign.py --stages parse cut --random 20

Each run after a kill must end as an undisturbed one and leave the same files: records byte for byte after sorting, none
twice, none torn, nothing temporary.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import material
import syscalls
from material import STAGES, Stage
from warm import Run, Warm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from local_server import serve

KILLED = -9
SHOWN = ("write", "append", "fsync", "rename", "open", "unlink", "symlink")


@dataclass(frozen=True)
class Point:
    """Where to kill: before call `number` of a run, or, with `half`, in the middle of it, if it is a write."""

    number: int
    half: bool = False


@dataclass
class Figures:
    """What came of a campaign over one stage."""

    num_points: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # kills by the kind of call that they hit
    at_random: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.kinds.total() + self.at_random


class Bench:
    """One stage on a disk, with its input and the result of an undisturbed run at hand."""

    def __init__(self, warm: Warm, stage: Stage, folder: Path, address: str) -> None:
        self.warm, self.stage, self.folder, self.address = warm, stage, folder, address
        self._names = itertools.count()
        self._before_dir = folder / "before"
        self._before_dir.mkdir(parents=True)
        stage.prepare(self._before_dir, address)
        workdir = self.fresh()
        self.calls: list[syscalls.Call] = []
        kinds: list[str] = []

        def note(call: syscalls.Call, number: int) -> None:
            self.calls.append(call)
            kinds.append(call.kind)

        begin = time.monotonic()
        run = self.start(workdir, note)
        self._check_status(run)
        self.seconds = time.monotonic() - begin
        self.kinds = kinds
        self.undisturbed = material.contents(workdir)
        litter = [name for name in self.undisturbed if any(part.startswith(".") for part in Path(name).parts)]
        if litter:
            raise AssertionError(f"{stage.name}: an undisturbed run leaves {litter}")
        shutil.rmtree(workdir)

    def fresh(self) -> Path:
        """A new work folder with the stage's input."""
        # The same path for each, as some output holds it.
        workdir = self.folder / f"work {next(self._names)}"
        return material.copy(self._before_dir, workdir)

    def start(self, workdir: Path, decide: syscalls.Verdict | None = None, prelude: str = "") -> Run:
        argv = self.stage.argv(workdir, self.address)
        return self.warm.start(argv, folder=workdir, decide=decide, prelude=prelude)

    def _check_status(self, run: Run) -> None:
        if run.wait() != self.stage.status or "Traceback" in run.said:
            raise AssertionError(f"{self.stage.name}: status {run.status}\n{run.said}")

    def kill_at(self, point: Point, workdir: Path) -> str | None:
        """Run and kill there; the kind of call that it was, None if the run ended before."""
        hit: list[str] = []

        def decide(call: syscalls.Call, number: int) -> None:
            if number == point.number:
                hit.append(call.kind)
                if point.half:
                    call.write_half()
                syscalls.kill(pid[0])

        pid: list[int] = []
        started = threading.Event()

        def decide_once_known(call: syscalls.Call, number: int) -> None:
            started.wait()
            decide(call, number)

        run = self.start(workdir, decide_once_known)
        pid.append(run.pid)
        started.set()
        status = run.wait()
        assert (status == KILLED) == bool(hit), f"status {status}: {run.said}"
        return hit[0] if hit else None

    def kill_after(self, seconds: float, workdir: Path) -> bool:
        """Run and kill after so long; whether it was still there."""
        run = self.start(workdir)
        time.sleep(seconds)
        run.kill()
        return run.wait() == KILLED

    def finish(self, workdir: Path) -> list[str]:
        """Run again, to the end: what differs from the undisturbed result, in words. Removes the folder if nothing."""
        run = self.start(workdir)
        run.wait()
        wrong = material.differences(material.contents(workdir), self.undisturbed)
        if run.status != self.stage.status or "Traceback" in run.said:
            wrong.append(f"status {run.status}: {run.said.strip()[-300:]}")
        if not wrong:
            shutil.rmtree(workdir)
        return wrong


def campaign(bench: Bench, points: Sequence[Point], *, num_random: int, rng: random.Random) -> Figures:
    """Kill at each of the points, and at random moments; one kill in four is followed by a second one, anywhere."""
    figures = Figures(num_points=len(bench.kinds))
    attempts: list[Point | None] = [*points, *[None] * num_random]
    for attempt in attempts:
        workdir = bench.fresh()
        if attempt is None:
            figures.at_random += bench.kill_after(rng.uniform(0, bench.seconds), workdir)
        elif kind := bench.kill_at(attempt, workdir):
            figures.kinds[kind] += 1
        if rng.random() < 0.25:
            again = bench.kill_at(Point(rng.randrange(len(bench.kinds)), rng.random() < 0.5), workdir)
            figures.kinds.update([again] if again else [])
        figures.wrong += [f"{bench.stage.name}, {attempt}, {workdir}: {what}" for what in bench.finish(workdir)]
    return figures


def all_points(bench: Bench) -> list[Point]:
    """Before every call, and in the middle of every write."""
    whole = [Point(number) for number in range(len(bench.kinds))]
    return whole + [Point(number, half=True) for number, kind in enumerate(bench.kinds) if kind in ("write", "append")]


def some_points(bench: Bench, num: int, rng: random.Random) -> list[Point]:
    """So many of them, every kind of call first."""
    points = all_points(bench)
    rng.shuffle(points)
    seen: Counter[tuple[str, bool]] = Counter()
    ranks = {}
    for point in points:
        key = (bench.kinds[point.number], point.half)
        ranks[point] = seen[key]
        seen[key] += 1
    return sorted(points, key=lambda point: ranks[point])[:num]


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """The address of a web server with the videos to download."""
    material.make_site(folder)
    with serve(folder) as server:
        yield server.url("").rstrip("/")


def table(figures: dict[str, Figures]) -> list[str]:
    """The figures, a line a stage."""
    heads = ["stage", "points", "kills", *SHOWN, "other", "random", "losses", "duplicates", "litter", "otherwise"]
    rows = [heads]
    for name, one in figures.items():
        kinds = [one.kinds[kind] for kind in SHOWN]
        wrong = Counter(_class_of(line) for line in one.wrong)
        ends = [wrong[kind] for kind in ("lost", "duplicate", "litter", "")]
        row = [one.num_points, one.kills, *kinds, one.kinds.total() - sum(kinds), one.at_random, *ends]
        rows.append([name, *map(str, row)])
    rows.append(["all", *(str(sum(int(row[n]) for row in rows[1:])) for n in range(1, len(heads)))])
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


def _class_of(line: str) -> str:
    return next((kind for kind in ("lost", "duplicate", "litter") if f": {kind}: " in line), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES, metavar="STAGE")
    parser.add_argument("--random", type=int, default=20, metavar="N", help="kills at random moments, of each stage")
    parser.add_argument("--points", type=int, metavar="N", help="only so many of the points of each stage")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    figures: dict[str, Figures] = {}
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="trackverse-faults-"))
    with site(folder / "site") as address, Warm(folder / "logs") as warm:
        for name in args.stages:
            bench = Bench(warm, STAGES[name], folder / name, address)
            points = all_points(bench) if args.points is None else some_points(bench, args.points, rng)
            figures[name] = campaign(bench, points, num_random=args.random, rng=rng)
            print(f"{name}: {figures[name].kills} kills, {len(figures[name].wrong)} wrong", flush=True)
    wrong = [line for one in figures.values() for line in one.wrong]
    print("\n" + "\n".join([*table(figures), *wrong]))
    print(f"{sum(one.kills for one in figures.values())} kills in {time.monotonic() - begin:.0f} s")
    if wrong:
        print(f"the folders are kept in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
