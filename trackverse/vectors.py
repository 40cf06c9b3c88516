"""Rows of numbers as directions: embeddings are compared at unit length."""

from __future__ import annotations

import numpy as np

from trackverse.types import Float32


def unit(rows: Float32) -> Float32:
    """(N, D) rows at length 1; zero rows stay zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: Float32 = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return scaled
