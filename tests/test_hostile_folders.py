"""A dataset folder of others, with things in it that are no files: nothing waits, and nothing is led outside."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, fill_store, make_track

import curate_db
from trackverse import doctor, files, forget, report, split, stage
from trackverse.errors import RecordError
from trackverse.layout import Layout, TracksLayout, embeddings_beside, failed_path, progress_beside
from trackverse.store import TrackStore

SECONDS = 60  # for one command, which takes a tenth of one
NODES: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to("/nowhere/at all"),
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "empty": Path.touch,
}
PLACES: dict[str, Callable[[Path], Path]] = {
    "tracks": lambda work: tracks(work).meta_path("video1"),
    "progress": lambda work: progress_beside(tracks(work).meta_path("video1")),
    "embeddings": lambda work: embeddings_beside(tracks(work).meta_path("video0")),
    "the index": lambda work: tracks(work).index_path,
    "a list of segments": lambda work: Layout(work).mined_part_path("coco", 0),
    "a subset": lambda work: work / "tracks_subsets" / "coco" / "old.jsonl.gzip",
    "a subset's sidecar": lambda work: work / "tracks_subsets" / "coco" / "old.json",
    "failures": lambda work: failed_path(work / "videos_mp4"),
}


def tracks(work: Path) -> TracksLayout:
    return TracksLayout(work / "tracks_meta" / "coco")


def curate(work: Path, name: str, *flags: str) -> int:
    output = work / "tracks_subsets" / "coco" / f"{name}.jsonl.gzip"
    argv = ["--tracks_dir", str(tracks(work).output_dir), "--output_file", str(output), *flags]
    return stage.start(
        curate_db.make_parser(), curate_db.work, what="subset", output_dir=lambda args: output.parent, argv=argv,
        spread=False, check=curate_db.check,
    )  # fmt: skip


COMMANDS: dict[str, Callable[[Path], int]] = {
    "choose": lambda work: curate(work, "new", "--criterion", "min_redundancy", "--num_samples_per_class", "1"),
    "choose again": lambda work: curate(work, "old", "--criterion", "random", "--num_samples", "3", "--overwrite"),
    "split": lambda work: split.main(["--tracks_dir", str(tracks(work).output_dir), "--output_dir", str(work / "s")]),
    "report": lambda work: report.main(
        ["--tracks_dir", str(tracks(work).output_dir), "--videos_dir", str(work), "--output_file", str(work / "x.html")]
    ),
    "doctor": lambda work: doctor.main([str(work), "--fix"]),
    "forget": lambda work: forget.main(["video2", "--workdir", str(work)]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("whole")
    fill_store(tracks(work).output_dir, {f"video{n}": [1, 2, n] for n in range(3)})
    with quietly():
        assert curate(work, "old", "--criterion", "random", "--num_samples", "3") == 0
    for path in (PLACES["a list of segments"](work), PLACES["failures"](work)):
        path.parent.mkdir(parents=True)
        path.write_text('{"video_id":"video1"}\n')
    return work


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without output, and with an end: what waits for ever fails."""

    def give_up(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_is_no_file_is_a_reason(
    whole: Path, tmp_path: Path, place: Callable[[Path], Path], node: Callable[[Path], object]
) -> None:
    for run in COMMANDS.values():
        work = Path(shutil.copytree(whole, tmp_path / "work", symlinks=True))
        place(work).unlink()
        node(place(work))
        with quietly():
            assert run(work) in (0, 1, 2)
        shutil.rmtree(work)


@pytest.mark.parametrize("node", [NODES["a named pipe"], NODES["a folder"]], ids=["a named pipe", "a folder"])
@pytest.mark.parametrize("what", ["tracks", "progress", "embeddings"])
def test_tracks_that_cannot_be_added_to_are_the_items_failure(
    whole: Path, tmp_path: Path, what: str, node: Callable[[Path], object]
) -> None:
    """And not that of the stage, which goes on with the next item."""
    work = Path(shutil.copytree(whole, tmp_path / "work"))
    path = PLACES[what](work)
    path.unlink()
    node(path)
    with quietly(), pytest.raises(RecordError):
        store = TrackStore(tracks(work), SETTINGS)
        store.commit(clip(path.name.partition("-")[0], 9), [make_track(1)], VIDEO_HW, LABELS)


def test_links_are_not_written_through(whole: Path, tmp_path: Path) -> None:
    """Not by who notes a failure, who mends a list or a track file, nor by a takedown."""
    work = Path(shutil.copytree(whole, tmp_path / "work"))
    victim = tmp_path / "victim"
    victim.write_text("mine, with video2 in it\nand a last line that has no end")
    meta_path = tracks(work).meta_path("video1")
    outside = meta_path.replace(tmp_path / "tracks of mine")
    with open(outside, "ab") as file:
        file.write(b"an end that is not committed")
    before = outside.read_bytes()
    meta_path.symlink_to(outside)
    log_path = work / "videos_mp4" / "slurm_logs" / "1" / "1_0_log.err"
    log_path.parent.mkdir(parents=True)
    for path in (failed_path(work / "videos_mp4"), failed_path(tracks(work).output_dir), log_path):
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        files.append_line(failed_path(work / "videos_mp4"), "{}")
    with quietly():
        assert doctor.main([str(work), "--fix"]) == 1
        assert forget.main(["video2", "--workdir", str(work)]) == 1
    assert victim.read_text() == "mine, with video2 in it\nand a last line that has no end"
    assert outside.read_bytes() == before
    assert not tracks(work).meta_path("video2").exists()
