"""Stages as Slurm arrays: on a real one-node Slurm what becomes of the work, and without one what is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import MAX_ARRAY_SIZE, Cluster, wait_for

from trackverse import layout, slurm, slurm_job
from trackverse.errors import SetupError
from trackverse.slurm import Settings
from trackverse.slurm_job import StageJob
from trackverse.slurm_queue import job_name

REPO_DIR = layout.REPO_DIR

STAGE = f'''
"""Write each video's id to a file of its own: the smallest real stage."""

import multiprocessing
import sys
import time
from pathlib import Path

sys.path.insert(0, {str(REPO_DIR)!r})  # not inherited by the job: that must find the package by itself

from trackverse import cli, files, layout, stage
from trackverse.worklist import Tally, Worklist


def work(args, rank):
    tally = Tally()
    todo = Worklist(
        stage.videos(args, args.metafile, rank, tally),
        key=lambda video: video.video_id,
        is_done=lambda video: (args.output_dir / video.video_id).exists(),
        claim_path=lambda video: layout.lock_path(args.output_dir / video.video_id),
        failed_path=layout.failed_path(args.output_dir),
        tally=tally,
        dry_run=args.dry_run,
    )
    for video in todo:
        with todo.attempt(video):
            if args.fork:
                child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
                child.start()
                child.terminate()
                child.join()
            with files.atomic_write(args.output_dir / video.video_id) as file:
                file.write(video.video_id.encode())
    return tally


if __name__ == "__main__":
    parser = cli.stage_parser(__doc__)
    parser.add_argument("--metafile", type=Path, nargs="+", required=True)
    parser.add_argument("--output_dir", type=cli.folder, required=True)
    parser.add_argument("--fork", action="store_true")
    sys.exit(stage.start(parser, work, what="videos", output_dir=lambda args: args.output_dir, parts="metafile"))
'''
SMALL = ["--cpus", "1", "--mem", "100M"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to submit from, apart from the repository: three metafiles of two videos each and the stage script.
    Its name has spaces and a quote in it."""
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    (folder / "tiny_stage.py").write_text(STAGE)
    for part in "abc":
        lines = [json.dumps({"video_id": f"{part}{n}", "url": None}) for n in (1, 2)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def cluster(slurm_cluster: Cluster) -> Iterator[Cluster]:
    """The session's cluster, with an empty queue before and after."""
    slurm_cluster.cancel_all()
    yield slurm_cluster
    slurm_cluster.cancel_all()


def run_stage(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The stage as a user runs it, from its folder, with relative paths."""
    command = [sys.executable, "tiny_stage.py", "--output_dir", "out", *argv]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def submit_stage(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return run_stage(folder, "--slurm", *SMALL, *argv)


def written(folder: Path) -> dict[str, str]:
    """{video id: content} of what the stage has written."""
    return {path.name: path.read_text() for path in (folder / "out").glob("[abc][12]")}


def logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "out" / "slurm_logs").glob("*/*_log.err")))


# --- on a real cluster


def test_two_parts_become_an_array_and_a_second_run_has_nothing_to_do(folder: Path, cluster: Cluster) -> None:
    command = ["--metafile", "a.jsonl", "b.jsonl", "--num_workers", "2"]
    done = submit_stage(folder, *command)
    assert done.returncode == 0, done.stderr
    assert "submitted 2 of 2 elements as job " in done.stdout
    cluster.wait_until_empty()
    assert set(written(folder)) == {"a1", "a2", "b1", "b2"}, logs(folder)
    times = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("[abc][12]")}

    done = submit_stage(folder, *command)
    assert done.returncode == 0, done.stderr
    cluster.wait_until_empty()
    assert logs(folder).count("0 videos done, 2 already there: nothing to do") == 2
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").glob("[abc][12]")} == times
    assert sorted(path.name for path in (folder / "out").iterdir() if path.name.startswith(".")) == []
    assert not list((folder / "out" / "slurm_logs").glob("[!0-9]*"))


def test_what_is_queued_is_not_submitted_again(folder: Path, cluster: Cluster) -> None:
    """Held jobs stay in the queue for as long as the test wants."""
    command = [sys.executable, "tiny_stage.py", "--output_dir", "out", "--slurm", *SMALL, "--slurm_extra", "hold="]
    both = [
        subprocess.Popen([*command, "--metafile", "a.jsonl", "b.jsonl"], cwd=folder, stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    answers = sorted((*process.communicate(timeout=300), process.returncode)[::-1] for process in both)
    assert [status for status, *_ in answers] == [0, 2], "two at once: one of them submits"
    held = set(cluster.jobs())
    (job_id,) = {job.partition("_")[0] for job in held}
    assert answers[1][1] == f"error: already queued as job {job_id} (2 pending); nothing submitted\n"

    done = submit_stage(folder, "--metafile", "a.jsonl", "c.jsonl", "b.jsonl", "--num_workers", "2")
    assert done.returncode == 0, done.stderr
    assert "submitted 1 of 3 elements" in done.stdout
    assert f"not submitted again: job {job_id} (2 pending)" in done.stdout
    wait_for(lambda: set(cluster.jobs()) == held, lambda: f"only the held jobs stay: {cluster.jobs()}")
    assert set(written(folder)) == {"c1", "c2"}, logs(folder)

    other = run_stage(folder, "--slurm", *SMALL, "--metafile", "a.jsonl", "--output_dir", "other")
    assert other.returncode == 0, "another output folder is other work"

    (folder / "out" / "submitted.json").unlink()
    done = submit_stage(folder, "--metafile", "c.jsonl")
    assert done.returncode == 2
    assert f"job {job_id} (2 pending) works on this folder" in done.stderr


def test_more_elements_than_an_array_may_have_become_two_arrays(folder: Path, cluster: Cluster) -> None:
    """Of the six videos in nine chunks, the second array has none: it waits for the first, and has nothing to do. Both
    are held until all has been asked."""
    command = ["--metafile", "a.jsonl", "b.jsonl", "c.jsonl", "--num_chunks", "3", "--max_parallel", "8"]
    done = submit_stage(folder, *command, "--slurm_extra", "hold=")
    assert done.returncode == 0, done.stderr
    first, second = sorted({int(job.partition("_")[0]) for job in cluster.jobs()})
    assert f"submitted 9 of 9 elements as job {first}, {second}, one after another" in done.stdout
    assert MAX_ARRAY_SIZE == 8 and str(second) in cluster.jobs(), "the ninth is alone, so no array"
    again = submit_stage(folder, *command)
    assert again.returncode == 2 and f"already queued as job {first}, {second} (" in again.stderr
    cluster.ask("scontrol", "release", f"{first},{second}")
    cluster.wait_until_empty()
    assert set(written(folder)) == {"a1", "a2", "b1", "b2", "c1", "c2"}, logs(folder)
    ends = [cluster.time_of("EndTime", f"{first}_{n}") for n in range(8)]
    assert max(ends) <= cluster.time_of("StartTime", str(second))
    status = run_stage(folder, "--status", *command)
    assert (status.returncode, status.stdout.splitlines()[-1]) == (0, "9 parts: 9 done"), status.stderr
    assert "a.jsonl, chunk 0" in status.stdout


def test_statuses_and_forks(folder: Path, cluster: Cluster) -> None:
    """Part `bad` has a line that is none (status 1), part `none` is not there (status 2). All fork in the job, where
    submitit's signal handlers, were they kept, would let the child sleep on."""
    (folder / "bad.jsonl").write_text("{\n")
    job_id = cluster.submitted(submit_stage(folder, "--metafile", "bad.jsonl", "none.jsonl", "a.jsonl", "--fork"))
    cluster.wait_until_empty()
    states = {key: state for key, state in cluster.jobs(over=True).items() if key.startswith(f"{job_id}_")}
    assert states == {f"{job_id}_0": "COMPLETED", f"{job_id}_1": "FAILED", f"{job_id}_2": "COMPLETED"}, logs(folder)
    assert set(written(folder)) == {"a1", "a2"}
    assert "1 failed (1 bad JSON)" in logs(folder)
    assert "error: none.jsonl" in logs(folder)
    assert "Traceback" not in logs(folder)


def test_a_single_part_is_a_plain_job_whose_settings_reach_slurm(folder: Path, cluster: Cluster) -> None:
    settings = ["--time", "7", "--cpus", "2", "--mem", "150M", "--partition", "high", "--slurm_extra", "comment=mine"]
    done = run_stage(folder, "--slurm", *settings, "--metafile", "a.jsonl", "--slurm_extra", "hold=")
    assert done.returncode == 0, done.stderr
    (job_id,) = cluster.jobs()
    shown = subprocess.check_output(["scontrol", "show", "job", job_id], text=True, timeout=300)
    for wanted in ("TimeLimit=00:07:00", "CPUs/Task=2", "mem=150M", "Partition=high", "Comment=mine", "Requeue=1"):
        assert wanted in shown
    assert "JobName=trackverse-tiny_stage-" in shown


REFUSED = {
    "unknown partition": (["--partition", "nowhere"], "invalid partition specified: nowhere"),
    "memory that is no size": (["--mem", "lots"], "Invalid --mem specification"),
    "more memory than a node has": (["--mem", "900T"], "error"),
    "unknown option": (["--slurm_extra", "colour=red"], "unrecognized option"),
    "the name is not the user's": (["--slurm_extra", "job-name=mine"], "--slurm_extra job_name: is set by --slurm"),
}


@pytest.mark.parametrize("argv, said", REFUSED.values(), ids=REFUSED.keys())
def test_what_slurm_refuses_is_one_line(argv: list[str], said: str, folder: Path, cluster: Cluster) -> None:
    done = submit_stage(folder, "--metafile", "a.jsonl", "b.jsonl", *argv)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert cluster.jobs() == {}
    assert [path for path in (folder / "out").rglob("*") if path.is_file()] == []


def test_submitting_from_within_a_job(folder: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell on a node has its job's variables, which would clash with the new job's (srun: mem-per-cpu with mem)."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "10")
    assert submit_stage(folder, "--metafile", "a.jsonl").returncode == 0
    cluster.wait_until_empty()
    assert set(written(folder)) == {"a1", "a2"}, logs(folder)


# --- without a cluster


def put_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, squeue: str) -> Path:
    """Stand-ins for Slurm's tools, as a real squeue can't be made to fail at will: `squeue` is a line of shell, and
    sbatch leaves a file behind, the path of which is given back."""
    tools = folder / "tools"
    tools.mkdir()
    called = folder / "sbatch was called"
    for name, line in {
        "squeue": squeue,
        "sbatch": f"touch {str(called)!r}",
        "srun": "exit 1",
        "scontrol": "echo MaxArraySize=9",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return called


UNTOLD = {
    "squeue fails": ("echo no controller >&2; exit 1", "squeue says: no controller"),
    "squeue fails without a word": ("exit 3", "squeue says: status 3"),
    "squeue complains but ends well": ("echo Invalid user >&2; exit 0", "squeue says: Invalid user"),
    "a job of ours that is not noted": ('echo "9_3|RUNNING|None|$NAME"', "job 9 (1 running) works on this folder"),
}


@pytest.mark.parametrize("squeue, said", UNTOLD.values(), ids=UNTOLD.keys())
def test_when_the_queue_is_not_clear_nothing_is_submitted(
    squeue: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, output_dir = tmp_path / "stage.py", tmp_path / "out"
    monkeypatch.setenv("NAME", job_name(script, output_dir))
    sbatch_called = put_tools(tmp_path, monkeypatch, squeue)
    with pytest.raises(SetupError) as refusal:
        slurm.submit(script, {"--a 1": ["--a", "1"]}, output_dir, Settings())
    assert said in str(refusal.value)
    assert not sbatch_called.exists()


STATUSES_OF_PARTS = {
    "the queue can't be asked": ("exit 1", {}, 2, ["done", "?", "?"]),
    "nothing was submitted": ("exit 0", {}, 0, ["done", "not submitted", "not submitted"]),
    "one is queued, one has ended before its work did": (
        'echo "9_1|PENDING|Priority|$NAME"', {"b": "9_1", "c": "9_2"}, 1, ["done", "queued", "failed"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("squeue, jobs, code, states", STATUSES_OF_PARTS.values(), ids=STATUSES_OF_PARTS.keys())
def test_the_status_of_each_part(
    squeue: str, jobs: dict[str, str], code: int, states: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part a is done."""
    assert run_stage(folder, "--metafile", "a.jsonl").returncode == 0
    name = job_name(folder / "tiny_stage.py", folder / "out")
    lines = {part: shlex.join(["--metafile", f"{part}.jsonl", "--output_dir", str(folder / "out")]) for part in jobs}
    note = {name: {lines[part]: job_id for part, job_id in jobs.items()}}
    (folder / "out" / "submitted.json").write_text(json.dumps(note))
    monkeypatch.setenv("NAME", name)
    put_tools(folder, monkeypatch, squeue)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    status = run_stage(folder, "--status", "--metafile", "a.jsonl", "b.jsonl", "c.jsonl")
    rows = [re.split(r"  +", row) for row in status.stdout.splitlines()]
    assert (status.returncode, [row[1] for row in rows[1:4]]) == (code, states), status.stderr
    assert [row[2:5] for row in rows[1:4]] == [["2", "0", "0"], ["0", "2", "0"], ["0", "2", "0"]]
    if jobs:
        assert rows[2][5] == "9_1 (Priority)" and rows[3][5].endswith("slurm_logs/9_2/9_2_0_log.err")
    if code == 2:
        assert status.stderr.startswith("error: can't tell what is queued: squeue says: status 1")
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")} == before


def test_a_broken_note_is_not_taken_for_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch_called = put_tools(tmp_path, monkeypatch, "exit 0")
    for content in ("{", "[1]", '{"name": 3}'):
        (tmp_path / "submitted.json").write_text(content)
        with pytest.raises(SetupError, match=r"submitted\.json: not a list of submitted jobs"):
            slurm.submit(tmp_path / "stage.py", {"": []}, tmp_path, Settings())
    assert not sbatch_called.exists()


def test_without_slurm_one_line_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir()
    monkeypatch.setenv("PATH", str(folder / "empty"))
    done = submit_stage(folder, "--metafile", "a.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no sbatch, squeue, srun, scontrol on PATH") and done.stderr.count("\n") == 1
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", ["50%j", "back\\slash", "line\nbreak"])
def test_folders_whose_names_slurm_would_read_as_patterns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch_called = put_tools(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(SetupError, match="can't write logs"):
        slurm.submit(tmp_path / "stage.py", {"": []}, tmp_path / name, Settings())
    assert not sbatch_called.exists()


def test_a_dry_run_shows_the_elements_and_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = submit_stage(folder, "--metafile", "a.jsonl", "b.jsonl", "--num_chunks", "2", "--dry_run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("would submit 4 elements as trackverse-tiny_stage-")
    assert "cpus 1" in lines[0] and "mem 100M" in lines[0]
    out = f"--output_dir {shlex.quote(str(folder / 'out'))}"
    assert lines[1].startswith("  tiny_stage.py --num_chunks 2 ")
    assert [("a.jsonl" in line, "--chunk_id 1" in line, out in line) for line in lines[1:]] == [
        (True, False, True),
        (True, True, True),
        (False, False, True),
        (False, True, True),
    ]
    assert not (folder / "out").exists()


def test_the_name_goes_by_script_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    name = job_name(Path("x/cut_videos.py"), tmp_path / "out")
    assert name == job_name(Path("y/cut_videos.py"), Path("link/../out/."))
    assert name != job_name(Path("x/parse_tracks.py"), tmp_path / "out")
    assert name != job_name(Path("x/cut_videos.py"), tmp_path / "out2")


STATUSES = {
    "falls off its end": ("pass", 0, "returned 0"),
    "all done": ("sys.exit(0)", 0, "returned 0"),
    "some items failed": ("sys.exit(1)", 0, "returned 1"),
    "wrong set-up": ("sys.exit(2)", 2, ""),
    "killed, say for want of memory": ("os.kill(os.getpid(), 9)", 137, ""),
    "a bug": ("1 / 0", 70, ""),
}


@pytest.mark.parametrize("line, status, printed", STATUSES.values(), ids=STATUSES.keys())
def test_only_wrong_setups_and_bugs_fail_a_job(line: str, status: int, printed: str, tmp_path: Path) -> None:
    (tmp_path / "sibling.py").write_text("")
    script = tmp_path / "stage.py"
    script.write_text(
        f"import os, sys, sibling\nassert sys.argv == [{str(script)!r}, '--a', 'b c'], sys.argv\n{line}\n"
    )
    code = f"from trackverse.slurm_job import StageJob; print('returned', StageJob({str(script)!r}, ('--a', 'b c'))())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_DIR, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (status, printed), done.stderr


def test_a_signal_that_comes_while_python_starts_does_not_end_the_job() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('alive')"
    done = subprocess.run(f"{slurm_job.PYTHON} -c {shlex.quote(code)}", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n")


CHILDREN = """
import multiprocessing, pathlib, subprocess, sys, time
from trackverse.downloaded import ffmpeg_path

if __name__ == "__main__":
    endless = ["-re", "-f", "lavfi", "-i", "testsrc=size=64x64", "-f", "null", "-"]
    ffmpeg = subprocess.Popen([ffmpeg_path(), "-nostdin", "-v", "error", *endless])
    workers = [
        multiprocessing.get_context(method).Process(target=time.sleep, args=(600,)) for method in ("spawn", "fork")
    ]
    for worker in workers:
        worker.start()
    pathlib.Path("ready").touch()
    while not pathlib.Path("signalled").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    alive = [ffmpeg.poll() is None, *(worker.is_alive() for worker in workers)]
    ffmpeg.kill()
    for worker in workers:
        worker.terminate()
        worker.join(300)
    print("alive", *alive, "ended by", *(worker.exitcode for worker in workers), flush=True)
"""
PARENT = """
import pathlib, signal, sys
from trackverse.slurm_job import StageJob

signal.signal(signal.SIGUSR2, lambda *_: pathlib.Path("handled").touch())
signal.signal(signal.SIGTERM, lambda *_: None)
print("returned", StageJob("stage.py", ())())
"""


def test_children_survive_the_warning_and_end_when_they_are_told(tmp_path: Path) -> None:
    """USR2 to the whole process group: the parent handles it (as submitit does), and nothing else notices."""
    (tmp_path / "stage.py").write_text(CHILDREN)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, stdout=subprocess.PIPE, text=True, process_group=0,
        env=os.environ | {"PYTHONPATH": str(REPO_DIR)},
    )  # fmt: skip
    wait_for((tmp_path / "ready").exists, lambda: "the children start")
    os.killpg(parent.pid, signal.SIGUSR2)
    wait_for((tmp_path / "handled").exists, lambda: "the parent handles the signal")
    (tmp_path / "signalled").touch()
    printed, _ = parent.communicate(timeout=300)
    assert printed.splitlines() == ["alive True True True ended by -15 -15", "returned 0"]


def test_a_job_that_is_told_to_end_waits_for_its_end(tmp_path: Path) -> None:
    """TERM comes to all where Slurm goes by process groups. A job that ended by itself then would not be requeued."""
    (tmp_path / "stage.py").write_text("import pathlib, time\npathlib.Path('ready').touch()\ntime.sleep(600)\n")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, process_group=0, env=os.environ | {"PYTHONPATH": str(REPO_DIR)}
    )
    wait_for((tmp_path / "ready").exists, lambda: "the stage starts")
    os.killpg(parent.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        parent.wait(1)
    parent.kill()
    parent.wait()


def test_a_checkpoint_is_the_same_job_again() -> None:
    job = StageJob("stage.py", ("--a", "1"))
    again = pickle.loads(pickle.dumps(job.checkpoint()))
    assert (again.function, again.args, again.kwargs) == (job, (), {})


def test_importing_the_module_is_light() -> None:
    code = "import sys, trackverse.slurm; print(*{'submitit', 'numpy', 'cloudpickle'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPO_DIR, text=True).split() == []
