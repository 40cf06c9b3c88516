"""How the camera moves from frame to frame, by sparse optical flow on what stands still."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from trackverse.types import Float32, Float64, UInt8

# Corners on a grid of a frame this wide find a motion to a fraction of a pixel; more cost time and add nothing.
MAX_CORNERS = 400
MIN_CORNER_QUALITY = 0.01  # of the best corner's, as in OpenCV's own examples of Lucas-Kanade flow
MIN_CORNER_DISTANCE = 1 / 80  # of the frame's width
# A motion that fewer corners, or a smaller share of them, agree on may be a large object's.
MIN_INLIERS, MIN_INLIER_SHARE = 12, 0.4
STANDING_STILL = np.eye(2, 3)


class CameraMotion:
    """Called on each frame of a clip in turn; remembers the last one."""

    def __init__(self) -> None:
        self._last: UInt8 | None = None
        self._corners: Float32 | None = None

    def __call__(self, image: UInt8, xyxy: Float32) -> Float64:
        """How the picture moved since the last frame: (2, 3) turn, scale and shift, x' = A x + b in px of `image`.

        `image` (H, W, 3) uint8 RGB; `xyxy` (N, 4) its objects, which move by themselves and are not looked at in the
        next frame. Standing still for the first frame, and where too little is seen to tell.
        """
        grey: Any = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        motion = STANDING_STILL
        if self._last is not None and self._corners is not None and self._last.shape == grey.shape:
            motion = _motion(self._last, grey, self._corners)
        self._last, self._corners = grey, _corners(grey, xyxy)
        return motion


def scaled(motion: Float64, scale: Float64) -> Float64:
    """A motion in px of another picture size: `scale` (2,) times as wide and high."""
    turn = motion[:, :2] * scale[:, None] / scale
    return np.column_stack([turn, motion[:, 2] * scale])


def _corners(grey: UInt8, xyxy: Float32) -> Float32 | None:
    """Corners (K, 1, 2) outside the objects' boxes, good to follow; None if there are none."""
    background = np.full_like(grey, 255)
    for left, top, right, bottom in np.clip(xyxy, 0, None).astype(int):
        background[top : bottom + 1, left : right + 1] = 0
    found: Any = cv2.goodFeaturesToTrack(
        grey, MAX_CORNERS, MIN_CORNER_QUALITY, MIN_CORNER_DISTANCE * grey.shape[1], mask=background
    )
    corners: Float32 | None = found
    return corners


def _motion(last: UInt8, grey: UInt8, corners: Float32) -> Float64:
    """The turn, scale and shift that most corners of the last frame share."""
    there, is_found, _ = cv2.calcOpticalFlowPyrLK(last, grey, corners, None)  # type: ignore[call-overload]
    is_found = is_found.ravel().astype(bool)
    return fitted(corners[is_found, 0], there[is_found, 0])


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
    return found
