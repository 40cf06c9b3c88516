"""The index: what is read again, that it is whole or not there, and files of every kind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, fill_store, make_track

from trackverse import index, index_refresh, subset, ticks, track_table
from trackverse.errors import RecordError, SetupError
from trackverse.index import Index
from trackverse.index_refresh import ready_index
from trackverse.layout import TracksLayout, motion_beside
from trackverse.store import TrackStore, read_records, write_motion

REPO_DIR = Path(__file__).resolve().parent.parent


@pytest.fixture
def layout(tmp_path: Path) -> TracksLayout:
    return fill_store(tmp_path / "tracks", {f"video{n}": [n % 5] * (n + 1) for n in range(6)})


def read(layout: TracksLayout, *, keep: bool = True, num_workers: int = 1) -> tuple[Index, list[str]]:
    """The index, and the names of the track files that were read for it."""
    seen: list[str] = []

    def watch(items, total):  # type: ignore[no-untyped-def]
        seen.append(str(total))
        return iter(items)

    with ready_index(
        layout.index_path, layout.meta_paths(), num_workers=num_workers, keep=keep, rebuild=False, watch=watch
    ) as found:
        return found, seen


def test_only_what_changed_is_read_again(layout: TracksLayout) -> None:
    first, seen = read(layout)
    assert (len(first), seen) == (21, ["6"])
    before = layout.index_path.read_bytes()
    assert read(layout)[1] == []
    assert layout.index_path.read_bytes() == before

    TrackStore(layout, SETTINGS).commit(clip("video2", 9), [make_track(1, label_id=7)], VIDEO_HW, LABELS)
    layout.meta_path("video4").unlink()
    TrackStore(layout, SETTINGS).commit(clip("video1b", 0), [make_track(2)] * 2, VIDEO_HW, LABELS)
    again, seen = read(layout)
    assert seen == ["2"]
    layout.index_path.unlink()
    anew, seen = read(layout, num_workers=2)
    assert seen == ["6"]
    assert again.fingerprint() == anew.fingerprint() != first.fingerprint()
    for name in ("track_id", "score", "offset", "line"):
        np.testing.assert_array_equal(again.column(name), anew.column(name))
    for one, other in zip(again.boxes(), anew.boxes(), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[:-20],
    "empty": lambda data: b"",
    "something else": lambda data: b"PAR1" + os.urandom(999) + b"PAR1",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_index_is_made_anew(layout: TracksLayout, damage: Callable[[bytes], bytes]) -> None:
    read(layout)
    before = layout.index_path.read_bytes()
    layout.index_path.write_bytes(damage(before))
    assert read(layout)[1] == ["6"]
    assert layout.index_path.read_bytes() == before


def test_an_index_of_another_version_is_made_anew(layout: TracksLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for module in (index, index_refresh):
            patch.setattr(module, "FORMAT", b"trackverse-index/0")
        read(layout)
    assert read(layout)[1] == ["6"]
    assert read(layout)[1] == []


def test_where_nothing_can_be_written_it_is_said_what_to_do(
    layout: TracksLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "index")

    monkeypatch.setattr(index_refresh.files, "claim", claim)
    with pytest.raises(SetupError, match="--index_file"):
        read(layout)


def test_what_was_measured_beside_is_read_again_when_it_changes(layout: TracksLayout) -> None:
    first, _ = read(layout)
    assert np.isnan(first.column("flow_motion")).all()
    fingerprint = first.fingerprint()
    write_motion(motion_beside(layout.meta_path("video1")), [(0, 0.0, 0.25, 0.5), (1, 0.0, 0.25, 0.75)])
    again, seen = read(layout)
    assert seen == ["1"]
    assert again.column("flow_motion")[:4].tolist()[1:3] == [0.5, 0.75]
    assert again.fingerprint() != fingerprint
    motion_beside(layout.meta_path("video1")).unlink()
    assert read(layout)[0].fingerprint() == fingerprint


def test_a_flipped_byte_is_noticed(layout: TracksLayout) -> None:
    """Where it is in the numbers, which are read later than the rest."""
    read(layout)
    data = bytearray(layout.index_path.read_bytes())
    data[40] ^= 255
    layout.index_path.write_bytes(data)
    with pytest.raises(RecordError) as caught:
        for name in ("track_id", "label_id"):
            Index(layout.index_path).column(name)
    assert caught.value.reason == "damaged index"


def test_an_index_that_is_not_kept_leaves_nothing(layout: TracksLayout) -> None:
    with ready_index(
        layout.index_path, layout.meta_paths(), num_workers=1, keep=False, rebuild=False, watch=lambda items, _: items
    ) as found:
        assert len(found.column("score")) == 21
    assert not layout.index_path.exists() and not found.path.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from trackverse import files
from trackverse.index_refresh import ready_index
from trackverse.layout import TracksLayout, motion_beside

def replace(*paths):
    os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
layout = TracksLayout(Path(sys.argv[1]))
with ready_index(layout.index_path, layout.meta_paths(), num_workers=1, keep=True, rebuild=True, watch=lambda i, _: i):
    pass
"""


def test_a_kill_while_it_is_written_leaves_the_old_one_whole(layout: TracksLayout) -> None:
    read(layout)
    before = layout.index_path.read_bytes()
    TrackStore(layout, SETTINGS).commit(clip("new", 0), [make_track(1)], VIDEO_HW, LABELS)
    killed = subprocess.run([sys.executable, "-c", KILLED, layout.output_dir], cwd=REPO_DIR)
    assert killed.returncode == -signal.SIGKILL
    assert layout.index_path.read_bytes() == before
    found, seen = read(layout)
    assert (seen, len(found)) == (["1"], 22)


def picked(layout: TracksLayout, found: Index, rows: list[int]) -> list[bytes]:
    path = layout.output_dir / "subset.jsonl.gzip"
    subset.write(path, {}, found, layout.meta_paths(), np.array(rows))
    return gzip.decompress(path.read_bytes()).splitlines()


def lines_of(path: Path) -> list[bytes]:
    return gzip.decompress(path.read_bytes()).splitlines()


REPACKED: dict[str, Callable[[list[bytes]], bytes]] = {
    "one member": lambda lines: gzip.compress(b"\n".join(lines) + b"\n"),
    "two members": lambda lines: gzip.compress(b"\n".join(lines[:3])) + gzip.compress(b"\n" + b"\n".join(lines[3:])),
    "plain text": lambda lines: b"\n".join(lines),
}


@pytest.mark.parametrize("pack", REPACKED.values(), ids=REPACKED)
def test_lines_that_share_a_member_are_picked_byte_for_byte(
    layout: TracksLayout, pack: Callable[[list[bytes]], bytes]
) -> None:
    path = layout.meta_path("video5")
    lines = lines_of(path)
    path.write_bytes(pack(lines))
    layout.progress_path("video5").unlink()
    found, _ = read(layout)
    rows = [20, 15, 18, 0]
    assert picked(layout, found, rows) == [lines[5], lines[0], lines[3], lines_of(layout.meta_path("video0"))[0]]


def test_a_record_that_changed_since_is_not_written(layout: TracksLayout) -> None:
    """Although size and time are the same; the old subset stays."""
    found, _ = read(layout)
    old = picked(layout, found, [20])
    path = layout.meta_path("video5")
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(RecordError, match="--rebuild_index") as caught:
        picked(layout, found, [0, 20])
    assert caught.value.reason == "track file changed"
    assert lines_of(layout.output_dir / "subset.jsonl.gzip") == old


def test_a_video_in_two_files_counts_once(layout: TracksLayout) -> None:
    copy = layout.output_dir / "zz" / "zzz-meta.jsonl.gzip"
    copy.parent.mkdir()
    shutil.copy(layout.meta_path("video3"), copy)
    found, _ = read(layout)
    dropped = Counter[str]()
    table = track_table.make_table(found, dropped=dropped)
    assert (len(found), len(table), dropped) == (25, 21, Counter({"track listed twice": 4}))
    numbers = [(table.video_ids[video], track) for video, track in zip(table.videos, table["track_id"], strict=True)]
    assert numbers == sorted(set(numbers))
    (boxes,) = [boxes for boxes in table.boxes_of(np.arange(21)) if len(boxes.rows) == 6]
    assert [table.video_ids[video] for video in table.videos[boxes.rows]] == ["video5"] * 6


def test_boxes_are_those_of_the_records_at_the_ticks(layout: TracksLayout) -> None:
    store = TrackStore(layout, SETTINGS)
    store.commit(
        clip("long", 0), [make_track(n, num_frames=20 + 9 * n, start_s=0.3 * n) for n in range(5)], VIDEO_HW, LABELS
    )
    table = track_table.make_table(read(layout)[0], dropped=Counter())
    rows = np.flatnonzero(table.videos == table.video_ids.index("long"))
    (boxes,) = table.boxes_of(rows)
    for number, record in enumerate(read_records(layout.meta_path("long"))):
        ticks = np.arange(int(np.ceil(record.times_s[0] * 2 - 1e-6)), int(record.times_s[-1] * 2 + 1e-6) + 1)
        assert boxes.first[number] == ticks[0]
        corners = np.concatenate([record.tlwh[:, :2], record.tlwh[:, :2] + record.tlwh[:, 2:]], axis=1)
        expected = [np.interp(ticks / 2, record.times_s, corners[:, side]) for side in range(4)]
        at_ticks = boxes.xyxy[boxes.starts[number] : boxes.starts[number + 1]]
        assert np.abs(at_ticks - np.stack(expected, axis=1)).max() <= 0.51


@pytest.mark.parametrize(
    ("times", "lefts", "sizes", "expected"),
    [
        ([0, 0.5, 1.0], [0, 5, 10], [10, 10, 10], 1.0),
        ([0, 0.25, 0.5], [0, 100, 5], [10, 10, 10], 1.0),
        ([0.1, 0.2], [0, 1], [10, 10], 1.0),
        ([0.1], [5], [10], 0.0),
        ([0, 0.5], [0, 0], [10, 10], 0.0),
    ],
    ids=["half its size in half a second", "jitter between ticks is no motion", "no two ticks", "one frame", "rest"],
)
def test_box_motion(times: list[float], lefts: list[float], sizes: list[float], expected: float) -> None:
    tlwh = np.array([[left, 0, size, size] for left, size in zip(lefts, sizes, strict=True)], float)
    found = ticks.box_motion(np.array(times, float), tlwh, np.array([len(times)]))
    np.testing.assert_allclose(found, [expected], atol=1e-9)


def test_a_file_larger_than_a_batch_and_a_group(layout: TracksLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (index, index_refresh):
        monkeypatch.setattr(module, "GROUP_ROWS", 100)
    (line,) = lines_of(layout.meta_path("video0"))
    value = json.loads(line)
    lines = [json.dumps(value | {"track_id": n}).encode() for n in range(700)]
    layout.meta_path("video0").write_bytes(gzip.compress(b"\n".join(lines)))
    layout.progress_path("video0").unlink()
    found, _ = read(layout)
    track_ids = found.column("track_id").tolist()
    assert track_ids[:700] == list(range(700))
    TrackStore(layout, SETTINGS).commit(clip("a new one", 0), [make_track(1)], VIDEO_HW, LABELS)
    again, seen = read(layout)
    assert seen == ["1"]
    assert again.column("track_id").tolist() == [0, *track_ids]


def test_an_empty_file_has_no_tracks(layout: TracksLayout) -> None:
    layout.meta_path("video0").write_bytes(b"")
    layout.progress_path("video0").unlink()
    found, _ = read(layout)
    assert (len(found), found.failures()) == (20, Counter())
