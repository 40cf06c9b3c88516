"""The doctor on folders that are really damaged: what it finds, what it repairs, and that it loses nothing."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_tracks
import numpy as np
import pytest
from head_tricks import members_of, with_head_of

from trackverse import cli, doctor, files, jsonl, scenes, split
from trackverse.layout import Layout, TracksLayout, blurred_beside
from trackverse.scenes import CutConfig, Segment, VideoScenes
from trackverse.store import load_embeddings, read_lines, read_records
from trackverse.types import Clip

VIDEO_ID = "video000001"


def write_subset(path: Path, meta_paths: list[Path]) -> None:
    """The first record of each track file, as a subset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(jsonl.gzip_member(next(read_lines(one))[1]) for one in meta_paths))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which nothing is wrong: two videos with clips, segments, tracks and a subset."""
    workdir = tmp_path_factory.mktemp("sound")
    layout = Layout(workdir)
    tracks = made_tracks.fill_store(workdir / "tracks_meta" / "coco", {VIDEO_ID: [0, 1, 2], "-ideo000002": [3, 4]})
    for video_id in (VIDEO_ID, "-ideo000002"):
        clip = Clip(video_id, f"{video_id}.0.mp4", 0.0, 5.0)
        for path in (layout.video_path(video_id), layout.clip_path(video_id, clip.clip_id)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"not looked into")
        layout.provenance_path(video_id).write_text("{}\n")
        blurred_beside(layout.video_path(video_id)).write_text("{}\n")
        scenes.save(
            layout.scenes_path(video_id),
            VideoScenes(video_id, None, 5.0, CutConfig(), None, "copy", ((0.0, 5.0),), (Segment(clip),)),
        )
    scenes.write_mined_parts(layout, "coco", 2)
    subset = workdir / "tracks_subsets" / "coco" / "all.jsonl.gzip"
    write_subset(subset, tracks.meta_paths())
    subset.with_name("all.json").write_text("{}\n")
    assert split.main(["--tracks_dir", str(tracks.output_dir), "--output_dir", str(workdir / "splits")]) == 0
    return workdir


@pytest.fixture
def workdir(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "work")


def tracks_of(workdir: Path) -> TracksLayout:
    return TracksLayout(workdir / "tracks_meta" / "coco")


def meta(workdir: Path) -> Path:
    return tracks_of(workdir).meta_path(VIDEO_ID)


def progress(workdir: Path) -> Path:
    return tracks_of(workdir).progress_path(VIDEO_ID)


def change_progress(workdir: Path, **values: object) -> None:
    path = progress(workdir)
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def damage_inside(path: Path) -> None:
    """In the checksum, so that nothing but that tells."""
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(data)


def repeat_first_record(workdir: Path) -> None:
    """A track twice, and counted twice: as a store that doesn't know what it wrote would leave it."""
    lines = gzip.decompress(meta(workdir).read_bytes()).splitlines(keepends=True)
    data = gzip.compress(b"".join([*lines, lines[0]]))
    meta(workdir).write_bytes(data)
    change_progress(workdir, num_tracks=len(lines) + 1, meta_bytes=len(data))


def swap_heads(workdir: Path) -> None:
    """Two records that are indexed as each other, with checksums that fit."""
    first, second, third = members_of(meta(workdir).read_bytes())
    meta(workdir).write_bytes(with_head_of(first, second) + with_head_of(second, first) + third)


def leave_claim(workdir: Path) -> None:
    """A real process is killed while it holds a claim."""
    code = "import os, sys, pathlib; from trackverse import files\n"
    code += "with files.claim(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    lock = meta(workdir).with_name(".x.lock")
    assert subprocess.run([sys.executable, "-c", code, lock]).returncode == -signal.SIGKILL
    assert lock.is_symlink()


def add_rows(workdir: Path) -> None:
    path = tracks_of(workdir).embeddings_path(VIDEO_ID)
    np.save(path, np.concatenate([load_embeddings(path)] * 2))


def drop_rows(workdir: Path) -> None:
    path = tracks_of(workdir).embeddings_path(VIDEO_ID)
    np.save(path, load_embeddings(path)[:1])


def list_twice(workdir: Path) -> None:
    folder = workdir / "mined_segments" / "coco"
    shutil.copy(folder / "part0.jsonl", folder / "part2.jsonl")


def pick_twice(workdir: Path) -> None:
    write_subset(workdir / "tracks_subsets" / "coco" / "all.jsonl.gzip", [meta(workdir)] * 2)


def copy_to_other_folder(workdir: Path) -> None:
    other = tracks_of(workdir).output_dir / "xx"
    other.mkdir()
    for path in (meta(workdir), progress(workdir), tracks_of(workdir).embeddings_path(VIDEO_ID)):
        shutil.copy(path, other)


def write(path: Path, data: bytes = b"half") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def replace_by_folder(workdir: Path) -> None:
    path = workdir / "tracks_subsets" / "coco" / "all.json"
    path.unlink()
    path.mkdir()


# finding: (how it comes about, whether it is repaired)
DAMAGES: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "a cut track file": ("torn gzip", lambda w: os.truncate(meta(w), meta(w).stat().st_size - 1), False),
    "a damaged track file": ("torn gzip", lambda w: damage_inside(meta(w)), False),
    "bytes never committed": ("uncommitted end", lambda w: add(meta(w), b"\x1f\x8bhalf a member"), True),
    "rows never committed": ("uncommitted end", add_rows, True),
    "rows missing": ("embeddings missing", drop_rows, False),
    "a wrong count": ("records against progress", lambda w: change_progress(w, num_tracks=7), False),
    "half a progress file": ("bad JSON", lambda w: os.truncate(progress(w), 20), False),
    "of a later version": ("newer version", lambda w: change_progress(w, schema="trackverse/2"), False),
    "no progress file": ("tracks without progress", lambda w: progress(w).unlink(), False),
    "no track file": ("orphan", lambda w: meta(w).unlink(), False),
    "a track twice": ("track id twice in a file", repeat_first_record, False),
    "heads of other records": ("heads against records", swap_heads, False),
    "a video twice": ("video twice", copy_to_other_folder, False),
    "no provenance": ("video without provenance", lambda w: Layout(w).provenance_path(VIDEO_ID).unlink(), False),
    "no clip": ("clip missing", lambda w: Layout(w).clip_path(VIDEO_ID, f"{VIDEO_ID}.0.mp4").unlink(), False),
    "a clip too many": ("orphan", lambda w: write(Layout(w).clip_path(VIDEO_ID, f"{VIDEO_ID}.9.mp4")), False),
    "no scenes file": ("orphan", lambda w: Layout(w).scenes_path(VIDEO_ID).unlink(), False),
    "no video that was blurred": ("orphan", lambda w: write(blurred_beside(w / "faces" / "a.b.mp4"), b"{}\n"), False),
    "half a scenes file": ("bad JSON", lambda w: os.truncate(Layout(w).scenes_path(VIDEO_ID), 30), False),
    "a segment twice": ("segment twice", list_twice, False),
    "a subset without its file": (
        "subset without its JSON file",
        lambda w: (w / "tracks_subsets" / "coco" / "all.json").unlink(),
        False,
    ),
    "a torn subset": ("torn gzip", lambda w: os.truncate(w / "tracks_subsets" / "coco" / "all.jsonl.gzip", 99), False),
    "a subset's track twice": ("track twice in a subset", pick_twice, False),
    "a damaged index": ("damaged index", lambda w: os.truncate(tracks_of(w).index_path, 999), True),
    "a split without its file": ("split not finished", lambda w: (w / "splits" / "split.json").unlink(), False),
    "half a split": ("split not finished", lambda w: (w / "splits" / "val.txt").unlink(), False),
    "a video on two sides": (
        "video on two sides of a split",
        lambda w: shutil.copy(w / "splits" / "train.txt", w / "splits" / "val.txt"),
        False,
    ),
    "a folder in place of a subset's file": ("subset without its JSON file", replace_by_folder, False),
    "a torn line": ("torn line", lambda w: write(w / "videos_mp4" / "failed.jsonl", b'{"key":"a"}\n{"ke'), True),
    "an unfinished file": ("unfinished file", lambda w: write(w / "videos_mp4" / "vi" / ".x.tmp.mp4"), True),
    "a partial download": ("unfinished file", lambda w: write(w / "videos_mp4" / "vi" / ".x.tmp" / "1.part"), True),
    "a dead claim": ("claim of a killed process", leave_claim, True),
}


def examine(workdir: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    status = doctor.main([str(workdir), *flags])
    return status, capsys.readouterr().out


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_nothing_is_wrong_with_a_sound_folder(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(workdir)
    assert examine(workdir, capsys, "--fix") == (0, f"{workdir}: nothing wrong\n")
    assert contents(workdir) == before
    assert examine(workdir / "tracks_meta" / "coco", capsys)[0] == 0  # any folder in it will do


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_and_repaired_if_nothing_is_lost_by_it(
    damage: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what, do, is_repaired = DAMAGES[damage]
    do(workdir)
    before = contents(workdir)
    status, said = examine(workdir, capsys)
    assert status == 1
    assert f"\n{what} " in said and f"{what}: " in said, said
    assert contents(workdir) == before  # looking changes nothing

    status, said = examine(workdir, capsys, "--fix")
    assert status == (0 if is_repaired else 1)
    if is_repaired:
        assert ": repaired" in said
        assert examine(workdir, capsys) == (0, f"{workdir}: nothing wrong\n")
        assert len(list(read_records(meta(workdir)))) == 3
    else:
        assert contents(workdir) == before


def test_a_video_without_tracks_is_sound_and_what_was_never_committed_of_it_is_cut_off(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made_tracks.fill_store(tracks_of(workdir).output_dir, {"video000003": []}).meta_path("video000003")
    empty = path.read_bytes()
    assert gzip.decompress(empty) == b"" != empty
    assert examine(workdir, capsys) == (0, f"{workdir}: nothing wrong\n")
    path.write_bytes(jsonl.gzip_member(b"{}"))
    status, said = examine(workdir, capsys, "--fix")
    assert status == 0 and "uncommitted end: " in said
    assert path.read_bytes() == empty


def test_what_is_being_written_is_left_alone(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workdir / "videos_mp4" / "vi"
    write(folder / ".x.tmp.mp4")
    with files.claim(folder / ".x.mp4.lock"):
        status, said = examine(workdir, capsys, "--fix")
    assert status == 1 and "claimed: " in said and "perhaps still being written" in said
    assert (folder / ".x.tmp.mp4").exists()


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_as_a_command(workdir: Path) -> None:
    argv = [sys.executable, "-m", "trackverse.doctor", workdir]
    environment = {key: value for key, value in os.environ.items() if key != cli.WORKDIR_VARIABLE}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
