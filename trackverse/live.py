"""Tracks that are looked for, as they are now."""

from __future__ import annotations

import numpy as np

from trackverse.kalman import Agility, Innovations, KalmanState
from trackverse.types import Bool, Float32, Float64, Int64


class LiveTracks:
    """N tracks; row n of every array is the same one: `last_seen_s` (N,), `is_tentative` (N,), whether it was seen only
    once, and `numbers` (N,), by which whoever looks for the tracks knows them.
    """

    def __init__(self) -> None:
        self.kalman = KalmanState.start(np.zeros((0, 4)))
        self.last_seen_s: Float64 = np.zeros(0)
        self.is_tentative: Bool = np.zeros(0, bool)
        self.numbers: Int64 = np.zeros(0, np.int64)
        self._agility = Agility()

    def __len__(self) -> int:
        return len(self.numbers)

    def predict(self, step_s: float | Float64) -> None:
        """Time goes on by `step_s` seconds, for all tracks alike or for each (N,)."""
        if len(self):
            self.kalman.predict(step_s, self._agility.value)

    def see(self, rows: Int64, time_s: float | Float64, xyxy: Float32) -> Innovations | None:
        """The tracks of `rows` (K,) are where the boxes (K, 4) are, and no others are seen at this time. Returns how
        far they were off, None if there are none.
        """
        if not len(rows):
            return None
        innovations = self.kalman.update(rows, xyxy)
        self._agility.learn(innovations.agreement, innovations.num_pairs)
        self.last_seen_s[rows] = time_s
        self.is_tentative[rows] = False
        return innovations

    def start(self, numbers: Int64, time_s: float | Float64, xyxy: Float32) -> None:
        """New tracks of one box (K, 4) each, behind those that are there."""
        if not len(numbers):
            return
        self.kalman = self.kalman.join(KalmanState.start(xyxy))
        self.last_seen_s = np.concatenate([self.last_seen_s, np.full(len(numbers), time_s)])
        self.is_tentative = np.concatenate([self.is_tentative, np.ones(len(numbers), bool)])
        self.numbers = np.concatenate([self.numbers, numbers])

    def keep(self, rows: Int64) -> None:
        """Only the tracks of `rows` (K,), rising."""
        if len(rows) == len(self):
            return
        self.kalman = self.kalman.select(rows)
        self.last_seen_s, self.is_tentative = self.last_seen_s.take(rows), self.is_tentative.take(rows)
        self.numbers = self.numbers.take(rows)
