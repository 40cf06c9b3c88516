"""Detic (Zhou et al. 2022, "Detecting Twenty-thousand Classes using Image-level Supervision"), written for torch.

Finds boxes of any vocabulary that CLIP text vectors are given for. The files follow the papers: `swin` or `resnet` see,
`fpn` makes a pyramid of it, `centernet` proposes boxes, `cascade` classifies and moves them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trackverse.detectors.vocabulary import Vocabulary, load_vocabulary
from trackverse.errors import SetupError
from trackverse.types import Float32

if TYPE_CHECKING:
    from trackverse.detectors.detic.detector import Detic


def load_detic(
    weights: Path | str,
    vocab: str | Path | Vocabulary | Float32,
    device: str = "cpu",
    dtype: str = "float32",
    frame_size: int | tuple[int, int] = 480,
    conf: float = 0.1,
    nms: float = 0.7,
    *,
    with_embeddings: bool = True,
) -> Detic:
    """Detic with the weights of a .pth or .safetensors file, Swin-B or ResNet-18.

    `vocab`: a built-in name or a text file of one class a line, as `load_vocabulary` takes them; or a Vocabulary; or a
    matrix (512, C) alone, whose labels are then "class 0", "class 1", …
    `frame_size`: (least short side, largest long side) px that frames are resized to; one number stands for both.
    `dtype`: "float32", or "bfloat16" for speed where the processor has it; elsewhere it means float32, too. `conf`,
    `nms`: see Detic.
    Without embeddings their array has no columns. Raises SetupError if torch is not installed, or weights, vocabulary
    or device can't be used.
    """
    _need_torch()
    from trackverse.detectors.detic.detector import Detic

    if isinstance(vocab, str | Path):
        vocab = load_vocabulary(str(vocab))
    if isinstance(vocab, np.ndarray):
        vocab = Vocabulary(tuple(f"class {number}" for number in range(vocab.shape[-1])), vocab)
    sides = (frame_size, frame_size) if isinstance(frame_size, int) else frame_size
    return Detic(
        Path(weights),
        vocab.labels,
        vocab.matrix,
        device=device,
        dtype=dtype,
        frame_size=sides,
        conf=conf,
        nms=nms,
        with_embeddings=with_embeddings,
    )


def pick_device(name: str, num_threads: int = 0) -> str:
    """The torch device of a name; "auto" is a GPU if there is one, else the CPU. Raises SetupError if it can't be used.

    On the CPU, torch takes `num_threads` threads in this process from now on; 0 leaves that as it is.
    """
    _need_torch()
    from trackverse.detectors.detic.device import usable_device

    return usable_device(name, num_threads)


def _need_torch() -> None:
    try:
        import safetensors  # noqa: F401
        import torchvision  # noqa: F401
    except ModuleNotFoundError as e:
        raise SetupError(f"Detic needs torch, torchvision and safetensors ({e.name} is missing): make detic") from e
