"""ONNX models on the CPU: the door to onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from trackverse.errors import SetupError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def load_model(path: Path, num_threads: int = 0) -> InferenceSession:
    """The model in a file, run by `num_threads` (0: one per core). Raises SetupError if it is missing or damaged."""
    # Otherwise the library reports to its maker who uses it, and leaves a device id in the home folder.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if not path.exists():
        raise SetupError(f"{path}: missing; it is part of the repository, git checkout brings it back")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise SetupError(f"{path}: not a usable ONNX model ({error})") from error
