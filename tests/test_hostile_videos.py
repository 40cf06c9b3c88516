"""Files under a video's name that would make a reader open other files and hosts, or fill the memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hostile_videos
import pytest
import shelf
from hostile_videos import LIES, MANIFESTS
from local_server import serve

from trackverse import blur, downloaded, transcode, video
from trackverse.errors import ItemError, VideoError
from trackverse.layout import REPO_DIR
from trackverse.video import container, source

# Every way into a video, by what the stages do with it.
DOORS: dict[str, Callable[[Path, Path], object]] = {
    "looking at it": lambda path, out: video.probe(path),
    "decoding it": lambda path, out: list(video.read_frames(path)),
    "finding its shots": lambda path, out: list(
        video.glance_through(path, long_side=160, sample_fps=2, sample_long_side=320)
    ),
    "cutting it": lambda path, out: video.cut_clip(path, out, 0.0, 1.0),
    "changing it": lambda path, out: transcode.change_frames(path, out, lambda image: True, comment=""),
    "reading its times": lambda path, out: transcode.frame_times(path),
    "blurring it": lambda path, out: blur.blur_video(path, out, []),
    "taking it as a download": lambda path, out: downloaded.as_mp4(path, keep_audio=True),
}
PEAK_MB = 700  # of a process that has opened all of them, 60 of which are Python's and libav's own


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_manifest_is_no_video_and_nothing_that_it_names_is_opened(
    tmp_path: Path, door: Callable[[Path, Path], object]
) -> None:
    """Neither a host (this one, which listens) nor a file: both lie ready, and both would play."""
    shelf.plain(tmp_path)
    secret = shelf.transport_stream(tmp_path)
    out = tmp_path / "out" / "clip.mp4"
    out.parent.mkdir()
    with serve(tmp_path) as server:
        targets = [server.url("stream.ts"), server.url("plain.mp4"), str(secret), f"file:{secret}", "stream.ts"]
        for manifest in MANIFESTS.values():
            for target in targets:
                path = tmp_path / "video.mp4"
                path.write_text(manifest(tmp_path, target))
                with pytest.raises(ItemError) as caught:
                    door(path, out)
                assert caught.value.reason in ("not a video", "does not fit MP4"), caught.value
        assert not server.requests
    assert list(out.parent.iterdir()) == []


def test_the_server_of_these_tests_would_have_been_asked(tmp_path: Path) -> None:
    """Without the lists of containers and protocols, libav follows a playlist: the test above can fail."""
    shelf.transport_stream(tmp_path)
    with serve(tmp_path) as server:
        path = tmp_path / "list.m3u8"
        path.write_text(hostile_videos.hls(tmp_path, server.url("stream.ts")))
        command = [downloaded.ffmpeg_path(), "-v", "error", "-protocol_whitelist", "file,http,tcp", "-i", str(path)]
        subprocess.run([*command, "-f", "null", "-"], capture_output=True)
        assert server.requests["stream.ts"] > 0


@pytest.mark.parametrize(
    "name", ["concat:a.mp4|b.mp4", "file:a.mp4", "http:a.mp4", "-i.mp4", "a%03d.mp4", "pipe:0.mp4"]
)
def test_a_name_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also as a relative path, where libav would take its beginning for a protocol or an option."""
    monkeypatch.chdir(tmp_path)
    path = shelf.plain(tmp_path).rename(tmp_path / name).relative_to(tmp_path)
    assert video.probe(path).num_frames == 60
    assert len(transcode.frame_times(path)) == 60
    video.cut_clip(path, Path(f"cut {name}"), 0.0, 1.0)
    transcode.change_frames(path, Path(f"changed {name}"), lambda image: False, comment="")
    assert downloaded.as_mp4(path, keep_audio=True) == path
    assert {each.name for each in tmp_path.iterdir()} == {name, f"cut {name}", f"changed {name}"}


def test_lies_about_size_and_length_cost_no_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak is measured. Each lie ends in frames that are there or in a reason."""
    code = """
import re, sys
from pathlib import Path
from trackverse import transcode, video
from trackverse.errors import VideoError
for path in map(Path, sys.argv[1:]):
    for look in (video.decodes_at_both_ends, lambda path: sum(len(b.times_s) for b in video.read_frames(path)),
                 lambda path: len(transcode.frame_times(path))):
        try:
            look(path)
        except VideoError as error:
            print(path.name, error.reason)
print(int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    paths = [str(make(tmp_path)) for make in LIES.values()]
    done = subprocess.run([sys.executable, "-c", code, *paths], cwd=REPO_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *reasons, peak_mb = done.stdout.splitlines()
    print(f"peak of {len(paths)} lies: {peak_mb} MB")
    assert int(peak_mb) < PEAK_MB
    assert {"many_samples.mp4 no frame decodes", "large_frames_100000.avi no frame decodes"} <= set(reasons)


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shelf.plain(tmp_path)
    monkeypatch.setattr(container, "MAX_PIXELS", 96 * 64 - 1)
    for door in (video.probe, lambda path: list(video.read_frames(path)), transcode.frame_times):
        with pytest.raises(VideoError, match="over 16384 a side or") as caught:
            door(path)
        assert caught.value.reason == "frame too large"


def test_frames_that_grow_beyond_the_limit_midway_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bare streams joined: 60 small frames, then 60 of four times the pixels."""
    small = shelf.without_times(tmp_path).read_bytes()
    images = [shelf.draw(number, hw=(128, 192)) for number in range(60)]
    path = tmp_path / "grows.h264"
    path.write_bytes(small + shelf.write(tmp_path / "large.h264", images).read_bytes())
    assert sum(len(batch.times_s) for batch in video.read_frames(path)) == 120
    monkeypatch.setattr(container, "MAX_PIXELS", 96 * 64)
    with pytest.raises(VideoError):
        list(video.read_frames(path))


def test_too_many_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_FRAMES", 59)
    with pytest.raises(VideoError) as caught:
        list(video.read_frames(shelf.plain(tmp_path)))
    assert caught.value.reason == "too many frames"


def test_batches_of_large_frames_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shelf.plain(tmp_path)
    monkeypatch.setattr(video.reading, "MAX_BATCH_BYTES", 3 * 96 * 64 * 7)
    assert {len(batch.times_s) for batch in video.read_frames(path)} == {7, 60 % 7}
    monkeypatch.setattr(video.reading, "MAX_BATCH_BYTES", 1)
    assert {len(batch.times_s) for batch in video.read_frames(path)} == {1}
