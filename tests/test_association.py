"""The assignment against trying everything."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trackverse import association
from trackverse.association import assign, assign_lazily

# Eighths, so that sums are exact, ties are many, and costs are often exactly at the limit.
EIGHTHS = st.integers(0, 10).map(lambda number: number / 8)
COSTS = st.one_of(EIGHTHS, st.just(np.inf))


@st.composite
def cost_matrices(draw: st.DrawFn) -> np.ndarray:
    num_rows, num_columns = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    values = draw(st.lists(COSTS, min_size=num_rows * num_columns, max_size=num_rows * num_columns))
    return np.array(values, np.float64).reshape(num_rows, num_columns)


def assigned(cost: np.ndarray, max_cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs of a matrix that gain most, given in any order."""
    rows, columns = np.indices(cost.shape).reshape(2, -1)[:, ::-1]
    chosen = assign(rows, columns, (max_cost - cost).ravel()[::-1], np.zeros(cost.size, np.int64))
    return rows[chosen], columns[chosen]


def turn_by_turn(rows: np.ndarray, columns: np.ndarray, gain: np.ndarray, turns: np.ndarray) -> list[tuple[int, float]]:
    """How many pairs each turn can choose at most, and what they gain together, when the turns before it have chosen.

    The turns are tried one by one, those of the others put out of reach.
    """
    found = []
    free = np.ones(len(rows), bool)
    for turn in range(4):
        chosen = assign(rows, columns, np.where(free & (turns == turn), gain, -1), np.zeros(len(rows), np.int64))
        found.append((len(chosen), float(gain[chosen].sum())))
        free &= ~np.isin(rows, rows[chosen]) & ~np.isin(columns, columns[chosen])
    return found


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
@given(cost_matrices(), EIGHTHS, st.sampled_from([0, association.MAX_CELLS]))
def test_no_other_choice_of_pairs_is_better(cost: np.ndarray, max_cost: float, max_cells: int) -> None:
    with mock.patch.object(association, "MAX_CELLS", max_cells):
        rows, columns = assigned(cost, max_cost)
    assert len(rows) == len(columns) == len(set(rows)) == len(set(columns))
    chosen = cost[rows, columns]
    assert (chosen <= max_cost).all()
    assert (float((max_cost - chosen).sum()), len(rows)) == best_by_trying_all(cost, max_cost)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cost_matrices(), EIGHTHS, st.data())
def test_what_pairs_gain_at_most_leads_to_a_choice_as_good(
    cost: np.ndarray, max_cost: float, data: st.DataObject
) -> None:
    slack = np.array(data.draw(st.lists(EIGHTHS, min_size=cost.size, max_size=cost.size)))
    rows, columns = np.indices(cost.shape).reshape(2, -1)
    gain = (max_cost - cost).ravel()
    chosen = assign_lazily(rows, columns, gain + slack, np.zeros(cost.size, np.int64), lambda numbers: gain[numbers])
    assert len(chosen) == len(set(rows[chosen])) == len(set(columns[chosen]))
    assert (gain[chosen] >= 0).all()
    assert (float(gain[chosen].sum()), len(chosen)) == best_by_trying_all(cost, max_cost)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 200), st.booleans(), st.integers(0, 2**32))
def test_each_turn_chooses_as_if_the_later_ones_were_not_there(
    num_rows: int, num_columns: int, num_pairs: int, is_lazy: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(num_rows * num_columns)[:num_pairs]
    rows, columns = np.divmod(numbers, num_columns)
    gain, turns = rng.uniform(-0.2, 1, len(rows)), rng.integers(0, 4, len(rows))
    if is_lazy:
        most = gain + rng.uniform(0, 0.3, len(rows))
        chosen = assign_lazily(rows, columns, most, turns, lambda some: gain[some])
    else:
        chosen = assign(rows, columns, gain, turns)
    assert len(chosen) == len(set(rows[chosen])) == len(set(columns[chosen]))
    found = [chosen[turns[chosen] == turn] for turn in range(4)]
    expected = turn_by_turn(rows, columns, gain, turns)
    assert [len(mine) for mine in found] == [number for number, _ in expected]
    assert [float(gain[mine].sum()) for mine in found] == pytest.approx([total for _, total in expected])


def test_a_little_in_an_earlier_turn_is_worth_more_than_much_in_a_later_one() -> None:
    """A row that two columns want, and a column that wants no other row."""
    rows, columns = np.array([0, 0, 1]), np.array([0, 1, 1])
    chosen = assign(rows, columns, np.array([0.0, 1.0, -0.1]), np.array([0, 1, 0]))
    assert chosen.tolist() == [0]


def test_only_pairs_that_may_decide_are_looked_at() -> None:
    """A clear pair for every row and column, among others that could gain a little at most."""
    rows, columns = np.indices((20, 20)).reshape(2, -1)
    is_clear = rows == columns
    asked: list[int] = []

    def gain(numbers: np.ndarray) -> np.ndarray:
        asked.extend(numbers.tolist())
        return np.where(is_clear[numbers], 0.5, 0.0)

    chosen = assign_lazily(rows, columns, np.where(is_clear, 0.6, 0.2), np.zeros(400, np.int64), gain)
    assert sorted(chosen.tolist()) == sorted(asked) == np.flatnonzero(is_clear).tolist()


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
    rows, columns = assigned(np.array(cost), max_cost)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    rows, columns = assigned(np.zeros(shape), 1.0)
    assert rows.shape == columns.shape == (0,)
    assert rows.dtype == columns.dtype == np.int64
