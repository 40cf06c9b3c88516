"""Detic's box network: backbone, pyramid, proposals, cascade heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trackverse.detectors.detic.cascade import Boxes, CascadeHeads
from trackverse.detectors.detic.centernet import ProposalHead
from trackverse.detectors.detic.fpn import FeaturePyramid
from trackverse.detectors.detic.linear import Linear
from trackverse.detectors.detic.resnet import ResNet18
from trackverse.detectors.detic.swin import SwinB
from trackverse.detectors.detic.winograd import use_winograd


class DeticNetwork(nn.Module):
    """From images to boxes. Built empty; `prepare` comes after the weights are in and before the first image."""

    def __init__(self, backbone: ResNet18 | SwinB) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.dims)
        self.proposals = ProposalHead()
        self.heads = CascadeHeads()

    def forward(
        self, images: Tensor, image_hw: Sequence[tuple[int, int]], vocabulary: Tensor, min_score: float
    ) -> list[Boxes]:
        """The boxes of each of the (T, 3, H, W) images, in their pixels.

        H and W are multiples of 32, `image_hw` the images' own sizes, without padding; the C columns of `vocabulary`
        (512, C) have unit length. Boxes without a class of at least `min_score` may be left out. Raises NotFiniteError.
        """
        pyramid = self.features(images)
        boxes: list[Boxes] = self.heads(pyramid, self.proposals(pyramid), image_hw, vocabulary, min_score)
        return boxes

    def features(self, images: Tensor) -> list[Tensor]:
        """p3..p7, each (T, 256, H / stride, W / stride)."""
        maps = self.backbone(images.to(memory_format=torch.channels_last))
        pyramid: list[Tensor] = self.pyramid([features.to(self.pyramid.fpn_lateral3.weight.dtype) for features in maps])
        return pyramid

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Brings the weights into the form, and to the place, in which they are used.

        With `dtype` bfloat16 the layers whose numbers become boxes and scores stay in float32, as do Swin-B's first
        stages and all arithmetic on boxes.
        """
        self.eval().requires_grad_(False)
        self.backbone.prepare()
        self.heads.prepare()
        self.to(device)
        self.backbone.round_to(dtype)
        for module in (self.pyramid, self.proposals.bbox_tower, self.heads.box_head):
            module.to(dtype)
        self.to(memory_format=torch.channels_last)
        if device.type == "cpu" and dtype == torch.float32:
            use_winograd(self)
        for layer in self.modules():
            if isinstance(layer, Linear):
                layer.pack()
