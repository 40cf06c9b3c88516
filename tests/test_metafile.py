"""Metafiles in every notation that is taken, what is said of lines that can't be used, and how much memory it costs."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackverse import jsonl, metafile, metafile_line
from trackverse.errors import RecordError, SetupError
from trackverse.types import Clip, SourceVideo

REPO_DIR = Path(__file__).resolve().parent.parent
HDVILA = {
    "video_id": "QMi8x8o55Ns",
    "url": "https://www.youtube.com/watch?v=QMi8x8o55Ns",
    "clip": [
        {"clip_id": "QMi8x8o55Ns.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]},
        {"clip_id": "QMi8x8o55Ns.2.mp4", "span": ["01:02:03.500", "01:02:04"]},
    ],
}
HDVILA_VIDEO = SourceVideo(
    "QMi8x8o55Ns",
    "https://www.youtube.com/watch?v=QMi8x8o55Ns",
    (
        Clip("QMi8x8o55Ns", "QMi8x8o55Ns.1.mp4", 17.759, 23.279),
        Clip("QMi8x8o55Ns", "QMi8x8o55Ns.2.mp4", 3723.5, 3724.0),
    ),
)
ELSEWHERE = {"video_id": "holiday 7", "url": "https://example.org/7.mp4"}
ELSEWHERE_VIDEO = SourceVideo("holiday 7", "https://example.org/7.mp4", None)


def read(path: Path) -> tuple[list[SourceVideo], list[str]]:
    """The videos of a metafile, and what was said of its bad lines."""
    errors: list[RecordError] = []
    videos = list(metafile.read_metafile(path, errors.append))
    assert all("\n" not in str(error) for error in errors)
    return videos, [str(error) for error in errors]


def approximately(videos: Sequence[SourceVideo]) -> list[Any]:
    """Equal up to what adding hours, minutes and seconds as floats costs."""
    return [
        (
            video.video_id,
            video.url,
            video.clips and [(c.video_id, c.clip_id, pytest.approx((c.start_s, c.end_s))) for c in video.clips],
        )
        for video in videos
    ]


def plainly(videos: Sequence[SourceVideo]) -> list[Any]:
    return [
        (
            video.video_id,
            video.url,
            video.clips and [(c.video_id, c.clip_id, (c.start_s, c.end_s)) for c in video.clips],
        )
        for video in videos
    ]


# ---- notations


def as_lines(entries: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def as_array(entries: Sequence[Any]) -> bytes:
    return json.dumps(entries).encode()


FORMS: dict[str, Callable[[Sequence[Any]], bytes]] = {
    "JSON lines": as_lines,
    "JSON lines, gzipped": lambda entries: gzip.compress(as_lines(entries)),
    "JSON lines of Windows, with a byte order mark": lambda e: b"\xef\xbb\xbf" + as_lines(e).replace(b"\n", b"\r\n"),
    "one JSON array": as_array,
    "one JSON array, gzipped": lambda entries: gzip.compress(as_array(entries)),
    "one JSON array over many lines": lambda entries: b"\n " + json.dumps(entries, indent=2).encode() + b"\n",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_an_hdvila_file(tmp_path: Path, form: Callable[[Sequence[Any]], bytes]) -> None:
    path = tmp_path / "metadata"  # what it is must not depend on its name
    path.write_bytes(form([HDVILA, ELSEWHERE]))
    videos, errors = read(path)
    assert plainly(videos) == approximately([HDVILA_VIDEO, ELSEWHERE_VIDEO])
    assert not errors


MINED = {
    "as it is published": {"clip_id": "QMi8x8o55Ns.3", "duration": [1.5, 9.25]},
    "with its ending": {"clip_id": "QMi8x8o55Ns.3.mp4", "duration": [1.5, 9.25]},
    "with times": {"clip_id": "QMi8x8o55Ns.3.mp4", "duration": ["00:00:01.500", "00:00:09.250"]},
}


@pytest.mark.parametrize("entry", MINED.values(), ids=MINED)
def test_the_mined_form(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "mined.jsonl"
    path.write_bytes(as_lines([entry]))
    expected = SourceVideo("QMi8x8o55Ns", None, (Clip("QMi8x8o55Ns", "QMi8x8o55Ns.3.mp4", 1.5, 9.25),))
    assert read(path) == ([expected], [])


def test_an_id_with_dots_in_a_mined_line(tmp_path: Path) -> None:
    path = tmp_path / "mined.jsonl"
    path.write_bytes(as_lines([{"clip_id": "a.b.12", "duration": [0, 1]}]))
    (video,), _ = read(path)
    assert (video.video_id, video.clips and video.clips[0].clip_id) == ("a.b", "a.b.12.mp4")


WATCH = "https://www.youtube.com/watch?v="
TEXT_LINES = {
    "an id": ("QMi8x8o55Ns", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "an id that begins with a dash": ("-Mi8x8o55Ns", "-Mi8x8o55Ns", WATCH + "-Mi8x8o55Ns"),
    "spaces around it": ("  QMi8x8o55Ns \t", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "a watch page": (WATCH + "QMi8x8o55Ns", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "a watch page within a playlist": (f"{WATCH}QMi8x8o55Ns&list=PL1&t=3s", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "a short link": ("https://youtu.be/QMi8x8o55Ns?t=4", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "a phone's link": ("http://m.youtube.com/watch?v=QMi8x8o55Ns", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "an embedded player": ("https://www.youtube.com/embed/QMi8x8o55Ns", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
    "a short": ("https://youtube.com/shorts/QMi8x8o55Ns", "QMi8x8o55Ns", WATCH + "QMi8x8o55Ns"),
}


@pytest.mark.parametrize(("line", "video_id", "url"), TEXT_LINES.values(), ids=TEXT_LINES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_a_plain_list(tmp_path: Path, line: str, video_id: str, url: str, packed: bool) -> None:
    path = tmp_path / "ids.txt"
    text = f"\n{line}\r\n".encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    assert read(path) == ([SourceVideo(video_id, url, None)], [])


def test_videos_of_other_sites_have_ids_made_of_their_url(tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    urls = ["https://a.example/video.mp4", "https://b.example/video.mp4", "http://127.0.0.1:80/?q=ü"]
    path.write_text("\n".join(urls))
    videos, errors = read(path)
    assert [video.url for video in videos] == urls
    assert len({video.video_id for video in videos}) == 3
    assert all(len(video.video_id) == 11 for video in videos)
    assert not errors
    assert read(path)[0] == videos  # the same on every run


# ---- lines that can't be used

BAD_ENTRIES: dict[str, Any] = {
    "a number": 5,
    "null": None,
    "text": "QMi8x8o55Ns!",
    "no id": {"url": "https://example.org"},
    "an id that is a number": {"video_id": 7},
    "an id that leaves its folder": {"video_id": "../../etc/passwd"},
    "an id of 300 bytes": {"video_id": "x" * 300},
    "a url that is a list": {"video_id": "a", "url": ["https://example.org"]},
    "a url that no file can hold": {"video_id": "a", "url": "https://example.org/\ud800"},
    "clips that are a number": {"video_id": "a", "clip": 3},
    "a clip without a span": {"video_id": "a", "clip": [{"clip_id": "a.0.mp4"}]},
    "a clip without a name": {"video_id": "a", "clip": [{"span": [0, 1]}]},
    "a clip that leaves its folder": {"video_id": "a", "clip": [{"clip_id": "../a.0.mp4", "span": [0, 1]}]},
    "a span of one": {"video_id": "a", "clip": [{"clip_id": "a.0.mp4", "span": [0]}]},
    "a span of three": {"video_id": "a", "clip": [{"clip_id": "a.0.mp4", "span": [0, 1, 2]}]},
    "a span of words": {"video_id": "a", "clip": [{"clip_id": "a.0.mp4", "span": ["begin", "end"]}]},
    "a span that is no span": {"video_id": "a", "clip": [{"clip_id": "a.0.mp4", "span": 4}]},
    "a span beyond every number": {"video_id": "a", "clip": [{"clip_id": "a.0.mp4", "span": [0, 10**400]}]},
    "a mined line without a number": {"clip_id": "QMi8x8o55Ns", "duration": [0, 1]},
    "a mined line without a clip": {"duration": [0, 1]},
    "a mined line without an end": {"clip_id": "a.1", "duration": [0]},
}


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_a_bad_line_is_told_with_file_and_line_and_the_others_are_used(tmp_path: Path, entry: Any) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_bytes(as_lines([HDVILA, entry, ELSEWHERE]))
    videos, errors = read(path)
    assert [video.video_id for video in videos] == ["QMi8x8o55Ns", "holiday 7"]
    assert len(errors) == 1
    assert errors[0].startswith(f"{path}:2: ")


# To the reader of arrays the one is the end of the JSON, and the other a question mark.
ONLY_BAD_IN_LINES = ("a span beyond every number", "a url that no file can hold")
BAD_ITEMS = {name: entry for name, entry in BAD_ENTRIES.items() if name not in ONLY_BAD_IN_LINES}


@pytest.mark.parametrize("entry", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_a_bad_item_of_an_array_too(tmp_path: Path, entry: Any) -> None:
    path = tmp_path / "metadata.json"
    path.write_bytes(as_array([HDVILA, entry, ELSEWHERE]))
    videos, errors = read(path)
    assert [video.video_id for video in videos] == ["QMi8x8o55Ns", "holiday 7"]
    assert len(errors) == 1
    assert errors[0].startswith(f"{path}: item 2: ")


BAD_LINES = {
    "torn JSON": b'{"video_id": "a", "cl',
    "not UTF-8": b'{"video_id": "a\xff"}',
    "NaN": b'{"video_id": "a", "clip": [{"clip_id": "a.0", "span": [NaN, 1]}]}',
    "a word": b"garbage",
    "an id that is too short": b"QMi8x8o55N",
    "two ids": b"QMi8x8o55Ns QMi8x8o55Ns",
    "another scheme": b"ftp://example.org/a.mp4",
    "a file": b"file:///etc/passwd",
    "a url without a host": b"https:///a.mp4",
    "no url at all": b"https://[::1",
    "a channel, not a video": b"https://www.youtube.com/@somebody",
    "binary": bytes(range(128, 200)),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_that_is_nothing_known_costs_only_itself(tmp_path: Path, line: bytes, place: int) -> None:
    """Also when it is the first line, by which one could have guessed what kind of file it is."""
    good = [json.dumps(HDVILA).encode(), b"AAAAAAAAAAA"]
    path = tmp_path / "metadata"
    path.write_bytes(b"\n".join([*good[:place], line, *good[place:]]))
    videos, errors = read(path)
    assert [video.video_id for video in videos] == ["QMi8x8o55Ns", "AAAAAAAAAAA"]
    assert len(errors) == 1
    assert errors[0].startswith(f"{path}:{place + 1}: ")


CUT = {
    "an array without its end": (as_array([HDVILA, ELSEWHERE, HDVILA])[:-30], ["QMi8x8o55Ns", "holiday 7"]),
    "an array with something behind it": (as_array([ELSEWHERE]) + b" and more", ["holiday 7"]),
    "an array that is not UTF-8": (b'[{"video_id": "a"}, {"video_id": "\xff"}]', ["a"]),
}


@pytest.mark.parametrize(("content", "ids"), CUT.values(), ids=CUT)
def test_a_damaged_array_gives_what_comes_before_the_damage(tmp_path: Path, content: bytes, ids: list[str]) -> None:
    path = tmp_path / "metadata.json"
    path.write_bytes(content)
    videos, errors = read(path)
    assert [video.video_id for video in videos] == ids
    assert len(errors) == 1
    assert errors[0].startswith(f"{path}: item {len(ids) + 1}: ")


def half_packed(content: bytes) -> bytes:
    return gzip.compress(content[: len(content) // 2])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: half_packed(content)[:-20],
    "a second half that does not inflate": lambda content: half_packed(content) + half_packed(b"")[:10] + b"\xff" * 60,
}


@pytest.mark.parametrize("form", [as_lines, as_array])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_gzip_gives_what_comes_before_the_damage(
    tmp_path: Path, form: Callable[[Sequence[Any]], bytes], damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "metadata.gz"
    ids = [f"video {n * n}" for n in range(20_000)]
    path.write_bytes(damage(form([{"video_id": video_id} for video_id in ids])))
    videos, errors = read(path)
    assert 5000 < len(videos) < 11_000
    assert [video.video_id for video in videos] == ids[: len(videos)]
    assert errors
    assert all(error.startswith(str(path)) for error in errors)


def test_a_file_that_cannot_be_opened_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.jsonl: no such metafile"):
        read(tmp_path / "none.jsonl")
    part = tmp_path / "mined_segments" / "lvis" / "part0.jsonl"
    with pytest.raises(SetupError, match=r"no such metafile; cut_videos\.py --vocab lvis makes it$"):
        read(part)
    (part.parent.parent / "coco").mkdir(parents=True)
    (part.parent.parent / "coco" / "part0.jsonl").touch()
    with pytest.raises(SetupError, match=r"--vocab lvis makes it \(there is coco\)"):
        read(part)
    with pytest.raises(SetupError, match="can't be read"):
        read(tmp_path)
    video = tmp_path / "video.mp4"
    video.write_bytes(b"\0\0\0\x20ftypisom" + bytes(5000))
    with pytest.raises(SetupError, match=r"video\.mp4: not a metafile"):
        read(video)
    path = tmp_path / "damaged.gz"
    path.write_bytes(gzip.compress(as_lines([HDVILA]))[:40] + b"\xff" * 40)
    with pytest.raises(SetupError, match=r"damaged\.gz: can't be read"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", gzip.compress(b"")], ids=["empty", "newlines", "[]", "gzip"])
def test_an_empty_metafile_is_normal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metadata"
    path.write_bytes(content)
    assert read(path) == ([], [])


# ---- times

TIMES = {
    "hours": ("01:02:03.456", 3723.456),
    "beyond a day": ("100:00:00", 360_000.0),
    "minutes": ("02:03", 123.0),
    "seconds": ("17.5", 17.5),
    "single digits": ("1:2:3", 3723.0),
    "a number": (17.5, 17.5),
    "a whole number": (17, 17.0),
    "zero": (0, 0.0),
}
NOT_TIMES = {
    "nothing": "",
    "a word": "soon",
    "below zero": -1,
    "below zero as text": "-00:01",
    "days": "1:2:3:4",
    "a comma": "00:00:17,759",
    "an empty field": "00::01",
    "no digits after the point": "17.",
    "an exponent": "1e3",
    "spaces": " 17",
    "true": True,
    "null": None,
    "a list": [1],
    "infinite": float("inf"),
    "not a number": float("nan"),
    "400 digits": 10**400,
    "400 digits as text": "1" * 400,
}


@pytest.mark.parametrize(("text", "seconds"), TIMES.values(), ids=TIMES)
def test_parse_time(text: Any, seconds: float) -> None:
    assert metafile_line.parse_time(text) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("text", NOT_TIMES.values(), ids=NOT_TIMES)
def test_parse_time_refuses(text: Any) -> None:
    with pytest.raises(ValueError, match="is not"):
        metafile_line.parse_time(text)


@given(st.integers(0, 400 * 3600 * 1000))
def test_a_time_written_is_the_time_read(milliseconds: int) -> None:
    text = metafile_line.format_time(milliseconds / 1000)
    assert metafile_line.parse_time(text) == pytest.approx(milliseconds / 1000, abs=1e-7)
    hours, minutes, seconds = text.split(":")
    assert (len(minutes), len(seconds)) == (2, 6)
    assert int(minutes) < 60
    assert float(seconds) < 60
    assert int(hours) == milliseconds // 3_600_000


def test_a_time_just_below_a_minute_is_not_written_as_60_seconds() -> None:
    assert metafile_line.format_time(59.9996) == "00:01:00.000"
    assert metafile_line.format_time(3599.9999) == "01:00:00.000"


# ---- files that are something else

NO_METAFILES = {
    "a text": b"# A title\n\nA paragraph.\n",
    "a text, gzipped": gzip.compress(b"# A title\nA paragraph.\n"),
    "an object over many lines": json.dumps({"videos": ["a"]}, indent=1).encode(),
    "an array of numbers": b"[1, 2, 3]",
    "lines with an id, which is all there is of them": b'{"video_id": "QMi8x8o55Ns", \n{"video_id": "QMi8x8o55Nt", \n',
}


@pytest.mark.parametrize("num_chunks", [1, 3])
@pytest.mark.parametrize("content", NO_METAFILES.values(), ids=NO_METAFILES)
def test_a_file_without_a_good_entry_is_told_once_and_others_are_read(
    tmp_path: Path, content: bytes, num_chunks: int
) -> None:
    path, good = tmp_path / "wrong", tmp_path / "good.txt"
    path.write_bytes(content)
    good.write_text("QMi8x8o55Ns\n")
    errors: list[RecordError] = []
    chunks = [
        list(metafile.read_metafiles([path, good], errors.append, chunk_id=k, num_chunks=num_chunks))
        for k in range(num_chunks)
    ]
    assert [video.video_id for video in chain.from_iterable(chunks)] == ["QMi8x8o55Ns"]
    assert len(errors) == 1 and "\n" not in str(errors[0])
    assert re.match(rf"{path}:( item )?1: .+; none of its \d entries can be used", str(errors[0]))


def test_the_only_line_of_a_file_is_told_as_any_bad_line_is(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("QMi8x8o55N\n")
    assert read(path) == ([], [f"{path}:1: neither JSON, nor a YouTube id, nor an http(s) URL"])


def test_an_empty_file_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "part7.jsonl"
    path.write_text("\n")
    assert read(path) == ([], [])


# ---- round trip, joining, chunks


@pytest.mark.parametrize("video", [HDVILA_VIDEO, ELSEWHERE_VIDEO, SourceVideo("b", None, ())])
def test_what_is_written_is_read_back(tmp_path: Path, video: SourceVideo) -> None:
    path = tmp_path / "part0.jsonl"
    path.write_text(jsonl.dump(metafile_line.to_json(video)) + "\n")
    videos, errors = read(path)
    assert plainly(videos) == approximately([video])
    assert not errors


def test_an_hdvila_line_is_written_as_it_was() -> None:
    entry = metafile_line.to_json(HDVILA_VIDEO)
    assert entry["clip"][0] == HDVILA["clip"][0]
    assert list(entry) == ["video_id", "url", "clip"]
    assert "clip" not in metafile_line.to_json(ELSEWHERE_VIDEO)  # none listed is not the same as an empty list


def test_neighbouring_lines_of_one_video_are_one_video(tmp_path: Path) -> None:
    path = tmp_path / "mined.jsonl"
    entries = [
        {"clip_id": f"{video_id}.{n}", "duration": [n, n + 1]}
        for video_id, n in (("a", 0), ("a", 1), ("b", 0), ("a", 2))
    ]
    path.write_bytes(as_lines(entries))
    videos, _ = read(path)
    clips = [(video.video_id, [clip.clip_id for clip in video.clips or ()]) for video in videos]
    assert clips == [("a", ["a.0.mp4", "a.1.mp4"]), ("b", ["b.0.mp4"]), ("a", ["a.2.mp4"])]


def test_a_bad_line_between_two_of_one_video_does_not_part_them(tmp_path: Path) -> None:
    path = tmp_path / "mined.jsonl"
    lines = as_lines([{"clip_id": f"a.{n}", "duration": [n, n + 1]} for n in range(2)]).splitlines()
    path.write_bytes(b"\n".join([lines[0], b"garbage", lines[1]]))
    videos, errors = read(path)
    assert [len(video.clips or ()) for video in videos] == [2]
    assert len(errors) == 1


def listed(paths: Sequence[Path], **choice: Any) -> list[str]:
    def on_bad_line(error: RecordError) -> None:
        raise error

    return [video.video_id for video in metafile.read_metafiles(paths, on_bad_line, **choice)]


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 7, 20])
def test_chunks_share_everything_out_once(tmp_path: Path, num_chunks: int) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    ids = [f"video-{n:05}" for n in range(13)]
    for path, part in zip(paths, (ids[:6], ids[6:]), strict=True):
        path.write_text("\n".join(part))
    assert listed(paths) == ids
    chunks = [listed(paths, chunk_id=k, num_chunks=num_chunks) for k in range(num_chunks)]
    assert sorted(chain.from_iterable(chunks)) == ids
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 1


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 5])
def test_a_chunk_parses_its_own_lines_and_all_chunks_have_all(tmp_path: Path, num_chunks: int) -> None:
    """Lines that begin with an id and are torn behind it, neighbours of one video, and one with two ids:
    what a line is, only parsing tells, but whose it is, its beginning."""
    path = tmp_path / "hdvila.jsonl"
    span = ["00:00:01.000", "00:00:02.000"]
    videos = [(f"video-{n:05}", c) for n in range(8) for c in range(1 + n % 2)]
    lines = [jsonl.dump({"video_id": v, "clip": [{"clip_id": f"{v}.{c}", "span": span}]}) for v, c in videos]
    lines.insert(3, '{"video_id": "torn-line-0"')
    lines.insert(8, '{"video_id": "bad-span-00", "clip": [{"clip_id": "x.1", "span": ["now", "then"]}]}')
    lines.append('{"video_id": "first-id-00", "video_id": "second-id-0"}')
    path.write_text("\n".join(lines))
    errors: list[RecordError] = []
    chunks = [
        list(metafile.read_metafiles([path], errors.append, chunk_id=k, num_chunks=num_chunks))
        for k in range(num_chunks)
    ]
    found = sorted((video.video_id, len(video.clips or ())) for video in chain.from_iterable(chunks))
    assert found == [(f"video-{n:05}", 1 + n % 2) for n in range(8)]
    assert sorted(str(error).split(":")[1] for error in errors) == ["15", "4", "9"]  # each told once, by its chunk
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 2  # bad lines take up places


SPAN = ["00:00:01.000", "00:00:02.000"]
LINES = {
    "a video": lambda v: jsonl.dump({"video_id": v, "clip": [{"clip_id": f"{v}.1", "span": SPAN}]}),
    "many clips": lambda v: jsonl.dump(
        {"video_id": v, "clip": [{"clip_id": f"{v}.{n}", "span": SPAN} for n in "1234"]}
    ),
    "mined": lambda v: jsonl.dump({"clip_id": f"{v}.7", "duration": [3, 4]}),
    "an id": lambda v: v,
    "a bad line of a video": lambda v: f'{{"video_id": "{v}", "clip": 5}}',
    "nobody's bad line": lambda v: "{torn",
    "an empty line": lambda v: "",
}


@given(
    kinds=st.lists(st.tuples(st.sampled_from(list(LINES)), st.sampled_from(["video-00001", "video-00002", "x"]))),
    num_chunks=st.integers(2, 9),
    newline=st.sampled_from(["\n", "\r\n"]),
    is_ended=st.booleans(),
)
def test_stretches_of_a_large_file_are_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[tuple[str, str]],
    num_chunks: int,
    newline: str,
    is_ended: bool,
) -> None:
    """However the borders fall: each video in one stretch, each bad line told once with its number, videos in order."""
    path = tmp_path_factory.mktemp("stretches") / "large.jsonl"
    path.write_bytes(newline.join([*(LINES[kind](video_id) for kind, video_id in kinds), *[""] * is_ended]).encode())
    whole, told = read(path)
    errors: list[RecordError] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metafile, "MIN_STRETCH_BYTES", 0)
        stretches = [
            list(metafile.read_metafiles([path], errors.append, chunk_id=k, num_chunks=num_chunks))
            for k in range(num_chunks)
        ]
    assert sorted(str(error) for error in errors) == sorted(told)
    videos = list(chain.from_iterable(stretches))
    if "a bad line of a video" not in (given := {kind for kind, _ in kinds}):
        assert videos == whole
    elif "an id" not in given:  # the bad line may part a video, as in any chunks: an id before it takes no clips behind
        clips, whole_clips = ([clip for video in found for clip in video.clips or ()] for found in (videos, whole))
        assert clips == whole_clips


def test_large_files_are_read_once_by_all_chunks_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"video-{n:05}" for n in range(1000)]
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, part in zip(paths, (ids[:300], ids[300:]), strict=True):
        path.write_text("\n".join(part))
    num_read = 0

    def counted(path: Path, start: int, real: Any = jsonl.read_lines_from) -> Iterator[tuple[int, bytes]]:
        nonlocal num_read
        for found in real(path, start):
            num_read += 1
            yield found

    monkeypatch.setattr(jsonl, "read_lines_from", counted)
    monkeypatch.setattr(metafile, "MIN_STRETCH_BYTES", 100)
    chunks = [listed(paths, chunk_id=k, num_chunks=8) for k in range(8)]
    assert sorted(chain.from_iterable(chunks)) == ids
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 3 * len(paths)  # a line more or less at either end
    assert num_read <= len(ids) + 2 * len(paths) * len(chunks)  # the two lines on either side of each border
    (tmp_path / "b.txt").write_bytes(gzip.compress("\n".join(ids[300:]).encode()))
    chunks = [listed(paths, chunk_id=k, num_chunks=8) for k in range(8)]
    assert sorted(chain.from_iterable(chunks)) == ids, "where one is packed, every eighth"


@pytest.mark.parametrize("tell", [True, False])
def test_every_chunk_of_a_torn_file_says_so_where_it_is_to(tmp_path: Path, tell: bool) -> None:
    path = tmp_path / "torn.gz"
    path.write_bytes(gzip.compress(b"garbage\n" + b"".join(b"video-%05d\n" % n for n in range(9000)))[:-900])
    for chunk_id in range(3):
        errors: list[RecordError] = []
        choice = {"chunk_id": chunk_id, "num_chunks": 3, "tell_cut_short": tell}
        assert list(metafile.read_metafiles([path], errors.append, **choice))
        assert [error.reason for error in errors] == ["bad line"] * (chunk_id == 0) + ["torn gzip"] * tell


def test_limit_counts_the_videos_of_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    ids = [f"video-{n:05}" for n in range(9)]
    path.write_text("\n".join(ids))
    assert listed([path], limit=2) == ids[:2]
    assert listed([path], chunk_id=1, num_chunks=3, limit=2) == [ids[1], ids[4]]
    assert listed([path], limit=100) == ids


# ---- memory

COUNT_AND_MEASURE = """
import re, sys
from pathlib import Path
from trackverse import metafile
errors = []
num_clips = sum(len(video.clips) for video in metafile.read_metafile(Path(sys.argv[1]), errors.append))
# Not getrusage's figure, which a new process takes over from the one that started it.
peak_kb = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(num_clips, len(errors), peak_kb // 1024)
"""


@pytest.mark.parametrize(("is_array", "num_videos"), [(False, 300_000), (True, 100_000)], ids=["lines", "array"])
def test_a_long_file_streams(tmp_path: Path, is_array: bool, num_videos: int) -> None:
    """A tenth of HD-VILA-100M: all its objects at once take 200 MB, and 100,000 of them 85 MB."""
    path = tmp_path / "metadata"
    with gzip.open(path, "wt", compresslevel=1) if is_array else open(path, "w") as file:
        for n in range(num_videos):
            line = f'{{"video_id": "v{n:010}", "clip": [{{"clip_id": "v{n:010}.0.mp4", "span": [0, 1.5]}}]}}'
            file.write(("[" if n == 0 else ",") * is_array + line + "\n")
        file.write("]" * is_array)
    child = subprocess.run(
        [sys.executable, "-c", COUNT_AND_MEASURE, path], cwd=REPO_DIR, capture_output=True, text=True, check=True
    )
    num_clips, num_errors, peak_mb = map(int, child.stdout.split())
    assert (num_clips, num_errors) == (num_videos, 0)
    assert peak_mb < 60
