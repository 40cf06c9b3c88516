"""Tensors of a file that PyTorch saved, as numpy arrays, without PyTorch and without running what the file holds.

OpenAI's CLIP files are TorchScript archives: a zip of code, a pickle of the module tree, and one raw file for each
tensor. PyTorch's own safe loader refuses them, and its other loaders trust them. Here the pickle may ask only for the
few names that a tree of tensors needs; whatever else it asks for is an error, and the code is never touched. Files that
hold a plain state dict have the same shape and are read the same way.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from trackverse.errors import SetupError

INSTALL = "make detic, or pip install -r requirements-detic.txt"  # for those who need PyTorch after all
# A part of a pickle may hang at many places of the tree: a few bytes can make more places than could be looked at.
MAX_NODES = 100_000
DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, NDArray[Any]]:
    """The tensors whose dotted names ("ln_final.weight") are `wanted`. Raises SetupError for any other kind of file."""
    try:
        with zipfile.ZipFile(path) as archive:
            tree_name = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
            root = tree_name.partition("/")[0]
            has_order = f"{root}/byteorder" in archive.namelist()
            order = _read_stored(archive, f"{root}/byteorder") if has_order else b"little"
            if order != b"little":
                raise ValueError(f"byte order {order!r}")
            tree = _Unpickler(io.BytesIO(_read_stored(archive, tree_name))).load()
            leaves = {name: leaf for name, leaf in _leaves(tree, "") if wanted(name)}
            return {name: leaf.read(archive, root) for name, leaf in leaves.items()}
    except OSError as error:
        raise SetupError(f"{path}: can't read it: {error.strerror or error}") from error
    except (
        # The kinds of error that bytes which are no such file cause in zipfile, pickle and numpy.
        *(zipfile.BadZipFile, pickle.UnpicklingError, StopIteration, EOFError, NotImplementedError),
        *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    ) as error:
        raise SetupError(f"{path}: not tensors saved by PyTorch ({type(error).__name__}: {error})") from error


def check_sums(path: Path) -> None:
    """Compares what PyTorch saved with the file's own checksums, which PyTorch's loader doesn't: to it, a hole of zeros
    that a broken copy left is weights like any others. Raises SetupError; files without checksums pass.
    """
    if not zipfile.is_zipfile(path):
        return  # an older format, or nothing that PyTorch saved: for who reads it to say
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.compress_type == zipfile.ZIP_STORED:  # as all tensors are; TorchScript's code is not
                    archive.read(part)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise SetupError(f"{path}: damaged ({error}): fetch or copy it again") from error


@dataclass(frozen=True)
class _Storage:
    """The raw bytes of one or more tensors: file data/<key> of the archive."""

    dtype: str
    key: str

    def read(self, archive: zipfile.ZipFile, root: str) -> NDArray[Any]:
        return np.frombuffer(_read_stored(archive, f"{root}/data/{self.key}"), self.dtype)


def _read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the archive. PyTorch compresses none, so that nothing grows larger than the archive is."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; `offset` and `strides` count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, archive: zipfile.ZipFile, root: str) -> NDArray[Any]:
        values = self.storage.read(archive, root)[self.offset :]
        if min((*self.shape, *self.strides, self.offset), default=0) < 0:
            raise ValueError("a tensor of negative size")
        reach = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        # With a stride of 0 a few bytes would be a tensor of any size.
        if max(reach, math.prod(self.shape)) > len(values) and 0 not in self.shape:
            raise ValueError("a tensor larger than its bytes")
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values, self.shape, steps).copy()


class _Module:
    """What is left of a TorchScript module: its attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    """Builds modules, dicts, lists and tensors, and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in DTYPES.values():
            raise pickle.UnpicklingError(f"it refers to a {kind}")
        return _Storage(dtype, key)


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: object) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _leaves(tree: Any, name: str, seen: Iterator[int] | None = None) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a module tree or a (nested) dict, by dotted name. Raises ValueError for more than `MAX_NODES`."""
    seen = count() if seen is None else seen
    if next(seen) == MAX_NODES:
        raise ValueError(f"a tree of more than {MAX_NODES} parts")
    if isinstance(tree, _Tensor):
        yield name, tree
    children = tree.attributes if isinstance(tree, _Module) else tree
    if isinstance(children, dict):
        for key, child in children.items():
            yield from _leaves(child, f"{name}.{key}" if name else str(key), seen)
