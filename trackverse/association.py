"""Which track gets which detection: the assignment with the largest sum, in up to three turns.

What an earlier turn can choose it chooses, however much more would be gained later: a doubtful detection takes no track
away from a confident one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from trackverse.types import Bool, Float64, Int64

Gain = npt.NDArray[np.floating[Any]]

FEW = 32  # numbers: so many are looked at faster in Python
# A pair without gain is still better than none. Arrays, as numpy takes longer to make one of a number than to add it.
NO_GAIN, LEAST_GAIN = np.array(0.0, np.float32), np.array(1e-6)
# How gains of three turns compare: the least one outweighs all of a row in the next turn, below 1000 together.
TURN_WEIGHTS = np.array([1e18, 1e9, 1.0])


def assign(rows: Int64, columns: Int64, gain: Gain, turns: Int64) -> Int64:
    """Of P pairs of a row and a column each, the numbers (K,) of those with the largest total `gain` (P,), of which no
    two have a row or a column in common; among pairs of turn 0 first, then, for what is left, of turn 1, then of
    turn 2 (`turns` (P,)). Pairs with less gain than 0 (-inf is allowed) are left out.
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
    is_best = _best(weighed, rows, num_rows) & _best(weighed, columns, num_columns)
    best, others = is_best.nonzero()[0], (~is_best).nonzero()[0]
    second_of_row, second_of_column = np.zeros(num_rows), np.zeros(num_columns)
    np.maximum.at(second_of_row, rows.take(others), weighed.take(others))
    np.maximum.at(second_of_column, columns.take(others), weighed.take(others))
    gain[best] = exact(numbers.take(best))
    # Two pairs would come in place of one that is left out: one of its row and one of its column.
    rival = second_of_row.take(rows.take(best)) + second_of_column.take(columns.take(best))
    sure: Int64 = best[gain.take(best) * weights.take(best) > rival]
    left = _Left(rows, columns, num_rows, num_columns).without(sure)
    if not len(left):
        return numbers.take(sure)
    unknown = left[~is_best.take(left)]
    gain[unknown] = exact(numbers.take(unknown))
    chosen = assign(rows.take(left), columns.take(left), gain.take(left), turns.take(left))
    return numbers.take(np.concatenate([sure, left.take(chosen)]))


def _best(values: Float64, group: Int64, num_groups: int) -> Bool:
    """(P,): which of the positive `values` (P,) is the largest of its group; one of those that are equal."""
    largest = np.zeros(num_groups)
    np.maximum.at(largest, group, values)
    numbers = (values == largest.take(group)).nonzero()[0]
    best_of_group = np.empty(num_groups, np.int64)
    best_of_group[group.take(numbers)] = numbers  # the last one stays
    is_best = np.zeros(len(values), bool)
    is_best[best_of_group.take(group)] = True
    return is_best


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
    matrix = np.zeros((int(i.max()) + 1, int(j.max()) + 1))
    matrix[i, j] = gain
    column_of = np.full(len(matrix), -1)
    chosen_rows, chosen_columns = linear_sum_assignment(matrix, maximize=True)
    column_of[chosen_rows] = chosen_columns
    chosen: Int64 = (column_of.take(i) == j).nonzero()[0]
    return chosen


def _differ(values: Int64) -> bool:
    """Whether all are different."""
    listed = values.tolist()
    return len(set(listed)) == len(listed)


def _renumber(values: Int64) -> Int64:
    """The `values` (P,), numbered anew from 0 in the order in which they come."""
    number_of: dict[int, int] = {}
    return np.array([number_of.setdefault(value, len(number_of)) for value in values.tolist()])
