"""ResNet-18 (He et al. 2016) as a feature extractor: strides 8, 16 and 32, batch norm folded into the convolutions."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first one may halve the map."""

    def __init__(self, in_dim: int, dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, dim, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.downsample = nn.Sequential()
        if stride != 1 or in_dim != dim:
            self.downsample.extend([nn.Conv2d(in_dim, dim, 1, stride, bias=False), nn.BatchNorm2d(dim)])

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        return functional.relu(inner.add_(self.downsample(x)), inplace=True)

    def fold_norms(self) -> None:
        _fold(self, "conv1", "bn1")
        _fold(self, "conv2", "bn2")
        if self.downsample:
            _fold(self.downsample, "0", "1")


class ResNet18(nn.Module):
    """`forward` gives the maps of stages 2, 3 and 4; `dims` are their channels."""

    dims = (128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(T, 3, H, W) to [(T, 128, H/8, W/8), (T, 256, H/16, W/16), (T, 512, H/32, W/32)]."""
        x = functional.relu(self.bn1(self.conv1(images.to(self.conv1.weight.dtype))), inplace=True)
        x = self.layer1(functional.max_pool2d(x, 3, 2, padding=1))
        maps = []
        for stage in (self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def prepare(self) -> None:
        """Folds each batch norm into the convolution before it. Once, after the weights are in."""
        _fold(self, "conv1", "bn1")
        for module in self.modules():
            if isinstance(module, BasicBlock):
                module.fold_norms()

    def round_to(self, dtype: torch.dtype) -> None:
        """Lets all layers multiply in `dtype`."""
        self.to(dtype)


def _fold(parent: nn.Module, conv: str, norm: str) -> None:
    pair = cast(nn.Conv2d, parent.get_submodule(conv)), cast(nn.BatchNorm2d, parent.get_submodule(norm))
    parent.set_submodule(conv, fuse_conv_bn_eval(*pair))
    parent.set_submodule(norm, nn.Identity())
