"""Rows of numbers as directions: embeddings are compared at unit length."""

from __future__ import annotations

import numpy as np

from trackverse.types import Float32


def unit(rows: Float32) -> Float32:
    """(N, D) rows at length 1; zero rows stay zero."""
    length: Float32 = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    length[length == 0] = 1
    scaled: Float32 = rows / length[:, None]
    return scaled
