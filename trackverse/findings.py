"""What can be wrong with the files of a dataset, how it is found, and how it is mended where nothing is lost by it."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trackverse import files, jsonl, metafile, scenes
from trackverse import progress as progress_file
from trackverse.columns import DTYPES
from trackverse.errors import RecordError, SetupError
from trackverse.index import Index
from trackverse.layout import (
    BLURRED_ENDING,
    SPLIT_NAME,
    SPLIT_PARTS,
    Layout,
    embeddings_beside,
    progress_beside,
    sidecar_beside,
)
from trackverse.records import parse_summary
from trackverse.store import append, heads_fit, load_embeddings, num_uncommitted, read_lines, write_embeddings
from trackverse.wording import counted

# The names that claims and unfinished files have: `.<name>.lock`, with a token while one is taken over; `.<name>.tmp`,
# with the name's ending, or none where it is a folder of partial downloads.
CLAIM = re.compile(r"\..+\.lock(\.[0-9a-f]+|\.old)?")
UNFINISHED = re.compile(r"\..+\.tmp(\.\w+)?")
GIVEN_UP_S = 3600.0  # hosts' clocks may differ by minutes, and a claim shows a sign of life every 15 s
Repair = Callable[[], object]


@dataclass(frozen=True)
class Finding:
    """Something wrong: `what` it is counted as, `message` with the file and what to do; `repair`, if that can be."""

    what: str
    message: str
    repair: Repair | None = None


# ---- what killed processes left


def find_litter(folder: Path) -> Iterator[Finding]:
    """Claims of processes that have ended, and unfinished files that no claim covers."""
    hidden = sorted(path for path in folder.rglob(".*") if not UNFINISHED.fullmatch(path.parent.name))
    claims = [path for path in hidden if CLAIM.fullmatch(path.name)]
    at_work = {path.parent for path in claims if not _is_given_up(path)}
    for path in claims:
        if path.parent in at_work and not _is_given_up(path):
            yield Finding("claimed", f"{path}: a process is at work here, or was within the last hour on another host")
        else:
            yield Finding("claim of a killed process", f"{path}: left lying", partial(_remove, path))
    for path in filter(lambda path: UNFINISHED.fullmatch(path.name), hidden):
        is_free = path.parent not in at_work
        message = f"{path}: left lying" if is_free else f"{path}: perhaps still being written"
        yield Finding("unfinished file", message, partial(_remove, path) if is_free else None)


def _is_given_up(claim: Path) -> bool:
    return files.is_dead(claim) or time.time() - claim.lstat().st_mtime > GIVEN_UP_S


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def find_torn_line(path: Path) -> Iterator[Finding]:
    """A list of failures whose last line has no end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            repair = None if path.is_symlink() else partial(files.cut_torn_line, path)
            yield Finding("torn line", f"{path}: its last line has no end", repair)


# ---- tracks


def examine_tracks(meta_path: Path) -> Iterator[Finding]:
    """A track file against its progress file and its embeddings."""
    progress_path, embeddings_path = progress_beside(meta_path), embeddings_beside(meta_path)
    anew = f"remove {meta_path.name}, {progress_path.name} and {embeddings_path.name} to parse the video anew"
    num_records, ids = 0, set[int]()
    try:
        num_bytes = progress_file.load_meta_bytes(progress_path)  # None: all of them count
        for number, line in read_lines(meta_path):
            num_records += 1
            ids.add(parse_summary(line, f"{meta_path}:{number}", _video_id(meta_path)).track_id)
    except RecordError as error:
        yield Finding(error.reason, f"{error}; {anew}")
        return
    if len(ids) < num_records:
        yield Finding("track id twice in a file", f"{meta_path}: {num_records} records, {len(ids)} ids; {anew}")
    if not heads_fit(meta_path):
        yield Finding("heads against records", f"{meta_path}: indexed as other tracks than it holds; {anew}")
    if not progress_path.exists():
        yield Finding("tracks without progress", f"{meta_path}: can be read, but not added to: {anew}")
    progress = progress_file.load(progress_path) if num_bytes is not None else None
    if progress is None:
        return
    if num_records != progress.num_tracks:
        told = f"{counted(num_records, 'records')}, but {progress.num_tracks} by {progress_path.name}"
        yield Finding("records against progress", f"{meta_path}: {told}; {anew}")
        return
    excess = num_uncommitted(meta_path, progress.meta_bytes)
    if excess > 0:
        message = f"{meta_path}: {excess} bytes of a segment that was never finished"
        # What a link leads to may be of another folder, where more of it counts.
        repair = None if meta_path.is_symlink() else partial(append, meta_path, progress.meta_bytes, b"")
        yield Finding("uncommitted end", message, repair)
    yield from _examine_embeddings(embeddings_path, progress.num_tracks, anew)


def _examine_embeddings(path: Path, num_tracks: int, anew: str) -> Iterator[Finding]:
    if not path.exists():
        return  # parse_tracks.py --embedding none
    try:
        rows = load_embeddings(path)
    except RecordError as error:
        yield Finding(error.reason, f"{error}; {anew}")
        return
    if len(rows) < num_tracks:
        yield Finding(
            "embeddings missing", f"{path}: {counted(len(rows), 'rows')} for {counted(num_tracks, 'tracks')}; {anew}"
        )
    elif len(rows) > num_tracks:
        repair = partial(write_embeddings, path, rows[:num_tracks])
        yield Finding(
            "uncommitted end", f"{path}: {counted(len(rows) - num_tracks, 'rows')} of a segment never finished", repair
        )


def find_duplicates(meta_path: Path, seen: dict[Path, Path]) -> Iterator[Finding]:
    """A track file of a video that another folder of the same tracks has too. `seen` is added to."""
    first_path = seen.setdefault(meta_path.parent.parent / meta_path.name, meta_path)
    if first_path != meta_path:
        message = f"{meta_path}: also in {first_path.parent}; remove one of them, with its progress and embeddings"
        yield Finding("video twice", message)
    elif meta_path.parent.name != (shard := _video_id(meta_path)[:2]):
        yield Finding("in the wrong folder", f"{meta_path}: belongs into {shard}/, without that it is parsed again")


def find_orphan(path: Path, ending: str, name: str) -> Iterator[Finding]:
    """What belongs to a track file that is not there."""
    meta_path = path.with_name(path.name.removesuffix(ending) + "-meta.jsonl.gzip")
    if meta_path.exists():
        return
    try:
        progress = progress_file.load(path) if ending.endswith("json") else None
        is_empty = progress is not None and not progress.num_tracks  # it is written before the first tracks are
    except RecordError as error:
        yield Finding(error.reason, f"{error}; remove it to parse the video anew")
        return
    if not is_empty:
        yield Finding(
            "orphan", f"{path}: {name} of {meta_path.name}, which is not there; remove it to parse the video anew"
        )


def _video_id(meta_path: Path) -> str:
    return meta_path.name.partition("-meta.jsonl")[0]


# ---- videos, clips, segments and subsets


def examine_video(path: Path) -> Iterator[Finding]:
    """A downloaded video without its provenance."""
    if not path.with_suffix(".json").exists():
        yield Finding("video without provenance", f"{path}: nobody can tell where it is from; remove it, or download")


def find_orphan_note(path: Path) -> Iterator[Finding]:
    """What was blurred in a video that is not there."""
    video_path = path.with_name(path.name.removesuffix(BLURRED_ENDING))
    if not video_path.exists():
        yield Finding("orphan", f"{path}: what was blurred in {video_path.name}, which is not there; remove it")


def examine_clips(layout: Layout) -> Iterator[Finding]:
    """Scenes files against the clips that they list."""
    for path in layout.scenes_paths():
        try:
            cut = scenes.load(path)
        except RecordError as error:
            yield Finding(error.reason, f"{error}; remove it, and cut_videos.py cuts the video again")
            continue
        if cut is None or cut.video_id != path.stem:
            yield Finding("bad scenes file", f"{path}: is of another video; remove it to cut this one again")
            continue
        listed = {layout.clip_path(cut.video_id, clip.clip_id) for clip in cut.kept} if cut.clip_mode else set()
        there = set(layout.clips_video_dir(cut.video_id).glob("[!.]*.mp4"))
        for clip_path in sorted(listed - there):
            yield Finding("clip missing", f"{clip_path}: listed in {path}; remove that to cut the video again")
        for clip_path in sorted(there - listed if cut.clip_mode else set()):
            yield Finding("orphan", f"{clip_path}: not listed in {path}; remove it")
    for clips_dir in sorted(layout.clips_dir.glob("*/*")):
        if clips_dir.is_dir() and not layout.scenes_path(clips_dir.name).exists():
            yield Finding("orphan", f"{clips_dir}: clips without a scenes file; cut_videos.py cuts the video again")


def examine_parts(layout: Layout) -> Iterator[Finding]:
    """Segments that come twice in the parts of a vocabulary."""
    for vocab_dir in sorted(layout.mined_dir.glob("*/")):
        seen: Counter[str] = Counter()
        paths = sorted(vocab_dir.glob("part*.jsonl"))
        errors: list[RecordError] = []
        for path in paths:
            try:
                for video in metafile.read_metafile(path, errors.append):
                    seen.update(clip.clip_id for clip in video.clips or ())
            except SetupError as unreadable:
                yield Finding("unreadable file", f"{unreadable}; remove it, and cut_videos.py writes it anew")
        for clip_id in sorted(clip_id for clip_id, times in seen.items() if times > 1):
            yield Finding(
                "segment twice", f"{vocab_dir}: {clip_id} is listed {seen[clip_id]} times; cut_videos.py writes it anew"
            )
        for error in errors:
            yield Finding(error.reason, f"{error}; cut_videos.py writes it anew")


def examine_subset(path: Path) -> Iterator[Finding]:
    """A subset that was never finished, that is torn, or that lists a track twice."""
    if not sidecar_beside(path).is_file():
        yield Finding("subset without its JSON file", f"{path}: not finished, or not ours; make it again")
    try:
        tracks = Counter(
            (one.video_id, one.track_id)
            for number, line in jsonl.read_lines(path)
            for one in [parse_summary(line, f"{path}:{number}", "")]
        )
    except RecordError as error:
        yield Finding(error.reason, f"{error}; make the subset again")
        return
    if not heads_fit(path):
        yield Finding("heads against records", f"{path}: read as other tracks than it holds; make it again")
    if twice := sum(times > 1 for times in tracks.values()):
        yield Finding("track twice in a subset", f"{path}: {counted(twice, 'tracks')}; make it again")


def examine_index(path: Path) -> Iterator[Finding]:
    """An index that can't be used. It is no loss: the tracks are elsewhere."""
    try:
        index = Index(path)
        for name in DTYPES:
            index.column(name)
        for _ in index.boxes():
            pass
    except RecordError as error:
        yield Finding(error.reason, f"{error}; it is made anew when it is needed", partial(_remove, path))


def examine_split(folder: Path) -> Iterator[Finding]:
    """Lists of videos that are of two different splits, or that have a video on two sides."""
    if not (folder / SPLIT_NAME).is_file():
        yield Finding(
            "split not finished", f"{folder}: no {SPLIT_NAME}, so its lists may be of two splits; split again"
        )
    seen: Counter[bytes] = Counter()
    for path in [folder / f"{part}.txt" for part in SPLIT_PARTS]:
        if path.is_file():
            seen.update(set(path.read_bytes().splitlines()))
        else:
            yield Finding("split not finished", f"{path}: not there; split again")
    if twice := sum(times > 1 for times in seen.values()):
        yield Finding("video on two sides of a split", f"{folder}: {counted(twice, 'videos')}; split again")
