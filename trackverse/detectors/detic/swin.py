"""Swin-B (Liu et al. 2021, "Swin Transformer", table 7) as a feature extractor: strides 8, 16 and 32.

Maps are (T, H, W, C) throughout. Attention runs inside windows of 7 x 7 cells; every other block shifts the windows by
3 cells so that neighbours meet.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from trackverse.detectors.detic.linear import Linear

WINDOW = 7
SHIFT = 3
CELLS = WINDOW * WINDOW
HEAD_DIM = 32
# Stages that stay in float32 beside bfloat16: a twelfth of the work. What they round off goes through all that follows,
# and cost more detections than all other rounding.
NUM_EXACT = 1
MASKED = -100.0  # added to the logits of pairs that may not see each other: what the weights were trained with


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias for each relative position of two cells."""

    bias: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_heads = dim // HEAD_DIM
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, self.num_heads))
        self.register_buffer("bias", None, persistent=False)

    def prepare(self) -> None:
        """Lays the bias out as (heads, 49, 49). Once, after the weights are in."""
        table = self.relative_position_bias_table
        self.bias = table[relative_positions().to(table.device)].permute(2, 0, 1).contiguous()

    def forward(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """From behind `qkv`, (T * windows, 49, 3C), to before `proj`, (T * windows, 49, C).

        `mask` (windows, 49, 49) is added to the logits.
        """
        count = len(qkv)
        bias = self.bias[None]
        if mask is not None:
            bias = (bias + mask[:, None].to(bias.dtype)).repeat(count // len(mask), 1, 1, 1)
        query, key, value = qkv.view(count, CELLS, 3, self.num_heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, 4 * dim, "gelu")
        self.fc2 = Linear(4 * dim, dim)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.fc2.plus(self.fc1(x), shortcut)


class Block(nn.Module):
    """Window attention and MLP, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(T, H, W, C) to the same."""
        x = self.attn.proj.plus(self.attend(self.norm1(x)), x)
        return self.mlp(self.norm2(x), x)

    def attend(self, x: Tensor) -> Tensor:
        """Attention, before `proj`, on a map (T, H, W, C) of any size.

        Zeros at the right and the bottom fill the map to whole windows. They take part as keys and values, unmasked: so
        the weights were trained. They are all the same behind `qkv`, so that one cell stands for them.
        """
        frames, height, width, dim = x.shape
        order, back = window_order(height, width, self.shift, x.device)
        rows, columns = -(-height // WINDOW), -(-width // WINDOW)
        mask = shift_mask(rows, columns, x.device) if self.shift else None
        cells = torch.cat([x.flatten(1, 2), x.new_zeros(frames, 1, dim)], dim=1)
        windows = self.attn.qkv(cells).index_select(1, order).view(-1, CELLS, 3 * dim)
        return self.attn(windows, mask).view(frames, -1, dim).index_select(1, back).view(x.shape)


class PatchMerging(nn.Module):
    """Halves the map: the four cells of each 2 x 2 patch side by side, then 4C to 2C channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(T, H, W, C) to (T, H/2, W/2, 2C). Order of the cells: down first, then to the right."""
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        patches = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(patches, dim=3)))
        return merged


class Stage(nn.Module):
    """Blocks of one resolution; `downsample` leads to the next."""

    def __init__(self, dim: int, depth: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dim, SHIFT * (number % 2)) for number in range(depth)))
        self.downsample = nn.Identity() if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(T, H, W, C) to this stage's map and the start of the next stage's."""
        x = self.blocks(x)
        return x, self.downsample(x)


class PatchEmbedding(nn.Module):
    """Each 4 x 4 pixels to 128 numbers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """(T, 3, H, W) to (T, H/4, W/4, C)."""
        embedded: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return embedded


class SwinB(nn.Module):
    """`forward` gives the maps of stages 1, 2 and 3 (counted from 0), each normalised; `dims` are their channels."""

    dims = (256, 512, 1024)

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(128)
        self.layers = nn.ModuleList(
            Stage(128 * 2**number, depth, last=number == 3) for number, depth in enumerate((2, 2, 18, 2))
        )
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for dim in self.dims)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(T, 3, H, W) to [(T, 256, H/8, W/8), (T, 512, H/16, W/16), (T, 1024, H/32, W/32)]."""
        x = self.patch_embed(images)
        maps = []
        for stage, norm in zip(self.layers, (None, self.norm1, self.norm2, self.norm3), strict=True):
            own, x = stage(x.to(next(stage.parameters()).dtype))
            if norm is not None:
                maps.append(norm(own).permute(0, 3, 1, 2))
        return maps

    def prepare(self) -> None:
        """Once, after the weights are in."""
        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.prepare()

    def round_to(self, dtype: torch.dtype) -> None:
        """Lets all but the first stages multiply in `dtype`."""
        for module in (*self.layers[NUM_EXACT:], self.norm2, self.norm3):
            module.to(dtype)


def relative_positions() -> Tensor:
    """(49, 49) rows of the bias table: entry [i, j] for a query in cell i and a key in cell j, cells row by row."""
    y, x = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    dy, dx = ((axis.flatten()[:, None] - axis.flatten()[None]) + WINDOW - 1 for axis in (y, x))
    return dy * (2 * WINDOW - 1) + dx


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept must do for training, too
def window_order(height: int, width: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which cell of a map is at each place of the windows, and at which place each cell is; windows row by row.

    Cells are numbered row by row; the number height * width stands for those beyond the map. The first tensor has 49
    numbers for each window, the second height * width.
    """
    rows, columns = -(-height // WINDOW), -(-width // WINDOW)
    cells = torch.arange(height * width).view(height, width)
    padded = functional.pad(cells, (0, -width % WINDOW, 0, -height % WINDOW), value=height * width)
    rolled = padded.roll((-shift, -shift), (0, 1))
    order = rolled.view(rows, WINDOW, columns, WINDOW).transpose(1, 2).flatten()
    back = order.argsort(stable=True)[: height * width]
    return order.to(device), back.to(device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def shift_mask(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 49, 49): 0 between cells that were neighbours before the shift, `MASKED` between strangers.

    Rolling brings the map's first rows below its last ones (columns alike), so the last windows hold both.
    """
    bands = [torch.zeros(count * WINDOW, dtype=torch.int64) for count in (rows, columns)]
    for band in bands:
        band[-WINDOW:-SHIFT], band[-SHIFT:] = 1, 2
    region = 3 * bands[0][:, None] + bands[1][None]
    windows = region.view(rows, WINDOW, columns, WINDOW).transpose(1, 2).reshape(-1, CELLS)
    strangers = windows[:, :, None] != windows[:, None, :]
    return strangers.to(device) * torch.tensor(MASKED, device=device)
