"""Still pictures for the filters' tests: drawn with OpenCV, and real ones, spoiled in many ways."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
from skimage import data

from trackverse import quality

HW = (270, 480)
STREET = Path(__file__).parent.parent / "assets" / "demo" / "street.mp4"


def encoded(image: np.ndarray, crf: int = 23) -> np.ndarray:
    """The picture (1, H, W, 3) after H.264: with the noise and the blocks that a filter sees in practice."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        for _ in range(2):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    file.seek(0)
    with av.open(file) as source:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)])[-1:]


def at_size(image: np.ndarray) -> np.ndarray:
    """A photograph at the size that the scores are made for, with even sides."""
    scale = quality.LONG_SIDE / max(image.shape[:2])
    height, width = (round(side * scale) // 2 * 2 for side in image.shape[:2])
    return cv2.resize(np.ascontiguousarray(image[..., :3]), (width, height), interpolation=cv2.INTER_AREA)


def plain(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((*HW, 3), color, np.uint8)


def street(index: int) -> np.ndarray:
    with av.open(str(STREET)) as source:
        frame = next(frame for number, frame in enumerate(source.decode(video=0)) if number == index)
        return at_size(frame.to_ndarray(format="rgb24"))


def photos() -> dict[str, np.ndarray]:
    """Real pictures; odd: `rocket` is mostly a dim evening sky, `astronaut` has smooth studio grounds."""
    pictures = {name: at_size(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")}
    return pictures | {"street": street(0), "street, later": street(40)}


DEGRADED = {
    "as it is": lambda image: image,
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
    "much blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 5),
    "at a third of its brightness": lambda image: (image * 0.3).astype(np.uint8),
    "nearly black": lambda image: (image * 0.12).astype(np.uint8),
    "hazy": lambda image: (image * 0.3 + 90).astype(np.uint8),
}


def title(background: tuple[int, int, int], ink: tuple[int, int, int]) -> np.ndarray:
    image = plain(background)
    cv2.putText(image, "CHAPTER ONE", (60, 130), cv2.FONT_HERSHEY_DUPLEX, 1.6, ink, 3, cv2.LINE_AA)
    cv2.putText(image, "a story of boxes", (120, 180), cv2.FONT_HERSHEY_SIMPLEX, 0.8, ink, 2, cv2.LINE_AA)
    return image


def cartoon() -> np.ndarray:
    """Houses under a sun: filled shapes with dark outlines."""
    image = plain((120, 190, 240))
    cv2.rectangle(image, (0, 170), (480, 270), (90, 180, 70), -1)
    cv2.circle(image, (400, 50), 30, (250, 220, 60), -1, cv2.LINE_AA)
    for left in range(40, 440, 90):
        cv2.rectangle(image, (left, 120), (left + 50, 200), (200, 120, 80), -1)
        cv2.rectangle(image, (left, 120), (left + 50, 200), (30, 30, 30), 2)
        roof = np.array([[left - 5, 120], [left + 25, 85], [left + 55, 120]])
        cv2.fillPoly(image, [roof], (180, 40, 40), cv2.LINE_AA)
    return image


def landscape() -> np.ndarray:
    """Hills in flat greens under clouds, as children's films have them."""
    image = plain((150, 210, 245))
    for left, top, green in ((-80, 150, 130), (150, 170, 160), (-200, 210, 190)):
        cv2.ellipse(image, (left + 240, top + 140), (330, 140), 0, 180, 360, (70, green, 60), -1, cv2.LINE_AA)
    for x, y in ((90, 50), (300, 70), (400, 35)):
        for shift in (-22, 0, 22):
            cv2.circle(image, (x + shift, y), 18, (250, 250, 250), -1, cv2.LINE_AA)
    return image


DRAWN = {
    "white on navy": title((20, 30, 90), (255, 255, 255)),
    "black on white": title((255, 255, 255), (0, 0, 0)),
    "white on black": title((0, 0, 0), (255, 255, 255)),
    "yellow on red": title((200, 40, 40), (250, 240, 90)),
    "cartoon houses": cartoon(),
    "cartoon hills": landscape(),
}
