"""Made-up weights for Detic that anybody can rebuild bit for bit: random numbers seeded by each entry's name.

The published weights are hundreds of megabytes; these show an implementation's mistakes just as well. Gains are tuned
so that every level of the pyramid proposes boxes of all sizes; norms and biases lie far from 1 and 0, so that leaving
one out shows. tests/golden/detic_*.npz hold what the published code makes of them.
"""

from __future__ import annotations

import hashlib
import math
import re

import numpy as np
import torch

from trackverse.detectors.detic.checkpoint import empty_network, stored_name

# (gain, offset) by name; the first that matches counts.
GAINS = {
    r"backbone\.bottom_up\.base\.(layer\d\.\d\.)?conv1\.weight": (1.4, 0.0),
    r"backbone\.bottom_up\.base\.layer\d\.\d\.conv2\.weight": (1.2, 0.0),
    r"backbone\.bottom_up\.base\..*bn\d\.bias": (0.1, -0.3),
    r"proposal_generator\.centernet_head\.bbox_tower\.\d+\.weight": (1.4, 0.0),
    r"proposal_generator\.centernet_head\.bbox_tower\.\d+\.bias": (0.1, -0.3),
    r"proposal_generator\.centernet_head\.(agn_hm|bbox_pred)\.weight": (4.0, 0.0),
    r"proposal_generator\.centernet_head\.agn_hm\.bias": (0.1, -2.0),
    r"proposal_generator\.centernet_head\.bbox_pred\.bias": (0.1, 3.0),
    r"roi_heads\.box_head\.\d\.fc\d\.weight": (2.0, 0.0),
    r"roi_heads\.box_head\.\d\.fc\d\.bias": (0.1, -1.0),
    r"roi_heads\.box_predictor\.\d\.bbox_pred\.2\.weight": (1.2, 0.0),
}


def made_up(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array for an entry of a checkpoint."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    is_vector = len(shape) == 1
    if name.endswith(".running_var"):
        return 1 + np.float32(0.1) * np.abs(noise)
    if name.endswith(".running_mean"):
        return np.float32(0.1) * noise
    if name.endswith(".relative_position_bias_table"):
        return np.float32(0.5) * noise
    if is_vector and name.endswith((".weight", ".scale")):
        return 1 + np.float32(0.1) * noise
    default = (0.1 if is_vector else 1.0, 0.0)
    gain, offset = next((value for pattern, value in GAINS.items() if re.fullmatch(pattern, name)), default)
    spread = gain if is_vector else gain / math.sqrt(math.prod(shape[1:]))
    return np.float32(offset) + np.float32(spread) * noise


def made_up_checkpoint(kind: str) -> dict[str, torch.Tensor]:
    """Every weight of the network "r18" or "swinb" under the name that a published checkpoint has it by."""
    shapes = {stored_name(name, kind): tuple(value.shape) for name, value in empty_network(kind).state_dict().items()}
    return {
        name: torch.from_numpy(made_up(name, shape))
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def made_up_vocabulary(num_labels: int = 10) -> np.ndarray:
    """(512, C): one made-up text vector a class."""
    return made_up(f"custom_vocabulary_{num_labels}", (512, num_labels))
