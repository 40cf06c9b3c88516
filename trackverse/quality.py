"""Scores of a stretch of video by which cut_videos.py drops what trackers can't use. No weights, no training.

`flat_drawing` in [0, 1] finds title cards, slides and flat 2-D graphics. It does not find shaded drawings or computer
graphics that look like film. `technical_quality` in [0, 10] finds black, blank, dark and blurred stretches. It says
nothing about beauty: a sharp, well-lit, dull picture scores high, and noise counts as sharpness.

A filter of another kind (a learnt one, say) is one more `ScoreFilter`: a name, a score of frames, and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trackverse.types import Clip, Float32, UInt8
from trackverse.video import read_frames

# The scores look at pixels: their limits hold at this size and no other.
LONG_SIDE = 480  # px
FPS = 2.0
FIRST_S = 8.0
Verdict = tuple[dict[str, float], str | None]  # scores by the filters' names, and the reason to drop, if any

BLOCK = 4  # px
MAX_FLAT_STD = 0.5  # grey levels; what x264 leaves of a flat area at crf 28 is below, the smoothest skies mostly above
COLOR_STEP = 3  # grey levels
MIN_COLOR_FRAC = 0.02  # of the frame: a colour that fills less was not filled in by hand
MAX_STRETCH = 8
NEAR_BLACK = 40  # a frame whose brightest percent is darker can't be told from a drawing

# The powers of the product. Set by hand: ordinary pictures stay above 5.5; what is darkened to 12 %, and most of what
# is blurred by a Gaussian of 5 px, comes below 4. Only sharpness tells a blurred picture from a good one; exposure and
# contrast tell what it is blind to; the last two break ties.
POWERS = {"sharpness": 0.5, "exposure": 0.25, "contrast": 0.25, "detail": 0.05, "color": 0.05}


@dataclass(frozen=True)
class ScoreFilter:
    """Drops a stretch of video, as `reason`, unless `min_score` <= its score <= `max_score`.

    `score` takes sampled frames (T, H, W, 3) uint8 RGB, T >= 1, with a long side of LONG_SIDE px.
    """

    name: str
    reason: str
    score: Callable[[UInt8], float]
    min_score: float = -math.inf
    max_score: float = math.inf

    def why_drop(self, score: float) -> str | None:
        """The reason to drop a stretch of this score; None to keep it."""
        return None if self.min_score <= score <= self.max_score else self.reason


def default_filters(max_flat: float, min_quality: float) -> list[ScoreFilter]:
    """The filters of cut_videos.py; one that could drop nothing is left out (`max_flat` 1, `min_quality` 0)."""
    filters = []
    if max_flat < 1:
        filters.append(ScoreFilter("flat_drawing", "flat drawing", flat_drawing, max_score=max_flat))
    if min_quality > 0:
        reason = "low technical quality"
        filters.append(ScoreFilter("technical_quality", reason, technical_quality, min_score=min_quality))
    return filters


def judge_clip(video_path: Path, filters: Sequence[ScoreFilter], clip: Clip) -> Verdict:
    """The scores of a clip's first seconds by the filters' names, and the first reason to drop it, if any.

    Raises VideoError if the video can't be read.
    """
    if not filters:
        return {}, None
    end_s = min(clip.end_s, clip.start_s + FIRST_S)
    batches = read_frames(video_path, start_s=clip.start_s, end_s=end_s, fps=FPS, long_side=LONG_SIDE)
    images = [image for batch in batches for image in batch.images]
    return judge_frames(filters, np.stack(images)) if images else ({}, "no frames")


def judge_frames(filters: Sequence[ScoreFilter], images: UInt8) -> Verdict:
    """The scores of frames (T, H, W, 3), as a `ScoreFilter` wants them, and the first reason to drop them, if any."""
    scores = {judge.name: round(judge.score(images), 3) for judge in filters}
    reasons = [judge.why_drop(scores[judge.name]) for judge in filters]
    return scores, next(filter(None, reasons), None)


def flat_drawing(images: UInt8) -> float:
    """How much of the picture is filled with a few flat colours, in [0, 1]: the median over (T, H, W, 3) RGB frames.

    Near-black frames have no say; if there are only such, 0.
    """
    scores = [score for image in images if (score := _flat_frac(image)) is not None]
    return float(np.median(scores)) if scores else 0.0


def _flat_frac(image: UInt8) -> float | None:
    """The share of an (H, W, 3) frame in flat blocks of its widespread colours; None if it is near black.

    Skies, walls and out-of-focus grounds have flat blocks too, but their colours drift: no one colour is widespread.
    """
    luma = _luma(image)
    dark, bright = np.percentile(luma, (1, 99))
    if bright < NEAR_BLACK:
        return None
    # Measured as if at full contrast: else every dark or hazy picture would be flat.
    stretch = min(MAX_STRETCH, 255 / max(bright - dark, 1))
    blocks = _blocks(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.uint8)) * stretch
    is_flat = blocks[..., 0].std(axis=1) < MAX_FLAT_STD
    colors = np.round(blocks[is_flat].mean(axis=1) / COLOR_STEP)
    _, num_blocks = np.unique(colors, axis=0, return_counts=True)
    widespread = num_blocks >= MIN_COLOR_FRAC * len(blocks)
    return float(num_blocks[widespread].sum() / len(blocks))


def _luma(image: UInt8) -> UInt8:
    """The brightness (H, W) of an (H, W, 3) RGB frame."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _blocks(image: UInt8) -> Float32:
    """The pixels (N, BLOCK², 3) of the whole blocks of an (H, W, 3) image."""
    rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
    grid = image[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
    return grid.swapaxes(1, 2).reshape(-1, BLOCK**2, 3).astype(np.float32)


def technical_quality(images: UInt8) -> float:
    """Sharpness, exposure, contrast, detail and colour of (T, H, W, 3) RGB frames as one number in [0, 10], the median.

    A product: a picture without any contrast, or without any sharp edge, can't make up for it.
    """
    return float(np.median([_quality(image) for image in images]))


def _quality(image: UInt8) -> float:
    terms = quality_terms(image)
    return 10 * math.prod([terms[name] ** power for name, power in POWERS.items()], start=1.0)


def quality_terms(image: UInt8) -> dict[str, float]:
    """What `technical_quality` is made of, for one (H, W, 3) RGB frame: each in [0, 1], 1 where nothing is amiss.

    The scales are set so that ordinary footage reaches about 1: half of 23 photographs and frames do.
    """
    luma = _luma(image)
    mean = float(luma.mean()) / 255
    clipped_frac = float(((luma <= 8) | (luma >= 250)).mean())
    dark, bright = np.percentile(luma, (2, 98))
    return {
        # Crete et al. 2007: blurring a blurred picture again changes little.
        "sharpness": min(1.0, _lost_by_blurring(luma) / 0.4),
        "exposure": (1 - clipped_frac) * min(1.0, mean / 0.25, (1 - mean) / 0.25),
        "contrast": min(1.0, float(bright - dark) / 128),
        "detail": _entropy_bits(luma) / 6,
        "color": 0.5 + 0.5 * min(1.0, _colorfulness(image) / 50),  # black-and-white film is not bad film
    }


def _lost_by_blurring(luma: UInt8) -> float:
    """The share of an (H, W) image's gradients that a 5 x 5 mean takes away; 0 where there are none."""
    values = luma.astype(np.float32)
    before, after = _total_gradient(values), _total_gradient(np.asarray(cv2.blur(values, (5, 5)), np.float32))
    return max(0.0, 1 - after / before) if before else 0.0


def _entropy_bits(luma: UInt8) -> float:
    """The entropy of an (H, W) image's brightness in 64 bins, 0 to 6 bits."""
    shares = np.bincount(luma.ravel() // 4) / luma.size
    shares = shares[shares > 0]
    return abs(float((shares * np.log2(shares)).sum()))


def _total_gradient(values: Float32) -> float:
    return float(np.abs(np.diff(values, axis=0)).sum() + np.abs(np.diff(values, axis=1)).sum())


def _colorfulness(image: UInt8) -> float:
    """Hasler and Süsstrunk 2003: 0 grey, about 50 ordinary, above 100 garish."""
    red, green, blue = np.moveaxis(image.astype(np.float32), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = math.hypot(float(red_green.std()), float(yellow_blue.std()))
    return spread + 0.3 * math.hypot(float(red_green.mean()), float(yellow_blue.mean()))
