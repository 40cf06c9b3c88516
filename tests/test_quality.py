"""Scores by which stretches of video are dropped: drawn and real pictures, as they come out of a video encoder."""

from __future__ import annotations

import numpy as np
import pytest
import stills
from stills import DEGRADED, HW, STREET, encoded, plain

from trackverse.quality import ScoreFilter, judge_clip, judge_frames, technical_quality
from trackverse.types import Clip


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return stills.photos()


def test_real_pictures_pass_the_default_quality(photos: dict[str, np.ndarray]) -> None:
    for name, photo in photos.items():
        assert technical_quality(encoded(photo, crf=28)) > 5.5, name


@pytest.mark.parametrize("how", ["much blurred", "nearly black"])
def test_spoiled_pictures_fail_the_default_quality(photos: dict[str, np.ndarray], how: str) -> None:
    failed = [technical_quality(encoded(DEGRADED[how](photo))) < 4 for photo in photos.values()]
    assert sum(failed) >= len(failed) - 1  # a picture full of hard edges survives much


@pytest.mark.parametrize("how", ["blurred", "much blurred", "at a third of its brightness", "nearly black", "hazy"])
def test_every_spoiled_picture_scores_below_its_original(photos: dict[str, np.ndarray], how: str) -> None:
    for name, photo in photos.items():
        assert technical_quality(encoded(DEGRADED[how](photo))) < technical_quality(encoded(photo)), name


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (30, 60, 200), (128, 128, 128)])
def test_a_blank_frame_has_no_quality(color: tuple[int, int, int]) -> None:
    assert technical_quality(plain(color)[None]) == 0


def test_quality_stays_in_its_range() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, *HW, 3), dtype=np.uint8)
    checks = np.kron(np.indices((9, 16)).sum(axis=0) % 2, np.ones((30, 30))).astype(np.uint8) * 255
    for images in (noise, np.repeat(checks[None, ..., None], 3, axis=-1)):
        assert 0 <= technical_quality(images) <= 10


@pytest.mark.parametrize(
    ("case", "score", "reason"),
    [("below", 1.9, "poor"), ("at the least", 2.0, None), ("at the most", 8.0, None), ("above", 8.1, "poor")],
)
def test_limits_belong_to_what_is_kept(case: str, score: float, reason: str | None) -> None:
    judge = ScoreFilter("any", "poor", lambda images: 0.0, min_score=2.0, max_score=8.0)
    assert judge.why_drop(score) == reason, case


def test_a_clip_is_judged_by_two_frames_a_second_of_its_first_eight() -> None:
    seen: list[np.ndarray] = []

    def count_frames(images: np.ndarray) -> float:
        seen.append(images)
        return float(len(images))

    filters = [
        ScoreFilter("a", "too many", count_frames, max_score=15),
        ScoreFilter("b", "too few", count_frames, min_score=17),
    ]
    assert judge_clip(STREET, filters, Clip("street", "street.0.mp4", 2.0, 30.0)) == ({"a": 16, "b": 16}, "too many")
    assert judge_clip(STREET, filters[1:], Clip("street", "street.0.mp4", 2.0, 5.0)) == ({"b": 6}, "too few")
    assert seen[0].shape == (16, 360, 480, 3)
    assert judge_clip(STREET, filters, Clip("street", "street.0.mp4", 40.0, 50.0)) == ({}, "no frames")
    assert judge_clip(STREET, [], Clip("street", "street.0.mp4", 2.0, 30.0)) == ({}, None)


def test_no_score_is_no_reason_to_drop() -> None:
    judge = ScoreFilter("any", "poor", lambda images: None, min_score=2.0)
    assert judge_frames([judge], plain((9, 9, 9))[None]) == ({"any": None}, None)
