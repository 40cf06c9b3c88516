"""Points far from each other: greedy k-centre, and swaps that widen the narrowest gap.

Distances are squared Euclidean ones of (N, D) float32 rows. Both are exact, and get nearly all of their distances from
matrix products: what takes time is the N × K products of all points with the chosen ones, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trackverse.types import Float32, Int64

BLOCK_ROWS = 4096  # of the points in one product: the block and its distances stay in the cache
MIN_FRONT, MAX_FRONT = 256, 2048  # points that are kept up to date from choice to choice
Blocks = Callable[[int], Int64]


@dataclass
class Spread:
    """K chosen of N points, and of every point its two nearest chosen ones.

    `chosen` (K,) row numbers in the order of choice. `nearest` and `second` (N,): squared distances; `owner` and
    `second_owner` (N,): places in `chosen`. A chosen point is no neighbour of its own: its `nearest` is -inf.
    """

    chosen: Int64
    nearest: Float32
    second: Float32
    owner: Int64
    second_owner: Int64


def farthest_first(
    points: Float32, num_samples: int, *, start: Sequence[int], least: float = 0.0, blocks: Blocks | None = None
) -> Spread:
    """Greedy k-centre (Gonzalez 1985): begin with the rows `start`, then always take the point farthest from them all.

    Of equally far points the one with the lowest row number comes first. It ends early when no point is `least` (a
    squared distance) or more from those taken. `blocks`: given a row that is taken, the rows that may no longer be.

    Only the points of a front, the farthest ones, are compared with each choice at once. The distances of the others
    can only fall, so that the best of the front is the best of all as long as it is farther than any of them was. Then
    all points are compared with all new choices in one product, and a new front is formed.
    """
    num_points = len(points)
    num_samples = min(num_samples, num_points)
    found = Spread(
        np.zeros(0, np.int64),
        np.full(num_points, np.inf, np.float32),
        np.full(num_points, np.inf, np.float32),
        np.full(num_points, -1),
        np.full(num_points, -1),
    )
    if not num_samples:
        return found
    squares = _squares(points)
    is_free = np.ones(num_points, bool)
    chosen: list[int] = []

    def take(row: int) -> None:
        chosen.append(row)
        is_free[row] = False
        if blocks:
            is_free[blocks(row)] = False

    for row in start:
        take(row)
    front_size = int(np.clip(num_points // 32, MIN_FRONT, MAX_FRONT))
    while True:
        _compare(found, points, squares, np.array(chosen, np.int64))
        if len(chosen) >= num_samples:
            break
        distance = np.where(is_free, found.nearest, -np.inf)
        best = int(distance.argmax())
        if not is_free[best] or distance[best] < least:
            break
        take(best)
        front = (
            np.argpartition(-distance, front_size)[:front_size] if front_size < num_points else np.arange(num_points)
        )
        front = np.sort(front)
        others = distance.copy()
        others[front] = -np.inf
        limit = others.max()
        front_points, front_distance = points[front], distance[front]
        while len(chosen) < num_samples:
            new = chosen[-1]
            to_new = squares[front] + squares[new] - 2 * (front_points @ points[new])
            front_distance = np.where(is_free[front], np.minimum(front_distance, to_new), -np.inf)
            place = int(front_distance.argmax())
            if front_distance[place] <= limit or front_distance[place] < least or front_distance[place] <= 0:
                break
            take(int(front[place]))
    found.nearest[found.chosen] = -np.inf
    return found


def _compare(found: Spread, points: Float32, squares: Float32, chosen: Int64) -> None:
    """Bring `found` up to date with `chosen`, which begins with the choices that it knows."""
    num_known = len(found.chosen)
    centres = points[chosen[num_known:]]
    centre_squares = squares[chosen[num_known:]]
    for start in range(0, len(points), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        distance = points[rows] @ centres.T
        distance *= -2
        distance += squares[rows, None]
        distance += centre_squares
        np.maximum(distance, 0, out=distance)
        for _ in range(min(2, len(centres))):
            place = distance.argmin(axis=1)
            row = np.arange(len(place))
            least = distance[row, place]
            distance[row, place] = np.inf
            _insert(found, rows, least, place + num_known)
    found.chosen = chosen


def _insert(found: Spread, rows: slice, distance: Float32, owner: Int64) -> None:
    """Note a choice that lies at `distance` from the points of `rows`, where it is one of their two nearest."""
    nearest, second = found.nearest[rows], found.second[rows]
    is_nearest, is_second = distance < nearest, distance < second
    found.second_owner[rows] = np.where(
        is_nearest, found.owner[rows], np.where(is_second, owner, found.second_owner[rows])
    )
    found.second[rows] = np.where(is_nearest, nearest, np.where(is_second, distance, second))
    found.owner[rows] = np.where(is_nearest, owner, found.owner[rows])
    found.nearest[rows] = np.where(is_nearest, distance, nearest)


def widen(
    points: Float32, spread: Spread, *, max_swaps: int, batch_size: int, free: Int64 | None = None
) -> tuple[Int64, int]:
    """The chosen rows after swaps that each widen the narrowest gap, and how many swaps were made.

    Of the closest pair, one gives way to the point that is farthest from all others, if that is farther than the pair
    was apart. Such a point can only be one whose nearest choice is the one that leaves, or one that a former swap left
    far from all; these are measured, most promising first, `batch_size` at a time, at most `max_swaps` times. It ends
    when neither of the pair can be bettered. So the smallest distance never shrinks. `free`: the only rows that may
    come in (default: all).
    """
    chosen = spread.chosen.copy()
    if len(chosen) < 2:
        return chosen, 0
    squares = _squares(points)
    nearest, second = spread.nearest.copy(), spread.second.copy()
    owner, second_owner = spread.owner.copy(), spread.second_owner.copy()
    may_enter = np.ones(len(points), bool) if free is None else np.isin(np.arange(len(points)), free)
    may_enter[chosen] = False
    centres, centre_squares = points[chosen], squares[chosen]
    apart = _distances(centres, centre_squares, centres, centre_squares)
    np.fill_diagonal(apart, np.inf)
    closest = apart.min(axis=1)
    num_swaps = num_tries = 0
    while num_tries < max_swaps:
        one = int(closest.argmin())
        gap = closest[one]
        other = int(apart[one].argmin())
        best_gap, best = gap, (-1, -1)
        # An upper bound of the distance to all choices but the one that leaves, whichever of the two that is.
        bound = np.where((owner == one) | (owner == other), second, nearest)
        eligible = np.flatnonzero((bound > gap) & may_enter)
        eligible = eligible[np.argsort(-bound[eligible], kind="stable")]
        while len(eligible) and num_tries < max_swaps:
            num_tries += 1
            rows, eligible = eligible[:batch_size], eligible[batch_size:]
            distance = _distances(points[rows], squares[rows], centres, centre_squares)
            _measured(nearest, second, owner, second_owner, rows, distance)
            for leaving in (one, other):
                exact = np.where(owner[rows] == leaving, second[rows], nearest[rows])
                place = int(exact.argmax())
                if exact[place] > best_gap:
                    best_gap, best = exact[place], (int(rows[place]), leaving)
            if best[0] >= 0 and (not len(eligible) or bound[eligible[0]] <= best_gap):
                break
        row, leaving = best
        if row < 0:
            break
        may_enter[chosen[leaving]], may_enter[row] = True, False
        old = chosen[leaving]
        chosen[leaving], centres[leaving], centre_squares[leaving] = row, points[row], squares[row]
        num_swaps += 1
        # Whoever had the one that left nearest has its second nearest now, and who is second then is not known.
        _forget(nearest, second, owner, second_owner, leaving)
        nearest[old], second[old], owner[old], second_owner[old] = np.inf, np.inf, -1, -1
        to_row = _distances(points[[row]], squares[[row]], centres, centre_squares)[0]
        to_row[leaving] = np.inf
        apart[leaving], apart[:, leaving] = to_row, to_row
        closest = apart.min(axis=1)
    return chosen, num_swaps


def _measured(
    nearest: Float32, second: Float32, owner: Int64, second_owner: Int64, rows: Int64, distance: Float32
) -> None:
    """Note the exact neighbours of rows whose distances to all choices are known."""
    each = np.arange(len(rows))
    for values, owners in ((nearest, owner), (second, second_owner)):
        owners[rows] = distance.argmin(axis=1)
        values[rows] = distance[each, owners[rows]]
        distance[each, owners[rows]] = np.inf
    distance[each, owner[rows]] = nearest[rows]
    distance[each, second_owner[rows]] = second[rows]


def _forget(nearest: Float32, second: Float32, owner: Int64, second_owner: Int64, leaving: int) -> None:
    """Undo what is known of a choice that leaves; what is not known any more is as if it were far away."""
    was_owner = owner == leaving
    nearest[was_owner], owner[was_owner] = second[was_owner], second_owner[was_owner]
    lost = was_owner | (second_owner == leaving)
    second[lost], second_owner[lost] = np.inf, -1


def _squares(points: Float32) -> Float32:
    squares: Float32 = np.einsum("nd,nd->n", points, points)
    return squares


def _distances(a: Float32, a_squares: Float32, b: Float32, b_squares: Float32) -> Float32:
    """Squared distances (len(a), len(b)) between points, whose squared lengths are given."""
    distance = a @ b.T
    distance *= -2
    distance += a_squares[:, None]
    distance += b_squares
    np.maximum(distance, 0, out=distance)
    return distance
