"""Where torch computes, and what that can do."""

from __future__ import annotations

import ctypes
import sys

import torch

from trackverse.errors import SetupError


def usable_device(name: str, num_threads: int = 0) -> str:
    """The name itself, with "auto" resolved, tried out. Sets the number of threads on the CPU unless it is 0."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise SetupError(f"device {name} can't be used: {str(e).splitlines()[0]}") from e
    if name == "cpu" and num_threads:
        torch.set_num_threads(num_threads)
    return name


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it. Without, a CPU takes seven times as long as in float32."""
    names = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    return device.type != "cpu" or any(torch.cpu.get_capabilities().get(name, False) for name in names)


def trim_heap() -> None:
    """Gives back to the system what was freed, where the C library (glibc) has a function for that."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
