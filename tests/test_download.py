"""download_videos.py with the real yt-dlp against a web server on this host."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import yt_dlp
from local_server import Behaviour, LocalServer, serve
from yt_dlp.networking.exceptions import HTTPError, NoSupportingHandlers, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError

import download_videos
from trackverse import download, downloaded, public_web, refusals, slow_bodies, stage
from trackverse.download import DownloadConfig, _Session
from trackverse.errors import ItemError, SetupError, StopWorkError, VideoError
from trackverse.layout import REPO_DIR, Layout
from trackverse.types import SourceVideo

SECONDS, FPS, HEIGHT, WIDTH = 2, 10, 48, 64
PROVENANCE_KEYS = {"url", "extractor", "title", "uploader", "channel_id", "license"} | {
    "upload_date", "retrieved_at", "format", "hw", "fps", "duration"
}  # fmt: skip


def draw_video(path: Path, *, codec: str = "libx264", audio: bool = False, format: str | None = None) -> Path:
    """A square that moves over noise for two seconds (noise, so that the file is some 50 kB and can be cut in two).

    The index of an MP4 comes first, as on the web, so that a part of the file opens and shows only at its end.
    """
    rng = np.random.default_rng(0)
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for index in range(SECONDS * FPS):
            image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            image[10:30, index : index + 20] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        if sound:
            add_silence(container, sound)
    return path


def add_silence(container: av.container.OutputContainer, sound: av.AudioStream) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * SECONDS), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), 0
    container.mux(sound.encode(frame))
    container.mux(sound.encode())


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny videos: whole.mp4, sound.mp4 (with audio), vp9.webm (not MP4), hls.m3u8 (MPEG-TS segments),
    dash.mpd (picture and sound apart), song.mp4 (no picture at all)."""
    folder = tmp_path_factory.mktemp("www")
    draw_video(folder / "whole.mp4")
    draw_video(folder / "sound.mp4", audio=True)
    draw_video(folder / "vp9.webm", codec="libvpx-vp9")
    draw_video(folder / "hls.m3u8", format="hls")
    draw_video(folder / "dash.mpd", format="dash", audio=True)
    with av.open(str(folder / "song.mp4"), "w") as container:
        add_silence(container, container.add_stream("aac", rate=8000, layout="mono"))
    (folder / "page.html").write_text("<html><head><title>No video here</title></head><body></body></html>")
    return folder


@pytest.fixture
def server(videos: Path) -> Iterator[LocalServer]:
    """A server of its own for each test, so that what it counts is the test's."""
    with serve(videos) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go to this host, whatever proxy the environment names."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A work folder whose name is odd on purpose: a space, a percent sign and a dollar sign."""
    return Layout(tmp_path / "work 100%(id)s $HOME")


def write_metafile(layout: Layout, urls: dict[str, str], *more_lines: str) -> Path:
    path = layout.workdir.parent / "meta.jsonl"
    lines = [json.dumps({"video_id": video_id, "url": url}) for video_id, url in urls.items()]
    path.write_text("\n".join([*lines, *more_lines]) + "\n")
    return path


def command(layout: Layout, metafile: Path, *flags: str) -> list[str]:
    private = [] if "--only_public" in flags else ["--allow_private"]
    flags = tuple(flag for flag in flags if flag != "--only_public")
    return ["--workdir", str(layout.workdir), "--metafile", str(metafile), "--retries", "0", *private, *flags]


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(layout: Layout, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the stage in this process; its exit status and what it said on stderr."""

    def run_stage(metafile: Path, *flags: str) -> tuple[int, str]:
        status = stage.start(
            download_videos.make_parser(),
            download_videos.work,
            what="videos",
            output_dir=lambda args: layout.videos_dir,
            argv=command(layout, metafile, *flags),
        )
        return status, capsys.readouterr().err

    return run_stage


def start_copy(
    layout: Layout, metafile: Path, *flags: str, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """The script in a process of its own, in which `before` is called first."""
    argv = [sys.executable, str(REPO_DIR / "download_videos.py"), *command(layout, metafile, *flags)]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, preexec_fn=before)


CLASS_OF = {"gone": "permanent", "geo": "conditional", "cut": "transient"}


def noted(layout: Layout) -> list[dict[str, Any]]:
    """The lines of the list of failures."""
    return [json.loads(line) for line in (layout.videos_dir / "failed.jsonl").read_text().splitlines()]


def failures(layout: Layout) -> dict[str, tuple[str, bool]]:
    """{video id: (reason, retry)} as noted last."""
    return {entry["key"]: (entry["reason"], entry.get("retry")) for entry in noted(layout)}


def left_in(layout: Layout) -> list[str]:
    """Every file in and beside the work folder, hidden ones too, but the metafile; and no empty hidden folder."""
    paths = [path for path in layout.workdir.parent.rglob("*") if path.is_file() or path.name.startswith(".")]
    return sorted(path.name for path in paths if path.name != "meta.jsonl")


# --- videos that land ------------------------------------------------------------------------------------------------


def test_a_video_lands_whole_with_its_provenance_and_is_not_asked_for_again(
    layout: Layout, server: LocalServer, run: Run
) -> None:
    metafile = write_metafile(layout, {"-Zabc_-1234": server.url("whole.mp4")})
    assert run(metafile)[0] == 0
    with av.open(str(layout.video_path("-Zabc_-1234"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == SECONDS * FPS
    provenance = json.loads(layout.provenance_path("-Zabc_-1234").read_text())
    assert set(provenance) == PROVENANCE_KEYS
    assert provenance["url"] == server.url("whole.mp4")
    assert provenance["hw"] == [HEIGHT, WIDTH]
    assert provenance["fps"] == pytest.approx(FPS)
    assert provenance["duration"] == pytest.approx(SECONDS, abs=0.11)
    assert left_in(layout) == ["-Zabc_-1234.json", "-Zabc_-1234.mp4"]

    asked = server.requests.total()
    status, said = run(metafile)
    assert status == 0 and "1 already there: nothing to do" in said
    assert server.requests.total() == asked


@pytest.mark.parametrize(
    ("name", "flags", "has_audio"),
    [
        ("whole.mp4", (), False),
        ("sound.mp4", (), False),
        ("sound.mp4", ("--audio",), True),
        ("vp9.webm", (), False),
        ("hls.m3u8", (), False),
        ("dash.mpd", (), False),
        ("dash.mpd", ("--audio",), True),
    ],
)
def test_what_lands_is_an_mp4_with_audio_only_on_request(
    layout: Layout, server: LocalServer, run: Run, name: str, flags: tuple[str, ...], has_audio: bool
) -> None:
    assert run(write_metafile(layout, {"video": server.url(name)}), *flags)[0] == 0
    assert layout.video_path("video").read_bytes()[4:8] == b"ftyp"
    with av.open(str(layout.video_path("video"))) as container:
        assert bool(container.streams.audio) == has_audio
        assert sum(1 for _ in container.decode(video=0)) == SECONDS * FPS
    assert left_in(layout) == ["video.json", "video.mp4"]


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 255"], ids=["killed", "told to end"])
def test_an_ffmpeg_that_is_ended_says_nothing_about_the_video(
    end: str, layout: Layout, server: LocalServer, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one is too quick to be met by a signal, so a script that ends in its way stands in for it."""
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\n{end}\n")
    ffmpeg.chmod(0o755)
    metafile = write_metafile(layout, {"one": server.url("vp9.webm")})
    with monkeypatch.context() as patch:
        patch.setattr(downloaded, "ffmpeg_path", lambda: str(ffmpeg))
        status, said = run(metafile)
    assert (status, "1 failed (1 killed)" in said) == (1, True), said
    assert run(metafile)[0] == 0, "the next run tries it again unasked"


@pytest.mark.parametrize("video_id", ["--oddoddodd", "$HOME", "%(id)s", "100%", "a b'c", "日本語", "~"])
def test_odd_ids_are_only_names(layout: Layout, server: LocalServer, run: Run, video_id: str) -> None:
    assert run(write_metafile(layout, {video_id: server.url("whole.mp4")}))[0] == 0
    assert left_in(layout) == [f"{video_id}.json", f"{video_id}.mp4"]
    assert layout.video_path(video_id).exists()


def test_two_copies_at_once_fetch_each_video_once(layout: Layout, server: LocalServer) -> None:
    metafile = write_metafile(layout, {f"video{n}": server.url(f"whole.mp4?{n}") for n in range(6)})
    copies = [start_copy(layout, metafile) for _ in range(2)]
    said = [copy.communicate(timeout=300)[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], said
    assert sum(int(number) for text in said for number in re.findall(r"(\d+) videos? done", text)) == 6
    assert server.requests["whole.mp4"] == 6 * 2  # yt-dlp asks once for the kind of file and once for the file


def test_copies_and_workers_keep_to_one_pace(layout: Layout, server: LocalServer) -> None:
    """Three workers in two copies, a second between any two videos: six take 5 s from the first start to the last, but
    1 s if each worker kept to a pace of its own. No load can make the last start, as it is noted, come too early."""
    metafile = write_metafile(layout, {f"video{n}": server.url(f"whole.mp4?{n}") for n in range(6)})
    pace = ("--max_per_hour", "3600")
    before_s = time.time()
    copies = [start_copy(layout, metafile, *pace), start_copy(layout, metafile, *pace, "--num_workers", "2")]
    said = [copy.communicate(timeout=300)[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [0, 0], said
    assert float((layout.videos_dir / "last_start.txt").read_text()) - before_s > 5 - 0.01
    assert [name for name in left_in(layout) if not name.startswith("video")] == ["last_start.txt"]


@pytest.mark.parametrize("came", ["a part", "all of it", "more than there is now"])
def test_after_a_kill_the_download_goes_on_where_it_was(
    layout: Layout, server: LocalServer, run: Run, came: str
) -> None:
    metafile = write_metafile(layout, {"video": server.url("whole.mp4")})
    server.behaviours["whole.mp4"] = Behaviour(stall_after=20_000)
    copy = start_copy(layout, metafile)
    deadline = time.monotonic() + 300
    try:
        while not any(path.stat().st_size for path in layout.videos_dir.rglob("*.part")):
            assert copy.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        copy.kill()
        copy.communicate()
    assert not layout.video_path("video").exists()

    server.behaviours.clear()
    whole = (server.folder / "whole.mp4").read_bytes()
    (part_path,) = layout.videos_dir.rglob("*.part")
    if came != "a part":  # as if killed a moment later, before yt-dlp gave the file its name
        part_path.write_bytes(whole if came == "all of it" else whole + b"and more")
    assert run(metafile)[0] == 0
    assert layout.video_path("video").read_bytes() == whole
    assert server.ranges and not server.ranges[-1].startswith("bytes=0-")
    assert left_in(layout) == ["video.json", "video.mp4"]


# --- videos that don't -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "reason"), [(404, "not found (404)"), (410, "gone (410)")])
def test_what_is_gone_is_asked_for_again_only_on_request(
    layout: Layout, server: LocalServer, run: Run, status: int, reason: str
) -> None:
    server.behaviours["whole.mp4"] = Behaviour(status=status)
    metafile = write_metafile(layout, {"video": server.url("whole.mp4")})
    code, said = run(metafile)
    assert code == 1 and f"1 failed (1 {reason})" in said
    assert failures(layout) == {"video": (reason, False)}
    server.behaviours.clear()
    asked = server.requests.total()
    code, said = run(metafile)
    assert code == 1 and f"1 failed before (1 {reason})" in said
    assert (
        f"--retry_failed {reason[:-1]}: there is none, but {reason}, permanent"
        in run(metafile, "--retry_failed", reason[:-1])[1]
    )
    assert server.requests.total() == asked
    assert run(metafile, "--retry_failed", reason)[0] == 0
    assert layout.video_path("video").exists()


@pytest.mark.parametrize(
    ("again", "asked", "failed_before"),
    [
        ((), {"cut"}, {"gone", "geo"}),
        (("--retry_failed", "conditional"), {"cut", "geo"}, {"gone"}),
        (("--retry_failed", "permanent"), {"cut", "gone"}, {"geo"}),
        (("--retry_failed", "geo-blocked"), {"cut", "geo"}, {"gone"}),
        (("--retry_failed",), {"cut", "geo", "gone"}, set()),
    ],
    ids=["unasked", "a class", "another class", "a reason", "all"],
)
def test_what_is_tried_again_by_its_class(
    layout: Layout, server: LocalServer, run: Run, again: tuple[str, ...], asked: set[str], failed_before: set[str]
) -> None:
    statuses = {"gone": 404, "geo": 451, "cut": 503}
    server.behaviours.update({name: Behaviour(status=status) for name, status in statuses.items()})
    metafile = write_metafile(layout, {name: server.url(name) for name in statuses} | {"ok": server.url("whole.mp4")})
    assert run(metafile)[0] == 1
    kinds = {entry["key"]: (entry["kind"], bool(entry["message"]), bool(entry["at"])) for entry in noted(layout)}
    assert kinds == {name: (kind, True, True) for name, kind in CLASS_OF.items()}
    server.requests.clear()
    _, said = run(metafile, *again)
    assert set(server.requests) == asked
    rows = [line.split()[1:] for line in said.splitlines() if line[9:].startswith(tuple(CLASS_OF.values()))]
    assert {row[0]: row[-2:] for row in rows} == {
        kind: ["0", "1"] if name in failed_before else ["1", "0"] for name, kind in CLASS_OF.items()
    }


def test_what_might_pass_is_tried_in_so_many_runs_and_no_more(layout: Layout, server: LocalServer, run: Run) -> None:
    server.behaviours["whole.mp4"] = Behaviour(status=503)
    metafile = write_metafile(layout, {"video": server.url("whole.mp4")})
    for _ in range(download.MAX_TRIES):
        assert "1 failed (1 server error (5xx))" in run(metafile)[1]
    asked = server.requests.total()
    status, said = run(metafile)
    assert status == 1 and "1 failed before (1 server error (5xx)): --retry_failed tries again" in said
    assert server.requests.total() == asked
    server.behaviours.clear()
    assert run(metafile, "--retry_failed", "transient")[0] == 0
    assert layout.video_path("video").exists()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(status=500), "server error (5xx)"),
        (Behaviour(status=503), "server error (5xx)"),
        (Behaviour(status=403), "forbidden (403)"),
        (Behaviour(cut_after=20_000), "broken connection"),
        (Behaviour(cut_after=0), "broken connection"),
        (Behaviour(cut_after=20_000, length=False), "truncated video"),
        (Behaviour(announced=20_000), "truncated video"),
    ],
    ids=["500", "503", "403", "ends early", "empty", "ends early, size not said", "more comes than was said"],
)
def test_what_may_pass_is_tried_again_by_the_next_run(
    layout: Layout, server: LocalServer, run: Run, behaviour: Behaviour, reason: str
) -> None:
    server.behaviours["whole.mp4"] = behaviour
    metafile = write_metafile(layout, {"video": server.url("whole.mp4")})
    assert run(metafile)[0] == 1
    assert failures(layout) == {"video": (reason, True)}
    assert noted(layout)[0]["message"].count(str(layout.workdir)) == 0, "what came is not there any more"
    assert not layout.video_path("video").exists() and not layout.provenance_path("video").exists()
    server.behaviours.clear()
    assert run(metafile)[0] == 0
    assert layout.video_path("video").read_bytes() == (server.folder / "whole.mp4").read_bytes()
    assert left_in(layout) == ["failed.jsonl", "video.json", "video.mp4"]


def test_a_connection_that_breaks_once_is_mended_within_the_run(layout: Layout, server: LocalServer, run: Run) -> None:
    server.behaviours["whole.mp4"] = Behaviour(cut_after=20_000, first_times=2)
    assert run(write_metafile(layout, {"video": server.url("whole.mp4")}), "--retries", "1")[0] == 0
    assert layout.video_path("video").read_bytes() == (server.folder / "whole.mp4").read_bytes()


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(stall_after=20_000), Behaviour(trickle=10), Behaviour(trickle=10, length=False)],
    ids=["comes to a stop", "hardly comes", "hardly comes, size not said"],
)
def test_a_body_that_hardly_comes_is_a_failure_that_may_pass(
    layout: Layout, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour
) -> None:
    """10 bytes every twentieth of a second are 4 minutes for the file: no single wait is long, but all of them are."""
    server.behaviours["whole.mp4"] = behaviour
    metafile = write_metafile(layout, {"video": server.url("whole.mp4"), "other": server.url("sound.mp4")})
    with monkeypatch.context() as impatient:
        impatient.setattr(download, "SILENCE_S", 4.0)  # what a busy machine may well be silent for is less
        impatient.setattr(slow_bodies, "PATIENCE_S", 4.0)
        status, said = run(metafile)
    assert status == 1 and "1 video done" in said
    assert failures(layout) == {"video": ("broken connection", True)}
    server.behaviours.clear()
    assert run(metafile)[0] == 0
    assert layout.video_path("video").read_bytes() == (server.folder / "whole.mp4").read_bytes()


def test_a_body_that_comes_slowly_but_steadily_is_waited_for(
    layout: Layout, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 5 s, longer than nothing may come."""
    monkeypatch.setattr(download, "SILENCE_S", 4.0)  # for less, a busy machine may stand still
    monkeypatch.setattr(slow_bodies, "PATIENCE_S", 1.0)
    monkeypatch.setattr(slow_bodies, "MIN_BYTES", 1)  # of each second, and of however much longer one piece takes
    size = (server.folder / "whole.mp4").stat().st_size
    server.behaviours["whole.mp4"] = Behaviour(trickle=size // 100)
    assert run(write_metafile(layout, {"video": server.url("whole.mp4")}))[0] == 0
    assert layout.video_path("video").read_bytes() == (server.folder / "whole.mp4").read_bytes()


# What the server does to a request, and the class and reason that the video is to get.
FAULTS = {
    "403": (Behaviour(status=403), ("transient", "forbidden (403)")),
    "404": (Behaviour(status=404), ("permanent", "not found (404)")),
    "410": (Behaviour(status=410), ("permanent", "gone (410)")),
    "451": (Behaviour(status=451), ("conditional", "geo-blocked")),
    "500": (Behaviour(status=500), ("transient", "server error (5xx)")),
    "503": (Behaviour(status=503), ("transient", "server error (5xx)")),
    "cut": (Behaviour(cut_after=20_000), ("transient", "broken connection")),
    "cut, size not said": (Behaviour(cut_after=20_000, length=False), ("transient", "truncated video")),
}


RESUMABLE = (refusals.BROKEN_CONNECTION, refusals.SERVER_ERROR)


class FaultyWeb:
    """Treats 30 % of all requests badly, and remembers what it did to each video (which is the query of its URL)."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str | None]] = {}

    def fault_of(self, path_and_query: str) -> Behaviour | None:
        """The same for the same request of a video, in whatever order the videos are asked for."""
        video_id = path_and_query.partition("?")[2]
        answers = self.answers.setdefault(video_id, [])
        rng = np.random.default_rng([zlib.crc32(video_id.encode()), len(answers)])
        answers.append(str(rng.choice(list(FAULTS))) if rng.random() < 0.3 else None)
        return FAULTS[answers[-1]][0] if answers[-1] else None

    def expected(self) -> dict[str, tuple[str, str]]:
        """{video id: (class, reason)} of those that must have failed: the last answer is what decides. (The first of
        two is only looked into: where it is merely short, yt-dlp goes on.)"""
        return {video_id: FAULTS[last][1] for video_id, (*_, last) in self.answers.items() if last}


def standing(layout: Layout) -> dict[str, tuple[str, str]]:
    """{video id: (class, reason)} of the failures that stand."""
    last = {entry["key"]: entry for entry in noted(layout)}
    return {key: (entry["kind"], entry["reason"]) for key, entry in last.items() if entry["reason"]}


def test_every_video_of_a_faulty_web_is_classified_right(layout: Layout, server: LocalServer, run: Run) -> None:
    """TRACKVERSE_FAULTY_VIDEOS=200 makes it a longer run, of a minute or two."""
    video_ids = [f"v{n:03}" for n in range(int(os.environ.get("TRACKVERSE_FAULTY_VIDEOS", "40")))]
    metafile = write_metafile(layout, {video_id: server.url(f"whole.mp4?{video_id}") for video_id in video_ids})
    web = FaultyWeb()
    server.fault_of = web.fault_of
    assert run(metafile, "--num_workers", "4")[0] == 1
    failed = web.expected()
    assert set(web.answers) == set(video_ids) and {kind for kind, _ in failed.values()} == set(CLASS_OF.values())
    assert standing(layout) == failed

    def check_files() -> None:
        """Every video is whole, or there is nothing of it but what a broken connection left to go on from."""
        whole = (server.folder / "whole.mp4").read_bytes()
        there = {path.stem for path in layout.videos_dir.glob("*/*.mp4") if path.read_bytes() == whole}
        resumable = {key for key, (_, reason) in failed.items() if reason in RESUMABLE}
        assert there == set(video_ids) - set(failed)
        names = {str(path.relative_to(layout.videos_dir)) for path in layout.videos_dir.rglob("*") if path.is_file()}
        wanted = {f"{i[:2]}/{i}{ending}" for i in there for ending in (".mp4", ".json")} | {"failed.jsonl"}
        assert wanted <= names
        assert {Path(name).parts[1] for name in names - wanted} <= {f".{key}.tmp" for key in resumable}

    check_files()
    # The web is well again: each run asks only for what it should.
    for flags, due in [
        ((), {"transient"}),
        (("--retry_failed", "conditional"), {"conditional"}),
        (("--retry_failed", "gone (410)"), {"gone (410)"}),
        (("--retry_failed",), {"permanent"}),
        (("--retry_failed",), set()),
    ]:
        asked: set[str] = set()
        server.fault_of = lambda path_and_query, asked=asked: asked.add(path_and_query.partition("?")[2])
        run(metafile, *flags)
        assert asked == {key for key, why in failed.items() if due & set(why)}, flags
        failed = {key: why for key, why in failed.items() if key not in asked}
        assert standing(layout) == failed
        check_files()
    assert len(left_in(layout)) == 2 * len(video_ids) + 1


def test_too_many_requests_stop_the_worker_and_mark_nothing(layout: Layout, server: LocalServer, run: Run) -> None:
    server.behaviours["whole.mp4"] = Behaviour(status=429)
    code, said = run(write_metafile(layout, {"one": server.url("whole.mp4"), "two": server.url("vp9.webm")}))
    assert code == 1 and "stopped early" in said and "--sleep" in said
    assert not (layout.videos_dir / "failed.jsonl").exists()
    assert server.requests["vp9.webm"] == 0
    assert left_in(layout) == []


def test_many_suspect_failures_in_a_row_stop_the_worker(layout: Layout, server: LocalServer, run: Run) -> None:
    server.behaviours["whole.mp4"] = Behaviour(status=403)
    most = refusals.MAX_SUSPECT_IN_A_ROW
    code, said = run(write_metafile(layout, {f"v{n}": server.url("whole.mp4") for n in range(most + 2)}))
    assert code == 1 and f"{most} videos in a row failed (forbidden (403))" in said
    assert server.requests["whole.mp4"] == most
    assert {entry["reason"] for entry in noted(layout)[-most:]} == {None}  # the fault was not theirs: none is marked


def test_what_has_no_picture_is_not_asked_for_again(layout: Layout, server: LocalServer, run: Run) -> None:
    run(write_metafile(layout, {"page": server.url("page.html"), "song": server.url("song.mp4")}))
    assert failures(layout) == {"page": ("no video there", False), "song": ("no video stream", False)}
    assert left_in(layout) == ["failed.jsonl"]


def test_a_shorter_video_than_announced_is_not_whole(videos: Path) -> None:
    with pytest.raises(VideoError, match=r"2\.0 s came of 60\.0 s"):
        downloaded.check_whole(videos / "whole.mp4", {"duration": 60})
    assert downloaded.check_whole(videos / "whole.mp4", {"duration": 3}).num_frames == SECONDS * FPS


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "2130706433"])
def test_private_addresses_are_not_asked(layout: Layout, server: LocalServer, run: Run, host: str) -> None:
    run(write_metafile(layout, {"video": server.url("whole.mp4", host)}), "--only_public")
    assert failures(layout) == {"video": ("private address", False)}
    assert server.requests.total() == 0


def only_refuse_localhost(host: str, address: str, real: Any = public_web.check_address) -> None:
    """The server by its number passes for a public one, as none can be had here; by its name it does not."""
    if host != "127.0.0.1":
        real(host, address)


LISTS = {
    "HLS, encrypted so that yt-dlp would call ffmpeg": (
        "list.m3u8",
        '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI="{secret}"\n#EXTINF:2,\n{secret}\n'
        "#EXT-X-ENDLIST\n",
    ),
    "HLS": ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"),
    "HLS of files": ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{file}\n#EXT-X-ENDLIST\n"),
    "a list under a video's name": ("video.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{file}\n"),
    "a list to join under a video's name": ("video.mp4", "ffconcat version 1.0\nfile '{file}'\nfile '{secret}'\n"),
}


@pytest.mark.parametrize(("name", "text"), LISTS.values(), ids=LISTS)
def test_what_a_site_sends_leads_to_no_file_and_no_private_address(
    layout: Layout, server: LocalServer, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """The site passes for public here, as no public one can be had. What it points to is a second server and a file."""
    monkeypatch.setattr(public_web, "check_address", only_refuse_localhost)
    site = tmp_path / "site"
    site.mkdir()
    secret = draw_video(tmp_path / "secret.ts", format="mpegts")
    with serve(site) as public:
        (site / name).write_text(text.format(secret=server.url("whole.mp4", "localhost"), file=f"file://{secret}"))
        status, _ = run(write_metafile(layout, {"video": public.url(name)}), "--only_public")
    assert status == 1
    assert server.requests.total() == 0
    assert not layout.video_path("video").exists()
    assert sum(failure[0] != "" for failure in failures(layout).values()) == 1


def test_a_file_without_end_is_given_up(layout: Layout, server: LocalServer, run: Run, monkeypatch: Any) -> None:
    """A site that announces no length and sends more than any video has."""
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 1000)
    server.behaviours["whole.mp4"] = Behaviour(length=False)
    run(write_metafile(layout, {"video": server.url("whole.mp4")}))
    assert failures(layout) == {"video": ("file too large", False)}
    assert not list(layout.videos_dir.rglob("*.part"))


def test_a_name_that_resolves_otherwise_a_moment_later_is_found_out(
    layout: Layout, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server of bad will, in place of a real one: the address of the check is public, the next one is not."""
    asked: list[str] = []

    def resolve(host: str, port: int | None, *args: Any, real: Any = socket.getaddrinfo, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if port else "8.8.8.8", port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    run(write_metafile(layout, {"video": server.url("whole.mp4", "rebinding.test")}), "--only_public")
    assert asked == ["rebinding.test"] * 2
    assert failures(layout) == {"video": ("private address", False)}
    assert server.requests.total() == 0


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/video.mp4", "file:///etc/passwd", "rtmp://127.0.0.1/video"])
def test_no_page_leads_to_another_scheme(url: str) -> None:
    with _Session({}, Path(), allow_private=False) as ydl, pytest.raises(NoSupportingHandlers):
        ydl.urlopen(url)


PRIVATE = ["10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "100.64.0.1", "224.0.0.1"]
IPV4_WITHIN = ["[64:ff9b::7f00:1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]", "[::7f00:1]", "[64:ff9b:1::1]", "[fec0::1]"]


@pytest.mark.parametrize("host", [*PRIVATE, *IPV4_WITHIN])
def test_what_counts_as_private(host: str) -> None:
    with pytest.raises(Exception, match="a private address"):
        public_web.check_public(f"http://{host}/video.mp4")


@pytest.mark.parametrize("host", ["1.1.1.1", "[2606:4700:4700::1111]", "[64:ff9b::101:101]", "[2002:101:101::]"])
def test_what_counts_as_public(host: str) -> None:
    public_web.check_public(f"http://{host}/video.mp4")


def test_a_redirect_to_a_private_address_is_not_followed(
    layout: Layout, server: LocalServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host passes for public here, as no public one can be had; the one it sends to does not."""
    monkeypatch.setattr(public_web, "check_address", only_refuse_localhost)
    server.behaviours["public"] = Behaviour(redirect_to=server.url("whole.mp4", "localhost"))
    run(write_metafile(layout, {"video": server.url("public")}), "--only_public")
    assert failures(layout) == {"video": ("private address", False)}
    assert dict(server.requests) == {"public": 1}


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/video.mp4", "http://", "http://[::1", "ytsearch:cats"]
)
def test_only_the_web_is_asked(layout: Layout, run: Run, url: str) -> None:
    run(write_metafile(layout, {"video": url}))
    assert failures(layout) == {"video": ("bad URL", False)}
    assert repr(url) in noted(layout)[0]["message"]


def test_no_url_is_told(layout: Layout, run: Run) -> None:
    said = run(write_metafile(layout, {}, '{"video_id": "a video of no known site"}'))[1]
    assert "a video of no known site: the metafile gives no URL" in said


# --- the command -----------------------------------------------------------------------------------------------------


def test_bad_lines_are_counted_and_the_others_done(layout: Layout, server: LocalServer, run: Run) -> None:
    metafile = write_metafile(layout, {"video": server.url("whole.mp4")}, '{"video_id": "../../etc"}', "{torn")
    code, said = run(metafile)
    assert code == 1 and "1 video done, 2 failed" in said
    assert layout.video_path("video").exists()


def test_dry_run_writes_and_asks_nothing(layout: Layout, server: LocalServer, run: Run) -> None:
    code, said = run(write_metafile(layout, {"a1": server.url("whole.mp4"), "b2": server.url("x")}), "--dry_run")
    assert code == 0 and "2 videos to do" in said
    assert not layout.workdir.exists() and server.requests.total() == 0


def test_limit(layout: Layout, server: LocalServer, run: Run) -> None:
    metafile = write_metafile(layout, {f"video{n}": server.url("whole.mp4") for n in range(3)})
    assert run(metafile, "--limit", "2")[0] == 0
    assert [layout.video_path(f"video{n}").exists() for n in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--proxy", "https://host:1"), "--proxy https://host:1: not one of http, socks4"),
        (("--sleep", "-1"), "--sleep from 0"),
        (("--sleep", "nan"), "--sleep from 0"),
        (("--cookies", "/nowhere/cookies.txt"), "/nowhere/cookies.txt: not a cookie file"),
        (("--cookies", __file__), "not a cookie file in Netscape's format"),
        (("--metafile", "/nowhere/meta.jsonl"), "/nowhere/meta.jsonl: no such metafile"),
    ],
)
def test_a_wrong_set_up_is_one_line_and_status_2(
    layout: Layout, server: LocalServer, run: Run, flags: tuple[str, ...], said: str
) -> None:
    code, err = run(write_metafile(layout, {"video": server.url("whole.mp4")}), *flags)
    assert code == 2 and said in err and len(err.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_a_wrong_set_up(videos: Path, server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    source = SourceVideo("video", server.url("whole.mp4"), None)
    with pytest.raises(SetupError, match="can't write: Unable to create directory"):
        config = DownloadConfig(allow_private=True)
        download.fetch(source, tmp_path / "file" / "video.mp4", tmp_path / "video.json", config)


def test_a_disk_that_takes_no_more_is_a_wrong_set_up(layout: Layout, server: LocalServer) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    metafile = write_metafile(layout, {"video": server.url("whole.mp4")})
    copy = start_copy(layout, metafile, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    said = copy.communicate(timeout=300)[1]
    assert copy.returncode == 2 and "can't write" in said and len(said.splitlines()) == 1
    assert not (layout.videos_dir / "failed.jsonl").exists()


def test_cookies_are_read_and_the_users_file_is_never_changed(tmp_path: Path) -> None:
    users = tmp_path / "cookies.txt"
    users.write_text("# Netscape HTTP Cookie File\nexample.org\tFALSE\t/\tFALSE\t0\tname\tvalue\n")
    before = users.read_bytes()
    with download.private_cookies(users) as private:
        assert private is not None and private != users
        with yt_dlp.YoutubeDL(download.options(DownloadConfig(cookies_path=private))) as ydl:
            assert [cookie.value for cookie in ydl.cookiejar] == ["value"]
    assert users.read_bytes() == before and not private.exists()


@pytest.mark.parametrize(
    ("url", "pause_s", "expected"),
    [
        ("https://www.youtube.com/watch?v=QMi8x8o55Ns", None, download.YOUTUBE_PAUSE_S),
        ("https://youtu.be/QMi8x8o55Ns", 1.5, 1.5),
        ("https://notyoutube.com/x", None, 0),
        ("http://[::1", None, 0),
        (None, None, 0),
    ],
)
def test_pause(url: str | None, pause_s: float | None, expected: float) -> None:
    source = SourceVideo("x", url, None)
    assert download.pause_s(source, DownloadConfig(pause_s=pause_s)) == expected


def test_what_youtube_needs_is_installed() -> None:
    download.check_youtube_tools()


def test_what_youtube_lacks_is_said_at_start_and_no_fault_of_the_videos(layout: Layout, server: LocalServer) -> None:
    """As after an update of yt-dlp alone: another version of its EJS package is found first."""
    other = layout.workdir.parent / "other" / "yt_dlp_ejs-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: yt-dlp-ejs\nVersion: 0.0.1\n")

    def run_script(urls: dict[str, str]) -> tuple[int, list[str]]:
        metafile = write_metafile(layout, urls)
        script = [sys.executable, REPO_DIR / "download_videos.py", *command(layout, metafile)]
        env = {**os.environ, "PYTHONPATH": str(other.parent)}
        done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stderr.splitlines()

    status, said = run_script({"one": server.url("whole.mp4")})
    assert status == 0 and layout.video_path("one").exists(), "another site's videos need none of it"
    assert "yt-dlp-ejs==0.0.1 is not the one that this yt-dlp needs: pip install" in said[0]
    status, said = run_script({"QMi8x8o55Ns": "https://www.youtube.com/watch?v=QMi8x8o55Ns"})
    assert status == 2 and said[-1].startswith("error: yt-dlp-ejs==0.0.1 is not the one")
    assert not (layout.videos_dir / "failed.jsonl").exists()


# --- what messages mean ----------------------------------------------------------------------------------------------


def expected_error(text: str) -> ExtractorError:
    return ExtractorError(text, expected=True)


BLOCKED = [
    "Video unavailable. This content isn't available, try again later. The current session has been rate-limited by "
    "YouTube for up to an hour.",
    "Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies for the authentication.",
    "Video unavailable. YouTube is requiring a captcha challenge before playback",
    "All player responses are invalid. Your IP is likely being blocked by Youtube",
    "Unable to download API page: HTTP Error 429: Too Many Requests",
]
MESSAGES = [
    ("Private video. Sign in if you've been granted access to this video", "private", False),
    ("This video is private", "private", False),
    ("Video unavailable. This video has been removed by the uploader", "removed", False),
    ("Video unavailable. This video is no longer available because the YouTube account associated with this video has "
     "been terminated.", "removed", False),
    ("Video unavailable", "removed", False),
    ("This video is DRM protected", "DRM", False),
    ("Sign in to confirm your age. This video may be inappropriate for some users.", "age-restricted", False),
    ("Join this channel to get access to members-only content like this video", "members only", False),
    ("Video unavailable. The uploader has not made this video available in your country", "geo-blocked", False),
    ("Premieres in 3 hours", "upcoming", False),
    ("This live event will begin in 2 days.", "upcoming", False),
    ("Unable to download webpage: HTTP Error 404: Not Found", "not found (404)", False),
    ("Unable to download webpage: HTTP Error 503: Service Unavailable", "server error (5xx)", True),
    ("Unable to download webpage: The read operation timed out", "broken connection", True),
    ("Requested format is not available. Use --list-formats for a list of available formats", "no formats", True),
    ("No video formats found!", "no formats", True),
    ("Unable to download webpage: HTTP Error 403: Forbidden", "forbidden (403)", True),
    ("This account has some other wish", "refused by the site", False),
]  # fmt: skip


def as_ytdlp_raises(cause: Exception | None, text: str = "") -> DownloadError:
    return DownloadError(f"ERROR: {text or cause}", (type(cause), cause, None) if cause else (None, None, None))


@pytest.mark.parametrize("text", BLOCKED)
def test_messages_that_are_about_us_stop_the_worker(text: str) -> None:
    assert isinstance(download.translate(as_ytdlp_raises(expected_error(text)), []), StopWorkError)


@pytest.mark.parametrize(("text", "reason", "retry"), MESSAGES)
def test_messages_that_are_about_the_video(text: str, reason: str, retry: bool) -> None:
    error = download.translate(as_ytdlp_raises(expected_error(text)), [])
    assert isinstance(error, ItemError)
    assert (error.reason, error.retry) == (reason, retry)


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        (as_ytdlp_raises(None, "Got error: 9 bytes read, 5 more expected. Giving up"), "broken connection", True),
        (as_ytdlp_raises(None, "Did not get any data blocks"), "broken connection", True),
        (as_ytdlp_raises(TransportError("whatever the network says")), "broken connection", True),
        (as_ytdlp_raises(ExtractorError("no page", cause=TransportError("strange"))), "broken connection", True),
        (as_ytdlp_raises(GeoRestrictedError("not available from your location")), "geo-blocked", False),
        (as_ytdlp_raises(HTTPError(SimpleNamespace(status=418, reason="Teapot"))), "refused by the site", False),
        (as_ytdlp_raises(ExtractorError("Unable to extract title")), "extractor failed", True),
        (ZeroDivisionError("in an extractor"), "extractor failed", True),
    ],
)  # fmt: skip
def test_errors_whose_type_says_more_than_their_text(error: Exception, reason: str, retry: bool) -> None:
    translated = download.translate(error, [])
    assert isinstance(translated, ItemError)
    assert (translated.reason, translated.retry) == (reason, retry)


@pytest.mark.parametrize(
    ("error", "warnings"),
    [
        (as_ytdlp_raises(OSError(28, "No space left on device"), "unable to write data"), []),
        (as_ytdlp_raises(PermissionError(13, "Permission denied"), "unable to open for writing"), []),
        (as_ytdlp_raises(expected_error("No supported JavaScript runtime could be found")), []),
        (as_ytdlp_raises(expected_error("Requested format is not available")), ["n challenge solving failed: …"]),
        (as_ytdlp_raises(expected_error("Private video")), ["YouTube account cookies are no longer valid"]),
    ],
)  # fmt: skip
def test_messages_that_are_about_the_set_up(error: Exception, warnings: list[str]) -> None:
    assert isinstance(download.translate(error, warnings), SetupError)


# --- which format is taken -------------------------------------------------------------------------------------------


def video_only(height: int, *, width: int | None = None, fps: int = 30, codec: str = "avc1.4d401f") -> dict[str, Any]:
    width = width or height * 16 // 9
    return {
        "format_id": f"{min(height, width)}p{fps}-{codec[:4]}",
        "height": height,
        "width": width,
        "fps": fps,
        "vcodec": codec,
        "acodec": "none",
        "ext": "mp4",
        "url": "https://host/x",
        "protocol": "https",
    }


def with_audio(format: dict[str, Any], **changes: str) -> dict[str, Any]:
    return format | {"acodec": "mp4a.40.2"} | changes


def upscaled(format: dict[str, Any]) -> dict[str, Any]:
    """As yt-dlp describes YouTube's super resolution."""
    return format | {"format_id": f"{format['format_id']}-sr", "format_note": "720p, AI-upscaled"}


AUDIO = {"format_id": "audio", "vcodec": "none", "acodec": "mp4a.40.2", "ext": "m4a", "url": "https://host/a"}


@pytest.mark.parametrize(
    ("formats", "chosen"),
    [
        pytest.param([video_only(480), video_only(720), video_only(720, fps=60)], "720p60-avc1", id="30 and 60 fps"),
        pytest.param([video_only(480), video_only(720, fps=60), video_only(1080)], "720p60-avc1", id="only 720p60"),
        pytest.param([video_only(720, codec="av01.0.05M.08"), video_only(720, codec="vp9"), video_only(720)],
                     "720p30-avc1", id="H.264 before AV1 and VP9"),
        pytest.param([video_only(480, codec="vp9"), video_only(720, codec="vp9")], "720p30-vp9", id="only VP9"),
        pytest.param([with_audio(video_only(360))], "360p30-avc1", id="only progressive"),
        pytest.param([video_only(1280, width=720), video_only(1920, width=1080)], "720p30-avc1", id="portrait"),
        pytest.param([with_audio(video_only(h), protocol="m3u8_native") for h in (360, 720, 1080)],
                     "720p30-avc1", id="only HLS"),
        pytest.param([video_only(1080), video_only(2160)], "1080p30-avc1", id="only above 720p: the smallest"),
        pytest.param([video_only(480), upscaled(video_only(720)), upscaled(video_only(1080))],
                     "480p30-avc1", id="720p that YouTube made of 480p"),
        pytest.param([with_audio(video_only(360), format_note="360p"), upscaled(with_audio(video_only(720)))],
                     "360p30-avc1", id="720p that YouTube made of 360p, progressive"),
        pytest.param([upscaled(video_only(720))], "720p30-avc1-sr", id="nothing but what YouTube made"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("audio", [False, True])
def test_which_format_is_taken(formats: list[dict[str, Any]], chosen: str, audio: bool) -> None:
    """Through yt-dlp's own selector, with the options that downloads use."""
    info = {"id": "x", "title": "x", "extractor": "test", "extractor_key": "Test", "webpage_url": "https://host/"}
    with yt_dlp.YoutubeDL(download.options(DownloadConfig(audio=audio))) as ydl:
        found = ydl.process_ie_result(info | {"formats": [dict(AUDIO), *map(dict, formats)]}, download=False)
    separate = formats[0]["acodec"] == "none"
    assert found["format_id"] == (f"{chosen}+audio" if audio and separate else chosen)
