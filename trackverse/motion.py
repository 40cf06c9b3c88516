"""Could the object that went out of sight here be the one that came into sight there? By place, speed and size.

A straight line through the last (or first) half second of a track, fitted with a prior on the speed, says where its
object was and how surely. Two tracks are extrapolated into the middle of the gap between them; the speed dies away on
the way, since nobody walks straight on for long. Lengths are in heights of the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trackverse.types import ROUNDING_S, Float32, Float64, Int64

FIT_S = 0.5  # what of a track's end its speed is measured on
MIN_BOX_STD = 0.05  # heights by which a detected box is off at least (ByteTrack's measurement noise)
SPEED_STD = 1.0  # heights a second, of objects in general: a person of 1.7 m walks at 0.8, runs at 2
SPEED_LASTS_S = 2.0  # in which a speed falls to 1/e of itself; 1 finds a little less
DRIFT = 0.3  # heights by which the place is less sure after each second out of sight; 0.2 does as well, 0.5 less so
SIZE_STD, SIZE_DRIFT = 0.1, 0.1  # of the logarithm of the height: as measured, and after a second
# However few objects there are and however alike, another one would come anywhere within so many heights, and of a size
# that differs by a third.
MIN_SPREAD, MIN_SIZE_STD = 4.0, 0.3
MEDIAN_ERROR = 0.6745  # of a normal distribution's absolute values, in standard deviations
RETURN_RATE = 0.1  # nats a second: the longer an object is gone, the less likely it is to come back


@dataclass(frozen=True)
class Ends:
    """One end of each of N tracks: centre `xy` (2, N) px, `velocity` (2, N) px/s, `height` (N,) px, and the fit's
    variances of place and speed and their covariance, `spread` (3, N), in heights².
    """

    xy: Float32
    velocity: Float32
    height: Float32
    spread: Float32

    def take(self, numbers: Int64) -> Ends:
        """The ends of the tracks of these numbers (K,)."""
        return Ends(*(column.take(numbers, axis=-1) for column in self._columns))

    def put(self, numbers: Int64, ends: Ends) -> None:
        """The tracks of these numbers (K,) have the other `ends`, of K tracks, from now on."""
        for ours, theirs in zip(self._columns, ends._columns, strict=True):
            ours[..., numbers] = theirs

    @property
    def _columns(self) -> tuple[Float32, Float32, Float32, Float32]:
        return self.xy, self.velocity, self.height, self.spread


def fit_ends(times_s: Float64, xyxy: Float64, first: Int64, box_std: float, *, head: bool) -> Ends:
    """The heads or the tails of N tracks whose frames follow each other in `times_s` (T,) and `xyxy` (T, 4), the n-th
    from row `first[n]` on. `box_std`: see `Scene`.
    """
    lengths = np.diff(np.append(first, len(times_s)))
    end = first if head else first + lengths - 1
    since = np.abs(times_s - np.repeat(times_s[end], lengths))  # s from the end, into the track
    near = (since <= FIT_S).nonzero()[0]
    since, edges = since.take(near), xyxy.take(near, axis=0).T
    centre = (edges[:2] + edges[2:]) / 2
    columns = [np.ones(len(near)), since, since**2, edges[3] - edges[1], *centre, *(since * centre)]
    num, s1, s2, height, *moments = np.add.reduceat(np.stack(columns), np.searchsorted(near, first), axis=1)
    s2 = s2 + (box_std / SPEED_STD) ** 2
    determinant = num * s2 - s1**2
    place, slope = np.stack(moments[:2]), np.stack(moments[2:])
    xy = (s2 * place - s1 * slope) / determinant
    inward = (num * slope - s1 * place) / determinant  # speed, into the track
    spread = np.stack([s2, num, -s1]) / determinant * box_std**2
    fit = (xy, inward if head else -inward, height / num, spread)
    return Ends(*(column.astype(np.float32) for column in fit))


@dataclass(frozen=True)
class Scene:
    """What is to be expected of any two objects: the `area` (px²) that they are spread over, the standard deviation of
    the logarithms of their heights, and that of how far their boxes are off, in heights.
    """

    area: float
    size_std: float
    box_std: float

    @staticmethod
    def of(times_s: Float64, xyxy: Float64, first: Int64) -> Scene:
        """From the tracks of a clip, as `fit_ends` takes them; outliers don't count."""
        edges = np.ascontiguousarray(xyxy.T)  # coordinates first, as numpy is slow at rows of four
        centre, height = (edges[:2] + edges[2:]) / 2, edges[3] - edges[1]
        low, high = np.percentile(centre, (2, 98), axis=1)
        sides = np.maximum(high - low, MIN_SPREAD * np.median(height))
        size_std = max(float(np.log(height).std()), MIN_SIZE_STD)
        return Scene(float(sides[0] * sides[1]), size_std, max(_jitter(times_s, centre, height, first), MIN_BOX_STD))


def _jitter(times_s: Float64, centre: Float64, height: Float64, first: Int64) -> float:
    """How far boxes at `centre` (2, T), of this `height` (T,), are off, in heights, where they jitter more: sideways or
    upwards. Three boxes of an object in turn lie on a straight line but for that, each of them with its own error, the
    middle one's twice.
    """
    step_s = np.diff(times_s)
    step_s[first[1:] - 1] = np.nan  # into the next track
    in_turn = (np.abs(step_s[1:] - step_s[:-1]) < ROUNDING_S).nonzero()[0]
    if not len(in_turn):
        return 0.0
    bend = np.abs(centre[:, 2:] - 2 * centre[:, 1:-1] + centre[:, :-2]) / height[1:-1]
    bend = bend.take(in_turn, axis=1)
    return float(np.median(bend, axis=1).max() / MEDIAN_ERROR / np.sqrt(6))


def evidence(tails: Ends, heads: Ends, gap_s: Float32, scene: Scene) -> Float32:
    """Log likelihood ratio (N, M) of one object to two: that each of N tails goes on in each of M heads, `gap_s` (N, M)
    later.
    """
    way_s = SPEED_LASTS_S * (1 - np.exp(gap_s / (-2 * SPEED_LASTS_S)))  # to the middle of the gap, at the first speed
    height2 = tails.height[:, None] * heads.height
    meeting = way_s * (tails.velocity[:, :, None] + heads.velocity[:, None])
    meeting += tails.xy[:, :, None] - heads.xy[:, None]
    offset2 = (meeting**2).sum(axis=0) / height2
    # Place and speed are measured into the track, and extrapolated out of it: hence the minus.
    place_var, speed_var, covariance = tails.spread[:, :, None] + heads.spread[:, None]
    variance = (DRIFT * gap_s) ** 2 + place_var - 2 * way_s * covariance + way_s**2 * speed_var
    anywhere = scene.area / (2 * np.pi) / height2
    variance = np.minimum(variance, anywhere)
    place = np.log(anywhere / variance) - offset2 / 2 * (1 / variance - 1 / anywhere)
    size_variance = np.minimum(SIZE_STD**2 + SIZE_DRIFT**2 * gap_s, scene.size_std**2)
    growth2 = (np.log(heads.height) - np.log(tails.height)[:, None]) ** 2
    size = np.log(scene.size_std**2 / size_variance) / 2 - growth2 / 2 * (1 / size_variance - 1 / scene.size_std**2)
    ratio: Float32 = place + size - RETURN_RATE * gap_s
    return ratio
