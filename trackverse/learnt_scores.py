"""The two published classifiers of the pipeline's filters, for users who have their weights. They need torch.

Cartoons: a ResNet-18 with two outputs, of which the first is above 0 for cartoons. Aesthetics: CLIP ViT-L/14's image
tower, and on its unit vectors one linear layer that was fitted to people's ratings from 1 to 10. Both see the middle
224 x 224 px of a frame whose short side was made 256 or 224 px. They take a GPU if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trackverse.detectors.torch_archive import INSTALL, check_sums, read_tensors
from trackverse.errors import SetupError
from trackverse.types import UInt8

if TYPE_CHECKING:
    import torch

INPUT_PX = 224
CARTOON_SHORT_SIDE = 256  # px, before the middle is taken
# Mean and standard deviation of red, green and blue in [0, 1]: ImageNet's, and those of CLIP's training pictures.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HEAD_WIDTH = 64  # of the attention heads, in all of OpenAI's towers


class CartoonNet:
    """Scores frames by the published cartoon classifier: a logit, above 0 for cartoons."""

    def __init__(self, weights: Path, num_threads: int = 1) -> None:
        """Raises SetupError if torchvision is missing, or if the file holds no ResNet-18 of two classes."""
        self._torch = _import_torch("the cartoon classifier", num_threads)
        try:
            from torchvision.models import resnet18
        except ImportError as error:
            raise SetupError(f"the cartoon classifier needs torchvision: {INSTALL} ({error})") from error
        with self._torch.device("meta"):  # no memory, no random numbers: the file brings all values
            model = resnet18(num_classes=2)
        _fill(model, _load_state(weights), weights, "a ResNet-18 of two classes")
        self._device = _device()
        self._model = model.eval().to(self._device)

    def __call__(self, images: UInt8) -> float:
        """The mean logit of frames (T, H, W, 3) uint8 RGB, T >= 1."""
        pixels = prepare(images, CARTOON_SHORT_SIDE, "bilinear", IMAGENET)
        with self._torch.inference_mode():
            return float(self._model(pixels.to(self._device))[:, 0].mean())


class AestheticNet:
    """Scores frames by CLIP's image tower and a linear layer: about 1 to 10."""

    def __init__(self, clip: Path, head: Path, num_threads: int = 1) -> None:
        """Raises SetupError if open_clip is missing, or if the files hold no tower and layer that fit together."""
        self._torch = _import_torch("the aesthetic score", num_threads)
        self._tower, width = _load_tower(clip)
        with self._torch.device("meta"):
            layer = self._torch.nn.Linear(width, 1)
        _fill(layer, _load_state(head), head, f"a linear layer for CLIP's {width} numbers")
        self._device = _device()
        self._tower, self._head = self._tower.to(self._device), layer.eval().to(self._device)

    def __call__(self, images: UInt8) -> float:
        """The mean score of frames (T, H, W, 3) uint8 RGB, T >= 1."""
        pixels = prepare(images, INPUT_PX, "bicubic", CLIP)
        with self._torch.inference_mode():
            # One at a time on a CPU, where a batch of ViT-L/14 is no faster and takes more memory.
            batches = self._torch.split(pixels.to(self._device), 1 if self._device == "cpu" else len(pixels))
            vectors = self._torch.cat([self._tower(batch) for batch in batches])
            return float(self._head(self._torch.nn.functional.normalize(vectors, dim=-1)).mean())


def prepare(images: UInt8, short_side: int, how: str, colors: tuple[Any, Any]) -> torch.Tensor:
    """Frames (T, H, W, 3) uint8 RGB as a network wants them: (T, 3, 224, 224), the middle, normalised."""
    import torch

    height, width = images.shape[1:3]
    scale = short_side / min(height, width)
    size_hw = [short_side if side == min(height, width) else int(side * scale) for side in (height, width)]
    # Resized as bytes, as Pillow does it: bicubic overshoots are cut off.
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    pixels = torch.nn.functional.interpolate(pixels, size_hw, mode=how, antialias=True)
    top, left = ((side - INPUT_PX) / 2 for side in size_hw)
    pixels = pixels[..., round(top) : round(top) + INPUT_PX, round(left) : round(left) + INPUT_PX]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in colors)
    return (pixels.float() / 255 - mean) / std


def _load_tower(path: Path) -> tuple[torch.nn.Module, int]:
    """CLIP's image tower, its shape told by its weights, and how many numbers come out of it."""
    import torch

    try:
        from open_clip.transformer import QuickGELU, VisionTransformer
    except ImportError as error:
        raise SetupError(f"the aesthetic score needs open_clip: {INSTALL} ({error})") from error
    prefix = "visual."
    arrays = read_tensors(path, lambda name: name.startswith(prefix))
    tensors = {name.removeprefix(prefix): torch.from_numpy(array).float() for name, array in arrays.items()}
    what = "the image tower of a CLIP with a vision transformer"
    try:
        width, _, patch_px, _ = tensors["conv1.weight"].shape
        num_patches = len(tensors["positional_embedding"]) - 1
        out_width = tensors["proj"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise SetupError(f"{path}: not {what} ({error})") from error
    with torch.device("meta"):
        tower = VisionTransformer(
            image_size=math.isqrt(num_patches) * patch_px,
            patch_size=patch_px,
            width=width,
            layers=len({name.split(".")[2] for name in tensors if name.startswith("transformer.resblocks.")}),
            heads=width // HEAD_WIDTH,
            mlp_ratio=4.0,
            output_dim=out_width,
            act_layer=QuickGELU,  # OpenAI's weights were trained with it, and are quietly wrong without
        )
    if math.isqrt(num_patches) * patch_px != INPUT_PX:
        raise SetupError(f"{path}: not {what} for pictures of {INPUT_PX} px")
    _fill(tower, tensors, path, what)
    return tower.eval(), out_width


def _load_state(path: Path) -> Mapping[str, Any]:
    """The tensors of a file that PyTorch saved, by name; nothing else in the file is let in."""
    import torch

    if not path.is_file():
        raise SetupError(f"{path}: no such file")
    check_sums(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Not its words: they advise to load the file in a way that runs what is in it.
        raise SetupError(f"{path}: not weights that PyTorch saved ({type(error).__name__})") from error
    if not isinstance(state, Mapping) or not all(isinstance(one, torch.Tensor) for one in state.values()):
        raise SetupError(f"{path}: not a state dict, but a {type(state).__name__}")
    return state


def _fill(model: torch.nn.Module, state: Mapping[str, Any], path: Path, what: str) -> None:
    """Give a model its values. Raises SetupError if they are not those of such a model."""
    import torch

    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if odd:
        first = f"{odd[0]} is {found.get(odd[0], 'missing')} instead of {expected.get(odd[0], 'absent')}"
        raise SetupError(f"{path}: not {what}: {first}" + (f", and {len(odd) - 1} more" if odd[1:] else ""))
    values = {name: value.float() if torch.is_floating_point(value) else value for name, value in state.items()}
    model.load_state_dict(values, assign=True)


def _device() -> str:
    """A GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _import_torch(what: str, num_threads: int) -> Any:
    try:
        import torch
    except ImportError as error:
        raise SetupError(f"{what} needs torch: {INSTALL} ({error})") from error
    torch.set_num_threads(num_threads)
    return torch
