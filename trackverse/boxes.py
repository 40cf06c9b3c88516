"""Box arithmetic on (N, 4) arrays. In memory boxes are `xyxy` (left, top, right, bottom) in pixels, right and bottom
exclusive; on disk they are `tlwh` (left, top, width, height).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

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
    size = np.maximum(xyxy[..., 2:] - xyxy[..., :2], 0)
    product: Boxes = size[..., 0] * size[..., 1]
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


def upright_iou(a: Boxes, b: Boxes) -> Boxes:
    """As `iou`, times the square root of the share of their heights that the boxes have in common, as (N, M).

    Objects beside each other on the ground overlap sideways; how high they stand in the picture, and how tall they are,
    tells them apart (Hybrid-SORT: Yang et al. 2024). The root takes half as much off as theirs.
    """
    overlap = iou(a, b)
    # Few pairs overlap: only those are looked at again. (`nonzero` of truth values is far quicker than of numbers.)
    i, j = np.divmod((overlap > 0).ravel().nonzero()[0], max(len(b), 1))
    common = np.minimum(a[i, 3], b[j, 3]) - np.maximum(a[i, 1], b[j, 1])
    both = np.maximum(a[i, 3], b[j, 3]) - np.minimum(a[i, 1], b[j, 1])
    overlap[i, j] *= np.sqrt(common / both)
    return overlap


def iou_of_pairs(a: Boxes, b: Boxes) -> Boxes:
    """IoU (N,) of the boxes in the same rows of (N, 4) and (N, 4) xyxy. Empty boxes score 0."""
    overlap = area(np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], axis=-1))
    union = area(a) + area(b) - overlap
    score: Boxes = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return score


def hidden_share(xyxy: Boxes) -> Boxes:
    """How much (N,) of each of (N, 4) xyxy boxes lies behind another one: the largest share that one box covers which
    stands nearer, that is, lower in the picture.
    """
    # Pairs that overlap sideways, by a sweep from left to right: a matrix of all pairs takes several times as long.
    order = np.argsort(xyxy[:, 0])
    left, top, right, bottom = np.ascontiguousarray(xyxy[order].T)
    number = np.arange(len(order))
    num_beside = np.maximum(np.searchsorted(left, right) - number - 1, 0)
    i = np.repeat(number, num_beside)
    j = np.arange(len(i)) - np.repeat(np.cumsum(num_beside) - num_beside - number - 1, num_beside)
    width = np.minimum(right[i], right[j]) - left[j]
    height = np.minimum(bottom[i], bottom[j]) - np.maximum(top[i], top[j])
    behind = np.where(bottom[i] < bottom[j], i, j)
    width[bottom[i] == bottom[j]] = 0
    share = np.zeros_like(xyxy[:, 0])
    np.maximum.at(share, order[behind], width * np.maximum(height, 0))
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
