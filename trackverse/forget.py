"""Take videos out of a dataset, with everything that was made of them, for good.

    python -m trackverse.forget VIDEO_ID... --workdir data/hdvila-100m
    python -m trackverse.forget https://www.youtube.com/watch?v=QMi8x8o55Ns --workdir data/hdvila-100m --dry_run

A tombstone, WORKDIR/forgotten/<first two characters of the id>/<id>.json, comes first: from then on no stage downloads
the video or works on it. Then go the video and where it came from, its blurred copy, clips, scenes, tracks, embeddings
and progress; mined segments and subsets are rewritten without it, pages that show it are removed, and its name is
struck out of lists of failures, of splits and of logs. What is worked on at that moment is waited for. The same command
again, after a kill too, does what is left. Track folders, subsets, indices and pages outside of WORKDIR are named with
--also. Metafiles are not touched. To take a video in again, remove its tombstone.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackverse import cli, files, jsonl, metafile
from trackverse.errors import RecordError, SetupError
from trackverse.index import open_index
from trackverse.layout import (
    INDEX_NAME,
    SPLIT_NAME,
    SPLIT_PARTS,
    Layout,
    check_name,
    lock_path,
    progress_beside,
    shard,
    sidecar_beside,
)

log = logging.getLogger("trackverse.forget")
ENDINGS = (
    r"(\.json|\.(mp4|m4v|mov|mkv|webm)(\.blurred\.json)?|-(meta\.jsonl\.gzip|progress\.json|(embeddings|motion)\.npy)"
    r"|-\w*-[0-9a-f]{12}\.mp4)?"
)
STEMS = r"(-(meta\.jsonl|progress|embeddings|motion)|-\w*-[0-9a-f]{12}|\.\w+\.blurred)?"  # of half written ones
# Where the work folder has files of many videos together.
PLACES = ("*", "*/*.*", "mined_segments/*/*", "tracks_subsets/*/*", "tracks_meta/*/*.*", "splits/*/*")
LOG_SUFFIXES = (".out", ".err", ".log")


@dataclass(frozen=True)
class Name:
    """A video's id as it is found in file names and in text, never as a part of a longer id."""

    video_id: str

    def is_file(self, name: str) -> bool:
        """Whether a file or folder is of this video: finished, half written, or a lock."""
        video_id = re.escape(self.video_id)
        finished = rf"{video_id}{ENDINGS}"
        return re.fullmatch(rf"{finished}|\.{finished}\.lock|\.{video_id}{STEMS}\.tmp.*", name) is not None

    @property
    def pattern(self) -> re.Pattern[bytes]:
        """The id within text: alone, or as the beginning of one of its files' names."""
        of_a_file = rb"(?!-(?!(?:meta|progress|embeddings|motion)\.|\w*-[0-9a-f]{12}\.))"
        return re.compile(rb"(?<![A-Za-z0-9_-])" + re.escape(self.video_id.encode()) + rb"(?![A-Za-z0-9_])" + of_a_file)


@dataclass
class Forgetting:
    """One run: what is to go, where it is looked for, and what was told. `say` gets a line for everything touched."""

    names: Sequence[Name]
    layout: Layout
    also: Sequence[Path]
    dry_run: bool
    say: Callable[[str], None]
    failed: int = 0

    def run(self) -> None:
        """All steps. The tombstones are first, and what others are found by comes last: a kill loses no trace."""
        for name in self.names:
            self._bury(name)
        for folder in self._stage_folders():
            for name in self.names:
                self._remove_from(folder, name)
        for path in self._files(".jsonl"):
            if path.parent.parent.name == "mined_segments":
                self._rewrite(path, lock_path(path.with_name("part0.jsonl")))
        for path in self._files(".jsonl.gzip", ".jsonl.gz"):
            self._rewrite(path, None)
        for path in self._files(".parquet"):
            self._remove_index(path)
        for path in self._files(SPLIT_NAME):
            self._rewrite_split(path)
        for path in self._files(".html"):
            if path.is_file() and any(name.pattern.search(path.read_bytes()) for name in self.names):
                self._remove(path, "; trackverse.report makes it anew")
        for path in self._logs():
            self._strike_out(path)

    # ---- where

    def _stage_folders(self) -> list[Path]:
        """Folders with videos' files in folders of two characters: those below the work folder and the named ones."""
        roots = [self.layout.workdir, *(path for path in self.also if path.is_dir())]
        found = [*roots[1:], *(folder for root in roots for depth in ("*", "*/*") for folder in root.glob(depth))]
        return sorted({path for path in found if path.is_dir() and path != self.layout.tombstones_dir})

    def _files(self, *endings: str) -> list[Path]:
        """Files of all videos together: subsets, parts, pages. Where each video has its own, nothing is listed."""
        near = [path for pattern in PLACES for path in self.layout.workdir.glob(pattern)]
        near += [path for folder in self.also for depth in ("*", "*/*") for path in folder.glob(depth)]
        named = [path for path in self.also if path.is_file()]
        return sorted(
            path
            for path in {*near, *named}
            if path.name.endswith(endings)
            and path.is_file()
            and not path.name.startswith(".")
            and not path.name.endswith("-meta.jsonl.gzip")
            and path.name != "failed.jsonl"
            and self.layout.tombstones_dir not in path.parents
        )

    def _logs(self) -> list[Path]:
        folders = [self.layout.workdir, *self._stage_folders()]
        lists = [folder / "failed.jsonl" for folder in folders]
        texts = [path for folder in folders for path in folder.glob("slurm_logs/**/*") if path.suffix in LOG_SUFFIXES]
        return [path for path in [*lists, *texts] if path.is_file()]

    # ---- what

    def _bury(self, name: Name) -> None:
        path = self.layout.tombstone_path(name.video_id)
        if path.exists():
            self.say(f"{path}: is there already")
            return
        self.say(f"{path}: tombstone")
        if not self.dry_run:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            with files.atomic_write(path) as file:
                entry = {"schema": jsonl.SCHEMA, "video_id": name.video_id, "forgotten_at": now}
                file.write(jsonl.dump(entry).encode() + b"\n")

    def _remove_from(self, folder: Path, name: Name) -> None:
        self._remove_sequence(folder, name)
        shard_dir = folder / shard(name.video_id)
        if not shard_dir.is_dir():
            return
        if shard_dir.is_symlink():
            for path in sorted(path for path in shard_dir.iterdir() if name.is_file(path.name)):
                self._leave(path, f"{shard_dir} is a link, and nothing is removed through links")
            return
        found = sorted(path for path in shard_dir.iterdir() if name.is_file(path.name))
        if found and not self.dry_run:
            for lock in [path for path in found if path.suffix == ".lock"]:
                self._wait_for(lock)
            for video_dir in [path for path in found if path.is_dir() and not path.is_symlink()]:
                for lock in video_dir.glob(".*.lock"):
                    self._wait_for(lock)
        if found and (folder / INDEX_NAME).exists():
            self._remove(folder / INDEX_NAME, "; it is made anew when it is needed")
        # Looked at again: whoever was waited for may have finished something.
        for path in sorted(path for path in shard_dir.iterdir() if name.is_file(path.name)):
            self._remove(path)

    def _remove_sequence(self, folder: Path, name: Name) -> None:
        """What trackverse.associate reads and writes: a folder with a seqinfo.ini, and MOT text of its name."""
        sequence_dir, result = folder / name.video_id, folder / f"{name.video_id}.txt"
        if (sequence_dir / "seqinfo.ini").is_file():
            self._remove(sequence_dir)
        if result.is_file() and not result.is_symlink() and name.video_id not in SPLIT_PARTS:
            with open(result, "rb") as file:
                is_mot = re.match(rb"(\d+,\d+,[-\d.]+,|$)", file.read(200)) is not None
            if is_mot:
                self._remove(result)

    def _leave(self, path: Path, why: object) -> None:
        self.failed += 1
        log.error("%s: NOT touched, look into it yourself: %s", path, why)

    def _wait_for(self, lock: Path) -> None:
        """Until nobody holds the claim. Nobody takes it again: the tombstone is there."""
        with files.claim(lock) as is_free:
            if is_free:
                return
        log.info("%s: waiting for the process that works on it", lock)
        with files.claim(lock, wait=True):
            pass

    def _remove(self, path: Path, why: str = "") -> None:
        self.say(f"{path}: removed{why}")
        if self.dry_run:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # of a link the link, never what it leads to

    def _rewrite(self, path: Path, lock: Path | None) -> None:
        """A file of lines without those of the videos, and what is told beside it; the other lines as they are.

        `lock`: what others hold while they write the file.
        """
        is_packed = not path.name.endswith(".jsonl")
        if lock and os.path.lexists(lock) and not self.dry_run:
            self._wait_for(lock)  # one that a kill left is removed, too
        try:
            num_lines = sum(1 for _ in self._lines(path))
            num_left = sum(1 for _ in self._left(path))
            if num_left < num_lines:
                self.say(f"{path}: {num_lines - num_left} lines of {num_lines} taken out")
                if not self.dry_run:
                    claim = files.claim(lock, wait=True) if lock else contextlib.nullcontext()
                    with claim, files.atomic_write(path) as file:
                        for line in self._left(path):
                            text = line.decode()
                            file.write(jsonl.gzip_member(text) if is_packed else text.encode() + b"\n")
            if is_packed and sidecar_beside(path).is_file():
                self._correct_sidecar(path, sidecar_beside(path))
        except (RecordError, UnicodeDecodeError) as error:
            self._leave(path, error)

    def _remove_index(self, path: Path) -> None:
        """An index of tracks, wherever it is kept, if it knows one of the videos."""
        index = open_index(path)
        ids = {name.video_id for name in self.names}
        entries = [entry for entry in index.entries if ids & {one for one, _ in entry.videos}] if index else []
        listed = {entry.name for entry in entries}  # by strangers, perhaps
        for meta_path in path.parent.glob("*/*-meta.jsonl.gzip") if entries else ():
            if f"{meta_path.parent.name}/{meta_path.name}" not in listed or meta_path.is_symlink():
                continue
            if any(name.is_file(meta_path.name) for name in self.names):
                continue
            if progress_beside(meta_path).exists():  # which counts its bytes
                self._leave(meta_path, "it holds tracks of other videos, too, and has a progress file")
            else:
                self._rewrite(meta_path, lock_path(meta_path))
        if entries:
            self._remove(path, "; it is made anew when it is needed")

    def _rewrite_split(self, told_path: Path) -> None:
        """The lists of a split, and what is told of them, without the videos; the others stay where they are."""
        names = {name.video_id for name in self.names}
        try:
            told = jsonl.read_json(told_path)
            for part in SPLIT_PARTS:
                path = told_path.with_name(f"{part}.txt")
                video_ids = path.read_text().splitlines() if path.is_file() else []
                left = [video_id for video_id in video_ids if video_id not in names]
                if len(left) < len(video_ids):
                    self.say(f"{path}: {len(video_ids) - len(left)} lines of {len(video_ids)} taken out")
                    if not self.dry_run:
                        self._write(path, "".join(f"{video_id}\n" for video_id in left))
                told[part]["videos"] = len(left)  # also where a killed run has written the list already
            told["near_duplicates"] = [[one for one in group if one not in names] for group in told["near_duplicates"]]
            told["near_duplicates"] = [group for group in told["near_duplicates"] if len(group) > 1]
            if told != jsonl.read_json(told_path):
                self.say(f"{told_path}: corrected")
                if not self.dry_run:
                    self._write(told_path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        except (RecordError, OSError, UnicodeDecodeError, KeyError, TypeError) as error:
            self._leave(told_path, error)

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
            self.say(f"{sidecar_path}: corrected")
            if not self.dry_run:
                self._write(sidecar_path, json.dumps(corrected, indent=1, ensure_ascii=False) + "\n")

    def _strike_out(self, path: Path) -> None:
        """Blank the videos' failures, and their names elsewhere, in place: others may be writing at the end."""
        if path.is_symlink():
            self._leave(path, "it is a link, and nothing is written through links")
            return
        num_places = 0
        with files.open_to_change(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            start = 0
            for line in iter(file.readline, b""):
                struck = self._struck(line, is_list=path.name == "failed.jsonl")
                if struck != line:
                    num_places += 1
                    if not self.dry_run:
                        os.pwrite(file.fileno(), struck, start)
                start += len(line)
            os.fsync(file.fileno())
        if num_places:
            self.say(f"{path}: struck out of {num_places} lines")

    def _struck(self, line: bytes, *, is_list: bool) -> bytes:
        """The line with as many bytes: blanks if it is a failure of one of the videos, x for their names elsewhere."""
        for name in self.names:
            key = re.match(rb'\{"key":"(?:[^"\\]|\\.)*"', line) if is_list else None
            if key and name.pattern.search(key[0]):
                return b" " * len(line.rstrip(b"\n")) + line[len(line.rstrip(b"\n")) :]
            line = name.pattern.sub(lambda found: b"x" * len(found[0]), line)
        return line


def _without(value: Any, video_ids: set[str]) -> Any:
    """A JSON value without keys and list items that are one of the ids."""
    if isinstance(value, dict):
        return {key: _without(part, video_ids) for key, part in value.items() if key not in video_ids}
    if isinstance(value, list):
        return [_without(part, video_ids) for part in value if not (isinstance(part, str) and part in video_ids)]
    return value


def video_id_of(text: str) -> str:
    """The id that a user names: itself, or a URL as metafiles have them. Raises SetupError."""
    try:
        if text.startswith(("http://", "https://")):
            return metafile.parse_text(text.encode(), text).video_id
        return check_name(text)
    except RecordError as error:
        raise SetupError(f"{error}") from error


def without_dashes(argv: Iterable[str]) -> list[str]:
    """The command line with YouTube ids that begin with a dash as URLs, so that they aren't taken for flags."""
    return [
        f"https://youtu.be/{word}" if word.startswith("-") and metafile.YOUTUBE_ID.fullmatch(word) else word
        for word in argv
    ]


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.prog = "python -m trackverse.forget"
    cli.add_workdir(parser)
    parser.add_argument("videos", nargs="+", metavar="VIDEO_ID", help="ids or URLs of videos to forget")
    help_text = "further folders of tracks or videos, subsets and pages, outside of the work folder"
    parser.add_argument("--also", type=cli.folder, nargs="+", default=[], metavar="PATH", help=help_text)
    parser.add_argument("--dry_run", action="store_true", help="say what would be touched, touch nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status: 1 if a file could not be rewritten."""
    args = make_parser().parse_intermixed_args(without_dashes(sys.argv[1:] if argv is None else argv))
    cli.set_up_logging(verbose=False)

    def work() -> int:
        layout = Layout(cli.workdir(args))
        if not layout.workdir.is_dir():
            raise SetupError(f"{layout.workdir}: no such folder")
        names = [Name(video_id) for video_id in dict.fromkeys(map(video_id_of, args.videos))]
        forgetting = Forgetting(names, layout, args.also, args.dry_run, cli.show)
        forgetting.run()
        return 1 if forgetting.failed else 0

    return cli.run(work)


if __name__ == "__main__":
    sys.exit(main())
