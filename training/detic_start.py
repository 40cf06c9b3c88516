"""Detic before its training: made-up class vectors, random weights; for a Swin-B, what a trained network has to teach.

A Swin-B that knows nothing learns slowly. One with the pyramid's last layers, proposals and box heads of a trained
ResNet-18 has to learn only what these look at, and is told so at every cell of the pyramid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from drawn_scenes import Scene
from torch import Tensor, nn
from torch.nn import functional

from trackverse.detectors.detic.cascade import TEXT_DIM
from trackverse.detectors.detic.checkpoint import BACKBONES
from trackverse.detectors.detic.network import DeticNetwork
from trackverse.detectors.detic.preprocess import network_input
from trackverse.detectors.detic.swin import Block, SwinB, WindowAttention

TEXT_COSINE = 0.75  # of two class vectors: CLIP's of any two nouns are about as much alike
FIRST_PROB, FIRST_REACH = 0.01, 4.0  # what an untrained cell says: no middle of an object; sides 4 strides away
OWN_PARTS = ("backbone.", "pyramid.fpn_lateral")  # what differs from backbone to backbone


def make_vocabulary(num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """(512, C) float32 unit vectors, alike as CLIP's are."""
    common, own = rng.standard_normal((TEXT_DIM, 1)), rng.standard_normal((TEXT_DIM, num_classes))
    vectors = math.sqrt(TEXT_COSINE) * common + math.sqrt(1 - TEXT_COSINE) * own
    return (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32)


def untrained_network(kind: str) -> DeticNetwork:
    """A network of the kind "r18" or "swinb"; random weights, drawn as the papers' code does."""
    network = DeticNetwork(BACKBONES[kind]())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if isinstance(network.backbone, SwinB):
        _start_swin(network.backbone)
    head = network.proposals
    for layer in (head.agn_hm, head.bbox_pred, *(predictor.bbox_pred[2] for predictor in network.heads.box_predictor)):
        nn.init.normal_(layer.weight, std=0.001)
    nn.init.constant_(head.agn_hm.bias, -math.log(1 / FIRST_PROB - 1))
    nn.init.constant_(head.bbox_pred.bias, FIRST_REACH)
    for scale in head.scales:
        nn.init.ones_(scale.scale)
    return network.to(memory_format=torch.channels_last)


def _start_swin(swin: SwinB) -> None:
    for module in swin.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, Block):  # each block adds nothing at first: so a deep network learns sooner
            nn.init.zeros_(module.attn.proj.weight)
            nn.init.zeros_(module.mlp.fc2.weight)
        if isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
            module.register_forward_pre_hook(lambda attention, _: attention.prepare())  # the bias follows its table


def take_over(network: DeticNetwork, teacher: DeticNetwork) -> None:
    """Gives the network all weights of the teacher's that do not depend on the backbone."""
    weights = {name: value for name, value in teacher.state_dict().items() if not name.startswith(OWN_PARTS)}
    network.load_state_dict(weights, strict=False)


def example_loss(network: DeticNetwork, teacher: DeticNetwork, scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """How far each map of the network's pyramid is off the teacher's, as a share of the variance."""
    pixels = network_input([scene.image for scene in scenes], torch.device("cpu"))
    with torch.no_grad():
        wanted = [level.float() for level in teacher.features(pixels)]
    own = network.features(pixels)
    return {
        f"p{3 + number}": functional.mse_loss(level.float(), goal) / goal.var()
        for number, (level, goal) in enumerate(zip(own, wanted, strict=True))
    }
