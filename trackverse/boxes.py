"""Box arithmetic on (N, 4) arrays. In memory boxes are `xyxy` (left, top, right, bottom) in pixels, right and bottom
exclusive; on disk they are `tlwh` (left, top, width, height).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from trackverse.pairs import end_to_end, in_reach, whole_pixels
from trackverse.types import Float32, Float64, Int64

MANY_PAIRS = 1000  # are compared faster in whole pixels
NOTHING = np.array(0, np.float32)  # numpy takes longer to make an array of a number than to compute with it
STANDING_STILL = np.eye(2, 3)  # a picture's motion (see `moved`) that is none

Boxes = TypeVar("Boxes", Float32, Float64)


def xyxy_to_tlwh(xyxy: Boxes) -> Boxes:
    """(..., 4) xyxy as tlwh."""
    tlwh = xyxy.copy()
    tlwh[..., 2:] -= xyxy[..., :2]
    return tlwh


def tlwh_to_xyxy(tlwh: Boxes) -> Boxes:
    """(..., 4) tlwh as xyxy."""
    xyxy = tlwh.copy()
    xyxy[..., 2:] += tlwh[..., :2]
    return xyxy


def area(xyxy: Boxes) -> Boxes:
    """(...,) px² of (..., 4) xyxy boxes; 0 for empty and reversed ones."""
    width, height = xyxy[..., 2] - xyxy[..., 0], xyxy[..., 3] - xyxy[..., 1]
    product: Boxes = np.maximum(width, 0) * np.maximum(height, 0)
    return product


def iou(a: Boxes, b: Boxes) -> Boxes:
    """Pairwise IoU of (N, 4) and (M, 4) xyxy boxes, as (N, M). Empty boxes score 0."""
    # Coordinate by coordinate and in place: with 200 boxes, new matrices of pairs are what takes the time.
    left, top, right, bottom = np.ascontiguousarray(a.T)[:, :, None]
    other_left, other_top, other_right, other_bottom = np.ascontiguousarray(b.T)
    width = np.minimum(right, other_right)
    width -= np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom)
    height -= np.maximum(top, other_top)
    nothing = np.zeros_like(width)  # comparing with a matrix is three times as fast as with a number
    overlap: Boxes = np.maximum(width, nothing, out=width)
    overlap *= np.maximum(height, nothing, out=height)
    union = area(a)[:, None] + area(b)
    union -= overlap
    np.divide(overlap, union, out=overlap, where=union > 0)
    return overlap


def near_pairs(a: Boxes, b: Boxes) -> tuple[Int64, Int64]:
    """The pairs of (N, 4) and (M, 4) xyxy boxes that overlap, and a few that miss each other by a pixel or two: row
    numbers (P,) of `a`, rising, and (P,) of `b`.
    """
    is_many = len(a) * len(b) > MANY_PAIRS
    one, other = (whole_pixels(a.T), whole_pixels(b.T)) if is_many else (a.T, b.T)
    is_near = one[:2, :, None] <= other[2:, None]  # sideways, and upwards
    is_near &= other[:2, None] <= one[2:, :, None]
    # `nonzero` of a matrix takes twenty times as long, and `divmod` ten times.
    number = (is_near[0] & is_near[1]).ravel().nonzero()[0]
    width = np.array(max(len(b), 1))
    i = number // width
    return i, number - i * width


def near_pairs_of_groups(a: Boxes, group_a: Int64, b: Boxes, group_b: Int64, num_groups: int) -> tuple[Int64, Int64]:
    """As `near_pairs`, of boxes in the same group: `group_a` (N,), `group_b` (M,)."""
    if num_groups == 1:
        return near_pairs(a, b)
    one, other = whole_pixels(a.T), whole_pixels(b.T)
    by_left, first, end = in_reach(one[0], one[2], group_a, other[0], other[2], group_b)
    other = other.take(by_left, axis=1)
    i, place = end_to_end(end - first)
    j = first.take(i) + place
    is_near = one[0].take(i) <= other[2].take(j)
    is_near &= one[1].take(i) <= other[3].take(j)
    is_near &= other[1].take(j) <= one[3].take(i)
    near = is_near.nonzero()[0]
    return i.take(near), by_left.take(j.take(near))


def iou_of_pairs(a: Boxes, b: Boxes) -> Boxes:
    """IoU (N,) of the boxes in the same rows of (N, 4) and (N, 4) xyxy. Empty boxes score 0."""
    overlap = common_area(a.T, b.T)
    union = area(a) + area(b) - overlap
    np.divide(overlap, union, out=overlap, where=union > 0)
    return overlap


def measured(edges: Boxes) -> Boxes:
    """(6, N): the edges (4, N) of boxes, their areas and their heights. Coordinates first, as numpy is slow at rows of
    four.
    """
    columns: Boxes = np.empty((6, edges.shape[1]), edges.dtype)
    columns[:4] = edges
    return measure(columns)


def measure(columns: Boxes) -> Boxes:
    """As `measured`, written into the two rows that are left for it."""
    size = np.subtract(columns[2:4], columns[:2], out=columns[4:])
    np.multiply(size[0], size[1], out=size[0])
    return columns


def upright_iou(one: Boxes, other: Boxes) -> tuple[Boxes, Boxes]:
    """Of pairs of `measured` boxes (6, P) that aren't empty: IoU (P,) times the square root of the share of their
    heights that the boxes have in common, and the area (P,) that they have in common.

    Objects beside each other on the ground overlap sideways; how high they stand in the picture, and how tall they are,
    tells them apart (Hybrid-SORT: Yang et al. 2024). The root takes half as much off as theirs.
    """
    common = np.minimum(one[2:4], other[2:4])
    common -= np.maximum(one[:2], other[:2])
    union, height = one[4:] + other[4:]  # of both together, less what they have in common
    height -= common[1]  # and the gap between them
    np.maximum(common, NOTHING, out=common)
    overlap: Boxes = common[0] * common[1]
    union -= overlap
    score: Boxes = np.divide(common[1], height, out=height)
    np.sqrt(score, out=score)
    score *= overlap
    score /= union
    return score, overlap


def common_area(a: Boxes, b: Boxes) -> Boxes:
    """(P,) px² that boxes (4, P) have in common; coordinates first, as numpy is slow at rows of four."""
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    np.maximum(size, 0, out=size)
    product: Boxes = size[0] * size[1]
    return product


def hidden_share(columns: Boxes, i: Int64, overlap: Boxes) -> Boxes:
    """How much (N,) of each of N `measured` boxes (6, N) lies behind another one: the largest share that one covers.
    `i` (P,) are the boxes that lie behind one, `overlap` (P,) the px² that they have in common with it.
    """
    share: Boxes = np.zeros(columns.shape[1], columns.dtype)
    np.maximum.at(share, i, overlap)
    share /= columns[4]
    return share


def clip_to_frame(xyxy: Boxes, frame_hw: tuple[int, int]) -> Boxes:
    """(N, 4) xyxy boxes cut to a frame of `frame_hw` px."""
    height, width = frame_hw
    limit = np.array([width, height, width, height], dtype=xyxy.dtype)
    return np.clip(xyxy, 0, limit)


def moved(xyxy: Boxes, motion: Float64) -> Boxes:
    """(N, 4) xyxy boxes, moved as a picture that turns, scales and shifts, x' = A x + b in px: `motion` (2, 3), or for
    each its own (N, 2, 3). Centres go along, and sizes by the scale: upright boxes stay upright when the picture turns.
    """
    turn, shift = motion[..., :2], motion[..., 2]
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    half = np.sqrt(abs(np.linalg.det(turn)))[..., None] * (xyxy[:, 2:] - xyxy[:, :2]) / 2
    centre = (turn @ centre[:, :, None])[:, :, 0] + shift
    return np.concatenate([centre - half, centre + half], axis=1, dtype=xyxy.dtype, casting="same_kind")


def nms(xyxy: Float32, scores: Float32, max_iou: float) -> Int64:
    """Row numbers that greedy non-maximum suppression keeps, best score first (ties: lower row first).

    `xyxy` (N, 4), `scores` (N,). A box goes when its IoU with a better kept one is above `max_iou`.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps = iou(xyxy[order], xyxy[order])
    alive = np.ones(len(order), dtype=bool)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= overlaps[row, row + 1 :] <= max_iou
    return order[alive]
