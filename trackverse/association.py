"""Which track gets which detection: the assignment with the largest sum, in up to four turns.

What an earlier turn can choose it chooses, however much more would be gained later: a doubtful detection takes no track
away from a confident one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from trackverse.types import Float64, Int64

Gain = npt.NDArray[np.floating[Any]]

# Overlap alone decides where there is no appearance: ByteTrack's own limit on 1 − IoU. Its limit of 0.7 for tracks that
# were seen only once is not kept: nobody knows yet how fast they go, and at 2.3 frames/s a third of a street's walkers
# overlap less with themselves, so that they never came to be more than seen once.
MAX_OVERLAP_COST = 0.9
# By how much more a doubtful detection must overlap a track that wasn't there a frame ago. ByteTrack has no such pairs,
# but who comes into view again is doubtful first, and in crowds for long. With 0, dancers are taken for each other;
# with 0.15, crowds gain a little less.
LOST_MARGIN = 0.1
FEW = 64  # numbers: so many are looked at faster in Python
MAX_CELLS = 1 << 18  # 2 MB; of the many tracks of a shot, larger matrices are solved faster pair by pair
# A pair without gain is still better than none. Arrays, as numpy takes longer to make one of a number than to add it.
NO_GAIN, LEAST_GAIN = np.array(0.0, np.float32), np.array(1e-6)
# How gains of four turns compare: the least one outweighs all of a row in the next turn, below 1000 together.
TURN_WEIGHTS = np.array([1e27, 1e18, 1e9, 1.0])


def assign(rows: Int64, columns: Int64, gain: Gain, turns: Int64) -> Int64:
    """Of P pairs of a row and a column each, the numbers (K,) of those with the largest total `gain` (P,), of which no
    two have a row or a column in common; among pairs of turn 0 first, then, for what is left, of turn 1, and so
    on to turn 3 (`turns` (P,)). Pairs with less gain than 0 (-inf is allowed) are left out.
    """
    numbers = (gain >= NO_GAIN).nonzero()[0]
    rows, columns = rows.take(numbers), columns.take(numbers)
    if len(numbers) <= FEW and _differ(rows) and _differ(columns):
        return numbers
    gain, turns = gain.take(numbers) + LEAST_GAIN, turns.take(numbers)
    # A pair that gains more than all others of its row and its column together is in the best choice: whichever of them
    # were chosen in its place, it would be the better. Most pairs are like that and need no solver.
    weighed = gain * TURN_WEIGHTS.take(turns)
    of_row, of_column = np.bincount(rows, weighed), np.bincount(columns, weighed)
    last = (3 * weighed > of_row.take(rows) + of_column.take(columns)).nonzero()[0]
    chosen, left = [last], _Left(rows, columns, len(of_row), len(of_column))
    while len(others := left.without(last)):
        other_turns = turns.take(others)
        now = others[other_turns == other_turns.min()]
        last = now.take(_solve(rows.take(now), columns.take(now), gain.take(now)))
        chosen.append(last)
    return numbers.take(np.concatenate(chosen))


def assign_lazily(rows: Int64, columns: Int64, most: Gain, turns: Int64, exact: Callable[[Int64], Gain]) -> Int64:
    """As `assign`, where gains take long to compute: `most` (P,) is what a pair gains at most, and `exact` of the
    numbers (L,) of some pairs what these gain. It is asked for those that may decide, mostly a quarter of them.
    """
    numbers: Int64 = (most >= 0).nonzero()[0]
    if not len(numbers):
        return numbers
    rows, columns, turns = rows.take(numbers), columns.take(numbers), turns.take(numbers)
    gain, weights = most.take(numbers), TURN_WEIGHTS.take(turns)
    weighed = (gain + LEAST_GAIN) * weights
    num_rows, num_columns = int(rows.max()) + 1, int(columns.max()) + 1
    is_best = weighed == _largest(weighed, rows, num_rows).take(rows)
    is_best &= weighed == _largest(weighed, columns, num_columns).take(columns)
    best = _last_of_each(is_best.nonzero()[0], rows, num_rows)
    best = _last_of_each(best, columns, num_columns)
    weighed[best] = 0
    # Two pairs would come in place of one that is left out: one of its row and one of its column.
    second_of_row = _largest(weighed, rows, num_rows).take(rows.take(best))
    second_of_column = _largest(weighed, columns, num_columns).take(columns.take(best))
    gain_of_best = exact(numbers.take(best))
    gain[best] = gain_of_best
    sure: Int64 = best[gain_of_best * weights.take(best) > second_of_row + second_of_column]
    left = _Left(rows, columns, num_rows, num_columns).without(sure)
    if not len(left):
        return numbers.take(sure)
    unknown = left[weighed.take(left) > 0]
    gain[unknown] = exact(numbers.take(unknown))
    chosen = assign(rows.take(left), columns.take(left), gain.take(left), turns.take(left))
    return numbers.take(np.concatenate([sure, left.take(chosen)]))


def _largest(values: Float64, group: Int64, num_groups: int) -> Float64:
    """(G,): the largest of the `values` (P,) of each group, at least 0."""
    largest = np.zeros(num_groups)
    np.maximum.at(largest, group, values)
    return largest


def _last_of_each(numbers: Int64, group: Int64, num_groups: int) -> Int64:
    """Those of the `numbers` (K,), rising, of pairs that are the last ones of their groups."""
    groups, last = group.take(numbers), np.empty(num_groups, np.int64)
    last[groups] = numbers  # the last one stays
    only: Int64 = numbers[last.take(groups) == numbers]
    return only


class _Left:
    """Which of P pairs have a row and a column that no pair chosen so far has."""

    def __init__(self, rows: Int64, columns: Int64, num_rows: int, num_columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._is_free_row, self._is_free_column = np.ones(num_rows, bool), np.ones(num_columns, bool)

    def without(self, chosen: Int64) -> Int64:
        """Numbers (L,) of the pairs that are left when those of the numbers `chosen` (K,) are, too."""
        self._is_free_row[self._rows.take(chosen)] = False
        self._is_free_column[self._columns.take(chosen)] = False
        is_left = self._is_free_row.take(self._rows) & self._is_free_column.take(self._columns)
        left: Int64 = is_left.nonzero()[0]
        return left


def _solve(rows: Int64, columns: Int64, gain: Gain) -> Int64:
    """Numbers (K,) of the pairs with the largest total `gain` (P,), which is above 0."""
    if _differ(rows) and _differ(columns):
        return np.arange(len(rows))
    i, j = _renumber(rows), _renumber(columns)
    num_rows, num_columns = int(i.max()) + 1, int(j.max()) + 1
    if num_rows * num_columns <= MAX_CELLS:
        matrix = np.zeros((num_rows, num_columns))
        matrix[i, j] = gain
        chosen_rows, chosen_columns = linear_sum_assignment(matrix, maximize=True)
    else:
        chosen_rows, chosen_columns = _solve_sparse(i, j, gain, num_rows, num_columns)
    column_of = np.full(num_rows, -1)
    column_of[chosen_rows] = chosen_columns
    chosen: Int64 = (column_of.take(i) == j).nonzero()[0]
    return chosen


def _solve_sparse(i: Int64, j: Int64, gain: Gain, num_rows: int, num_columns: int) -> tuple[Int64, Int64]:
    """As `linear_sum_assignment`, of a matrix in which there is nothing but the pairs."""
    alone = np.arange(num_rows)  # a column beyond the others for each row that is in no pair
    at = np.concatenate([i, alone]), np.concatenate([j, num_columns + alone])
    cost = gain.max() + 1 - np.concatenate([gain, np.zeros(num_rows)])  # above 0, as 0 would be no pair
    graph = coo_array((cost, at), shape=(num_rows, num_columns + num_rows)).tocsr()
    chosen: tuple[Int64, Int64] = min_weight_full_bipartite_matching(graph)
    return chosen


def _differ(values: Int64) -> bool:
    """Whether all are different."""
    listed = values.tolist()
    return len(set(listed)) == len(listed)


def _renumber(values: Int64) -> Int64:
    """The `values` (P,), numbered anew from 0 in the order in which they come."""
    number_of: dict[int, int] = {}
    return np.array([number_of.setdefault(value, len(number_of)) for value in values.tolist()])
