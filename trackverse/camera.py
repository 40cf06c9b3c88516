"""How the camera moves from frame to frame, by sparse optical flow on what stands still."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from trackverse.boxes import STANDING_STILL
from trackverse.types import Float32, Float64, UInt8

# The best corner of every cell is followed, so many cells along the frame's longer side: of the best corners of all, a
# caption has most. 12 and 24 find a motion as well, to a twentieth of a pixel; 24 take twice as long.
NUM_CELLS = 16
CORNER_PX = 3  # in what square a corner is one, as in OpenCV's own examples
MIN_CORNER_QUALITY = 1e-3  # of the best corner's: those of a caption are a hundred times as good as the picture's
# A motion that fewer corners, or a smaller share of them, agree on may be a large object's.
MIN_INLIERS, MIN_INLIER_SHARE = 12, 0.4
MAX_SCALE = 2.0  # from a frame to the next, and its inverse: what looks like more is another picture


class CameraMotion:
    """Called on each frame of a clip in turn; remembers the last one."""

    def __init__(self) -> None:
        self._last: UInt8 | None = None
        self._corners: Float32 = np.zeros((0, 2), np.float32)

    def __call__(self, image: UInt8, xyxy: Float32) -> Float64:
        """How the picture moved since the last frame: (2, 3) turn, scale and shift, x' = A x + b in px of `image`.

        `image` (H, W, 3) uint8 RGB; `xyxy` (N, 4) its objects, which move by themselves and are not looked at in the
        next frame. Standing still for the first frame, and where too little is seen to tell.
        """
        grey: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        motion = STANDING_STILL
        if self._last is not None and self._last.shape == grey.shape:
            motion = _motion(self._last, grey, self._corners)
        self._last, self._corners = grey, _corners(grey, xyxy)
        return motion


def scaled(motion: Float64, scale: Float64) -> Float64:
    """A motion in px of another picture size: `scale` (2,) times as wide and high."""
    turn = motion[:, :2] * scale[:, None] / scale
    return np.column_stack([turn, motion[:, 2] * scale])


def _corners(grey: UInt8, xyxy: Float32) -> Float32:
    """(K, 2) corners outside the objects' boxes, good to follow, and spread over the picture."""
    quality: Any = cv2.cornerMinEigenVal(grey, CORNER_PX)
    for left, top, right, bottom in np.clip(xyxy, 0, None).astype(int):
        quality[top : bottom + 1, left : right + 1] = 0
    side = max(max(grey.shape) // NUM_CELLS, 1)
    rows, columns = (length // side for length in grey.shape)
    cells = quality[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
    cells = cells.reshape(rows * columns, side * side)
    best, at = cells.max(axis=1), cells.argmax(axis=1)
    good = np.flatnonzero((best > 0) & (best >= MIN_CORNER_QUALITY * best.max(initial=0)))
    places = np.stack([good % columns * side + at[good] % side, good // columns * side + at[good] // side], axis=1)
    return places.astype(np.float32)


def _motion(last: UInt8, grey: UInt8, corners: Float32) -> Float64:
    """The turn, scale and shift that most corners (K, 2) of the last frame share."""
    if len(corners) < MIN_INLIERS:
        return STANDING_STILL
    there, is_found, _ = cv2.calcOpticalFlowPyrLK(last, grey, corners, None)  # type: ignore[call-overload]
    is_found = is_found.ravel().astype(bool)
    return fitted(corners[is_found], there[is_found])


def fitted(points: Float32, there: Float32) -> Float64:
    """(2, 3) the turn, scale and shift that most of (K, 2) points share on their way; standing still if too few do."""
    if len(points) < MIN_INLIERS:
        return STANDING_STILL
    # RANSAC's default of 3 px would take slow objects for background.
    motion: Any
    motion, inliers = cv2.estimateAffinePartial2D(points, there, method=cv2.RANSAC, ransacReprojThreshold=1.0)
    if motion is None or inliers.sum() < max(MIN_INLIERS, MIN_INLIER_SHARE * len(points)):
        return STANDING_STILL
    found: Float64 = motion
    is_likely = MAX_SCALE**-2 < np.linalg.det(found[:, :2]) < MAX_SCALE**2
    return found if is_likely else STANDING_STILL
