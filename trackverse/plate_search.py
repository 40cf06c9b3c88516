"""Where in the picture of a vehicle a licence plate may be, without a network.

Letters are upright strokes: an edge from dark to light and one back, again and again along a line. Windows of all sizes
that a plate can have are scored by how strong such pairs are in their poorest third, less what is above and below, and
the best are marked until a share of the picture is used up. Grilles, wheels and lettering look like that, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from trackverse.types import Bool, Float64, Int64, UInt8

# Heights of plates, of the vehicle's: lorries have the lowest, small cars with two lines the highest.
_HEIGHTS = (0.035, 0.05, 0.07, 0.1)
# Width by height: 520 x 110 mm as it is and turned away from us, 12 x 6 inches, and that turned away.
_ASPECTS = (4.5, 3.0, 1.9, 1.2)
_MARGIN = 0.6  # of a plate's height: tilted ones and ends that the window missed
_WORK_PX = 256  # vehicles are shrunk to this height to be searched
_NUM_SEGMENTS = 3  # a row of letters has strokes in every third, the body's lines are in one or two
_NUM_PLACES, _MAX_WINDOWS = 4, 100  # places apart from each other that come first; windows that are looked at in all
_MIN_SCORE = 0.5  # grey levels a px: less is no letters but noise


def plate_like(vehicle: UInt8, *, max_share: float, min_score_frac: float) -> Bool:
    """(H, W) mask of the parts of an (H, W, 3) RGB picture of a vehicle that look like a plate, the best first.

    At most `max_share` of the picture is marked, and nothing that scores less than `min_score_frac` of the best.
    """
    height, width = vehicle.shape[:2]
    shrink = min(1.0, _WORK_PX / height)
    work_wh = (max(8, round(width * shrink)), max(8, round(height * shrink)))
    small = cv2.resize(vehicle, work_wh, interpolation=cv2.INTER_AREA)
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
    scores, xyxy = _score_windows(_strokes(grey))
    mask = np.zeros(grey.shape, bool)
    if len(scores) and scores.max() >= _MIN_SCORE:
        order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= min_score_frac * scores.max())]
        left_px = max_share * mask.size
        for left, top, right, bottom in xyxy[_apart_first(xyxy, order)]:
            part = mask[top:bottom, left:right]
            more_px = part.size - np.count_nonzero(part)
            if more_px <= left_px:
                part[:] = True
                left_px -= more_px
    return np.asarray(cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _apart_first(xyxy: Int64, order: Int64) -> Int64:
    """The row numbers of `order` with the best few that don't touch in front: a second place is looked at early."""
    apart: list[int] = []
    for row in order[:_MAX_WINDOWS]:
        others = xyxy[apart]
        touches = (xyxy[row, :2] < others[:, 2:]).all(axis=1) & (others[:, :2] < xyxy[row, 2:]).all(axis=1)
        if not touches.any():
            apart.append(int(row))
        if len(apart) == _NUM_PLACES:
            break
    return np.array([*apart, *(row for row in order[:_MAX_WINDOWS] if row not in apart)])


def _strokes(grey: UInt8) -> Float64:
    """Integral images (2, H + 1, W + 1) of upright edges from dark to light and from light to dark.

    The strongest are cut to what letters have: otherwise one edge of the body would outweigh a plate.
    """
    edges = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3) / 8
    most = np.percentile(np.abs(edges), 95)
    return np.stack([cv2.integral(np.clip(side, 0, most), sdepth=cv2.CV_64F) for side in (edges, -edges)])


def _score_windows(strokes: Float64) -> tuple[Float64, Int64]:
    """How plate-like every window of every size is, (K,), and its (K, 4) xyxy px with a margin."""
    height, width = strokes.shape[1] - 1, strokes.shape[2] - 1
    all_scores, all_xyxy = [np.zeros(0)], [np.zeros((0, 4), np.int64)]
    for window_hw in _window_sizes(height, width):
        step = max(1, window_hw[0] // 4)
        y, x = np.arange(0, height - window_hw[0] + 1, step), np.arange(0, width - window_hw[1] + 1, step * 2)
        scores = _plate_score(strokes, y, x, window_hw) * _place_weight((y + window_hw[0] / 2) / height)[:, None]
        top, left = (grid.ravel() for grid in np.meshgrid(y, x, indexing="ij"))
        margin = np.ceil(_MARGIN * np.array([-1, -1, 1, 1]) * window_hw[0]).astype(np.int64)
        xyxy = np.stack([left, top, left + window_hw[1], top + window_hw[0]], axis=1) + margin
        all_scores.append(scores.ravel())
        all_xyxy.append(np.clip(xyxy, 0, [width, height, width, height]))
    return np.concatenate(all_scores), np.concatenate(all_xyxy)


def _window_sizes(height: int, width: int) -> Iterator[tuple[int, int]]:
    for share in _HEIGHTS:
        for aspect in _ASPECTS:
            window_h = round(share * height)
            window_w = round(aspect * window_h)
            if window_h >= 4 and window_w <= width:
                yield window_h, window_w


def _plate_score(strokes: Float64, y: Int64, x: Int64, window_hw: tuple[int, int]) -> Float64:
    """(Y, X) scores of the windows with corners at `y` and `x`: strokes in their poorest part, less those around."""
    window_h, window_w = window_hw
    part_w, strip_h = max(1, window_w // _NUM_SEGMENTS), max(1, window_h // 2)
    parts = [_strength(strokes, y, x + n * part_w, (window_h, part_w)) for n in range(_NUM_SEGMENTS)]
    last_y = strokes.shape[1] - 1 - strip_h
    above = _strength(strokes, np.maximum(y - strip_h, 0), x, (strip_h, window_w))
    below = _strength(strokes, np.minimum(y + window_h, last_y), x, (strip_h, window_w))
    return np.asarray(np.min(parts, axis=0) - 0.4 * (above + below) / 2)


def _strength(integral: Float64, y: Int64, x: Int64, window_hw: tuple[int, int]) -> Float64:
    """(Y, X) strengths of strokes in the windows of this size with corners at `y` and `x`.

    A stroke has an edge on both sides, the edge of a window or of a shadow has only one: the weaker kind counts.
    """
    bottom, right = y + window_hw[0], x + window_hw[1]
    both = np.arange(2)
    total = integral[np.ix_(both, bottom, right)] + integral[np.ix_(both, y, x)]
    total -= integral[np.ix_(both, y, right)] + integral[np.ix_(both, bottom, x)]
    return np.asarray(total.min(axis=0) / (window_hw[0] * window_hw[1]))


def _place_weight(centre: Float64) -> Float64:
    """(K,) weights of heights in a vehicle, 0 its top and 1 its bottom: windows are above, the road is below."""
    return np.interp(centre, [0.0, 0.4, 0.5, 0.85, 0.95, 1.0], [0.1, 0.3, 1.0, 1.0, 0.6, 0.3])
