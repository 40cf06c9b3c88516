"""Metafiles: which videos, and which spans of them. Streams files of millions of lines.

Taken: HD-VILA-100M's metadata or the mined form, as JSON lines or as one JSON array, plain or gzipped; or a plain text
file of YouTube ids or URLs, one a line (see `metafile_line.py`).
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

from trackverse import jsonl, metafile_line
from trackverse.errors import RecordError, SetupError
from trackverse.files import open_regular
from trackverse.layout import MINED_DIR
from trackverse.types import SourceVideo

CUT_SHORT = ("torn gzip", "gzip bomb", "line too long")  # reasons for which the rest of a file is not read
MIN_STRETCH_BYTES = 1 << 20  # of a chunk; of less, all chunks may read all

# HD-VILA's lines begin with their id, which can be had without parsing them.
LEADING_ID = re.compile(rb'\{\s*"video_id"\s*:\s*"([A-Za-z0-9_-]{11})"')

OnBadLine = Callable[[RecordError], None]
Entry = tuple[str, Callable[[], SourceVideo]]  # the id, and what parses the rest (raising RecordError)


def read_metafile(path: Path, on_bad_line: OnBadLine) -> Iterator[SourceVideo]:
    """The videos of a metafile in file order; neighbouring lines of one video become one.

    A line that can't be used is handed to `on_bad_line` (its text names file and line) and skipped; where none can, the
    first stands for all. Raises SetupError if the file can't be opened at all.
    """
    return read_metafiles([path], on_bad_line)


def read_metafiles(
    paths: Iterable[Path],
    on_bad_line: OnBadLine,
    *,
    chunk_id: int = 0,
    num_chunks: int = 1,
    limit: int | None = None,
    tell_cut_short: bool = True,
) -> Iterator[SourceVideo]:
    """The videos of several metafiles, as of one: of `num_chunks` equal chunks that of `chunk_id`, at most `limit`.

    Large plain files of lines are cut into stretches of bytes: a chunk reads its own, and all chunks together read the
    files once. Of other files, a chunk is every `num_chunks`-th video, and lines of other chunks are only looked into
    for the id where that is enough to tell videos apart; a line that turns out to be bad takes up a place in its chunk.
    In either case, a bad line is told by one chunk; that such a file can't be read to its end, by each that is to
    `tell_cut_short`.
    """
    faults = [(path, _fault_of_all(path)) for path in paths]
    for _, fault in faults:
        if fault and chunk_id == 0:
            on_bad_line(fault)
    paths = [path for path, fault in faults if not fault]
    if num_chunks > 1 and _are_large(paths, num_chunks * MIN_STRETCH_BYTES):
        stretches = (_stretch(path, on_bad_line, chunk_id, num_chunks) for path in paths)
        return islice(_joined(_parsed(chain.from_iterable(stretches), on_bad_line)), limit)

    def tell(error: RecordError) -> None:
        if error.reason in CUT_SHORT:
            if tell_cut_short:
                on_bad_line(error)
        elif chunk_id == 0:  # whose a line without an id is, nobody knows
            on_bad_line(error)

    entries = chain.from_iterable(_read_entries(path, tell) for path in paths)
    groups = (group for _, group in groupby(entries, key=lambda entry: entry[0]))
    chosen = chain.from_iterable(islice(groups, chunk_id, None, num_chunks))
    return islice(_joined(_parsed(chosen, on_bad_line)), limit)


def _fault_of_all(path: Path) -> RecordError | None:
    """What is wrong with the first entry of a metafile that has no good one; None if it has one, if one may lie behind
    where it is cut short, and if it is empty. Reads as far as the first good entry.
    """
    reasons, first = Counter[str](), list[RecordError]()

    def note(error: RecordError) -> None:
        reasons[error.reason] += 1
        if not first:
            first.append(error.bare())

    for _ in _parsed(_read_entries(path, note), note):
        return None
    if not first or any(reason in CUT_SHORT for reason in reasons):
        return None
    if reasons.total() == 1:
        return first[0]
    what = f"none of its {reasons.total()} entries can be used: is it a metafile?"
    return RecordError(f"{first[0]}; {what}", reason=first[0].reason)


def _are_large(paths: Sequence[Path], least_bytes: int) -> bool:
    """Whether the files are plain ones of lines, and of so many bytes together."""
    if not all(path.is_file() for path in paths) or sum(path.stat().st_size for path in paths) < least_bytes:
        return False
    heads = []
    for path in paths:
        with open_regular(path) as file:
            heads.append(file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip())
    return not any(head.startswith((b"[", jsonl.GZIP_MAGIC)) or b"\0" in head for head in heads)


def _stretch(path: Path, on_bad_line: OnBadLine, chunk_id: int, num_chunks: int) -> Iterator[Entry]:
    """The entries of one of `num_chunks` stretches of a plain file of lines.

    Neighbouring lines of one video are not parted: the first video that begins behind the end of a stretch, all its
    lines, still belongs to it, and not to the next one.
    """
    size = path.stat().st_size
    start, end = (size * number // num_chunks for number in (chunk_id, chunk_id + 1))
    theirs = None if start else ""  # the video that belongs to the stretch before; no id is empty
    last = None  # the video that begins behind the end
    line_number = _LineNumbers(path)
    lines = jsonl.read_lines_from(path, start)
    while True:
        try:
            place, line = next(lines)
        except StopIteration:
            return
        except RecordError as error:
            on_bad_line(error)
            return
        try:
            entry = _entry(line, _Place(line_number, place))
        except RecordError as error:
            if place < end:
                on_bad_line(error)
            continue
        video_id, _ = entry
        if last is None and place >= end:
            last = video_id
        if last not in (None, video_id):
            return
        if theirs is None:
            theirs = video_id
        if video_id != theirs:
            theirs = ""
            yield entry


class _LineNumbers:
    """Which line of a file begins at a byte. Only for a message is so much of the file read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place, self._number = 0, 1

    def at(self, place: int) -> int:
        """The number from 1 of the line that begins there; quick for places that rise from call to call."""
        if place < self._place:
            self._place, self._number = 0, 1
        with open_regular(self.path) as file:
            file.seek(self._place)
            while self._place < place:
                block = file.read(min(1 << 20, place - self._place))
                if not block:
                    break
                self._place += len(block)
                self._number += block.count(b"\n")
        return self._number


@dataclass(frozen=True)
class _Place:
    """Where a line is, as text: file and line number."""

    lines: _LineNumbers
    place: int

    def __str__(self) -> str:
        return f"{self.lines.path}:{self.lines.at(self.place)}"


def _parsed(entries: Iterable[Entry], on_bad_line: OnBadLine) -> Iterator[SourceVideo]:
    for _, parse in entries:
        try:
            yield parse()
        except RecordError as error:
            on_bad_line(error)


def _joined(videos: Iterable[SourceVideo]) -> Iterator[SourceVideo]:
    """Neighbours of one id as one video with the clips of all."""
    for _, same in groupby(videos, key=lambda video: video.video_id):
        first, *others = same
        if others and first.clips is not None:
            clips = tuple(chain(first.clips, *(video.clips or () for video in others)))
            first = SourceVideo(first.video_id, first.url, clips)
        yield first


def _what_makes(path: Path) -> str:
    """A hint for a part of the mined segments, which are the same for every vocabulary."""
    if path.parent.parent.name != MINED_DIR:
        return ""
    vocabs = sorted(other.parent.name for other in path.parent.parent.glob(f"*/{path.name}"))
    return f"; cut_videos.py --vocab {path.parent.name} makes it" + f" (there is {', '.join(vocabs)})" * bool(vocabs)


def _read_entries(path: Path, on_bad_line: OnBadLine) -> Iterator[Entry]:
    try:
        with jsonl.open_bytes(path) as file:
            head = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    except FileNotFoundError as error:
        raise SetupError(f"{path}: no such metafile{_what_makes(path)}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SetupError(f"{path}: can't be read ({error})") from error
    if b"\0" in head:  # a video, say: thousands of bad lines would say less
        raise SetupError(f"{path}: not a metafile: neither JSON nor a text of one video a line")
    entries = _ArrayEntries(path) if head.startswith(b"[") else _LineEntries(path)
    while True:
        try:
            yield next(entries)
        except StopIteration:
            return
        except RecordError as error:
            on_bad_line(error)
            if error.reason in CUT_SHORT:
                return


class _LineEntries(Iterator[Entry]):
    """Entries of a file with one a line. A class, because a generator would end at its first bad line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = jsonl.read_lines(path)

    def __next__(self) -> Entry:
        number, line = next(self._lines)
        return _entry(line, f"{self._path}:{number}")


class _ArrayEntries(Iterator[Entry]):
    """Entries of a file that is one JSON array."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = jsonl.ArrayItems(path)

    def __next__(self) -> Entry:
        number, entry = next(self._items)
        video = metafile_line.parse_json(entry, f"{self._path}: item {number}")
        return video.video_id, lambda: video


def _entry(line: bytes, where: object) -> Entry:
    """The entry of a line. Raises RecordError at once if its id can't be told without parsing the rest."""
    line = line.removeprefix(codecs.BOM_UTF8).strip()
    if found := LEADING_ID.match(line):
        return found[1].decode(), partial(metafile_line.parse, line, where)
    video = metafile_line.parse(line, where)
    return video.video_id, lambda: video
