"""Choosing subsets of tracks. Every choice is a function of the table, its arguments and a seed alone.

The table is sorted by video and track id, so that neither the order of files nor the number of processes that read them
changes what is chosen. Rows are row numbers of the table.

All criteria but two put the candidates in an order, and take them from its front: `take`. The two that look for tracks
unlike each other compare embeddings: `pick_spread`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from trackverse import spread
from trackverse.columns import Array
from trackverse.index import Index, columns_of
from trackverse.types import Bool, Float16, Float32, Float64, Int64, UInt16
from trackverse.worklist import FORGOTTEN

GATHER_BYTES = 256 << 20  # of embeddings that are looked at together
MIN_DEPTH = 16  # members of each group that are looked at together


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
                within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                found = xyxy[np.repeat(starts[places], counts) + within].astype(np.float32)
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


class Conflicts(Protocol):
    """What can't be chosen beside what is chosen already. Only prepared rows may be asked for."""

    def prepare(self, rows: Int64) -> None:
        """Look up what is needed to tell about these rows, besides those that were prepared before."""
        ...

    def why_not(self, row: int) -> str | None:
        """Why the row can't be taken any more; None if it can."""
        ...

    def took(self, row: int) -> None:
        """The row is chosen now."""
        ...

    def blocked_by(self, row: int) -> Int64:
        """The rows that can't be taken beside this one, whatever else is."""
        ...


@dataclass
class Quota:
    """How many may still be chosen: `per_group` of every group, of which `given` are taken; `cap` in all, or None."""

    per_group: int
    cap: int | None
    given: Counter[int] = field(default_factory=Counter)

    def left(self, group: int) -> int:
        return max(0, self.per_group - self.given[group])

    def take(self, groups: Iterable[int]) -> None:
        """Count members of these groups as chosen."""
        taken = Counter(groups)
        self.given.update(taken)
        self.cap = None if self.cap is None else self.cap - taken.total()


def take(order: Int64, groups: Int64, quota: Quota, conflicts: Conflicts | None = None) -> Int64:
    """Rows from the front of `order` (rows, best first), as `quota` allows and `conflicts` permits; counted in both.

    `groups` (N,): the group of every row of `order`. No group gives its second before every group gave its first; in
    the last turn under a cap, those that come first in the order win. A row in conflict with those taken before it is
    passed over, and the next one of its group has its turn.
    """
    if conflicts is None:
        turn = _turns(groups)
        if quota.given:
            each, which = np.unique(groups, return_inverse=True)
            turn += np.array([quota.given[group] for group in each.tolist()], np.int64)[which]
        allowed = np.flatnonzero(turn < quota.per_group)
        number = len(allowed) if quota.cap is None else min(len(allowed), quota.cap)
        if number < len(allowed):
            allowed = allowed[np.argsort(turn[allowed], kind="stable")[:number]]
        quota.take(groups[allowed].tolist())
        return order[allowed]
    by_group = _by_group(groups)
    turn = _turns(groups)
    # Rows are prepared as far as is likely to be looked at, and then twice as far.
    depth = 2 * min(quota.per_group, len(order) if quota.cap is None else quota.cap) + MIN_DEPTH
    conflicts.prepare(order[turn < depth])
    # (turn, place in the order, position in by_group, end of the group): the next of each group, the foremost first
    heap: list[tuple[int, int, int, int]] = [
        (quota.given[int(groups[by_group[start]])], int(by_group[start]), start, end)
        for start, end in runs(groups[by_group])
    ]
    heapq.heapify(heap)
    taken: list[int] = []
    while heap and (quota.cap is None or quota.cap > 0):
        given, place, position, end = heapq.heappop(heap)
        if given >= quota.per_group:
            continue
        row = int(order[place])
        if turn[place] >= depth:
            conflicts.prepare(order[(turn >= depth) & (turn < 2 * depth)])
            depth *= 2
        if conflicts.why_not(row) is None:
            conflicts.took(row)
            taken.append(row)
            quota.take([int(groups[place])])
            given += 1
        if position + 1 < end:
            heapq.heappush(heap, (given, int(by_group[position + 1]), position + 1, end))
    return np.array(taken, np.int64)


def _by_group(groups: Int64) -> Int64:
    """Places in (N,) group numbers, group by group; those of one group in their order."""
    is_small = bool(len(groups)) and groups.min() >= 0 and groups.max() < 1 << 16
    # numpy sorts numbers of 16 bits by counting, which is several times faster.
    return np.argsort(groups.astype(np.uint16) if is_small else groups, kind="stable")


def _turns(groups: Int64) -> Int64:
    """For each of (N,) group numbers, how often it came before: 0 for the first of a group, 1 for the second, …"""
    order = _by_group(groups)
    starts = np.flatnonzero(np.diff(groups[order], prepend=np.int64(-1)) != 0) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(groups)))
    turn = np.empty(len(groups), np.int64)
    turn[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return turn


def by_chance(rows: Int64, rng: np.random.Generator) -> Int64:
    """The rows in an order that is as likely as any other."""
    return rows[rng.permutation(len(rows))]


def by_value(rows: Int64, values: Float64) -> Int64:
    """The rows by their (N,) `values`, largest first, ties by video and track id; those of NaN are left out."""
    rows, values = rows[~np.isnan(values)], values[~np.isnan(values)]
    return rows[np.argsort(-values, kind="stable")]


def by_score(rows: Int64, scores: Float64, temperature: float, rng: np.random.Generator) -> Int64:
    """The rows by their (N,) `scores`, drawn one after the other without putting back.

    Temperature 0: the best first. t: each next one is drawn with a probability in proportion to exp(score / t), among
    those that are left (as the largest of score / t + Gumbel noise; Vieira 2014). inf: by chance alone; only then those
    without a score, NaN, take part.
    """
    if temperature == np.inf:
        return by_chance(rows, rng)
    if temperature == 0:
        return by_value(rows, scores)
    return by_value(rows, scores / temperature + rng.gumbel(size=len(rows)))


@dataclass(frozen=True)
class SpreadConfig:
    """`max_swaps` and `batch_size` as in `spread.widen`; `pool`: of a larger group, so many by chance are looked at;
    `least_distance`: of the embeddings of two that are chosen.
    """

    max_swaps: int = 2000
    batch_size: int = 20
    pool: int = 100_000
    least_distance: float = 0.0


class Embeddings(Protocol):
    """Embeddings of the table's tracks."""

    dim: int

    def __call__(self, rows: Int64) -> Float16:
        """(N, dim) of the given rows, NaN where a track has none."""
        ...


def pick_spread(
    rows: Int64,
    groups: Int64,
    quota: Quota,
    config: SpreadConfig,
    embeddings: Embeddings,
    rng: np.random.Generator,
    *,
    given: Mapping[int, Int64],
    conflicts: Conflicts | None = None,
) -> tuple[Int64, dict[int, int]]:
    """Of every group the tracks that look least alike, and the sizes of the groups of which only a pool was looked at.

    `rows` (N,) and their `groups` (N,); rows without an embedding are never chosen. `given`: of each group the rows
    that are chosen already, from which others keep away. Each group: greedy k-centre from the member that is farthest
    from one by chance, then swaps (none under `conflicts`, or beside given ones). Under a cap, groups give in turns, in
    the order of choice.
    """
    order = np.lexsort((rows, groups))
    rows, groups, pooled = _pools(rows[order], groups[order], config.pool, rng)
    if conflicts:
        conflicts.prepare(rows)
    chosen, turns = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for batch in _batches(runs(groups), GATHER_BYTES // (2 * max(1, embeddings.dim))):
        first = batch[0][0]
        matrix = embeddings(rows[first : batch[-1][1]])
        for start, end in batch:
            group = int(groups[start])
            before = given.get(group, np.zeros(0, np.int64))
            members = np.concatenate([before, rows[start:end]])
            points = matrix[start - first : end - first]
            if len(before):
                points = np.concatenate([embeddings(before), points])
            found = _spread_of(members, points, len(before), quota.left(group), config, rng, conflicts)
            chosen.append(np.stack([found, np.full(len(found), group)], axis=1))
            turns.append(np.arange(len(found)) + quota.given[group])
        del matrix, points  # before the next ones are gathered
    taken = np.concatenate(chosen)[np.argsort(np.concatenate(turns), kind="stable")][: quota.cap]
    quota.take(taken[:, 1].tolist())
    return taken[:, 0], pooled


def _spread_of(
    members: Int64,
    embeddings: Float16,
    num_given: int,
    number: int,
    config: SpreadConfig,
    rng: np.random.Generator,
    conflicts: Conflicts | None,
) -> Int64:
    """`number` of a group's `members`, whose first `num_given` are chosen already, by their embeddings."""
    points = embeddings.astype(np.float32)
    usable: Bool = np.isfinite(np.einsum("nd,nd->n", points, points))  # which needs no more memory
    if conflicts:
        usable[num_given:] &= np.array([conflicts.why_not(row) is None for row in members[num_given:].tolist()], bool)
    num_given = int(usable[:num_given].sum())
    members = members[usable]
    points = points if usable.all() else points[usable]
    if not number or num_given == len(members):
        return np.zeros(0, np.int64)
    start = list(range(num_given)) or [spread.farthest_from(points, int(rng.integers(len(members))))]

    def blocks(place: int) -> Int64:
        assert conflicts is not None
        return np.flatnonzero(np.isin(members, conflicts.blocked_by(int(members[place]))))

    least = config.least_distance**2
    found = spread.farthest_first(
        points, num_given + number, start=start, least=least, blocks=blocks if conflicts else None
    )
    if conflicts:
        for row in members[found.chosen[num_given:]].tolist():
            conflicts.took(row)
    elif not num_given:
        return members[spread.widen(points, found, max_swaps=config.max_swaps, batch_size=config.batch_size)[0]]
    return members[found.chosen[num_given:]]


def _pools(rows: Int64, groups: Int64, pool: int, rng: np.random.Generator) -> tuple[Int64, Int64, dict[int, int]]:
    """At most `pool` rows of each group; `groups` is sorted."""
    keep, pooled = np.ones(len(rows), bool), {}
    for start, end in runs(groups):
        if end - start > pool:
            keep[start:end] = False
            keep[start + rng.choice(end - start, pool, replace=False)] = True
            pooled[int(groups[start])] = end - start
    return rows[keep], groups[keep], pooled


def runs(groups: Int64) -> list[tuple[int, int]]:
    """Start and end of every stretch of equal numbers."""
    if not len(groups):
        return []
    starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1)).tolist()
    return list(zip(starts, [*starts[1:], len(groups)], strict=True))


def _batches(runs: Sequence[tuple[int, int]], max_rows: int) -> Iterator[list[tuple[int, int]]]:
    """Runs one after the other, as many at a time as have `max_rows` together; at least one."""
    batch: list[tuple[int, int]] = []
    for run in runs:
        if batch and run[1] - batch[0][0] > max_rows:
            yield batch
            batch = []
        batch.append(run)
    if batch:
        yield batch


def unfilled(counts: Mapping[str, int], asked: int) -> dict[str, list[int]]:
    """[how many there are, how many were asked for] of everything that has fewer."""
    return {name: [number, asked] for name, number in counts.items() if number < asked}
