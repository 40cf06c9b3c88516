"""Detections that users have already, as MOTChallenge text, associated by the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mot_folders import FPS, NUM_FRAMES, crowd, shuffled, write_sequence

from trackverse import associate, files, mot
from trackverse.layout import lock_path
from trackverse.refine import RefineConfig
from trackverse.types import Track


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


def test_refined_tracks_are_confident_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = crowd()
    rows[(rows[:, 1] == 1) & (rows[:, 0] % 4 > 0), 6] = 0.5
    write_sequence(tmp_path / "in" / "street", rows)
    assert run(tmp_path, "--refine") == 0
    assert "street: 2 tracks, 1 track doubted nearly all the time" in capsys.readouterr().err
    assert run(tmp_path, "--refine", "--track_thresh", "0.5") == 0
    assert "street: 3 tracks\n" in capsys.readouterr().err


def test_refined_tracks_begin_where_they_are_doubted(tmp_path: Path) -> None:
    rows = crowd()
    rows[(rows[:, 1] == 1) & (rows[:, 0] <= 20), 6] = 0.3
    write_sequence(tmp_path / "in" / "street", rows)
    for flags, first in (((), 21), (("--refine",), 1)):
        assert run(tmp_path, *flags) == 0
        found = results(tmp_path)
        assert max(found[found[:, 1] == n, 0].min() for n in np.unique(found[:, 1])) == first


def test_the_second_pass_knows_how_wide_the_picture_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    def refine(tracks: Sequence[Track], config: RefineConfig, *, frame_width: float, **more: Any) -> Iterator[Track]:
        widths.append(frame_width)
        return iter(tracks)

    monkeypatch.setattr(associate, "refine", refine)
    info = write_sequence(tmp_path / "in" / "street", crowd()) / "seqinfo.ini"
    text = info.read_text()
    for line in ("", "imWidth=1920\n", "imWidth=0\n"):
        info.write_text(text + line)
        assert run(tmp_path, "--refine") == 0
    assert widths == [np.inf, 1920, np.inf]


@pytest.mark.parametrize(("fps", "num"), [(30, 8), (10, 8), (5, 4), (1, 1)])
def test_a_look_takes_less_than_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float, num: int) -> None:
    found = []

    def refine(tracks: Sequence[Track], *config: Any, **more: Any) -> Iterator[Track]:
        found.extend(tracks)
        return iter(tracks)

    monkeypatch.setattr(associate, "refine", refine)
    write_sequence(tmp_path / "in" / "street", crowd(), fps=fps)
    assert run(tmp_path, "--refine") == 0
    assert {track.look_frames for track in found} == {num}


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


@pytest.mark.parametrize(("num_missed", "num_tracks"), [(19, 3), (20, 4)], ids=["up to 2 s", "longer"])
def test_what_looks_tell_is_remembered_for_longer(tmp_path: Path, num_missed: int, num_tracks: int) -> None:
    """By boxes alone, a second is enough to be another one."""
    rows = crowd(range(40, 40 + num_missed))
    folder = write_sequence(tmp_path / "in" / "street", rows)
    np.save(folder / "e.npy", np.eye(3)[rows[:, 1].astype(int) - 1])
    assert run(tmp_path, "--raw_boxes", "--embeddings", "e.npy") == 0
    assert len(np.unique(results(tmp_path)[:, 1])) == num_tracks
    assert run(tmp_path, "--raw_boxes") == 0
    assert len(np.unique(results(tmp_path)[:, 1])) == 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda looks: np.full_like(looks, np.nan), "not finite"),
        (lambda looks: 1e30 * looks, "not finite"),
        (lambda looks: 1e300 * looks, "not finite"),
    ],
    ids=["NaN", "too long for float32", "beyond float32"],
)
def test_detections_whose_looks_are_no_numbers_are_counted(tmp_path: Path, spoil, reason: str, capsys) -> None:
    rows, looks = swapped()
    folder = write_sequence(tmp_path / "in" / "street", rows)
    np.save(folder / "e.npy", np.where(rows[:, [0]] == 20, spoil(looks), looks))
    assert run(tmp_path, "--embeddings", "e.npy", "--raw_boxes") == 0
    assert f"2 tracks, 2 detections {reason}" in capsys.readouterr().err
    assert len(results(tmp_path)) == len(rows) - 2


@pytest.mark.parametrize("flags", [(), ("--refine",)], ids=["online", "refined"])
def test_looks_of_zeros_are_unknown_looks(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A network that fails on a crop, or a row that was never written: then motion alone says who it is."""
    rows, looks = swapped()
    folder = write_sequence(tmp_path / "in" / "street", rows)
    looks[::9] = 0
    np.save(folder / "e.npy", looks)
    assert run(tmp_path, "--embeddings", "e.npy", *flags) == 0
    found = results(tmp_path)
    assert np.unique(found[:, 1], return_counts=True)[1].tolist() == ([100, 100] if flags else [98, 98])
    assert (found[:, 6] > 0).sum() == len(rows)


def test_sequences_without_appearances_are_said_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, looks = swapped()
    for name in ("one", "other", "third"):
        folder = write_sequence(tmp_path / "in" / name, rows)
    np.save(folder / "e.npy", looks)
    assert run(tmp_path, "--embeddings", "e.npy") == 0
    said = capsys.readouterr().err
    assert "--embeddings e.npy: 2 of 3 sequences have no such file" in said
    assert [f"{name}/e.npy: not there; associating by boxes alone" in said for name in ("one", "other", "third")] == [
        True,
        True,
        False,
    ]


def test_boxes_that_come_twice_are_said_and_can_be_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each second box is 4 px beside its first one, and a bit less sure; at most 0.82 of them overlap."""
    rows = crowd()
    write_sequence(tmp_path / "in" / "street", np.concatenate([rows, rows + np.array([0, 0, 4, 0, 0, 0, -0.1])]))
    once = tmp_path / "once"
    write_sequence(once / "in" / "street", rows)
    assert run(once) == 0
    assert "--nms" not in capsys.readouterr().err
    assert run(tmp_path) == 0
    assert "street: many detections lie on surer ones; are they of one object? --nms" in capsys.readouterr().err
    assert len(results(tmp_path)) > 1.9 * len(rows)
    assert run(tmp_path, "--nms", "0.6") == 0
    assert f"{len(rows)} detections on top of surer ones" in capsys.readouterr().err
    np.testing.assert_array_equal(results(tmp_path), results(once))
    assert run(tmp_path, "--nms", "0.9") == 0
    assert "on top of" not in capsys.readouterr().err


def test_which_of_several_matrices_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, looks = swapped()
    folder = write_sequence(tmp_path / "in" / "street", rows)
    np.savez(folder / "e.npz", owner=rows[:, 1], one=looks, other=looks)
    assert run(tmp_path, "--embeddings", "e.npz") == 0
    assert "e.npz: 'one' is taken, of 'owner', 'one', 'other'" in capsys.readouterr().err
    assert run(tmp_path, "--embeddings", "e.npz:other") == 0
    assert "is taken" not in capsys.readouterr().err
    assert run(tmp_path, "--embeddings", "e.npz:none") == 2
    assert "e.npz: no 'none' in it, but 'owner', 'one', 'other'" in capsys.readouterr().err


def test_detections_that_nobody_can_use_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [(5, 0, np.nan, 1, 40, 80, 0.9), (5, 0, 1, 1, -4, 80, 0.9), (101, 0, 1, 1, 40, 80, 0.9)]
    write_sequence(tmp_path / "in" / "street", np.concatenate([crowd(), bad]))
    assert run(tmp_path) == 0
    said = capsys.readouterr().err
    assert "3 tracks" in said
    for reason in ("not finite", "empty or outside the frame", "outside the sequence's frames"):
        assert f"1 detection {reason}" in said
    assert len(results(tmp_path)) == len(crowd())


def test_scores_below_the_least_one_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = crowd()
    rows[::2, 6] = 0.05
    rows[1::2, 6] = -1
    write_sequence(tmp_path / "in" / "street", rows)
    assert run(tmp_path) == 0
    assert f"0 tracks, {len(rows)} detections of a score below 0.1" in capsys.readouterr().err


def test_where_nobody_knows_a_score_all_detections_are_confident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In MOTChallenge's text, -1 stands for a score that nobody knows."""
    rows = crowd()
    rows[:, 6] = -1
    write_sequence(tmp_path / "in" / "street", rows)
    assert run(tmp_path) == 0
    said = capsys.readouterr().err
    assert "det.txt: no detection has a score; all are taken for confident ones" in said
    assert "3 tracks" in said


def test_a_threshold_that_no_score_reaches_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = crowd()
    rows[:, 6] = 0.55
    write_sequence(tmp_path / "in" / "street", rows)
    assert run(tmp_path) == 0
    needed = "no track starts, as the highest score is 0.55 and 0.7 is needed; give a lower --track_thresh"
    assert needed in capsys.readouterr().err
    assert run(tmp_path, "--track_thresh", "0.4") == 0
    said = capsys.readouterr().err
    assert "3 tracks" in said and "is needed" not in said


def test_scores_in_percent_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = crowd()
    rows[:, 6] *= 100
    write_sequence(tmp_path / "in" / "street", rows)
    assert run(tmp_path) == 0
    assert "det.txt: scores of up to 90, and thresholds are for scores from 0 to 1" in capsys.readouterr().err


def test_frames_that_are_counted_from_0_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = crowd()
    rows[:, 0] -= 1
    write_sequence(tmp_path / "in" / "street", rows)
    assert run(tmp_path) == 0
    said = capsys.readouterr().err
    assert "det.txt: has a frame 0; they are counted from 1" in said
    assert "3 detections outside the sequence's frames" in said


@pytest.mark.parametrize("flags", [(), ("--embeddings=e.npy",)], ids=["boxes alone", "with looks"])
def test_what_is_listed_twice_is_taken_once_and_counted(tmp_path: Path, flags: tuple[str, ...], capsys) -> None:
    rows, looks = swapped()
    folder = write_sequence(tmp_path / "in" / "street", np.concatenate([rows, rows[10:60]]))
    np.save(folder / "e.npy", np.concatenate([looks, looks[10:60]]))
    assert run(tmp_path, *flags) == 0
    assert "2 tracks, 50 detections listed twice" in capsys.readouterr().err
    twice = results(tmp_path)
    np.save(write_sequence(folder, rows) / "e.npy", looks)
    assert run(tmp_path, *flags) == 0
    np.testing.assert_array_equal(twice, results(tmp_path))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((5, 0, 1e30, 1, 40, 80, 0.9), "empty or outside the frame"),
        ((5, 0, 1, 1, 1e38, 1e38, 0.9), "empty or outside the frame"),
        ((5, 0, 1, 1, 40, 1e300, 0.9), "not finite"),
        ((5, 0, 1, 1, 40, 80, 1e300), "not finite"),
        ((5.5, 0, 1, 1, 40, 80, 0.9), "outside the sequence's frames"),
        ((np.nan, 0, 1, 1, 40, 80, 0.9), "outside the sequence's frames"),
    ],
    ids=["far away", "larger than any picture", "beyond float32", "a score beyond it", "between frames", "no frame"],
)
def test_numbers_that_no_detector_gives_are_counted_and_harm_nothing(
    tmp_path: Path, row: tuple[float, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sequence(tmp_path / "in" / "street", np.concatenate([crowd(), [row]]))
    assert run(tmp_path) == 0
    assert f"3 tracks, 1 detection {reason}" in capsys.readouterr().err
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


def as_text(change: Callable[[str], str | bytes]) -> Callable[[Path], object]:
    """Rewrites det.txt."""

    def write(folder: Path) -> None:
        text = change((folder / "det.txt").read_text())
        (folder / "det.txt").write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def moved_away(folder: Path, name: str) -> None:
    """What is there is elsewhere, and a link leads to it."""
    (folder / name).rename(folder.parent.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent.parent / "elsewhere")


def nested(folder: Path) -> None:
    (folder / "det").mkdir()
    (folder / "det.txt").rename(folder / "det" / "det.txt")


ODD_BUT_RIGHT: dict[str, Callable[[Path], object]] = {
    "seven columns": as_text(lambda text: text.replace(",1,1\n", "\n")),
    "ten columns, a class among them": as_text(lambda text: text.replace(",1,1\n", ",3,-1,-1\n")),
    "tabs": as_text(lambda text: text.replace(",", "\t")),
    "spaces": as_text(lambda text: text.replace(",", "  ")),
    "commas and spaces": as_text(lambda text: text.replace(",", ", ")),
    "Windows' line ends": as_text(lambda text: text.replace("\n", "\r\n")),
    "a byte order mark": as_text(lambda text: text.encode("utf-8-sig")),
    "a byte order mark in seqinfo.ini": lambda folder: (folder / "seqinfo.ini").write_bytes(
        b"\xef\xbb\xbf" + (folder / "seqinfo.ini").read_bytes()
    ),
    "empty lines": as_text(lambda text: text.replace("\n", "\n\n")),
    "a comma at the end of a line": as_text(lambda text: text.replace(",1,1\n", ",\n")),
    "frames in any order": as_text(shuffled),
    "exponents": as_text(lambda text: text.replace(",40,80,", ",4e1,0.8E+2,")),
    "det/det.txt, as MOTChallenge has it": nested,
    "a link to det.txt": lambda folder: moved_away(folder, "det.txt"),
    "a link to the sequence": lambda folder: moved_away(folder.parent, folder.name),
    "other things beside it": lambda folder: (folder.parent / "empty").mkdir(),
    "more frames than have detections": lambda folder: (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nframeRate = {FPS}\nseqLength = 5000\n"
    ),
}


@pytest.mark.parametrize("change", ODD_BUT_RIGHT.values(), ids=ODD_BUT_RIGHT)
def test_odd_text_and_folders_give_the_same_tracks(tmp_path: Path, change: Callable[[Path], object]) -> None:
    change(write_sequence(tmp_path / "in" / "street", crowd()))
    assert run(tmp_path) == 0
    odd = results(tmp_path)
    write_sequence(tmp_path / "plain" / "in" / "street", crowd())
    assert run(tmp_path / "plain") == 0
    assert sorted(map(tuple, odd[:, [0, *range(2, 7)]])) == sorted(
        map(tuple, results(tmp_path / "plain")[:, [0, *range(2, 7)]])
    )
    assert sorted(np.unique(odd[:, 1], return_counts=True)[1].tolist()) == [96, 100, 100]


def test_a_folder_that_is_a_sequence_itself_is_tracked_alone(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "in", crowd())
    nested(folder)
    assert run(tmp_path) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["in.txt"]


def test_earlier_results_are_replaced_and_those_of_others_stay(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in" / "street", crowd())
    for name in ("street", "square"):
        mot.write_boxes(tmp_path / "out" / f"{name}.txt", [(1, 1, "1,2,3,4,1")])
    assert run(tmp_path) == 0
    assert (len(results(tmp_path)), len(results(tmp_path, "square"))) == (len(crowd()), 1)


@pytest.mark.parametrize("name", ["det", "gt"])
def test_results_never_replace_what_they_are_made_of(tmp_path: Path, name: str, capsys) -> None:
    """Those of a sequence that is called as its file is."""
    folder = write_sequence(tmp_path / "in" / name, crowd())
    write_sequence(folder, crowd(), filename="gt.txt")
    before = (folder / f"{name}.txt").read_bytes()
    assert associate.main(["--detections", str(folder), "--output_dir", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder / name}.txt" in line and "--output_dir" in line
    assert (folder / f"{name}.txt").read_bytes() == before


def test_of_two_at_once_each_writes_whole_results(tmp_path: Path) -> None:
    write_sequence(tmp_path / "in" / "street", crowd())
    command = [sys.executable, "-m", "trackverse.associate", "--detections", tmp_path / "in", "--output_dir", tmp_path]
    with files.claim(lock_path(tmp_path / "street.txt")):
        process = subprocess.Popen(command)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert not (tmp_path / "street.txt").exists()
    assert process.wait(300) == 0
    assert len(mot.read_boxes(tmp_path / "street.txt")) == len(crowd())


def test_raw_boxes_are_none_of_the_second_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, "--refine", "--raw_boxes")
    assert "--raw_boxes: not allowed with argument --refine" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["", ":looks"])
def test_embeddings_without_a_file_s_name_are_refused(tmp_path: Path, flag: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, "--embeddings", flag)
    (line,) = capsys.readouterr().err.splitlines()
    assert "--embeddings: names no file (is a shell variable unset?)" in line


def test_ctrl_c_does_not_promise_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    write_sequence(tmp_path / "in" / "street", crowd())
    monkeypatch.setattr(associate, "associate", interrupted)
    assert run(tmp_path) == 130
    assert capsys.readouterr().err == "interrupted: give the command again\n"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sequence(tmp_path / "in" / "street", crowd())
    (tmp_path / "out").write_text("a file")
    assert run(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "out") in line
    assert (tmp_path / "out").read_text() == "a file"


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_torn_archive(path: Path, *, at: int) -> None:
    """An .npz with some bytes changed, or cut off after 300."""
    np.savez_compressed(path.with_suffix(".npz"), looks=np.random.default_rng(0).random((296, 8)))
    data = path.with_suffix(".npz").read_bytes()
    path.write_bytes(data[:at] + b"torn" + data[at + 4 :] if at else data[:300])


MISTAKES = {
    "no sequence": (lambda folder: (folder / "det.txt").unlink(), "no sequence there"),
    "no seqinfo.ini": (lambda folder: (folder / "seqinfo.ini").unlink(), "seqinfo.ini: must be readable"),
    "no frame rate": (lambda folder: (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=3"), "frameRate"),
    "a million million frames": (
        lambda folder: (folder / "seqinfo.ini").write_text(f"[Sequence]\nseqLength={10**12}\nframeRate=9"),
        "seqLength must be from 1 to",
    ),
    "a frame rate of 0": (
        lambda folder: (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=3\nframeRate=0"),
        "frameRate must be from",
    ),
    "not a number": (lambda folder: (folder / "det.txt").write_text("1,-1,a,2,3,4,1"), "det.txt, line 1: not numbers"),
    "names of columns": (as_text(lambda text: "frame,id,x,y,w,h,score\n" + text), "a line is frame,id,left,top,width,"),
    "a number left out": (as_text(lambda text: text.replace(",40,80,", ",,80,")), "det.txt, line 1: not numbers"),
    "too few numbers": (lambda folder: (folder / "det.txt").write_text("\n1,2,3"), "det.txt, line 2: 3 numbers"),
    "all in one frame": (as_text(lambda text: text + "7,-1,1,1,9,9,0.9\n" * 5001), "over 5000 detections in frame 7"),
    "not text": (lambda folder: (folder / "det.txt").write_bytes(b"\xff\xfe\x00"), "det.txt: can't read it"),
    "no embeddings anywhere": (
        lambda folder: (folder / "e.npy").unlink(),
        "--embeddings e.npy: no sequence has such a file",
    ),
    "too few embeddings": (lambda folder: np.save(folder / "e.npy", np.ones((3, 2))), "a row a line is wanted"),
    "no embeddings in it": (lambda folder: (folder / "e.npy").write_bytes(b"x"), "e.npy: no matrix of numbers"),
    "text for embeddings": (lambda folder: (folder / "e.npy").write_text("1 2\n"), "e.npy: no matrix of numbers"),
    "an archive that is cut off": (lambda folder: as_torn_archive(folder / "e.npy", at=0), "e.npy: no matrix"),
    "an archive with other bytes in it": (lambda folder: as_torn_archive(folder / "e.npy", at=90), "e.npy: no matrix"),
    "embeddings in a row": (lambda folder: np.save(folder / "e.npy", np.ones(296)), "e.npy: no matrix of numbers"),
    "embeddings of text": (lambda folder: np.save(folder / "e.npy", np.full((296, 2), "1")), "e.npy: no matrix"),
    "complex embeddings": (lambda folder: np.save(folder / "e.npy", np.ones((296, 2), complex)), "e.npy: no matrix"),
    "a pipe for det.txt": (lambda folder: as_pipe(folder / "det.txt"), "no sequence there"),
    "a pipe for seqinfo.ini": (lambda folder: as_pipe(folder / "seqinfo.ini"), "seqinfo.ini: must be readable"),
    "a seqinfo.ini without a heading": (
        lambda folder: (folder / "seqinfo.ini").write_text("seqLength=100\nframeRate=10\n"),
        "seqinfo.ini: must be readable",
    ),
    "a frame in ten thousand million years": (
        lambda folder: (folder / "seqinfo.ini").write_text("[Sequence]\nseqLength=100\nframeRate=1e-300"),
        "frameRate must be from",
    ),
}


@pytest.mark.parametrize("spoil, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_status_2(tmp_path: Path, spoil, message: str, capsys) -> None:
    folder = write_sequence(tmp_path / "in" / "street", crowd())
    np.save(folder / "e.npy", np.ones((296, 2)))
    spoil(folder)
    assert run(tmp_path, "--embeddings", "e.npy") == 2
    assert not list(tmp_path.glob("out/*"))
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "unsafe" not in line  # numpy's advice
