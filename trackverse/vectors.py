"""Rows of numbers as directions, which are compared at unit length, and as files."""

from __future__ import annotations

import mmap
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from trackverse.files import open_regular
from trackverse.types import Float32, Int64

BLOCK_FLOATS = 30 << 10  # 120 KB: from 128 KB on, the C library gives new pages each time
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
    zero. `is_unit`: all rows have length 1, or are zero.
    """
    cosine = np.empty(len(i), np.float32)
    many = len(i) > len(b)  # pairs, so that lengths take less time row by row than pair by pair
    for part in blocks(len(i), a.shape[1]):
        one, other = a.take(i[part], axis=0), b.take(j[part], axis=0)
        np.vecdot(one, other, out=cosine[part])
        if not is_unit:
            cosine[part] /= lengths(one)
            if not many:
                cosine[part] /= lengths(other)
    if many and not is_unit:
        cosine /= lengths(b).take(j)
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


class RowFile:
    """Matrices of float32 that are written to a file, and then read from there whenever they are used."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._shapes: list[tuple[int, int]] = []

    def put(self, rows: Float32) -> None:
        """(N, D) more."""
        self._file.write(np.ascontiguousarray(rows, np.float32).tobytes())
        self._shapes.append((len(rows), rows.shape[1]))

    def mapped(self) -> list[Float32]:
        """All of them, in the order in which they were put; see `let_go`."""
        ends = np.cumsum([height * width for height, width in self._shapes], dtype=np.int64).tolist()
        numbers = self._numbers(ends[-1] if ends else 0)
        return [
            numbers[end - height * width : end].reshape(height, width)
            for end, (height, width) in zip(ends, self._shapes, strict=True)
        ]

    def together(self) -> Float32:
        """As `mapped`: all rows (N, D) as one matrix. At least one was put, and all are of one width."""
        num_rows, width = sum(height for height, _ in self._shapes), self._shapes[0][1]
        return self._numbers(num_rows * width).reshape(num_rows, width)

    def _numbers(self, size: int) -> Float32:
        self._file.flush()
        return np.memmap(self._file, np.float32, "r", shape=(size,)) if size else np.zeros(0, np.float32)


def let_go(rows: npt.NDArray[Any]) -> None:
    """Of numbers that are mapped from a file: gives back their memory, until they are looked at again."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
