"""Choosing subsets of tracks. Every choice is a function of the table, its arguments and a seed alone.

The table is sorted by video and track id, so that neither the order of files nor the number of processes that read them
changes what is chosen. Every function returns row numbers of the table, each once, and never more than `cap`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trackverse.errors import RecordError
from trackverse.records import TrackSummary
from trackverse.types import Float32, Float64, Int64

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackTable:
    """N tracks, sorted: `videos` (N,) and `label_ids` (N,) are numbers, named by `video_ids` and `labels`.

    `scores` (N,) is the mean class score × objectness, NaN where the record has none. `files` and `lines` (N,) say
    where the record is: which of the files that were read, and which line of it from 1.
    """

    videos: Int64
    track_ids: Int64
    label_ids: Int64
    scores: Float64
    files: Int64
    lines: Int64
    video_ids: Sequence[str]
    labels: dict[int, str]

    def __len__(self) -> int:
        return len(self.videos)


def make_table(
    files: Iterable[tuple[Sequence[tuple[TrackSummary, int]], Sequence[RecordError]]],
    *,
    failed: Counter[str],
    dropped: Counter[str],
) -> TrackTable:
    """The table of all files' (summary, line number) pairs.

    What is wrong with the files' other lines is told and counted in `failed`, a track that is there twice in `dropped`.
    """
    rows = []
    for number, (summaries, errors) in enumerate(files):
        rows += [(summary, number, line) for summary, line in summaries]
        for error in errors:
            failed[error.reason] += 1
            log.warning("%s", error)
    rows.sort(key=lambda row: (*_name(row), *row[1:]))
    unique = [row for n, row in enumerate(rows) if n == 0 or _name(row) != _name(rows[n - 1])]
    if len(unique) < len(rows):
        dropped["track listed twice"] += len(rows) - len(unique)
    video_ids = sorted({track.video_id for track, _, _ in unique})
    number_of = {video_id: number for number, video_id in enumerate(video_ids)}
    scores = [np.nan if track.score is None else track.score for track, _, _ in unique]
    return TrackTable(
        np.array([number_of[track.video_id] for track, _, _ in unique], np.int64),
        np.array([track.track_id for track, _, _ in unique], np.int64),
        np.array([track.label_id for track, _, _ in unique], np.int64),
        np.array(scores, np.float64),
        np.array([file for _, file, _ in unique], np.int64),
        np.array([line for _, _, line in unique], np.int64),
        video_ids,
        {track.label_id: track.label for track, _, _ in unique},
    )


def _name(row: tuple[TrackSummary, int, int]) -> tuple[str, int]:
    return row[0].video_id, row[0].track_id


def choose_random(table: TrackTable, cap: int, rng: np.random.Generator) -> Int64:
    """`cap` tracks, each set of them equally likely."""
    return np.sort(rng.permutation(len(table))[:cap])


def choose_video_balanced(table: TrackTable, per_video: int, cap: int | None, rng: np.random.Generator) -> Int64:
    """`per_video` random tracks of every video; under a cap, no video gives a second before every one gave a first."""
    order = rng.permutation(len(table))
    turn = _turns(table.videos[order])
    # Among the tracks of one turn the random order decides whose come under the cap.
    order = order[np.argsort(turn, kind="stable")]
    return np.sort(order[: _capped((turn < per_video).sum(), cap)])


def choose_class_balanced(table: TrackTable, per_class: int, cap: int | None) -> Int64:
    """The best `per_class` tracks of every class by score, ties by video and track id; tracks without a score never.

    Under a cap no class gives a second before every class gave its first; in the last turn the better scores win.
    """
    rows = np.flatnonzero(~np.isnan(table.scores))
    best_first = rows[np.argsort(-table.scores[rows], kind="stable")]
    turn = _turns(table.label_ids[best_first])
    order = best_first[np.argsort(turn, kind="stable")]
    return np.sort(order[: _capped((turn < per_class).sum(), cap)])


def choose_min_redundancy(
    table: TrackTable,
    embeddings: Float32,
    per_class: int,
    cap: int | None,
    *,
    max_swaps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> Int64:
    """Of every class the `per_class` tracks that look least alike, by `embeddings` (N, D) of unit length.

    Rows of NaN (no embedding) are never chosen. Under a cap, classes give in turns, the most spread-out tracks first.
    """
    has_embedding = ~np.isnan(embeddings).any(axis=1)
    chosen, turns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label_id in np.unique(table.label_ids):
        members = np.flatnonzero((table.label_ids == label_id) & has_embedding)
        spread = least_redundant(embeddings[members], per_class, max_swaps=max_swaps, batch_size=batch_size, rng=rng)
        chosen.append(members[spread])
        turns.append(np.arange(len(spread)))
    order = np.concatenate(chosen)[np.argsort(np.concatenate(turns), kind="stable")]
    return np.sort(order[: _capped(len(order), cap)])


def least_redundant(
    embeddings: Float32, num_samples: int, *, max_swaps: int, batch_size: int, rng: np.random.Generator
) -> Int64:
    """`num_samples` of (N, D) points, or all, that are far from their nearest chosen neighbours, as row numbers.

    First greedy k-centre (Gonzalez 1985): begin anywhere, then always take the point farthest from those taken. Then
    swaps: `max_swaps` times, one of the closest pair gives way to the best of `batch_size` random points, if that is
    farther from all others than the pair was apart. Which one is drawn: the later one was the best there was when it
    was taken, so always trying that one would change nothing. The smallest distance never shrinks.
    """
    num_points, num_samples = len(embeddings), min(num_samples, len(embeddings))
    if not num_samples:
        return np.zeros(0, np.int64)
    chosen = _farthest_first(embeddings, num_samples, first=int(rng.integers(num_points)))
    is_free = np.ones(num_points, bool)
    is_free[chosen] = False
    apart = _distances(embeddings[chosen], embeddings[chosen])
    np.fill_diagonal(apart, np.inf)
    for _ in range(max_swaps if 1 < num_samples < num_points else 0):
        kept, leaving = rng.permutation(np.array(np.unravel_index(apart.argmin(), apart.shape)))
        candidates = rng.choice(np.flatnonzero(is_free), min(batch_size, num_points - num_samples), replace=False)
        distance = _distances(embeddings[candidates], embeddings[chosen])
        distance[:, leaving] = np.inf
        best = int(distance.min(axis=1).argmax())
        if distance[best].min() > apart[kept, leaving]:
            is_free[chosen[leaving]], is_free[candidates[best]] = True, False
            chosen[leaving] = candidates[best]
            apart[leaving, :] = apart[:, leaving] = distance[best]
    return chosen


def _farthest_first(points: Float32, num_samples: int, first: int) -> Int64:
    """Row numbers (num_samples,) of (N, D) points in the order of greedy k-centre."""
    chosen = np.empty(num_samples, np.int64)
    chosen[0] = first
    nearest = np.full(len(points), np.inf)
    for n in range(1, num_samples):
        nearest = np.minimum(nearest, _distances(points[chosen[n - 1]][None], points)[0])
        nearest[chosen[n - 1]] = -np.inf
        chosen[n] = nearest.argmax()
    return chosen


def _distances(a: Float32, b: Float32) -> Float64:
    """Squared Euclidean distances (N, M) of unit vectors (N, D) and (M, D)."""
    return np.maximum(2.0 - 2.0 * (a @ b.T).astype(np.float64), 0.0)


def _turns(groups: Int64) -> Int64:
    """For each of (N,) group numbers, how often it came before: 0 for the first of a group, 1 for the second, …"""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=np.int64(-1)) != 0) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(groups)))
    turn = np.empty(len(groups), np.int64)
    turn[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return turn


def _capped(number: int, cap: int | None) -> int:
    return int(number) if cap is None else min(int(number), cap)


def count_by_class(table: TrackTable, rows: Int64) -> dict[str, int]:
    """How many of the rows each class of the table has, zeros too, most frequent first."""
    counts = Counter(dict.fromkeys(table.labels.values(), 0))
    counts.update(table.labels[label_id] for label_id in table.label_ids[rows].tolist())
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def count_by_video(table: TrackTable, rows: Int64) -> dict[str, int]:
    """How many of the rows each video of the table has, zeros too."""
    counts = np.bincount(table.videos[rows], minlength=len(table.video_ids))
    return dict(zip(table.video_ids, counts.tolist(), strict=True))


def unfilled(counts: dict[str, int], asked: int) -> dict[str, list[int]]:
    """[how many there are, how many were asked for] of everything that has fewer."""
    return {name: [number, asked] for name, number in counts.items() if number < asked}
