"""What the head of a gzip member says of its record: the same as the record, or it is not asked."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from head_tricks import members_of, spoiled_head, with_head_of, without_head
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, fill_store, make_track

from trackverse import jsonl, member_heads, store
from trackverse.columns import DTYPES, Columns
from trackverse.index import Index
from trackverse.index_refresh import refresh
from trackverse.layout import TracksLayout, motion_beside
from trackverse.member_heads import HEAD, read_heads, record_member
from trackverse.members import place_lines
from trackverse.store import TrackStore

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
Found = tuple[dict[str, bytes], list[str], dict[int, str], bytes, list[str]]


def found(parts: list[Columns], errors: list[store.RecordError]) -> Found:
    """Everything that was read, whatever parts it came in, to the last bit."""
    return (
        {name: b"".join(part.numbers[name].tobytes() for part in parts) for name in DTYPES},
        [part.video_ids[number] for part in parts for number in part.videos.tolist()],
        {label_id: label for part in parts for label_id, label in part.labels.items()},
        b"".join(part.boxes[part.box_starts[0] : part.box_starts[-1]] for part in parts),
        [str(error) for error in errors],
    )


def in_records(path: Path) -> Found:
    """As found without any heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "read_heads", lambda *_: None)
        return found(*store.read_columns(path))


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> TracksLayout:
    """Tracks of every length: between two ticks, from one to another, minutes long; one in the negative; odd names."""
    layout = fill_store(tmp_path_factory.mktemp("tracks"), {"video": [3, 5, 3], "empty": []})
    labels = (*LABELS[:-2], "Zürich “tram”", "x" * 300)
    for number, num_frames in enumerate((1, 2, 9, 16, 17, 300, 3000)):
        tracks = [
            make_track(7 * number + n, num_frames=num_frames, start_s=10 + 0.37 * n - 0.2 * number, label_id=13 - n % 3)
            for n in range(7)
        ]
        TrackStore(layout, SETTINGS).commit(clip("lengths", number), tracks, VIDEO_HW, labels)
    return layout


@pytest.fixture
def path(layout: TracksLayout, tmp_path: Path) -> Path:
    """A copy of a track file without a progress file: all of it counts."""
    return Path(shutil.copy(layout.meta_path("lengths"), tmp_path))


def test_the_heads_say_what_the_records_do(layout: TracksLayout) -> None:
    for meta_path in layout.meta_paths():
        assert read_heads(meta_path, None) is not None
        assert found(*store.read_columns(meta_path)) == in_records(meta_path)
        assert store.heads_fit(meta_path)


def test_a_file_in_many_blocks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = in_records(path)
    for num_bytes in (100, 997, 1 << 14):
        monkeypatch.setattr(member_heads, "BLOCK_BYTES", num_bytes)
        parts = read_heads(path, None)
        assert parts and len(parts) > 1 and found(parts, []) == expected


def test_what_was_measured_since_counts_likewise(layout: TracksLayout, path: Path) -> None:
    store.write_motion(motion_beside(path), [(n, 10 + 0.37 * n, 0.1, n) for n in range(7)])
    assert read_heads(path, None) and found(*store.read_columns(path)) == in_records(path)
    assert not np.isnan(np.concatenate([part.numbers["flow_motion"] for part in store.read_columns(path)[0]])).all()


def test_only_what_is_committed_counts(path: Path) -> None:
    members = members_of(path.read_bytes())
    committed = sum(map(len, members[:5]))
    parts = read_heads(path, committed)
    assert parts and found(parts, [])[0]["line"] == np.arange(1, 6, dtype=np.int32).tobytes()
    assert read_heads(path, 0) == []
    for num_bytes in (committed - 1, committed + 1, committed + 30, path.stat().st_size + 1):
        assert read_heads(path, num_bytes) is None


def test_any_gzip_reader_will_do(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    assert len(lines) == 49 and all(json.loads(line)["yid"] == "lengths" for line in lines)
    done = subprocess.run(["gzip", "-dc"], input=path.read_bytes(), capture_output=True, check=True)
    assert done.stdout == b"".join(lines)
    for placed, member, line in zip(place_lines(path), members_of(path.read_bytes()), lines, strict=True):
        assert (placed.line + b"\n", placed.num_bytes) == (line, len(member))


def test_members_without_a_line_count_as_none(path: Path, tmp_path: Path) -> None:
    """Of files that were joined: one without tracks is a member with nothing in it."""
    first, second, *_ = members_of(path.read_bytes())
    joined = tmp_path / "joined.jsonl.gzip"
    joined.write_bytes(b"".join([jsonl.NO_LINES, first, jsonl.NO_LINES, second]))
    placed = list(place_lines(joined))
    assert [(one.number, one.line) for one in placed] == list(jsonl.read_lines(joined))
    assert [(one.number, one.num_bytes) for one in placed] == [(1, len(first)), (2, len(second))]


@pytest.mark.parametrize(
    "line",
    [b'{"yid": "a"}', b"nonsense", b"", b'{"yid": "a", "track_id": -1}'],
    ids=["no record", "no JSON", "nothing", "no id"],
)
def test_what_has_no_columns_has_no_head(line: bytes) -> None:
    assert gzip.decompress(record_member(line)) == line + b"\n"
    assert record_member(line)[3] == 0


def test_a_track_whose_boxes_do_not_fit_in_has_no_head(path: Path, tmp_path: Path) -> None:
    track = make_track(1, num_frames=8300 * 8)
    layout = TracksLayout(tmp_path / "long")
    TrackStore(layout, SETTINGS).commit(clip("hours", 0), [make_track(2), track], VIDEO_HW, LABELS)
    meta_path = layout.meta_path("hours")
    assert read_heads(meta_path, None) is None
    (part,), errors = store.read_columns(meta_path)
    assert part.numbers["num_frames"].tolist() == [5, 66400] and not errors


REPACKED: dict[str, Callable[[list[bytes]], bytes]] = {
    "an old member among new ones": lambda members: b"".join(
        [*members[:3], without_head(members[3]), *members[4:]],
    ),
    "old members": lambda members: b"".join(map(without_head, members)),
    "an empty line between": lambda members: b"".join([*members[:3], gzip.compress(b"\n"), *members[3:]]),
    "padding": lambda members: b"".join([*members, b"\0" * 512]),
    "cut": lambda members: b"".join(members)[:-1],
    "cut in a head": lambda members: b"".join(members[:-1]) + members[-1][:50],
    "one member": lambda members: gzip.compress(gzip.decompress(b"".join(members))),
    "plain text": lambda members: gzip.decompress(b"".join(members)),
    "a head of another record": lambda members: (
        members[0][: -len(without_head(members[0])) + 10] + without_head(members[1])[10:]
    ),
}


@pytest.mark.parametrize("pack", REPACKED.values(), ids=REPACKED)
def test_where_a_member_does_not_vouch_for_itself_records_are_read(
    path: Path, pack: Callable[[list[bytes]], bytes]
) -> None:
    path.write_bytes(pack(members_of(path.read_bytes())))
    assert read_heads(path, None) is None
    assert found(*store.read_columns(path)) == in_records(path)


def test_without_heads_and_with_them_the_index_is_the_same(layout: TracksLayout, tmp_path: Path) -> None:
    bare = TracksLayout(tmp_path / "bare")
    for meta_path in layout.meta_paths():
        other = bare.output_dir / meta_path.relative_to(layout.output_dir)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(b"".join(map(without_head, members_of(meta_path.read_bytes()))))
    indexes = [refresh(tmp_path / f"{n}", one.meta_paths()) for n, one in enumerate((layout, bare))]
    assert indexes[0].fingerprint() == indexes[1].fingerprint() and len(indexes[0]) == 52
    for name in DTYPES:
        if name not in ("offset", "num_bytes"):
            np.testing.assert_array_equal(indexes[0].column(name), indexes[1].column(name))


@QUICK
@given(data=st.data())
def test_whatever_is_changed_in_a_file_it_is_read_as_its_records_are(layout: TracksLayout, data: st.DataObject) -> None:
    original = layout.meta_path("video").read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of a member is deflated text; its head is short.
        at = data.draw(st.integers(0, len(changed) - 1) | st.integers(0, 200))
        match data.draw(st.integers(0, 3)):
            case 0:
                changed[at] = data.draw(st.integers(0, 255))
            case 1:
                changed[at : at + 4] = data.draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff"]))
            case 2:
                del changed[at : at + data.draw(st.integers(1, 64))]
            case 3:
                changed[at:at] = changed[at : at + data.draw(st.integers(1, 2000))]
    path = layout.output_dir / "changed-meta.jsonl.gzip"
    path.write_bytes(changed)
    assert found(*store.read_columns(path)) == in_records(path)
    path.unlink()


ODD_NUMBERS = [0, 1, -1, 255, 65535, 1 << 31, -(1 << 31), 1 << 62, 1e300, -1e300, np.nan, np.inf, 86_401.0, 9e5]


@QUICK
@given(data=st.data())
def test_whatever_a_head_says_it_is_bounded_and_no_crash(layout: TracksLayout, data: st.DataObject) -> None:
    """Its checksum is right; the index that is made of it can be read, or the record is."""
    members = members_of(layout.meta_path("video").read_bytes())
    for name in data.draw(st.lists(st.sampled_from(HEAD.names), min_size=1, max_size=3)):
        members[1] = spoiled_head(members[1], name, data.draw(st.sampled_from(ODD_NUMBERS)))
    path = layout.output_dir / "vi" / "spoiled-meta.jsonl.gzip"
    path.write_bytes(b"".join(members))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            index = refresh(layout.output_dir / "spoiled", [path])
            assert isinstance(index, Index) and len(index) == 3
            for name in DTYPES:
                index.column(name)
            assert sum(len(first) for first, _, _ in index.boxes()) == 3
    finally:
        path.unlink()


def test_a_head_that_lies_is_found_out(path: Path) -> None:
    members = members_of(path.read_bytes())
    lies = {"score": 0.5, "track_id": 77, "area": 0.3, "num_frames": 4}
    for name, value in lies.items():
        path.write_bytes(b"".join([spoiled_head(members[0], name, value), *members[1:]]))
        assert read_heads(path, None) is not None and not store.heads_fit(path)
    path.write_bytes(b"".join([with_head_of(members[0], members[1]), *members[1:]]))
    assert read_heads(path, None) is not None and not store.heads_fit(path)
