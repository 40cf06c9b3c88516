"""MOTChallenge's text and folders (https://motchallenge.net): detections, ground truth and results of a sequence.

A line is a box: `frame,id,left,top,width,height,score,...` in px, frames from 1. A sequence is a folder with a
`seqinfo.ini` that says how many frames it has and how many a second.
"""

from __future__ import annotations

import configparser
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trackverse import files
from trackverse.errors import SetupError
from trackverse.types import MAX_FRAMES, Float64

MIN_FPS, MAX_FPS = 1e-5, 1e5  # a frame a day is more, and what high-speed cameras take is less
COLUMNS = "frame,id,left,top,width,height,score"
NUM_COLUMNS = len(COLUMNS.split(","))


@dataclass(frozen=True)
class Sequence:
    """What `seqinfo.ini` says: `fps` frames a second, `num_frames` of them; `benchmark` is "" where it names none, and
    `width` px inf.
    """

    folder: Path
    fps: float
    num_frames: int
    benchmark: str
    width: float = np.inf

    @property
    def name(self) -> str:
        return self.folder.name


def text_path(folder: Path, name: str) -> Path:
    """A sequence's `<name>.txt`, which MOTChallenge has in a folder `<name>` of its own."""
    path = folder / f"{name}.txt"
    return path if path.is_file() else folder / name / path.name


def sequences(folder: Path, name: str) -> list[Sequence]:
    """The sequences in a folder: its subfolders with a `<name>.txt`, by name; or the folder itself if it is one.

    Raises SetupError if there are none.
    """
    inside = [folder] if text_path(folder, name).is_file() else sorted(folder.glob("*"))
    found = [path for path in inside if text_path(path, name).is_file()]
    if not found:
        raise SetupError(f"{folder}: no sequence there; each is a folder with {name}.txt and seqinfo.ini")
    return [read_sequence(path) for path in found]


def read_sequence(folder: Path) -> Sequence:
    """A sequence's `seqinfo.ini`. Raises SetupError if it is missing or doesn't say what is needed."""
    path = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with files.open_regular(path) as file:
            parser.read_string(file.read().decode("utf-8-sig"), source=str(path))
        info = parser["Sequence"]
        rate, num_frames, width = float(info["frameRate"]), int(info["seqLength"]), float(info.get("imWidth", "inf"))
        sequence = Sequence(folder, rate, num_frames, info.get("benchmark", ""), width if width > 0 else np.inf)
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        why = " ".join(repr(error).split())  # some are several lines
        raise SetupError(
            f"{path}: must be readable and say frameRate and seqLength under [Sequence] ({why})"
        ) from error
    if not MIN_FPS <= sequence.fps <= MAX_FPS:
        raise SetupError(f"{path}: frameRate must be from {MIN_FPS:g} to {MAX_FPS:g}")
    if not 0 < sequence.num_frames <= MAX_FRAMES:
        raise SetupError(f"{path}: seqLength must be from 1 to {MAX_FRAMES}")
    return sequence


def read_boxes(path: Path, rest: tuple[float, ...] = ()) -> Float64:
    """(N, 7 + R): frame, id, left, top, width, height, score of every line, and as many further columns as `rest` has,
    which says what they are where a line is shorter. Raises SetupError naming the first bad line.
    """
    rows = []
    num_columns = NUM_COLUMNS + len(rest)
    try:
        with io.TextIOWrapper(files.open_regular(path), encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = [float(cell) for cell in _cells(line)[:num_columns]]
                except ValueError as error:
                    raise SetupError(
                        f"{path}, line {number}: not numbers: {line.strip()[:80]!r}; a line is {COLUMNS}"
                    ) from error
                if len(row) < NUM_COLUMNS:
                    raise SetupError(f"{path}, line {number}: {len(row)} numbers; a line is {COLUMNS}")
                rows.append([*row, *rest[len(row) - NUM_COLUMNS :]])
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: can't read it ({error})") from error
    return np.array(rows, np.float64).reshape(-1, num_columns)


def _cells(line: str) -> list[str]:
    """Between commas, where a missing one is empty and no number, or else between blanks."""
    return line.rstrip().removesuffix(",").split(",") if "," in line else line.split()


def write_boxes(path: Path, rows: Iterable[tuple[int, int, str]]) -> None:
    """Write a result file of (frame, id, the rest of the line), by frame and id."""
    with files.atomic_write(path) as file:
        file.write("".join(f"{frame},{track_id},{rest}\n" for frame, track_id, rest in sorted(rows)).encode())
