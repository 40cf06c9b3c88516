"""Box arithmetic on (N, 4) arrays. In memory boxes are `xyxy` (left, top, right, bottom) in pixels, right and bottom
exclusive; on disk they are `tlwh` (left, top, width, height); the Kalman filter speaks `xyah` (centre x, centre y,
width / height, height).
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


def xyxy_to_xyah(xyxy: Boxes) -> Boxes:
    """(..., 4) xyxy as xyah. Boxes must have a height."""
    size = xyxy[..., 2:] - xyxy[..., :2]
    xyah = np.empty_like(xyxy)
    xyah[..., :2] = xyxy[..., :2] + size / 2
    xyah[..., 2] = size[..., 0] / size[..., 1]
    xyah[..., 3] = size[..., 1]
    return xyah


def xyah_to_xyxy(xyah: Boxes) -> Boxes:
    """(..., 4) xyah as xyxy."""
    half = np.stack([xyah[..., 2] * xyah[..., 3], xyah[..., 3]], axis=-1) / 2
    return np.concatenate([xyah[..., :2] - half, xyah[..., :2] + half], axis=-1)


def area(xyxy: Boxes) -> Boxes:
    """(...,) px² of (..., 4) xyxy boxes; 0 for empty and reversed ones."""
    size = np.maximum(xyxy[..., 2:] - xyxy[..., :2], 0)
    product: Boxes = size[..., 0] * size[..., 1]
    return product


def iou(a: Boxes, b: Boxes) -> Boxes:
    """Pairwise IoU of (N, 4) and (M, 4) xyxy boxes, as (N, M). Empty boxes score 0."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    size = np.maximum(right_bottom - left_top, 0)
    overlap = size[..., 0] * size[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - overlap
    score: Boxes = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return score


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
