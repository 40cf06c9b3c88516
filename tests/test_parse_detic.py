"""The tracking stage with Detic, from the command line: made-up weights and a made-up classifier, the real network."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trackverse.layout import ASSETS_DIR, REPO_DIR, Layout, TracksLayout
from trackverse.store import load_embeddings, read_records

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: make detic", allow_module_level=True)

import torch
from detic_weights import made_up, made_up_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "r18.pth"
    torch.save({"model": made_up_checkpoint("r18")}, path)
    yield path
    path.unlink()  # a quarter of a gigabyte, which pytest would keep


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A work folder with the street video, and a metafile of two seconds of it."""
    path = Layout(tmp_path).video_path("street")
    path.parent.mkdir(parents=True)
    path.symlink_to(ASSETS_DIR / "demo" / "street.mp4")
    clip = {"clip_id": "street.0.mp4", "span": [3.0, 5.0]}
    (tmp_path / "part0.jsonl").write_text(json.dumps({"video_id": "street", "clip": [clip]}) + "\n")
    return tmp_path


def parse_tracks(workdir: Path, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPO_DIR / "parse_tracks.py", "--workdir", workdir, "--output_dir", workdir / "tracks"]
    command += ["--clips_metafile", workdir / "part0.jsonl", "--frame_rate", "2", "--min_track_area", "0"]
    environment = os.environ | {"TRACKVERSE_WEIGHTS": str(workdir / "weights")}
    return subprocess.run([*command, *flags], env=environment, capture_output=True, text=True, timeout=900)


def test_records_say_what_detic_saw(workdir: Path, weights: Path) -> None:
    (workdir / "weights").mkdir()
    np.save(workdir / "weights" / "coco_clip_a+cname.npy", made_up("classes", (80, 512)))
    # Made-up weights see other things in every frame: whatever two frames agree on is a track.
    loose = ["--min_track_len", "0.5", "--track_thresh", "0.1", "--new_track_margin", "0", "--match_thresh", "1"]
    done = parse_tracks(workdir, "--weights", weights, "--vocab", "coco", "--batch_size", "2", *loose)
    assert done.returncode == 0, done.stderr
    tracks = TracksLayout(workdir / "tracks")
    records = list(read_records(tracks.meta_path("street")))
    assert records
    for record in records:
        assert record.origin is not None
        assert record.origin.detector.startswith("detic sha256:")
        assert (record.origin.vocab, record.origin.fps, record.origin.video_hw) == ("coco", 2.0, (576, 768))
        assert max(record.top.label_ids) < 80  # the background is never among the classes
        assert (record.tlwh[:, 2:] > 0).all() and (record.tlwh[:, :2] + record.tlwh[:, 2:] <= (768.01, 576.01)).all()
    embeddings = load_embeddings(tracks.embeddings_path("street"))
    assert embeddings.shape == (len(records), 1024)

    again = parse_tracks(workdir, "--weights", weights, "--vocab", "coco", *loose)
    assert "1 already there: nothing to do" in again.stderr
    other = parse_tracks(workdir, *loose)  # NanoDet over Detic's tracks
    assert other.returncode == 2
    assert "made with detector" in other.stderr


WRONG = {
    "no classifier for the vocabulary": (["--vocab", "lvis"], "python -m trackverse.weights get lvis-classifier"),
    "not a checkpoint": (["--weights", "part0.jsonl", "--vocab", "coco"], "part0.jsonl"),
    "no text tower for a vocabulary of one's own": (["--vocab", "mine.txt"], "python -m trackverse.weights get clip"),
    "an empty line in the vocabulary": (["--vocab", "gap.txt"], "gap.txt, line 2: no class name"),
    "another detector's embedding": (["--vocab", "mine.txt", "--embedding", "hsv_stripes"], "--embedding hsv_stripes"),
}


@pytest.mark.parametrize("flags, said", WRONG.values(), ids=WRONG)
def test_what_can_t_work_is_one_line_and_writes_nothing(
    flags: list[str], said: str, workdir: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workdir)
    Path("mine.txt").write_text("kettle\nteapot\n")
    Path("gap.txt").write_text("kettle\n\nteapot\n")
    Path("weights").mkdir()
    np.save("weights/coco_clip_a+cname.npy", made_up("classes", (80, 512)))
    done = parse_tracks(
        workdir, "--detector", "detic", *([] if "--weights" in flags else ["--weights", weights]), *flags
    )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert said in line and line.startswith("error: ")
    assert not (workdir / "tracks").exists()


def test_a_network_that_overflows_is_one_line_and_writes_nothing(workdir: Path) -> None:
    """Every weight is finite, and what becomes of a frame isn't."""
    checkpoint = made_up_checkpoint("r18")
    checkpoint["backbone.fpn_output4.weight"].fill_(3e38)
    torch.save({"model": checkpoint}, workdir / "huge.pth")
    (workdir / "weights").mkdir()
    np.save(workdir / "weights" / "coco_clip_a+cname.npy", made_up("classes", (80, 512)))
    done = parse_tracks(workdir, "--detector", "detic", "--weights", workdir / "huge.pth", "--vocab", "coco")
    (workdir / "huge.pth").unlink()
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("error: ") and "huge.pth: the network's numbers are not finite" in line
    assert [path for path in (workdir / "tracks").rglob("*") if path.is_file()] == []
