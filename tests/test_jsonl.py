"""JSON lines: what is read from good, torn and hostile files, and that nothing is written that others can't read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackverse import jsonl
from trackverse.errors import RecordError

PACKERS: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gzip": gzip.compress}


@pytest.fixture(params=PACKERS.values(), ids=PACKERS)
def pack(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    """How the bytes of a file are packed; the reader is not told, and the name does not say it."""
    packer: Callable[[bytes], bytes] = request.param
    return packer


FILES = {
    "ends with a newline": (b"a\nb\n", [(1, b"a"), (2, b"b")]),
    "ends without a newline": (b"a\nb", [(1, b"a"), (2, b"b")]),
    "empty lines count but are passed over": (b"\n\na\n  \nb\n", [(3, b"a"), (5, b"b")]),
    "lines of Windows": (b"a\r\nb\r\n", [(1, b"a"), (2, b"b")]),
    "nothing in it": (b"", []),
    "one byte": (b"a", [(1, b"a")]),
    "not UTF-8": (b"\xff\xfe\n", [(1, b"\xff\xfe")]),
}


@pytest.mark.parametrize(("content", "lines"), FILES.values(), ids=FILES)
def test_read_lines(
    tmp_path: Path, pack: Callable[[bytes], bytes], content: bytes, lines: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(pack(content))
    assert list(jsonl.read_lines(path)) == lines
    with jsonl.open_bytes(path) as file:
        assert file.read() == content


def test_a_torn_gzip_gives_the_lines_before_the_tear_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gzip"
    members = [jsonl.gzip_member(f"line {n}".encode()) for n in range(3)]
    path.write_bytes(b"".join(members)[:-5])
    read = []
    with pytest.raises(RecordError, match=r"a\.jsonl\.gzip: torn gzip after line 3") as caught:
        for pair in jsonl.read_lines(path):
            read.append(pair)
    assert caught.value.reason == "torn gzip"
    assert read[:2] == [(1, b"line 0"), (2, b"line 1")]


DAMAGE = {
    "bytes that are no gzip after it": lambda data: data + b"no gzip",
    "wrong bytes within": lambda data: data[:20] + b"\xff" * 30 + data[50:],
    "a wrong checksum": lambda data: data[:-8] + b"\0" * 8,
    "only a header": lambda data: data[:10],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_gzip_is_one_error_of_ours(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.gzip"
    path.write_bytes(damage(gzip.compress("\n".join(str(n * n) for n in range(500)).encode())))
    with pytest.raises(RecordError) as caught:
        list(jsonl.read_lines(path))
    assert caught.value.reason == "torn gzip"
    assert str(path) in str(caught.value)


def test_only_the_first_bytes_are_read_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gzip"
    members = [jsonl.gzip_member(f"line {n}".encode()) for n in range(4)]
    path.write_bytes(b"".join(members) + b"half a commit")
    committed = sum(map(len, members[:2]))
    assert list(jsonl.read_lines(path, max_compressed_bytes=committed)) == [(1, b"line 0"), (2, b"line 1")]
    assert list(jsonl.read_lines(path, max_compressed_bytes=0)) == []


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"fits\n" + b"x" * 1001))
    lines = jsonl.read_lines(path)
    assert next(lines) == (1, b"fits")
    with pytest.raises(RecordError, match=r"bomb\.jsonl\.gz:2: line over") as caught:
        next(lines)
    assert caught.value.reason == "line too long"


BAD_TEXTS = {
    "nothing": b"",
    "torn": b'{"a": 1',
    "two values": b"1 2",
    "single quotes": b"{'a': 1}",
    "not a number": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "not UTF-8": b'{"a": "\xff"}',
    "nested without end": b"[" * 100_000,
    "a number of 5000 digits": b"1" * 5000,
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_parse_refuses(text: bytes) -> None:
    with pytest.raises(RecordError, match=r"^file:7: ") as caught:
        jsonl.parse(text, "file:7")
    assert caught.value.reason == "bad JSON"
    assert "\n" not in str(caught.value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_what_is_dumped_is_one_line_and_parses_to_the_same(value: object) -> None:
    text = jsonl.dump(value)
    assert "\n" not in text
    assert jsonl.parse(text, "here") == value


def test_dump_is_compact_and_readable() -> None:
    assert jsonl.dump({"label": "Käse", "box": [1.5, 2]}) == '{"label":"Käse","box":[1.5,2]}'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_dump_refuses_what_is_not_json(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonl.dump([number])


def test_members_join_to_one_gzip_file_that_never_depends_on_the_clock(tmp_path: Path) -> None:
    lines = [json.dumps({"n": n}).encode() for n in range(3)]
    data = b"".join(map(jsonl.gzip_member, lines))
    assert gzip.decompress(data) == b"".join(line + b"\n" for line in lines)
    assert jsonl.gzip_member(b"x")[4:8] == b"\0\0\0\0"  # the field of the modification time


def test_read_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{")
    with pytest.raises(RecordError, match=r"a\.json: "):
        jsonl.read_json(path)
    with pytest.raises(FileNotFoundError):
        jsonl.read_json(tmp_path / "none.json")
