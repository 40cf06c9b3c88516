"""Feature pyramid (Lin et al. 2017) with two more levels as in FCOS: five maps of 256 channels, strides 8 to 128."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

DIM = 256
STRIDES = (8, 16, 32, 64, 128)


class CoarseLevels(nn.Module):
    """p6 and p7, each half the size of the level before."""

    def __init__(self) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(DIM, DIM, 3, 2, padding=1)
        self.p7 = nn.Conv2d(DIM, DIM, 3, 2, padding=1)

    def forward(self, p5: Tensor) -> list[Tensor]:
        p6 = self.p6(p5)
        return [p6, self.p7(functional.relu(p6))]


class FeaturePyramid(nn.Module):
    """From the backbone's maps at strides 8, 16 and 32 (with `dims` channels) to p3..p7."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.fpn_lateral3, self.fpn_lateral4, self.fpn_lateral5 = (nn.Conv2d(dim, DIM, 1) for dim in dims)
        self.fpn_output3, self.fpn_output4, self.fpn_output5 = (nn.Conv2d(DIM, DIM, 3, padding=1) for _ in dims)
        self.top_block = CoarseLevels()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Five maps (T, 256, H / stride, W / stride)."""
        inner5 = self.fpn_lateral5(maps[2])
        inner4 = self.fpn_lateral4(maps[1]) + functional.interpolate(inner5, scale_factor=2.0)
        inner3 = self.fpn_lateral3(maps[0]) + functional.interpolate(inner4, scale_factor=2.0)
        p5 = self.fpn_output5(inner5)
        return [self.fpn_output3(inner3), self.fpn_output4(inner4), p5, *self.top_block(p5)]
