"""The assignment against trying everything, and the cosine distance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackverse.association import assign, cosine

# Eighths, so that sums are exact, ties are many, and costs are often exactly at the limit.
EIGHTHS = st.integers(0, 10).map(lambda number: number / 8)
COSTS = st.one_of(EIGHTHS, st.just(np.inf))


@st.composite
def cost_matrices(draw: st.DrawFn) -> np.ndarray:
    num_rows, num_columns = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    values = draw(st.lists(COSTS, min_size=num_rows * num_columns, max_size=num_rows * num_columns))
    return np.array(values, np.float64).reshape(num_rows, num_columns)


def best_by_trying_all(cost: np.ndarray, max_cost: float) -> tuple[float, int]:
    """The most that pairs can save against leaving all alone (each at `max_cost`), and with how many pairs at most."""
    num_rows, num_columns = cost.shape
    best = (0.0, 0)
    for size in range(1, min(num_rows, num_columns) + 1):
        for rows in itertools.combinations(range(num_rows), size):
            for columns in itertools.permutations(range(num_columns), size):
                costs = cost[list(rows), list(columns)]
                if (costs <= max_cost).all():
                    best = max(best, (float((max_cost - costs).sum()), size))
    return best


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cost_matrices(), EIGHTHS)
def test_no_other_choice_of_pairs_is_better(cost: np.ndarray, max_cost: float) -> None:
    rows, columns = assign(cost, max_cost)
    assert len(rows) == len(columns) == len(set(rows)) == len(set(columns))
    chosen = cost[rows, columns]
    assert (chosen <= max_cost).all()
    assert (float((max_cost - chosen).sum()), len(rows)) == best_by_trying_all(cost, max_cost)


INF = np.inf
CASES = {
    "a pair exactly at the limit is a pair": ([[0.5]], 0.5, {(0, 0)}),
    "a pair just above the limit is none": ([[0.5001]], 0.5, set()),
    "inf is never a pair": ([[INF, 0.2], [INF, INF]], 1.0, {(0, 1)}),
    "all inf": ([[INF, INF]], 1.0, set()),
    "the least sum, not the best first": ([[0.1, 0.2], [0.2, 0.9]], 1.0, {(0, 1), (1, 0)}),
    "a pair beyond the limit doesn't pull others along": ([[0.1, 0.3], [0.2, 5.0]], 0.5, {(0, 1), (1, 0)}),
    "a pair at the limit is taken beside a better one": ([[0.1, 0.5], [0.5, 0.5]], 0.5, {(0, 0), (1, 1)}),
    "two pairs at the limit save nothing, one below it does": ([[0.4, 0.5], [0.5, 9.0]], 0.5, {(0, 0)}),
    "more rows than columns": ([[0.3], [0.1], [0.2]], 0.5, {(1, 0)}),
    "a limit of zero": ([[0.0, 0.1], [0.1, 0.0]], 0.0, {(0, 0), (1, 1)}),
}


@pytest.mark.parametrize("cost, max_cost, expected", CASES.values(), ids=CASES)
def test_assign(cost: list[list[float]], max_cost: float, expected: set[tuple[int, int]]) -> None:
    rows, columns = assign(np.array(cost), max_cost)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    rows, columns = assign(np.zeros(shape), 1.0)
    assert rows.shape == columns.shape == (0,)
    assert rows.dtype == columns.dtype == np.int64


def test_cosine_of_known_angles() -> None:
    a = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], np.float32)
    b = np.array([[3, 0], [1, 1]], np.float32)
    half = np.sqrt(0.5)
    expected = [[1, half], [0, half], [-1, -half], [0, 0]]
    np.testing.assert_allclose(cosine(a, b), expected, atol=1e-6)


@pytest.mark.parametrize("num, other, dim", [(0, 2, 3), (2, 0, 3), (0, 0, 3), (2, 3, 0)])
def test_cosine_of_nothing(num: int, other: int, dim: int) -> None:
    similarity = cosine(np.zeros((num, dim), np.float32), np.zeros((other, dim), np.float32))
    np.testing.assert_array_equal(similarity, np.zeros((num, other)))
