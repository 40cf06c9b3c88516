"""Train the network that says where a licence plate may be in the picture of a vehicle.

    python training/train_plate_scorer.py photos/ traffic.mp4 --output plate_scorer.onnx

Plates are drawn onto pieces of the given photographs and videos (folders are searched), so nothing needs labels; a file
named twice counts twice. What ours was trained on stands in NOTICE.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from drawn_plates import PATCH, draw_plates, make_sample
from PIL import Image
from torch import nn

from trackverse.video import read_frames

PHOTOS, VIDEOS = (".jpg", ".jpeg", ".png", ".webp"), (".mp4", ".avi", ".mkv", ".webm")
LONG_SIDE = 960
# Channels, kernel, stride and dilation of each layer: an answer sees 77 px, the width of a plate and what is beside it.
LAYERS = ((16, 5, 2, 1), (32, 3, 2, 1), (32, 3, 1, 1), (32, 3, 1, 2), (32, 3, 1, 4), (32, 3, 1, 1))
BATCH, LEARNING_RATE = 24, 2e-3
PLATE_WEIGHT = 3.0  # of a cell of plate against one of none: to miss one is worse


def read_photos(paths: list[Path]) -> list[np.ndarray]:
    """(H, W, 3) pictures that a patch fits into, and a frame a second of videos. Others are left out, and counted."""
    found: list[np.ndarray] = []
    left_out = Counter[str]()
    for path in (file for given in paths for file in (sorted(given.rglob("*")) if given.is_dir() else [given])):
        if path.suffix.lower() in VIDEOS:
            found += [batch.images[0] for batch in read_frames(path, fps=1.0)]
        elif path.suffix.lower() in PHOTOS:
            try:
                image = Image.open(path).convert("RGBA")
            except OSError:  # Pillow's errors for what is no picture, too
                left_out["no picture that opens"] += 1
                continue
            image.thumbnail((LONG_SIDE, LONG_SIDE))
            pixels = np.asarray(image)
            if (pixels[..., 3] < 250).mean() >= 0.01:
                left_out["see-through"] += 1
            elif min(pixels.shape[:2]) < PATCH:
                left_out["too small"] += 1
            else:
                found.append(pixels[..., :3])
    print(f"{len(found)} pictures; left out: {dict(left_out) or 'none'}")
    return found


def make_net() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, (channels, kernel, stride, dilation) in zip((1, *(layer[0] for layer in LAYERS)), LAYERS, strict=False):
        pad = dilation * (kernel // 2)
        layers += [nn.Conv2d(before, channels, kernel, stride, pad, dilation), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(LAYERS[-1][0], 1, 1))


def train(net: nn.Sequential, photos: list[np.ndarray], num_steps: int, rng: np.random.Generator) -> None:
    plates = draw_plates(1500, rng)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    losses = []
    for step in range(num_steps):
        pictures, cells = zip(*(make_sample(photos, plates, rng) for _ in range(BATCH)), strict=True)
        logits = net(torch.from_numpy(np.stack(pictures)[:, None].astype(np.float32) / 255))
        wanted = torch.from_numpy(np.stack(cells)[:, None])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(PLATE_WEIGHT))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1} of {num_steps}: loss {np.mean(losses[-100:]):.4f}", flush=True)


def as_onnx(net: nn.Sequential) -> onnx.ModelProto:
    """float32 [1, 1, H, W] grey from 0 to 1 in; [1, 1, ceil(H / 4), ceil(W / 4)] from 0 to 1 out."""
    nodes, weights, name = [], [], "grey"
    modules = [*net, None]
    for number, (layer, after) in enumerate(pairwise(modules)):
        if not isinstance(layer, nn.Conv2d):
            continue
        kernel, bias = layer.weight.detach().double(), layer.bias.detach().double()
        if isinstance(after, nn.BatchNorm2d):  # folded into the convolution
            gain = after.weight / torch.sqrt(after.running_var + after.eps)
            kernel = kernel * gain[:, None, None, None]
            bias = (bias - after.running_mean) * gain + after.bias
        for what, values in (("kernel", kernel), ("bias", bias)):
            weights.append(onnx.numpy_helper.from_array(values.detach().float().numpy(), f"{what}{number}"))
        shape = {"strides": layer.stride, "dilations": layer.dilation, "pads": layer.padding * 2}
        inputs = [name, f"kernel{number}", f"bias{number}"]
        nodes.append(onnx.helper.make_node("Conv", inputs, [f"conv{number}"], **shape))
        name = f"out{number}"
        last = "Relu" if isinstance(after, nn.BatchNorm2d) else "Sigmoid"
        nodes.append(onnx.helper.make_node(last, [f"conv{number}"], [name]))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, h, w])
        for name, h, w in (("grey", "h", "w"), (name, "cells_h", "cells_w"))
    ]
    graph = onnx.helper.make_graph(nodes, "plate_scorer", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, help="photographs, videos and folders of them")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num_steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    cv2.setNumThreads(1)
    net = make_net()
    photos = read_photos(args.pictures)
    train(net, photos, args.num_steps, np.random.default_rng(args.seed))
    onnx.save(as_onnx(net.eval()), args.output)


if __name__ == "__main__":
    main()
