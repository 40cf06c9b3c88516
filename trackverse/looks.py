"""Are two tracks one object, by how they look? Every clip is its own measure.

Tracks that are there at the same time are different objects, and most of a track is one object: so a clip itself tells
how far apart the looks of one object and of two lie, whatever the embedding is. Between the two stands a likelihood
ratio, that of a two-covariance model (PLDA: Ioffe 2006) with the same variance in all directions: an object's looks
scatter around its own mean with variance `within`, and the objects' means around that of the clip with `between`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trackverse.types import Float32, Float64, Int64
from trackverse.vectors import blocks

# Share of the scatter of one object's looks that more looks don't average out, because light, pose and what stands
# before it change slowly: as much as the clip's tracks show from their first half to their second, but not less than
# this (0.1 is too sure of itself), and never more than that they have nothing in common.
LASTING, MAX_LASTING = 0.25, 2.0
# A track of fewer looks says little about the scatter within a track.
MIN_LOOKS = 3
# A look worth less shows what stands before the object, and says nothing about how its own looks scatter.
MIN_WEIGHT = 0.25
# Embeddings have length 1 and are rounded; nothing real looks more alike than this.
MIN_WITHIN = 1e-4
# What lies within this many looks of a change decides about it, so that what happened long before doesn't hide it.
CHANGE_WINDOW = 8
BLOCK_LOOKS = 4096


@dataclass(frozen=True)
class LookModel:
    """Variances, summed over all dimensions, and how many independent dimensions there seem to be; `lasting`, the share
    of `within` that more looks don't average out; and of how many tracks it was told.
    """

    within: float
    between: float
    num_dims: float
    lasting: float = LASTING
    num_tracks: int = 0

    def evidence(self, distance2: Float64, num_a: Float64, num_b: Float64) -> Float64:
        """Log likelihood ratio of one object to two, for the squared distance of two means of so many looks."""
        same = self.within * _noise(self.lasting, num_a, num_b)
        different = same + 2 * self.between
        ratio: Float64 = self.num_dims / 2 * (np.log(different / same) - distance2 * (1 / same - 1 / different))
        return ratio


def fit(tracks: Iterable[tuple[Float64, Float64]], start_s: Float64, end_s: Float64) -> LookModel | None:
    """The model of a clip of N tracks, from their looks; None if there is too little to tell.

    `tracks`: of each in turn the sums (S, D) and numbers (S,) of its looks (0 and 0: unknown), gone through once, so
    that they need not be in memory together. `start_s` and `end_s` (N,). The medians over tracks keep a few that mix
    two objects from counting.
    """
    rows, counts, means, scatter, late2 = [], [], [], [], []
    spread = _Spread()
    for row, (sums, nums) in enumerate(tracks):
        known = nums >= MIN_WEIGHT
        count = int(np.count_nonzero(known))
        if count < MIN_LOOKS:
            continue
        own = sums[known] / nums[known, None]
        mean = own.sum(axis=0) / count
        own -= mean
        rows.append(row)
        counts.append(count)
        means.append(mean)
        scatter.append((own**2).sum() / (count - 1))
        late2.append((own[count // 2 :].sum(axis=0) ** 2).sum())
        spread.add(own)
    if len(rows) < 2:
        return None
    start_s, end_s, num_looks, centres = start_s[rows], end_s[rows], np.array(counts), np.array(means)
    within = max(float(np.median(scatter)), MIN_WITHIN)
    a, b = np.nonzero(np.triu((start_s[:, None] < end_s) & (start_s < end_s[:, None]), 1))
    if not len(a):
        return None
    lasting = _lasting(np.array(late2), num_looks, within)
    noise = within * _noise(lasting, num_looks[a], num_looks[b])
    between = float(np.median(_distances2(centres, a, b) - noise)) / 2
    if between <= 0:
        return None  # the objects look alike: nothing to tell them apart by
    return LookModel(within, between, spread.num_dims(), lasting, len(rows))


class _Spread:
    """Over how many dimensions offsets are spread, if evenly: (Σ λ)² / Σ λ² of their covariance's eigenvalues."""

    def __init__(self) -> None:
        self._waiting: list[Float32] = []  # exact enough, and half the time of a large product
        self._num_waiting = 0
        self._products: Float32 | None = None

    def add(self, offsets: Float64) -> None:
        """(S, D) more of them."""
        self._waiting.append(offsets.astype(np.float32))
        self._num_waiting += len(offsets)
        if self._num_waiting >= BLOCK_LOOKS:  # the looks of a hundred tracks of ten minutes take a gigabyte
            self._sum_up()

    def num_dims(self) -> float:
        """1 if there is no offset at all."""
        if self._products is None and self._waiting and self._num_waiting <= self._waiting[0].shape[1]:
            offsets = np.concatenate(self._waiting)
            products = offsets @ offsets.T  # has the same eigenvalues, and is smaller
        else:
            self._sum_up()
            products = np.zeros((0, 0), np.float32) if self._products is None else self._products
        squares = float((products**2).sum())
        return float(np.trace(products)) ** 2 / squares if squares > 0 else 1.0

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        offsets = np.concatenate(self._waiting)
        products = offsets.T @ offsets
        self._products = products if self._products is None else self._products + products
        self._waiting, self._num_waiting = [], 0


def _distances2(rows: Float64, a: Int64, b: Int64) -> Float64:
    """Squared distances (P,) of the rows `a` (P,) from the rows `b` (P,) of (N, D)."""
    distances2 = np.empty(len(a))
    for part in blocks(len(a), 2 * rows.shape[1]):
        offset = rows.take(a[part], axis=0) - rows.take(b[part], axis=0)
        distances2[part] = (offset**2).sum(axis=1)
    return distances2


def _noise(lasting: float, num_a: Float64 | Int64, num_b: Float64 | Int64) -> Float64:
    """The squared distance to be expected of two means of so many looks of one object, in `within`."""
    noise: Float64 = 2 * lasting + np.maximum(1 - lasting, 0) * (1 / num_a + 1 / num_b)
    return noise


def _lasting(late2: Float64, counts: Int64, within: float) -> float:
    """What share of the scatter `within` lasts, from how far the two halves of long tracks are apart: `late2` (N,), the
    squared length of what the offsets of the second half's looks from the track's mean sum up to, `counts` (N,) looks.
    """
    rows = np.flatnonzero(counts >= 2 * MIN_LOOKS)
    if not len(rows):
        return LASTING
    num_early = counts[rows] // 2
    num_late = counts[rows] - num_early
    fleeting = 1 / num_early + 1 / num_late
    # The offsets of the first half sum up to minus those of the second.
    apart = late2[rows] * fleeting**2 / within
    return float(np.clip(np.median((apart - fleeting) / (2 - fleeting)), LASTING, MAX_LASTING))


def across(sums: Float64, nums: Float64, before: Int64, after: Int64, model: LookModel) -> Float64:
    """Evidence (K,) that a track is one object from its looks up to `before` (K,) to those from `after` (K,) on; inf
    where one side isn't known. `sums` (S, D) and `nums` (S,) of its looks, of which `CHANGE_WINDOW` on each side count.
    """
    upto, num_upto = np.zeros((len(sums) + 1, sums.shape[1])), np.zeros(len(nums) + 1)
    np.cumsum(sums, axis=0, out=upto[1:])
    np.cumsum(nums, out=num_upto[1:])
    low, high = np.maximum(before - CHANGE_WINDOW, 0), np.minimum(after + CHANGE_WINDOW, len(nums))
    num_a, num_b = num_upto[before] - num_upto[low], num_upto[high] - num_upto[after]
    with np.errstate(invalid="ignore", divide="ignore"):
        a = (upto.take(before, axis=0) - upto.take(low, axis=0)) / num_a[:, None]
        b = (upto.take(high, axis=0) - upto.take(after, axis=0)) / num_b[:, None]
        evidence = model.evidence(((a - b) ** 2).sum(axis=1), num_a, num_b)
    return np.where((num_a > 0) & (num_b > 0), evidence, np.inf)


def change(sums: Float64, nums: Float64, model: LookModel) -> tuple[int, float]:
    """Where a track's looks (S, D), `nums` (S,) change most, and the evidence that it stays one object there.

    The change is in the look of the given number, which belongs to neither side. (0, inf) for less than four looks.
    """
    if len(nums) < 4:
        return 0, np.inf
    k = np.arange(1, len(nums) - 1)
    evidence = across(sums, nums, k, k + 1, model)
    best = int(evidence.argmin())
    return int(k[best]), float(evidence[best])
