"""Scenes of shapes drawn onto photographs: what the small Detic is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

SHAPES = ("disc", "ring", "box", "triangle", "star", "cross", "arrow", "half disc")
SIDE_PX = (12.0, 150.0)
MOST_SHAPES = 10
MIN_VISIBLE_FRAC = 0.3  # a shape of which less can be seen behind the others is not looked for
FINE = 4  # times as many pixels each way are filled as a picture has, so that edges and boxes are not whole pixels


class Scene(NamedTuple):
    """`image` (H, W, 3) uint8 RGB; `xyxy` (N, 4) and `labels` (N,) of what is drawn in it."""

    image: np.ndarray
    xyxy: np.ndarray
    labels: np.ndarray


def draw_scene(photos: Sequence[np.ndarray], hw: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Up to ten shapes of all sizes and angles, which hide parts of each other, on a piece of a photograph."""
    image = _background(photos, hw, rng)
    boxes, areas, labels = [], [], []
    owner = np.full(hw, -1, np.int16)  # which shape is seen in a pixel
    for number in range(int(rng.integers(0, MOST_SHAPES + 1))):
        label = int(rng.integers(len(SHAPES)))
        outline = _placed(_outline(SHAPES[label]), hw, rng)
        mask, xyxy = _filled(outline, hw)
        _paint(image, mask, label, rng)
        owner[mask > 0.5] = number
        boxes.append(xyxy), areas.append(max(1, (mask > 0.5).sum())), labels.append(label)
    seen = np.array([(owner == number).sum() for number in range(len(labels))])
    kept = seen >= MIN_VISIBLE_FRAC * np.array(areas)
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Scene(_filmed(image, rng), xyxy[kept], np.array(labels, np.int64)[kept])


def _outline(shape: str) -> list[np.ndarray]:
    """Closed lines (P, 2), about 1 from the middle at most; what two of them enclose is a hole."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if shape == "ring":
        return [circle, 0.55 * circle]
    if shape == "box":
        return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.8]
    if shape == "triangle":
        return [circle[[0, 16, 32]]]
    if shape == "star":
        angle = np.arange(10) * np.pi / 5
        return [np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.where(np.arange(10) % 2, 0.42, 1)[:, None]]
    if shape == "cross":
        arm = np.array([[1, -0.3], [1, 0.3], [0.3, 0.3]])
        return [np.concatenate([arm @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])]
    if shape == "arrow":
        return [np.array([[1, 0], [0.2, 0.8], [0.2, 0.3], [-1, 0.3], [-1, -0.3], [0.2, -0.3], [0.2, -0.8]])]
    if shape == "half disc":
        return [circle[:25]]
    return [circle]


def _placed(outline: list[np.ndarray], hw: tuple[int, int], rng: np.random.Generator) -> list[np.ndarray]:
    """The outline in pixels: of random size, turned, drawn out, its middle somewhere in the picture."""
    radius = 0.5 * float(np.exp(rng.uniform(*np.log(SIDE_PX))))
    angle, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.35, 0.35))
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = rng.uniform(0, 1, 2) * hw[::-1]
    return [line @ rotation * radius * [stretch, 1 / stretch] + middle for line in outline]


def _filled(outline: list[np.ndarray], hw: tuple[int, int]) -> tuple[np.ndarray, list[float]]:
    """(H, W) how much of each pixel is inside, and the box x1, y1, x2, y2 around that; all 0 if nothing is."""
    fine = np.zeros([FINE * side for side in hw], np.uint8)
    cv2.fillPoly(fine, [(FINE * line - 0.5).round().astype(np.int32) for line in outline], 255)
    left, top, width, height = (side / FINE for side in cv2.boundingRect(fine))
    mask = cv2.resize(fine, hw[::-1], interpolation=cv2.INTER_AREA)
    return mask.astype(np.float32) / 255, [left, top, left + width, top + height]


def _paint(image: np.ndarray, mask: np.ndarray, label: int, rng: np.random.Generator) -> None:
    """Two lights of the class's hue: plain, fading into each other, or in stripes; somewhat see-through at times."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    y, x = np.mgrid[part]
    hue = 180 * (label + rng.uniform(-0.25, 0.25)) / len(SHAPES)  # OpenCV's circle has 180 degrees
    colours = np.stack([np.full(2, hue % 180), rng.uniform(120, 255, 2), rng.uniform(70, 255, 2)], axis=1)
    first, second = cv2.cvtColor(colours[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0].astype(np.float32)
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(6, 40)
    along = x * np.cos(angle) + y * np.sin(angle)
    kind = rng.choice(["plain", "fading", "striped"], p=[0.5, 0.3, 0.2])
    shares = {"plain": 0 * along, "fading": along / SIDE_PX[1] % 1, "striped": (along % period < period / 2) * 1.0}
    colour = first + (second - first) * shares[kind][..., None]
    opacity = mask[part][..., None] * (rng.uniform(0.6, 1) if rng.random() < 0.3 else 1.0)
    image[part] += (colour - image[part]) * opacity


def _background(photos: Sequence[np.ndarray], hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: a piece of a photograph, darker or lighter, mirrored at random."""
    photo = photos[rng.integers(len(photos))]
    share = rng.uniform(0.4, 1) * min(photo.shape[0] / hw[0], photo.shape[1] / hw[1])
    height, width = (max(1, int(share * side)) for side in hw)
    y, x = (int(rng.integers(0, side - own + 1)) for side, own in zip(photo.shape, (height, width), strict=False))
    piece = cv2.resize(photo[y : y + height, x : x + width], hw[::-1]).astype(np.float32)
    piece = piece * rng.uniform(0.5, 1.1) + rng.uniform(-20, 40)
    return piece[:, ::-1].copy() if rng.random() < 0.5 else piece


def _filmed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8, noisy."""
    return (image + rng.normal(0, rng.uniform(0.5, 8), image.shape)).clip(0, 255).astype(np.uint8)
