"""Choosing subsets of tracks. Every choice is a function of the table, its arguments and a seed alone.

Rows are row numbers of the table.

All criteria but two put the candidates in an order, and take them from its front: `take`. The two that look for tracks
unlike each other compare embeddings: `pick_spread`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from trackverse import spread
from trackverse.track_table import runs
from trackverse.types import Bool, Float16, Float64, Int64

GATHER_BYTES = 256 << 20  # of embeddings that are looked at together
MIN_DEPTH = 16  # members of each group that are looked at together


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
