"""Are two tracks one object, by how they look? Every clip is its own measure.

Tracks that are there at the same time are different objects, and most of a track is one object: so a clip itself tells
how far apart the looks of one object and of two lie, whatever the embedding is. Between the two stands a likelihood
ratio, that of a two-covariance model (PLDA: Ioffe 2006) with the same variance in all directions: an object's looks
scatter around its own mean with variance `within`, and the objects' means around that of the clip with `between`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trackverse.types import Float64, Int64

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
BLOCK_LOOKS, BLOCK_COLUMNS = 4096, 128


@dataclass(frozen=True)
class LookModel:
    """Variances, summed over all dimensions, and how many independent dimensions there seem to be; `lasting`, the share
    of `within` that more looks don't average out.
    """

    within: float
    between: float
    num_dims: float
    lasting: float = LASTING

    def evidence(self, distance2: Float64, num_a: Float64, num_b: Float64) -> Float64:
        """Log likelihood ratio of one object to two, for the squared distance of two means of so many looks."""
        same = self.within * _noise(self.lasting, num_a, num_b)
        different = same + 2 * self.between
        ratio: Float64 = self.num_dims / 2 * (np.log(different / same) - distance2 * (1 / same - 1 / different))
        return ratio


def fit(sums: Float64, nums: Float64, track_of: Int64, start_s: Float64, end_s: Float64) -> LookModel | None:
    """The model of a clip of N tracks, from its looks; None if there is too little to tell.

    `sums` (S, D) and `nums` (S,) of all looks (0 and 0: unknown), `track_of` (S,) the row of their track, `start_s` and
    `end_s` (N,). The medians over tracks keep a few that mix two objects from counting.
    """
    known = np.flatnonzero(nums >= MIN_WEIGHT)
    counts = np.bincount(track_of[known], minlength=len(start_s))
    long = counts >= MIN_LOOKS
    rows = np.flatnonzero(long)
    if len(rows) < 2:
        return None
    # In blocks: the looks of a hundred tracks of ten minutes take a gigabyte, and should not be there several times.
    blocks = np.split(known, np.arange(BLOCK_LOOKS, len(known), BLOCK_LOOKS))
    means = np.zeros((len(start_s), sums.shape[1]))
    for block in blocks:
        means += totals(sums[block] / nums[block, None], track_of[block], len(start_s))
    means /= np.maximum(counts, 1)[:, None]
    scatter = np.zeros(len(start_s))
    # In the order of time, track by track: which looks are of a track's second half.
    is_late = np.arange(len(known)) >= (np.cumsum(counts) - counts + counts // 2)[track_of[known]]
    late_sums = np.zeros_like(means)
    few, inner = [], np.zeros((sums.shape[1],) * 2)
    is_tall = counts[rows].sum() > sums.shape[1]
    for block, late in zip(blocks, np.split(is_late, np.arange(BLOCK_LOOKS, len(known), BLOCK_LOOKS)), strict=True):
        offset = sums[block] / nums[block, None] - means[track_of[block]]
        scatter += np.bincount(track_of[block], (offset**2).sum(axis=1), minlength=len(start_s))
        late_sums += totals(offset[late], track_of[block][late], len(start_s))
        offset = offset[long[track_of[block]]]
        if is_tall:
            inner += offset.T @ offset
        else:
            few.append(offset)
    within = max(float(np.median(scatter[rows] / (counts[rows] - 1))), MIN_WITHIN)
    a, b = np.nonzero(np.triu((start_s[rows, None] < end_s[rows]) & (start_s[rows] < end_s[rows, None]), 1))
    if not len(a):
        return None
    lasting = _lasting(late_sums, counts, within)
    noise = within * _noise(lasting, counts[rows[a]], counts[rows[b]])
    distance2 = ((means[rows[a]] - means[rows[b]]) ** 2).sum(axis=1)
    between = float(np.median(distance2 - noise)) / 2
    if between <= 0:
        return None  # the objects look alike: nothing to tell them apart by
    if few:
        offset = np.concatenate(few)
        inner = offset @ offset.T
    spread = float((inner**2).sum())
    return LookModel(within, between, float(np.trace(inner)) ** 2 / spread if spread > 0 else 1.0, lasting)


def _noise(lasting: float, num_a: Float64 | Int64, num_b: Float64 | Int64) -> Float64:
    """The squared distance to be expected of two means of so many looks of one object, in `within`."""
    noise: Float64 = 2 * lasting + np.maximum(1 - lasting, 0) * (1 / num_a + 1 / num_b)
    return noise


def _lasting(late_sums: Float64, counts: Int64, within: float) -> float:
    """What share of the scatter `within` lasts, from how far the two halves of long tracks are apart: `late_sums`
    (N, D) of the offsets of the second halves' looks from their track's mean, `counts` (N,) looks a track.
    """
    rows = np.flatnonzero(counts >= 2 * MIN_LOOKS)
    if not len(rows):
        return LASTING
    num_early = counts[rows] // 2
    num_late = counts[rows] - num_early
    fleeting = 1 / num_early + 1 / num_late
    # The offsets of the first half sum up to minus those of the second.
    apart = (late_sums[rows] ** 2).sum(axis=1) * fleeting**2 / within
    return float(np.clip(np.median((apart - fleeting) / (2 - fleeting)), LASTING, MAX_LASTING))


def totals(values: Float64, group_of: Int64, num_groups: int) -> Float64:
    """(num_groups, D) sums of the rows of (S, D) values that belong to each group."""
    order = np.argsort(group_of, kind="stable")
    groups, first = np.unique(group_of[order], return_index=True)
    sums = np.zeros((num_groups, values.shape[1]))
    # Some columns at a time: `values` may take half a gigabyte, and should not be there twice.
    for start in range(0, values.shape[1] if len(groups) else 0, BLOCK_COLUMNS):
        columns = slice(start, start + BLOCK_COLUMNS)
        sums[groups, columns] = np.add.reduceat(values[order, columns], first, axis=0)
    return sums


def across(sums: Float64, nums: Float64, before: Int64, after: Int64, model: LookModel) -> Float64:
    """Evidence (K,) that a track is one object from its looks up to `before` (K,) to those from `after` (K,) on; inf
    where one side isn't known. `sums` (S, D) and `nums` (S,) of its looks, of which `CHANGE_WINDOW` on each side count.
    """
    upto = np.concatenate([np.zeros((1, sums.shape[1])), np.cumsum(sums, axis=0)])
    num_upto = np.concatenate([[0.0], np.cumsum(nums)])
    low, high = np.maximum(before - CHANGE_WINDOW, 0), np.minimum(after + CHANGE_WINDOW, len(nums))
    num_a, num_b = num_upto[before] - num_upto[low], num_upto[high] - num_upto[after]
    with np.errstate(invalid="ignore", divide="ignore"):
        a = (upto[before] - upto[low]) / num_a[:, None]
        b = (upto[high] - upto[after]) / num_b[:, None]
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
