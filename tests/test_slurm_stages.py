"""Every stage script as a real Slurm job, with the settings of a site: what comes out is what a run by hand gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_server import serve
from slurm_cluster import Cluster

from trackverse.layout import ASSETS_DIR, REPO_DIR
from trackverse.video import cut_clips

SMALL = ["--min_track_area", "0", "--min_track_len", "0.3", "--frame_rate", "5"]
KEEP_ALL = ["--min_scene_len", "0.5", "--filters", "length"]
FIVE = ["--num_samples", "5"]
# In the order of the pipeline; all paths are relative to the work folder, where the commands are given.
STAGES = {
    "download_videos": ["--workdir", ".", "--metafile", "meta.jsonl", "--allow_private"],
    "cut_videos": ["--workdir", ".", "--metafile", "meta.jsonl", *KEEP_ALL],
    "gdpr_blur_faces": ["--plates", "off", "--detector_size", "320"],
    "parse_tracks": ["--output_dir", "tracks", "--clips_metafile", "mined_segments/coco/part0.jsonl", *SMALL],
    "track_objects": SMALL,
    "curate_db": ["--output_file", "s/5.jsonl.gzip", "--tracks_dir", "tracks", "--criterion", "random", *FIVE],
}
SITE = ["--partition", "high", "--account", "vision", "--qos", "normal", "--gpus", "1", "--cpus", "2", "--mem", "700M"]
SITE += ["--time", "70", "--slurm_extra", "comment=of mine", "--slurm_extra", "nice=3"]
SHOWN = "Partition=high,Account=vision,TresPerNode=gres:gpu:1,CPUs/Task=2,mem=700M,TimeLimit=01:10:00,Comment=of mine"


def command(script: str) -> list[str]:
    """As a user types it: the blurring stage has a shell script in front."""
    path = REPO_DIR / f"{script}.sh"
    return [str(path)] if path.exists() else [sys.executable, str(REPO_DIR / f"{script}.py")]


def run(script: str, workdir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"TRACKVERSE_DB": str(workdir), "no_proxy": "*"}
    words = [*command(script), *STAGES[script], *flags]
    return subprocess.run(words, cwd=workdir, env=env, capture_output=True, text=True, timeout=900)


def contents(workdir: Path) -> dict[str, bytes | dict[str, object]]:
    """What the stages have written, but what is about the submission and the time of day."""
    found: dict[str, bytes | dict[str, object]] = {}
    for path in sorted(path for path in workdir.rglob("*") if path.is_file()):
        name = str(path.relative_to(workdir))
        if "slurm_logs/" in name or path.name == "submitted.json":
            continue
        found[name] = path.read_bytes()
        if re.fullmatch(r"videos_mp4/.*\.json", name):
            found[name] = json.loads(path.read_text()) | {"retrieved_at": None}
    return found


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Path]]]:
    """The folder before the first stage, and as it is after each; while the videos are there to download."""
    folder = tmp_path_factory.mktemp("by hand")
    (folder / "www").mkdir()
    spans = {folder / "www" / "street.mp4": (0.0, 2.0)}
    cut_clips(ASSETS_DIR / "demo" / "street.mp4", spans, mode="copy")
    workdir = folder / "before"
    workdir.mkdir()
    with serve(folder / "www") as server:
        (workdir / "meta.jsonl").write_text(json.dumps({"video_id": "street", "url": server.url("street.mp4")}) + "\n")
        after: dict[str, Path] = {}
        for script in STAGES:
            before, workdir = workdir, folder / script
            shutil.copytree(before, workdir)
            done = run(script, workdir)
            assert done.returncode == 0, done.stderr
            after[script] = workdir
        yield folder / "before", after


def test_every_stage_runs_as_a_job_with_the_settings_of_the_site(
    by_hand: tuple[Path, dict[str, Path]], slurm_cluster: Cluster, tmp_path: Path
) -> None:
    """All at once: each begins with what the stages before it have made by hand."""
    before, after = by_hand
    slurm_cluster.cancel_all()
    logs_of = {}
    for script in STAGES:
        workdir = tmp_path / script
        shutil.copytree(before, workdir)
        done = run(script, workdir, "--slurm", *SITE)
        assert done.returncode == 0, done.stderr
        found = re.fullmatch(r"submitted 1 of 1 element as job (\d+), logs in (.*)", done.stdout.splitlines()[0])
        assert found, done.stdout
        shown = slurm_cluster.ask("scontrol", "show", "job", found[1])
        assert [setting for setting in SHOWN.split(",") if setting not in shown] == [], shown
        assert "--qos=normal" in (Path(found[2]) / found[1] / f"{found[1]}_submission.sh").read_text()
        logs_of[script] = Path(found[2]) / found[1] / f"{found[1]}_0_log.err"
        before = after[script]
    slurm_cluster.wait_until_empty()
    for script in STAGES:
        assert contents(tmp_path / script) == contents(after[script]), logs_of[script].read_text()
        status = run(script, tmp_path / script, "--status")
        assert (status.returncode, status.stdout.splitlines()[-1]) == (0, "1 part: 1 done"), status.stderr
    shutil.rmtree(tmp_path / "cut_videos" / "mined_segments")  # as if killed before it wrote them
    said = run("cut_videos", tmp_path / "cut_videos", "--status").stdout.splitlines()
    assert said[-2] == "1 part: 1 done" and said[-1].startswith("not yet written: ")
