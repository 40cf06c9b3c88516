"""What an index says of the files that it was made of, and which numbers its columns may hold.

An index may come with the tracks of others: what can't have been written by us is refused, as damage is.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trackverse.columns import MAX_TIME_S, Array
from trackverse.jsonl import INFLATION_BLOCK_BYTES, MAX_INFLATION
from trackverse.ticks import TICK_S

MAX_TICK = MAX_TIME_S / TICK_S
# The least and the largest number that a column may hold; of those that aren't here, any.
BOUNDS = {
    "track_id": (0, np.inf),
    "label_id": (0, np.inf),
    "start_s": (-MAX_TIME_S, MAX_TIME_S),
    "end_s": (-MAX_TIME_S, MAX_TIME_S),
    "num_frames": (1, np.inf),
    "first_tick": (-MAX_TICK, MAX_TICK),
    "line": (1, np.inf),
    "offset": (0, np.inf),
    "num_bytes": (0, np.inf),
}


@dataclass(frozen=True)
class FileEntry:
    """One track file as it was read. `stamp`: sizes and times of it and of what is beside it, None if it must be read
    again. `videos`: [id, number of rows] in the order of the rows; `digest`: of its records, wherever they are kept,
    and of what was measured of them; `is_sorted`: whether the track ids of each video rise; `reasons`: what is wrong
    with the rest, and how often.
    """

    name: str
    stamp: list[int] | None
    videos: list[list[Any]]
    digest: int
    is_sorted: bool
    reasons: dict[str, int]
    messages: list[str]

    def __post_init__(self) -> None:
        counts = [number for _, number in self.videos]
        texts = [self.name, *(video_id for video_id, _ in self.videos), *self.messages, *self.reasons]
        numbers = [self.digest, *(self.stamp or ()), *counts, *self.reasons.values()]
        if {type(text) for text in texts} != {str} or {type(number) for number in numbers} != {int}:
            raise TypeError("what is said of a file is of the wrong type")
        "".join(texts).encode()  # half a surrogate pair raises here and not where it is written
        if min(counts, default=0) < 0 or type(self.is_sorted) is not bool or self.stamp == []:
            raise ValueError("what is said of a file can't be")
        # Else a few bytes could claim more rows than the memory holds.
        if self.stamp and self.num_rows > self.stamp[0]:
            raise ValueError(f"{self.num_rows} rows of {self.stamp[0]} bytes")

    @property
    def num_rows(self) -> int:
        return sum(number for _, number in self.videos)


def pack(entries: Sequence[FileEntry], labels: dict[int, str]) -> bytes:
    """What is said of the files, and the names of the classes."""
    value = {"entries": [list(vars(entry).values()) for entry in entries], "labels": [*labels.items()]}
    return base64.b64encode(zlib.compress(json.dumps(value).encode(), 6))


def unpack(packed: bytes) -> tuple[list[FileEntry], dict[int, str]]:
    """What `pack` was given. Raises KeyError, TypeError, ValueError, zlib.error or RecursionError for anything else."""
    data = base64.b64decode(packed)
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, INFLATION_BLOCK_BYTES + MAX_INFLATION * len(data))
    if not inflater.eof:
        raise ValueError("what is said of the files is torn, or inflates too much")
    value = json.loads(text)
    labels = {int(label_id): str(label) for label_id, label in value["labels"]}
    return [FileEntry(*entry) for entry in value["entries"]], labels


def check_column(name: str, column: Array, num_rows: int, labels: dict[int, str]) -> None:
    """Raises ValueError if the column of an index is not of this length, or holds a number that it can't."""
    if len(column) != num_rows:
        raise ValueError(f"{len(column)} numbers for {num_rows} tracks")
    least, most = BOUNDS.get(name, (-np.inf, np.inf))
    if name in BOUNDS and not ((column >= least) & (column <= most)).all():
        raise ValueError(f"a {name} that can't be")
    if name == "label_id" and not np.isin(np.unique(column), [*labels]).all():
        raise ValueError("a class without a name")
