"""Rows of numbers as directions, which are compared at unit length, and as files."""

from __future__ import annotations

import mmap
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from trackverse.files import open_regular
from trackverse.types import Float32, Int64

BLOCK_FLOATS = 24 << 10  # 96 KB: from 128 KB on, the C library gives new pages each time
TINY = np.finfo(np.float32).tiny


def unit(rows: Float32) -> Float32:
    """(N, D) rows at length 1; zero rows stay zero."""
    scaled: Float32 = rows / lengths(rows)[:, None]
    return scaled


def lengths(rows: Float32) -> Float32:
    """(N,) of (N, D) rows; of zero rows, next to nothing."""
    length: Float32 = np.sqrt(np.vecdot(rows, rows))
    return np.maximum(length, TINY, out=length)


def blocks(num_rows: int, width: int) -> list[slice]:
    """Slices of rows of `width` float32s, a few at a time, so that what is made of them stays in the processor's cache:
    larger arrays are new pages of memory each time, which takes longer than what is computed with them.
    """
    size = max(BLOCK_FLOATS // max(width, 1), 1)
    if num_rows <= size:
        return [slice(num_rows)] if num_rows else []
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def cosines(a: Float32, i: Int64, b: Float32, j: Int64, *, is_unit: bool = False) -> Float32:
    """(P,): of the angles between the rows `i` (P,) of `a` (N, D) and the rows `j` (P,) of `b` (M, D); 0 where one is
    zero. `is_unit`: the rows of `a` have length 1.
    """
    cosine = np.empty(len(i), np.float32)
    for part in blocks(len(i), a.shape[1]):
        one, other = a.take(i[part], axis=0), b.take(j[part], axis=0)
        length = lengths(other) if is_unit else lengths(one) * lengths(other)
        np.divide(np.vecdot(one, other), length, out=cosine[part])
    return cosine


def load_matrix(path: Path) -> npt.NDArray[Any]:
    """The (N, D) real numbers of a .npy file. Raises OSError or ValueError if it holds anything else.

    Mapped into memory first, which fails where the header claims more than the file has.
    """
    try:
        open_regular(path).close()
        rows: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    # numpy reads the header as Python, which has many ways to be wrong.
    except (EOFError, OverflowError, MemoryError, RecursionError, SyntaxError, TypeError, TokenError) as error:
        raise ValueError(str(error)) from error
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise ValueError(f"{rows.dtype} of shape {rows.shape}")
    return np.array(rows)


def let_go(rows: npt.NDArray[Any]) -> None:
    """Of numbers that are mapped from a file: gives back their memory, until they are looked at again."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
