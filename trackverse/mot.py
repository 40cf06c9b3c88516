"""MOTChallenge's text and folders (https://motchallenge.net): detections, ground truth and results of a sequence.

A line is a box: `frame,id,left,top,width,height,score,...` in px, frames from 1. A sequence is a folder with a
`seqinfo.ini` that says how many frames it has and how many a second.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trackverse import files
from trackverse.errors import SetupError
from trackverse.types import Float64

MAX_FRAMES = 24 * 3600 * 60  # a day at 60 a second, as of videos: each is walked through, whether it has boxes or not
NUM_COLUMNS = 7  # frame, id, left, top, width, height, score


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


def sequences(folder: Path, filename: str) -> list[Sequence]:
    """The sequences in a folder: its subfolders with the file `filename`, by name; or the folder itself if it is one.

    Raises SetupError if there are none.
    """
    found = [folder] if (folder / filename).is_file() else sorted(path.parent for path in folder.glob(f"*/{filename}"))
    if not found:
        raise SetupError(f"{folder}: no sequence there; each is a folder with {filename} and seqinfo.ini")
    return [read_sequence(path) for path in found]


def read_sequence(folder: Path) -> Sequence:
    """A sequence's `seqinfo.ini`. Raises SetupError if it is missing or doesn't say what is needed."""
    path = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
        info = parser["Sequence"]
        rate, num_frames, width = float(info["frameRate"]), int(info["seqLength"]), float(info.get("imWidth", "inf"))
        sequence = Sequence(folder, rate, num_frames, info.get("benchmark", ""), width if width > 0 else np.inf)
    except (OSError, ValueError, KeyError, configparser.Error) as error:
        raise SetupError(
            f"{path}: must be readable and say frameRate and seqLength under [Sequence] ({error!r})"
        ) from error
    if not (0 < sequence.fps < np.inf and sequence.num_frames > 0):
        raise SetupError(f"{path}: frameRate and seqLength must be above 0")
    if sequence.num_frames > MAX_FRAMES:
        raise SetupError(f"{path}: seqLength is over {MAX_FRAMES}")
    return sequence


def read_boxes(path: Path) -> Float64:
    """(N, 7): frame, id, left, top, width, height, score of every line. Raises SetupError naming the first bad line."""
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                cells = line.replace(",", " ").split()[:NUM_COLUMNS]
                try:
                    rows.append([float(cell) for cell in cells])
                except ValueError as error:
                    raise SetupError(f"{path}, line {number}: not numbers: {line.strip()[:80]!r}") from error
                if len(cells) < NUM_COLUMNS:
                    raise SetupError(
                        f"{path}, line {number}: {len(cells)} numbers; a box has frame,id,left,top,width,height,score"
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: can't read it ({error})") from error
    return np.array(rows, np.float64).reshape(-1, NUM_COLUMNS)


def write_boxes(path: Path, rows: Iterable[tuple[int, int, str]]) -> None:
    """Write a result file of (frame, id, the rest of the line), by frame and id."""
    with files.atomic_write(path) as file:
        file.write("".join(f"{frame},{track_id},{rest}\n" for frame, track_id, rest in sorted(rows)).encode())
