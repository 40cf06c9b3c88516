"""Files that speak of many videos, without some of them: lines of records, splits, lists of failures, logs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackverse import files, jsonl
from trackverse.errors import RecordError
from trackverse.layout import FAILED_NAME, SPLIT_PARTS, sidecar_beside
from trackverse.video_name import Name
from trackverse.wording import counted

log = logging.getLogger("trackverse.forget")  # whose work this is


def wait_for(lock: Path) -> None:
    """Until nobody holds the claim. Nobody takes it again: the tombstone is there."""
    with files.claim(lock) as is_free:
        if is_free:
            return
    log.info("%s: waiting for the process that works on it", lock)
    with files.claim(lock, wait=True):
        pass


@dataclass
class TakingOut:
    """Takes the videos of these names out of files. `say` gets a line for everything touched; with `dry_run`, nothing
    is. `failed` counts what could not be touched, which is told.
    """

    names: Sequence[Name]
    dry_run: bool
    say: Callable[[str], None]
    failed: int = 0

    def leave(self, path: Path, why: object) -> None:
        """Tell that a file stays as it is, and count it."""
        self.failed += 1
        log.error("%s: NOT touched, look into it yourself: %s", path, why)

    def from_lines(self, path: Path, lock: Path | None) -> None:
        """A file of lines without those of the videos, and what is told beside it; the other lines as they are.

        `lock`: what others hold while they write the file.
        """
        is_packed = not path.name.endswith(".jsonl")
        if lock and os.path.lexists(lock) and not self.dry_run:
            wait_for(lock)  # one that a kill left is removed, too
        try:
            num_lines = sum(1 for _ in self._lines(path))
            num_left = sum(1 for _ in self._left(path))
            if num_left < num_lines:
                self.say(f"{path}: {counted(num_lines - num_left, 'lines')} of {num_lines} taken out")
                if not self.dry_run:
                    claim = files.claim(lock, wait=True) if lock else contextlib.nullcontext()
                    with claim, files.atomic_write(path) as file:
                        for line in self._left(path):
                            file.write(jsonl.gzip_member(line) if is_packed else line + b"\n")
                        if is_packed and not num_left:
                            file.write(jsonl.NO_LINES)
            if is_packed and sidecar_beside(path).is_file():
                self._correct_sidecar(path, sidecar_beside(path))
        except (RecordError, UnicodeDecodeError) as error:
            self.leave(path, error)

    def from_split(self, told_path: Path) -> None:
        """The lists of a split, and what is told of them, without the videos; the others stay where they are."""
        names = {name.video_id for name in self.names}
        try:
            told = jsonl.read_json(told_path)
            for part in SPLIT_PARTS:
                path = told_path.with_name(f"{part}.txt")
                video_ids = path.read_text().splitlines() if path.is_file() else []
                left = [video_id for video_id in video_ids if video_id not in names]
                if len(left) < len(video_ids):
                    self.say(f"{path}: {counted(len(video_ids) - len(left), 'lines')} of {len(video_ids)} taken out")
                    if not self.dry_run:
                        self._write(path, "".join(f"{video_id}\n" for video_id in left))
                told[part]["videos"] = len(left)  # also where a killed run has written the list already
            told["near_duplicates"] = [[one for one in group if one not in names] for group in told["near_duplicates"]]
            told["near_duplicates"] = [group for group in told["near_duplicates"] if len(group) > 1]
            if told != jsonl.read_json(told_path):
                self._correct(told_path, told)
        except (RecordError, OSError, UnicodeDecodeError, KeyError, TypeError) as error:
            self.leave(told_path, error)

    def from_log(self, path: Path) -> None:
        """A list of failures or a log, with the videos' failures blanked, and their names elsewhere, in place: others
        may be writing at its end.
        """
        if path.is_symlink():
            self.leave(path, "it is a link, and nothing is written through links")
            return
        num_places = 0
        with files.open_to_change(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            start = 0
            for line in iter(file.readline, b""):
                struck = self._struck(line, is_list=path.name == FAILED_NAME)
                if struck != line:
                    num_places += 1
                    if not self.dry_run:
                        os.pwrite(file.fileno(), struck, start)
                start += len(line)
            os.fsync(file.fileno())
        if num_places:
            self.say(f"{path}: struck out of {counted(num_places, 'lines')}")

    def _struck(self, line: bytes, *, is_list: bool) -> bytes:
        """The line with as many bytes: blanks if it is a failure of one of the videos, x for their names elsewhere."""
        for name in self.names:
            key = re.match(rb'\{"key":"(?:[^"\\]|\\.)*"', line) if is_list else None
            if key and name.pattern.search(key[0]):
                return b" " * len(line.rstrip(b"\n")) + line[len(line.rstrip(b"\n")) :]
            line = name.pattern.sub(lambda found: b"x" * len(found[0]), line)
        return line

    def _correct_sidecar(self, path: Path, sidecar_path: Path) -> None:
        """Counts as they are now, how many tracks were taken out in all, and no word of the videos."""
        sidecar = jsonl.read_json(sidecar_path)
        if not isinstance(sidecar, dict) or not isinstance(sidecar.get("num_chosen"), int):
            return
        corrected = _without(sidecar, {name.video_id for name in self.names})
        if not self.dry_run:
            labels: Counter[str] = Counter()
            for line in self._lines(path):
                names = jsonl.parse(line, str(path)).get("top10_desc") or ["?"]
                labels[str(names[0])] += 1
            missing = sidecar["num_chosen"] - labels.total()
            if missing > 0:
                corrected["num_chosen"] = labels.total()
                corrected["num_forgotten"] = corrected.get("num_forgotten", 0) + missing
                if isinstance(corrected.get("classes"), dict):
                    corrected["classes"] = {
                        label: numbers | {"chosen": labels[label]} for label, numbers in corrected["classes"].items()
                    }
        if corrected != sidecar:
            self._correct(sidecar_path, corrected)

    def _correct(self, path: Path, value: Any) -> None:
        self.say(f"{path}: corrected")
        if not self.dry_run:
            self._write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def _write(self, path: Path, text: str) -> None:
        with files.atomic_write(path) as file:
            file.write(text.encode())

    def _lines(self, path: Path) -> Iterator[bytes]:
        return (line for _, line in jsonl.read_lines(path))

    def _left(self, path: Path) -> Iterator[bytes]:
        return (line for line in self._lines(path) if not self._is_theirs(line))

    def _is_theirs(self, line: bytes) -> bool:
        if not any(name.video_id.encode() in line for name in self.names):
            return False  # quick, for nearly all
        try:
            entry = jsonl.parse(line, "")
            owner = entry.get("yid", entry.get("video_id"))
            if owner is None:  # a published layout without an id: the name of the track's file has it
                return any(name.is_file(Path(str(entry.get("fn", ""))).name) for name in self.names)
            return any(owner == name.video_id for name in self.names)
        except (RecordError, AttributeError):
            return any(name.pattern.search(line) for name in self.names)


def _without(value: Any, video_ids: set[str]) -> Any:
    """A JSON value without keys and list items that are one of the ids."""
    if isinstance(value, dict):
        return {key: _without(part, video_ids) for key, part in value.items() if key not in video_ids}
    if isinstance(value, list):
        return [_without(part, video_ids) for part in value if not (isinstance(part, str) and part in video_ids)]
    return value
