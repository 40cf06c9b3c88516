"""The six stages, splits and takedowns on small real input: what each begins with, its command line, and what has to
come out."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import made_tracks
import shelf

from trackverse import jsonl, scenes, transcode
from trackverse.layout import ASSETS_DIR, Layout
from trackverse.scenes import CutConfig, Segment, VideoScenes
from trackverse.types import Clip
from trackverse.video import cut_clip

STREET = ASSETS_DIR / "demo" / "street.mp4"
STREET_ID = "StreetDemo1"
VIDEO_IDS = ("-two_shots_", "plainvideo1")
# Small boxes and short segments, so that there is something to keep; few frames, so that it is quick.
QUICK = ("--min_track_area", "0", "--min_track_len", "0.3", "--frame_rate", "4", "--frame_size", "416")
TIMES = re.compile(rb'"(retrieved_at|forgotten_at|at)": ?"[^"]*"')


@dataclass(frozen=True)
class Stage:
    """A stage: `prepare` fills a work folder with its input, `argv` is its command line for that folder.

    `prepare` and `argv` are given the address of a web server. `status` is what an undisturbed run ends with.
    """

    name: str
    prepare: Callable[[Path, str], None]
    argv: Callable[[Path, str], list[object]]
    status: int = 0


def write_lines(path: Path, entries: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def make_site(folder: Path) -> None:
    """What the web server serves: an MP4, and a WebM, which has to be put into an MP4."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for name, codec in (("first.mp4", "libx264"), ("second.webm", "libvpx-vp9")):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(10):
                image = noise.integers(0, 255, (48, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())


def list_site(workdir: Path, address: str) -> None:
    names = {"firstvideo1": "first.mp4", "secondvide2": "second.webm", "-gonevideo3": "gone.mp4"}
    write_lines(workdir / "list.jsonl", [{"video_id": key, "url": f"{address}/{name}"} for key, name in names.items()])


def add_videos(workdir: Path, address: str) -> None:
    """Two downloaded videos with their provenance, and one that is listed but not there."""
    layout = Layout(workdir)
    for video_id, draw in zip(VIDEO_IDS, (shelf.two_shots, shelf.with_sound), strict=True):
        path = layout.video_path(video_id)
        path.parent.mkdir(parents=True)
        draw(path.parent).rename(path)
        layout.provenance_path(video_id).write_text('{"url":null}\n')
    write_lines(workdir / "list.jsonl", [{"video_id": video_id} for video_id in (*VIDEO_IDS, "missingvid0")])


def add_street(workdir: Path, address: str) -> None:
    """The street, twice, and a metafile part: two segments of the first that touch, one of the second."""
    layout = Layout(workdir)
    spans: dict[str, list[list[float]]] = {STREET_ID: [[0.5, 2.0], [2.0, 3.0]], "StreetDemo2": [[1.0, 2.0]]}
    for video_id in spans:
        path = layout.video_path(video_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_clip(STREET, path, 4.0, 7.0, mode="copy")
        layout.provenance_path(video_id).write_text('{"url":null}\n')
    write_lines(
        workdir / "part0.jsonl",
        [
            {
                "video_id": key,
                "clip": [{"clip_id": f"{key}.{n}.mp4", "span": span} for n, span in enumerate(spans[key])],
            }
            for key in spans
        ],
    )


def add_clips(workdir: Path, address: str) -> None:
    """Two clips of the street, as the cutting stage leaves them."""
    layout = Layout(workdir)
    add_street(workdir, address)
    clips = [Clip(STREET_ID, f"{STREET_ID}.{n}.mp4", 0.5 + n, 1.5 + n) for n in range(2)]
    for clip in clips:
        path = layout.clip_path(STREET_ID, clip.clip_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_clip(layout.video_path(STREET_ID), path, clip.start_s, clip.end_s, mode="encode")
    segments = tuple(map(Segment, clips))
    spans = tuple((clip.start_s, clip.end_s) for clip in clips)
    cut = VideoScenes(STREET_ID, None, 3.0, CutConfig(), None, "encode", spans, segments)
    scenes.save(layout.scenes_path(STREET_ID), cut)


def add_tracks(workdir: Path, address: str) -> None:
    """Track files of six videos."""
    label_ids = {f"video{n:06d}": [n % 3, (n + 1) % 3, 5, 7] for n in range(6)}
    made_tracks.fill_store(workdir / "tracks_meta" / "coco", label_ids)


def add_data_set(workdir: Path, address: str) -> None:
    """Track files of six videos, a subset of them, segments, failures, and a clip of the first."""
    add_tracks(workdir, address)
    layout = Layout(workdir)
    ids = [f"video{n:06d}" for n in range(6)]
    subset(workdir).parent.mkdir(parents=True)
    lines = [jsonl.gzip_member(json.dumps({"yid": key, "track_id": 0, "top10_desc": ["a"]}).encode()) for key in ids]
    subset(workdir).write_bytes(b"".join(lines))
    told = {"num_chosen": 6, "classes": {"a": {"chosen": 6}}}
    subset(workdir).with_name("best.json").write_text(json.dumps(told))
    layout.mined_part_path("coco", 0).parent.mkdir(parents=True)
    write_lines(layout.mined_part_path("coco", 0), [{"video_id": key} for key in ids])
    layout.videos_dir.mkdir()
    write_lines(layout.videos_dir / "failed.jsonl", [{"key": ids[1], "reason": f"as bad as {ids[0]}"}])
    clip_path = layout.clip_path(ids[0], f"{ids[0]}.0.mp4")
    clip_path.parent.mkdir(parents=True)
    clip_path.write_bytes(b"of the first")
    (workdir / "splits").mkdir()
    for name, part in (("train", ids[:3]), ("val", ids[3:5]), ("test", ids[5:])):
        (workdir / "splits" / f"{name}.txt").write_text("".join(f"{key}\n" for key in part))
    told = {name: {"videos": 3} for name in ("train", "val", "test")} | {"near_duplicates": [ids[:2], ids[2:5]]}
    (workdir / "splits" / "split.json").write_text(json.dumps(told))


def subset(workdir: Path) -> Path:
    return workdir / "tracks_subsets" / "coco" / "best.jsonl.gzip"


def tracks_dir(workdir: Path) -> Path:
    return workdir / "tracks_meta" / "coco"


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "download",
            list_site,
            lambda workdir, address: [
                "download_videos.py", "--workdir", workdir, "--metafile", workdir / "list.jsonl", "--allow_private",
                "--max_per_hour", "10000000", "--retries", "0",
            ],
            status=1,
        ),
        Stage(
            "cut",
            add_videos,
            lambda workdir, address: [
                "cut_videos.py", "--workdir", workdir, "--metafile", workdir / "list.jsonl", "--min_scene_len", "0.5",
                "--filters", "length", "cartoon=off", "aesthetics=off",
            ],
            status=1,
        ),
        Stage(
            "blur",
            add_videos,
            lambda workdir, address: ["gdpr_blur_faces.py", "--workdir", workdir, "--plates", "off"],
        ),
        Stage(
            "blur in place",
            add_videos,
            lambda workdir, address: ["gdpr_blur_faces.py", "--in_place", workdir / "videos_mp4", "--plates", "off"],
        ),
        Stage(
            "parse",
            add_street,
            lambda workdir, address: [
                "parse_tracks.py", "--workdir", workdir, "--clips_metafile", workdir / "part0.jsonl",
                "--output_dir", tracks_dir(workdir), *QUICK,
            ],
        ),
        Stage(
            "track",
            add_clips,
            lambda workdir, address: ["track_objects.py", "--workdir", workdir, "--visualize", *QUICK],
        ),
        Stage(
            "curate",
            add_tracks,
            lambda workdir, address: [
                "curate_db.py", "--tracks_dir", tracks_dir(workdir), "--output_file", subset(workdir),
                "--criterion", "class_balanced", "--num_samples_per_class", "2",
            ],
        ),
        Stage(
            "split",
            add_tracks,
            lambda workdir, address: [
                "-m", "trackverse.split", "--tracks_dir", tracks_dir(workdir), "--output_dir", workdir / "splits",
            ],
        ),
        Stage(
            "forget",
            add_data_set,
            lambda workdir, address: ["-m", "trackverse.forget", "video000000", "--workdir", workdir],
        ),
    )
}  # fmt: skip


def copy(folder: Path, target: Path) -> Path:
    return shutil.copytree(folder, target, symlinks=True)


def contents(workdir: Path) -> dict[str, object]:
    """What is in a work folder, to be compared: every file by name; records as sorted lines; times of day left out.

    A failed item is noted again by every run that fails on it, so of the list of failures only the last word on each
    counts.
    """
    found: dict[str, object] = {}
    for path in sorted(workdir.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(workdir))] = "link"
        elif path.is_file():
            found[str(path.relative_to(workdir))] = _content(path)
    return found


def _content(path: Path) -> object:
    if path.name == "failed.jsonl":
        entries = [json.loads(line) for line in path.read_text().splitlines()]  # a torn line would raise
        return {entry["key"]: entry["reason"] for entry in entries}
    if path.name.endswith(".jsonl.gzip"):
        return sorted(line for _, line in jsonl.read_lines(path))
    if path.name.endswith(".blurred.json"):
        return json.loads(path.read_text())["blurred"]  # the video's last bits, see below, are in the rest
    if path.name == "last_start.txt":
        return "a time"
    if path.suffix == ".mp4" and (comment := transcode.comment_of(path)):
        # Blurred: encoded from frames whose last bits are not the same in every run, so times and mark stand for it.
        return comment, transcode.frame_times(path).tolist()
    return TIMES.sub(b'"\\1":""', path.read_bytes())


def _sizes(ours: object, theirs: object) -> str:
    """How much two contents differ."""
    if not (isinstance(ours, bytes) and isinstance(theirs, bytes)):
        return f"{ours} for {theirs}"
    places = [n for n, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other]
    return f"{len(ours)} bytes for {len(theirs)}, {len(places)} of them different, the first {places[:1]}"


def differences(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """In words: what is lost, doubled, changed or left lying."""
    said = [f"lost: {name}" for name in sorted(wanted.keys() - found.keys())]
    for name in sorted(found.keys() - wanted.keys()):
        is_hidden = any(part.startswith(".") for part in Path(name).parts)
        said.append(f"litter: {name}" if is_hidden else f"too much: {name}")
    for name in sorted(found.keys() & wanted.keys()):
        ours, theirs = found[name], wanted[name]
        if ours == theirs:
            continue
        if isinstance(ours, list) and isinstance(theirs, list):
            kind = "duplicate" if len(set(ours)) < len(ours) else "lost" if set(theirs) - set(ours) else "changed"
            said.append(f"{kind}: records of {name}, {len(ours)} for {len(theirs)}")
        else:
            said.append(f"changed: {name}, {_sizes(ours, theirs)}")
    return said
