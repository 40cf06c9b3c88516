"""Cascade box heads (Cai & Vasconcelos 2018) with Detic's classifier (Zhou et al. 2022): three times over, what is in a
box is looked at, compared with a vocabulary of CLIP text vectors, and the box is moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trackverse.detectors.detic.centernet import Proposals
from trackverse.detectors.detic.finite import finite
from trackverse.detectors.detic.fpn import DIM
from trackverse.detectors.detic.linear import Linear
from trackverse.detectors.detic.pooling import BINS, Pooler

FEATURE_DIM = 1024
TEXT_DIM = 512
TEMPERATURE = 50.0  # cosines are scaled by this before the sigmoid
NUM_STAGES = 3
DELTA_SCALES = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
MAX_LOG_GROWTH = math.log(1000 / 16)


class Boxes(NamedTuple):
    """What the cascade says of one image's N boxes: `xyxy` (N, 4) network pixels, clipped; `probs` (N, C), the mean of
    the stages' class probabilities; `objectness` (N,), the proposals' scores; `features` (N, 1024) of the last stage.
    """

    xyxy: Tensor
    probs: Tensor
    objectness: Tensor
    features: Tensor


class BoxHead(nn.Module):
    """Pooled map to feature."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = Linear(DIM * BINS, FEATURE_DIM, "relu")
        self.fc2 = Linear(FEATURE_DIM, FEATURE_DIM, "relu")

    def prepare(self) -> None:
        """Checkpoints have a box's numbers channel by channel, the pooler gives them bin by bin."""
        by_bin = self.fc1.weight.view(FEATURE_DIM, DIM, BINS).transpose(1, 2).flatten(1)
        self.fc1.weight = nn.Parameter(by_bin, requires_grad=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, 49, 256) to (N, 1024)."""
        return self.fc2(self.fc1(pooled.flatten(1)))


class TextClassifier(nn.Module):
    """Logits are scaled cosines between a box's vector and the vocabulary's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(FEATURE_DIM, TEXT_DIM)

    def forward(self, features: Tensor, vocabulary: Tensor) -> Tensor:
        """(N, 1024) features and (512, C) unit-length columns to (N, C) logits."""
        return TEMPERATURE * functional.normalize(self.linear(features), dim=1) @ vocabulary


class BoxPredictor(nn.Module):
    """Feature to class logits and box deltas; in float32, because its numbers become scores and boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_score = TextClassifier()
        self.bbox_pred = nn.Sequential(Linear(FEATURE_DIM, FEATURE_DIM), nn.ReLU(inplace=True), Linear(FEATURE_DIM, 4))

    def forward(self, features: Tensor, vocabulary: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1024) features to logits (N, C) and deltas (N, 4)."""
        return finite(self.cls_score(features, vocabulary)), finite(self.bbox_pred(features))


class CascadeHeads(nn.Module):
    """Three stages, each with weights of its own, each starting from the boxes of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.box_head = nn.ModuleList(BoxHead() for _ in range(NUM_STAGES))
        self.box_predictor = nn.ModuleList(BoxPredictor() for _ in range(NUM_STAGES))

    def prepare(self) -> None:
        """Once, after the weights are in."""
        for module in self.modules():
            if isinstance(module, BoxHead):
                module.prepare()

    def forward(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Proposals],
        image_hw: Sequence[tuple[int, int]],
        vocabulary: Tensor,
        min_score: float,
    ) -> list[Boxes]:
        """The boxes of each image. `image_hw`: the images' sizes without padding; `vocabulary`: (512, C).

        Boxes that can't reach `min_score` in any class, whatever the stages to come may say, are left out on the way.
        """
        pooler = Pooler(pyramid)
        xyxy, objectness = (torch.cat(parts) for parts in zip(*proposals, strict=True))
        numbers = torch.cat([torch.full_like(image.scores, n, dtype=torch.int64) for n, image in enumerate(proposals)])
        limits = xyxy.new_tensor([(width, height, width, height) for height, width in image_hw])
        total = xyxy.new_zeros(len(xyxy), vocabulary.shape[1])
        features = xyxy.new_zeros(len(xyxy), FEATURE_DIM)
        for stage, (head, predictor) in enumerate(zip(self.box_head, self.box_predictor, strict=True)):
            hopeful = torch.nonzero(can_reach(min_score, total, objectness, NUM_STAGES - stage))[:, 0]
            parts = (xyxy, objectness, numbers, total)
            xyxy, objectness, numbers, total = (part.index_select(0, hopeful) for part in parts)
            features = head(pooler(numbers, xyxy)).to(xyxy.dtype)
            logits, deltas = predictor(features, vocabulary)
            total += logits.sigmoid_()
            xyxy = torch.minimum(move(xyxy, deltas, DELTA_SCALES[stage]).clamp_(min=0), limits[numbers])
        counts = torch.bincount(numbers, minlength=len(proposals)).tolist()
        by_image = (torch.split(part, counts) for part in (xyxy, total / NUM_STAGES, objectness, features))
        return [Boxes(*image) for image in zip(*by_image, strict=True)]


def can_reach(min_score: float, total: Tensor, objectness: Tensor, stages_left: int) -> Tensor:
    """(N,) whether sqrt(mean class probability x objectness) can still be `min_score`.

    `total` (N, C): sum of the probabilities of the stages so far; those left give 1 at most.
    """
    rounding = 1.001
    highest_prob = (total.amax(dim=1) + stages_left) / NUM_STAGES
    return highest_prob * objectness * rounding >= min_score**2


def move(xyxy: Tensor, deltas: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Boxes (N, 4) after their deltas (N, 4): centre shifted by shares of the size, size grown by exponents."""
    shift, growth = (deltas / deltas.new_tensor(scales)).chunk(2, dim=1)
    size = xyxy[:, 2:] - xyxy[:, :2]
    centre = xyxy[:, :2] + 0.5 * size + shift * size
    half = 0.5 * size * growth.clamp(max=MAX_LOG_GROWTH).exp()
    return torch.cat([centre - half, centre + half], dim=1)
