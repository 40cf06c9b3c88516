"""Track files: every segment's tracks exactly once, whatever kills the writer and whenever."""

from __future__ import annotations

import gzip
import itertools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, fill_store, make_track

import parse_tracks
from trackverse import jsonl, store, tracking_flags
from trackverse.errors import RecordError, SetupError
from trackverse.layout import TracksLayout
from trackverse.store import TrackStore
from trackverse.types import Clip, Track

VIDEO_ID = "-Mi8x8o55Ns"
NUM_TRACKS = (0, 2, 0, 1)  # of each segment
SEGMENTS: list[tuple[Clip, list[Track]]] = [
    (clip(VIDEO_ID, n), [make_track(10 * n + k, start_s=10.0 * n) for k in range(num_tracks)])
    for n, num_tracks in enumerate(NUM_TRACKS)
]
ALL_TRACKS = [track for _, tracks in SEGMENTS for track in tracks]


def commit_what_is_missing(folder: Path, segments: list[tuple[Clip, list[Track]]] = SEGMENTS) -> None:
    """What a stage does on every run."""
    track_store = TrackStore(TracksLayout(folder), SETTINGS)
    for one, tracks in segments:
        if not track_store.has(one):
            track_store.commit(one, tracks, VIDEO_HW, LABELS)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def committed(folder: Path) -> list[int]:
    """The ids of the records that a reader sees."""
    meta_path = TracksLayout(folder).meta_path(VIDEO_ID)
    return [record.track_id for record in store.read_records(meta_path)] if meta_path.exists() else []


def indexed(meta_path: Path) -> tuple[list[int], list[str]]:
    """The ids of the records whose columns are read, and the reasons why others are not."""
    parts, errors = store.read_columns(meta_path)
    return [n for part in parts for n in part.numbers["track_id"].tolist()], [error.reason for error in errors]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    commit_what_is_missing(folder)
    return files_of(folder)


@pytest.fixture
def layout(tmp_path: Path) -> TracksLayout:
    """A folder with all segments committed."""
    commit_what_is_missing(tmp_path)
    return TracksLayout(tmp_path)


# ---- commit, open again, read


def test_every_track_is_there_once_in_order_with_its_embedding(layout: TracksLayout) -> None:
    records = list(store.read_records(layout.meta_path(VIDEO_ID)))
    assert [record.track_id for record in records] == list(range(sum(NUM_TRACKS)))
    assert [record.origin and record.origin.clip_id for record in records] == [
        one.clip_id for one, tracks in SEGMENTS for _ in tracks
    ]
    for record, track in zip(records, ALL_TRACKS, strict=True):
        np.testing.assert_allclose(record.times_s, track.times_s, atol=1e-4)
    rows = store.load_embeddings(layout.embeddings_path(VIDEO_ID))
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, np.stack([track.embedding for track in ALL_TRACKS]).astype(np.float16))


def test_the_documented_files(layout: TracksLayout, tmp_path: Path) -> None:
    assert set(files_of(tmp_path)) == {
        f"-M/{VIDEO_ID}-{end}" for end in ("meta.jsonl.gzip", "progress.json", "embeddings.npy")
    }
    progress = json.loads(layout.progress_path(VIDEO_ID).read_text())
    assert progress["segments_complete"] == [[one.start_s, one.end_s] for one, _ in SEGMENTS]
    assert progress["num_tracks"] == len(ALL_TRACKS)
    lines = gzip.decompress(layout.meta_path(VIDEO_ID).read_bytes()).splitlines()  # any gzip reader will do
    assert [json.loads(line)["track_id"] for line in lines] == list(range(len(ALL_TRACKS)))
    assert np.load(layout.embeddings_path(VIDEO_ID)).shape == (len(ALL_TRACKS), 8)


def test_a_store_that_is_opened_again_knows_what_it_has(layout: TracksLayout, tmp_path: Path) -> None:
    again = TrackStore(layout, SETTINGS)
    assert all(again.has(one) for one, _ in SEGMENTS)  # the empty one too
    assert not again.has(clip(VIDEO_ID, 99))
    assert not again.has(clip("another one", 0))
    before = files_of(tmp_path)
    commit_what_is_missing(tmp_path)
    assert files_of(tmp_path) == before


def test_who_looks_while_another_one_makes_the_files_finds_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, exists = TrackStore(TracksLayout(tmp_path), SETTINGS), Path.exists

    def and_then_made(path: Path) -> bool:
        monkeypatch.setattr(Path, "exists", exists)
        is_there = path.exists()
        commit_what_is_missing(tmp_path)
        return is_there

    monkeypatch.setattr(Path, "exists", and_then_made)
    assert looked.has(SEGMENTS[0][0])


def test_a_video_of_empty_segments_only(tmp_path: Path) -> None:
    commit_what_is_missing(tmp_path, [(one, []) for one, _ in SEGMENTS])
    layout = TracksLayout(tmp_path)
    assert all(TrackStore(layout, SETTINGS).has(one) for one, _ in SEGMENTS)
    assert list(store.read_records(layout.meta_path(VIDEO_ID))) == []
    assert store.read_columns(layout.meta_path(VIDEO_ID)) == ([], [])
    assert not layout.embeddings_path(VIDEO_ID).exists()
    assert_gzip_reads_nothing_in(layout.meta_path(VIDEO_ID))


def assert_gzip_reads_nothing_in(path: Path) -> None:
    """Neither does it complain, as it does of a file without a byte."""
    for flags in ("-t", "-dc"):
        done = subprocess.run(["gzip", flags], input=path.read_bytes(), capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_track_file_of_no_bytes_is_read_and_added_to(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """As they used to be where there were no tracks, and as a kill may leave them."""
    commit_what_is_missing(tmp_path, SEGMENTS[:1])
    meta_path = TracksLayout(tmp_path).meta_path(VIDEO_ID)
    meta_path.write_bytes(b"")
    assert list(store.read_records(meta_path)) == []
    assert store.read_columns(meta_path) == ([], [])
    commit_what_is_missing(tmp_path)
    assert files_of(tmp_path) == undisturbed


def test_tracks_without_appearance_have_no_embeddings_file(tmp_path: Path) -> None:
    bare = [(one, [replace(track, embedding=np.zeros(0, np.float32)) for track in tracks]) for one, tracks in SEGMENTS]
    commit_what_is_missing(tmp_path, bare)
    assert committed(tmp_path) == list(range(len(ALL_TRACKS)))
    assert not TracksLayout(tmp_path).embeddings_path(VIDEO_ID).exists()


# ---- killed at any instant


# Not forked from the tests' own process: threads of libraries that other tests use would leave locks behind.
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def warm_forks() -> None:
    """The process that is forked has imported all this already, or each fork would take seconds for it."""
    FORKS.set_forkserver_preload(["test_store"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # it knows no other way
        forkserver.ensure_running()


def in_child(work: Callable[..., None], *args: object) -> int:
    """Run `work` in a process of its own; its exit status, below 0 for the signal that killed it."""
    child = FORKS.Process(target=work, args=args)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def strike_at(number: int, strike: Callable[[], None], when: str) -> None:
    """From now on the `number`-th call, from 0, of what makes writes last calls `strike` before or after its work."""
    counter = itertools.count()

    def watched(call: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*args: Any) -> None:
            is_it = next(counter) == number
            if is_it and when == "before":
                strike()
            call(*args)
            if is_it and when == "after":
                strike()

        return wrapper

    os.fsync, os.replace = watched(os.fsync), watched(os.replace)


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def commit_and_be_killed(folder: Path, number: int, when: str) -> None:
    """At the `number`-th step."""
    strike_at(number, kill_myself, when)
    commit_what_is_missing(folder)


def check_and_finish(folder: Path, undisturbed: dict[str, bytes]) -> int:
    """After a kill: readers see whole segments only; a re-run completes the files. The number of segments seen."""
    ids = committed(folder)
    ends = list(itertools.accumulate(NUM_TRACKS, initial=0))
    assert ids == list(range(len(ids)))
    assert len(ids) in ends
    commit_what_is_missing(folder)
    assert files_of(folder) == undisturbed
    return ends.index(len(ids))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step_a_re_run_leaves_every_track_once(
    tmp_path: Path, undisturbed: dict[str, bytes], when: str
) -> None:
    """A real kill -9 of a real process at each flush and each rename of four commits, one after the other."""
    seen = set()
    for number in itertools.count():
        folder = tmp_path / str(number)
        status = in_child(commit_and_be_killed, folder, number, when)
        seen.add(check_and_finish(folder, undisturbed))
        if status == 0:  # there is no such step any more
            break
        assert status == -signal.SIGKILL
    assert number == 3 + 2 * 7 + 2 * 4  # the first progress file, two commits with embeddings and two without
    assert seen == {0, 2, 4}  # as counted by tracks, an empty segment can't be told from the one before


def test_killed_twice_a_re_run_leaves_every_track_once(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """The second kill meets what the first one left behind."""
    for first, second in itertools.product(range(10), (0, 4)):
        folder = tmp_path / f"{first} {second}"
        for number in (first, second):
            assert in_child(commit_and_be_killed, folder, number, "before") == -signal.SIGKILL
        check_and_finish(folder, undisturbed)


def limit_files_to(num_bytes: int) -> None:
    """From now on this process can't write beyond that in any file; the kernel writes up to there."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def commit_and_be_stopped(folder: Path, num_bytes: int) -> None:
    """Within the write that goes beyond `num_bytes`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit_files_to(num_bytes)
    commit_what_is_missing(folder)


def commit_on_a_full_disk(folder: Path, num_bytes: int) -> None:
    """In vain at first, then with room again."""
    limit_files_to(num_bytes)
    with pytest.raises(OSError, match=r"File too large: .*-meta\.jsonl\.gzip"):
        commit_what_is_missing(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    commit_what_is_missing(folder)


def track_file_sizes(undisturbed: dict[str, bytes]) -> Iterator[int]:
    """Sizes at which a track file can be stopped in the middle of a write, but none of the small files beside it."""
    sizes = {name: len(content) for name, content in undisturbed.items()}
    track_file = max(sizes, key=lambda name: sizes[name])
    assert track_file.endswith("-meta.jsonl.gzip")
    smallest = max(size for name, size in sizes.items() if name != track_file)
    return iter(np.linspace(smallest + 1, sizes[track_file] - 1, 6, dtype=int).tolist())


def test_killed_in_the_middle_of_a_write(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """The kernel itself kills at a byte of the track file (SIGXFSZ), so that half a record is on the disk."""
    for num_bytes in track_file_sizes(undisturbed):
        folder = tmp_path / str(num_bytes)
        assert in_child(commit_and_be_stopped, folder, num_bytes) == -signal.SIGXFSZ
        assert len(files_of(folder)[f"-M/{VIDEO_ID}-meta.jsonl.gzip"]) == num_bytes
        check_and_finish(folder, undisturbed)


def test_a_full_disk_is_an_error_and_costs_nothing(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """The same write without the kill: the process lives on, and goes on when there is room again."""
    for num_bytes in track_file_sizes(undisturbed):
        folder = tmp_path / str(num_bytes)
        assert in_child(commit_on_a_full_disk, folder, num_bytes) == 0
        assert files_of(folder) == undisturbed


# ---- what is behind the committed part

TAILS = {
    "half a record": jsonl.gzip_member(b"x" * 99)[:-10],
    "a whole record": jsonl.gzip_member(b'{"track_id": 6}'),
    "no gzip": b"\0" * 1000,
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_an_uncommitted_tail_is_not_read_and_cut_off_before_the_next_commit(
    layout: TracksLayout, tmp_path: Path, tail: bytes
) -> None:
    meta_path = layout.meta_path(VIDEO_ID)
    whole = meta_path.read_bytes()
    meta_path.write_bytes(whole + tail)
    rows = store.load_embeddings(layout.embeddings_path(VIDEO_ID))
    np.save(layout.embeddings_path(VIDEO_ID), np.concatenate([rows, rows]))

    assert committed(tmp_path) == list(range(len(ALL_TRACKS)))
    assert indexed(meta_path) == (list(range(len(ALL_TRACKS))), [])

    TrackStore(layout, SETTINGS).commit(clip(VIDEO_ID, 50), [make_track(99)], VIDEO_HW, LABELS)
    assert committed(tmp_path) == list(range(len(ALL_TRACKS) + 1))
    assert meta_path.read_bytes().startswith(whole)
    after = store.load_embeddings(layout.embeddings_path(VIDEO_ID))
    np.testing.assert_array_equal(after, np.concatenate([rows, make_track(99).embedding[None].astype(np.float16)]))


# ---- files that somebody cut


def commit_one_more(layout: TracksLayout) -> None:
    TrackStore(layout, SETTINGS).commit(clip(VIDEO_ID, 50), [make_track(99)], VIDEO_HW, LABELS)


@pytest.mark.parametrize("num_bytes", [1, 10_000_000], ids=["by a byte", "to nothing"])
def test_a_track_file_cut_short_is_refused_and_left_alone(layout: TracksLayout, tmp_path: Path, num_bytes: int) -> None:
    meta_path = layout.meta_path(VIDEO_ID)
    meta_path.write_bytes(meta_path.read_bytes()[:-num_bytes])
    before = files_of(tmp_path)
    with pytest.raises(RecordError, match=r"-meta\.jsonl\.gzip: \d+ bytes, but its progress file counts") as caught:
        commit_one_more(layout)
    assert caught.value.reason == "track file cut short"
    assert files_of(tmp_path) == before


def test_a_track_file_cut_between_two_records_is_told_by_its_readers(layout: TracksLayout) -> None:
    """Nothing in the file itself says so: it is a good gzip file of fewer lines."""
    meta_path = layout.meta_path(VIDEO_ID)
    lines = gzip.decompress(meta_path.read_bytes()).splitlines()
    meta_path.write_bytes(b"".join(map(jsonl.gzip_member, lines[:-1])))
    assert indexed(meta_path) == (list(range(len(ALL_TRACKS) - 1)), ["track file cut short"])


def cut_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def cut_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("damage", [cut_rows, cut_bytes, Path.unlink], ids=["by a row", "by some bytes", "altogether"])
def test_embeddings_cut_short_are_refused_before_rows_and_tracks_part(
    layout: TracksLayout, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(layout.embeddings_path(VIDEO_ID))
    with pytest.raises(RecordError, match=r"-embeddings\.npy") as caught:
        commit_one_more(layout)
    assert caught.value.reason == "bad embeddings"
    assert committed(tmp_path) == list(range(len(ALL_TRACKS)))
    assert not TrackStore(layout, SETTINGS).has(clip(VIDEO_ID, 50))


# ---- other settings

OTHERS: dict[str, dict[str, Any]] = {
    "another detector": {"detector": "detic sha256:4567"},
    "another vocabulary": {"vocab": "lvis"},
    "another frame rate": {"fps": 8.0},
    "a setting that the files don't know": {"match_thresh": 0.45},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_folder_made_with_other_settings_is_refused(
    layout: TracksLayout, tmp_path: Path, change: dict[str, Any]
) -> None:
    before = files_of(tmp_path)
    other = TrackStore(layout, SETTINGS | change)
    ((name, value),) = change.items()
    for use in (other.has, lambda one: other.commit(one, [make_track(1)], VIDEO_HW, LABELS)):
        with pytest.raises(SetupError, match=f"made with {name} = .*, asked for {value!r}; give another --output_dir"):
            use(clip(VIDEO_ID, 50))
    assert files_of(tmp_path) == before


def test_a_folder_made_with_a_setting_that_is_not_asked_for_is_refused(layout: TracksLayout) -> None:
    """As with those of the second pass, under --no_refine."""
    fewer = {name: value for name, value in SETTINGS.items() if name != "vocab"}
    with pytest.raises(SetupError, match=r"made with vocab = .*, asked for None; give another --output_dir"):
        TrackStore(layout, fewer).has(clip(VIDEO_ID, 50))


@pytest.mark.parametrize(
    ("progress", "said"),
    [(None, "has no progress file"), ('{"segments_complete": [[0, 10]], "num_tracks": 2}', "not a progress file")],
    ids=["no progress file", "the published one"],
)
def test_a_track_file_that_is_not_ours_is_refused_and_never_overwritten(
    layout: TracksLayout, tmp_path: Path, progress: str | None, said: str
) -> None:
    layout.progress_path(VIDEO_ID).unlink()
    if progress is not None:
        layout.progress_path(VIDEO_ID).write_text(progress)
    before = files_of(tmp_path)
    for use in (commit_one_more, lambda layout: TrackStore(layout, SETTINGS).has(SEGMENTS[0][0])):
        with pytest.raises(RecordError, match=said):
            use(layout)
    assert files_of(tmp_path) == before


def test_the_settings_of_the_real_stage_survive_their_file(tmp_path: Path) -> None:
    """A tuple would come back as a list, and every second run would be refused."""
    args = parse_tracks.make_parser().parse_args(["--clips_metafile", "a", "--output_dir", "b"])
    settings = tracking_flags.settings(args).as_dict()
    for _ in range(2):
        TrackStore(TracksLayout(tmp_path), settings).has(clip(VIDEO_ID, 0))
        if not TrackStore(TracksLayout(tmp_path), settings).has(clip(VIDEO_ID, 0)):
            TrackStore(TracksLayout(tmp_path), settings).commit(clip(VIDEO_ID, 0), [make_track(1)], VIDEO_HW, LABELS)
    assert committed(tmp_path) == [0]


# ---- reading many files


@pytest.fixture
def folder(tmp_path: Path) -> TracksLayout:
    """Four videos: a (tracks 0 to 3), b (0 and 1), c (none at all) and d (0)."""
    return fill_store(tmp_path / "tracks", {"video-a": [0, 1, 2, 3], "video-b": [1, 1], "video-c": [], "video-d": [2]})


def break_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (cut_bytes, "torn gzip"),
    "a link to nowhere": (break_link, "unreadable track file"),
    "a folder": (make_folder, "unreadable track file"),
    "something else": (lambda path: path.write_bytes(os.urandom(10) + b"\n" * 10_000), "bad JSON"),
}


@pytest.mark.parametrize(("damage", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_error_to_count(
    folder: TracksLayout, damage: Callable[[Path], object], reason: str
) -> None:
    damage(folder.meta_path("video-b"))
    _, errors = store.read_columns(folder.meta_path("video-b"))
    assert reason in [error.reason for error in errors]
    assert all("video-b-meta.jsonl.gzip" in str(error) for error in errors)


@pytest.mark.parametrize("content", ["", "null", "{", '{"schema": "trackverse/1"}'])
def test_a_bad_progress_file_makes_its_track_file_unreadable(folder: TracksLayout, content: str) -> None:
    folder.progress_path("video-b").write_text(content)
    parts, errors = store.read_columns(folder.meta_path("video-b"))
    assert not parts
    (error,) = errors
    assert "video-b-progress.json" in str(error)


@pytest.mark.parametrize(
    "content", [None, '{"segments_complete": [[0, 1]], "num_tracks": 1}'], ids=["none", "published"]
)
def test_without_a_progress_file_of_ours_all_lines_are_read(folder: TracksLayout, content: str | None) -> None:
    folder.progress_path("video-a").unlink()
    if content is not None:
        folder.progress_path("video-a").write_text(content)
    assert indexed(folder.meta_path("video-a")) == ([0, 1, 2, 3], [])


def test_a_file_written_at_once_is_read_like_a_committed_one(layout: TracksLayout, tmp_path: Path) -> None:
    records = list(store.read_records(layout.meta_path(VIDEO_ID)))
    path = tmp_path / "clip.jsonl.gzip"
    store.write_records(path, records[:2])
    assert [record.track_id for record in store.read_records(path)] == [0, 1]


def test_a_file_of_no_records_written_at_once_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "clip.jsonl.gzip"
    store.write_records(path, [])
    assert_gzip_reads_nothing_in(path)
    assert list(store.read_records(path)) == []
    assert store.read_columns(path) == ([], [])
