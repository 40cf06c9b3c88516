"""Scores of a stretch of video by which cut_videos.py drops what trackers can't use, and the one that needs no weights.

`technical_quality` in [0, 10] finds black, blank, dark and blurred stretches. It says nothing about beauty: a sharp,
well-lit, dull picture scores high, and noise counts as sharpness.

A filter of another kind is one more `ScoreFilter`: a name, a score of frames, and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trackverse.types import Clip, Float32, Float64, UInt8
from trackverse.video import read_frames

# The scores look at pixels: their limits hold at this size and no other.
LONG_SIDE = 480  # px
FPS = 2.0
FIRST_S = 8.0
Score = Callable[[UInt8], float | None]  # of frames (T, H, W, 3) RGB, T >= 1; None if nothing in them can be judged
Scores = dict[str, float | None]  # by the filters' names
Verdict = tuple[Scores, str | None]  # and the reason to drop, if any

# The powers of the product. Set by hand: ordinary pictures stay above 5.5; what is darkened to 12 %, and most of what
# is blurred by a Gaussian of 5 px, comes below 4. Only sharpness tells a blurred picture from a good one; exposure and
# contrast tell what it is blind to; the last two break ties.
POWERS = {"sharpness": 0.5, "exposure": 0.25, "contrast": 0.25, "detail": 0.05, "color": 0.05}


@dataclass(frozen=True)
class ScoreFilter:
    """Drops a stretch of video, as `reason`, unless `min_score` <= its score <= `max_score`; no score is no reason.

    `score` takes sampled frames (T, H, W, 3) uint8 RGB, T >= 1, with a long side of LONG_SIDE px.
    """

    name: str
    reason: str
    score: Score
    min_score: float = -math.inf
    max_score: float = math.inf

    def why_drop(self, score: float | None) -> str | None:
        """The reason to drop a stretch of this score; None to keep it."""
        return None if score is None or self.min_score <= score <= self.max_score else self.reason


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
    found = [(judge.name, judge.score(images)) for judge in filters]
    scores = {name: None if score is None else round(score, 3) for name, score in found}
    reasons = [judge.why_drop(scores[judge.name]) for judge in filters]
    return scores, next(filter(None, reasons), None)


def _luma(image: UInt8) -> UInt8:
    """The brightness (H, W) of an (H, W, 3) RGB frame."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


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
    shares = np.bincount(luma.ravel(), minlength=256) / luma.size
    mean = float(shares @ np.arange(256)) / 255
    clipped_frac = float(shares[:9].sum() + shares[250:].sum())
    dark, bright = np.searchsorted(shares.cumsum(), (0.02, 0.98))
    return {
        # Crete et al. 2007: blurring a blurred picture again changes little.
        "sharpness": min(1.0, _lost_by_blurring(luma) / 0.4),
        "exposure": (1 - clipped_frac) * min(1.0, mean / 0.25, (1 - mean) / 0.25),
        "contrast": min(1.0, float(bright - dark) / 128),
        "detail": _entropy_bits(shares.reshape(64, 4).sum(axis=1)) / 6,
        "color": 0.5 + 0.5 * min(1.0, _colorfulness(image) / 50),  # black-and-white film is not bad film
    }


def _lost_by_blurring(luma: UInt8) -> float:
    """The share of an (H, W) image's gradients that a 5 x 5 mean takes away; 0 where there are none."""
    values = luma.astype(np.float32)
    before, after = _total_gradient(values), _total_gradient(np.asarray(cv2.blur(values, (5, 5)), np.float32))
    return max(0.0, 1 - after / before) if before else 0.0


def _entropy_bits(shares: Float64) -> float:
    """The entropy of what falls into 64 bins, 0 to 6 bits."""
    shares = shares[shares > 0]
    return abs(float((shares * np.log2(shares)).sum()))


def _total_gradient(values: Float32) -> float:
    return cv2.norm(values[1:], values[:-1], cv2.NORM_L1) + cv2.norm(values[:, 1:], values[:, :-1], cv2.NORM_L1)


def _colorfulness(image: UInt8) -> float:
    """Hasler and Süsstrunk 2003: 0 grey, about 50 ordinary, above 100 garish."""
    red, green, blue = cv2.split(image)
    yellow = cv2.addWeighted(red, 0.5, green, 0.5, 0, dtype=cv2.CV_32F)
    opponents = cv2.subtract(red, green, dtype=cv2.CV_32F), cv2.subtract(yellow, blue, dtype=cv2.CV_32F)
    means, spreads = zip(*map(cv2.meanStdDev, opponents), strict=True)
    return float(np.linalg.norm(spreads) + 0.3 * np.linalg.norm(means))
