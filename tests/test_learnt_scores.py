"""The published classifiers' loaders, against torchvision and open_clip themselves, with weights made here.

The published files can't be had in a test. Made are a whole ResNet-18 of two classes, and in OpenAI's layout a CLIP of
two small layers whose embedding has ViT-L/14's 768 numbers. A whole ViT-L/14 of random weights takes 4 GB of memory
and 15 s: its test is opt-in.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stills

torch = pytest.importorskip("torch", reason="the published classifiers need torch (make detic)")
open_clip = pytest.importorskip("open_clip", reason="the aesthetic score needs open_clip (make detic)")

from PIL import Image  # noqa: E402
from torchvision import models, transforms  # noqa: E402

from trackverse.errors import SetupError  # noqa: E402
from trackverse.learnt_scores import CLIP, IMAGENET, AestheticNet, CartoonNet, prepare  # noqa: E402

VIT_L14 = {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}
SMALL_TOWER = {"image_size": 224, "layers": 2, "width": 128, "patch_size": 56}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Three different frames of the demo's street at the size that the filters see: (3, 360, 480, 3)."""
    return np.stack([stills.street(number) for number in (0, 40, 80)])


def resnet18(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return models.resnet18(num_classes=2).eval()


def small_clip(vision: dict[str, int] = SMALL_TOWER) -> Any:
    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}
    return open_clip.CLIP(768, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), quick_gelu=True).eval()


def linear_head(width: int = 768) -> Any:
    """Twenty times as steep as new layers are, so that frames score differently."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(width, 1)
    layer.weight.data *= 20
    return layer


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def pillow_pixels(images: np.ndarray, transform: Any) -> Any:
    return torch.stack([transform(Image.fromarray(image)) for image in images])


# ---- what comes out is what torchvision and open_clip give


@pytest.mark.parametrize("hw", [(360, 480), (270, 480), (480, 270), (225, 224), (101, 480)])
def test_frames_are_prepared_as_the_networks_were_trained(hw: tuple[int, int]) -> None:
    image = stills.cv2.resize(stills.street(0), hw[::-1])[None]
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    wanted = {
        (256, "bilinear", IMAGENET): transforms.Compose(steps),
        (224, "bicubic", CLIP): open_clip.image_transform(
            224, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
        ),
    }
    for how, transform in wanted.items():
        difference = (prepare(image, *how) - pillow_pixels(image, transform)).abs()
        assert difference.max() < 2.5 / 255 / 0.22  # two grey levels, by the rounding of the two libraries
        assert difference.mean() < 0.5 / 255


def test_the_cartoon_score_is_the_mean_of_the_first_logit(tmp_path: Path, images: np.ndarray) -> None:
    model = resnet18()
    judge = CartoonNet(save(model.state_dict(), tmp_path / "cartoon.pth"))
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    with torch.inference_mode():
        logits = model(pillow_pixels(images, transforms.Compose(steps)))
    assert judge(images) == pytest.approx(float(logits[:, 0].mean()), abs=2e-3)
    assert judge(images[:1]) == pytest.approx(float(logits[0, 0]), abs=2e-3)
    assert abs(float(logits[:, 0].mean() - logits[:, 1].mean())) > 0.02  # so that the wrong column would be noticed


def half(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.half() for name, value in state.items()}


@pytest.mark.parametrize("kind", ["float", "half"])
def test_the_aesthetic_score_is_that_of_open_clip(tmp_path: Path, images: np.ndarray, kind: str) -> None:
    """OpenAI's file is of half floats; whatever it is of, the sums are made in floats."""
    model, head = small_clip(), linear_head()
    state = model.state_dict() if kind == "float" else half(model.state_dict())
    judge = AestheticNet(save(state, tmp_path / "clip.pt"), save(head.state_dict(), tmp_path / "head.pth"))
    colors = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    pixels = pillow_pixels(images, open_clip.image_transform(224, is_train=False, **colors))
    with torch.inference_mode():
        scores = head(model.encode_image(pixels, normalize=True))
    assert judge(images) == pytest.approx(float(scores.mean()), abs=5e-3)
    assert scores.std() > 0.02  # frames score differently, so that a constant would be noticed


@pytest.mark.filterwarnings("ignore")
def test_openais_archive_is_read(tmp_path: Path, images: np.ndarray) -> None:
    """OpenAI's file is a TorchScript archive, which torch's own safe loader refuses."""
    model, head = small_clip(), save(linear_head().state_dict(), tmp_path / "head.pth")

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.visual

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.visual(pixels)

    traced = torch.jit.trace(Tower().eval(), torch.zeros(1, 3, 224, 224), check_trace=False)
    traced.save(str(tmp_path / "archive.pt"))
    plain = AestheticNet(save(model.state_dict(), tmp_path / "plain.pt"), head)
    assert AestheticNet(tmp_path / "archive.pt", head)(images) == plain(images)


@pytest.mark.slow
@pytest.mark.skipif("TEST_VIT_L14" not in os.environ, reason="takes 4 GB and 15 s: set TEST_VIT_L14=1")
def test_a_whole_vit_l14(tmp_path: Path, images: np.ndarray) -> None:
    model, head = small_clip(VIT_L14), linear_head()
    clip = save(half(model.state_dict()), tmp_path / "clip.pt")
    score = AestheticNet(clip, save(head.state_dict(), tmp_path / "head.pth"))(images[:1])
    colors = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    with torch.inference_mode():
        pixels = pillow_pixels(images[:1], open_clip.image_transform(224, is_train=False, **colors))
        assert score == pytest.approx(float(head(model.encode_image(pixels, normalize=True))), abs=1e-3)


# ---- files that are something else


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


NOT_CARTOON: dict[str, tuple[Callable[[], Any], str]] = {
    "a thousand classes": (lambda: models.resnet18(num_classes=1000).state_dict(), r"fc\.bias is \(1000,\) instead of"),
    "one class": (lambda: models.resnet18(num_classes=1).state_dict(), r"fc\.bias is \(1,\) instead of \(2,\)"),
    "another depth": (lambda: models.resnet34(num_classes=2).state_dict(), r"instead of absent, and \d+ more"),
    "a tensor is missing": (lambda: without(resnet18().state_dict(), "conv1.weight"), r"conv1\.weight is missing"),
    "within a checkpoint": (lambda: {"model": resnet18().state_dict(), "epoch": 3}, "not a state dict"),
    "a list": (lambda: [1, 2], "not a state dict, but a list"),
}


@pytest.mark.parametrize("case", NOT_CARTOON)
def test_other_networks_are_no_cartoon_classifier(tmp_path: Path, case: str) -> None:
    make, message = NOT_CARTOON[case]
    path = save(make(), tmp_path / "some.pth")
    with pytest.raises(SetupError, match=message) as caught:
        CartoonNet(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sign),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_can_run_nothing(tmp_path: Path) -> None:
    path, sign = tmp_path / "trap.pth", tmp_path / "sprung"
    for write in (
        lambda: torch.save({"fc.weight": Trap(sign)}, path),
        lambda: path.write_bytes(pickle.dumps(Trap(sign))),
    ):
        write()
        with pytest.raises(SetupError, match=r"trap\.pth: not weights") as caught:
            CartoonNet(path)
        assert "weights_only" not in str(caught.value)  # torch's advice to trust the file
        assert not sign.exists()


def test_files_that_are_damaged_or_missing_are_told(tmp_path: Path) -> None:
    clip, head = (
        save(small_clip().state_dict(), tmp_path / "clip.pt"),
        save(linear_head().state_dict(), tmp_path / "h.pth"),
    )
    with pytest.raises(SetupError, match=r"none\.pth: no such file"):
        CartoonNet(tmp_path / "none.pth")
    torn = tmp_path / "torn.pth"
    torn.write_bytes(head.read_bytes()[:900])
    with pytest.raises(SetupError, match=r"torn\.pth"):
        AestheticNet(clip, torn)
    with pytest.raises(SetupError, match=r"cartoon\.pth: not the image tower"):
        AestheticNet(save(resnet18().state_dict(), tmp_path / "cartoon.pth"), head)
    with pytest.raises(SetupError, match=r"narrow\.pth: not a linear .* 768 numbers: weight is \(1, 512\)"):
        AestheticNet(clip, save(linear_head(512).state_dict(), tmp_path / "narrow.pth"))
    large = save(small_clip(SMALL_TOWER | {"image_size": 336}).state_dict(), tmp_path / "large.pt")
    with pytest.raises(SetupError, match=r"large\.pt: not the image tower .* of 224 px"):
        AestheticNet(large, head)
