"""Names that others wrote never lead out of their folder, and every file has one place."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackverse import files, layout
from trackverse.errors import RecordError
from trackverse.layout import Layout, ObjectTracksLayout, TracksLayout, check_name

GOOD_NAMES = {
    "a YouTube id": "QMi8x8o55Ns",
    "begins with a dash": "-abcDEF_123",
    "begins with two dashes": "--version",
    "a space inside": "my holiday video",
    "a dot inside": "QMi8x8o55Ns.1.mp4",
    "one character": "x",
    "letters of other alphabets": "видео-ビデオ",
    "an emoji": "cat 🐈",
    "letters that look like a way up": "․․／x",
    "a Windows device": "CON",
    "a Windows stream": "a:b",
    "ends with a dot": "abc.",
    "quotes and shell characters": "a'b\"$(rm)*;",
    "200 bytes": "x" * 200,
    "200 bytes in 100 letters": "é" * 100,
}
BAD_NAMES = {
    "empty": "",
    "a hidden file's name": ".profile",
    "the folder itself": ".",
    "the folder above": "..",
    "out of the folder": "../x",
    "out of the folder later on": "a/../../x",
    "its shard would be the folder above": "..abc",
    "absolute": "/etc/passwd",
    "a folder": "a/b",
    "a Windows folder": "a\\b",
    "a NUL": "a\0b",
    "a newline": "a\nb",
    "an escape": "a\x1b[31mb",
    "a C1 control character": "a\x85b",
    "200 bytes and one": "x" * 201,
    "300 bytes": "x" * 300,
    "300 bytes in 150 letters": "é" * 150,
    "reads from the right": "a\u202egpj.exe",
    "a bidi isolate": "a\u2066b",
    "a zero-width space": "a\u200bb",
    "a byte order mark": "\ufeffabc",
    "a soft hyphen": "a\u00adb",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "half a surrogate pair": "a\ud800",
    "only a space": " ",
    "a space before": " abc",
    "a space after": "abc ",
}
NAMES = st.text(max_size=220) | st.text(alphabet="./\\a -\0\n", max_size=8)


@pytest.mark.parametrize("name", GOOD_NAMES.values(), ids=GOOD_NAMES)
def test_plain_file_names_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    assert check_name(name) == name
    for path in paths_of(tmp_path, name):
        with files.atomic_write(path) as file:  # the longest that is ever made of a name: its hidden temporary file
            file.write(b"x")
        assert path.read_bytes() == b"x"


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_anything_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError) as caught:
        check_name(name)
    assert caught.value.reason == "bad id"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(RecordError):
        paths_of(tmp_path, name)
    with pytest.raises(RecordError):
        Layout(tmp_path).mined_part_path(name, 0)


def paths_of(workdir: Path, video_id: str) -> list[Path]:
    """Every path that is made of a video's id."""
    places, tracks = Layout(workdir), TracksLayout(workdir / "tracks_meta" / "coco")
    clips = ObjectTracksLayout(places.object_tracks_video_dir(video_id), video_id)
    return [
        places.video_path(video_id),
        places.provenance_path(video_id),
        places.blurred_path(video_id),
        places.clip_path(video_id, video_id),
        places.scenes_path(video_id),
        clips.records_path,
        clips.mot_path,
        clips.video_path,
        tracks.meta_path(video_id),
        tracks.progress_path(video_id),
        tracks.embeddings_path(video_id),
        layout.lock_path(tracks.meta_path(video_id)),
    ]


@given(NAMES)
def test_no_name_leads_out_of_the_work_folder(name: str) -> None:
    workdir = Path("/work folder")
    try:
        paths = paths_of(workdir, name)
    except RecordError:
        return
    for path in paths:
        assert path.is_relative_to(workdir)
        assert ".." not in path.parts
        assert all(len(part.encode()) <= 255 for part in path.parts)
    assert len(set(paths)) == len(paths)


ENDINGS = ["a", "b", "-", ".", ".tmp", ".mp4", "-meta", "-progress", ".jsonl", ".gzip", ".lock"]
PIECES = st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=5)
CONFUSABLE = PIECES.map("".join)


@given(CONFUSABLE, CONFUSABLE)
def test_two_ids_never_share_a_file(one: str, other: str) -> None:
    """Hidden temporary names and locks count as files too."""
    try:
        names = {name: paths_of(Path("/w"), name) for name in {one, other}}
    except RecordError:
        return
    everything = [path for paths in names.values() for path in [*paths, *map(files.temporary_path, paths)]]
    assert len(set(everything)) == len(everything)


def test_the_documented_places() -> None:
    places = Layout(Path("w"))
    assert places.video_path("QMi8x8o55Ns") == Path("w/videos_mp4/QM/QMi8x8o55Ns.mp4")
    assert places.provenance_path("QMi8x8o55Ns") == Path("w/videos_mp4/QM/QMi8x8o55Ns.json")
    assert places.clip_path("QMi8x8o55Ns", "QMi8x8o55Ns.1.mp4") == Path(
        "w/video_clips/QM/QMi8x8o55Ns/QMi8x8o55Ns.1.mp4"
    )
    assert places.scenes_path("QMi8x8o55Ns") == Path("w/video_scenes/QM/QMi8x8o55Ns.json")
    assert places.mined_part_path("lvis", 3) == Path("w/mined_segments/lvis/part3.jsonl")
    tracks = TracksLayout(Path("w/tracks_meta/lvis"))
    assert tracks.meta_path("QMi8x8o55Ns") == Path("w/tracks_meta/lvis/QM/QMi8x8o55Ns-meta.jsonl.gzip")
    assert tracks.progress_path("QMi8x8o55Ns") == Path("w/tracks_meta/lvis/QM/QMi8x8o55Ns-progress.json")
    subset = Path("w/tracks_subsets/lvis/random-50k.jsonl.gzip")
    assert layout.sidecar_beside(subset) == Path("w/tracks_subsets/lvis/random-50k.json")


@pytest.mark.parametrize("video_id", ["QMi8x8o55Ns", "-meta.jsonl", "a-meta", "x"])
def test_what_lies_beside_a_track_file_is_found_from_it(video_id: str) -> None:
    tracks = TracksLayout(Path("w"))
    assert layout.progress_beside(tracks.meta_path(video_id)) == tracks.progress_path(video_id)
    assert layout.embeddings_beside(tracks.meta_path(video_id)) == tracks.embeddings_path(video_id)


def test_listings_pass_over_temporary_files_and_locks(tmp_path: Path) -> None:
    places, tracks = Layout(tmp_path), TracksLayout(tmp_path / "meta")
    ids = ["zz top", "-abc", "abc"]
    for video_id, make in itertools.product(ids, [places.scenes_path, tracks.meta_path]):
        path = make(video_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        for beside in (path, files.temporary_path(path), layout.lock_path(path)):
            beside.touch()
    assert places.scenes_paths() == sorted(map(places.scenes_path, ids))
    assert tracks.meta_paths() == sorted(map(tracks.meta_path, ids))
