"""RoIAlign (He et al. 2017, with half-pixel offset and adaptive sampling) on three levels at once.

torchvision's takes three times as long on a CPU, runs on one core and in float32 only. A bin's value is a weighted sum
of cells, and `embedding_bag`, made for such sums, does all bins of all boxes, levels and images in one call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trackverse.detectors.detic.fpn import STRIDES

POOL = 7
BINS = POOL * POOL
NUM_LEVELS = 3  # p3, p4, p5
CANONICAL_SIDE_PX, CANONICAL_LEVEL = 224, 1  # a box of this side is looked at on p4, the second


class Pooler:
    """Looks at boxes in the maps p3, p4, p5 of a pyramid, each (T, C, H / stride, W / stride)."""

    def __init__(self, pyramid: Sequence[Tensor]) -> None:
        maps = pyramid[:NUM_LEVELS]
        device = maps[0].device
        self._table = torch.cat([features.permute(0, 2, 3, 1).flatten(0, 2) for features in maps])
        self._map_hw = torch.tensor([features.shape[2:] for features in maps], device=device)
        self._num_cells = self._map_hw.prod(dim=1)
        self._first_cell = (self._num_cells.cumsum(0) - self._num_cells) * len(maps[0])
        self._scales = torch.tensor([1 / stride for stride in STRIDES[:NUM_LEVELS]], device=device)

    def __call__(self, numbers: Tensor, xyxy: Tensor) -> Tensor:
        """(N, 49, C): what is under each box (N, 4) of image `numbers` (N,), in 7 x 7 bins row by row."""
        levels = box_levels(xyxy)
        first_cell = self._first_cell[levels] + numbers * self._num_cells[levels]
        cells, weights, offsets = bin_sums(xyxy * self._scales[levels, None] - 0.5, self._map_hw[levels], first_cell)
        weights = weights.to(self._table.dtype)
        pooled = functional.embedding_bag(cells, self._table, offsets, mode="sum", per_sample_weights=weights)
        return pooled.view(len(xyxy), BINS, self._table.shape[1])


def box_levels(xyxy: Tensor) -> Tensor:
    """(N,) which of the three levels suits each box's size: 0 for small boxes, 2 for large ones."""
    side = ((xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])).sqrt()
    levels = (CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE_PX + 1e-8)).floor()
    return levels.clamp(0, NUM_LEVELS - 1).long()


def bin_sums(xyxy: Tensor, map_hw: Tensor, first_cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which cells make up each bin, with which weights: `cells` (S,), `weights` (S,), and where each of the N * 49 bins
    starts among them.

    `xyxy` (N, 4) in cells of maps of the sizes `map_hw` (N, 2), whose cells are numbered row by row from `first_cell`.
    A bin is the mean of g x g samples, g = its length in cells, rounded up; a sample is interpolated from four cells.
    """
    start, size = xyxy[:, [1, 0]], xyxy[:, [3, 2]] - xyxy[:, [1, 0]]  # y first, as in map_hw
    grid = (size / POOL).ceil().clamp(min=0).long()
    per_bin = grid.prod(dim=1).repeat_interleave(BINS)
    offsets = per_bin.cumsum(0) - per_bin
    bins = torch.repeat_interleave(per_bin)  # of each sample
    box, bin_in_box, sample = bins // BINS, bins % BINS, torch.arange(len(bins), device=bins.device) - offsets[bins]
    grid, bin_yx = grid[box], torch.stack([bin_in_box // POOL, bin_in_box % POOL], dim=1)
    sample_yx = torch.stack([sample // grid[:, 1], sample % grid[:, 1]], dim=1)
    step = (size / POOL)[box]
    position = start[box] + bin_yx * step + (sample_yx + 0.5) * step / grid

    length = map_hw[box]
    inside = ((position >= -1) & (position <= length)).all(dim=1)
    position = torch.minimum(position.clamp(min=0), (length - 1).to(position.dtype))
    low = position.long()
    cell_yx = torch.stack([low, torch.minimum(low + 1, length - 1)], dim=2)  # (samples, 2 axes, 2 neighbours)
    share_yx = torch.stack([1 - (position - low), position - low], dim=2)
    cells = first_cell[box, None, None] + cell_yx[:, 0, :, None] * length[:, 1, None, None] + cell_yx[:, 1, None, :]
    weights = share_yx[:, 0, :, None] * share_yx[:, 1, None, :] * (inside / grid.prod(dim=1))[:, None, None]
    return cells.flatten(), weights.flatten(), 4 * offsets
