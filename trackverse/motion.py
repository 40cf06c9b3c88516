"""Could the object that went out of sight here be the one that came into sight there? By place, speed and size.

A straight line through the last (or first) half second of a track, fitted with a prior on the speed, says where its
object was and how surely. Two tracks are extrapolated into the middle of the gap between them; the speed dies away on
the way, since nobody walks straight on for long. Lengths are in heights of the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trackverse.types import Float32, Float64, Int64

FIT_S = 0.5  # what of a track's end its speed is measured on
BOX_STD = 0.05  # heights by which a detected box is off (ByteTrack's measurement noise)
SPEED_STD = 1.0  # heights a second, of objects in general: a person of 1.7 m walks at 0.8, runs at 2
SPEED_LASTS_S = 2.0  # in which a speed falls to 1/e of itself; 1 finds a little less
DRIFT = 0.3  # heights by which the place is less sure after each second out of sight; 0.2 does as well, 0.5 less so
SIZE_STD, SIZE_DRIFT = 0.1, 0.1  # of the logarithm of the height: as measured, and after a second
# However few objects there are and however alike, another one would come anywhere within so many heights, and of a size
# that differs by a third.
MIN_SPREAD, MIN_SIZE_STD = 4.0, 0.3
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


def fit_ends(times_s: Float64, xyxy: Float64, first: Int64, *, head: bool) -> Ends:
    """The heads or the tails of N tracks whose frames follow each other in `times_s` (T,) and `xyxy` (T, 4), the n-th
    from row `first[n]` on.
    """
    lengths = np.diff(np.append(first, len(times_s)))
    end = first if head else first + lengths - 1
    since = np.abs(times_s - np.repeat(times_s[end], lengths))  # s from the end, into the track
    near = (since <= FIT_S).nonzero()[0]
    since, edges = since.take(near), xyxy.take(near, axis=0).T
    centre = (edges[:2] + edges[2:]) / 2
    columns = [np.ones(len(near)), since, since**2, edges[3] - edges[1], *centre, *(since * centre)]
    num, s1, s2, height, *moments = np.add.reduceat(np.stack(columns), np.searchsorted(near, first), axis=1)
    s2 = s2 + (BOX_STD / SPEED_STD) ** 2
    determinant = num * s2 - s1**2
    place, slope = np.stack(moments[:2]), np.stack(moments[2:])
    xy = (s2 * place - s1 * slope) / determinant
    inward = (num * slope - s1 * place) / determinant  # speed, into the track
    spread = np.stack([s2, num, -s1]) / determinant * BOX_STD**2
    fit = (xy, inward if head else -inward, height / num, spread)
    return Ends(*(column.astype(np.float32) for column in fit))


@dataclass(frozen=True)
class Scene:
    """What is to be expected of any two objects: the `area` (px²) that they are spread over, and the standard deviation
    of the logarithms of their heights.
    """

    area: float
    size_std: float

    @staticmethod
    def of(xyxy: Float64) -> Scene:
        """From all boxes (T, 4) of a clip; outliers don't count."""
        height = xyxy[:, 3] - xyxy[:, 1]
        low, high = np.percentile((xyxy[:, :2] + xyxy[:, 2:]) / 2, (2, 98), axis=0)
        sides = np.maximum(high - low, MIN_SPREAD * np.median(height))
        return Scene(float(sides[0] * sides[1]), max(float(np.log(height).std()), MIN_SIZE_STD))


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
