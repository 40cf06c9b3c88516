"""Reading tensors out of a real TorchScript archive, and out of files that are none or that mean harm."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trackverse.detectors.torch_archive import check_sums, read_tensors
from trackverse.errors import SetupError

# Saved by torch.jit.script(module).save(path) of PyTorch 2.14.1: a parameter `t` that is stored transposed, `inner`
# with a half-precision `proj`, an int64 buffer `mask`, a LayerNorm `ln`, an int and a list of ints, and two `blocks`.
TINY = Path(__file__).parent / "golden" / "torchscript_tiny.pt"


def test_every_tensor_of_a_torchscript_archive_is_read_under_its_name() -> None:
    tensors = read_tensors(TINY)
    assert {name: (tensor.shape, str(tensor.dtype)) for name, tensor in tensors.items()} == {
        "t": ((3, 2), "float32"),
        "inner.proj": ((4, 2), "float16"),
        "inner.mask": ((2, 2), "int64"),
        "inner.ln.weight": ((4,), "float32"),
        "inner.ln.bias": ((4,), "float32"),
        "blocks.0.weight": ((4, 4), "float32"),
        "blocks.0.bias": ((4,), "float32"),
        "blocks.1.weight": ((4, 4), "float32"),
        "blocks.1.bias": ((4,), "float32"),
    }
    np.testing.assert_array_equal(tensors["t"], np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(tensors["inner.proj"], np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(tensors["inner.mask"], np.ones((2, 2)))


def test_only_what_is_wanted_is_read() -> None:
    assert set(read_tensors(TINY, lambda name: name.startswith("inner.ln."))) == {"inner.ln.weight", "inner.ln.bias"}


def test_a_hole_of_zeros_is_found_in_every_tensor(tmp_path: Path) -> None:
    """As a copy that broke off leaves it: the file is as long as it should be, and PyTorch loads it without a word."""
    path = tmp_path / "weights.pth"
    body = TINY.read_bytes()
    path.write_bytes(body)
    check_sums(path)
    for tensor in filter(np.any, read_tensors(TINY).values()):
        stored = tensor.T.tobytes() if tensor.shape == (3, 2) else tensor.tobytes()
        assert stored in body
        path.write_bytes(body.replace(stored, bytes(len(stored))))
        with pytest.raises(SetupError, match=r"weights\.pth: damaged \(.*/data/\d+'\)"):
            check_sums(path)


@pytest.mark.parametrize("body", [b"", b"\x80\x02}q\x00.", TINY.read_bytes()[:4000]])
def test_a_file_without_checksums_is_left_to_who_reads_it(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "old.pth").write_bytes(body)
    check_sums(tmp_path / "old.pth")
    check_sums(tmp_path / "missing.pth")
    check_sums(tmp_path)


class Harm:
    """Unpickled by the standard library, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """TINY with its members changed, or left out where `change` says None."""
    with zipfile.ZipFile(TINY) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            body = change(name, source.read(name))
            if body is not None:
                target.writestr(name, body)
    return path


def test_a_pickle_that_wants_to_run_something_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "made by the pickle"
    harm = pickle.dumps(Harm(marker))
    path = rewritten(tmp_path / "harm.pt", lambda name, body: harm if name.endswith("/data.pkl") else body)
    with pytest.raises(SetupError, match=r"it asks for posix.mkdir"):
        read_tensors(path)
    assert not marker.exists()
    pickle.loads(harm)
    assert marker.exists()  # so the harm was real


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda name, body: body[: len(body) // 2] if name.endswith(".pkl") else body, id="torn tree"),
        pytest.param(lambda name, body: None if "/data/" in name else body, id="tensors missing"),
        pytest.param(lambda name, body: body[:8] if "/data/" in name else body, id="tensors shorter than their shape"),
        pytest.param(lambda name, body: None if name.endswith("/data.pkl") else body, id="no tree"),
        pytest.param(lambda name, body: b"big" if name.endswith("byteorder") else body, id="other byte order"),
    ],
)
def test_a_damaged_archive_is_one_line(change: Callable[[str, bytes], bytes | None], tmp_path: Path) -> None:
    path = rewritten(tmp_path / "damaged.pt", change)
    with pytest.raises(SetupError, match=r"damaged.pt: not tensors saved by PyTorch") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_tree_whose_parts_hang_in_many_places_is_refused_before_they_are_walked(tmp_path: Path) -> None:
    """Forty dicts, each twice in the next one: a million million places."""
    tree: dict[str, object] = {}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    path = rewritten(tmp_path / "dag.pt", lambda name, body: pickle.dumps(tree) if name.endswith(".pkl") else body)
    with pytest.raises(SetupError, match="more than 100000 parts"):
        read_tensors(path)


@pytest.mark.parametrize("body", [b"", b"\x80\x02}q\x00.", b"<!DOCTYPE html>", TINY.read_bytes()[:4000]])
def test_a_file_of_another_kind_is_one_line(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(body)
    with pytest.raises(SetupError, match=r"other.pt: not tensors saved by PyTorch"):
        read_tensors(tmp_path / "other.pt")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        read_tensors(tmp_path / "missing.pt")


@pytest.mark.parametrize("offset, stride", [(0, 10**6), (10**6, 1), (0, -1), (-4, 1)])
def test_a_tensor_never_reaches_beyond_its_bytes(offset: int, stride: int, tmp_path: Path) -> None:
    """A view that is told by the file could show any memory of the process."""
    tree = _StateDict(offset, stride)
    path = rewritten(tmp_path / "reach.pt", lambda name, body: tree.dump() if name.endswith("/data.pkl") else body)
    with pytest.raises(SetupError, match=r"negative size|larger than its bytes"):
        read_tensors(path)


class _StateDict:
    """The pickle of {"w": a tensor of 4 elements in storage 0}, written opcode by opcode."""

    def __init__(self, offset: int, stride: int) -> None:
        self.offset, self.stride = offset, stride

    def dump(self) -> bytes:
        out = io.BytesIO()
        out.write(b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(")
        out.write(b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ")
        out.write(f"I{self.offset}\n(I4\nt(I{self.stride}\nt".encode())
        out.write(b"I00\n}tRs.")
        return out.getvalue()


def test_the_handwritten_tensor_is_read_where_it_keeps_to_its_bytes(tmp_path: Path) -> None:
    tree = _StateDict(offset=2, stride=1)
    path = rewritten(tmp_path / "fits.pt", lambda name, body: tree.dump() if name.endswith("/data.pkl") else body)
    np.testing.assert_array_equal(read_tensors(path)["w"], [2, 3, 4, 5])
