"""Progress files: what was saved is there, what is not one of ours is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trackverse import progress
from trackverse.errors import RecordError
from trackverse.progress import Progress

SETTINGS = {"detector": "nanodet sha256:abc", "vocab": "coco", "fps": 16.0, "lengths": [3, 600]}


def test_no_file_is_no_progress(tmp_path: Path) -> None:
    assert progress.load(tmp_path / "a-progress.json") is None


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "QM" / "a-progress.json"
    saved = Progress(settings=SETTINGS).plus(0, 5.5, num_tracks=2, num_bytes=700).plus(7, 9, num_tracks=0, num_bytes=0)
    progress.save(path, saved)
    assert progress.load(path) == saved
    assert saved == Progress(((0.0, 5.5), (7.0, 9.0)), 2, 700, SETTINGS)


def test_the_documented_keys_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a-progress.json"
    progress.save(path, Progress(settings=SETTINGS).plus(0.5, 2, num_tracks=3, num_bytes=99))
    content = json.loads(path.read_text())
    assert content["segments_complete"] == [[0.5, 2.0]]
    assert content["num_tracks"] == 3
    assert content["schema"] == "trackverse/1"


SEGMENTS = {
    "exactly it": (1.2345, 6.5, True),
    "another by less than is stored": (1.23451, 6.50004, True),
    "another start": (1.2347, 6.5, False),
    "another end": (1.2345, 6.6, False),
    "a part of it": (2, 3, False),
}


@pytest.mark.parametrize(("start_s", "end_s", "there"), SEGMENTS.values(), ids=SEGMENTS)
def test_which_segments_are_complete(tmp_path: Path, start_s: float, end_s: float, there: bool) -> None:
    path = tmp_path / "a-progress.json"
    progress.save(path, Progress().plus(1.23449, 6.5, num_tracks=0, num_bytes=0))
    loaded = progress.load(path)
    assert loaded is not None
    assert loaded.has(start_s, end_s) == there
    assert not Progress().has(start_s, end_s)


GOOD = {"segments_complete": [[0, 1]], "num_tracks": 1, "meta_bytes": 10, "settings": {}}
PUBLISHED = json.dumps({"segments_complete": [[0, 1]], "num_tracks": 1})
NOT_PROGRESS = {
    "empty": "",
    "torn": json.dumps(GOOD)[:-3],
    "a list": "[]",
    "null": "null",
    "no settings": json.dumps({name: value for name, value in GOOD.items() if name != "settings"}),
    "the published layout, which counts no bytes": PUBLISHED,
    "ours, but without its bytes": json.dumps({"schema": "trackverse/1", "segments_complete": [], "num_tracks": 0}),
    "a segment of three": json.dumps(GOOD | {"segments_complete": [[0, 1, 2]]}),
    "a segment of words": json.dumps(GOOD | {"segments_complete": [["from", "to"]]}),
    "a segment beyond every number": json.dumps(GOOD | {"segments_complete": [[0, 10**400]]}),
    "a count that is text": json.dumps(GOOD | {"num_tracks": "1"}),
    "bytes below zero": json.dumps(GOOD | {"meta_bytes": -1}),
    "settings that are a list": json.dumps(GOOD | {"settings": []}),
}


def test_how_many_bytes_of_the_track_file_count(tmp_path: Path) -> None:
    path = tmp_path / "a-progress.json"
    assert progress.load_meta_bytes(path) is None
    path.write_text(PUBLISHED)
    assert progress.load_meta_bytes(path) is None
    progress.save(path, Progress().plus(0, 1, num_tracks=1, num_bytes=70).plus(1, 2, num_tracks=1, num_bytes=7))
    assert progress.load_meta_bytes(path) == 77
    path.write_text("null")
    with pytest.raises(RecordError):
        progress.load_meta_bytes(path)


@pytest.mark.parametrize("content", NOT_PROGRESS.values(), ids=NOT_PROGRESS)
def test_what_is_not_a_progress_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a-progress.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"a-progress\.json: ") as caught:
        progress.load(path)
    assert caught.value.reason in ("bad progress file", "bad JSON")
    path.write_text(json.dumps(GOOD))
    assert progress.load(path) is not None
