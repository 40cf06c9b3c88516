"""The camera's motion from one frame to the next, on a real picture that is moved by what is to be found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from stills import street

from trackverse.boxes import STANDING_STILL
from trackverse.camera import CameraMotion, scaled

HW = (288, 384)
NOBODY = np.zeros((0, 4), np.float32)
CORNERS = np.array([(x, y, 1) for x in (0, HW[1]) for y in (0, HW[0])])


def similar(scale: float = 1.0, degrees: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(2, 3): a turn and scale about the middle of the picture, and a shift."""
    motion = cv2.getRotationMatrix2D((HW[1] / 2, HW[0] / 2), degrees, scale)
    motion[:, 2] += shift
    return motion


def seen(motion: np.ndarray) -> np.ndarray:
    """The middle of the street, moved."""
    whole = street(0)
    middle = np.array([[1, 0, (HW[1] - whole.shape[1]) / 2], [0, 1, (HW[0] - whole.shape[0]) / 2], [0, 0, 1]])
    return cv2.warpAffine(whole, np.vstack([motion, [0, 0, 1]])[:2] @ middle, HW[::-1])


def captioned(image: np.ndarray) -> np.ndarray:
    """With a caption that covers a quarter of the picture, and the corners that stand out most."""
    image = image.copy()
    cv2.rectangle(image, (0, 200), (HW[1], 270), (20, 20, 120), cv2.FILLED)
    for n, text in enumerate(("BREAKING NEWS: IT MOVES", "### somewhere, 10:45 pm ###")):
        cv2.putText(image, text, (8, 230 + 30 * n), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    return image


def passing(image: np.ndarray, left: int) -> np.ndarray:
    """With something large before it, a quarter as wide, that no detector knows."""
    image = image.copy()
    rng = np.random.default_rng(0)
    image[40:, left : left + HW[1] // 4] = cv2.resize(rng.integers(0, 255, (31, 16, 3), np.uint8), (HW[1] // 4, 248))
    return image


def farthest(found: np.ndarray, true: np.ndarray) -> float:
    """By how many px a motion is off at the corners of the picture, at most."""
    return float(np.linalg.norm(CORNERS @ (found - true).T, axis=1).max())


def found(before: np.ndarray, after: np.ndarray, xyxy: np.ndarray = NOBODY) -> np.ndarray:
    follow = CameraMotion()
    assert (follow(before, xyxy) == STANDING_STILL).all()
    return follow(after, xyxy)


MOTIONS = {
    "standing still": similar(),
    "a step": similar(shift=(3.3, -1.6)),
    "a quick pan": similar(shift=(30, 4)),
    "a zoom": similar(1.06),
    "a turn": similar(degrees=2),
    "all at once": similar(0.96, -1.5, (-9, 6)),
}


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_a_motion_is_found_to_a_fraction_of_a_pixel(motion: np.ndarray) -> None:
    assert farthest(found(seen(similar()), seen(motion)), motion) < 0.3


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_a_motion_is_the_same_in_a_picture_of_another_size(motion: np.ndarray) -> None:
    """Whose pixels aren't square: a place goes where it went before."""
    scale = np.array([2.0, 1.5])
    there = np.column_stack([CORNERS[:, :2] * scale, CORNERS[:, 2]]) @ scaled(motion, scale).T
    np.testing.assert_allclose(there, CORNERS @ motion.T * scale)


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_a_caption_is_not_taken_for_the_picture(motion: np.ndarray) -> None:
    assert farthest(found(captioned(seen(similar())), captioned(seen(motion))), motion) < 0.5


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_nor_is_what_passes_by(motion: np.ndarray) -> None:
    assert farthest(found(passing(seen(similar()), 130), passing(seen(motion), 138)), motion) < 0.5


def test_objects_are_not_looked_at() -> None:
    """One fills nearly the whole picture."""
    before, after = passing(seen(similar()), 100), passing(seen(similar()), 108)
    before[:, 40:-40] = seen(similar(shift=(-5, 0)))[:, 40:-40]
    box = np.array([[40.0, 0, HW[1] - 40, HW[0]]], np.float32)
    after[:, 40:-40] = seen(similar(shift=(9, 0)))[:, 40:-40]
    assert farthest(found(before, after), STANDING_STILL) > 5
    assert farthest(found(before, after, box), STANDING_STILL) < 0.5


NOTHING_TO_SEE = {
    "dark": np.zeros((90, 160, 3), np.uint8),
    "a pixel high": np.full((1, 480, 3), 128, np.uint8),
    "a pixel wide": np.full((480, 1, 3), 128, np.uint8),
    "one pixel": np.full((1, 1, 3), 128, np.uint8),
}


@pytest.mark.parametrize("image", NOTHING_TO_SEE.values(), ids=NOTHING_TO_SEE)
def test_where_nothing_is_seen_the_camera_stands_still(image: np.ndarray) -> None:
    assert (found(image, image) == STANDING_STILL).all()


def test_another_picture_is_no_motion() -> None:
    """A cut, and a picture of another size."""
    other = np.ascontiguousarray(seen(similar())[::-1, ::-1])
    assert (found(seen(similar()), other) == STANDING_STILL).all()
    assert (found(seen(similar()), other[:200]) == STANDING_STILL).all()
