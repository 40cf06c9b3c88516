"""The stored embeddings of tracks, gathered from their files: one row a track, in the order that is asked for."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trackverse import progress as progress_file
from trackverse.errors import RecordError, SetupError
from trackverse.index import Index
from trackverse.layout import embeddings_beside, progress_beside
from trackverse.store import load_embeddings
from trackverse.track_table import TrackTable, runs
from trackverse.types import Float16, Int64

log = logging.getLogger(__name__)
MAX_OPEN = 64  # matrices of one video each that are held, for those who ask for single rows


class StoredEmbeddings:
    """The embeddings of the tracks of a table. A file that can't be read is told and counted in `failed`, once.

    Raises SetupError when asked for if no track has an embedding, or if they were made by different embedders.
    """

    def __init__(self, index: Index, meta_paths: Sequence[Path], table: TrackTable, *, failed: Counter[str]) -> None:
        self._index, self._meta_paths, self._table, self._failed = index, meta_paths, table, failed
        self._matrices: OrderedDict[int, Float16] = OrderedDict()
        self._bad: set[int] = set()
        self._checked: set[int] = set()
        self._embedder: str | None = None
        self.dim = 0  # not known yet
        self.dim = next((rows.shape[1] for n in range(len(meta_paths)) if len(rows := self._load(n))), 0)
        if not self.dim:
            raise SetupError("none of the tracks has an embedding; parse_tracks.py stores them unless --embedding none")

    def __call__(self, rows: Int64) -> Float16:
        """(N, dim) of the given rows of the table, NaN where a track has none."""
        found = np.full((len(rows), self.dim), np.nan, np.float16)
        file_numbers = np.searchsorted(self._index.file_starts, self._table.index_rows(rows), side="right") - 1
        track_ids = self._table["track_id"][rows]
        order = np.argsort(file_numbers, kind="stable")
        for start, end in runs(file_numbers[order]):
            places = order[start:end]
            matrix = self._load(int(file_numbers[places[0]]))
            places = places[track_ids[places] < len(matrix)]
            found[places] = matrix[track_ids[places]]
        return found

    def _load(self, number: int) -> Float16:
        """The matrix of a file's tracks; of no rows where there is none."""
        nothing = np.zeros((0, self.dim), np.float16)
        if number in self._bad:
            return nothing
        matrix = self._matrices.get(number)
        if matrix is None:
            try:
                path = embeddings_beside(self._meta_paths[number])
                matrix = load_embeddings(path) if path.exists() else nothing
                if len(matrix) and number not in self._checked:
                    self._check(number, matrix.shape[1])
            except RecordError as error:
                self._bad.add(number)
                self._failed[error.reason] += 1
                log.warning("%s", error)
                return nothing
            self._matrices[number] = matrix
            if len(self._matrices) > MAX_OPEN:
                self._matrices.popitem(last=False)
        return matrix if len(matrix) else nothing  # as wide as the others, which may not have been known yet

    def _check(self, number: int, dim: int) -> None:
        """Raises SetupError if the file's embeddings, of `dim` numbers, can't be compared with those before."""
        path = embeddings_beside(self._meta_paths[number])
        if self.dim not in (0, dim):
            raise SetupError(f"{path}: {dim} numbers a track, other files have {self.dim}")
        progress = progress_file.load_ours(progress_beside(self._meta_paths[number]))
        embedder = progress.embedder if progress else None
        if None not in (embedder, self._embedder) and embedder != self._embedder:
            told = f"made by {embedder}, other files by {self._embedder}: keep them in folders of their own"
            raise SetupError(f"{path}: {told}")
        self._embedder = self._embedder or embedder
        self._checked.add(number)
