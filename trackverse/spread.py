"""Points far from each other: greedy k-centre, and swaps that widen the narrowest gap.

Distances are squared Euclidean ones of (N, D) float32 rows, and nearly all come from matrix products. Both are exact:
they compare a point with the chosen ones only where it might be chosen, but then with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from trackverse.types import Bool, Float32, Int64

BLOCK_ROWS = 4096  # of the points in one product: the block and its distances stay in the cache
MIXED_ROWS = 128  # a product of so many rows costs hardly more than one of a few
FRONT = 512  # points that are kept up to date from choice to choice
Blocks = Callable[[int], Int64]


@dataclass
class Spread:
    """K chosen of N points, and of every point its two nearest ones of those chosen that it was compared with.

    `chosen` (K,) row numbers in the order of choice; `known` (N,): with how many of these, the first ones, a point was
    compared. `nearest` and `second` (N,): squared distances; `owner` and `second_owner` (N,): places in `chosen`. With
    all known, that is exact, else distances may be less. A chosen point is no neighbour of its own: its `nearest` is
    -inf.
    """

    chosen: Int64
    known: Int64
    nearest: Float32
    second: Float32
    owner: Int64
    second_owner: Int64


def farthest_from(points: Float32, row: int) -> int:
    """The point that is farthest from the one of this row; the first of several.

    A good one to start from: a point amid the others is near to all of them, and would keep the smallest distance low.
    """
    return int((_squares(points) - 2 * (points @ points[row])).argmax())


def farthest_first(
    points: Float32, num_samples: int, *, start: Sequence[int], least: float = 0.0, blocks: Blocks | None = None
) -> Spread:
    """Greedy k-centre (Gonzalez 1985): begin with the rows `start`, then always take the point farthest from them all.

    Of equally far points the one with the lowest row number comes first. It ends early when no point is `least` (a
    squared distance) or more from those taken. `blocks`: given a row that is taken, the rows that may no longer be.

    Distances can only fall with every choice. So only the points of a front, the farthest ones, are compared with each
    choice at once: the best of the front is the best of all as long as it is farther than any other point was when it
    was last compared. Then those that may be farther are compared with what they have missed, in products, and a new
    front is formed. Most points soon are too near to one choice to be looked at ever again.
    """
    num_points = len(points)
    num_samples = min(num_samples, num_points)
    found = Spread(
        np.zeros(0, np.int64),
        np.zeros(num_points, np.int64),
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
    while len(chosen) < num_samples:
        found.chosen = np.array(chosen, np.int64)
        distance = _farthest_known(found, points, squares, is_free)
        best = int(distance.argmax())
        if not is_free[best] or distance[best] < least:
            break
        take(best)
        front = _front(distance)
        others = np.where(is_free, found.nearest, -np.inf)
        others[front] = -np.inf
        limit = max(others.max(), least, 0)
        front_points, front_distance = points[front], distance[front]
        while len(chosen) < num_samples:
            new = chosen[-1]
            to_new = squares[front] + squares[new] - 2 * (front_points @ points[new])
            front_distance = np.where(is_free[front], np.minimum(front_distance, to_new), -np.inf)
            place = int(front_distance.argmax())
            if front_distance[place] <= limit:
                break
            take(int(front[place]))
    found.chosen = np.array(chosen, np.int64)
    found.nearest[found.chosen] = -np.inf
    return found


def _front(distance: Float32) -> Int64:
    """The FRONT farthest of (N,) points, by row number; all if there are no more."""
    if len(distance) <= FRONT:
        return np.arange(len(distance))
    return np.sort(np.argpartition(-distance, FRONT)[:FRONT])


def _farthest_known(found: Spread, points: Float32, squares: Float32, is_free: Bool) -> Float32:
    """Distances (N,) to the nearest choice, all that may be the largest among them; -inf for points not looked at."""
    distance = np.where(is_free, found.nearest, -np.inf)
    # The front-runners first: what they turn out to be is what others must have been to be worth a look.
    rows = _front(distance)
    _compare(found, points, squares, rows[is_free[rows]])
    best = np.where(is_free[rows], found.nearest[rows], -np.inf).max()
    _compare(found, points, squares, np.flatnonzero(is_free & (found.nearest >= best)))
    is_exact: Bool = is_free & (found.known == len(found.chosen))
    return np.where(is_exact, found.nearest, np.float32(-np.inf))


def _compare(found: Spread, points: Float32, squares: Float32, rows: Int64) -> None:
    """Bring `found` up to date for some rows: compare each with the choices that it doesn't know.

    Rows that know as many go into one product; where these are few, so do the next ones, with what they know left out.
    """
    num_chosen = len(found.chosen)
    rows = rows[found.known[rows] < num_chosen]
    rows = rows[np.argsort(found.known[rows], kind="stable")]
    known = found.known[rows]
    first = int(known[0]) if len(rows) else num_chosen
    centres, centre_squares = points[found.chosen[first:]], squares[found.chosen[first:]]
    start = 0
    while start < len(rows):
        num_known = int(known[start])
        end = max(int(np.searchsorted(known, num_known, "right")), start + MIXED_ROWS)
        part = rows[start : min(end, start + BLOCK_ROWS)]
        missed = slice(num_known - first, None)
        distance = _distances(points[part], squares[part], centres[missed], centre_squares[missed])
        distance[np.arange(num_known, num_chosen) < found.known[part, None]] = np.inf
        for _ in range(min(2, distance.shape[1])):
            place = distance.argmin(axis=1)
            row = np.arange(len(place))
            least = distance[row, place]
            distance[row, place] = np.inf
            _insert(found, part, least, place + num_known)
        found.known[part] = num_chosen
        start += len(part)


def _insert(found: Spread, rows: Int64, distance: Float32, owner: Int64) -> None:
    """Note choices that lie at `distance` from the points of `rows`, where they are one of their two nearest."""
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
    now = replace(spread, **{field.name: getattr(spread, field.name).copy() for field in fields(spread)})
    chosen = now.chosen
    if len(chosen) < 2:
        return chosen, 0
    squares = _squares(points)
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
        pair = one, int(apart[one].argmin())
        eligible, bound = _eligible(now, pair, gap, may_enter)
        # Points that the greedy choice had left behind are compared with all choices first, which costs no tries.
        if len(behind := eligible[now.known[eligible] < len(chosen)]):
            for start in range(0, len(behind), BLOCK_ROWS):
                rows = behind[start : start + BLOCK_ROWS]
                _measured(now, rows, _distances(points[rows], squares[rows], centres, centre_squares))
            eligible, bound = _eligible(now, pair, gap, may_enter)
        best_gap, best = gap, (-1, -1)
        while len(eligible) and num_tries < max_swaps:
            num_tries += 1
            rows, eligible = eligible[:batch_size], eligible[batch_size:]
            _measured(now, rows, _distances(points[rows], squares[rows], centres, centre_squares))
            for leaving in pair:
                exact = np.where(now.owner[rows] == leaving, now.second[rows], now.nearest[rows])
                place = int(exact.argmax())
                if exact[place] > best_gap:
                    best_gap, best = exact[place], (int(rows[place]), leaving)
            if best[0] >= 0 and (not len(eligible) or bound[eligible[0]] <= best_gap):
                break
        row, leaving = best
        if row < 0:
            break
        may_enter[chosen[leaving]], may_enter[row] = True, False
        _forget(now, leaving)
        chosen[leaving], centres[leaving], centre_squares[leaving] = row, points[row], squares[row]
        num_swaps += 1
        to_row = _distances(points[[row]], squares[[row]], centres, centre_squares)[0]
        to_row[leaving] = np.inf
        apart[leaving], apart[:, leaving] = to_row, to_row
        closest = apart.min(axis=1)
    return chosen, num_swaps


def _eligible(now: Spread, pair: tuple[int, int], gap: float, may_enter: Bool) -> tuple[Int64, Float32]:
    """Rows that may be farther than `gap` from all choices but one of the pair, the most promising first.

    And the upper bound (N,) of that distance for all rows, whichever of the two leaves.
    """
    is_owned = (now.owner == pair[0]) | (now.owner == pair[1])
    bound: Float32 = np.where(is_owned, now.second, now.nearest)
    eligible = np.flatnonzero((bound > gap) & may_enter)
    return eligible[np.argsort(-bound[eligible], kind="stable")], bound


def _measured(now: Spread, rows: Int64, distance: Float32) -> None:
    """Note the exact neighbours of rows whose distances to all choices are known."""
    each = np.arange(len(rows))
    for values, owners in ((now.nearest, now.owner), (now.second, now.second_owner)):
        owners[rows] = distance.argmin(axis=1)
        values[rows] = distance[each, owners[rows]]
        distance[each, owners[rows]] = np.inf
    now.known[rows] = len(now.chosen)


def _forget(now: Spread, leaving: int) -> None:
    """Undo what is known of a choice that leaves; what is not known any more is as if it were far away.

    Whoever had it nearest has its second nearest now, and who is second then is not known.
    """
    was_owner = now.owner == leaving
    now.nearest[was_owner], now.owner[was_owner] = now.second[was_owner], now.second_owner[was_owner]
    lost = was_owner | (now.second_owner == leaving)
    now.second[lost], now.second_owner[lost] = np.inf, -1
    old = now.chosen[leaving]
    now.nearest[old], now.second[old], now.owner[old], now.second_owner[old] = np.inf, np.inf, -1, -1


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
