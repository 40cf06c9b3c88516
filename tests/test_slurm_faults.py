"""What befalls jobs on a real cluster, to the real tracking stage: whatever it is, the tracks come out as undisturbed.

On a cluster that knows the processes of a job by their cgroup (then a signal goes to the first of them alone), and on
one that knows them by their process group (then to all). Both at once, as most of the time is spent waiting.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from slurm_cluster import Cluster, running_cluster, wait_for

from trackverse import files
from trackverse import progress as progress_file
from trackverse.layout import ASSETS_DIR, REPO_DIR, Layout, TracksLayout, failed_path, lock_path
from trackverse.store import load_embeddings, read_lines
from trackverse.video import cut_clips

PARTS = range(6)
SETTINGS = ["--slurm", "--cpus", "1", "--mem", "500M", "--time", "60"]
START_S = 900  # time limit: on a busy machine, a job needs some to import and load what it takes

# Python runs it at each of its starts, as the first thing that it imports: in the element 5, it waits to be let go on.
SLOW_IMPORTS = """
import os, pathlib, time

folder = os.environ.get("SLOW_IMPORTS")
if folder and os.environ.get("SLURM_ARRAY_TASK_ID") == "5" and "SLURM_RESTART_COUNT" not in os.environ:
    number = len(list(pathlib.Path(folder).glob("importing.*")))
    pathlib.Path(folder, f"importing.{number}").touch()
    while number < 2 and not pathlib.Path(folder, f"go.{number}").exists():
        time.sleep(0.05)
"""


def first(part: int) -> str:
    """The video of a part that its element has done when it is disturbed."""
    return f"first-{part}"


def second(part: int) -> str:
    """The video of a part that its element waits for when it is disturbed."""
    return f"second-{part}"


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A work folder with two videos of 2 s for each of the six parts: the first with a segment, the second with two."""
    layout = Layout(tmp_path_factory.mktemp("street") / "work dir")
    for part in PARTS:
        lines = []
        for start_s, video_id, starts_s in ((2 * part, first(part), [0]), (2 * part + 12, second(part), [0, 1])):
            path = layout.video_path(video_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_clips(ASSETS_DIR / "demo" / "street.mp4", {path: (float(start_s), start_s + 2.0)}, mode="copy")
            clips = [{"clip_id": f"{video_id}.{n}.mp4", "span": [n, n + 1]} for n in starts_s]
            lines.append(json.dumps({"video_id": video_id, "clip": clips}))
        part_path = layout.mined_part_path("coco", part)
        part_path.parent.mkdir(parents=True, exist_ok=True)
        part_path.write_text("\n".join(lines) + "\n")
    return layout


def parse_tracks(
    street: Layout, output_dir: Path, *flags: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    parts = [os.path.relpath(street.mined_part_path("coco", part), street.workdir) for part in PARTS]
    command = [sys.executable, str(REPO_DIR / "parse_tracks.py"), "--output_dir", str(output_dir)]
    command += ["--frame_rate", "5", "--min_track_area", "0", "--min_track_len", "0.3", *flags]
    return subprocess.run(
        [*command, "--clips_metafile", *parts],
        cwd=street.workdir,
        env=(env or dict(os.environ)) | {"TRACKVERSE_DB": str(street.workdir)},
        capture_output=True,
        text=True,
        timeout=START_S,
    )


@pytest.fixture(scope="module")
def undisturbed(street: Layout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run by hand gives."""
    output_dir = tmp_path_factory.mktemp("tracks") / "by hand"
    done = parse_tracks(street, output_dir, "--num_workers", "2")
    assert done.returncode == 0, done.stderr
    found = tracks(output_dir)
    assert len(found) == 12
    return found


def tracks(output_dir: Path) -> dict[str, object]:
    """What is stored of each video: its records and embeddings, and which segments are done."""
    layout = TracksLayout(output_dir)
    found: dict[str, object] = {}
    for path in layout.meta_paths():
        video_id = path.name.removesuffix("-meta.jsonl.gzip")
        records = [line for _, line in read_lines(path)]
        progress = json.loads(layout.progress_path(video_id).read_text())
        found[video_id] = (records, load_embeddings(layout.embeddings_path(video_id)).tolist(), progress)
    return found


def is_committed(progress_path: Path) -> bool:
    """Whether any segment is. The file is there before: it says then that nothing counts yet."""
    progress = progress_file.load(progress_path)
    return bool(progress and progress.segments_complete)


def litter(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.rglob(".*") if path.is_file()]


def logs(output_dir: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((output_dir / "slurm_logs").glob("*/*_log.err")))


@dataclass
class Campaign:
    """Six elements, each disturbed in its way when it has done its first video and waits for the claim on its second;
    then the node is lost, and the same command given once more."""

    cluster: Cluster
    street: Layout
    output_dir: Path
    slow_imports_dir: Path
    num_workers: int  # that each element has
    job: str = ""  # number of the first array
    role: dict[str, int] = field(default_factory=dict)  # which element each thing befell
    restarts: dict[str, int] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)  # when nothing is queued any more
    answers: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def run(self) -> Campaign:
        layout = TracksLayout(self.output_dir)
        with contextlib.ExitStack() as claims:
            for part in PARTS:
                assert claims.enter_context(files.claim(lock_path(layout.meta_path(second(part)))))
            self.submit()
            for part in PARTS[:5]:
                path = layout.progress_path(first(part))
                self.wait_until(partial(is_committed, path), "each has done its first video")
            self.signal_during_imports()
            self.preempt_one()
            self.disturb_the_others()
            self.lose_the_node()
        self.cluster.wait_until_empty()
        self.note_states()
        self.answers["status after"] = self.stage("--status")
        self.answers["again"] = self.stage(*self.settings)
        self.cluster.wait_until_empty()
        self.answers["status at the end"] = self.stage("--status")
        return self

    def stage(self, *flags: str) -> subprocess.CompletedProcess[str]:
        env = self.cluster.env | {"SLOW_IMPORTS": str(self.slow_imports_dir)}
        env["PYTHONPATH"] = os.pathsep.join([str(self.slow_imports_dir), *filter(None, [env.get("PYTHONPATH")])])
        for name in ("USER", "LOGNAME"):
            env.pop(name, None)
        return parse_tracks(self.street, self.output_dir, *flags, env=env)

    @property
    def settings(self) -> list[str]:
        return [*SETTINGS, "--gpus", "1", "--num_workers", str(self.num_workers)]

    def submit(self) -> None:
        self.slow_imports_dir.mkdir()
        (self.slow_imports_dir / "sitecustomize.py").write_text(SLOW_IMPORTS)
        done = self.stage(*self.settings)
        self.job = self.cluster.submitted(done)
        self.answers["submitted"] = done
        self.answers["twice"] = self.stage(*self.settings)

    def element(self, number: int) -> str:
        return f"{self.job}_{number}"

    def wait_until(self, condition: object, what: str, timeout_s: float = START_S) -> None:
        wait_for(condition, lambda: f"{what}; {self.cluster.jobs(over=True)} {logs(self.output_dir)}", timeout_s)  # type: ignore[arg-type]

    def signal_during_imports(self) -> None:
        """USR2 twice: while submitit's Python starts, which has no handler yet, and while the stage's Python does."""
        for number in range(2):
            self.wait_until((self.slow_imports_dir / f"importing.{number}").exists, f"Python starts ({number})")
            if number == 1:
                self.answers["status"] = self.stage("--status")
            self.cluster.ask("scancel", "--signal=USR2", self.element(5))
            (self.slow_imports_dir / f"go.{number}").touch()
        self.wait_until(lambda: self.cluster.state(self.element(5)) == "PENDING", "the element is requeued")
        self.cluster.ask("scontrol", "hold", self.element(5))  # else it soon takes its GPU again
        self.role["signal during imports"] = 5

    def preempt_one(self) -> None:
        """A job that comes first wants four of the eight GPUs, of which three are free."""
        wants = ["--partition=high", "--gpus-per-node=4", "--mem=100M", "--output=/dev/null"]
        self.cluster.ask("sbatch", *wants, "--wrap", "sleep 2")
        victims: list[int] = []

        def is_preempted() -> bool:
            victims[:] = [n for n in PARTS[:5] if self.cluster.state(self.element(n)) != "RUNNING"]
            return bool(victims)

        self.wait_until(is_preempted, "a job is preempted")
        self.cluster.ask("scontrol", "release", self.element(5))
        (self.role["preempted"],) = victims

    def disturb_the_others(self) -> None:
        others = [number for number in PARTS[:5] if number != self.role["preempted"]]
        late, requeued, killed, cancelled = others
        self.cluster.ask("scontrol", "update", f"jobid={self.element(late)}", f"TimeLimit={self.limit_soon_over(late)}")
        self.cluster.ask("scontrol", "requeue", self.element(requeued))
        os.kill(self.cluster.processes(self.element(killed))[0], signal.SIGKILL)
        self.cluster.ask("scancel", self.element(cancelled))
        self.role |= {"out of time": late, "requeued": requeued, "killed": killed, "cancelled": cancelled}

    def limit_soon_over(self, number: int) -> int:
        """A time limit, in whole minutes, that ends the element in one and a half to two and a half from now. Slurm
        warns two minutes before, and looks every half minute whether it is time."""
        *hours, minutes, seconds = map(
            int, self.cluster.ask("squeue", "-h", "-j", self.element(number), "-o", "%M").split(":")
        )
        return 60 * sum(hours) + minutes + (2 if seconds < 30 else 3)

    @property
    def survivors(self) -> list[str]:
        """The elements that go on by themselves."""
        return [self.element(number) for what, number in self.role.items() if what not in ("killed", "cancelled")]

    def lose_the_node(self) -> None:
        """When all that go on by themselves run again. The one that was out of time has its hour back before it does:
        within minutes, it may not have come further than its imports."""
        late = self.element(self.role["out of time"])
        self.wait_until(lambda: self.cluster.state(late) != "RUNNING", "the one whose time is up is requeued")

        def has_its_hour_back() -> bool:
            """Slurm changes nothing of a job while it completes, and says no."""
            with contextlib.suppress(subprocess.CalledProcessError):
                self.cluster.ask("scontrol", "update", f"jobid={late}", "TimeLimit=60")
                return True
            return False

        self.wait_until(has_its_hour_back, "it has its hour back")

        def runs_again(job: str) -> bool:
            """On the node too: a start that it is lost in the middle of counts, and is tried once more."""
            with contextlib.suppress(subprocess.CalledProcessError):
                return self.cluster.restarts(job) > 0 and bool(self.cluster.processes(job))
            return False

        def all_run_again() -> bool:
            jobs = self.cluster.jobs()
            return all(jobs[job] == "RUNNING" and runs_again(job) for job in self.survivors)

        self.wait_until(all_run_again, "all run again")
        self.restarts = {job: self.cluster.restarts(job) for job in self.survivors}
        self.cluster.lose_the_node()
        self.cluster.start()

    def note_states(self) -> None:
        jobs = self.cluster.jobs(over=True)
        self.states = {what: jobs[self.element(number)] for what, number in self.role.items()}
        self.restarts = {job: self.cluster.restarts(job) - before for job, before in self.restarts.items()}


PROCTRACKS = {"cgroup": 1, "pgid": 2}  # and the processes of an element: they get its signals only under pgid


@pytest.fixture(scope="module")
def campaigns(street: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Campaign]]]:
    with ThreadPoolExecutor() as pool:

        def run(proctrack: str) -> Campaign:
            with running_cluster(proctrack) as cluster:
                folder = tmp_path_factory.mktemp(proctrack)
                return Campaign(cluster, street, folder / "it's by slurm", folder / "slow", PROCTRACKS[proctrack]).run()

        yield {proctrack: pool.submit(run, proctrack) for proctrack in PROCTRACKS}


@pytest.fixture(params=PROCTRACKS)
def campaign(request: pytest.FixtureRequest, campaigns: dict[str, Future[Campaign]]) -> Campaign:
    return campaigns[request.param].result()


def test_an_array_over_six_parts_runs_two_at_a_time(
    street: Layout,
    undisturbed: dict[str, object],
    campaigns: dict[str, Future[Campaign]],
    slurm_cluster: Cluster,
    tmp_path: Path,
) -> None:
    """While the campaigns, on clusters of their own, mostly wait."""
    slurm_cluster.cancel_all()
    array = slurm_cluster.submitted(parse_tracks(street, tmp_path / "out", *SETTINGS, "--max_parallel", "2"))
    slurm_cluster.wait_until_empty()
    assert tracks(tmp_path / "out") == undisturbed, logs(tmp_path / "out")
    starts, ends = ([slurm_cluster.time_of(what, f"{array}_{n}") for n in PARTS] for what in ("StartTime", "EndTime"))
    at_once = [sum(start <= now < end for start, end in zip(starts, ends, strict=True)) for now in starts]
    assert max(at_once) <= 2


def test_whatever_befell_them_the_tracks_are_the_same(campaign: Campaign, undisturbed: dict[str, object]) -> None:
    assert tracks(campaign.output_dir) == undisturbed
    assert litter(campaign.output_dir) == []
    assert not failed_path(campaign.output_dir).exists(), "no video is blamed for what befell its job"


def test_what_slurm_or_submitit_requeues_needs_no_second_command(campaign: Campaign) -> None:
    assert campaign.states == {
        "signal during imports": "COMPLETED",
        "preempted": "COMPLETED",
        "out of time": "COMPLETED",
        "requeued": "COMPLETED",
        "killed": "FAILED",
        "cancelled": "CANCELLED",
    }, logs(campaign.output_dir)
    assert set(campaign.restarts.values()) == {1}, "once more for the lost node"


def test_the_same_command_again_is_refused_and_at_the_end_does_the_rest(campaign: Campaign) -> None:
    twice, again = campaign.answers["twice"], campaign.answers["again"]
    assert twice.returncode == 2
    queued = re.match(rf"error: already queued as job {campaign.job} \((.*?)\)", twice.stderr)
    assert queued and sum(map(int, re.findall(r"\d+", queued[1]))) == 6, twice.stderr  # running or pending
    assert again.returncode == 0
    assert "submitted 6 of 6 elements" in again.stdout, "what is done ends at once"


def test_the_status_tells_how_far_each_part_is(campaign: Campaign) -> None:
    first_rows = campaign.answers["status"].stdout.splitlines()
    assert first_rows[0].split() == ["part", "state", "done", "to", "do", "failed", "job"]
    for part, row in zip(PARTS, first_rows[1:7], strict=True):
        done, todo = (0, 3) if part == 5 else (1, 2)
        assert row.split() == [f"part{part}.jsonl", "running", str(done), str(todo), "0", campaign.element(part)]
    assert first_rows[7] == "6 parts: 6 running"

    after = campaign.answers["status after"]
    ended = [row.split()[0] for row in after.stdout.splitlines() if " failed " in row and row.startswith("part")]
    assert sorted(ended[1:]) == sorted(f"part{campaign.role[what]}.jsonl" for what in ("killed", "cancelled"))
    assert (after.returncode, after.stdout.splitlines()[-1]) == (1, "6 parts: 4 done, 2 failed")

    end = campaign.answers["status at the end"]
    assert (end.returncode, end.stdout.splitlines()[-1]) == (0, "6 parts: 6 done")
