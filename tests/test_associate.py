"""Detections that users have already, as MOTChallenge text: associated by the command, and compared with the truth by
TrackEval.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackverse import associate, evaluate, mot
from trackverse.errors import SetupError

NUM_FRAMES, FPS = 100, 10


def crowd(missed: range = range(40, 44)) -> np.ndarray:
    """(N, 7) MOT rows of three people of 40 x 80 px: two stroll past each other, one stands and is `missed`."""
    rows = []
    for frame in range(1, NUM_FRAMES + 1):
        people = {1: (100 + 4 * frame, 100), 2: (600 - 4 * frame, 300), 3: (800, 200)}
        for person, (left, top) in people.items():
            if person != 3 or frame not in missed:
                rows.append((frame, person, left, top, 40, 80, 0.9))
    return np.array(rows)


def write_sequence(
    folder: Path, rows: np.ndarray, *, filename: str = "det.txt", benchmark: str = "mine", fps: float = FPS
) -> Path:
    """A sequence's folder with its rows as they stand; in det.txt nobody has an id."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = rows[:, 1] if filename == "gt.txt" else np.full(len(rows), -1)
    sure = np.ones(len(rows)) if filename == "gt.txt" else rows[:, 6]  # in gt.txt: that the box counts
    table = np.column_stack([rows[:, 0], ids, rows[:, 2:6], sure, np.ones(len(rows)), np.ones(len(rows))])
    np.savetxt(folder / filename, table, fmt="%g", delimiter=",")
    text = f"[Sequence]\nname=x\nframeRate={fps}\nseqLength={NUM_FRAMES}\nbenchmark={benchmark}\n"
    (folder / "seqinfo.ini").write_text(text)
    return folder


def run(tmp_path: Path, *flags: str) -> int:
    return associate.main(["--detections", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), *flags])


def results(tmp_path: Path, name: str = "street") -> np.ndarray:
    return mot.read_boxes(tmp_path / "out" / f"{name}.txt")


def test_a_result_file_a_sequence_with_an_id_for_each_person(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in" / "street", crowd())
    write_sequence(tmp_path / "in" / "square 2", crowd(range(0)))
    assert run(tmp_path) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["square 2.txt", "street.txt"]
    found = results(tmp_path)
    assert sorted(np.unique(found[:, 1], return_counts=True)[1].tolist()) == [96, 100, 100]
    truth = crowd()
    # The boxes are the detector's, a line each, by frame and id.
    np.testing.assert_allclose(np.sort(found[:, 2]), np.sort(truth[:, 2]))
    assert found[:, :2].tolist() == sorted(found[:, :2].tolist())


def test_refined_tracks_fill_the_frames_in_between(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in" / "street", crowd(range(40, 42)))
    assert run(tmp_path, "--refine") == 0
    found = results(tmp_path)
    assert np.unique(found[:, 1], return_counts=True)[1].tolist() == [100, 100, 100]
    filled = found[found[:, 6] == 0]
    assert filled[:, 0].tolist() == [40, 41]
    np.testing.assert_allclose(filled[:, 2:6], [[800, 200, 40, 80]] * 2, atol=0.5)


def swapped() -> tuple[np.ndarray, np.ndarray]:
    """Two who stand on one another's place after a blink, and what they look like."""
    rows = [
        (frame, person, 100 + 8 * ((person == 1) == (frame < 50)), 100, 40, 80, 0.9)
        for frame in range(1, NUM_FRAMES + 1)
        for person in (1, 2)
        if frame not in (48, 49)
    ]
    looks = np.eye(2)[[row[1] - 1 for row in rows]]
    return np.array(rows), looks


@pytest.mark.parametrize("filename, flag", [("feat.npz", "feat.npz"), ("feat.npz", "feat.npz:b"), ("e.npy", "e.npy")])
def test_appearances_tell_people_apart(tmp_path: Path, filename: str, flag: str) -> None:
    rows, looks = swapped()
    folder = write_sequence(tmp_path / "in" / "street", rows)
    if filename.endswith(".npy"):
        np.save(folder / filename, looks)
    else:
        np.savez(folder / filename, owner=rows[:, 1], b=looks, c=np.ones_like(looks))
    assert run(tmp_path, "--embeddings", flag) == 0
    with_looks = results(tmp_path)
    assert run(tmp_path) == 0
    boxes_alone = results(tmp_path)

    def places(found: np.ndarray) -> set[tuple[int, ...]]:
        return {tuple(np.unique(found[found[:, 1] == n, 2]).astype(int)) for n in np.unique(found[:, 1])}

    assert places(with_looks) == {(100, 108)}  # each has stood in both places
    assert places(boxes_alone) == {(100,), (108,)}


def test_detections_that_nobody_can_use_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [(5, 0, np.nan, 1, 40, 80, 0.9), (5, 0, 1, 1, -4, 80, 0.9), (101, 0, 1, 1, 40, 80, 0.9)]
    write_sequence(tmp_path / "in" / "street", np.concatenate([crowd(), bad]))
    assert run(tmp_path) == 0
    said = capsys.readouterr().err
    assert "3 tracks" in said
    for reason in ("not finite", "empty or outside the frame", "outside the sequence's frames"):
        assert f"1 detections {reason}" in said
    assert len(results(tmp_path)) == len(crowd())


def test_what_is_seen_once_is_left_out_and_boxes_are_smoothed_unless_raw_ones_are_wanted(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = crowd()
    rows[:, 2:4] += rng.normal(0, 3, (len(rows), 2))
    write_sequence(tmp_path / "in" / "street", np.concatenate([rows, [(50, 0, 900, 700, 40, 80, 0.9)]]))
    found = {}
    for flag in ("--raw_boxes", "--conf=0.1"):
        assert run(tmp_path, flag) == 0
        found[flag] = results(tmp_path)
        assert len(found[flag]) == len(rows)

    def jitter(boxes: np.ndarray) -> float:
        ways = [boxes[boxes[:, 1] == n][:, 2] for n in np.unique(boxes[:, 1])]
        return float(np.mean([np.abs(np.diff(way, 2)).mean() for way in ways]))

    raw, smooth = (jitter(np.array(found[flag], float)) for flag in found)
    assert smooth < 0.5 * raw


@pytest.mark.parametrize(
    ("fps", "flag", "num_missed", "num_filled"),
    [(30, "", 5, 5), (30, "", 6, 0), (30, "--raw_boxes", 5, 0), (2, "", 1, 1), (2, "", 2, 0)],
    ids=["0.2 s", "longer", "raw boxes", "one of rare frames", "two of them"],
)
def test_what_the_detector_misses_for_a_moment_is_filled(
    tmp_path: Path, fps: float, flag: str, num_missed: int, num_filled: int
) -> None:
    rows = crowd(range(40, 40 + num_missed))
    write_sequence(tmp_path / "in" / "street", rows, fps=fps)
    assert run(tmp_path, "--max_lost_s=2", *filter(None, [flag])) == 0
    found = results(tmp_path)
    assert len(found) == len(rows) + num_filled
    assert found[found[:, 6] == 0, 0].tolist() == list(range(40, 40 + num_filled))


@pytest.mark.parametrize(("num_missed", "lengths"), [(3, [97]), (4, [39, 57])], ids=["three frames", "four"])
@pytest.mark.parametrize("fps", [1, 2, 3])
def test_however_rare_frames_are_three_missed_ones_end_no_track(
    tmp_path: Path, fps: float, num_missed: int, lengths: list[int]
) -> None:
    write_sequence(tmp_path / "in" / "street", crowd(range(40, 40 + num_missed)), fps=fps)
    assert run(tmp_path, "--raw_boxes") == 0
    assert sorted(np.unique(results(tmp_path)[:, 1], return_counts=True)[1].tolist()) == [*lengths, 100, 100]


def test_a_sequence_without_detections_has_an_empty_result(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in" / "street", crowd()[:0])
    assert run(tmp_path, "--refine") == 0
    assert (tmp_path / "out" / "street.txt").read_text() == ""


MISTAKES = {
    "no sequence": (lambda folder: (folder / "det.txt").unlink(), "no sequence there"),
    "no seqinfo.ini": (lambda folder: (folder / "seqinfo.ini").unlink(), "seqinfo.ini: must be readable"),
    "no frame rate": (lambda folder: (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=3"), "frameRate"),
    "a million million frames": (
        lambda folder: (folder / "seqinfo.ini").write_text(f"[Sequence]\nseqLength={10**12}\nframeRate=9"),
        "seqLength is over",
    ),
    "a frame rate of 0": (
        lambda folder: (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=3\nframeRate=0"),
        "above 0",
    ),
    "not a number": (lambda folder: (folder / "det.txt").write_text("1,-1,a,2,3,4,1"), "det.txt, line 1: not numbers"),
    "too few numbers": (lambda folder: (folder / "det.txt").write_text("\n1,2,3"), "det.txt, line 2: 3 numbers"),
    "not text": (lambda folder: (folder / "det.txt").write_bytes(b"\xff\xfe\x00"), "det.txt: can't read it"),
    "too few embeddings": (lambda folder: np.save(folder / "e.npy", np.ones((3, 2))), "a row a line is wanted"),
    "no embeddings in it": (lambda folder: (folder / "e.npy").write_bytes(b"x"), "no array of embeddings"),
}


@pytest.mark.parametrize("spoil, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_status_2(tmp_path: Path, spoil, message: str, capsys) -> None:
    spoil(write_sequence(tmp_path / "in" / "street", crowd()))
    assert run(tmp_path, "--embeddings", "e.npy") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("nested", [False, True], ids=["gt.txt", "gt/gt.txt"])
@pytest.mark.parametrize("benchmark", ["mine", "MOT17"])
def test_what_trackeval_says_of_a_perfect_and_of_a_swapped_result(
    tmp_path: Path, benchmark: str, nested: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = crowd(range(0))
    for name in ("perfect", "swapped"):
        folder = write_sequence(tmp_path / "gt" / name, truth, filename="gt.txt", benchmark=benchmark)
        if nested:
            (folder / "gt").mkdir()
            (folder / "gt.txt").rename(folder / "gt" / "gt.txt")
    swap = truth.copy()
    late = swap[:, 0] > 50
    swap[late, 1] = np.array([0, 2, 1, 3])[swap[late, 1].astype(int)]
    for name, rows in (("perfect", truth), ("swapped", swap)):
        write = [(int(row[0]), int(row[1]), ",".join(f"{v:g}" for v in row[2:]) + ",17,-1") for row in rows]
        mot.write_boxes(tmp_path / "out" / f"{name}.txt", write)
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 0
    table = {line.split()[0]: [float(n) for n in line.split()[1:]] for line in capsys.readouterr().out.splitlines()[1:]}
    assert table["perfect"] == [100, 100, 100, 0]
    # Two of three people change their id half way: 2 switches in 300 boxes, and each id is right for half of the time.
    assert table["swapped"][1:] == [99.3, 66.7, 2]
    assert table["all"][3] == 2


def test_a_sequence_without_tracks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        write_sequence(tmp_path / "gt" / name, crowd(), filename="gt.txt")
    mot.write_boxes(tmp_path / "out" / "one.txt", [(1, 1, "1,2,3,4,1")])
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 1
    assert "two: no" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows, message",
    [
        ([(1, 1, "1,2,3,4,1"), (1, 1, "5,6,3,4,1")], "an id comes twice"),
        ([(999, 1, "1,2,3,4,1")], "frame 999 of a sequence of 100"),
    ],
)
def test_results_that_cannot_be_are_refused(tmp_path: Path, rows: list[tuple[int, int, str]], message: str) -> None:
    write_sequence(tmp_path / "gt" / "one", crowd(), filename="gt.txt")
    mot.write_boxes(tmp_path / "out" / "one.txt", rows)
    with pytest.raises(SetupError, match=message):
        evaluate.run(
            evaluate.make_parser().parse_args(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")])
        )
