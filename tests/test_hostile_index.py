"""An index that is damaged, or that somebody made to do harm: told, made anew, and never a crash."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import subprocess
import sys
import zlib
from argparse import Namespace
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tracks import fill_store

import curate_db
from trackverse import cli, index, index_entries, split
from trackverse.errors import RecordError
from trackverse.index import FORMAT, Index
from trackverse.index_refresh import ready_index
from trackverse.index_rows import SCHEMA
from trackverse.layout import REPO_DIR, TracksLayout

NUM_SPOILED = 150
ODD_INTEGERS = [0, -1, -7, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 62, -(1 << 62), 99999]
ODD_NUMBERS = [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 5e8]
ODD_BOXES = [b"", b"x", b"\xff" * 8, b"\0" * 24, b"\xff" * 80_000]
ODD_WORDS = [None, 5, "x", [], {}, [[1, 2]], -1, 1.5, "\ud800"]
CRITERIA = [
    "--criterion random --num_samples 7",
    "--criterion class_balanced --num_samples_per_class 2 --max_overlap 0.3 --stats",
    "--criterion video_balanced --num_samples_per_video 1 --min_motion 0.1",
    "--criterion min_redundancy --num_samples_per_class 2 --relax --min_distance 0.1",
    "--criterion max_motion --num_samples 5 --min_area 0.01",
    "--criterion diverse --num_samples 5",
]


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[TracksLayout]:
    """Six videos of four tracks, with an index of them."""
    layout = fill_store(tmp_path / "tracks", {f"video{n}": [n % 3, 3, 4, n % 2] for n in range(6)})
    with ready_index(
        layout.index_path, layout.meta_paths(), num_workers=1, keep=True, rebuild=False, watch=lambda items, _: items
    ):
        pass
    logging.disable(logging.CRITICAL)
    yield layout
    logging.disable(logging.NOTSET)


def arguments(layout: TracksLayout, flags: str) -> Namespace:
    parser = curate_db.make_parser()
    cli.add_slurm(parser)
    output = layout.output_dir.parent / "subset.jsonl.gzip"
    return parser.parse_args(["--tracks_dir", str(layout.output_dir), "--output_file", str(output), *flags.split()])


def choose(layout: TracksLayout, flags: str) -> str:
    """Choose anew: how it ended."""
    for path in layout.output_dir.parent.glob("subset*"):
        path.unlink()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            curate_db.work(arguments(layout, flags), 0)
        except RecordError as error:
            return error.reason
    return "done"


def test_wherever_it_is_damaged_the_same_command_makes_it_anew(layout: TracksLayout) -> None:
    assert choose(layout, CRITERIA[1]) == "done"
    whole = layout.index_path.read_bytes()
    ends: Counter[tuple[str, str]] = Counter()
    for place in range(0, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 0x55
        layout.index_path.write_bytes(data)
        ends[choose(layout, CRITERIA[1]), choose(layout, CRITERIA[1])] += 1
    assert set(ends) == {("done", "done"), ("damaged index", "done")}


def write_index(layout: TracksLayout, rows: pa.Table, said: Any) -> None:
    packed = b64encode(zlib.compress(json.dumps(said).encode()))
    layout.index_path.unlink(missing_ok=True)
    with pq.ParquetWriter(str(layout.index_path), SCHEMA, write_page_checksum=True) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({b"format": FORMAT, b"files": packed})


def spoiled_rows(rows: pa.Table, rng: random.Random) -> pa.Table:
    """With something else in up to four columns, in one place or in all."""
    columns = rows.to_pydict()
    for name in rng.choices(rows.column_names, k=rng.randint(1, 4)):
        kind = rows.schema.field(name).type
        odd = ODD_BOXES if name == "boxes" else ODD_NUMBERS if pa.types.is_floating(kind) else ODD_INTEGERS
        for place in rng.sample(range(len(rows)), rng.choice([1, 1, len(rows)])):
            with contextlib.suppress(pa.ArrowInvalid, OverflowError):  # what doesn't fit can't be there
                columns[name][place] = pa.scalar(rng.choice(odd), kind).as_py()
    return pa.table(columns, schema=SCHEMA)


def spoiled_words(said: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    copy = json.loads(json.dumps(said))
    entry = rng.choice(copy["entries"])
    match rng.randrange(5):
        case 0:
            copy["labels"] = rng.choice([copy["labels"][:-1], [], [["x", 1]], [[1, None]], [[3]], None, {"a": 1}])
        case 1:
            entry[2] = [[rng.choice(ODD_WORDS), rng.choice([2, -1, 4.0, None])], ["b", 2]]
        case 2:
            entry[1] = rng.choice([[1, 2], ["a", "b"], [None] * 4, "abcd", entry[1][:3], []])
        case _:
            entry[rng.randrange(len(entry))] = rng.choice(ODD_WORDS)
    return copy


def test_whatever_it_says_nothing_else_comes_of_it_than_a_subset_or_a_reason(layout: TracksLayout) -> None:
    """An index that fits the track files by their times and sizes, as an archive can keep them."""
    rng = random.Random(11)
    rows = pq.read_table(layout.index_path)
    entries, labels = index_entries.unpack(pq.read_metadata(layout.index_path).metadata[b"files"])
    said = {"entries": [list(vars(entry).values()) for entry in entries], "labels": [*labels.items()]}
    ends: Counter[str] = Counter()
    for number in range(NUM_SPOILED):
        with_words = number % 3 == 0
        write_index(
            layout, rows if with_words else spoiled_rows(rows, rng), spoiled_words(said, rng) if with_words else said
        )
        if number % 5:
            ends[choose(layout, rng.choice(CRITERIA))] += 1
        else:
            status = split.main(["--tracks_dir", str(layout.output_dir), "--output_dir", str(layout.output_dir / "x")])
            assert status in (0, 1)
    assert ends["done"] > 20 and ends["damaged index"] > 20, ends
    assert set(ends) <= {"done", "damaged index", "track file changed"}


BOMB = """
import re, sys
from pathlib import Path
from trackverse.index import open_index

def peak_mb():  # `ru_maxrss` would be that of the process that started this one, if that was larger
    return int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]) // 1024

before = peak_mb()
assert open_index(Path(sys.argv[1])) is None
print(peak_mb() - before)
"""


def test_what_inflates_a_thousandfold_is_not_inflated(layout: TracksLayout) -> None:
    squeezer = zlib.compressobj(9)
    packed = b"".join([*(squeezer.compress(b" " * (1 << 20)) for _ in range(1 << 8)), squeezer.flush()])
    with pq.ParquetWriter(str(layout.index_path), SCHEMA) as writer:
        writer.add_key_value_metadata({b"format": FORMAT, b"files": b64encode(packed)})
    command = [sys.executable, "-c", BOMB, str(layout.index_path)]
    done = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150


def test_more_rows_than_the_files_can_hold_are_refused_before_they_are_read(
    layout: TracksLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of one number a billion times is a few bytes."""
    monkeypatch.setattr(index, "GROUP_ROWS", 1 << 30)
    rows = pq.read_table(layout.index_path).slice(0, 1)
    table = rows.take(pa.array([0] * 300_000))
    said = {"entries": [["vi/video0-meta.jsonl.gzip", [9999, 1], [["video0", 300_000]], 0, True, {}, []]], "labels": []}
    write_index(layout, table, said)
    with pytest.raises(RecordError, match="300000 rows of 9999 bytes"):
        Index(layout.index_path)
