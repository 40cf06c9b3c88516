"""A takedown: nothing of the video is left, nothing of the others is touched, whenever it is killed."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_tracks import fill_store

import curate_db
import cut_videos
import download_videos
import parse_tracks
from trackverse import files, forget, jsonl, report, scenes, split, stage
from trackverse.layout import REPO_DIR, Layout, blurred_beside, failed_path, lock_path, sidecar_beside
from trackverse.scenes import CutConfig, Segment, VideoScenes
from trackverse.store import read_lines
from trackverse.types import Clip
from trackverse.worklist import load_failures

GONE = "demo"  # beside it are ids that begin or end with it
OTHERS = ["demo-street", "street-demo", "demo2", "-abcDEF_123"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with everything that the stages make, of five videos. The videos themselves are a few bytes."""
    layout = Layout(tmp_path_factory.mktemp("data") / "work folder")
    ids = [GONE, *OTHERS]
    fill_store(layout.workdir / "tracks_meta" / "coco", {video_id: [1, 2, 2] for video_id in ids})
    for video_id in ids:
        write_files(layout, video_id)
    scenes.write_mined_parts(layout, "coco", num_parts=2)
    tracks_dir = str(layout.workdir / "tracks_meta" / "coco")
    for name, flags in {
        "all": ["--criterion", "random", "--num_samples", "99"],
        "videos": ["--criterion", "video_balanced", "--num_samples_per_video", "5"],
    }.items():
        output = layout.workdir / "tracks_subsets" / "coco" / f"{name}.jsonl.gzip"
        argv = ["--tracks_dir", tracks_dir, "--output_file", str(output), *flags]
        assert run(curate_db, argv, output.parent) == 0
    assert split.main(["--tracks_dir", tracks_dir, "--output_dir", str(layout.workdir / "splits" / "coco")]) == 0
    for page in (layout.workdir / "tracks.html", layout.workdir / "tracks_meta" / "coco" / "page.html"):
        report.main(["--tracks_dir", tracks_dir, "--videos_dir", str(layout.videos_dir), "--output_file", str(page)])
    return layout.workdir


def run(script: object, argv: list[str], output_dir: Path) -> int:
    return stage.start(
        script.make_parser(), script.work, what="items", output_dir=lambda args: output_dir, argv=argv, spread=False
    )  # type: ignore[attr-defined]


def write_files(layout: Layout, video_id: str) -> None:
    """What the stages write for one video, with its id in it."""
    tracks_dir = layout.workdir / "tracks_meta" / "coco"
    clips_dir, objects_dir = layout.clips_video_dir(video_id), layout.object_tracks_video_dir(video_id)
    for path in (
        layout.video_path(video_id),
        layout.provenance_path(video_id),
        layout.blurred_path(video_id),
        blurred_beside(layout.video_path(video_id)),
        files.temporary_path(blurred_beside(layout.video_path(video_id))),
        files.temporary_path(layout.video_path(video_id)),
        files.temporary_path(layout.video_path(video_id)).with_suffix("") / "137.mp4.part",
        clips_dir / f"{video_id}.0.mp4",
        objects_dir / f"{video_id}.0.txt",
        layout.workdir / "track_clips" / video_id[:2] / f"{video_id}-person-0123456789ab.mp4",
        layout.workdir / "slurm_logs" / f"{len(video_id)}" / "1_0_log.out",
        layout.workdir / "detections" / video_id / "seqinfo.ini",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"of {video_id}\n")
    result = layout.workdir / "results" / f"{video_id}.txt"
    result.parent.mkdir(exist_ok=True)
    result.write_text("1,1,10.00,20.00,5.00,5.00,0.9,-1,-1,-1\n")
    for path in (layout.video_path(video_id), objects_dir / f"{video_id}.0.jsonl.gzip"):
        if not lock_path(path).is_symlink():
            lock_path(path).symlink_to(f"{files._place()}:999999999:1:0123abcd")  # a claim whose holder is dead
    clip = Clip(video_id, f"{video_id}.0.mp4", 0.0, 4.0)
    cut = VideoScenes(video_id, None, 4.0, CutConfig(), None, "copy", ((0.0, 4.0),), (Segment(clip),))
    scenes.save(layout.scenes_path(video_id), cut)
    for folder, key in ((layout.videos_dir, video_id), (tracks_dir, clip.clip_id)):
        message = f"/a/{video_id}.mp4: as bad as {GONE}, /x/{GONE}-meta.jsonl.gzip and demo-street"
        entry = {"key": key, "at": "now", "reason": "bad", "message": message, "retry": False}
        files.append_line(failed_path(folder), jsonl.dump(entry))
    blurred = {"key": f"{video_id[:2]}/{video_id}.mp4", "at": "now", "reason": "bad", "message": "", "retry": False}
    files.append_line(failed_path(layout.blurred_dir), jsonl.dump(blurred))


@pytest.fixture
def work(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "work folder", symlinks=True))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path, inflated; the time of a tombstone left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            name = str(path.relative_to(folder))
            found[name] = b"" if name.startswith("forgotten/") else data
    return found


def traces(folder: Path, video_id: str) -> Iterator[str]:
    name = forget.Name(video_id).pattern
    for path, data in contents(folder).items():
        if not path.startswith("forgotten/") and (name.search(path.encode()) or name.search(data)):
            yield path
    for path in folder.rglob(f"*{video_id}*"):
        if name.search(str(path.relative_to(folder)).encode()) and "forgotten" not in path.parts:
            yield str(path)


def test_a_subset_of_the_video_alone_is_left_as_a_gzip_file_of_nothing(work: Path) -> None:
    folder = work / "tracks_subsets" / "coco"
    path = folder / "alone.jsonl.gzip"
    lines = [line for _, line in read_lines(folder / "all.jsonl.gzip") if b'"yid":"demo"' in line]
    path.write_bytes(b"".join(map(jsonl.gzip_member, lines)))
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    done = subprocess.run(["gzip", "-dc"], input=path.read_bytes(), capture_output=True)
    assert lines and (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nothing_of_the_video_is_left_and_nothing_of_the_others_is_gone(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(work)
    assert len(list(traces(work, GONE))) > 20
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    said = capsys.readouterr().out
    assert list(traces(work, GONE)) == []
    after = contents(work)
    for name, data in before.items():
        anew = ("failed.jsonl", ".html", "index.parquet")
        if name.startswith(("tracks_subsets", "mined_segments", "slurm_logs", "splits")) or name.endswith(anew):
            continue
        assert (name in after) == (not forget.Name(GONE).pattern.search(name.encode())), name
        assert after.get(name, data) == data
        told = any(f"{work / part}: removed" in said for part in [name, *map(str, Path(name).parents)])
        assert name in after or told or name.endswith(".lock")
    for name in ("all", "videos"):
        path = work / "tracks_subsets" / "coco" / f"{name}.jsonl.gzip"
        kept = [line for line in before[str(path.relative_to(work))].splitlines() if b'"yid":"demo"' not in line]
        assert [line for _, line in read_lines(path)] == kept and len(kept) == 12
        sidecar = json.loads(sidecar_beside(path).read_text())
        assert (sidecar["num_chosen"], sidecar["num_forgotten"]) == (12, 3)
        assert sum(numbers["chosen"] for numbers in sidecar["classes"].values()) == 12
        assert f"{path}: 3 lines of 15 taken out" in said
    parts = [line for path in (work / "mined_segments").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["video_id"] for line in parts) == sorted(OTHERS)
    lists = {name: (work / "splits" / "coco" / f"{name}.txt").read_text().split() for name in split.NAMES}
    told = json.loads((work / "splits" / "coco" / "split.json").read_text())
    assert sorted(video_id for one in lists.values() for video_id in one) == sorted(OTHERS)
    assert {name: told[name]["videos"] for name in lists} == {name: len(one) for name, one in lists.items()}
    failures = load_failures(failed_path(work / "videos_mp4"))
    assert set(failures) == set(OTHERS)
    assert failures["demo2"].message == "/a/demo2.mp4: as bad as xxxx, /x/xxxx-meta.jsonl.gzip and demo-street"
    assert set(load_failures(failed_path(work / "videos_blurred"))) == {f"{one[:2]}/{one}.mp4" for one in OTHERS}


def test_again_it_finds_nothing_and_changes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    before = contents(work)
    capsys.readouterr()
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    assert contents(work) == before
    assert capsys.readouterr().out.splitlines() == [f"{Layout(work).tombstone_path(GONE)}: is there already"]


def test_dry_run_says_the_same_and_touches_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(work)
    assert forget.main([GONE, "--workdir", str(work), "--dry_run"]) == 0
    planned = {line for line in capsys.readouterr().out.splitlines() if "corrected" not in line}
    assert contents(work) == before
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    done = {line for line in capsys.readouterr().out.splitlines() if "corrected" not in line}
    assert {line for line in planned if ".lock" not in line} == {line for line in done if ".lock" not in line}


# In a child that forks for each attempt; n is the change of a file at which it is killed, counted by the interpreter.
KILLER = """
import os, shutil, signal, sys
from pathlib import Path
from trackverse import forget
CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate"}
source, target, gone = sys.argv[1:]
left = None
def watch(event, args):
    global left
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if left is not None and (event in CHANGES or writes):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
pwrite = os.pwrite
def watched_pwrite(*args):
    watch("os.remove", ())
    return pwrite(*args)
os.pwrite = watched_pwrite
sys.addaudithook(watch)
step = 0
while True:
    work = Path(target, str(step), "work folder")
    shutil.copytree(source, work, symlinks=True)
    pid = os.fork()
    if pid == 0:
        sys.stdout = open(os.devnull, "w")
        left = step
        os._exit(forget.main([gone, "--workdir", str(work)]))
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        sys.stdout = open(os.devnull, "w")
        os._exit(forget.main([gone, "--workdir", str(work)]))
    assert os.waitpid(pid, 0)[1] == 0
    step += 1
print(step)
"""


def test_killed_at_every_step_the_same_command_ends_the_same(dataset: Path, work: Path, tmp_path: Path) -> None:
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    command = [sys.executable, "-c", KILLER, str(dataset), str(tmp_path / "killed"), GONE]
    done = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    num_kills = int(done.stdout)
    print(f"{num_kills} kills")
    assert num_kills > 40
    undisturbed = contents(work)
    for step in range(num_kills):
        assert contents(tmp_path / "killed" / str(step) / "work folder") == undisturbed, step


def test_no_stage_works_on_it_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even when the files come back, from a backup."""
    layout = Layout(work)
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    write_files(layout, GONE)
    tracks_dir = work / "tracks_meta" / "coco"
    fill_store(tracks_dir, {GONE: [1]})
    metafile = work.parent / "list.jsonl"
    span = {"clip_id": f"{GONE}.0.mp4", "span": [0, 4]}
    metafile.write_text(json.dumps({"video_id": GONE, "url": "https://localhost/x.mp4", "clip": [span]}) + "\n")
    common = ["--workdir", str(work)]
    for script, argv in {
        download_videos: [*common, "--metafile", str(metafile)],
        cut_videos: [*common, "--metafile", str(metafile)],
        parse_tracks: [*common, "--clips_metafile", str(metafile), "--output_dir", str(tracks_dir)],
    }.items():
        before = contents(work)
        assert run(script, argv, work / "out") == 0
        assert "1 dropped (1 forgotten on request)" in capsys.readouterr().err
        assert contents(work) == before
    scenes.write_mined_parts(layout, "coco", num_parts=1)
    assert '"demo"' not in layout.mined_part_path("coco", 0).read_text()
    output = work / "tracks_subsets" / "coco" / "new.jsonl.gzip"
    argv = [
        "--tracks_dir",
        str(tracks_dir),
        "--output_file",
        str(output),
        "--criterion",
        "random",
        "--num_samples",
        "99",
    ]
    assert run(curate_db, argv, output.parent) == 0
    assert {json.loads(line)["yid"] for _, line in read_lines(output)} == set(OTHERS)


def test_the_other_two_stages_honour_it_too(work: Path) -> None:
    """In processes of their own, as they find their videos by themselves."""
    assert forget.main([*OTHERS, GONE, "--workdir", str(work)]) == 0
    layout = Layout(work)
    write_files(layout, GONE)
    blurred = layout.blurred_path(GONE)
    blurred.unlink()
    for script in ("gdpr_blur_faces.py", "track_objects.py"):
        command = [sys.executable, str(REPO_DIR / script), "--workdir", str(work)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "1 dropped (1 forgotten on request)" in done.stderr
    assert not blurred.exists()


def test_what_is_worked_on_is_waited_for(work: Path) -> None:
    """A download that began before the tombstone ends after it, and what it brought goes too."""
    layout = Layout(work)
    code = """
import sys, time
from pathlib import Path
from trackverse import files
video, lock = map(Path, sys.argv[1:])
with files.claim(lock):
    print("claimed", flush=True)
    sys.stdin.readline()
    video.write_text("late")
"""
    path = layout.video_path(GONE)
    command = [sys.executable, "-c", code, str(path), str(lock_path(path))]
    with subprocess.Popen(command, cwd=REPO_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout and holder.stdout.readline() == "claimed\n"
        command = [sys.executable, "-m", "trackverse.forget", GONE, "--workdir", str(work)]
        with subprocess.Popen(command, cwd=REPO_DIR, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
            assert run.stderr and any("waiting for the process" in line for line in run.stderr)
            holder.stdin.write("\n")
            holder.stdin.flush()
            run.communicate()
            assert run.returncode == 0
    assert list(traces(work, GONE)) == []


def test_links_are_removed_and_what_they_lead_to_is_not(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "a.mp4").write_text("mine")
    layout = Layout(work)
    shutil.rmtree(layout.clips_video_dir(GONE))
    layout.clips_video_dir(GONE).symlink_to(precious)
    layout.video_path(GONE).unlink()
    layout.video_path(GONE).symlink_to(precious / "a.mp4")
    outside = tmp_path / "outside" / f"{GONE}.mp4"
    outside.parent.mkdir()
    outside.write_text("mine")
    (work / "linked").mkdir()
    (work / "linked" / GONE[:2]).symlink_to(outside.parent)
    assert forget.main([GONE, "--workdir", str(work)]) == 1
    assert f"{work / 'linked' / GONE[:2] / GONE}.mp4: NOT touched" in capsys.readouterr().err
    assert (precious / "a.mp4").read_text() == outside.read_text() == "mine"
    assert not layout.clips_video_dir(GONE).is_symlink() and not layout.video_path(GONE).is_symlink()


def test_tracks_and_subsets_elsewhere_are_named(work: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(work / "tracks_subsets" / "coco", elsewhere / "subsets")
    shutil.move(work / "tracks_meta" / "coco", elsewhere / "tracks")
    shutil.move(elsewhere / "tracks" / "index.parquet", elsewhere / "kept elsewhere.parquet")
    assert forget.main([GONE, "--workdir", str(work), "--also", str(elsewhere)]) == 0
    assert list(traces(elsewhere, GONE)) == list(traces(work, GONE)) == []
    assert not (elsewhere / "kept elsewhere.parquet").exists()


def test_tracks_in_a_file_of_several_videos(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As others publish them. Neither choosing, nor splitting, nor a page shows the video, before they are rewritten
    and after."""
    tracks_dir = work / "tracks_meta" / "all"
    merged = tracks_dir / "pa" / "part0-meta.jsonl.gzip"
    merged.parent.mkdir(parents=True)
    paths = sorted((work / "tracks_meta" / "coco").glob("*/*-meta.jsonl.gzip"))
    merged.write_bytes(b"".join(path.read_bytes() for path in paths))
    whole = merged.read_bytes()
    subset = work / "tracks_subsets" / "all" / "new.jsonl.gzip"
    argv = ["--tracks_dir", str(tracks_dir), "--output_file", str(subset), "--criterion", "random"]

    def videos_everywhere() -> list[set[str]]:
        assert run(curate_db, [*argv, "--num_samples", "99", "--overwrite"], subset.parent) == 0
        assert split.main(["--tracks_dir", str(tracks_dir), "--output_dir", str(work / "splits" / "all")]) == 0
        page = work / "all.html"
        report.main(["--tracks_dir", str(tracks_dir), "--videos_dir", str(work), "--output_file", str(page)])
        lists = (work / "splits" / "all").glob("*.txt")
        chosen = {json.loads(line)["yid"] for _, line in read_lines(subset)}
        shown = {video_id for video_id in [GONE, *OTHERS] if f"<bdi>{video_id} #" in page.read_text()}
        return [chosen, {video_id for path in lists for video_id in path.read_text().split()}, shown]

    assert videos_everywhere() == [{GONE, *OTHERS}] * 3
    assert forget.main([GONE, "--workdir", str(work)]) == 0
    assert f"{merged}: 3 lines of 15 taken out" in capsys.readouterr().out
    assert list(traces(work, GONE)) == []
    assert videos_everywhere() == [set(OTHERS)] * 3
    merged.write_bytes(whole)  # from a backup
    assert videos_everywhere() == [set(OTHERS)] * 3


@pytest.mark.parametrize("video_id", ["-abcDEF_123", "https://youtu.be/-abcDEF_123", "--workdir_x"])
def test_ids_are_taken_as_they_are(work: Path, video_id: str) -> None:
    assert forget.main([video_id, "--workdir", str(work)]) == 0
    assert Layout(work).is_forgotten(video_id[-11:])
    assert list(traces(work, video_id[-11:])) == []


@pytest.mark.parametrize("video_id", ["../demo", "/etc/passwd", "", "a\nb", ".", "x" * 300])
def test_what_is_no_id_is_refused(work: Path, video_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(work)
    assert forget.main([video_id, "--workdir", str(work)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert contents(work) == before


def test_a_subset_that_cannot_be_read_is_told_and_the_rest_is_done(work: Path) -> None:
    path = work / "tracks_subsets" / "coco" / "all.jsonl.gzip"
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert forget.main([GONE, "--workdir", str(work)]) == 1
    assert path.read_bytes() == torn
    path.unlink()
    sidecar_beside(path).unlink()
    assert list(traces(work, GONE)) == []
