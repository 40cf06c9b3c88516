"""The demo's source videos, made from the street sequence in assets/demo/: more than one shot, so that there is
something to cut, and a title card, so that there is something to drop.

`streets.mp4`   12 s of the street, a drawn title card of 4 s, the next 12 s of the street
`corner.mp4`    the last 10 s of the street
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trackverse.layout import ASSETS_DIR
from trackverse.types import UInt8
from trackverse.video import VideoWriter, probe, read_frames

STREET = ASSETS_DIR / "demo" / "street.mp4"
CARD_S = 4.0


def make_material(folder: Path) -> None:
    """Write the two videos into `folder`; videos that are there are left alone."""
    video = probe(STREET)
    card = [draw_title_card(video.frame_hw)] * round(CARD_S * video.fps)
    shots = {
        "streets.mp4": lambda: [*frames(0, 12), *card, *frames(12, 24)],
        "corner.mp4": lambda: [*frames(20, 30)],
    }
    for name, images in shots.items():
        if (folder / name).exists():
            continue
        with VideoWriter(folder / name, frame_hw=video.frame_hw, fps=video.fps) as writer:
            for image in images():
                writer.write(image)


def frames(start_s: float, end_s: float) -> Iterator[UInt8]:
    """The street's frames (H, W, 3) of a span."""
    for batch in read_frames(STREET, start_s=start_s, end_s=end_s):
        yield from batch.images


def draw_title_card(frame_hw: tuple[int, int]) -> UInt8:
    """A picture (H, W, 3) of flat colours and letters."""
    height, width = frame_hw
    card = Image.new("RGB", (width, height), "#20364f")
    draw = ImageDraw.Draw(card)
    draw.ellipse((width * 0.62, height * 0.12, width * 0.88, height * 0.46), fill="#f2b134")
    draw.polygon([(0, height), (width * 0.4, height * 0.55), (width * 0.8, height)], fill="#3d7068")
    draw.polygon(
        [(width * 0.45, height), (width * 0.8, height * 0.62), (width, height * 0.8), (width, height)], fill="#2a4f58"
    )
    draw.text((width * 0.08, height * 0.16), "Meanwhile", fill="white", font=ImageFont.load_default(width // 12))
    draw.text(
        (width * 0.08, height * 0.32), "twelve seconds later", fill="#c9d6df", font=ImageFont.load_default(width // 22)
    )
    return np.asarray(card)


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    destination.mkdir(parents=True, exist_ok=True)
    make_material(destination)
