"""What every detector is."""

from __future__ import annotations

from typing import Protocol

from trackverse.types import Detections, UInt8


class Detector(Protocol):
    """Turns (T, H, W, 3) uint8 RGB images into T Detections, boxes in the images' pixels.

    `labels` are the names of the C columns of their logits, `embedding_dim` the number of columns of their embeddings.
    """

    name: str
    labels: tuple[str, ...]
    embedding_dim: int

    def __call__(self, images: UInt8) -> list[Detections]: ...
