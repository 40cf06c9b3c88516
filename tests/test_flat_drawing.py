"""The built-in finder of flat drawings: drawn and real pictures as they come out of a video encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import stills
from skimage import data
from stills import DEGRADED, DRAWN, HW, at_size, encoded, plain

from trackverse.errors import SetupError
from trackverse.flat_drawing import COEFFICIENTS, FlatDrawing, is_near_black


@pytest.fixture(scope="module")
def judge() -> FlatDrawing:
    return FlatDrawing()


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return stills.photos()


@pytest.mark.parametrize("crf", [18, 33])
@pytest.mark.parametrize("name", DRAWN)
def test_drawings_are_found(judge: FlatDrawing, name: str, crf: int) -> None:
    score = judge(encoded(DRAWN[name], crf))
    assert score is not None and score > 0


@pytest.mark.parametrize("how", DEGRADED)
def test_real_pictures_are_not_taken_for_drawings(judge: FlatDrawing, photos: dict[str, np.ndarray], how: str) -> None:
    for name, photo in photos.items():
        score = judge(encoded(DEGRADED[how](photo)))
        assert score is None or score < 0, name


def test_the_median_decides_and_near_black_frames_have_no_say(judge: FlatDrawing) -> None:
    black, card, photo = plain((4, 4, 4)), DRAWN["cartoon houses"], at_size(data.coffee())[: HW[0]]
    assert judge(np.stack([black] * 3)) is None
    assert judge(np.stack([black, black, black, card])) == judge(card[None])
    assert judge(np.stack([photo, photo, card])) == pytest.approx(judge(photo[None]), abs=1e-3)
    assert is_near_black(black) and not is_near_black(DRAWN["white on black"])


@pytest.mark.parametrize("hw", [(2, 2), (480, 270), (720, 1280), (9, 480)])
def test_frames_of_any_shape_are_judged(judge: FlatDrawing, hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, *hw, 3), dtype=np.uint8)
    assert judge.logits(images).shape == (3,)
    assert judge.logits(images[:0]).shape == (0,)
    assert np.isfinite(judge(images))


DAMAGED = {
    "no JSON": "{",
    "no weights": '{"bias": 1}',
    "too few weights": '{"bias": 1, "weights": [1, 2]}',
    "words for weights": json.dumps({"bias": 1, "weights": ["a"] * 1456}),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_coefficients_are_told(tmp_path: Path, case: str) -> None:
    path = tmp_path / "flat_drawing.json"
    with pytest.raises(SetupError, match=r"flat_drawing\.json: missing"):
        FlatDrawing(path)
    path.write_text(DAMAGED[case])
    with pytest.raises(SetupError, match=r"flat_drawing\.json: not the coefficients"):
        FlatDrawing(path)


def test_the_coefficients_say_where_they_come_from() -> None:
    entry = json.loads(COEFFICIENTS.read_text())
    assert len(entry["sources"]) >= 10
    for source in entry["sources"]:
        assert source["package"] and source["version"] and source["licence"] and source["held_out"]
        assert source["photos"] + source["backgrounds"] + source["figures"] > 0
    assert min(entry["held_out_mean"].values()) > 0.85
