"""Are two tracks one object, by how they look? Every clip is its own measure.

Tracks that are there at the same time are different objects, and most of a track is one object: so a clip itself tells
how far apart the looks of one object and of two lie, whatever the embedding is. Between the two stands a likelihood
ratio, that of a two-covariance model (PLDA: Ioffe 2006) with the same variance in all directions: an object's looks
scatter around its own mean with variance `within`, and the objects' means around that of the clip with `between`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress, pairwise
from typing import NamedTuple

import numpy as np

from trackverse import class_scores, pairs
from trackverse.types import Bool, Float32, Float64, Int64, Track
from trackverse.vectors import TINY, blocks, let_go

# Share of the scatter of one object's looks that more looks don't average out, because light, pose and what stands
# before it change slowly: as much as the clip's tracks show from their first half to their second, but not less than
# this (0.1 is too sure of itself), and never more than that they have nothing in common.
LASTING, MAX_LASTING = 0.25, 2.0
# A track of fewer looks says little about the scatter within a track.
MIN_LOOKS = 3
# A look worth less of its frames shows what stands before the object, and says nothing about how its own looks scatter.
MIN_WEIGHT = 1 / 4
# Embeddings have length 1 and are rounded; nothing real looks more alike than this.
MIN_WITHIN = 1e-4
# What lies within this many looks of a change decides about it, so that what happened long before doesn't hide it. A
# power of 2.
CHANGE_WINDOW = 8
# Of the squared distances between objects. In crowds, the median does as well; in a street where some wear the same, it
# costs 0.4 HOTA.
BETWEEN_QUANTILE = 0.75
BATCH_FLOATS = 1 << 19  # of looks in one matrix, 2 MB: those of a hundred tracks of ten minutes take 200 MB


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
        same = _noise(self.within, self.lasting, num_a) + _noise(self.within, self.lasting, num_b)
        different = same + 2 * self.between
        ratio: Float64 = self.num_dims / 2 * (np.log(different / same) - distance2 * (1 / same - 1 / different))
        return ratio


# ---- looks of many tracks in one matrix


@dataclass(frozen=True)
class Looks:
    """The looks of N tracks: their `sums` (S, D), and the `weights` (S,) of the frames in these, 0 where a look isn't
    known, of which a whole look has `frames`. The n-th track's are the `counts[n]` from row `first[n]` on. Around each
    track lie `CHANGE_WINDOW` rows of zeros, so that nothing reaches from one into the next.
    """

    sums: Float32
    weights: Float32
    first: Int64
    counts: Int64
    frames: int

    @staticmethod
    def of(sums: Sequence[Float32], weights: Sequence[Float32], frames: int) -> Looks:
        """From those of each track, (S, D) and (S,); of one track at least."""
        counts = np.array([len(own) for own in sums])
        first = np.cumsum(counts + CHANGE_WINDOW) - counts
        num_rows = first[-1] + counts[-1] + CHANGE_WINDOW
        all_sums, all_weights = np.zeros((num_rows, sums[0].shape[1]), np.float32), np.zeros(num_rows, np.float32)
        track, place = pairs.end_to_end(counts)
        row = first[track] + place
        all_sums[row], all_weights[row] = np.concatenate(sums), np.concatenate(weights)
        length2 = np.vecdot(all_sums, all_sums)
        is_finite = np.isfinite(length2)
        if not is_finite.all():
            all_sums[~is_finite] = 0
        all_weights[~is_finite | (length2 == 0)] = 0
        return Looks(all_sums, all_weights, first, counts, frames)

    def across(self, before: Int64, after: Int64, model: LookModel) -> Float64:
        """Evidence (K,) that a track is one object from its looks up to the row `before` (K,) to those from the row
        `after` (K,) on, of which `CHANGE_WINDOW` on each side count; inf where one side isn't known.
        """
        means, nums = self._windows
        before = before - CHANGE_WINDOW
        num_a, num_b, distance2 = nums.take(before), nums.take(after), np.empty(len(before))
        for part in blocks(len(before), means.shape[1]):
            offset = means.take(before[part], axis=0) - means.take(after[part], axis=0)
            np.vecdot(offset, offset, out=distance2[part])
        with np.errstate(invalid="ignore", divide="ignore"):
            evidence = model.evidence(distance2, num_a, num_b)
        return np.where((num_a > 0) & (num_b > 0), evidence, np.inf)

    def changes(self, model: LookModel, min_evidence: float) -> list[tuple[int, int]]:
        """All (n, k): track n goes over to another object in its look k, by evidence of `min_evidence` at least. Look k
        belongs to neither side.
        """
        found: list[tuple[int, int]] = []
        looks, stretches = self, [(n, 0) for n in range(len(self.counts))]
        while stretches:
            sides, rows = [], []
            for m, k in looks._clearest_changes(model, min_evidence):
                (n, start), first, count = stretches[m], looks.first[m], looks.counts[m]
                found.append((n, start + k))
                # What lies before and after it is looked at on its own.
                sides += [(n, start), (n, start + k + 1)]
                rows += [slice(first, first + k), slice(first + k + 1, first + count)]
            stretches = sides
            if stretches:
                looks = Looks.of([looks.sums[own] for own in rows], [looks.weights[own] for own in rows], looks.frames)
        return found

    def in_plain_view(self) -> tuple[Int64, Int64, Float32]:
        """The tracks with `MIN_LOOKS` looks in plain view, how many of these each has, and all of them (M, D), as means
        over their frames, in turn.
        """
        track, place = pairs.end_to_end(self.counts)
        row = self.first[track] + place
        is_plain = self.weights[row] >= MIN_WEIGHT * self.frames
        counts = np.bincount(track[is_plain], minlength=len(self.counts))
        tracks = np.flatnonzero(counts >= MIN_LOOKS)
        row = row[is_plain & (counts[track] >= MIN_LOOKS)]
        means = self.sums.take(row, axis=0)
        means /= self.weights[row][:, None]
        return tracks, counts[tracks], means

    def _clearest_changes(self, model: LookModel, min_evidence: float) -> list[tuple[int, int]]:
        """As `changes`, but one of a track at most. One of less than four looks doesn't change."""
        long = np.flatnonzero(self.counts >= 4)
        if not len(long):
            return []
        counts = self.counts[long] - 2
        track, place = pairs.end_to_end(counts)
        row = self.first[long][track] + 1 + place
        evidence = self.across(row, row + 1, model)
        first = np.cumsum(counts) - counts
        changed = np.flatnonzero(np.minimum.reduceat(evidence, first) <= -min_evidence)
        return [(int(long[n]), 1 + int(evidence[first[n] : first[n] + counts[n]].argmin())) for n in changed]

    @cached_property
    def _windows(self) -> tuple[Float32, Float64]:
        """Of the `CHANGE_WINDOW` looks from each row on, as far as there are so many: the mean look, and how many whole
        looks in plain view it is of.
        """
        sums, weights, step = self.sums, self.weights, 1
        while step < CHANGE_WINDOW:
            sums, weights = sums[:-step] + sums[step:], weights[:-step] + weights[step:]
            step *= 2
        sums /= np.maximum(weights, TINY)[:, None]
        return sums, weights.astype(np.float64) / self.frames


def laid_out(tracks: Sequence[Track]) -> Iterator[tuple[int, Looks]]:
    """The looks of all tracks, those of some tracks at a time, with the number of the first of these tracks."""
    if not tracks:
        return
    num_rows = np.array([len(track.looks) + CHANGE_WINDOW for track in tracks])
    batch = np.cumsum(num_rows * tracks[0].looks.shape[1]) // BATCH_FLOATS
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(batch)) + 1).tolist(), len(tracks)]):
        own = tracks[start:stop]
        looks = Looks.of([track.looks for track in own], [track.look_weights for track in own], own[0].look_frames)
        let_go(own[0].looks)  # all are of one file
        yield start, looks


def totals(tracks: Sequence[Track]) -> tuple[Float32, Float64]:
    """The sums (N, D) of the tracks' known looks, and how many whole looks in plain view (N,) each is worth."""
    sums, nums = np.zeros((len(tracks), tracks[0].looks.shape[1]), np.float32), np.zeros(len(tracks))
    if not sums.shape[1]:
        return sums, nums
    for start, looks in laid_out(tracks):
        own, stop = slice(start, start + len(looks.counts)), looks.first + looks.counts
        sums[own] = _sums(looks.sums, looks.first, stop)
        nums[own] = np.add.reduceat(looks.weights, looks.first)
    frames = tracks[0].look_frames
    sums /= frames
    return sums, nums / frames


def _sums(rows: Float32, first: Int64, stop: Int64) -> Float32:
    """(N, ...): of the `rows` from `first` (N,) to before `stop` (N,). `np.add.reduceat` takes five times as long."""
    sums = np.empty((len(first), *rows.shape[1:]), np.float32)
    for n, (start, end) in enumerate(zip(first.tolist(), stop.tolist(), strict=True)):
        np.add.reduce(rows[start:end], axis=0, out=sums[n, ...])
    return sums


# ---- what they tell


class Told(NamedTuple):
    """What the looks of a track of class `label` tell: of `num_looks` in plain view, the `mean` (D,) and the `variance`
    around it, summed over all dimensions; `late2`: the squared length of what the offsets of the second half of them
    sum up to.
    """

    start_s: float
    end_s: float
    label: int
    num_looks: int
    mean: Float32
    variance: float
    late2: float


@dataclass(frozen=True)
class Scatter:
    """What each track tells, None if it has less than `MIN_LOOKS` looks in plain view; and the sum of the `products`
    (D, D) of all these looks' offsets from their track's mean.
    """

    told: list[Told | None]
    products: Float32

    @staticmethod
    def of(tracks: Sequence[Track]) -> Scatter:
        """Of one track at least. The looks need not be in memory together."""
        dim = tracks[0].looks.shape[1]
        long = [n for n, track in enumerate(tracks) if dim and len(track.looks) >= MIN_LOOKS]
        told: list[Told | None] = [None] * len(tracks)
        products = np.zeros((dim, dim), np.float32)
        for start, looks in laid_out([tracks[n] for n in long]):
            track, counts, offsets = looks.in_plain_view()
            stop = np.cumsum(counts)
            first = stop - counts
            means = _sums(offsets, first, stop) / counts.astype(np.float32)[:, None]
            offsets -= np.repeat(means, counts, axis=0)
            variances = np.add.reduceat(np.vecdot(offsets, offsets), first) / (counts - 1)
            late = _sums(offsets, first + counts // 2, stop)
            products += offsets.T @ offsets
            numbers = [long[start + n] for n in track.tolist()]
            columns = numbers, counts.tolist(), means, variances.tolist(), np.vecdot(late, late).tolist()
            for n, *own in zip(*columns, strict=True):
                told[n] = Told(tracks[n].times_s[0], tracks[n].times_s[-1], class_scores.label(tracks[n]), *own)
        return Scatter(told, products)

    @property
    def tells(self) -> Bool:
        """(N,)."""
        return np.array([told is not None for told in self.told])

    def after_cuts(self, is_cut: Bool, whole: Sequence[Track], parts: Scatter) -> Scatter:
        """When those of these tracks that `is_cut` (N,), which are the `whole` ones, have become the `parts`."""
        told = [*compress(self.told, ~is_cut), *parts.told]
        return Scatter(told, self.products - Scatter.of(whole).products + parts.products)


def fit(scatter: Scatter) -> LookModel | None:
    """The model of a clip; None if there is too little to tell. Medians and quantiles over tracks keep a few that mix
    two objects from counting.
    """
    told = sorted((one for one in scatter.told if one is not None), key=lambda one: one.start_s)
    if len(told) < 2:
        return None
    counts = np.array([one.num_looks for one in told])
    within = max(float(np.median([one.variance for one in told])), MIN_WITHIN)
    lasting = _lasting(np.array([one.late2 for one in told]), counts, within)
    means = np.array([one.mean for one in told])
    means -= means.mean(axis=0)  # what all have in common would cost their products digits
    # The square of two means' distance is the sum of two squares less twice a product, and what to expect of it a sum.
    parts = np.vecdot(means, means) - _noise(within, lasting, counts)
    # Those that begin while one is there follow it.
    later = np.arange(1, len(told) + 1)
    end = np.searchsorted([one.start_s for one in told], [one.end_s for one in told])
    together = (pair for pair in pairs.ranges(later, np.maximum(end, later)) if len(pair[0]))
    label = np.array([one.label for one in told])
    beyond2 = [(parts[i] + parts[j] - 2 * _products(means, i, j), label[i] == label[j]) for i, j in together]
    if not beyond2:
        return None
    of_pair, is_alike = map(np.concatenate, zip(*beyond2, strict=True))
    # How different objects of one class look, if there are any: a person and a car differ by far more.
    between = float(np.quantile(of_pair[is_alike] if is_alike.any() else of_pair, BETWEEN_QUANTILE)) / 2
    if between <= 0:
        return None  # the objects look alike: nothing to tell them apart by
    return LookModel(within, between, _num_dims(scatter.products), lasting)


def _products(rows: Float32, i: Int64, j: Int64) -> Float32:
    """(P,): of the rows `i` with the rows `j` (P,). Both lie in short stretches: one is multiplied with the other."""
    low_i, low_j = i.min(), j.min()
    products: Float32 = (rows[low_i : i.max() + 1] @ rows[low_j : j.max() + 1].T)[i - low_i, j - low_j]
    return products


def _num_dims(products: Float32) -> float:
    """Over how many dimensions offsets are spread, if evenly: (Σ λ)² / Σ λ² of their covariance's eigenvalues, of which
    `products` (D, D) is a multiple. 1 if there is no offset at all.
    """
    squares = float(np.vdot(products, products))
    return max(float(np.trace(products)) ** 2 / squares, 1.0) if squares > 0 else 1.0


def _noise(within: float, lasting: float, num: Float64 | Int64) -> Float64:
    """What the mean of so many looks of an object adds to the squared distance to be expected from another mean of its
    looks.
    """
    noise: Float64 = within * (lasting + max(1 - lasting, 0) / num)
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
