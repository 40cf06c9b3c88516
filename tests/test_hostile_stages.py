"""Thousands of damaged inputs through the real stages: a counted reason for each, nothing outside, bounded memory."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shelf
from made_tracks import fill_store

from trackverse import files, store
from trackverse.errors import RecordError
from trackverse.layout import REPO_DIR, Layout

NUM_VIDEOS = 320
NUM_LINES = 3000
NUM_RECORDS = 2000
NUM_PROGRESS = 600
PEAK_MB = 1500  # of a stage over all of them, detector and all
SECONDS = 300  # of one stage over all of them; a decoder that hangs would take longer

# The stage as it is, with a bound on its memory, and its peak told at the end. `ru_maxrss` would be that of the process
# that started it, if that was larger.
BOUNDED = """
import re, resource, runpy, sys
resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
finally:
    peak_kb = re.search("VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]
    print("peak", int(peak_kb) // 1024, file=sys.stderr)
"""


def run_stage(script: str, *argv: str | Path) -> tuple[int, str]:
    """Exit status and messages; fails if the stage crashed or its memory was not bounded."""
    command = [sys.executable, "-c", BOUNDED, str(REPO_DIR / script), *map(str, argv)]
    done = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    peak_mb = int(re.findall(r"peak (\d+)", done.stderr)[-1])
    print(f"{script}: peak {peak_mb} MB; {done.stderr.strip().splitlines()[-2]}")
    assert peak_mb < PEAK_MB
    return done.returncode, done.stderr


def damaged(data: bytes, rng: np.random.Generator, max_changes: int = 11) -> bytes:
    """The bytes with a few changed, a stretch cut out or doubled, or the end cut off; rather near the beginning."""
    body = bytearray(data)
    for _ in range(int(rng.integers(1, max_changes + 1))):
        at = int(len(body) * rng.random() ** 3)
        match rng.integers(5):
            case 0 | 1:
                body[at : at + 1] = rng.bytes(1)
            case 2:
                body[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1"])
            case 3:
                del body[at : at + int(rng.integers(1, 64))]
            case 4:
                body[at:at] = body[at : at + int(rng.integers(1, 64))]
    return bytes(body[: int(rng.integers(1, len(body) + 1))] if rng.random() < 0.1 else body)


def snapshot(folder: Path, but: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file in a folder but those below `but`."""
    paths = (path for path in sorted(folder.rglob("*")) if not path.is_relative_to(but) and not path.is_dir())
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


@pytest.fixture
def surrounded(tmp_path: Path) -> Iterator[Path]:
    """A work folder whose neighbours must stay as they are."""
    work = tmp_path / "neighbours" / "work"
    work.mkdir(parents=True)
    for name in ("passwd", "a.mp4", "videos_mp4/ab/abc.mp4", ".hidden"):
        path = tmp_path / "neighbours" / "other" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = snapshot(tmp_path, work)
    yield work
    assert snapshot(tmp_path, work) == before


SEEDS = (
    shelf.plain,
    shelf.b_frames,
    shelf.with_sound,
    shelf.late_start_matroska,
    shelf.transport_stream,
    shelf.mpeg4_avi,
)


def test_damaged_videos_through_cutting_and_tracking(
    surrounded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(5)
    layout = Layout(surrounded)
    seeds = [make(tmp_path_factory.mktemp("seeds")).read_bytes() for make in SEEDS]
    ids = [f"video-{number:05}" for number in range(NUM_VIDEOS)]
    lines = []
    for number, video_id in enumerate(ids):
        path = layout.video_path(video_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(seeds[number % len(seeds)], rng))
        clip = {"clip_id": f"{video_id}.0.mp4", "span": [0.0, 1.5]}
        lines.append(json.dumps({"video_id": video_id, "url": None, "clip": [clip]}))
    metafile = surrounded / "list.jsonl"
    metafile.write_text("\n".join(lines) + "\n")
    flags = ["--workdir", surrounded, "--min_scene_len", "0.2", "--filters", "length", "cartoon=score"]
    _, said = run_stage("cut_videos.py", "--metafile", metafile, *flags)
    accounted(said, NUM_VIDEOS)
    flags = ["--workdir", surrounded, "--clips_metafile", metafile, "--output_dir", surrounded / "tracks"]
    _, said = run_stage("parse_tracks.py", *flags, "--frame_rate", "2", "--frame_size", "96")
    accounted(said, NUM_VIDEOS)
    assert not list(surrounded.rglob(".*"))  # no temporary file, no lock


def accounted(said: str, num_items: int) -> None:
    """Every item was done or failed for a reason."""
    summary = said.strip().splitlines()[-2]
    done, failed = re.search(r"(\d+) \w+ done", summary), re.search(r"(\d+) failed \(", summary)
    assert done and failed and int(done[1]) > 0 and int(failed[1]) > 0, summary
    assert int(done[1]) + int(failed[1]) == num_items, summary


def test_damaged_metadata_through_a_stage(surrounded: Path) -> None:
    rng = np.random.default_rng(6)
    lines = []
    for number in range(NUM_LINES):
        video_id = f"video-{number:05}"
        clips = [{"clip_id": f"{video_id}.{n}.mp4", "span": ["00:00:01.000", "00:00:09.5"]} for n in range(2)]
        entry = {"video_id": video_id, "url": f"https://www.youtube.com/watch?v={video_id}", "clip": clips}
        lines.append(damaged(json.dumps(entry).encode(), rng, 2).replace(b"\n", b" ").replace(b"\0", b"\1"))
    metafile = surrounded / "list.jsonl"
    metafile.write_bytes(b"\n".join(lines))
    status, said = run_stage("cut_videos.py", "--workdir", surrounded, "--metafile", metafile)
    assert status == 1 and "video missing" in said and "bad JSON" in said and "bad line" in said


def test_damaged_records_and_progress_through_a_stage(surrounded: Path) -> None:
    """Each record in a gzip member of its own, damaged before it is packed; every fourth file's progress is, too."""
    rng = np.random.default_rng(7)
    layout = fill_store(surrounded / "tracks", {"video-00000": [1, 2, 3, 4]})
    original = gzip.decompress(layout.meta_path("video-00000").read_bytes())
    original_progress = layout.progress_path("video-00000").read_text()
    for number in range(NUM_PROGRESS):
        video_id = f"video-{number:05}"
        path, progress = layout.meta_path(video_id), layout.progress_path(video_id)
        members = original.replace(b"video-00000", video_id.encode()).splitlines()
        packed = [gzip.compress(damaged(line, rng, 2).replace(b"\n", b" ") + b"\n", mtime=0) for line in members]
        entry = json.loads(original_progress) | {"meta_bytes": sum(map(len, packed))}
        path.write_bytes(b"".join(packed))
        text = json.dumps(entry).encode()
        progress.write_bytes(text if number % 4 else damaged(text, rng, 2))
    assert 4 * NUM_PROGRESS >= NUM_RECORDS
    output = surrounded / "subsets" / "a.jsonl.gzip"
    flags = ["--tracks_dir", surrounded / "tracks", "--output_file", output, "--criterion", "random"]
    status, said = run_stage("curate_db.py", *flags, "--num_samples", "99999")
    assert status == 1 and "bad record" in said and output.exists()


def test_links_in_a_dataset_are_not_written_through(surrounded: Path, tmp_path: Path) -> None:
    """A folder from elsewhere, with links where temporary and track files will be."""

    victim = surrounded.parent / "other" / "passwd"
    path = surrounded / "tracks" / "vi" / "video-meta.jsonl.gzip"
    path.parent.mkdir(parents=True)
    files.temporary_path(path).symlink_to(victim)
    with files.atomic_write(path) as file:
        file.write(b"x")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(RecordError) as caught:
        store.append(path, 0, b"x")
    assert caught.value.reason == "a link in the way"
    shutil.rmtree(surrounded / "tracks")
