"""Compare tracks with ground truth of your own: HOTA, MOTA, IDF1 and id switches of every sequence, by TrackEval.

    pip install --no-deps trackeval; pip install pycocotools pillow tabulate
    python -m trackverse.evaluate --gt data/MOT17 --tracks results

Reads   <gt>/<sequence>/gt.txt (or gt/gt.txt, as MOTChallenge has it) and seqinfo.ini; <tracks>/<sequence>.txt.
Prints  a table. HOTA: Luiten et al. 2021; MOTA and id switches: CLEAR, Bernardin and Stiefelhagen 2008; IDF1: Ristani
        et al. 2016. For MOT16, MOT17 and MOT20 (`benchmark` in seqinfo.ini) distractors are left out as TrackEval does.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trackverse import cli, mot
from trackverse.errors import SetupError

# Their ground truth has objects of other classes, which are neither right nor wrong to find.
WITH_DISTRACTORS = ("MOT16", "MOT17", "MOT20")
# Its declared dependencies bring a second OpenCV, which breaks ours.
INSTALL = "pip install --no-deps trackeval; pip install pycocotools pillow tabulate"
COLUMNS = ("HOTA", "MOTA", "IDF1", "IDSW")


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.prog = "python -m trackverse.evaluate"
    parser.add_argument("--gt", type=cli.folder, required=True, metavar="DIR", help="folder of sequences")
    text = "folder of result files, <sequence>.txt; sequences without one are left out, and said"
    parser.add_argument("--tracks", type=cli.folder, required=True, metavar="DIR", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if a sequence has no tracks."""
    args = make_parser().parse_args(argv)
    cli.set_up_logging(verbose=False)
    return cli.run(lambda: run(args))


def run(args: Namespace) -> int:
    """Print the table. Raises SetupError if trackeval or a file is missing, or a file is not as it must be."""
    sequences = _sequences(args.gt)
    tracked = [sequence for sequence in sequences if (args.tracks / f"{sequence.name}.txt").is_file()]
    if not tracked:
        raise SetupError(f"{args.tracks}: no <sequence>.txt of {', '.join(one.name for one in sequences)[:200]}")
    rows = evaluate(tracked, args.tracks)
    width = max(len(name) for name in rows)
    cli.show(f"{'sequence':{width}}" + "".join(f"{column:>8}" for column in COLUMNS))
    for name, row in rows.items():
        cli.show(f"{name:{width}}" + "".join(f"{value:8.1f}" for value in row[:3]) + f"{row[3]:8.0f}")
    for sequence in sequences:
        if sequence not in tracked:
            cli.show(f"{sequence.name}: no {args.tracks / sequence.name}.txt")
    return 0 if len(tracked) == len(sequences) else 1


def evaluate(sequences: Sequence[mot.Sequence], tracks_dir: Path) -> dict[str, tuple[float, float, float, float]]:
    """(HOTA, MOTA, IDF1, id switches) of each sequence, the first three in percent; and of "all" if there are more.

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
        rows["all"] = _row(*combined)
    return rows


def _row(hota: Any, clear: Any, identity: Any) -> tuple[float, float, float, float]:
    return (
        100 * float(np.mean(hota["HOTA"])),
        100 * float(clear["MOTA"]),
        100 * float(identity["IDF1"]),
        float(clear["IDSW"]),
    )


def _sequences(folder: Path) -> list[mot.Sequence]:
    """The sequences with ground truth. Raises SetupError if there are none."""
    nested = sorted(path.parent.parent for path in folder.glob("*/gt/gt.txt"))
    return [mot.read_sequence(path) for path in nested] or mot.sequences(folder, "gt.txt")


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
    gt_path = sequence.folder / "gt.txt"
    gt_path = gt_path if gt_path.is_file() else sequence.folder / "gt" / "gt.txt"
    benchmark = sequence.benchmark if sequence.benchmark in WITH_DISTRACTORS else "MOT15"
    results = folder / "tracks" / "data" / f"{sequence.name}.txt"
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = mot.read_boxes(tracks_path)
    outside = (rows[:, 0] < 1) | (rows[:, 0] > sequence.num_frames)
    if outside.any():
        raise SetupError(f"{tracks_path}: frame {rows[outside][0, 0]:g} of a sequence of {sequence.num_frames}")
    if len(np.unique(rows[:, :2], axis=0)) < len(rows):
        raise SetupError(f"{tracks_path}: an id comes twice in one frame")
    # TrackEval takes everything for pedestrians, class 1; ours names the class.
    results.write_text("".join(",".join(f"{value:.10g}" for value in row) + ",1,-1,-1\n" for row in rows))
    config = {
        "GT_FOLDER": str(folder),
        "TRACKERS_FOLDER": str(folder),
        "TRACKERS_TO_EVAL": ["tracks"],
        "BENCHMARK": benchmark,
        "SKIP_SPLIT_FOL": True,
        "SEQ_INFO": {sequence.name: sequence.num_frames},
        "GT_LOC_FORMAT": str(gt_path).replace("{", "{{").replace("}", "}}"),
        "PRINT_CONFIG": False,
    }
    try:
        dataset = dataset_class(config)
        return dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("tracks", sequence.name), "pedestrian")
    except Exception as error:  # TrackEval's own, which it doesn't name by kind
        raise SetupError(f"{gt_path}: trackeval can't read it: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
