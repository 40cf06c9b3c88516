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

import datetime
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trackverse import cli, files, jsonl, metafile_line
from trackverse.errors import RecordError, SetupError
from trackverse.index import open_index
from trackverse.layout import (
    FAILED_NAME,
    INDEX_NAME,
    MINED_DIR,
    SPLIT_NAME,
    SPLIT_PARTS,
    SUBSETS_DIR,
    Layout,
    check_name,
    failed_path,
    lock_path,
    progress_beside,
    shard,
)
from trackverse.taking_out import TakingOut, wait_for
from trackverse.video_name import Name

# Where the work folder has files of many videos together.
PLACES = ("*", "*/*.*", f"{MINED_DIR}/*/*", f"{SUBSETS_DIR}/*/*", "tracks_meta/*/*.*", "splits/*/*")
LOG_SUFFIXES = (".out", ".err", ".log")


@dataclass
class Forgetting:
    """One run: what is to go, where it is looked for, and what was told. `say` gets a line for everything touched."""

    names: Sequence[Name]
    layout: Layout
    also: Sequence[Path]
    dry_run: bool
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self.others = TakingOut(self.names, self.dry_run, self.say)  # of what is of other videos, too

    def run(self) -> None:
        """All steps. The tombstones are first, and what others are found by comes last: a kill loses no trace."""
        for name in self.names:
            self._bury(name)
        for folder in self._stage_folders():
            for name in self.names:
                self._remove_from(folder, name)
        for path in self._files(".jsonl"):
            if path.parent.parent.name == MINED_DIR:
                self.others.from_lines(path, lock_path(path.with_name("part0.jsonl")))
        for path in self._files(".jsonl.gzip", ".jsonl.gz"):
            self.others.from_lines(path, None)
        for path in self._files(".parquet"):
            self._remove_index(path)
        for path in self._files(SPLIT_NAME):
            self.others.from_split(path)
        for path in self._files(".html"):
            if path.is_file() and any(name.pattern.search(path.read_bytes()) for name in self.names):
                self._remove(path, "; trackverse.report makes it anew")
        for path in self._logs():
            self.others.from_log(path)

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
            and path.name != FAILED_NAME
            and self.layout.tombstones_dir not in path.parents
        )

    def _logs(self) -> list[Path]:
        folders = [self.layout.workdir, *self._stage_folders()]
        lists = [failed_path(folder) for folder in folders]
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
                self.others.leave(path, f"{shard_dir} is a link, and nothing is removed through links")
            return
        found = sorted(path for path in shard_dir.iterdir() if name.is_file(path.name))
        if found and not self.dry_run:
            for lock in [path for path in found if path.suffix == ".lock"]:
                wait_for(lock)
            for video_dir in [path for path in found if path.is_dir() and not path.is_symlink()]:
                for lock in video_dir.glob(".*.lock"):
                    wait_for(lock)
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

    def _remove(self, path: Path, why: str = "") -> None:
        self.say(f"{path}: removed{why}")
        if self.dry_run:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # of a link the link, never what it leads to

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
                self.others.leave(meta_path, "it holds tracks of other videos, too, and has a progress file")
            else:
                self.others.from_lines(meta_path, lock_path(meta_path))
        if entries:
            self._remove(path, "; it is made anew when it is needed")


def video_id_of(text: str) -> str:
    """The id that a user names: itself, or a URL as metafiles have them. Raises SetupError."""
    try:
        if text.startswith(("http://", "https://")):
            return metafile_line.parse_text(text.encode(), text).video_id
        return check_name(text)
    except RecordError as error:
        raise SetupError(f"{error}") from error


def without_dashes(argv: Iterable[str]) -> list[str]:
    """The command line with YouTube ids that begin with a dash as URLs, so that they aren't taken for flags."""
    return [
        f"https://youtu.be/{word}" if word.startswith("-") and metafile_line.YOUTUBE_ID.fullmatch(word) else word
        for word in argv
    ]


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.forget")
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
        return 1 if forgetting.others.failed else 0

    return cli.run(work)


if __name__ == "__main__":
    sys.exit(main())
