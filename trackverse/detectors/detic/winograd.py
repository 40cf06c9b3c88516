"""3x3 convolutions with a quarter of the multiplications (Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural
Networks"), for float32 on a CPU, where multiplications are what a convolution costs.

F(4x4, 3x3): 4 x 4 outputs depend on a tile of 6 x 6 inputs. Tile and filter are brought to a form, 36 numbers each, in
which the convolution is a product number by number (as with a Fourier transform), and the product is brought back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

OUT = 4  # outputs of a tile along one axis
TILE = OUT + 2
# The form: values of polynomials at these points and at infinity. With them float32 loses half as much as with the
# paper's 0, ±1, ±2, and hardly more than a plain convolution does: 0.9e-6 of the result's spread instead of 0.6e-6.
POINTS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
# Measured: with 64 channels, bringing tiles to the form and back takes as long as what is gained.
MIN_CHANNELS = 128
# Tiles of more frames than one are worked on together up to this number. Of small maps that saves reading the filters
# once a frame; of large ones, the forms of four frames are so large that their memory comes fresh from the system at
# every call, which makes them cost half as much again.
MOST_TILES = 256


class WinogradConv(nn.Module):
    """Does what a 3x3 convolution of stride 1 and padding 1 does."""

    filters: Tensor
    to_form: Tensor
    from_form: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        to_form, filter_to_form, from_form = (matrix.to(conv.weight.device) for matrix in transforms())
        filters = torch.einsum("ai,bj,ocij->abco", filter_to_form, filter_to_form, conv.weight.double())
        self.register_buffer("filters", filters.flatten(0, 1).float().contiguous())
        self.register_buffer("to_form", torch.kron(to_form, to_form).float())
        self.register_buffer("from_form", torch.kron(from_form, from_form).float())
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(T, C, H, W) to (T, O, H, W)."""
        return self.levels([x])[0]

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Several maps (T, C, H, W) of any sizes, of at least one frame: with one multiplication, so that small ones
        cost next to nothing; but of no more frames than MOST_TILES at once.
        """
        step = max(1, MOST_TILES // sum(num_tiles(x[:1]) for x in maps))
        parts = [self._frames([x[first : first + step] for x in maps]) for first in range(0, len(maps[0]), step)]
        return parts[0] if len(parts) == 1 else [torch.cat(level) for level in zip(*parts, strict=True)]

    def _frames(self, maps: Sequence[Tensor]) -> list[Tensor]:
        tiles = cut_tiles(maps)  # (36, tiles, C)
        formed = (self.to_form @ tiles.flatten(1)).view(tiles.shape)
        products = torch.bmm(formed, self.filters)  # (36, tiles, O)
        outputs = (self.from_form @ products.flatten(1)).view(OUT * OUT, *products.shape[1:])
        if self.bias is not None:
            outputs += self.bias
        by_map = torch.split(outputs, [num_tiles(x) for x in maps], dim=1)
        return [join_tiles(*pair) for pair in zip(by_map, maps, strict=True)]


def num_tiles(x: Tensor) -> int:
    """How many tiles a map (T, C, H, W) is cut into."""
    return len(x) * -(-x.shape[2] // OUT) * -(-x.shape[3] // OUT)


def cut_tiles(maps: Sequence[Tensor]) -> Tensor:
    """(T, C, H, W) each to (36, tiles of all, C): tiles of 6 x 6 cells, each overlapping the next by two."""
    counts = [num_tiles(x) for x in maps]
    tiles = maps[0].new_empty(TILE * TILE, sum(counts), maps[0].shape[1])
    for part, x in zip(torch.split(tiles, counts, dim=1), maps, strict=True):
        height, width = x.shape[2:]
        padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + -width % OUT, 1, 1 + -height % OUT))
        cut = padded.unfold(1, TILE, OUT).unfold(2, TILE, OUT).permute(4, 5, 0, 1, 2, 3)  # (6, 6, T, rows, columns, C)
        part.view(cut.shape).copy_(cut)
    return tiles


def join_tiles(outputs: Tensor, x: Tensor) -> Tensor:
    """(16, T * rows * columns, O) to (T, O, H, W), the size of the map `x` that the tiles were cut from."""
    frames, _, height, width = x.shape
    rows, columns = -(-height // OUT), -(-width // OUT)
    joined = outputs.view(OUT, OUT, frames, rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
    joined = joined.reshape(frames, rows * OUT, columns * OUT, -1)
    return joined[:, :height, :width].permute(0, 3, 1, 2)


def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """For one axis: inputs to form (6, 6), filter to form (6, 3), form to outputs (4, 6); by Toom and Cook's method.

    B^T, G and A^T in the paper's words. The points are such that the first and the last are exact in float32.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    differences = points[:, None] - points[None] + torch.eye(len(points))
    infinity = torch.zeros(1, 3, dtype=torch.float64)
    infinity[0, -1] = 1
    values = points[:, None] ** torch.arange(3)
    filter_to_form = torch.cat([values / differences.prod(dim=1, keepdim=True), infinity])
    others = [[q for q in POINTS if q != p] for p in POINTS]
    to_form = torch.stack([_coefficients(roots) for roots in [*others, POINTS]])
    from_form = torch.zeros(OUT, TILE, dtype=torch.float64)
    from_form[:, :-1] = (points[:, None] ** torch.arange(OUT)).T
    from_form[-1, -1] = 1
    return to_form, filter_to_form, from_form


def _coefficients(roots: Sequence[float]) -> Tensor:
    """(6,) of the polynomial with these roots, the constant one first."""
    coefficients = torch.zeros(TILE, dtype=torch.float64)
    coefficients[0] = 1
    for root in roots:
        coefficients = coefficients.roll(1) - root * coefficients
    return coefficients


def use_winograd(network: nn.Module) -> None:
    """Replaces the convolutions that become faster by it."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and _gains(module):
            network.set_submodule(name, WinogradConv(module))


def _gains(conv: nn.Conv2d) -> bool:
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.groups)
    return geometry == ((3, 3), (1, 1), (1, 1), 1) and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
