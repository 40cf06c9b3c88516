"""Detic one operation after the other, as the papers and the published code have it, to compare with.

Nothing is fused, folded, packed, cached or left out: batch norms stay apart, windows are cut and rolled, all proposals
go through all stages, with the background as a class of its own. It shares no code with the package. It works in
float64 too, which tells what float32 rounds off; and it is what benchmarks/detic.py measures in place of the published
code, which needs old Pythons.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn import functional

DEPTHS, HEADS = (2, 2, 18, 2), (4, 8, 16, 32)
WINDOW, SHIFT = 7, 3
STRIDES = (8, 16, 32, 64, 128)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
DELTA_SCALES = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


class Found(NamedTuple):
    """One image's N detections, best first, in its pixels: as Detections has them, but for `labels` (N,)."""

    xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    embeddings: np.ndarray


class PlainDetic:
    """`weights` are a checkpoint's entries, `vocabulary` (512, C); `frame_size`: least short and largest long side."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        vocabulary: np.ndarray,
        frame_size: tuple[int, int] = (480, 480),
        conf: float = 0.1,
        nms: float = 0.7,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.w = {name: value.to(dtype) for name, value in weights.items()}
        with_background = functional.pad(torch.from_numpy(vocabulary).to(dtype), (0, 1))
        self.classes = functional.normalize(with_background, dim=0, eps=1e-12)
        self.frame_size, self.conf, self.nms, self.dtype = frame_size, conf, nms, dtype
        self.is_swin = "backbone.bottom_up.patch_embed.proj.weight" in weights

    @torch.no_grad()
    def __call__(self, frame: np.ndarray) -> Found:
        """What is found in one (H, W, 3) image."""
        small_hw = self.small_hw(frame.shape[:2])
        pyramid = self.features(self.pixels(frame))
        proposals, objectness = self.proposals(pyramid)
        xyxy, probs, features = self.heads(pyramid, proposals, small_hw)
        scores = (probs * objectness[:, None]).sqrt()[:, :-1]
        return self.detections(xyxy, probs, scores, features, small_hw, frame.shape[:2])

    # ---- the picture

    def small_hw(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        height, width = frame_hw
        least, most = self.frame_size
        scale = least / min(height, width)
        new_h, new_w = (least, scale * width) if height < width else (scale * height, least)
        if max(new_h, new_w) > most:
            shrink = most / max(new_h, new_w)
            new_h, new_w = new_h * shrink, new_w * shrink
        return math.floor(new_h + 0.5), math.floor(new_w + 0.5)

    def pixels(self, frame: np.ndarray) -> Tensor:
        height, width = self.small_hw(frame.shape[:2])
        small = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
        mean, std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (MEAN, STD))
        normalised = (torch.from_numpy(small.copy()).permute(2, 0, 1).float() - mean) / std
        return functional.pad(normalised, (0, -width % 32, 0, -height % 32))[None].to(self.dtype)

    # ---- backbones and pyramid

    def features(self, pixels: Tensor) -> list[Tensor]:
        """p3..p7."""
        maps = self.swin(pixels) if self.is_swin else self.resnet(pixels)
        inner = self.conv("backbone.fpn_lateral5", maps[2])
        pyramid = [self.conv("backbone.fpn_output5", inner, padding=1)]
        for number in (4, 3):
            above = functional.interpolate(inner, scale_factor=2.0, mode="nearest")
            inner = self.conv(f"backbone.fpn_lateral{number}", maps[number - 3]) + above
            pyramid.insert(0, self.conv(f"backbone.fpn_output{number}", inner, padding=1))
        p6 = self.conv("backbone.top_block.p6", pyramid[-1], stride=2, padding=1)
        p7 = self.conv("backbone.top_block.p7", functional.relu(p6), stride=2, padding=1)
        return [*pyramid, p6, p7]

    def conv(self, name: str, x: Tensor, **geometry: int) -> Tensor:
        return functional.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **geometry)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)

    def resnet(self, x: Tensor) -> list[Tensor]:
        base = "backbone.bottom_up.base."

        def conv_norm(conv: str, norm: str, x: Tensor, **geometry: int) -> Tensor:
            names = ("running_mean", "running_var", "weight", "bias")
            statistics = [self.w[f"{base}{norm}.{name}"] for name in names]
            return functional.batch_norm(self.conv(base + conv, x, **geometry), *statistics, training=False, eps=1e-5)

        x = functional.relu(conv_norm("conv1", "bn1", x, stride=2, padding=3))
        x = functional.max_pool2d(x, 3, 2, padding=1)
        maps = []
        for stage in (1, 2, 3, 4):
            for block in (0, 1):
                name = f"layer{stage}.{block}."
                stride = 2 if stage > 1 and block == 0 else 1
                shortcut = x
                x = functional.relu(conv_norm(f"{name}conv1", f"{name}bn1", x, stride=stride, padding=1))
                x = conv_norm(f"{name}conv2", f"{name}bn2", x, padding=1)
                if stride == 2:
                    shortcut = conv_norm(f"{name}downsample.0", f"{name}downsample.1", shortcut, stride=2)
                x = functional.relu(x + shortcut)
            maps.append(x)
        return maps[1:]

    def swin(self, pixels: Tensor) -> list[Tensor]:
        base = "backbone.bottom_up."
        x = self.conv(f"{base}patch_embed.proj", pixels, stride=4).permute(0, 2, 3, 1)
        x = self.layer_norm(f"{base}patch_embed.norm", x)
        maps = []
        for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
            mask = shift_mask(x.shape[1], x.shape[2]).to(x.dtype)
            for block in range(depth):
                x = self.swin_block(f"{base}layers.{stage}.blocks.{block}.", x, heads, mask if block % 2 else None)
            if stage:
                maps.append(self.layer_norm(f"{base}norm{stage}", x).permute(0, 3, 1, 2).contiguous())
            if stage < 3:
                quarters = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
                merged = self.layer_norm(f"{base}layers.{stage}.downsample.norm", torch.cat(quarters, dim=3))
                x = self.linear(f"{base}layers.{stage}.downsample.reduction", merged)
        return maps

    def swin_block(self, name: str, x: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        _, height, width, _ = x.shape
        y = functional.pad(self.layer_norm(f"{name}norm1", x), (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        padded_h, padded_w = y.shape[1:3]
        if mask is not None:
            y = y.roll((-SHIFT, -SHIFT), (1, 2))
        windows = cut_windows(y)
        y = join_windows(self.attention(f"{name}attn.", windows, heads, mask), padded_h, padded_w)
        if mask is not None:
            y = y.roll((SHIFT, SHIFT), (1, 2))
        x = x + y[:, :height, :width]
        return x + self.linear(
            f"{name}mlp.fc2", functional.gelu(self.linear(f"{name}mlp.fc1", self.layer_norm(f"{name}norm2", x)))
        )

    def attention(self, name: str, windows: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        count, cells, dim = windows.shape
        qkv = self.linear(f"{name}qkv", windows).reshape(count, cells, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * (dim // heads) ** -0.5, qkv[1], qkv[2]
        logits = query @ key.transpose(2, 3)
        cell_y, cell_x = torch.arange(cells) // WINDOW, torch.arange(cells) % WINDOW
        place = (cell_y[:, None] - cell_y + 6) * 13 + cell_x[:, None] - cell_x + 6
        logits = logits + self.w[f"{name}relative_position_bias_table"][place].permute(2, 0, 1).contiguous()
        if mask is not None:
            logits = logits + mask[:, None]
        mixed = logits.softmax(dim=3) @ value
        return self.linear(f"{name}proj", mixed.transpose(1, 2).reshape(count, cells, dim))

    # ---- proposals

    def proposals(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) in network pixels and scores (N,), best first."""
        head = "proposal_generator.centernet_head."
        boxes, scores = [], []
        for level, (stride, x) in enumerate(zip(STRIDES, pyramid, strict=True)):
            for number in (0, 3, 6, 9):
                x = self.conv(f"{head}bbox_tower.{number}", x, padding=1)
                norm = f"{head}bbox_tower.{number + 1}"
                x = functional.relu(
                    functional.group_norm(x, 32, self.w[f"{norm}.weight"], self.w[f"{norm}.bias"], 1e-5)
                )
            probs = self.conv(f"{head}agn_hm", x, padding=1).sigmoid().flatten()
            scaled = self.w[f"{head}scales.{level}.scale"] * self.conv(f"{head}bbox_pred", x, padding=1)
            reach = (functional.relu(scaled) * stride)[0].flatten(1).T
            cells = torch.nonzero(probs > 1e-4)[:, 0]
            if len(cells) > 1000:
                cells = cells[probs[cells].topk(1000).indices]
            width = x.shape[3]
            centre = torch.stack([cells % width, cells // width], dim=1) * stride + stride // 2
            left_top, right_bottom = centre - reach[cells, :2], centre + reach[cells, 2:]
            boxes.append(torch.cat([left_top, torch.maximum(right_bottom, left_top + 0.01)], dim=1))
            scores.append(probs[cells].sqrt())
        xyxy, score = torch.cat(boxes), torch.cat(scores)
        kept = torchvision.ops.batched_nms(xyxy, score, torch.zeros(len(score), dtype=torch.int64), 0.9)
        if len(kept) > 256:
            kept = kept[score[kept] >= score[kept][255]]
        return xyxy[kept], score[kept]

    # ---- heads

    def heads(self, pyramid: list[Tensor], xyxy: Tensor, small_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Of all proposals (N, 4): boxes of the last stage, probabilities of C + 1 classes, and features."""
        total = xyxy.new_zeros(len(xyxy), self.classes.shape[1])
        for stage, scales in enumerate(DELTA_SCALES):
            if stage:
                xyxy = clip(xyxy, small_hw)
            flat = self.pool(pyramid, xyxy).flatten(1)
            feature = functional.relu(self.linear(f"roi_heads.box_head.{stage}.fc1", flat))
            feature = functional.relu(self.linear(f"roi_heads.box_head.{stage}.fc2", feature))
            predictor = f"roi_heads.box_predictor.{stage}."
            vector = self.linear(f"{predictor}cls_score.linear", feature)
            total = total + (50.0 * functional.normalize(vector, dim=1, eps=1e-12) @ self.classes).sigmoid()
            hidden = functional.relu(self.linear(f"{predictor}bbox_pred.0", feature))
            deltas = self.linear(f"{predictor}bbox_pred.2", hidden) / xyxy.new_tensor(scales)
            size = xyxy[:, 2:] - xyxy[:, :2]
            centre = xyxy[:, :2] + 0.5 * size + deltas[:, :2] * size
            size = size * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()
            xyxy = torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=1)
        return xyxy, total / 3, feature

    def pool(self, pyramid: list[Tensor], xyxy: Tensor) -> Tensor:
        """(N, 256, 7, 7)."""
        area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
        levels = (4 + torch.log2(area.sqrt() / 224 + 1e-8)).floor().clamp(3, 5).long()
        pooled = xyxy.new_zeros(len(xyxy), 256, 7, 7)
        for level in (3, 4, 5):
            rows = torch.nonzero(levels == level)[:, 0]
            rois = torch.cat([xyxy.new_zeros(len(rows), 1), xyxy[rows]], dim=1)
            pooled[rows] = torchvision.ops.roi_align(pyramid[level - 3], rois, 7, 0.5**level, 0, aligned=True)
        return pooled

    def detections(
        self,
        xyxy: Tensor,
        probs: Tensor,
        scores: Tensor,
        features: Tensor,
        small_hw: tuple[int, int],
        frame_hw: tuple[int, int],
    ) -> Found:
        scores = scores * (scores == scores.amax(dim=1, keepdim=True))
        xyxy = clip(xyxy, small_hw)
        rows, labels = torch.nonzero(scores > self.conf, as_tuple=True)
        kept = torchvision.ops.batched_nms(xyxy[rows], scores[rows, labels], labels, self.nms)[:300]
        rows, labels = rows[kept], labels[kept]
        stretch = [frame_hw[1] / small_hw[1], frame_hw[0] / small_hw[0]]
        large = clip(xyxy[rows] * xyxy.new_tensor(stretch * 2), frame_hw)
        solid = (large[:, 2:] > large[:, :2]).all(dim=1)
        rows, labels, large = rows[solid], labels[solid], large[solid]
        parts = (large, scores[rows, labels], labels, probs[rows, :-1], features[rows])
        return Found(*(part.numpy() for part in parts))


def clip(xyxy: Tensor, hw: tuple[int, int]) -> Tensor:
    return torch.stack([xyxy[:, axis].clamp(0, hw[1 - axis % 2]) for axis in range(4)], dim=1)


def cut_windows(x: Tensor) -> Tensor:
    """(1, H, W, C) to (windows, 49, C)."""
    _, height, width, dim = x.shape
    x = x.view(1, height // WINDOW, WINDOW, width // WINDOW, WINDOW, dim)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, WINDOW * WINDOW, dim)


def join_windows(windows: Tensor, height: int, width: int) -> Tensor:
    x = windows.view(1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(1, height, width, -1)


def shift_mask(height: int, width: int) -> Tensor:
    """(windows, 49, 49): -100 between cells of different regions of the rolled map."""
    regions = torch.zeros(1, -(-height // WINDOW) * WINDOW, -(-width // WINDOW) * WINDOW, 1)
    number = 0
    for rows in (slice(0, -WINDOW), slice(-WINDOW, -SHIFT), slice(-SHIFT, None)):
        for columns in (slice(0, -WINDOW), slice(-WINDOW, -SHIFT), slice(-SHIFT, None)):
            regions[:, rows, columns] = number
            number += 1
    cells = cut_windows(regions)[..., 0]
    return (cells[:, None] != cells[:, :, None]).float() * -100.0
