"""Train a Detic on drawn shapes, from nothing: with ResNet-18, a quarter of an hour of one core with bfloat16.

    python training/train_drawn_detic.py drawn/
    python training/train_drawn_detic.py drawn/ --backbone swinb --teacher drawn/detic_r18.pth
    python benchmarks/detic.py --weights drawn/detic_r18.pth --vocab drawn/vocabulary.npy --pictures drawn/held_out

The published checkpoints are trained for days on photographs. This one is trained in the same way on `drawn_scenes`,
to tell what made-up weights can't: how much a network that knows its objects loses to bfloat16. The folder gets the
weights in the published layout (240 MB), the vocabulary (512, C), made up to be like CLIP's, and held-out scenes.

Swin-B takes an hour or more, and begins with what a ResNet-18 has learnt: see `detic_start`. Weights are saved on the
way, too.

As in the published training, multiplications are in 16 bits (bfloat16, where the processor has it), save those of the
last steps, so that the network isn't taught to live with what that rounds off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from detic_losses import network_loss
from detic_start import example_loss, make_vocabulary, take_over, untrained_network
from drawn_scenes import SHAPES, Scene, draw_scene
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

from trackverse.detectors.detic import load_detic
from trackverse.detectors.detic.checkpoint import BACKBONES, load_network, stored_name
from trackverse.detectors.detic.detector import Detic
from trackverse.detectors.detic.device import multiplies_bfloat16
from trackverse.detectors.detic.network import DeticNetwork
from trackverse.detectors.detic.resnet import ResNet18
from trackverse.detectors.detic.swin import SwinB

SCENE_HW, HELD_OUT_HW = (192, 256), (320, 480)
NUM_HELD_OUT = 60
NUM_STEPS = 720
FLOAT32_FRAC = 0.05  # of the steps, the last ones
BATCH, MAX_GRADIENT = 4, 10.0
LEARNING_RATE = {ResNet18: 5e-4, SwinB: 3e-4}
EXAMPLE_FRAC = 0.5  # of the steps, the first ones, if there is a teacher
WARM_UP_STEPS, FADING_FRAC = 100, 0.4  # the learning rate grows to begin with, and fades over the last part


def train(
    network: DeticNetwork,
    vocabulary: np.ndarray,
    photos: Sequence[np.ndarray],
    num_steps: int,
    rng: np.random.Generator,
    teacher: DeticNetwork | None = None,
    save: Callable[[], None] = lambda: None,
) -> list[float]:
    """The loss of each step. `save` is called now and then."""
    rate = LEARNING_RATE[type(network.backbone)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4, fused=True)
    num_examples = round(EXAMPLE_FRAC * num_steps) if teacher else 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, num_examples, num_steps))
    network.train()
    num_mixed = num_steps - round(FLOAT32_FRAC * num_steps) if multiplies_bfloat16(torch.device("cpu")) else 0
    begin, history = time.monotonic(), []
    for step in range(1, num_steps + 1):
        scenes = [draw_scene(photos, SCENE_HW, rng) for _ in range(BATCH)]
        with torch.autocast("cpu", torch.bfloat16, enabled=step <= num_mixed):
            if teacher and step <= num_examples:
                losses = example_loss(network, teacher, scenes)
            else:
                losses = network_loss(network, scenes, torch.from_numpy(vocabulary))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT)
        optimizer.step()
        schedule.step()
        history.append({name: value.item() for name, value in losses.items()})
        if step % 50 == 0:
            recent = [own for own in history[-50:] if own.keys() == losses.keys()]
            parts = ", ".join(f"{name} {np.mean([own[name] for own in recent]):.3f}" for name in losses)
            print(f"step {step} of {num_steps}, {time.monotonic() - begin:.0f} s: {parts}", flush=True)
            save()
    return [sum(losses.values()) for losses in history]


def rate_share(step: int, num_examples: int, num_steps: int) -> float:
    """The share of the full learning rate that a step is made with; after the examples, too, it grows anew."""
    since = step - num_examples if step >= num_examples else step
    return min(1.0, (since + 1) / WARM_UP_STEPS, (num_steps - step) / (FADING_FRAC * num_steps))


def checkpoint(network: DeticNetwork, kind: str) -> dict[str, Tensor]:
    """The weights by their published names."""
    return {stored_name(name, kind): value.detach().contiguous() for name, value in network.state_dict().items()}


def held_out_figures(detector: Detic, scenes: Sequence[Scene]) -> dict[str, float]:
    """Of all objects: the share found, at an IoU of half or more and with the right class, and their mean IoU."""
    overlaps = []
    for scene in scenes:
        (found,) = detector(scene.image[None])
        overlap = box_iou(torch.from_numpy(scene.xyxy), torch.from_numpy(found.xyxy)).numpy()
        overlap[scene.labels[:, None] != found.logits.argmax(axis=1)] = 0
        overlaps.append(overlap.max(axis=1, initial=0))
    best = np.concatenate(overlaps)
    hits = best[best >= 0.5]
    return {"objects": len(best), "recall": len(hits) / len(best), "mean IoU": float(hits.sum()) / max(1, len(hits))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for weights, vocabulary and held-out scenes")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="r18")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="one of the same --seed, to learn from first")
    parser.add_argument("--num_steps", type=int, default=NUM_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    vocabulary = make_vocabulary(len(SHAPES), rng)
    network, teacher = untrained_network(args.backbone), None
    if args.teacher:
        teacher = load_network(args.teacher)[0].eval()
        take_over(network, teacher)
    photos = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.rocket()]
    weights = args.folder / f"detic_{args.backbone}.pth"
    (args.folder / "held_out").mkdir(parents=True, exist_ok=True)

    def save() -> None:
        torch.save({"model": checkpoint(network, args.backbone)}, weights)

    train(network, vocabulary, photos, args.num_steps, rng, teacher, save)
    save()
    np.save(args.folder / "vocabulary.npy", vocabulary)
    held_out = [draw_scene([skimage.data.coffee()], HELD_OUT_HW, rng) for _ in range(NUM_HELD_OUT)]
    for number, scene in enumerate(held_out):
        Image.fromarray(scene.image).save(args.folder / "held_out" / f"{number:03d}.png")
    print(held_out_figures(load_detic(weights, vocabulary), held_out))


if __name__ == "__main__":
    main()
