"""Reading Detic's published checkpoints: whatever can be wrong with the file ends in one SetupError."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from trackverse.detectors.detic.network import DeticNetwork
from trackverse.detectors.detic.resnet import ResNet18
from trackverse.detectors.detic.swin import SwinB
from trackverse.detectors.torch_archive import check_sums
from trackverse.errors import SetupError

log = logging.getLogger(__name__)

BACKBONES: dict[str, type[ResNet18] | type[SwinB]] = {"r18": ResNet18, "swinb": SwinB}
BACKBONE_PREFIX = {"r18": "backbone.bottom_up.base.", "swinb": "backbone.bottom_up."}
PREFIX = {"pyramid": "backbone.", "proposals": "proposal_generator.centernet_head.", "heads": "roi_heads."}
TELLTALE = {
    "r18": "backbone.bottom_up.base.layer1.0.conv1.weight",
    "swinb": "backbone.bottom_up.patch_embed.proj.weight",
}
# Entries that finding boxes has no use for: masks, the vocabulary and class frequencies of the training, constants.
UNUSED = re.compile(
    r"roi_heads\.mask_head\.|.*\.(zs_weight|freq_weight|num_batches_tracked|relative_position_index|attn_mask)$|pixel_"
)
NUM_NAMED = 3


def load_network(path: Path) -> tuple[DeticNetwork, str]:
    """The network with a checkpoint's weights in float32 on the CPU, and its kind: "r18" or "swinb".

    Raises SetupError if the file is missing, damaged, not a Detic checkpoint, or one of another network.
    """
    entries = read_entries(path)
    kind = next((kind for kind, name in TELLTALE.items() if name in entries), None)
    if kind is None:
        raise SetupError(
            f"{path}: not a checkpoint of Detic with a Swin-B or ResNet-18 backbone; its entries are "
            f"{_some(entries)}; get Detic_LCOCOI21k_CLIP_SwinB_896b32_4x_ft4x_max-size.pth"
        )
    network = empty_network(kind)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if not UNUSED.match(name)}
    _check_entries(path, entries, {stored_name(name, kind): shape for name, shape in shapes.items()})
    weights = {name: entries[stored_name(name, kind)].to(torch.float32, copy=True) for name in shapes}
    network.load_state_dict(weights, strict=False, assign=True)  # not strict: the unused ones stay as they are
    return network, kind


def empty_network(kind: str) -> DeticNetwork:
    """A network of the kind "r18" or "swinb" without any memory behind its weights yet."""
    with torch.device("meta"):
        return DeticNetwork(BACKBONES[kind]())


def stored_name(name: str, kind: str) -> str:
    """What a checkpoint calls the weight that the network calls `name`."""
    part, _, rest = name.partition(".")
    return (BACKBONE_PREFIX[kind] if part == "backbone" else PREFIX[part]) + rest


def read_entries(path: Path) -> dict[str, Tensor]:
    """The weights in a .safetensors or .pth file; in the latter they may be under "model". Raises SetupError."""
    if not path.is_file():
        raise SetupError(f"{path}: no such file; give the path of Detic's weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    items = content.items() if isinstance(content, Mapping) else ()
    entries = {name: value for name, value in items if isinstance(name, str) and _is_weight(value)}
    if not entries:
        raise SetupError(f'{path}: no weights in it; a checkpoint has its tensors at the top or under "model"')
    return entries


def _is_weight(value: object) -> bool:
    """Whether it is a plain tensor of real numbers: none that is sparse, quantized or has no memory ("meta")."""
    if not isinstance(value, Tensor):
        return False
    return value.dtype.is_floating_point and value.layout == torch.strided and value.device.type == "cpu"


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as e:
        raise SetupError(f"{path}: not a whole safetensors file: {_first_line(e)}") from e


def _read_pickle(path: Path) -> object:
    """What torch.save wrote, tensors and plain containers only: no code in the file is run."""
    check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd formats: what can't be read is an error
            # Memory-mapped, the 45 MB vocabularies of the training, three of them, are never read. Needs a zip file.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        lines = [line for line in str(e).splitlines() if line]
        # The last but one says what is wrong; around it stands advice, such as to run the code after all.
        why = lines[-2] if len(lines) > 2 else _first_line(e)
        raise SetupError(f"{path}: not a plain checkpoint, or it holds code, which is not run: {why[:200]}") from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as e:
        raise SetupError(f"{path}: not a whole checkpoint file; fetch it again: {_first_line(e)}") from e


def _check_entries(path: Path, entries: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """One SetupError for everything that is missing, misshapen or not finite; a warning for what is left over."""
    missing = [name for name in expected if name not in entries]
    misshapen = [
        f"{name} {tuple(entries[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in entries and entries[name].shape != shape
    ]
    odd = [name for name in expected if name in entries and not entries[name].isfinite().all()]
    faults = {"missing": missing, "of another shape": misshapen, "with values that are not finite": odd}
    if any(faults.values()):
        told = "; ".join(f"{len(names)} entries {fault}: {_some(names)}" for fault, names in faults.items() if names)
        raise SetupError(f"{path}: not the weights of this network or damaged: {told}")
    extra = [name for name in entries if name not in expected and not UNUSED.match(name)]
    if extra:
        log.warning("%s: %d entries have no place in the network and are left out: %s", path, len(extra), _some(extra))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NUM_NAMED]) + (", …" if len(names) > NUM_NAMED else "")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
