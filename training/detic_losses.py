"""What Detic's network learns from: CenterNet2's losses (Zhou et al. 2021) for proposals, Cascade R-CNN's (Cai &
Vasconcelos 2018) for boxes, Detic's sigmoid (Zhou et al. 2022) for classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from drawn_scenes import Scene
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, generalized_box_iou_loss

from trackverse.detectors.detic.cascade import DELTA_SCALES, move
from trackverse.detectors.detic.centernet import ProposalHead, best_proposals
from trackverse.detectors.detic.fpn import STRIDES
from trackverse.detectors.detic.network import DeticNetwork
from trackverse.detectors.detic.pooling import Pooler
from trackverse.detectors.detic.preprocess import network_input

# CenterNet2's, for proposals. A level looks for objects of which half the diagonal is within a range, in px.
LEVEL_RANGES = ((0, 80), (64, 160), (128, 320), (256, 640), (512, math.inf))
MIN_OVERLAP, MIN_RADIUS_PX = 0.8, 4.0  # heat fades where a box moved there would overlap less
HEAT_ALPHA, HEAT_BETA, HEAT_GAMMA, HEAT_WEIGHT = 0.25, 4, 2, 0.5
# Cascade R-CNN's: from which IoU on a stage's box is the object it overlaps.
STAGE_IOUS = (0.6, 0.7, 0.8)
BOXES_PER_IMAGE, MOST_OBJECT_BOXES = 48, 24


def network_loss(network: DeticNetwork, scenes: Sequence[Scene], vocabulary: Tensor) -> dict[str, Tensor]:
    """The parts of the loss on some scenes of one size."""
    pixels = network_input([scene.image for scene in scenes], torch.device("cpu"))
    truth = [(torch.from_numpy(scene.xyxy), torch.from_numpy(scene.labels)) for scene in scenes]
    pyramid = network.features(pixels)
    towers = [tower.float() for tower in network.proposals.tower(pyramid)]
    with torch.autocast("cpu", enabled=False):  # what becomes boxes and scores is in float32, as in the detector
        losses = proposal_losses(network.proposals, towers, [xyxy for xyxy, _ in truth])
        with torch.no_grad():
            levels = [network.proposals.level(tower, number) for number, tower in enumerate(towers)]
            xyxy, probs = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
            proposals = [best_proposals(*image).xyxy for image in zip(xyxy, probs, strict=True)]
    return losses | cascade_losses(network, pyramid, proposals, truth, vocabulary)


# --- proposals


def proposal_losses(head: ProposalHead, towers: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, Tensor]:
    """The focal loss of the heat and the GIoU loss of the reach, over the cells of all levels of T images."""
    heat = torch.cat([head.agn_hm(tower).flatten(1) for tower in towers], dim=1)
    reach = [functional.relu(head.scales[n](head.bbox_pred(tower))) * STRIDES[n] for n, tower in enumerate(towers)]
    distances = torch.cat([level.flatten(2).transpose(1, 2) for level in reach], dim=1)
    cells = [level_cells(tower, number) for number, tower in enumerate(towers)]
    centres, levels = (torch.cat(parts) for parts in zip(*cells, strict=True))
    wanted_heat, is_middle, reach_weight, wanted_xyxy = (
        torch.stack(parts) for parts in zip(*(cell_targets(centres, levels, xyxy) for xyxy in truth), strict=True)
    )
    probs = heat.sigmoid().clamp(1e-4, 1 - 1e-4)
    found = HEAT_ALPHA * (1 - probs) ** HEAT_GAMMA * probs.log() * is_middle
    quiet = (1 - HEAT_ALPHA) * (1 - wanted_heat) ** HEAT_BETA * probs**HEAT_GAMMA * (1 - probs).log() * ~is_middle
    heat_loss = -HEAT_WEIGHT * (found + quiet).sum() / is_middle.sum().clamp(min=1)
    inside = reach_weight > 0
    centres = centres.expand(len(heat), -1, -1)[inside]
    boxes = torch.cat([centres - distances[inside][:, :2], centres + distances[inside][:, 2:]], dim=1)
    overlap = generalized_box_iou_loss(boxes, wanted_xyxy[inside]) * reach_weight[inside]
    return {"heat": heat_loss, "reach": overlap.sum() / reach_weight.sum().clamp(min=1)}


def level_cells(tower: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The centres (M, 2) of a level's cells in px, row by row, and its number (M,)."""
    stride, (height, width) = STRIDES[number], tower.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([x.flatten(), y.flatten()], dim=1) * stride + stride // 2
    return centres, torch.full((height * width,), number)


def cell_targets(centres: Tensor, levels: Tensor, xyxy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What M cells should say of one image's N boxes: `heat` (M,), `is_middle` (M,), for cells beside a middle, and on
    the level for the box's size, `reach_weight` (M,) and the box (M, 4).
    """
    if not len(xyxy):
        nothing = torch.zeros(len(centres))
        return nothing, nothing > 0, nothing, torch.zeros(len(centres), 4)
    strides = torch.tensor(STRIDES)[levels][:, None]
    size = xyxy[:, 2:] - xyxy[:, :2]
    least, most = torch.tensor(LEVEL_RANGES).T
    suits = (size.norm(dim=1) / 2 >= least[levels][:, None]) & (size.norm(dim=1) / 2 <= most[levels][:, None])
    middle = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    middle_cell = (middle / strides[..., None]).floor() * strides[..., None] + strides[..., None] // 2  # (M, N, 2)
    offset = centres[:, None] - middle_cell
    is_middle = (offset == 0).all(dim=2) & suits
    shift = (1 - MIN_OVERLAP) / (1 + MIN_OVERLAP)
    radius = (shift * (2 * size.prod(dim=1)).sqrt()).clamp(min=MIN_RADIUS_PX)
    heat = torch.exp(-((offset.norm(dim=2) / radius) ** 2)) * suits
    inside = ((centres[:, None] > xyxy[:, :2]) & (centres[:, None] < xyxy[:, 2:])).all(dim=2)
    beside = (offset.abs() <= strides[..., None]).all(dim=2) & suits & inside
    weight, owner = (heat * beside).max(dim=1)
    return heat.amax(dim=1), is_middle.any(dim=1), weight, xyxy[owner]


# --- boxes


def cascade_losses(
    network: DeticNetwork,
    pyramid: Sequence[Tensor],
    proposals: Sequence[Tensor],
    truth: Sequence[tuple[Tensor, Tensor]],
    vocabulary: Tensor,
) -> dict[str, Tensor]:
    """Each stage learns from the boxes that the one before has moved."""
    pooler = Pooler([level.float() for level in pyramid])
    height, width = (side * STRIDES[0] for side in pyramid[0].shape[2:])
    boxes = [sample(own, xyxy) for own, (xyxy, _) in zip(proposals, truth, strict=True)]
    numbers = torch.cat([torch.full((len(own),), n) for n, own in enumerate(boxes)])
    xyxy = torch.cat(boxes)
    losses = {"class": xyxy.new_zeros(()), "box": xyxy.new_zeros(())}
    for stage, (head, predictor) in enumerate(zip(network.heads.box_head, network.heads.box_predictor, strict=True)):
        goals, labels = match(numbers, xyxy, truth, STAGE_IOUS[stage])
        is_object = labels >= 0
        # Not brought to the pooler's order of numbers yet, as in a checkpoint: channel by channel.
        features = head(pooler(numbers, xyxy).transpose(1, 2))
        with torch.autocast("cpu", enabled=False):
            logits, deltas = predictor(features.float(), vocabulary)
        wanted = functional.one_hot(labels + 1, vocabulary.shape[1] + 1)[:, 1:].float()
        losses["class"] += functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(xyxy)
        goal_deltas = deltas_between(xyxy, goals, DELTA_SCALES[stage])
        off = functional.l1_loss(deltas[is_object], goal_deltas[is_object], reduction="sum")
        losses["box"] += off / len(xyxy)
        moved = move(xyxy, deltas.detach(), DELTA_SCALES[stage])
        xyxy = torch.minimum(moved.clamp(min=0), moved.new_tensor([width, height] * 2))
        solid = (xyxy[:, 2:] > xyxy[:, :2]).all(dim=1)
        xyxy, numbers = xyxy[solid], numbers[solid]
    return losses


def sample(proposals: Tensor, truth: Tensor) -> Tensor:
    """Some of an image's proposals and the objects themselves (N, 4): at most half of them on objects."""
    boxes = torch.cat([truth, proposals])
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    boxes = boxes[torch.randperm(len(boxes))]
    overlap = box_iou(boxes, truth).amax(dim=1) if len(truth) else boxes.new_zeros(len(boxes))
    objects = boxes[overlap >= STAGE_IOUS[0]][:MOST_OBJECT_BOXES]
    return torch.cat([objects, boxes[overlap < STAGE_IOUS[0]][: BOXES_PER_IMAGE - len(objects)]])


def match(
    numbers: Tensor, xyxy: Tensor, truth: Sequence[tuple[Tensor, Tensor]], min_iou: float
) -> tuple[Tensor, Tensor]:
    """For each box (N, 4) of image `numbers` the object it overlaps most (N, 4), and its class, -1 for less than
    `min_iou`.
    """
    goals, labels = xyxy.clone(), torch.full((len(xyxy),), -1)
    for number, (objects, classes) in enumerate(truth):
        rows = torch.nonzero(numbers == number)[:, 0]
        if len(objects) and len(rows):
            overlap, nearest = box_iou(xyxy[rows], objects).max(dim=1)
            goals[rows], labels[rows] = objects[nearest], torch.where(overlap >= min_iou, classes[nearest], -1)
    return goals, labels


def deltas_between(xyxy: Tensor, goals: Tensor, scales: tuple[float, ...]) -> Tensor:
    """What `move` turns boxes into their goals with."""
    size, goal_size = xyxy[:, 2:] - xyxy[:, :2], goals[:, 2:] - goals[:, :2]
    shift = (goals[:, :2] + goals[:, 2:] - xyxy[:, :2] - xyxy[:, 2:]) / (2 * size)
    return torch.cat([shift, (goal_size / size).log()], dim=1) * xyxy.new_tensor(scales)
