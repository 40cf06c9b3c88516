"""Which track gets which detection: costs and the assignment with the least sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from trackverse.types import Bool, Float32, Int64


def assign(cost: npt.NDArray[np.floating[Any]], max_cost: float, possible: Bool | None = None) -> tuple[Int64, Int64]:
    """Rows and columns of the pairs of an (N, M) cost matrix with the least total cost, each pair at most `max_cost`.

    A pair above `max_cost` (inf is allowed) costs as much as leaving both alone, and is left out, as those are that
    aren't `possible` (N, M).
    """
    open_to = cost <= max_cost
    if possible is not None:
        open_to &= possible
    # `nonzero` of a matrix takes twenty times as long.
    rows, columns = np.divmod(open_to.ravel().nonzero()[0], max(cost.shape[1], 1))
    num_of_row = np.bincount(rows, minlength=cost.shape[0])
    num_of_column = np.bincount(columns, minlength=cost.shape[1])
    # Most pairs have only each other: they need no solver.
    is_only = (num_of_row[rows] == 1) & (num_of_column[columns] == 1)
    only_rows, only_columns = rows[is_only], columns[is_only]
    if len(only_rows) == len(rows):
        return rows, columns
    rows, columns = rows[~is_only], columns[~is_only]
    num_of_row[only_rows] = num_of_column[only_columns] = 0
    row_numbers, column_numbers = num_of_row.nonzero()[0], num_of_column.nonzero()[0]
    # Just above the limit, so that a pair exactly at it is still better than none.
    inner = np.full((len(row_numbers), len(column_numbers)), max_cost + 1e-6)
    inner[np.searchsorted(row_numbers, rows), np.searchsorted(column_numbers, columns)] = cost[rows, columns]
    i, j = linear_sum_assignment(inner)
    kept = inner[i, j] <= max_cost
    return (
        np.concatenate([only_rows, row_numbers[i[kept]]]),
        np.concatenate([only_columns, column_numbers[j[kept]]]),
    )


def cosine(a: Float32, b: Float32) -> Float32:
    """Cosine of the angle between the rows of `a` (N, D), which have length 1 or 0, and those of `b` (M, D), as (N, M).

    A zero row is at a right angle to everything.
    """
    length = np.sqrt(np.einsum("nd,nd->n", b, b))
    similarity: Float32 = a @ b.T
    similarity *= 1 / np.maximum(length, np.finfo(np.float32).tiny)
    return similarity
