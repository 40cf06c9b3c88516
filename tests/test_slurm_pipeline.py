"""The real tracking stage as a real Slurm array, over parts of the demo's street video."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster

from trackverse.layout import ASSETS_DIR, REPO_DIR, Layout
from trackverse.store import read_records

SPANS = {"street-a": (0.0, 4.0), "street-b": (10.0, 14.0)}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A work folder with two videos of the street, and a metafile part for each."""
    layout = Layout(tmp_path / "work dir")
    for part, (video_id, (start_s, end_s)) in enumerate(SPANS.items()):
        layout.video_path(video_id).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ASSETS_DIR / "demo" / "street.mp4", layout.video_path(video_id))
        clip = {"clip_id": f"{video_id}.0.mp4", "span": [start_s, end_s]}
        part_path = layout.mined_part_path("coco", part)
        part_path.parent.mkdir(parents=True, exist_ok=True)
        part_path.write_text(json.dumps({"video_id": video_id, "clip": [clip]}) + "\n")
    return layout.workdir


def parse_tracks(workdir: Path, output_dir: str, *flags: str) -> subprocess.CompletedProcess[str]:
    parts = [os.path.relpath(path, workdir) for path in sorted((workdir / "mined_segments" / "coco").iterdir())]
    command = [
        sys.executable,
        str(REPO_DIR / "parse_tracks.py"),
        "--output_dir",
        output_dir,
        "--clips_metafile",
        *parts,
    ]
    command += ["--vocab", "coco", "--min_track_area", "0", "--min_track_len", "2", *flags]
    environment = os.environ | {"TRACKVERSE_DB": str(workdir)}
    return subprocess.run(command, cwd=workdir, env=environment, capture_output=True, text=True, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("st/*")}


def test_an_array_over_the_parts_gives_what_a_run_by_hand_gives(workdir: Path, slurm_cluster: Cluster) -> None:
    slurm_cluster.cancel_all()
    submitted = parse_tracks(workdir, "by slurm", "--slurm", "--cpus", "1", "--mem", "1G", "--max_parallel", "2")
    assert submitted.returncode == 0, submitted.stderr
    assert "submitted 2 of 2 elements" in submitted.stdout
    slurm_cluster.wait_until_empty(timeout_s=120)
    logs = "\n".join(path.read_text() for path in (workdir / "by slurm" / "slurm_logs").glob("*/*_log.err"))
    assert logs.count("1 clips done") == 2, logs

    by_hand = parse_tracks(workdir, "by hand")
    assert by_hand.returncode == 0, by_hand.stderr
    assert contents(workdir / "by slurm") == contents(workdir / "by hand")
    people = [
        record
        for path in (workdir / "by slurm").glob("st/*-meta.jsonl.gzip")
        for record in read_records(path)
        if record.top.labels[0] == "person"
    ]
    assert len(people) >= 4

    again = parse_tracks(workdir, "by slurm")
    assert again.returncode == 0
    assert "2 already there: nothing to do" in again.stderr
