"""Licence plates of no particular country, drawn onto photographs: what the plate scorer is trained on."""

from __future__ import annotations

import string
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PATCH = 160  # px, the side of a picture to train on
STRIDE = 4  # px of the picture a cell of the scorer's answer
PLATE_H_PX = (7.0, 46.0)  # heights of plates in vehicles that are at most 256 px high
_DRAWN_H = 96
_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSerif-Bold",
    "STIXGeneralBol",
    "cmtt10",
    "cmb10",
)
_GROUNDS = (
    "#f4f4f0",
    "#ffffff",
    "#d8d8d8",
    "#f2c200",
    "#e08a20",
    "#1c48a8",
    "#141414",
    "#0d6a3b",
    "#b01818",
    "#9fc4e8",
)


def draw_plates(number: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Plates (96, W, 3) RGB of random shape, colours, letters and lines."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [str(folder / f"{name}.ttf") for name in _FONTS]
    return [_draw_plate(fonts, rng) for _ in range(number)]


def _draw_plate(fonts: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    has_two_lines = rng.random() < 0.3
    width = round(_DRAWN_H * (rng.uniform(0.8, 2.4) if has_two_lines else rng.uniform(1.6, 5.0)))
    ground, ink = _colours(rng)
    plate = Image.new("RGB", (width, _DRAWN_H), ground)
    draw = ImageDraw.Draw(plate)
    if rng.random() < 0.6:
        draw.rectangle((0, 0, width - 1, _DRAWN_H - 1), outline=ink, width=int(rng.integers(2, 5)))
    begin = round(_DRAWN_H * rng.uniform(0.2, 0.4)) if rng.random() < 0.35 else 0
    draw.rectangle((0, 0, begin, _DRAWN_H), fill=str(rng.choice(_GROUNDS)))
    top, bottom = 0.0, float(_DRAWN_H)
    if rng.random() < 0.35:  # a line of small print above or below
        strip = _DRAWN_H * rng.uniform(0.15, 0.28)
        at = (top, top := top + strip) if rng.random() < 0.5 else (bottom := bottom - strip, bottom + strip)
        _write(draw, _letters(rng, 6, 14), fonts, (begin, at[0], width, at[1]), ink, rng)
    edges = np.linspace(top, bottom, 3 if has_two_lines else 2)
    for line_top, line_bottom in pairwise(edges):
        text = _letters(rng, 2, 5) if has_two_lines else _letters(rng, 5, 9)
        _write(draw, text, fonts, (begin, line_top, width, line_bottom), ink, rng)
    return np.asarray(plate)


def _colours(rng: np.random.Generator) -> tuple[str, str]:
    """A ground and an ink that can be told from it."""
    ground = str(rng.choice(_GROUNDS, p=[0.22, 0.2, 0.12, 0.12, 0.04, 0.07, 0.1, 0.05, 0.04, 0.04]))
    is_light = sum(int(ground[at : at + 2], 16) for at in (1, 3, 5)) > 360
    inks = ("#101010", "#101010", "#1b2c63", "#0d4a2b", "#8a1414") if is_light else ("#f5f5f5", "#f5f5f5", "#f2c200")
    return ground, str(rng.choice(inks))


def _letters(rng: np.random.Generator, least: int, most: int) -> str:
    letters = "".join(rng.choice(list(string.ascii_uppercase + 2 * string.digits), rng.integers(least, most)))
    at = int(rng.integers(1, len(letters)))
    return letters[:at] + str(rng.choice(["", " ", "-", " "])) + letters[at:]


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    fonts: Sequence[str],
    box: tuple[float, ...],
    ink: str,
    rng: np.random.Generator,
) -> None:
    """Text in the middle of a box (left, top, right, bottom), as large as fits, or somewhat smaller."""
    left, top, right, bottom = box
    font = ImageFont.truetype(str(rng.choice(list(fonts))), 40)
    x0, y0, x1, y1 = font.getbbox(text)
    size = 40 * min(0.92 * (right - left) / (x1 - x0), 0.85 * (bottom - top) / (y1 - y0)) * rng.uniform(0.8, 1.0)
    middle = ((left + right) / 2, (top + bottom) / 2)
    stroke = int(rng.integers(0, 3))
    draw.text(middle, text, ink, ImageFont.truetype(font.path, max(4.0, size)), anchor="mm", stroke_width=stroke)


def make_sample(
    photos: Sequence[np.ndarray], plates: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture (PATCH, PATCH) uint8, and how much of each of its cells is plate, float32 from 0 to 1.

    Most have a plate or two; pieces of other photographs are pasted in likewise, so that a pasted edge tells nothing.
    """
    picture = _patch(photos, rng).astype(np.float32)
    is_plate = np.zeros((PATCH, PATCH), np.float32)
    least_h = PLATE_H_PX[1]
    for _ in range(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25])):
        height = float(np.exp(rng.uniform(*np.log(PLATE_H_PX))))
        least_h = min(least_h, height)
        _paste(picture, is_plate, plates[rng.integers(len(plates))], height, rng, value=1)
    for _ in range(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2])):
        height = float(np.exp(rng.uniform(*np.log(PLATE_H_PX))))
        piece = _patch(photos, rng)[: int(rng.integers(30, PATCH))]
        _paste(picture, is_plate, piece, height, rng, value=0)
    cells = cv2.resize(is_plate, None, fx=1 / STRIDE, fy=1 / STRIDE, interpolation=cv2.INTER_AREA)
    return _filmed(picture, least_h, rng), cells


def _patch(photos: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, (PATCH, PATCH, 3), from as it is to shrunk four times, mirrored at random."""
    photo = photos[rng.integers(len(photos))]
    side = min(round(PATCH * np.exp(rng.uniform(-0.2, np.log(4)))), *photo.shape[:2])
    y, x = (int(rng.integers(0, size - side + 1)) for size in photo.shape[:2])
    part = photo[y : y + side, x : x + side]
    how = cv2.INTER_AREA if side > PATCH else cv2.INTER_LINEAR
    square = np.asarray(cv2.resize(part, (PATCH, PATCH), interpolation=how))
    return square[:, ::-1] if rng.random() < 0.5 else square


def _paste(
    picture: np.ndarray, is_plate: np.ndarray, plate: np.ndarray, height: float, rng: np.random.Generator, *, value: int
) -> None:
    """Put a plate somewhere, turned by up to 55° and tilted by up to 12°, with its own light."""
    scale = height / plate.shape[0]
    shrunk = cv2.resize(plate, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    h, w = shrunk.shape[:2]
    yaw, tilt = np.radians(rng.uniform(-55, 55)), np.radians(rng.normal(0, 5))
    x, y = np.array([-1, 1, 1, -1]) * w / 2, np.array([-1, -1, 1, 1]) * h / 2
    points = np.stack([x * np.cos(yaw), y], axis=1) / (1 + x * np.sin(yaw) / (8 * w))[:, None]
    points = points @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    corners = (points + rng.uniform(10, PATCH - 10, 2)).astype(np.float32)
    source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, corners)
    alpha = cv2.warpPerspective(np.ones((h, w), np.float32), matrix, (PATCH, PATCH))[..., None]
    lit = shrunk * rng.uniform(0.35, 1.1) + rng.uniform(0, 30)
    if rng.random() < 0.3:  # a shadow across it
        lit[:, int(rng.integers(0, w)) :] *= rng.uniform(0.5, 0.9)
    picture *= 1 - alpha
    picture += cv2.warpPerspective(lit, matrix, (PATCH, PATCH)) * alpha
    is_plate *= 1 - alpha[..., 0]
    is_plate += value * alpha[..., 0]


def _filmed(picture: np.ndarray, plate_h: float, rng: np.random.Generator) -> np.ndarray:
    """Grey (PATCH, PATCH) uint8: out of focus or moved by a part of a plate's height, noisy, through JPEG."""
    grey = cv2.cvtColor(picture.clip(0, 255), cv2.COLOR_RGB2GRAY)
    if rng.random() < 0.8:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.2, 0.3 + plate_h / 9))
    if rng.random() < 0.2:
        grey = cv2.blur(grey, (int(rng.integers(1, 2 + plate_h / 5)), 1))
    noisy = grey * rng.uniform(0.45, 1.25) + rng.uniform(-20, 30) + rng.normal(0, rng.uniform(0.5, 9), grey.shape)
    coded = cv2.imencode(".jpg", noisy.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, rng.integers(40, 96)])
    return np.asarray(cv2.imdecode(coded[1], cv2.IMREAD_GRAYSCALE))
