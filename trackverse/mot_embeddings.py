"""Appearances of MOTChallenge's detections: a matrix with a row a line of det.txt, in every sequence's folder.

An .npy file, or an .npz file: the matrix that FILE:NAME names, else its first.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from trackverse.errors import SetupError
from trackverse.types import Float32

log = logging.getLogger(__name__)


def check(folders: Sequence[Path], name: str) -> None:
    """Count the sequences that have no file of that name. Raises SetupError if none has: it may be misspelt."""
    filename = name.partition(":")[0]
    num_without = sum(not (folder / filename).is_file() for folder in folders)
    if num_without == len(folders):
        raise SetupError(f"--embeddings {filename}: no sequence has such a file ({folders[0] / filename})")
    if num_without:
        log.warning("--embeddings %s: %d of %d sequences have no such file", filename, num_without, len(folders))


def read(folder: Path, name: str | None, num_rows: int) -> Float32:
    """(num_rows, D) of any length from the file of that name in the folder; D = 0 without a name, or without the file,
    which is said. Raises SetupError if the file holds something else.
    """
    if name is None:
        return np.zeros((num_rows, 0), np.float32)
    filename, _, key = name.partition(":")
    path = folder / filename
    if not path.is_file():
        log.warning("%s: not there; associating by boxes alone", path)
        return np.zeros((num_rows, 0), np.float32)
    try:
        matrix = _matrix(path, key)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        why = str(error).partition(". ")[0]  # what numpy adds is how to load it unsafely
        raise SetupError(f"{path}: no matrix of numbers in a .npy or .npz file ({why})") from error
    if len(matrix) != num_rows:
        raise SetupError(f"{path}: {len(matrix)} rows for the {num_rows} lines of det.txt; a row a line is wanted")
    with np.errstate(over="ignore"):  # it becomes inf, and is refused
        return matrix.astype(np.float32)


def _matrix(path: Path, key: str) -> npt.NDArray[Any]:
    """The (N, D) numbers of a .npy file, or of that key of an .npz file; without one, its first matrix."""
    loaded: Any = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        with loaded as archive:
            names = ", ".join(map(repr, archive.files))
            if key and key not in archive.files:
                raise SetupError(f"{path}: no {key!r} in it, but {names}")
            for name in [key] if key else archive.files:
                if (loaded := archive[name]).ndim == 2:
                    break
            else:
                raise ValueError(f"there is {names or 'nothing'}")
            if not key and len(archive.files) > 1:
                log.info("%s: %r is taken, of %s", path, name, names)
    if loaded.ndim != 2 or loaded.dtype.kind not in "fiub":
        raise ValueError(f"{loaded.dtype} of shape {loaded.shape}")
    matrix: npt.NDArray[Any] = loaded
    return matrix
