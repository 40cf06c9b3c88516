"""Which track gets which detection: the assignment with the largest sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from trackverse.types import Bool, Int64

Gain = npt.NDArray[np.floating[Any]]

FEW = 32  # numbers: so many are looked at faster in Python
LEAST_GAIN = 1e-6  # a pair without gain is still better than none


def assign(rows: Int64, columns: Int64, gain: Gain) -> Int64:
    """Of P pairs of a row and a column each, the numbers (K,) of those with the largest total `gain` (P,), of which no
    two have a row or a column in common. Pairs with less gain than 0 (-inf is allowed) are left out.
    """
    numbers = (gain >= 0).nonzero()[0]
    rows, columns = rows.take(numbers), columns.take(numbers)
    if len(numbers) <= FEW and _differ(rows) and _differ(columns):
        return numbers
    gain = gain.take(numbers) + np.float64(LEAST_GAIN)
    # A pair that gains more than all others of its row and its column together is in the best choice: whichever of them
    # were chosen in its place, it would be the better. Most pairs are like that and need no solver.
    rival = np.bincount(rows, gain).take(rows) + np.bincount(columns, gain).take(columns)
    sure = (3 * gain > rival).nonzero()[0]
    left = _beside(rows, columns, sure)
    if not len(left):
        return numbers.take(sure)
    i, j = _renumber(rows.take(left)), _renumber(columns.take(left))
    matrix = np.zeros((i.max() + 1, j.max() + 1))
    matrix[i, j] = gain.take(left)
    number_of = np.full(matrix.shape, -1)
    number_of[i, j] = left
    chosen = number_of[linear_sum_assignment(matrix, maximize=True)]
    return numbers.take(np.concatenate([sure, chosen[chosen >= 0]]))


def assign_lazily(rows: Int64, columns: Int64, most: Gain, exact: Callable[[Int64], Gain]) -> Int64:
    """As `assign`, where gains take long to compute: `most` (P,) is what a pair gains at most, and `exact` of the
    numbers (L,) of some pairs what these gain. It is asked for those that may decide, mostly a quarter of them.
    """
    numbers: Int64 = (most >= 0).nonzero()[0]
    if not len(numbers):
        return numbers
    rows, columns, gain = rows.take(numbers), columns.take(numbers), most.take(numbers)
    num_rows, num_columns = int(rows.max()) + 1, int(columns.max()) + 1
    order = gain.argsort()
    best_of_row, best_of_column = np.empty(num_rows, np.int64), np.empty(num_columns, np.int64)
    best_of_row[rows.take(order)] = best_of_column[columns.take(order)] = order  # the last one stays
    is_best = best_of_row.take(rows) == best_of_column.take(columns)
    best, others = is_best.nonzero()[0], (~is_best).nonzero()[0]
    second_of_row, second_of_column = np.zeros(num_rows, gain.dtype), np.zeros(num_columns, gain.dtype)
    np.maximum.at(second_of_row, rows.take(others), gain.take(others))
    np.maximum.at(second_of_column, columns.take(others), gain.take(others))
    gain[best] = exact(numbers.take(best))
    # Two pairs would come in place of one that is left out: one of its row and one of its column.
    rival = second_of_row.take(rows.take(best)) + second_of_column.take(columns.take(best))
    sure: Int64 = best[gain.take(best) > rival + LEAST_GAIN]
    left = _beside(rows, columns, sure)
    if not len(left):
        return numbers.take(sure)
    unknown = left[~is_best.take(left)]
    gain[unknown] = exact(numbers.take(unknown))
    chosen = assign(rows.take(left), columns.take(left), gain.take(left))
    return numbers.take(np.concatenate([sure, left.take(chosen)]))


def _beside(rows: Int64, columns: Int64, some: Int64) -> Int64:
    """Numbers (L,) of the P pairs that have neither a row nor a column in common with `some` (K,) of them."""
    is_apart = ~(_is_among(rows, rows.take(some)) | _is_among(columns, columns.take(some)))
    apart: Int64 = is_apart.nonzero()[0]
    return apart


def _is_among(values: Int64, some: Int64) -> Bool:
    """(P,): which of the `values` (P,), small numbers from 0, are among `some` (K,)."""
    is_there = np.zeros(int(values.max()) + 1, bool)
    is_there[some] = True
    return is_there.take(values)


def _differ(values: Int64) -> bool:
    """Whether all are different."""
    listed = values.tolist()
    return len(set(listed)) == len(listed)


def _renumber(values: Int64) -> Int64:
    """(P,): the `values` (P,), small numbers from 0, numbered anew from 0 without holes."""
    is_there = np.zeros(int(values.max()) + 1, bool)
    is_there[values] = True
    return (is_there.cumsum() - 1).take(values)
