"""CLIP ViT-B/32's text tower: sentences in, embeddings out.

Its weights are OpenAI's, which were trained with QuickGELU (x · sigmoid(1.702 x)); with the usual GELU the embeddings
come out wrong without any other sign of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trackverse.detectors.torch_archive import INSTALL, read_tensors
from trackverse.errors import SetupError
from trackverse.types import Float32

MODEL = "ViT-B-32-quickgelu"
MAX_TOKENS = 77
EMBEDDING_DIM = 512
BATCH_SIZE = 64
TEXT_TENSORS = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


def tokenize(prompts: list[str]) -> list[list[int]]:
    """The tokens of each prompt, with its start and its end. Raises SetupError if open_clip is not installed."""
    tokenizer = _open_clip().SimpleTokenizer()
    return [[tokenizer.sot_token_id, *tokenizer.encode(prompt), tokenizer.eot_token_id] for prompt in prompts]


def encode(tokens: list[list[int]], weights: Path) -> Float32:
    """Embeddings of N tokenized prompts of at most 77 tokens, (N, 512), not normalised.

    Raises SetupError if open_clip is not installed, or if `weights` don't hold the text tower of CLIP ViT-B/32.
    """
    import torch

    # Attention looks back only, so what pads a prompt after its end can't reach it: the longest prompt is long enough.
    context_length = max(map(len, tokens))
    tower = _load_tower(weights, context_length)
    padded = torch.zeros(len(tokens), context_length, dtype=torch.long)
    for row, prompt in zip(padded, tokens, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    with torch.inference_mode():
        embeddings = torch.cat(
            [tower(padded[start : start + BATCH_SIZE]) for start in range(0, len(padded), BATCH_SIZE)]
        )
    vectors: Float32 = embeddings.numpy().astype(np.float32)
    return vectors


def _load_tower(weights: Path, context_length: int) -> Any:
    import torch

    open_clip = _open_clip()
    config = open_clip.get_model_config(MODEL)
    tower = open_clip.transformer.TextTransformer(
        **config["text_cfg"] | {"context_length": context_length},
        output_dim=config["embed_dim"],
        act_layer=open_clip.transformer.QuickGELU,
    )
    tensors = read_tensors(weights, lambda name: name.startswith(TEXT_TENSORS))
    if "positional_embedding" in tensors:
        tensors["positional_embedding"] = tensors["positional_embedding"][:context_length]
    try:
        tower.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in tensors.items()})
    except RuntimeError as error:  # torch's word for names that are missing or too many, and for other shapes
        raise SetupError(f"{weights}: not the text tower of CLIP ViT-B/32 ({str(error).split(':')[0]})") from error
    return tower.eval()


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise SetupError(f"a vocabulary of your own needs CLIP's text tower: {INSTALL} ({error})") from error
    return open_clip
