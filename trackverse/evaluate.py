"""Compare tracks with ground truth of your own: HOTA, MOTA, IDF1 and id switches of every sequence, by TrackEval.

    pip install --no-deps trackeval; pip install pycocotools pillow tabulate
    python -m trackverse.evaluate --gt data/MOT17 --tracks results

Reads   <gt>/<sequence>/gt.txt (or gt/gt.txt, as MOTChallenge has it) and seqinfo.ini; <tracks>/<sequence>.txt. What
        follows a box in gt.txt is whether it counts (0: it is left out), its class and its visibility.
Prints  a table, its last line of all sequences together. HOTA: Luiten et al. 2021; MOTA and id switches: CLEAR,
        Bernardin and Stiefelhagen 2008; IDF1: Ristani et al. 2016. For MOT16, MOT17 and MOT20 (`benchmark` in
        seqinfo.ini) distractors are left out as TrackEval does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trackverse import cli, mot
from trackverse.errors import SetupError
from trackverse.types import Float64

log = logging.getLogger("trackverse.evaluate")  # not __name__, which is __main__ as a command
# Their ground truth has objects of other classes, which are neither right nor wrong to find.
WITH_DISTRACTORS = ("MOT16", "MOT17", "MOT20")
PEDESTRIAN = 1.0  # the class whose tracks are compared
# Its declared dependencies bring a second OpenCV, which breaks ours.
INSTALL = "pip install --no-deps trackeval; pip install pycocotools pillow tabulate"
COLUMNS = ("HOTA", "MOTA", "IDF1", "IDSW")


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.evaluate")
    parser.add_argument("--gt", type=cli.folder, required=True, metavar="DIR", help="folder of sequences, or of one")
    text = "folder of result files, <sequence>.txt; sequences without one are left out, and said"
    parser.add_argument("--tracks", type=cli.folder, required=True, metavar="DIR", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if a sequence has no tracks."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)
    return cli.run(lambda: run(args), goes_on=False)


def run(args: Namespace) -> int:
    """Print the table. Raises SetupError if trackeval or a file is missing, or a file is not as it must be."""
    sequences = mot.sequences(args.gt, "gt")
    tracked = [sequence for sequence in sequences if (args.tracks / f"{sequence.name}.txt").is_file()]
    if not tracked:
        raise SetupError(f"{args.tracks}: no <sequence>.txt of {', '.join(one.name for one in sequences)[:200]}")
    rows = evaluate(tracked, args.tracks)
    width = max(len(name) for name in ("sequence", *rows))
    cli.show(f"{'sequence':{width}}" + "".join(f"{column:>8}" for column in COLUMNS))
    for name, row in rows.items():
        cli.show(f"{name:{width}}" + "".join(f"{value:8.1f}" for value in row[:3]) + f"{row[3]:8.0f}")
    for sequence in sequences:
        if sequence not in tracked:
            cli.show(f"{sequence.name}: no {args.tracks / sequence.name}.txt")
    for name in sorted({path.stem for path in args.tracks.glob("*.txt")} - {sequence.name for sequence in sequences}):
        cli.show(f"{name}: no ground truth")
    return 0 if len(tracked) == len(sequences) else 1


def evaluate(sequences: Sequence[mot.Sequence], tracks_dir: Path) -> dict[str, tuple[float, float, float, float]]:
    """(HOTA, MOTA, IDF1, id switches) of each sequence, the first three in percent; last, if there are more,
    of "all", or "all together" where a sequence is called "all".

    Raises SetupError as `run` does.
    """
    metrics, dataset_class = _trackeval()
    found: list[dict[str, Any]] = [{} for _ in metrics]
    with tempfile.TemporaryDirectory() as folder:
        for sequence in sequences:
            data = _data(dataset_class, sequence, tracks_dir / f"{sequence.name}.txt", Path(folder))
            for results, metric in zip(found, metrics, strict=True):
                results[sequence.name] = metric.eval_sequence(data)
    rows = {sequence.name: _row(*(results[sequence.name] for results in found)) for sequence in sequences}
    if len(sequences) > 1:
        combined = [metric.combine_sequences(results) for results, metric in zip(found, metrics, strict=True)]
        rows["all together" if "all" in rows else "all"] = _row(*combined)
    return rows


def _row(hota: Any, clear: Any, identity: Any) -> tuple[float, float, float, float]:
    return (
        100 * float(np.mean(hota["HOTA"])),
        100 * float(clear["MOTA"]),
        100 * float(identity["IDF1"]),
        float(clear["IDSW"]),
    )


def _trackeval() -> tuple[list[Any], Any]:
    """TrackEval's metrics, and its reader of MOTChallenge data. Raises SetupError if it isn't installed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
            from trackeval.datasets import MotChallenge2DBox
            from trackeval.metrics import CLEAR, HOTA, Identity

            return [HOTA(), CLEAR({"PRINT_CONFIG": False}), Identity({"PRINT_CONFIG": False})], MotChallenge2DBox
    except ImportError as error:
        raise SetupError(f"evaluation needs trackeval ({error}): {INSTALL}") from error


def _data(dataset_class: Any, sequence: mot.Sequence, tracks_path: Path, folder: Path) -> Any:
    """A sequence as TrackEval's metrics take it. Its files are laid out in `folder` the way its reader wants them."""
    gt_path = mot.text_path(sequence.folder, "gt")
    has_distractors = sequence.benchmark in WITH_DISTRACTORS
    gt, tracks = _boxes(gt_path, sequence, (PEDESTRIAN,)), _boxes(tracks_path, sequence)
    gt[:, 6] = gt[:, 6] != 0
    if not gt[:, 6].any():
        log.warning("%s: has no box that counts, so that all scores are 0", gt_path)
    # TrackEval takes all tracks for pedestrians; ours name the class. What MOT15 has in its place are metres.
    gt_class = gt[:, 7] if has_distractors else np.full(len(gt), PEDESTRIAN)
    gt_copy, tracks_copy = folder / "gt.txt", folder / "tracks" / "data" / f"{sequence.name}.txt"
    _write(gt_copy, gt[:, :7], gt_class)
    _write(tracks_copy, tracks, np.full(len(tracks), PEDESTRIAN))
    config = {
        "GT_FOLDER": str(folder),
        "TRACKERS_FOLDER": str(folder),
        "TRACKERS_TO_EVAL": ["tracks"],
        "BENCHMARK": sequence.benchmark if has_distractors else "MOT15",
        "SKIP_SPLIT_FOL": True,
        "SEQ_INFO": {sequence.name: sequence.num_frames},
        "GT_LOC_FORMAT": str(gt_copy).replace("{", "{{").replace("}", "}}"),
        "PRINT_CONFIG": False,
    }
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it finds odd
            dataset = dataset_class(config)
            return dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("tracks", sequence.name), "pedestrian")
    except Exception as error:  # TrackEval's own, which it doesn't name by kind
        raise SetupError(f"{gt_path}: trackeval can't use it: {error}") from error


def _boxes(path: Path, sequence: mot.Sequence, rest: tuple[float, ...] = ()) -> Float64:
    """As `mot.read_boxes`, ids numbered anew from 1. Raises SetupError where TrackEval would stumble over a box."""
    rows = mot.read_boxes(path, rest)
    frame, ids = rows[:, 0], rows[:, 1]
    for number in frame[~((frame >= 1) & (frame <= sequence.num_frames) & (frame % 1 == 0))]:
        raise SetupError(f"{path}: frame {number:g}, and the sequence has 1 to {sequence.num_frames}")
    for number in ids[~(ids % 1 == 0)]:
        raise SetupError(f"{path}: id {number:g}, which is no whole number")
    for number in frame[~np.isfinite(rows[:, 2:6]).all(axis=1)]:
        raise SetupError(f"{path}: a box of frame {number:g} is not finite")
    boxes, counts = np.unique(rows[:, :2], axis=0, return_counts=True)
    for number, track_id in boxes[counts > 1]:
        raise SetupError(f"{path}: id {track_id:g} comes twice in frame {number:g}")
    rows[:, 1] = np.unique(ids, return_inverse=True)[1] + 1
    return rows


def _write(path: Path, rows: Float64, classes: Float64) -> None:
    """A file for TrackEval of boxes (N, 7) and their classes (N,)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.column_stack([rows, classes, np.ones(len(rows))])
    path.write_text("".join(",".join(f"{value:.10g}" for value in row) + "\n" for row in table))


if __name__ == "__main__":
    sys.exit(main())
