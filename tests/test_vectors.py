"""Products and lengths of rows."""

from __future__ import annotations

import numpy as np
import pytest

from trackverse.vectors import BLOCK_FLOATS, blocks, cosines, lengths


@pytest.mark.parametrize("num, dim", [(0, 3), (7, 1), (7, 3), (100, 2 * BLOCK_FLOATS // 100), (3, BLOCK_FLOATS + 1)])
def test_cosines_are_those_of_all_pairs(num: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, dim)).astype(np.float32), rng.normal(size=(4, dim)).astype(np.float32)
    i, j = rng.integers(0, 5, num), rng.integers(0, 4, num)
    expected = np.einsum("id,jd->ij", a.astype(np.float64), b.astype(np.float64))[i, j]
    expected /= np.linalg.norm(a[i], axis=1) * np.linalg.norm(b[j], axis=1)
    np.testing.assert_allclose(cosines(a, i, b, j), expected, atol=1e-5, rtol=1e-4)


def test_a_zero_row_is_at_a_right_angle_to_everything() -> None:
    rows, others = np.array([[3, 4], [0, 0]], np.float32), np.array([[6, 8]], np.float32)
    assert cosines(rows, np.array([0, 1]), others, np.array([0, 0])).tolist() == [1, 0]
    assert cosines(others, np.array([0]), rows, np.array([1])).tolist() == [0]
    length = lengths(rows)
    assert length[0] == 5 and length[1] > 0


@pytest.mark.parametrize("num_rows, width", [(0, 8), (10, 0), (1000, 512), (3, 10 * BLOCK_FLOATS)])
def test_blocks_hold_every_row_once_and_are_small(num_rows: int, width: int) -> None:
    parts = [np.arange(num_rows)[part] for part in blocks(num_rows, width)]
    assert np.concatenate([np.zeros(0, int), *parts]).tolist() == list(range(num_rows))
    assert all(len(part) * width <= max(BLOCK_FLOATS, width) for part in parts)
