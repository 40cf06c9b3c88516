"""Which detections are near which tracks, and how much of each detection is in plain view."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trackverse import boxes
from trackverse.types import Float32, Float64, Int64

# A box of which this share lies behind another one still shows its own object; one with `CLEAR_MARGIN` more shows the
# other one. In between its looks count in part, and always `MIN_VIEW`, so that what is hidden all its life has some.
CLEAR_SHARE, CLEAR_MARGIN, MIN_VIEW, FULL_VIEW = (np.array(share, np.float32) for share in (0.4, 0.5, 0.05, 1.0))
# So much of a box lies in that of another class if it is a part of that object (a jersey), or on it (a dog on a sofa).
INSIDE_SHARE = np.array(0.9, np.float32)
CLEAR_VIEW = np.asarray((CLEAR_SHARE + CLEAR_MARGIN) / CLEAR_MARGIN)


class Near(NamedTuple):
    """Pairs of a track and a detection: `rows` (P,) of the live tracks, `columns` (P,) of the detections, and how much
    the boxes `overlap` (P,).
    """

    rows: Int64
    columns: Int64
    overlap: Float32


def overlapping(tracks: Float64, seen: Float32) -> Near:
    """The pairs of tracks, expected at `tracks` (N, 4), and detections, `seen` at (M, 4), that overlap."""
    num, columns = len(tracks), _measured(tracks, seen)
    i, j = boxes.near_pairs(columns[:4, :num].T, columns[:4, num:].T)
    overlap, _ = boxes.upright_iou(columns.take(i, axis=1), columns.take(j + num, axis=1))
    return Near(i, j, overlap)


def near_and_views(
    tracks: Float64, reached: Float64, seen: Float32, labels: Int64 | None = None
) -> tuple[Near, Float32]:
    """As `overlapping`, but all pairs in which the detection overlaps what the track may have `reached` (N, 4).

    And how much (M,) the looks of all detections say about themselves: 1 in plain view, next to nothing where another
    object stands before them, whose looks they have. `labels` (M,) are the detections' classes, None if there is one.
    """
    num, columns = len(tracks), _measured(tracks, seen)
    # What hides what is looked for in one go with that: many small steps are what takes the time. A box that hides
    # another one stands lower in the picture, so that it covers some of its lower edge.
    reaching = columns[:4].copy()
    reaching[:, :num] = reached.T
    reaching[1, num:] = reaching[3, num:]
    i, j = boxes.near_pairs(reaching.T, columns[:4, num:].T)
    one, other = columns.take(i, axis=1), columns.take(j + num, axis=1)
    overlap, common_area = boxes.upright_iou(one, other)
    split = int(i.searchsorted(num))
    pairs = Near(i[:split], j[:split], overlap[:split])
    if len(i) - split == len(seen):  # of detections, each is near itself alone
        return pairs, np.ones(len(seen), np.float32)
    hiding = common_area[split:] * (one[3, split:] < other[3, split:])
    if labels is not None:
        differ = labels.take(i[split:] - num) != labels.take(j[split:])
        hiding[differ & (hiding >= INSIDE_SHARE * one[4, split:])] = 0
    views = CLEAR_VIEW - boxes.hidden_share(columns[:, num:], i[split:] - num, hiding) / CLEAR_MARGIN
    return pairs, np.maximum(np.minimum(views, FULL_VIEW, out=views), MIN_VIEW, out=views)


def _measured(tracks: Float64, seen: Float32) -> Float32:
    """(6, N + M): all boxes as `boxes.measured` has them, the tracks' first."""
    columns = np.empty((6, len(tracks) + len(seen)), np.float32)
    np.concatenate([tracks.T, seen.T], axis=1, out=columns[:4], casting="same_kind")
    return boxes.measure(columns)
