"""Proposals of CenterNet2 (Zhou et al. 2021): every cell of the pyramid says how likely it is the middle of an object,
and how far that object reaches to the left, the top, the right and the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms

from trackverse.detectors.detic.finite import finite
from trackverse.detectors.detic.fpn import DIM, STRIDES
from trackverse.detectors.detic.winograd import WinogradConv

MIN_PROB = 1e-4
MAX_PER_LEVEL = 1000
MAX_IOU = 0.9
MAX_PROPOSALS = 256
MIN_SIDE_PX = 0.01


class Proposals(NamedTuple):
    """One image's proposals, best first: `xyxy` (N, 4) in network pixels, not clipped, and `scores` (N,)."""

    xyxy: Tensor
    scores: Tensor


class Scale(nn.Module):
    """One learnt factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class ProposalHead(nn.Module):
    """One head for all levels. The last layers stay in float32: their numbers become boxes and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.bbox_tower = nn.Sequential()
        for _ in range(4):
            self.bbox_tower.extend([nn.Conv2d(DIM, DIM, 3, padding=1), nn.GroupNorm(32, DIM), nn.ReLU(inplace=True)])
        self.agn_hm = nn.Conv2d(DIM, 1, 3, padding=1)
        self.bbox_pred = nn.Conv2d(DIM, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in STRIDES)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Proposals]:
        """The proposals of each image, of the five maps (T, 256, H / stride, W / stride)."""
        towers = self.tower(pyramid)
        levels = [self.level(tower, number) for number, tower in enumerate(towers)]
        xyxy, probs = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        return [best_proposals(*image) for image in zip(xyxy, probs, strict=True)]

    def tower(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps of all levels after the tower."""
        maps = list(maps)
        for layer in self.bbox_tower:
            maps = layer.levels(maps) if isinstance(layer, WinogradConv) else [layer(features) for features in maps]
        return maps

    def level(self, tower: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The best cells of one level: boxes (T, K, 4) in network pixels and probabilities (T, K)."""
        # So few channels cost no less than 16 would: both layers at once take half the time.
        layers = self.agn_hm, self.bbox_pred
        weight, bias = (torch.cat([layer.get_parameter(name) for layer in layers]) for name in ("weight", "bias"))
        both = functional.conv2d(tower.to(weight.dtype), weight, bias, padding=1)
        logits, reach = torch.split(both, [1, 4], dim=1)
        probs = finite(logits).sigmoid().flatten(1)
        distances = finite(functional.relu(self.scales[number](reach)) * STRIDES[number])
        probs, cells = probs.topk(min(MAX_PER_LEVEL, probs.shape[1]), dim=1)
        distances = distances.flatten(2).transpose(1, 2).gather(1, cells[..., None].expand(-1, -1, 4))
        width, stride = tower.shape[3], STRIDES[number]
        centres = torch.stack([cells % width, cells // width], dim=2) * stride + stride // 2
        left_top = centres - distances[..., :2]
        right_bottom = torch.maximum(centres + distances[..., 2:], left_top + MIN_SIDE_PX)
        return torch.cat([left_top, right_bottom], dim=2), probs


def best_proposals(xyxy: Tensor, probs: Tensor) -> Proposals:
    """The best 256 (more only if tied) of one image's boxes (N, 4) that do not repeat each other.

    A proposal's score is the square root of its probability (no class score beside it to be averaged with).
    """
    order = probs.argsort(descending=True, stable=True)
    order = order[probs[order] > MIN_PROB]
    xyxy, scores = xyxy[order], probs[order].sqrt()
    # No box depends on a lesser one: the first thousand mostly settle it, for a fifth of the time that all take.
    for count in (4 * MAX_PROPOSALS, len(order)):
        kept = nms(xyxy[:count], scores[:count], MAX_IOU)
        if len(kept) > MAX_PROPOSALS:
            break
    xyxy, scores = xyxy[kept], scores[kept]
    if len(scores) > MAX_PROPOSALS:
        good = scores >= scores[MAX_PROPOSALS - 1]
        xyxy, scores = xyxy[good], scores[good]
    return Proposals(xyxy, scores)
