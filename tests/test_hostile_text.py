"""Metadata, records and progress files that were made to do harm: bounded, counted, and never a crash."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_tracks import fill_store

from trackverse import jsonl, metafile, progress, scenes, store
from trackverse.errors import RecordError
from trackverse.layout import REPO_DIR, TracksLayout, check_name, progress_beside
from trackverse.records import parse_record, parse_summary
from trackverse.vectors import load_matrix

PEAK_MB = 700  # the stated bound: of a process that reads any text file of others, 40 of which are Python's own


def metafile_reasons(path: Path) -> list[str]:
    reasons: list[str] = []
    for video in metafile.read_metafile(path, lambda error: reasons.append(error.reason)):
        check_name(video.video_id)
        for clip in video.clips or ():
            check_name(clip.clip_id)
    return reasons


# ---- what is refused, by name

DEEP = b"[" * 900 + b"]" * 900
LINES = {
    "a key twice": (b'{"video_id": "QMi8x8o55Ns", "video_id": "../../etc"}', "bad JSON"),
    "a key twice within": (
        b'{"video_id": "a", "clip": [{"clip_id": "a.1", "clip_id": "b", "span": [1, 2]}]}',
        "bad JSON",
    ),
    "not a number": (b'{"video_id": "a", "clip": [{"clip_id": "a.1", "span": [NaN, 2]}]}', "bad JSON"),
    "a number beyond all bounds": (b'{"video_id": "a", "clip": [{"clip_id": "a.1", "span": [1e999, 2]}]}', "bad line"),
    "a whole number beyond all bounds": (
        b'{"video_id": "a", "clip": [{"clip_id": "a.1", "span": [-1' + b"0" * 400 + b", 2]}]}",
        "bad line",
    ),
    "a time before the beginning": (b'{"video_id": "a", "clip": [{"clip_id": "a.1", "span": [-1, 2]}]}', "bad line"),
    "nested without end": (b'{"video_id": ' + b"[" * 99_999, "bad JSON"),
    "nested deeply": (b'{"video_id": ' + DEEP + b"}", "bad line"),
    "a span nested deeply": (
        b'{"video_id": "a", "clip": [{"clip_id": "a.1", "span": [' + DEEP + b", 2]}]}",
        "bad line",
    ),
    "a number as id": (b'{"video_id": 5}', "bad line"),
    "a list as id": (b'{"video_id": ["a"]}', "bad line"),
    "an object as URL": (b'{"video_id": "a", "url": {}}', "bad line"),
    "clips that are text": (b'{"video_id": "a", "clip": "abc"}', "bad line"),
    "clips that are numbers": (b'{"video_id": "a", "clip": [1, 2]}', "bad line"),
    "an id that leads out": (b'{"video_id": "../../etc/passwd"}', "bad line"),
    "an absolute id": (b'{"video_id": "/etc/passwd"}', "bad line"),
    "a NUL in the id": (b'{"video_id": "a\\u0000b"}', "bad line"),
    "a hidden id": (b'{"video_id": ".bashrc"}', "bad line"),
    "a clip that leads out": (b'{"video_id": "a", "clip": [{"clip_id": "../a.1", "span": [1, 2]}]}', "bad line"),
    "a mined clip that leads out": (b'{"clip_id": "../../a.1", "duration": [1, 2]}', "bad line"),
    "a local file as URL": (b"file:///etc/passwd", "bad line"),
    "an option": (b"--exec=id", "bad line"),
    "a program": (b"ytsearch:cats", "bad line"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["lines", "an array"])
@pytest.mark.parametrize(("line", "reason"), LINES.values(), ids=LINES)
def test_a_harmful_line_is_counted_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str, packed: bool
) -> None:
    path = tmp_path / "meta.json"
    others = [b'{"video_id": "before"}', b'{"video_id": "after"}']
    found: list[str] = []
    errors: list[RecordError] = []
    if packed and not line.startswith(b"{"):
        pytest.skip("not an item of an array")
    parts = [others[0], line, others[1]]
    path.write_bytes(b"[" + b",".join(parts) + b"]" if packed else b"\n".join(parts))
    found = [video.video_id for video in metafile.read_metafile(path, errors.append)]
    assert found[0] == "before" and len(errors) == 1
    assert len(str(errors[0])) < 1000 and "\n" not in str(errors[0])
    if not packed:
        assert (found, errors[0].reason) == (["before", "after"], reason)


# ---- bounds, in a process of its own whose peak is measured


def bomb_line(path: Path) -> None:
    """A quarter of a billion letters in one line."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1 << 8):
            file.write(b"x" * (1 << 20))


def bomb_blank(path: Path) -> None:
    """A quarter of a billion empty lines."""
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(1 << 8):
            file.write(b"\n" * (1 << 20))


def long_line(path: Path) -> None:
    """A line of a billion letters that takes no room on the disk: the file has a hole."""
    with open(path, "wb") as file:
        file.write(b'{"video_id": "')
        file.seek(1 << 30)
        file.write(b'"}\n')


def long_string_in_array(path: Path) -> None:
    path.write_bytes(b'[{"video_id": "a"}, {"video_id": "' + b"x" * (80 << 20) + b'"}]')


def many_lists(path: Path) -> None:
    """What takes most memory for its bytes: lists in a list, as long as a line may be."""
    path.write_bytes(b'{"video_id": [' + b"[]," * ((jsonl.MAX_LINE_BYTES - 40) // 3) + b"0]}\n")


def many_lists_in_array(path: Path) -> None:
    many_lists(path)
    path.write_bytes(b"[" + path.read_bytes().strip() + b"]")


def record_of(path: Path, **changes: object) -> bytes:
    """A record of ours, changed."""
    layout = fill_store(path.parent / "made", {"video": [3]})
    (line,) = gzip.decompress(layout.meta_path("video").read_bytes()).splitlines()
    return json.dumps(json.loads(line) | changes).encode() + b"\n"


def days_between_two_frames(path: Path) -> None:
    """400 tracks of two frames, with two million half seconds between them."""
    line = record_of(path, frame_ts=[0.0, 999_999.0], frame_bboxes=[[0, 0, 9, 9]] * 2)
    path.write_bytes(gzip.compress(line) * 400)


def days_of_frames(path: Path) -> None:
    """Tracks of a day with a frame every other second."""
    line = record_of(path, frame_ts=[2 * n for n in range(43_200)], frame_bboxes=[[0, 0, 9, 9]] * 43_200)
    path.write_bytes(gzip.compress(line) * 10)


BOMBS: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "a line of 256 MB in 1 MB": (bomb_line, {"line too long", "gzip bomb"}),
    "256 million empty lines": (bomb_blank, {"gzip bomb"}),
    "a line of 1 GB": (long_line, {"line too long", "set-up"}),
    "a text of 80 MB in an array": (long_string_in_array, {"line too long"}),
    "5 million lists": (many_lists, {"bad line"}),
    "5 million lists in an array": (many_lists_in_array, {"bad line", "line too long"}),
    "eleven days between two frames": (days_between_two_frames, {"bad line"}),
    "days of frames": (days_of_frames, {"bad line"}),
}


@pytest.mark.parametrize(("make", "reasons"), BOMBS.values(), ids=BOMBS)
def test_memory_is_bounded(tmp_path: Path, make: Callable[[Path], None], reasons: set[str]) -> None:
    path = tmp_path / "meta-meta.jsonl.gzip"
    make(path)
    code = """
import re, sys
from pathlib import Path
from trackverse import metafile, store, worklist
from trackverse.errors import RecordError, SetupError
path = Path(sys.argv[1])
errors = []
try:
    list(metafile.read_metafile(path, lambda error: errors.append(error.bare())))
except SetupError:
    print("set-up")
print(*{error.reason for error in errors}, sep="\\n")
for read in (store.read_columns, lambda path: list(store.read_records(path)), worklist.load_failures):
    try:
        read(path)
    except RecordError as error:
        pass
print(int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPO_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *found, peak_mb = done.stdout.split("\n")[:-1]
    print(f"peak: {peak_mb} MB")
    assert set(found) & reasons
    assert int(peak_mb) < PEAK_MB


def test_a_file_that_shrinks_well_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand lines that differ in their ids, looked at all along."""
    monkeypatch.setattr(jsonl, "INFLATION_BLOCK_BYTES", 1000)
    path = tmp_path / "meta.jsonl.gz"
    lines = (b'{"video_id": "video-%05d", "url": "https://example.org/a"}\n' % n for n in range(1000))
    path.write_bytes(gzip.compress(b"".join(lines)))
    assert metafile_reasons(path) == []
    path.write_bytes(gzip.compress(b" " * 10_000_000))
    assert metafile_reasons(path) == ["gzip bomb"]


# ---- whatever else there may be

ODD_NUMBERS = st.sampled_from([0, -1, 1 << 63, 1 << 64, 10**300, -(10**400), 1e308, 5e-324, 0.1, True])
ODD_TEXTS = st.text(max_size=12) | st.sampled_from(["../x", "\0", "a\nb", "-x", "00:00:01", "9" * 40, "\ud800", "<b>"])
ODD_VALUES = st.recursive(
    st.none() | ODD_NUMBERS | ODD_TEXTS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
HDVILA: dict[str, Any] = {
    "video_id": "QMi8x8o55Ns",
    "url": "https://www.youtube.com/watch?v=QMi8x8o55Ns",
    "clip": [{"clip_id": "QMi8x8o55Ns.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]}],
}
MINED: dict[str, Any] = {"clip_id": "QMi8x8o55Ns.1", "duration": [1.5, 3.5]}


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, part in inner for place in places(part, (*way, key)))]


def changed(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = changed(value[way[0]], way[1:], new)
    return copy


def spoiled(*originals: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One of the values with something else in one to three places."""

    def once(value: Any) -> st.SearchStrategy[Any]:
        return st.builds(lambda way, new: changed(value, way, new), st.sampled_from(places(value)), ODD_VALUES)

    return st.sampled_from(originals).flatmap(once).flatmap(lambda value: once(value) | st.just(value))


QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@QUICK
@given(spoiled(HDVILA, MINED) | ODD_VALUES)
def test_any_value_as_a_line_of_metadata(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "meta.jsonl"
    for text in (json.dumps(value), json.dumps([value, HDVILA])):
        path.write_text(text + "\n")
        assert set(metafile_reasons(path)) <= {"bad line", "bad JSON"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A track file of ours, and its records."""
    layout = fill_store(tmp_path_factory.mktemp("tracks"), {"video": [3, 5]})
    path = layout.meta_path("video")
    return path, [json.loads(line) for _, line in store.read_lines(path)]


def foreign(own: dict[str, Any]) -> list[dict[str, Any]]:
    """The record in the two published layouts."""
    tid = {"tid": own["track_id"], "fn": "a.mp4", "track_ts": own["frame_ts"], "track_bbox": own["frame_bboxes"]}
    tid |= {"top10_logit_mu": own["top10_cls"][0], "top10_logit_std": own["top10_cls"][1]}
    tid |= {"top10_wlogit_mu": own["top10_wcls"][0], "top10_wlogit_std": own["top10_wcls"][1]}
    tid |= {key: own[key] for key in ("top10_lbl", "top10_desc")}
    ids = {key: own[key] for key in ("track_id", "track_ts", "frame_ts", "frame_bboxes", "yid")}
    ids |= {"track_mp4_filename": "a.mp4", "top10_label_ids": own["top10_lbl"], "top10_label_names": own["top10_desc"]}
    return [tid, ids]


@QUICK
@given(data=st.data())
def test_any_value_as_a_record(records: tuple[Path, list[dict[str, Any]]], data: st.DataObject) -> None:
    own = records[1][0]
    value = data.draw(spoiled(own, *foreign(own)) | ODD_VALUES)
    line = json.dumps(value).encode()
    for parse in (parse_record, parse_summary):
        try:
            parse(line, "here", "video")
        except RecordError as error:
            assert error.reason in ("bad record", "bad JSON")
            assert len(str(error)) < 600


@QUICK
@given(data=st.data())
def test_any_value_as_a_progress_file(records: tuple[Path, list[dict[str, Any]]], data: st.DataObject) -> None:
    meta_path, _ = records
    path = progress_beside(meta_path)
    whole = path.read_bytes()
    value = data.draw(spoiled(json.loads(whole)) | ODD_VALUES)
    try:
        path.write_text(json.dumps(value))
        try:
            assert progress.load(path)
            progress.load_meta_bytes(path)
        except RecordError as error:
            assert error.reason in ("bad progress file", "bad JSON", "newer version")
        store.read_columns(meta_path)
    finally:
        path.write_bytes(whole)


SCENES: dict[str, Any] = {
    "video_id": "video", "url": None, "duration": 9.5, "num_listed": None, "clip_mode": "copy", "scenes": [[0.0, 9.5]],
    "settings": {"scene_detector": "none", "min_scene_len_s": 3, "max_scene_len_s": 9, "max_flat": 1, "min_quality": 0},
    "segments": [{"clip_id": "video.0.mp4", "start": 0.0, "end": 9.5, "scores": {"flat": 0.1}, "reason": None}],
}  # fmt: skip


@QUICK
@given(spoiled(SCENES) | ODD_VALUES)
@example(SCENES)
def test_any_value_as_a_scenes_file(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "video.json"
    path.write_text(json.dumps(value))
    try:
        cut = scenes.load(path)
    except RecordError as error:
        assert error.reason in ("bad scenes file", "bad JSON")
        return
    assert cut and cut.video_id == "video"
    for clip in cut.kept:
        check_name(clip.clip_id)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f2', 'fortran_order': False, 'shape': (10000000000, 512), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 8), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (" + "9" * 200 + ", 8), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 8), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 8), }",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (16,), }",
        "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (2, 8), }",
        "[" * 5000,
    ],
    ids=["10 billion rows", "negative", "200 digits", "objects", "integers", "one dimension", "a call", "deep"],
)
def test_a_header_that_lies_costs_no_memory(tmp_path: Path, header: str) -> None:
    path = tmp_path / "video-embeddings.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n" + b"\0" * 64)
    with pytest.raises(ValueError):
        load_matrix(path)
    with pytest.raises(RecordError) as caught:
        store.load_embeddings(path)
    assert caught.value.reason == "bad embeddings"


def test_an_archive_is_no_matrix(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros((2, 2)))
    with pytest.raises(ValueError):
        load_matrix(path)


def test_the_tracks_of_a_whole_folder_survive_a_neighbour_of_nonsense(tmp_path: Path) -> None:
    layout = TracksLayout(tmp_path)
    fill_store(tmp_path, {"good": [1, 2]})
    bad = layout.meta_path("bad")
    bad.parent.mkdir()
    bad.write_bytes(b"\x1f\x8b" + b"nonsense")
    (_, errors), ((good,), none) = map(store.read_columns, layout.meta_paths())
    assert [error.reason for error in errors] == ["torn gzip"]
    assert len(good.videos) == 2 and not none
