"""Tracks compared with ground truth by TrackEval."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from mot_folders import crowd, shuffled, write_sequence

from trackverse import evaluate, mot


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


def evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[float]]:
    """What the command prints, by sequence."""
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert all(len(line) == len(heading) for line in lines)
    return {line.split()[0]: [float(n) for n in line.split()[1:]] for line in lines}


TRUTH = crowd(range(0))
COUNTS = (TRUTH[:, 1] != 3).astype(int)  # whom the evaluation is to leave out, that one stands


def truth_text(*columns: np.ndarray | float) -> str:
    """gt.txt with these columns after the boxes."""
    table = np.column_stack([TRUTH[:, :6], *(np.broadcast_to(column, len(TRUTH)) for column in columns)])
    return "".join(",".join(f"{value:g}" for value in row) + "\n" for row in table)


TRUTHS = {
    "seven columns": (truth_text(COUNTS), "mine"),
    "eight": (truth_text(COUNTS, 1), "mine"),
    "nine": (truth_text(COUNTS, 1, 0.5), "mine"),
    "ten, of MOT15": (truth_text(COUNTS, -3.2, 4.1, 0), "MOT15"),
    "any class": (truth_text(COUNTS, 80, 1), "mine"),
    "distractors": (truth_text(1, np.where(COUNTS, 1, 8), 1), "MOT17"),
    "people alone count": (truth_text(1, np.where(COUNTS, 1, 3), 1), "MOT17"),
    "what isn't 0 counts": (truth_text(0.9 * COUNTS, 1, 1), "mine"),
    "tabs": (truth_text(COUNTS, 1, 1).replace(",", "\t"), "mine"),
    "a byte order mark": ("\ufeff" + truth_text(COUNTS, 1, 1), "mine"),
    "Windows' line ends": (truth_text(COUNTS, 1, 1).replace("\n", "\r\n"), "mine"),
    "a comma at the end of a line": (truth_text(COUNTS).replace("\n", ",\n"), "mine"),
    "empty lines": ("\n" + truth_text(COUNTS, 1, 1).replace("\n", "\n\n"), "mine"),
    "frames in any order": (shuffled(truth_text(COUNTS, 1, 1)), "mine"),
}


@pytest.mark.parametrize("text, benchmark", TRUTHS.values(), ids=TRUTHS)
@pytest.mark.parametrize("ids", [1, -1, 1000], ids=["ids", "ids below 0", "large ids"])
def test_odd_but_right_ground_truth(tmp_path: Path, text: str, benchmark: str, ids: int, capsys) -> None:
    folder = write_sequence(tmp_path / "gt" / "one", TRUTH, filename="gt.txt", benchmark=benchmark)
    (folder / "gt.txt").write_bytes(text.encode())
    # The third one is found only where he is a distractor, who may be.
    found = TRUTH[(TRUTH[:, 1] != 3) | (",8," in text)]
    rows = [(int(row[0]), int(ids * row[1]), ",".join(f"{v:g}" for v in row[2:])) for row in found]
    mot.write_boxes(tmp_path / "out" / "one.txt", rows)
    assert evaluated(tmp_path, capsys) == {"one": [100, 100, 100, 0]}


def test_braces_in_the_name_of_the_temporary_folder_mean_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    """TrackEval takes paths for patterns to fill in."""
    (tmp_path / "{seq}").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "{seq}"))
    write_sequence(tmp_path / "gt" / "one", TRUTH, filename="gt.txt")
    mot.write_boxes(tmp_path / "out" / "one.txt", [(int(row[0]), int(row[1]), "1,2,3,4,1") for row in TRUTH])
    assert list(evaluated(tmp_path, capsys)) == ["one"]


def test_sequences_in_either_layout_side_by_side_are_all_evaluated(tmp_path: Path, capsys) -> None:
    for name in ("one", "two"):
        folder = write_sequence(tmp_path / "gt" / name, TRUTH, filename="gt.txt")
        rows = [(int(row[0]), int(row[1]), ",".join(f"{v:g}" for v in row[2:])) for row in TRUTH]
        mot.write_boxes(tmp_path / "out" / f"{name}.txt", rows)
    (folder / "gt").mkdir()
    (folder / "gt.txt").rename(folder / "gt" / "gt.txt")
    assert list(evaluated(tmp_path, capsys)) == ["one", "two", "all"]
    assert evaluate.main(["--gt", str(folder), "--tracks", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("two ")


@pytest.mark.parametrize("rows", [TRUTH, TRUTH[:0]], ids=["left out", "not there"])
def test_ground_truth_of_which_nothing_counts_is_said(tmp_path: Path, rows: np.ndarray, capsys) -> None:
    folder = write_sequence(tmp_path / "gt" / "one", rows, filename="gt.txt")
    (folder / "gt.txt").write_text((folder / "gt.txt").read_text().replace(",1,1,1\n", ",0,1,1\n"))
    mot.write_boxes(tmp_path / "out" / "one.txt", [(1, 1, "1,2,3,4,1")])
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 0
    assert "gt.txt: has no box that counts" in capsys.readouterr().err


def test_tracks_without_ground_truth_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "gt" / "one", TRUTH, filename="gt.txt")
    for name in ("one", "two"):
        mot.write_boxes(tmp_path / "out" / f"{name}.txt", [(1, 1, "1,2,3,4,1")])
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 0
    assert "two: no ground truth" in capsys.readouterr().out


def test_a_sequence_may_be_called_as_all_of_them_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("all", "one"):
        write_sequence(tmp_path / "gt" / name, TRUTH, filename="gt.txt")
        found = TRUTH if name == "all" else TRUTH[TRUTH[:, 1] == 1]
        rows = [(int(row[0]), int(row[1]), ",".join(f"{v:g}" for v in row[2:])) for row in found]
        mot.write_boxes(tmp_path / "out" / f"{name}.txt", rows)
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 0
    lines = [line.rsplit(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(name.strip(), mota) for name, _, mota, *_ in lines] == [
        ("all", "100.0"), ("one", "33.3"), ("all together", "66.7")
    ]  # fmt: skip


def test_a_sequence_without_tracks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        write_sequence(tmp_path / "gt" / name, crowd(), filename="gt.txt")
    mot.write_boxes(tmp_path / "out" / "one.txt", [(1, 1, "1,2,3,4,1")])
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 1
    assert "two: no" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows, message",
    [
        ([(1, 1, "1,2,3,4,1"), (1, 1, "5,6,3,4,1")], "id 1 comes twice in frame 1"),
        ([(999, 1, "1,2,3,4,1")], "frame 999, and the sequence has 1 to 100"),
        ([(0, 1, "1,2,3,4,1")], "frame 0, and the sequence has 1 to 100"),
        ([(1.5, 1, "1,2,3,4,1")], "frame 1.5, and the sequence has 1 to 100"),
        ([(1, 1.5, "1,2,3,4,1")], "id 1.5"),
        ([(7, 1, "nan,2,3,4,1")], "a box of frame 7 is not finite"),
    ],
)
@pytest.mark.parametrize("whose", ["one.txt", "gt.txt"])
def test_boxes_that_cannot_be_are_refused(
    tmp_path: Path, rows: list[tuple[int, int, str]], message: str, whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sequence(tmp_path / "gt" / "one", crowd(), filename="gt.txt")
    mot.write_boxes(tmp_path / "out" / "one.txt", [])
    mot.write_boxes((folder if whose == "gt.txt" else tmp_path / "out") / whose, rows)
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert whose in line and message in line


def test_without_trackeval_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sequence(tmp_path / "gt" / "one", TRUTH, filename="gt.txt")
    mot.write_boxes(tmp_path / "out" / "one.txt", [])
    for name in ("trackeval", "trackeval.datasets", "trackeval.metrics"):
        monkeypatch.setitem(sys.modules, name, None)
    assert evaluate.main(["--gt", str(tmp_path / "gt"), "--tracks", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: evaluation needs trackeval") and "pip install --no-deps trackeval" in line
