"""The large weights that don't come with the repository: what they are for, and where they are published."""

from __future__ import annotations

from dataclasses import dataclass

DETIC_URL = "https://dl.fbaipublicfiles.com/detic"
DETIC_METADATA_URL = "https://raw.githubusercontent.com/facebookresearch/Detic/main/datasets/metadata"
CLIP_URL = "https://openaipublic.azureedge.net/clip/models"
TRACKVERSE_URL = "https://raw.githubusercontent.com/MMPLab/TrackVerse/v1/assets"


@dataclass(frozen=True)
class WeightFile:
    """A published file. `size` in bytes and `sha256` are None where they are not published."""

    name: str
    url: str
    filename: str
    size: int | None
    sha256: str | None
    licence: str
    purpose: str


WEIGHTS = (
    WeightFile(
        "detic-swinb",
        f"{DETIC_URL}/Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size.pth",
        "Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size.pth",
        size=None,
        sha256=None,
        licence="Apache-2.0 (Detic, Meta)",
        purpose="Detic with Swin-B: the detector of the published pipeline",
    ),
    WeightFile(
        "detic-r18",
        f"{DETIC_URL}/Detic_LCOCOI21k_CLIP_R18_640b32_4x_ft4x_max-size.pth",
        "Detic_LCOCOI21k_CLIP_R18_640b32_4x_ft4x_max-size.pth",
        size=None,
        sha256=None,
        licence="Apache-2.0 (Detic, Meta)",
        purpose="Detic with ResNet-18: the small, fast one",
    ),
    WeightFile(
        "lvis-classifier",
        f"{DETIC_METADATA_URL}/lvis_v1_clip_a%2Bcname.npy",
        "lvis_v1_clip_a+cname.npy",
        size=1_232_000,
        sha256="16059f1fe5f7d857273d16a1b7c6d6141a88d133e99a107be5065f42311da0f8",
        licence="Apache-2.0 (Detic, Meta)",
        purpose="Detic's classifier for --vocab lvis (1203 classes)",
    ),
    WeightFile(
        "coco-classifier",
        f"{DETIC_METADATA_URL}/coco_clip_a%2Bcname.npy",
        "coco_clip_a+cname.npy",
        size=None,
        sha256=None,
        licence="Apache-2.0 (Detic, Meta)",
        purpose="Detic's classifier for --vocab coco (80 classes)",
    ),
    WeightFile(
        "clip-vit-b32",
        f"{CLIP_URL}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "ViT-B-32.pt",
        size=None,
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        licence="MIT (CLIP, OpenAI)",
        purpose="CLIP's text tower: makes Detic's classifier for any other vocabulary",
    ),
    WeightFile(
        "clip-vit-l14",
        f"{CLIP_URL}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        "ViT-L-14.pt",
        size=None,
        sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        licence="MIT (CLIP, OpenAI)",
        purpose="CLIP's image tower, for the aesthetic score",
    ),
    WeightFile(
        "aesthetic-head",
        f"{TRACKVERSE_URL}/aesthetic_predictor_vit_l14_linear.pth",
        "aesthetic_predictor_vit_l14_linear.pth",
        size=4_071,
        sha256="2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
        licence="published in the TrackVerse repository (MIT)",
        purpose="aesthetic score of a CLIP ViT-L/14 embedding",
    ),
    WeightFile(
        "cartoon-classifier",
        f"{TRACKVERSE_URL}/cartoon_detector.pth",
        "cartoon_detector.pth",
        size=None,
        sha256=None,
        licence="published in the TrackVerse repository (MIT)",
        purpose="tells cartoons from filmed video (ResNet-18)",
    ),
)
BY_NAME = {entry.name: entry for entry in WEIGHTS}
