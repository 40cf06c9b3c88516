"""Box arithmetic on (N, 4) arrays. In memory boxes are `xyxy` (left, top, right, bottom) in pixels, right and bottom
exclusive; on disk they are `tlwh` (left, top, width, height).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

PIXEL_LIMIT = 32000  # in 16 bits; what lies beyond is as near as that, which errs on the safe side

Boxes = TypeVar("Boxes", npt.NDArray[np.float32], npt.NDArray[np.float64])


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


def near_pairs(a: Boxes, b: Boxes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The pairs of (N, 4) and (M, 4) xyxy boxes that overlap, and a few that miss each other by a pixel or two: row
    numbers (P,) of `a`, rising, and (P,) of `b`.
    """
    # In whole pixels of 16 bits, all pairs are compared three times as fast.
    left, top, right, bottom = np.minimum(np.maximum(a.T, -PIXEL_LIMIT), PIXEL_LIMIT).astype(np.int16)
    other_left, other_top, other_right, other_bottom = np.minimum(np.maximum(b.T, -PIXEL_LIMIT), PIXEL_LIMIT).astype(
        np.int16
    )
    near = left[:, None] <= other_right
    near &= other_left <= right[:, None]
    near &= top[:, None] <= other_bottom
    near &= other_top <= bottom[:, None]
    # `nonzero` of a matrix takes twenty times as long, and `divmod` ten times.
    number = near.ravel().nonzero()[0]
    i = number // max(len(b), 1)
    return i, number - i * len(b)


def iou_of_pairs(a: Boxes, b: Boxes) -> Boxes:
    """IoU (N,) of the boxes in the same rows of (N, 4) and (N, 4) xyxy. Empty boxes score 0."""
    width, height = _common_size(a.T, b.T)
    overlap: Boxes = width * height
    union = area(a) + area(b) - overlap
    np.divide(overlap, union, out=overlap, where=union > 0)
    return overlap


def upright_iou_of_pairs(a: Boxes, i: npt.NDArray[np.int64], b: Boxes, j: npt.NDArray[np.int64]) -> Boxes:
    """IoU (P,) of the rows `i` (P,) of (N, 4) with the rows `j` (P,) of (M, 4) xyxy, times the square root of the share
    of their heights that the boxes have in common.

    Objects beside each other on the ground overlap sideways; how high they stand in the picture, and how tall they are,
    tells them apart (Hybrid-SORT: Yang et al. 2024). The root takes half as much off as theirs.
    """
    one, other = np.ascontiguousarray(a.T).take(i, axis=1), np.ascontiguousarray(b.T).take(j, axis=1)
    width, height = _common_size(one, other)
    score: Boxes = width * height
    union = area(a).take(i) + area(b).take(j) - score
    score /= np.maximum(union, np.finfo(union.dtype).tiny)
    height /= np.maximum(one[3], other[3]) - np.minimum(one[1], other[1])
    score *= np.sqrt(height)
    return score


def _common_size(a: Boxes, b: Boxes) -> Boxes:
    """Width and height (2, P) of what boxes (4, P) have in common; coordinates first, as numpy is slow at rows of 4."""
    size: Boxes = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    np.maximum(size, 0, out=size)
    return size


def hidden_share(xyxy: Boxes, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> Boxes:
    """How much (N,) of each of (N, 4) xyxy boxes lies behind another one: the largest share that one box covers which
    stands nearer, that is, lower in the picture. `i` and `j` (P,) are the pairs of them that may overlap.
    """
    share = np.zeros(len(xyxy), xyxy.dtype)
    columns = np.ascontiguousarray(xyxy.T)
    is_behind = (columns[3].take(i) < columns[3].take(j)).nonzero()[0]
    if len(is_behind):
        i, j = i.take(is_behind), j.take(is_behind)
        width, height = _common_size(columns.take(i, axis=1), columns.take(j, axis=1))
        np.maximum.at(share, i, width * height)
        share /= np.maximum(area(xyxy), np.finfo(xyxy.dtype).tiny)
    return share


def clip_to_frame(xyxy: Boxes, frame_hw: tuple[int, int]) -> Boxes:
    """(N, 4) xyxy boxes cut to a frame of `frame_hw` px."""
    height, width = frame_hw
    limit = np.array([width, height, width, height], dtype=xyxy.dtype)
    return np.clip(xyxy, 0, limit)


def nms(xyxy: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], max_iou: float) -> npt.NDArray[np.int64]:
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
