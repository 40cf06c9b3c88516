"""Which track gets which detection: costs and the assignment with the least sum."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from trackverse.types import Float32, Float64, Int64
from trackverse.vectors import unit


def assign(cost: Float64, max_cost: float) -> tuple[Int64, Int64]:
    """Rows and columns of the pairs of an (N, M) cost matrix with the least total cost, each pair at most `max_cost`.

    A pair above `max_cost` (inf is allowed) costs as much as leaving both alone, and is left out.
    """
    possible = cost <= max_cost
    rows, columns = np.flatnonzero(possible.any(axis=1)), np.flatnonzero(possible.any(axis=0))
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    inner = cost[np.ix_(rows, columns)]
    # Just above the limit, so that a pair exactly at it is still better than none.
    i, j = linear_sum_assignment(np.minimum(inner, max_cost + 1e-6))
    kept = inner[i, j] <= max_cost
    return rows[i[kept]], columns[j[kept]]


def cosine_distance(a: Float32, b: Float32) -> Float64:
    """1 − cosine of (N, D) and (M, D) rows, as (N, M) in [0, 2]. A zero row is at distance 1 from everything."""
    distance: Float64 = 1.0 - (unit(a) @ unit(b).T).astype(np.float64)
    return distance
