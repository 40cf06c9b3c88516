"""How a camera pans, zooms and walks on, from the tracks of a clip alone.

Objects keep their speeds for seconds: where those of all change at once, the camera's did. Each speed that is seen is
taken for the sum of the camera's, at its place in the picture, and the object's own, all of them normally distributed.
So the most likely camera is the solution of one system of linear equations (best linear unbiased prediction, Henderson
1975), and whether there is one at all is asked of the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve_banded, cholesky_banded

from trackverse.in_common import LEAST
from trackverse.rows import Rows
from trackverse.ticks import usual_step_s
from trackverse.types import ROUNDING_S, Float64, Int64, Track

STEP_S = 0.4  # over which a speed is measured
MAX_STEPS = 20  # of a track that are compared with each other, 8 s; of made-up pans, 10 find three fifths
# Standard deviations of an object's own speeds, in heights a second, and of the logarithm of its height: of that which
# it keeps, where anything goes, so that a crowd's way is not the camera's; and of what lasts for `OWN_LASTS_S`. Their
# common size doesn't matter, it is each clip's own. Were all to die away within 2 s, two thirds of the gain are lost.
KEPT_STD, OWN_STD, OWN_LASTS_S = (3.0, 3.0, 1.0), (0.35, 0.35, 0.12), 2.0
PLACE_STD = 0.04  # heights by which a place, the mean over a step, is off, and the logarithm of the height
# What is tried of the camera: its shifts, in heights a second, and growth a second; and how long it keeps its speed.
# A finer grid, of 24, finds as much.
CAMERA_STDS = ((0.05, 0.06), (0.2, 0.06), (0.8, 0.06), (0.05, 0.2), (0.2, 0.2))
CAMERA_LASTS_S = 1.5
MIN_HEIGHT_PX = 1.0
MAX_GROWTH = math.log(2)  # of a height, in a step: more, and it is another object's
MIN_TOGETHER = 3  # objects that tell of a step: two may turn together
MIN_EVIDENCE = 6.0  # nats, that it moves; 1 does as well
MAX_ASIDE = 1e3  # heights from the middle of all places: beyond, numbers are too large to compute with


class _Steps(NamedTuple):
    """How far tracks went in S steps of time, of one track after the other: the `number` (S,) of the step, the `speed`
    (3, S) in px/s and of the logarithm of the height, the `place` (2, S) px and the `height` (S,) px; and from where on
    steps follow each other, `first` (R,), and how many, `length` (R,).
    """

    number: Int64
    speed: Float64
    place: Float64
    height: Float64
    first: Int64
    length: Int64


class _Runs(NamedTuple):
    """N runs of L steps in turn, as equations for the camera's 3 L speeds in them: the numbers of their `first` (N,)
    steps, matrices `normal` (N, 3 L, 3 L) and right-hand sides `right` (N, 3 L); and the sum of the `squares` of all
    speeds, in standard deviations of objects' own.
    """

    first: Int64
    normal: Float64
    right: Float64
    squares: float


def speeds(tracks: Sequence[Track], frame_times_s: Float64) -> tuple[Float64, Float64]:
    """How fast the camera makes the picture shift, to the right and down (px/s), and grow (1/s), in the frames at
    `frame_times_s` (F,), as (3, F), 0 where it stands still; and the place (2,) px that it grows about.
    """
    nothing = np.zeros((3, len(frame_times_s))), np.zeros(2)
    if len(frame_times_s) < 2:
        return nothing
    step_s = max(STEP_S, usual_step_s(frame_times_s))
    num_steps = int((frame_times_s[-1] - frame_times_s[0] + ROUNDING_S) / step_s)
    steps = _steps(tracks, frame_times_s[0], step_s)
    if num_steps < 2 or not len(steps.length):
        return nothing
    middle = np.median(steps.place, axis=1)
    camera = _most_likely(steps, middle, num_steps, step_s)
    camera[2] = np.clip(camera[2], -MAX_GROWTH / step_s, MAX_GROWTH / step_s)  # from boxes that make no sense
    times_s = frame_times_s[0] + step_s * np.arange(1, num_steps + 1)
    return np.stack([np.interp(frame_times_s, times_s, speed) for speed in camera]), middle


def _steps(tracks: Sequence[Track], start_s: float, step_s: float) -> _Steps:
    rows = Rows.of(tracks)
    track_of, edges = rows.owner, rows.xyxy.T.astype(np.float64)
    step = ((rows.times_s - start_s + ROUNDING_S) / step_s).astype(np.int64)
    begin = np.flatnonzero((np.diff(track_of, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 0))
    height = np.maximum(edges[3] - edges[1], MIN_HEIGHT_PX)
    columns = np.stack([rows.times_s, *(edges[:2] + edges[2:]) / 2, np.log(height)])
    means = np.add.reduceat(columns, begin, axis=1) / np.diff(np.append(begin, len(step)))
    track_of, step = track_of[begin], step[begin]
    goes_on = (np.diff(track_of) == 0) & (np.diff(step) == 1) & (np.abs(np.diff(means[3])) < MAX_GROWTH)
    row = np.flatnonzero(goes_on)
    row = row[np.bincount(step[row]).take(step[row]) >= MIN_TOGETHER]
    between, way = (means[:, row] + means[:, row + 1]) / 2, means[:, row + 1] - means[:, row]
    is_first = np.diff(row, prepend=-2) != 1
    place = np.arange(len(row)) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    first = np.flatnonzero(place % MAX_STEPS == 0)
    length = np.diff(np.append(first, len(row)))
    long = length > 1  # what was seen once tells no change
    return _Steps(step[row], way[1:] / way[0], between[1:3], np.exp(between[3]), first[long], length[long])


def _most_likely(steps: _Steps, middle: Float64, num_steps: int, step_s: float) -> Float64:
    """(3, K): the camera's speeds between K + 1 steps; 0 unless it is likelier by `MIN_EVIDENCE` that all objects have
    them in common than that each has such speeds of its own, or none.
    """
    runs = [_runs(steps, length, middle, step_s) for length in np.unique(steps.length).tolist()]
    band, right = _together(runs, num_steps)
    squares = max(sum(each.squares for each in runs), LEAST)
    # The speed that each run keeps all the time is none that is compared.
    num = 3 * int((steps.length - 1).sum())

    def log_likelihood(told: float, penalty: float) -> float:
        # However large a clip's speeds are: their variance is the one that makes them most likely.
        return float(-num / 2 * np.log(max(1 - told / squares, LEAST)) - penalty)

    height = float(np.median(steps.height))
    best, found, likeliest = MIN_EVIDENCE, np.zeros(3 * num_steps), np.ones(3)
    for shift_std, growth_std in CAMERA_STDS:
        stds = np.array([shift_std * height, shift_std * height, growth_std])
        factor = cholesky_banded(_with_prior(band, stds, step_s), lower=True)
        camera = cho_solve_banded((factor, True), right)
        penalty = np.log(factor[0]).sum() - _log_prior(stds, num_steps, step_s)
        evidence = log_likelihood(right @ camera, penalty)
        if evidence > best:
            best, found, likeliest = evidence, camera, stds
    if found.any():
        told, penalty = np.sum([_apart(each, likeliest, step_s) for each in runs], axis=0)
        if best - log_likelihood(told, penalty) < MIN_EVIDENCE:
            found = np.zeros(3 * num_steps)
    return found.reshape(num_steps, 3).T


def _together(runs: Sequence[_Runs], num_steps: int) -> tuple[Float64, Float64]:
    """The equations of all runs for the same K speeds, as a band (B, 3 K) below the diagonal, and their right-hand side
    (3 K,).
    """
    longest = max(each.right.shape[1] for each in runs)
    band, right = np.zeros((max(longest, 4), 3 * num_steps)), np.zeros(3 * num_steps)
    for each in runs:
        row, column = np.tril_indices(each.right.shape[1])
        at = 3 * each.first[:, None] + np.arange(each.right.shape[1])
        place = (row - column) * band.shape[1] + at[:, column]
        band += np.bincount(place.ravel(), each.normal[:, row, column].ravel(), band.size).reshape(band.shape)
        np.add.at(right, at, each.right)
    return band, right


def _apart(runs: _Runs, stds: Float64, step_s: float) -> tuple[float, float]:
    """What is told of the squares of runs if each has such speeds of its own; and what is less likely about that."""
    num, size = runs.right.shape
    band = _with_prior(np.zeros((4, size)), stds, step_s)
    beside = np.diag(band[3, :-3], -3)
    # The right-hand sides are a last row of the matrices, so that one factorisation solves them too.
    both = np.empty((num, size + 1, size + 1))
    both[:, :-1, :-1] = runs.normal
    both[:, :-1, :-1] += np.diag(band[0]) + beside + beside.T
    both[:, -1, :-1] = runs.right
    both[:, -1, -1] = 1 + runs.squares  # as large as it takes: more than all that they tell
    factors = np.linalg.cholesky(both)
    log_roots = np.log(np.diagonal(factors, axis1=1, axis2=2)[:, :-1]).sum()
    told = (factors[:, -1, :-1] ** 2).sum()
    return float(told), float(log_roots) - num * _log_prior(stds, size // 3, step_s)


def _with_prior(band: Float64, stds: Float64, step_s: float) -> Float64:
    """The band (B, 3 K) below the diagonal of equations, and what is known before anything is seen: speeds of standard
    deviations `stds` (3,) that are kept for a while (Ornstein-Uhlenbeck processes).
    """
    num_steps, kept = band.shape[1] // 3, np.exp(-step_s / CAMERA_LASTS_S)
    changes = 1 - kept**2
    own = np.full(num_steps, (1 + kept**2) / changes)
    own[[0, -1]] = 1 / changes
    both = band.copy()
    both[0] += np.outer(own, stds**-2).ravel()
    both[3, :-3] += np.tile(-kept / changes * stds**-2, num_steps - 1)
    return both


def _log_prior(stds: Float64, num_steps: int, step_s: float) -> float:
    """Half the logarithm of the determinant of what `_with_prior` adds."""
    changes = 1 - np.exp(-2 * step_s / CAMERA_LASTS_S)
    return float(-num_steps * np.log(stds).sum() - 1.5 * (num_steps - 1) * np.log(changes))


def _runs(steps: _Steps, length: int, middle: Float64, step_s: float) -> _Runs:
    """The equations that those runs of steps are whose length is L."""
    rows = steps.first[steps.length == length, None] + np.arange(length)
    num, height = len(rows), steps.height[rows]
    aside = np.clip((steps.place[:, rows] - middle[:, None, None]) / height, -MAX_ASIDE, MAX_ASIDE) * height
    precision = np.repeat(_precision(length, step_s)[None], num, axis=0)
    precision[:, :2] /= np.median(height, axis=1)[:, None, None, None] ** 2
    speed = steps.speed[:, rows].swapaxes(0, 1)
    told = (precision @ speed[..., None])[..., 0]
    right, normal = told.swapaxes(1, 2).copy(), np.zeros((num, length, 3, length, 3))
    for coordinate in range(3):
        normal[:, :, coordinate, :, coordinate] = precision[:, coordinate]
    for coordinate in range(2):  # growing shifts what is aside
        shift = precision[:, coordinate] * aside[coordinate, :, None]
        normal[:, :, coordinate, :, 2] = shift
        normal[:, :, 2, :, coordinate] = shift.swapaxes(1, 2)
        normal[:, :, 2, :, 2] += shift * aside[coordinate, :, :, None]
        right[:, :, 2] += aside[coordinate] * told[:, coordinate]
    first, size = steps.number[rows[:, 0]], 3 * length
    return _Runs(first, normal.reshape(num, size, size), right.reshape(num, size), float((speed * told).sum()))


def _precision(length: int, step_s: float) -> Float64:
    """(3, L, L): the inverse of the covariances of L speeds in turn of an object, in heights a second."""
    apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    noise = (PLACE_STD / step_s) ** 2 * (2.0 * (apart == 0) - (apart == 1))
    lasting = np.exp(-apart * step_s / OWN_LASTS_S)
    return np.linalg.inv([kept**2 + own**2 * lasting + noise for kept, own in zip(KEPT_STD, OWN_STD, strict=True)])
