"""The track record: the keys on disk, what numbers are in them, and what is read of other people's."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_tracks import LABELS, make_track

from trackverse import jsonl, records
from trackverse.errors import RecordError
from trackverse.records import Origin, TrackRecord, describe, parse_record, parse_summary, to_line
from trackverse.types import Track

ORIGIN = Origin("QMi8x8o55Ns", "QMi8x8o55Ns.1.mp4", (720, 1280), "nanodet sha256:0123", "coco", 16.0)
KEYS = [
    *("yid", "track_id", "clip_id", "video_size", "track_ts"),
    *("frame_ts", "frame_bboxes", "frame_obj", "frame_lbl", "frame_desc", "frame_cls", "frame_wcls"),
    "frame_interp",
    *("top10_lbl", "top10_desc", "top10_cls", "top10_wcls"),
    *("mp4_filename", "schema", "detector", "vocab", "fps"),
]


def line_of(track: Track, track_id: int = 0, labels: tuple[str, ...] = LABELS) -> bytes:
    return to_line(describe(track, track_id, ORIGIN, labels)).encode()


def with_logits(logits: list[list[float]], scores: list[float] | None = None) -> Track:
    """A track of T frames with the given class scores (T, C) and objectness."""
    track = make_track(0, num_frames=len(logits))
    scores = scores or [1.0] * len(logits)
    return replace(track, logits=np.array(logits, np.float32), scores=np.array(scores, np.float32))


# ---- what is written


def test_the_keys_are_those_of_the_contract() -> None:
    assert list(json.loads(line_of(make_track(1)))) == KEYS


def test_every_value_of_a_small_record() -> None:
    """Worked out by hand: two frames, two classes, so that each number can be checked against the contract."""
    track = Track(
        np.array([1.0, 1.0625]),
        np.array([[10, 20, 40, 80], [13, 20, 43, 80]], np.float32),
        np.array([0.5, 1.0], np.float32),
        np.array([[0.25, 0.75], [0.5, 0.25]], np.float32),
        np.array([1.0], np.float32),
    )
    value = json.loads(line_of(track, 7, ("cat", "dog")))
    name = value.pop("mp4_filename")
    assert re.fullmatch(r"QM/QMi8x8o55Ns-cat-[0-9a-f]{12}\.mp4", name)
    assert value == {
        "yid": "QMi8x8o55Ns",
        "track_id": 7,
        "clip_id": "QMi8x8o55Ns.1.mp4",
        "video_size": [720, 1280],
        "track_ts": [1.0, 1.0625],
        "frame_ts": [1.0, 1.0625],
        "frame_bboxes": [[10, 20, 30, 60], [13, 20, 30, 60]],
        "frame_obj": [0.5, 1.0],
        "frame_lbl": [1, 0],
        "frame_desc": ["dog", "cat"],
        "frame_cls": [0.75, 0.5],
        "frame_wcls": [0.375, 0.5],
        "frame_interp": [0, 0],
        # cat: 0.125 and 0.5 with objectness, 0.3125 in the mean; dog: 0.375 and 0.25, the same
        "top10_lbl": [0, 1],
        "top10_desc": ["cat", "dog"],
        "top10_cls": [[0.375, 0.5], [0.125, 0.25]],
        "top10_wcls": [[0.3125, 0.3125], [0.1875, 0.0625]],
        "schema": "trackverse/1",
        "detector": "nanodet sha256:0123",
        "vocab": "coco",
        "fps": 16.0,
    }


def test_interpolated_frames_are_marked_and_count_for_no_class() -> None:
    track = with_logits([[0.2, 0.8], [0.0, 0.0], [0.4, 0.6]], scores=[0.5, 0.0, 0.5])
    value = json.loads(line_of(replace(track, interpolated=np.array([False, True, False])), labels=("cat", "dog")))
    assert value["frame_interp"] == [0, 1, 0]
    assert value["frame_desc"] == ["dog", "dog", "dog"]
    assert value["frame_obj"] == [0.5, 0, 0.5] and value["frame_cls"] == [0.8, 0, 0.6]
    assert value["top10_cls"] == [[0.7, 0.3], [0.1, 0.1]]
    assert parse_record(json.dumps(value).encode(), "here").frames.interpolated.tolist() == [False, True, False]
    del value["frame_interp"]
    assert not parse_record(json.dumps(value).encode(), "here").frames.interpolated.any()


def test_numbers_are_rounded_to_what_they_mean() -> None:
    track = replace(make_track(2), times_s=np.arange(5) / 30 + 1 / 3)
    value = json.loads(line_of(track))

    def digits(numbers: Any) -> int:
        flat = np.array(numbers, dtype=object).ravel()
        return max(len(repr(number).partition(".")[2]) for number in flat)

    assert digits(value["frame_bboxes"]) == 2
    assert digits(value["frame_ts"]) == 4
    for name in ("frame_obj", "frame_cls", "frame_wcls", "top10_cls", "top10_wcls"):
        assert digits(value[name]) == 4, name
    np.testing.assert_allclose(
        value["frame_bboxes"], np.c_[track.xyxy[:, :2], track.xyxy[:, 2:] - track.xyxy[:, :2]], atol=0.0051
    )
    np.testing.assert_allclose(value["frame_obj"], track.scores, atol=0.000051)
    assert value["track_ts"] == [value["frame_ts"][0], value["frame_ts"][-1]]


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 13)), elements=st.sampled_from([0, 0.25, 0.5, 1])
    ),
    st.data(),
)
def test_the_top_ten_are_by_mean_score_times_objectness_and_ties_by_id(logits: np.ndarray, data: st.DataObject) -> None:
    num_frames, num_labels = logits.shape
    scores = data.draw(st.lists(st.sampled_from([0.5, 1.0]), min_size=num_frames, max_size=num_frames))
    record = describe(with_logits(logits.tolist(), scores), 0, ORIGIN, LABELS[:num_labels])

    means = [sum(logits[t, c] * scores[t] for t in range(num_frames)) / num_frames for c in range(num_labels)]
    best = sorted(range(num_labels), key=lambda c: (-means[c], c))[:10]
    assert list(record.top.label_ids) == best
    assert list(record.top.labels) == [LABELS[c] for c in best]
    np.testing.assert_allclose(record.top.weighted[0], [means[c] for c in best])
    np.testing.assert_allclose(record.top.class_scores[0], logits[:, best].mean(axis=0))
    np.testing.assert_allclose(record.top.class_scores[1], logits[:, best].std(axis=0), atol=1e-6)


def test_nothing_but_the_vocabulary_is_ever_a_class() -> None:
    """No background and no filling up: with three classes there are three in the top ten, all of them named."""
    value = json.loads(line_of(with_logits([[0.0, 0.0, 0.0]] * 2), labels=("cat", "dog", "bus")))
    assert value["top10_lbl"] == [0, 1, 2]
    assert value["top10_desc"] == ["cat", "dog", "bus"]
    assert value["frame_desc"] == ["cat", "cat"]
    assert [len(row) for row in (*value["top10_cls"], *value["top10_wcls"])] == [3] * 4


# ---- the name of the file that a track is exported to

ODD_LABELS = {
    "slashes": "../../etc/passwd",
    "spaces and brackets": "(pet) dog, puppy",
    "300 letters": "x" * 300,
    "another alphabet": "собака",
    "a NUL": "a\0b",
    "dashes": "--rm -rf",
}


@pytest.mark.parametrize("label", ODD_LABELS.values(), ids=ODD_LABELS)
@pytest.mark.parametrize("video_id", ["QMi8x8o55Ns", "-Mi8x8o55Ns", "x" * 200, "é" * 100], ids=lambda v: v[:12])
def test_the_name_is_a_safe_one(label: str, video_id: str) -> None:
    name = records.mp4_filename(make_track(1), replace(ORIGIN, video_id=video_id), label)
    folder, _, file_name = name.partition("/")
    assert folder == video_id[:2]
    assert file_name.startswith(f"{video_id}-")
    assert re.fullmatch(r"-[A-Za-z0-9_]{1,30}-[0-9a-f]{12}\.mp4", file_name.removeprefix(video_id))
    assert len(f".{file_name.removesuffix('.mp4')}.tmp.mp4".encode()) <= 255


def test_the_name_is_the_same_on_a_re_run_and_another_for_another_track() -> None:
    track = make_track(1)
    # The last bits of a box depend on the machine; a name must not.
    again = replace(track, xyxy=track.xyxy + np.float32(1e-4), times_s=track.times_s + 1e-6)
    assert records.mp4_filename(again, ORIGIN, "cat") == records.mp4_filename(track, ORIGIN, "cat")
    others = [
        records.mp4_filename(make_track(2), ORIGIN, "cat"),
        records.mp4_filename(replace(track, xyxy=track.xyxy + np.float32(1)), ORIGIN, "cat"),
        records.mp4_filename(replace(track, times_s=track.times_s + 1), ORIGIN, "cat"),
        records.mp4_filename(track, replace(ORIGIN, clip_id="QMi8x8o55Ns.2.mp4"), "cat"),
        records.mp4_filename(track, ORIGIN, "dog"),
    ]
    assert len({records.mp4_filename(track, ORIGIN, "cat"), *others}) == 6


def test_the_name_is_known() -> None:
    """As a plain text, so that no change of the code renames what users have on their disks."""
    track = Track(
        np.array([0.0, 1.0]), np.array([[0, 0, 10, 10]] * 2, np.float32), np.ones(2, np.float32),
        np.ones((2, 1), np.float32), np.zeros(0, np.float32),
    )  # fmt: skip
    assert records.mp4_filename(track, ORIGIN, "cat") == "QM/QMi8x8o55Ns-cat-24955538ca65.mp4"


# ---- reading

TID_LAYOUT = {
    "tid": 3,
    "fn": "QM/QMi8x8o55Ns-cat-1.mp4",
    "track_ts": [1.0, 1.5, 2.0],
    "track_bbox": [[0, 0, 10, 20], [1, 0, 10, 20], [2, 0, 10, 20]],
    "top10_lbl": [5, 2],
    "top10_desc": ["cat", "dog"],
    "top10_logit_mu": [0.9, 0.2],
    "top10_logit_std": [0.1, 0.1],
    "top10_wlogit_mu": [0.8, 0.1],
    "top10_wlogit_std": [0.2, 0.05],
}
LABEL_IDS_LAYOUT = {
    "track_id": 4,
    "track_ts": [1.0, 2.0],
    "frame_ts": [1.0, 1.5, 2.0],
    "frame_bboxes": [[0, 0, 10, 20], [1, 0, 10, 20], [2, 0, 10, 20]],
    "yid": "QMi8x8o55Ns",
    "track_mp4_filename": "QM/QMi8x8o55Ns-cat-2.mp4",
    "top10_label_ids": [5, 2],
    "top10_label_names": ["cat", "dog"],
}


def dumped(value: Any) -> bytes:
    return jsonl.dump(value).encode()


def test_what_is_written_is_read_back() -> None:
    written = describe(make_track(3), 12, ORIGIN, LABELS)
    read = parse_record(to_line(written).encode(), "here")
    assert (read.video_id, read.track_id, read.mp4_filename) == ("QMi8x8o55Ns", 12, written.mp4_filename)
    assert read.origin == ORIGIN
    assert (read.top.label_ids, read.top.labels) == (written.top.label_ids, written.top.labels)
    assert read.frames is not None
    assert written.frames is not None
    assert read.frames.labels == written.frames.labels
    for ours, theirs, precision in (
        (read.times_s, written.times_s, 1e-4),
        (read.tlwh, written.tlwh, 1e-2),
        (read.top.class_scores, written.top.class_scores, 1e-4),
        (read.top.weighted, written.top.weighted, 1e-4),
        (read.frames.scores, written.frames.scores, 1e-4),
        (read.frames.class_scores, written.frames.class_scores, 1e-4),
        (read.frames.label_ids, written.frames.label_ids, 0),
    ):
        np.testing.assert_allclose(ours, theirs, atol=precision / 2 * 1.01)


def test_a_record_made_of_every_frame_has_no_frame_rate() -> None:
    written = describe(make_track(3), 0, replace(ORIGIN, fps=None), LABELS)
    read = parse_record(to_line(written).encode(), "here")
    assert read.origin is not None
    assert read.origin.fps is None


def test_the_layout_with_tid() -> None:
    read = parse_record(dumped(TID_LAYOUT), "here", "QMi8x8o55Ns")
    assert (read.video_id, read.track_id) == ("QMi8x8o55Ns", 3)
    assert read.mp4_filename == "QM/QMi8x8o55Ns-cat-1.mp4"
    assert read.times_s.tolist() == [1.0, 1.5, 2.0]
    assert read.tlwh.tolist() == TID_LAYOUT["track_bbox"]
    assert (read.top.label_ids, read.top.labels) == ((5, 2), ("cat", "dog"))
    assert read.top.class_scores.tolist() == [[0.9, 0.2], [0.1, 0.1]]
    assert read.top.weighted.tolist() == [[0.8, 0.1], [0.2, 0.05]]
    assert read.origin is None
    assert read.frames is None


def test_the_layout_with_label_ids() -> None:
    read = parse_record(dumped(LABEL_IDS_LAYOUT), "here", "another video's file")
    assert (read.video_id, read.track_id) == ("QMi8x8o55Ns", 4)
    assert read.mp4_filename == "QM/QMi8x8o55Ns-cat-2.mp4"
    assert read.times_s.tolist() == [1.0, 1.5, 2.0]
    assert (read.top.label_ids, read.top.labels) == ((5, 2), ("cat", "dog"))
    assert read.top.weighted.shape == (2, 0)  # not recorded is not zero
    assert read.origin is None


OWN_LAYOUT = json.loads(line_of(make_track(5)))
LAYOUTS = {"ours": OWN_LAYOUT, "tid": TID_LAYOUT, "label ids": LABEL_IDS_LAYOUT}


@pytest.mark.parametrize("value", LAYOUTS.values(), ids=LAYOUTS)
def test_the_summary_says_what_the_record_says(value: dict[str, Any]) -> None:
    line = dumped(value)
    record, summary = parse_record(line, "here", "QMi8x8o55Ns"), parse_summary(line, "here", "QMi8x8o55Ns")
    assert (summary.video_id, summary.track_id) == (record.video_id, record.track_id)
    assert (summary.label_id, summary.label) == (record.top.label_ids[0], record.top.labels[0])
    assert summary.score == (record.top.weighted[0, 0] if record.top.weighted.size else None)


@given(st.integers(0, 10_000), st.integers(0, 13))
def test_the_summary_agrees_on_any_track(seed: int, label_id: int) -> None:
    line = line_of(make_track(seed, label_id=label_id), seed)
    record, summary = parse_record(line, "here"), parse_summary(line, "here", "not asked")
    assert (summary.track_id, summary.label_id, summary.label) == (seed, label_id, LABELS[label_id])
    assert (summary.video_id, summary.score) == (record.video_id, record.top.weighted[0, 0])


# ---- lines that are no records

Change = Callable[[dict[str, Any]], Any]
NOT_JSON = {"torn": b'{"yid": "a", ', "empty": b"", "not UTF-8": b'{"yid": "\xff"}', "NaN": b'{"yid": NaN}'}
NO_RECORDS: dict[str, Change] = {
    "a number": lambda value: 5,
    "null": lambda value: None,
    "a list": lambda value: [value],
    "text": lambda value: "track_bbox",
    "an empty object": lambda value: {},
    "an id that is text": lambda value: value | {id_key(value): "7"},
    "an id below zero": lambda value: value | {id_key(value): -1},
    "an id that is true": lambda value: value | {id_key(value): True},
    "an id beyond 64 bits": lambda value: value | {id_key(value): 1 << 63},
    "a video that is a number": lambda value: value | {"yid": 7},
    "a video that no file can hold": lambda value: value | {"yid": "\ud800"},
    "no classes": lambda value: value | {key: [] for key in class_keys(value)},
    "classes that are null": lambda value: value | dict.fromkeys(class_keys(value)),
    "classes that are text": lambda value: value | {class_keys(value)[0]: ["5"]},
    "names that are numbers": lambda value: value | {class_keys(value)[1]: [5, 2]},
}
ONLY_WHOLE_RECORDS: dict[str, Change] = {
    "no boxes": lambda value: without(value, box_key(value)),
    "fewer boxes than frames": lambda value: value | {box_key(value): value[box_key(value)][:-1]},
    "boxes of three": lambda value: value | {box_key(value): [box[:3] for box in value[box_key(value)]]},
    "boxes that are text": lambda value: value | {box_key(value): "none"},
    "a box beyond every number": lambda value: value | {box_key(value): [[10**400] * 4] * 3},
    "no frames": lambda value: value | {box_key(value): [], time_key(value): []},
    "times that are nested": lambda value: value | {time_key(value): [value[time_key(value)]]},
    "times that are null": lambda value: value | {time_key(value): None},
    "fewer names than classes": lambda value: value | {class_keys(value)[1]: ["cat"]},
}


def id_key(value: dict[str, Any]) -> str:
    return "tid" if "tid" in value else "track_id"


def box_key(value: dict[str, Any]) -> str:
    return "track_bbox" if "tid" in value else "frame_bboxes"


def time_key(value: dict[str, Any]) -> str:
    return "track_ts" if "tid" in value else "frame_ts"


def class_keys(value: dict[str, Any]) -> tuple[str, str]:
    return ("top10_label_ids", "top10_label_names") if "top10_label_ids" in value else ("top10_lbl", "top10_desc")


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: one for name, one in value.items() if name != key}


def check_refused(read: Callable[[bytes, str, str], Any], line: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match=r"^tracks\.gzip:12: ") as caught:
        read(line, "tracks.gzip:12", "QMi8x8o55Ns")
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("read", [parse_record, parse_summary])
def test_what_is_not_json_is_refused(read: Callable[..., Any], line: bytes) -> None:
    check_refused(read, line, "bad JSON")


@pytest.mark.parametrize("change", NO_RECORDS.values(), ids=NO_RECORDS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("read", [parse_record, parse_summary])
def test_what_is_no_record_is_refused(read: Callable[..., Any], layout: dict[str, Any], change: Change) -> None:
    check_refused(read, json.dumps(change(layout)).encode(), "bad record")


@pytest.mark.parametrize("change", ONLY_WHOLE_RECORDS.values(), ids=ONLY_WHOLE_RECORDS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_record_whose_frames_do_not_fit_is_refused(layout: dict[str, Any], change: Change) -> None:
    check_refused(parse_record, json.dumps(change(layout)).encode(), "bad record")


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key not in ("track_ts", "frame_wcls", "frame_interp", "schema")]
)
def test_a_key_of_ours_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(RecordError, match=key):
        parse_record(dumped(without(OWN_LAYOUT, key)), "here")


BAD_SCORES = {
    "beyond every number": 10**400,
    "a word": "good",
    "null": None,
}


@pytest.mark.parametrize("score", BAD_SCORES.values(), ids=BAD_SCORES)
def test_a_score_that_is_no_number_is_refused(score: Any) -> None:
    means, deviations = OWN_LAYOUT["top10_wcls"]
    line = json.dumps(OWN_LAYOUT | {"top10_wcls": [[score, *means[1:]], deviations]}).encode()
    check_refused(parse_summary, line, "bad record")
    check_refused(parse_record, line, "bad record")


def test_a_score_that_json_reads_as_infinite_is_refused() -> None:
    """`1e999` is valid JSON, which Python reads as infinity: a track that would win every choice by score."""
    line = line_of(make_track(5)).replace(b'"top10_wcls":[[', b'"top10_wcls":[[1e999,')
    assert math.isinf(json.loads(line)["top10_wcls"][0][0])
    check_refused(parse_summary, line, "bad record")
    check_refused(parse_record, line, "bad record")


def test_only_our_own_records_are_written() -> None:
    foreign: TrackRecord = parse_record(dumped(TID_LAYOUT), "here", "QMi8x8o55Ns")
    with pytest.raises(AssertionError):
        to_line(foreign)
