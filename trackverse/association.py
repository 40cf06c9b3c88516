"""Which track gets which detection: the assignment with the largest sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from trackverse.types import Bool, Int64


def assign(rows: Int64, columns: Int64, gain: npt.NDArray[np.floating[Any]]) -> Int64:
    """Of P pairs of a row and a column each, the numbers (K,) of those with the largest total `gain` (P,), of which no
    two have a row or a column in common. Pairs with less gain than 0 (-inf is allowed) are left out.
    """
    numbers = (gain >= 0).nonzero()[0]
    rows, columns = rows.take(numbers), columns.take(numbers)
    # A pair without gain is still better than none.
    gain = gain.take(numbers) + np.float64(1e-6)
    # A pair that gains more than all others of its row and its column together is in the best choice: whichever of them
    # were chosen in its place, it would be the better. Most pairs are like that and need no solver.
    rival = np.bincount(rows, gain).take(rows) + np.bincount(columns, gain).take(columns)
    is_sure = 3 * gain > rival
    sure = is_sure.nonzero()[0]
    if len(sure) == len(numbers):
        return numbers
    is_open = ~(is_sure | _is_among(rows, rows.take(sure)) | _is_among(columns, columns.take(sure)))
    left = is_open.nonzero()[0]
    if not len(left):
        return numbers.take(sure)
    i, j = _renumber(rows.take(left)), _renumber(columns.take(left))
    matrix = np.zeros((i.max() + 1, j.max() + 1))
    matrix[i, j] = gain.take(left)
    number_of = np.full(matrix.shape, -1)
    number_of[i, j] = left
    chosen = number_of[linear_sum_assignment(matrix, maximize=True)]
    return numbers.take(np.concatenate([sure, chosen[chosen >= 0]]))


def _is_among(values: Int64, some: Int64) -> Bool:
    """(P,): which of the `values` (P,), small numbers from 0, are among `some` (K,)."""
    is_there = np.zeros(int(values.max()) + 1, bool)
    is_there[some] = True
    return is_there.take(values)


def _renumber(values: Int64) -> Int64:
    """(P,): the `values` (P,), small numbers from 0, numbered anew from 0 without holes."""
    is_there = np.zeros(int(values.max()) + 1, bool)
    is_there[values] = True
    return (is_there.cumsum() - 1).take(values)
