"""Pictures as video has them: luma in full, colours at half the size (4:2:0), BT.709 in its limited range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame

from trackverse.types import UInt8

KR, KG, KB = 0.2126, 0.7152, 0.0722  # BT.709's weights of red, green and blue in luma


@dataclass(frozen=True)
class Planes:
    """One upright picture of even height and width, in memory of its own."""

    frame: VideoFrame

    @staticmethod
    def empty(frame_hw: tuple[int, int]) -> Planes:
        """For a picture of `frame_hw`; an odd side grows by one, since there is no half of a pixel."""
        height, width = (side + side % 2 for side in frame_hw)
        return Planes(VideoFrame(width, height, "yuv420p"))

    @property
    def hw(self) -> tuple[int, int]:
        return self.frame.height, self.frame.width

    def split(self) -> list[UInt8]:
        """Luma (H, W), blue and red differences (H / 2, W / 2) each, to look at and to write to."""
        return plane_rows(self.frame)


def plane_rows(frame: VideoFrame) -> list[UInt8]:
    """What lies in the planes of a frame of 8 bits, (H, W) uint8 each."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]


def yuv_of(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """An RGB colour as luma and two colour differences."""
    red, green, blue = (value / 255 for value in rgb)
    luma = KR * red + KG * green + KB * blue
    differences = ((blue - luma) / (2 - 2 * KB), (red - luma) / (2 - 2 * KR))
    return round(16 + 219 * luma), round(128 + 224 * differences[0]), round(128 + 224 * differences[1])
