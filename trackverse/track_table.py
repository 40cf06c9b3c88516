"""All tracks of an index as one table, in an order that depends on nothing but them: by video and track id.

Neither the order of files nor the number of processes that read them changes it. Rows are row numbers of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from trackverse.columns import Array
from trackverse.index import Index, columns_of
from trackverse.pairs import end_to_end
from trackverse.types import Float32, Int64, UInt16
from trackverse.worklist import FORGOTTEN


@dataclass(frozen=True)
class TrackTable:
    """N tracks, sorted: `videos` (N,) are numbers, named by `video_ids`; `labels` names the numbers of `label_id`.

    `table["score"]` is a column of `columns.DTYPES`, (N,). `order` (N,): the row of the index, or of `columns`, that
    each is; None if it is the same. `boxes` gives the coarse boxes, as `index.Index.boxes` does.
    """

    videos: Int64
    video_ids: Sequence[str]
    labels: Mapping[int, str]
    columns: Mapping[str, Array]
    boxes: Callable[[], Iterable[tuple[Int64, Int64, UInt16]]]
    order: Int64 | None = None
    _cache: dict[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, name: str) -> Array:
        if name not in self._cache:
            column = self.columns[name]
            self._cache[name] = column if self.order is None else column[self.order]
        return self._cache[name]

    def index_rows(self, rows: Int64) -> Int64:
        """Which rows of the index the given ones are."""
        return rows if self.order is None else self.order[rows]

    def boxes_of(self, rows: Int64) -> Iterator[Boxes]:
        """The boxes of the given rows, video by video."""
        places_in_index = self.index_rows(rows)
        by_place = np.argsort(places_in_index, kind="stable")
        rows, places_in_index = rows[by_place], places_in_index[by_place]
        waiting: dict[int, list[Boxes]] = {}
        start = 0
        for first_tick, starts, xyxy in self.boxes():
            part = slice(*np.searchsorted(places_in_index, [start, start + len(first_tick)]).tolist())
            here, wanted = rows[part], places_in_index[part] - start
            start += len(first_tick)
            videos = self.videos[here]
            for begin, end in runs(videos):
                video = int(videos[begin])
                if self.order is None:  # then the rows of a video follow each other
                    for other in [other for other in waiting if other != video]:
                        yield _joined(waiting.pop(other))
                places = wanted[begin:end]
                counts = starts[places + 1] - starts[places]
                track, within = end_to_end(counts)
                found = xyxy[starts[places][track] + within].astype(np.float32)
                ends = np.concatenate([[0], np.cumsum(counts)])
                waiting.setdefault(video, []).append(
                    Boxes(here[begin:end], first_tick[places].astype(np.int64), ends, found)
                )
        for parts in waiting.values():
            yield _joined(parts)


class Boxes(NamedTuple):
    """Tracks of one video: `rows` (N,) of the table; their boxes at the ticks from `first` (N,) on, left, top, right,
    bottom px, are the rows of `xyxy` from `starts` (N + 1,) on.
    """

    rows: Int64
    first: Int64
    starts: Int64
    xyxy: Float32


def _joined(parts: Sequence[Boxes]) -> Boxes:
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    return Boxes(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.xyxy for part in parts]),
    )


def make_table(
    index: Index, *, dropped: Counter[str], is_forgotten: Callable[[str], bool] = lambda video_id: False
) -> TrackTable:
    """The table of an index. A track that is there twice counts once, in its first place, and in `dropped`.

    Videos that are forgotten are left out, which is told there too. Whoever lists the files has left out those that
    have the videos' names, so only the videos of files with other names are looked at.
    """
    stretches = [(video_id, number) for entry in index.entries for video_id, number in entry.videos]
    video_ids = sorted({video_id for video_id, _ in stretches})
    number_of = {video_id: number for number, video_id in enumerate(video_ids)}
    numbers = np.array([number_of[video_id] for video_id, _ in stretches], np.int64)
    videos = np.repeat(numbers, np.array([number for _, number in stretches], np.int64))
    columns, order = columns_of(index), None
    if not all(entry.is_sorted for entry in index.entries) or (np.diff(numbers) <= 0).any():
        track_ids = columns["track_id"]
        order = np.lexsort((track_ids, videos))
        is_new = np.ones(len(order), bool)
        is_new[1:] = (np.diff(videos[order]) != 0) | (np.diff(track_ids[order]) != 0)
        if not is_new.all():
            dropped["track listed twice"] += int((~is_new).sum())
        order = order[is_new]
        videos = videos[order]
    others = {
        video_id
        for entry in index.entries
        for video_id, _ in entry.videos
        if not entry.name.endswith(f"/{video_id}-meta.jsonl.gzip")
    }
    if forgotten := {video_id for video_id in others if is_forgotten(video_id)}:
        is_known = np.array([video_id not in forgotten for video_id in video_ids])
        is_left = is_known[videos]
        dropped[FORGOTTEN] += int((~is_left).sum())
        order = (np.arange(len(videos)) if order is None else order)[is_left]
        videos = (np.cumsum(is_known) - 1)[videos[is_left]]
        video_ids = [video_id for video_id in video_ids if video_id not in forgotten]
    return TrackTable(videos, video_ids, index.labels, columns, index.boxes, order)


def runs(groups: Int64) -> list[tuple[int, int]]:
    """Start and end of every stretch of equal numbers."""
    if not len(groups):
        return []
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1)).tolist()
    return list(zip(starts, [*starts[1:], len(groups)], strict=True))
