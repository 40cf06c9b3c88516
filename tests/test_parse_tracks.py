"""parse_tracks.py and track_objects.py as a user runs them: real processes, the real detector, a real street."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from killed_script import run_killed

from trackverse import cli, scenes
from trackverse.boxes import iou, tlwh_to_xyxy
from trackverse.layout import ASSETS_DIR, REPO_DIR, Layout, TracksLayout
from trackverse.records import TrackRecord
from trackverse.scenes import CutConfig, Segment, VideoScenes
from trackverse.store import load_embeddings, read_records
from trackverse.types import Clip
from trackverse.video import cut_clip, probe

STREET = ASSETS_DIR / "demo" / "street.mp4"
VIDEO_ID = "StreetDemo1"
SPANS = [(4.0, 6.0), (6.0, 8.0), (8.5, 10.0)]
# Small boxes and short segments, so that there is something to keep; few frames, so that it is quick.
QUICK = ("--min_track_area", "0", "--min_track_len", "1", "--frame_rate", "5")
SCRIPTS = [
    "download_videos.py",
    "cut_videos.py",
    "gdpr_blur_faces.py",
    "parse_tracks.py",
    "track_objects.py",
    "curate_db.py",
]


def command(script: str, *args: object) -> list[str]:
    return [sys.executable, str(REPO_DIR / script), *map(str, args)]


def environment(**variables: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != cli.WORKDIR_VARIABLE} | variables


def run(script: str, *args: object, status: int = 0, **variables: str) -> str:
    """What a script says on stderr; its exit status must be `status`, and no traceback may come of it."""
    done = subprocess.run(command(script, *args), capture_output=True, text=True, env=environment(**variables))
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    return done.stderr


def add_video(workdir: Path, video_id: str = VIDEO_ID) -> Path:
    path = Layout(workdir).video_path(video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(STREET, path)
    return path


def write_metafile(path: Path, videos: dict[str, list[tuple[float, float]]]) -> Path:
    """Segments as cut_videos.py lists them."""
    lines = [
        {"video_id": video_id, "clip": [{"clip_id": f"{video_id}.{n}.mp4", "span": s} for n, s in enumerate(spans)]}
        for video_id, spans in videos.items()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a blank in its name: the street video, and a part of two segments that touch and one apart."""
    folder = tmp_path_factory.mktemp("trackverse db")
    add_video(folder)
    write_metafile(folder / "part0.jsonl", {VIDEO_ID: SPANS})
    return folder


def parse(workdir: Path, output_dir: Path, *more: object, part: Path | None = None, status: int = 0) -> str:
    metafile = part or workdir / "part0.jsonl"
    where = ("--workdir", workdir, "--clips_metafile", metafile, "--output_dir", output_dir)
    return run("parse_tracks.py", *where, *QUICK, *more, status=status)


@pytest.fixture(scope="module")
def undisturbed(workdir: Path) -> Path:
    """The output of one run that nothing disturbed."""
    output_dir = workdir / "tracks_meta" / "coco"
    assert "3 clips done" in parse(workdir, output_dir)
    return output_dir


def records_in(output_dir: Path, video_id: str = VIDEO_ID) -> list[TrackRecord]:
    return list(read_records(TracksLayout(output_dir).meta_path(video_id)))


# ---- what comes out


def test_every_segment_has_its_tracks_and_nothing_else_is_left(undisturbed: Path) -> None:
    assert sorted(contents(undisturbed)) == [
        f"St/{VIDEO_ID}-embeddings.npy",
        f"St/{VIDEO_ID}-meta.jsonl.gzip",
        f"St/{VIDEO_ID}-motion.npy",
        f"St/{VIDEO_ID}-progress.json",
    ]
    records = records_in(undisturbed)
    assert [record.track_id for record in records] == list(range(len(records)))
    by_clip = {record.origin.clip_id: 0 for record in records if record.origin}
    assert list(by_clip) == [f"{VIDEO_ID}.{n}.mp4" for n in range(3)]
    progress = json.loads((undisturbed / "St" / f"{VIDEO_ID}-progress.json").read_text())
    assert progress["segments_complete"] == [list(span) for span in SPANS]
    assert progress["num_tracks"] == len(records)


def test_records_hold_what_their_format_says(undisturbed: Path) -> None:
    records = records_in(undisturbed)
    for record in records:
        assert record.origin is not None and record.frames is not None
        start_s, end_s = SPANS[int(record.origin.clip_id.split(".")[1])]
        assert start_s <= record.times_s[0] and record.times_s[-1] < end_s
        assert record.times_s[-1] - record.times_s[0] >= 1 - 1e-6
        assert (np.diff(record.times_s) > 0.19).all()
        assert record.origin.video_hw == (576, 768)
        left, top, right, bottom = tlwh_to_xyxy(record.tlwh).T
        assert ((left >= 0) & (top >= 0) & (right <= 768.01) & (bottom <= 576.01)).all()
        assert (record.tlwh[:, 2:] >= 1).all()
        assert ((record.frames.scores >= 0.3) & (record.frames.scores <= 1)).all()
        np.testing.assert_allclose(record.frames.class_scores, record.frames.scores, atol=1e-3)
        assert len(record.top.label_ids) == 10 == len(set(record.top.label_ids))
        assert (np.diff(record.top.weighted[0]) <= 1e-9).all()
        assert record.origin.detector.startswith("nanodet-g sha256:6533f32db1c8d265")
        assert (record.origin.vocab, record.origin.fps) == ("coco", 5)
        assert record.mp4_filename.startswith(f"St/{VIDEO_ID}-{record.top.labels[0].replace(' ', '_')}-")
    assert len({record.mp4_filename for record in records}) == len(records)
    assert sum(record.top.labels[0] == "person" for record in records) >= 6


def test_boxes_are_in_pixels_of_the_source_video(undisturbed: Path) -> None:
    """The van stands at the upper right in all of the video; measured by eye at 768 x 576 px."""
    van = np.array([[652.0, 43, 722, 100]])
    for number in range(3):
        boxes = [
            tlwh_to_xyxy(record.tlwh)
            for record in records_in(undisturbed)
            if record.origin and record.origin.clip_id == f"{VIDEO_ID}.{number}.mp4"
        ]
        assert max(float(iou(van, box[:1]).max()) for box in boxes) > 0.7


def test_every_track_has_an_embedding_of_unit_length(undisturbed: Path) -> None:
    rows = load_embeddings(TracksLayout(undisturbed).embeddings_path(VIDEO_ID))
    assert rows.shape == (len(records_in(undisturbed)), 448)
    assert rows.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=2e-3)


def test_the_same_command_again_has_nothing_to_do(workdir: Path, undisturbed: Path) -> None:
    """And opens no video to find that out."""
    before = contents(undisturbed)
    path = Layout(workdir).video_path(VIDEO_ID)
    path.rename(path.with_suffix(".aside"))
    try:
        said = parse(workdir, undisturbed)
    finally:
        path.with_suffix(".aside").rename(path)
    assert "3 already there: nothing to do" in said
    assert contents(undisturbed) == before


def test_other_settings_are_not_mixed_into_the_same_folder(workdir: Path, undisturbed: Path) -> None:
    before = contents(undisturbed)
    said = parse(workdir, undisturbed, "--conf", "0.5", status=2)
    assert len(said.splitlines()) == 1
    assert "made with conf = 0.3, asked for 0.5" in said
    assert contents(undisturbed) == before


# ---- what is disturbed

KILLED_WHEN_COMPLETE = """
from trackverse import progress

save = progress.save

def save_and_die(path, saved):
    save(path, saved)
    if len(saved.segments_complete) == num_segments:
        die()

progress.save = save_and_die
"""


def test_killed_twice_and_run_again_gives_the_undisturbed_result(
    workdir: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output_dir = tmp_path / "killed"
    progress_path = TracksLayout(output_dir).progress_path(VIDEO_ID)

    def num_complete() -> int:
        return len(json.loads(progress_path.read_text())["segments_complete"]) if progress_path.exists() else 0

    for wanted in (1, 2):
        where = ("--workdir", workdir, "--clips_metafile", workdir / "part0.jsonl", "--output_dir", output_dir)
        patch = f"num_segments = {wanted}\n{KILLED_WHEN_COMPLETE}"
        run_killed(patch, "parse_tracks.py", *where, *QUICK, env=environment())
        assert num_complete() == wanted
    # As if killed in the middle of a commit: bytes that no progress file counts.
    with open(TracksLayout(output_dir).meta_path(VIDEO_ID), "ab") as file:
        file.write(b"half a record")
    said = parse(workdir, output_dir)
    assert "1 clip done, 2 already there" in said
    assert contents(output_dir) == contents(undisturbed)


def test_two_copies_at_once_give_the_same_as_one(workdir: Path, undisturbed: Path, tmp_path: Path) -> None:
    where = ("--workdir", workdir, "--clips_metafile", workdir / "part0.jsonl", "--output_dir", tmp_path / "twice")
    copies = [
        subprocess.Popen(
            command("parse_tracks.py", *where, *QUICK), stderr=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(2)
    ]
    said = [copy.communicate()[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], said
    assert contents(tmp_path / "twice") == contents(undisturbed)


def test_workers_side_by_side_and_chunks_give_the_same_as_one(workdir: Path, undisturbed: Path, tmp_path: Path) -> None:
    for video_id in ("StreetDemo2", "StreetDemo3"):
        add_video(workdir, video_id)
    part = write_metafile(tmp_path / "part.jsonl", {"StreetDemo2": SPANS[:1], "StreetDemo3": SPANS[:1]})
    parse(workdir, tmp_path / "workers", "--num_workers", 2, part=part)
    for chunk_id in (1, 0):
        parse(workdir, tmp_path / "chunks", "--num_chunks", 2, "--chunk_id", chunk_id, part=part)
    assert contents(tmp_path / "workers") == contents(tmp_path / "chunks")
    first = [record for record in records_in(undisturbed) if record.origin and record.origin.clip_id.endswith(".0.mp4")]
    for video_id in ("StreetDemo2", "StreetDemo3"):
        records = records_in(tmp_path / "workers", video_id)
        assert len(records) == len(first)
        for one, other in zip(records, first, strict=True):
            np.testing.assert_array_equal(one.tlwh, other.tlwh)


# ---- what can't be done


def test_a_missing_video_fails_and_is_tried_again_once_it_is_there(tmp_path: Path) -> None:
    part = write_metafile(tmp_path / "part.jsonl", {"NotYetThere": [(0.0, 1.5)]})
    output_dir = tmp_path / "out"
    said = parse(tmp_path, output_dir, part=part, status=1)
    assert "1 failed (1 video missing)" in said
    (entry,) = [json.loads(line) for line in (output_dir / "failed.jsonl").read_text().splitlines()]
    assert (entry["key"], entry["reason"], entry["retry"]) == ("NotYetThere.0.mp4", "video missing", True)
    assert str(Layout(tmp_path).video_path("NotYetThere")) in entry["message"]

    add_video(tmp_path, "NotYetThere")
    assert "1 clip done" in parse(tmp_path, output_dir, part=part)
    assert records_in(output_dir, "NotYetThere")
    assert "1 already there: nothing to do" in parse(tmp_path, output_dir, part=part)


def test_what_is_wrong_with_segments_and_lines_is_counted_and_the_rest_is_done(workdir: Path, tmp_path: Path) -> None:
    part = write_metafile(tmp_path / "part.jsonl", {VIDEO_ID: [(40.0, 50.0), (5.0, 6.0)]})
    with open(part, "a") as file:
        file.write('{"video_id": "no clips here"}\n{"video_id": \n')
    said = parse(workdir, tmp_path / "out", part=part, status=1)
    assert "1 clip done" in said
    assert "1 clip after the video's end" in said
    assert "1 no clips listed" in said
    assert f"{part}:3" in said
    progress = json.loads(TracksLayout(tmp_path / "out").progress_path(VIDEO_ID).read_text())
    assert progress["segments_complete"] == [[5.0, 6.0]]

    said = parse(workdir, tmp_path / "out", part=part, status=1)
    assert "failed before (1 clip after the video's end): --retry_failed tries again" in said
    said = parse(workdir, tmp_path / "out", "--retry_failed", part=part, status=1)
    assert "1 clip after the video's end" in said and "failed before" not in said


def test_a_video_that_is_no_video_fails_in_words(tmp_path: Path) -> None:
    add_video(tmp_path).write_text("<html>not available</html>")
    part = write_metafile(tmp_path / "part.jsonl", {VIDEO_ID: [(0.0, 1.0)]})
    said = parse(tmp_path, tmp_path / "out", part=part, status=1)
    assert "1 failed (1 not a video)" in said


def test_dry_run_counts_and_writes_nothing(workdir: Path, tmp_path: Path) -> None:
    assert "3 clips to do" in parse(workdir, tmp_path / "out", "--dry_run")
    assert not (tmp_path / "out").exists()


def test_limit_takes_the_first_videos(workdir: Path, tmp_path: Path) -> None:
    part = write_metafile(tmp_path / "part.jsonl", {VIDEO_ID: SPANS[:2], "NotThere001": SPANS})
    assert "2 clips to do" in parse(workdir, tmp_path / "out", "--limit", 1, "--dry_run", part=part)
    assert "5 clips to do" in parse(workdir, tmp_path / "out", "--limit", 2, "--dry_run", part=part)


WRONG_USAGE = {
    "a vocabulary that needs another detector": (["--vocab", "lvis"], "--vocab lvis needs"),
    "no such metafile": (["--clips_metafile", "nowhere.jsonl"], "nowhere.jsonl: no such metafile"),
    "a chunk that isn't": (["--num_chunks", "2", "--chunk_id", "2"], "--chunk_id 2"),
}


@pytest.mark.parametrize("args, message", WRONG_USAGE.values(), ids=WRONG_USAGE)
def test_wrong_usage_is_one_line_and_status_2(workdir: Path, tmp_path: Path, args: list[str], message: str) -> None:
    said = parse(workdir, tmp_path / "out", *args, status=2)
    assert len(said.splitlines()) == 1
    assert said.startswith("error: ") and message in said
    assert not (tmp_path / "out").exists()


def test_without_a_work_folder_it_says_which_to_set(workdir: Path, tmp_path: Path) -> None:
    where = ("--clips_metafile", workdir / "part0.jsonl", "--output_dir", tmp_path / "out")
    said = run("parse_tracks.py", *where, status=2)
    assert said == "error: no work folder: give --workdir DIR, or export TRACKVERSE_DB=DIR\n"
    said = run("parse_tracks.py", *where, "--dry_run", TRACKVERSE_DB=str(workdir))
    assert "3 clips to do" in said


@pytest.mark.parametrize("flag", ["--conf", "--nms", "--motion_weight", "--embedding_momentum", "--min_track_area"])
@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
def test_a_share_must_be_one(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = load_script("parse_tracks.py")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--clips_metafile", "a", "--output_dir", "b", flag, value])
    assert caught.value.code == 2
    assert f"argument {flag}: " in capsys.readouterr().err


def test_blurred_videos_are_read_from_their_own_folder(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.blurred_path(VIDEO_ID).parent.mkdir(parents=True)
    shutil.copy(STREET, layout.blurred_path(VIDEO_ID))
    part = write_metafile(tmp_path / "part.jsonl", {VIDEO_ID: [(5.0, 6.0)]})
    assert "1 clip done" in parse(tmp_path, tmp_path / "out", "--blurred", part=part)


@pytest.mark.slow
def test_the_whole_street_has_about_as_many_tracks_as_people(tmp_path: Path) -> None:
    """Nine people walk about for half a minute, some more than once in view, meeting and passing behind a post."""
    add_video(tmp_path)
    part = write_metafile(tmp_path / "part.jsonl", {VIDEO_ID: [(0.0, 30.0)]})
    where = ("--workdir", tmp_path, "--clips_metafile", part, "--output_dir", tmp_path / "out")
    run("parse_tracks.py", *where, "--min_track_area", 0)
    records = records_in(tmp_path / "out")
    people = [record for record in records if record.top.labels[0] == "person"]
    assert 9 <= len(people) <= 14
    assert all(record.times_s[-1] - record.times_s[0] >= 3 - 1e-4 for record in records)
    assert max(record.times_s[-1] - record.times_s[0] for record in people) > 10


# ---- track_objects.py


@pytest.fixture
def cut_workdir(tmp_path: Path) -> Path:
    """A work folder after cut_videos.py: one clip kept, from 5.0 to 7.5 s, one scene dropped."""
    video_path = add_video(tmp_path)
    layout = Layout(tmp_path)
    clip = Clip(VIDEO_ID, f"{VIDEO_ID}.1.mp4", 5.0, 7.5)
    dropped = Clip(VIDEO_ID, f"{VIDEO_ID}.0.mp4", 0.0, 1.0)
    path = layout.clip_path(VIDEO_ID, clip.clip_id)
    path.parent.mkdir(parents=True)
    cut_clip(video_path, path, clip.start_s, clip.end_s, mode="encode")
    segments = (Segment(dropped, "shorter than 3 s"), Segment(clip))
    cut = VideoScenes(VIDEO_ID, None, 30.0, CutConfig(), None, "encode", ((0.0, 1.0), (5.0, 7.5)), segments)
    scenes.save(layout.scenes_path(VIDEO_ID), cut)
    return tmp_path


def test_clips_become_records_mot_text_and_a_drawn_video(cut_workdir: Path) -> None:
    said = run("track_objects.py", "--workdir", cut_workdir, "--frame-rate", 5, "--visualize")
    assert "1 clip done" in said
    folder = cut_workdir / "object_tracks" / "St" / VIDEO_ID
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{VIDEO_ID}.1.jsonl.gzip",
        f"{VIDEO_ID}.1.mp4",
        f"{VIDEO_ID}.1.txt",
    ]
    records = list(read_records(folder / f"{VIDEO_ID}.1.jsonl.gzip"))
    assert len(records) >= 4
    for record in records:  # on the source video's clock
        assert 5.0 <= record.times_s[0] < record.times_s[-1] < 7.5

    mot = np.loadtxt(folder / f"{VIDEO_ID}.1.txt", delimiter=",")
    assert len(mot) == sum(len(record.times_s) for record in records)
    assert mot[:, 0].min() == 1 and mot[:, 0].max() <= 25
    assert set(mot[:, 1]) == {record.track_id + 1 for record in records}
    first = mot[mot[:, 1] == 1]
    np.testing.assert_allclose(first[:, 2:6], records[0].tlwh, atol=0.01)
    np.testing.assert_allclose((first[:, 0] - 1) / 10 + 5.0, records[0].times_s, atol=0.051)

    source, drawn = (
        probe(path)
        for path in (Layout(cut_workdir).clip_path(VIDEO_ID, f"{VIDEO_ID}.1.mp4"), folder / f"{VIDEO_ID}.1.mp4")
    )
    assert (drawn.num_frames, drawn.frame_hw) == (source.num_frames, source.frame_hw) == (25, (576, 768))


def test_track_objects_again_has_nothing_to_do_and_draws_what_is_asked_for_later(cut_workdir: Path) -> None:
    args = ("--workdir", cut_workdir, "--frame_rate", 5)
    assert "1 clip to do" in run("track_objects.py", *args, "--dry_run")
    assert not (cut_workdir / "object_tracks").exists()
    run("track_objects.py", *args)
    assert "1 already there: nothing to do" in run("track_objects.py", *args)
    before = contents(cut_workdir / "object_tracks")
    assert "1 clip done" in run("track_objects.py", *args, "--visualize")
    after = contents(cut_workdir / "object_tracks")
    assert set(after) - set(before) == {f"St/{VIDEO_ID}/{VIDEO_ID}.1.mp4"}
    assert {name: after[name] for name in before} == before


def test_the_documented_tracking_command_finds_people(cut_workdir: Path) -> None:
    words = ["--frame-rate", "8", "--conf", "0.2", "--track_thresh", "0.6", "--match_thresh", "0.3"]
    run("track_objects.py", "--workdir", cut_workdir, *words)
    records = list(read_records(cut_workdir / "object_tracks" / "St" / VIDEO_ID / f"{VIDEO_ID}.1.jsonl.gzip"))
    assert sum(record.top.labels[0] == "person" for record in records) >= 3


def test_a_clip_file_that_is_gone_is_a_failure(cut_workdir: Path) -> None:
    Layout(cut_workdir).clip_path(VIDEO_ID, f"{VIDEO_ID}.1.mp4").unlink()
    assert "1 failed (1 video missing)" in run("track_objects.py", "--workdir", cut_workdir, status=1)


def test_track_objects_without_clips_says_what_to_run(tmp_path: Path) -> None:
    said = run("track_objects.py", "--workdir", tmp_path, status=2)
    assert said == f"error: {tmp_path}/video_clips: no clips there; run cut_videos.py on this work folder first\n"


# ---- the commands as they are documented

PARSE = "--slurm --output_dir /db/tracks_meta/lvis --clips_metafile /db/mined_segments/lvis/part0.jsonl --vocab lvis"
CURATE = (
    "--slurm --output_file /db/s/a.jsonl.gzip --tracks_dir /db/tracks_meta/lvis --num-samples 50000 --num-workers 16"
)
CURATE_DASHES = (
    "--output-file /db/s/a.jsonl.gzip --tracks-dir /db/tracks_meta/in1k_coco_x1000/ --criterion random --num-samples 9 "
    "--n-workers 12 --batch-size 20 --num-samples-per-class 500 --max-swaps 2000"
)
SUBSET = {"output_file": Path("/db/s/a.jsonl.gzip"), "tracks_dir": Path("/db/tracks_meta/lvis"), "num_workers": 16}
HERE = Path.cwd()
# Script, flags, and what they must be read as.
DOCUMENTED: list[tuple[str, str, dict[str, object]]] = [
    (
        "download_videos.py",
        "--workdir data/hdvila-100m --metafile assets/hdvila/hdvila100m_metadata.json",
        {"workdir": HERE / "data/hdvila-100m", "metafile": [HERE / "assets/hdvila/hdvila100m_metadata.json"]},
    ),
    (
        "cut_videos.py",
        "--workdir data/hdvila-100m --metafile assets/hdvila/hdvila_part0.jsonl",
        {"workdir": HERE / "data/hdvila-100m", "metafile": [HERE / "assets/hdvila/hdvila_part0.jsonl"]},
    ),
    ("gdpr_blur_faces.py", "", {"inputs": []}),
    (
        "parse_tracks.py",
        PARSE,
        {
            "slurm": True,
            "output_dir": Path("/db/tracks_meta/lvis"),
            "clips_metafile": [Path("/db/mined_segments/lvis/part0.jsonl")],
            "vocab": "lvis",
        },
    ),
    (
        "track_objects.py",
        "--workdir data/hdvila-100m --frame-rate 8 --conf 0.2 --track_thresh 0.6 --match_thresh 0.3",
        {"frame_rate": 8, "conf": 0.2, "track_thresh": 0.6, "match_thresh": 0.3},
    ),
    ("curate_db.py", CURATE_DASHES, {"num_workers": 12, "batch_size": 20, "max_swaps": 2000, "num_samples": 9}),
    ("curate_db.py", f"{CURATE} --criterion random", SUBSET | {"criterion": "random", "num_samples": 50000}),
    (
        "curate_db.py",
        f"{CURATE} --criterion video_balanced --num-samples-per-video 3",
        SUBSET | {"criterion": "video_balanced", "num_samples_per_video": 3},
    ),
    (
        "curate_db.py",
        f"{CURATE} --criterion class_balanced --num-samples-per-class 50",
        SUBSET | {"criterion": "class_balanced", "num_samples_per_class": 50},
    ),
]


def load_script(name: str) -> cli.Parser:
    """The parser of a script, with Slurm's flags as every stage adds them."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", REPO_DIR / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for the module that they are in
    spec.loader.exec_module(module)
    parser: cli.Parser = module.make_parser()
    cli.add_slurm(parser)
    return parser


@pytest.mark.parametrize("script, flags, expected", DOCUMENTED)
def test_every_documented_command_is_understood(script: str, flags: str, expected: dict[str, object]) -> None:
    args = vars(load_script(script).parse_args(flags.split()))
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_what_is_there_and_its_defaults(script: str) -> None:
    done = subprocess.run(command(script, "--help"), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "(default: 1)" in done.stdout  # --num_workers, on every stage
    assert "--slurm" in done.stdout and "--dry_run" in done.stdout


def test_the_street_is_what_the_tests_take_it_for() -> None:
    """Ten frames a second for 30 s, so that segments of whole and half seconds hold whole numbers of frames."""
    with av.open(str(STREET)) as container:
        assert (container.streams.video[0].frames, float(container.streams.video[0].average_rate or 0)) == (300, 10.0)
