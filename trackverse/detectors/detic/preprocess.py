"""From frames to the network's input: resized by Pillow, normalised as for ImageNet, padded to a multiple of 32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trackverse.types import UInt8

RGB_MEAN = (123.675, 116.28, 103.53)
RGB_STD = (58.395, 57.12, 57.375)
PAD_MULTIPLE = 32  # the coarsest map that the pyramid is built from has this stride


def network_hw(frame_hw: tuple[int, int], min_side: int, max_side: int) -> tuple[int, int]:
    """The size a frame is resized to: short side `min_side`, unless the long one would then be over `max_side`."""
    scale = min_side / min(frame_hw)
    height, width = (min_side if side == min(frame_hw) else scale * side for side in frame_hw)
    shrink = min(1.0, max_side / max(height, width))
    return max(1, int(height * shrink + 0.5)), max(1, int(width * shrink + 0.5))


def resize(image: UInt8, hw: tuple[int, int]) -> UInt8:
    """An (H, W, 3) image at another size, antialiased when it shrinks."""
    return np.asarray(Image.fromarray(image).resize(hw[::-1], Image.Resampling.BILINEAR))


def padded_hw(hw: tuple[int, int]) -> tuple[int, int]:
    """The size of the network's input for a resized image of this size."""
    height, width = (-(-side // PAD_MULTIPLE) * PAD_MULTIPLE for side in hw)
    return height, width


def network_input(images: Sequence[UInt8], device: torch.device) -> Tensor:
    """(T, 3, H, W) float32 of T resized RGB images, which may differ in size if they are padded to the same one.

    Padding is at the right and the bottom. What lies there is seen, so that more of it would change what is found.
    """
    (hw,) = {padded_hw(image.shape[:2]) for image in images}
    padded = torch.zeros(len(images), 3, *hw, device=device)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (RGB_MEAN, RGB_STD))
    for row, image in zip(padded, images, strict=True):
        pixels = torch.tensor(image, device=device, dtype=torch.float32).permute(2, 0, 1)
        row[:, : image.shape[0], : image.shape[1]] = (pixels - mean) / std
    return padded
