"""The boxes of many tracks in one table, so that what is computed of each is computed of all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trackverse.types import Float32, Float64, Int64, Track


class Rows(NamedTuple):
    """The boxes of N tracks or chains of tracks, one after the other: `times_s` (T,) and `xyxy` (T, 4) px, the n-th's
    from row `first[n]` to before `stop[n]`, (N,).
    """

    times_s: Float64
    xyxy: Float32
    first: Int64
    stop: Int64

    @staticmethod
    def of(tracks: Sequence[Track]) -> Rows:
        """Of one track at least."""
        times_s = np.concatenate([track.times_s for track in tracks])
        xyxy = np.concatenate([track.xyxy for track in tracks])
        stop = np.cumsum([len(track) for track in tracks])
        return Rows(times_s, xyxy, np.append(0, stop[:-1]), stop)

    @staticmethod
    def of_chains(chains: Sequence[Sequence[Track]]) -> Rows:
        """Of one chain at least, and of one track at least each."""
        rows = Rows.of([track for chain in chains for track in chain])
        end = np.cumsum([len(chain) for chain in chains])
        stop = rows.stop[end - 1]
        return rows._replace(first=np.append(0, stop[:-1]), stop=stop)

    @property
    def lengths(self) -> Int64:
        """(N,)."""
        return self.stop - self.first

    @property
    def owner(self) -> Int64:
        """(T,): the number of the track, or chain, that each row is of."""
        return np.repeat(np.arange(len(self.first)), self.lengths)
