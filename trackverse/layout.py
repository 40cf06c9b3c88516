"""Where everything lives: the only module that joins paths. See the README's table of folders."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from trackverse.errors import RecordError, SetupError

MAX_NAME_BYTES = 200  # of the 255 that file systems give: the rest is for endings and hidden temporary names
INDEX_NAME = "index.parquet"  # of a folder of tracks, which can be made anew from them
VIDEOS_DIR, MINED_DIR, SUBSETS_DIR = "videos_mp4", "mined_segments", "tracks_subsets"
FAILED_NAME = "failed.jsonl"  # a stage's list of failures, in its folder
SPLIT_PARTS, SPLIT_NAME = ("train", "val", "test"), "split.json"  # lists of videos, and what is told of them
BLURRED_ENDING = ".blurred.json"  # of the note beside a video that was blurred in place
REPO_DIR = Path(__file__).resolve().parent.parent
ASSETS_DIR = REPO_DIR / "assets"


def check_name(name: str) -> str:
    """`name` if it is a plain file name that can't leave its folder; else RecordError (reason "bad id").

    Ids come from metadata that others wrote: no separators, no `.`/`..`, no control characters, at most 200 bytes, and
    no dot in front (such files are hidden: ours are temporary ones, which tools pass over).
    """
    try:
        size = len(name.encode())
    except (UnicodeEncodeError, AttributeError):  # half a character, or no text at all
        size, name = 0, str(type(name))
    harmful = any(char in "/\\" or unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for char in name)
    if not 0 < size <= MAX_NAME_BYTES or harmful or name.startswith(".") or name != name.strip():
        raise RecordError(f"{name[:60]!r} is not a plain file name of 1 to {MAX_NAME_BYTES} bytes", reason="bad id")
    return name


def shard(video_id: str) -> str:
    """The folder that a video's files are in: the first two characters of its id."""
    return check_name(video_id)[:2]


def video_in(videos_dir: Path, video_id: str) -> Path:
    """The video in a folder of videos: `videos_mp4`, `videos_blurred`, or one like these."""
    return videos_dir / shard(video_id) / f"{video_id}.mp4"


@dataclass(frozen=True)
class Layout:
    """Paths below a work folder."""

    workdir: Path

    @property
    def videos_dir(self) -> Path:
        return self.workdir / VIDEOS_DIR

    @property
    def last_start_path(self) -> Path:
        """When a download was started last, by which all copies over this folder keep to one pace."""
        return self.videos_dir / "last_start.txt"

    @property
    def blurred_dir(self) -> Path:
        return self.workdir / "videos_blurred"

    @property
    def clips_dir(self) -> Path:
        return self.workdir / "video_clips"

    @property
    def scenes_dir(self) -> Path:
        return self.workdir / "video_scenes"

    @property
    def object_tracks_dir(self) -> Path:
        return self.workdir / "object_tracks"

    def video_path(self, video_id: str) -> Path:
        return video_in(self.videos_dir, video_id)

    def provenance_path(self, video_id: str) -> Path:
        """Where the video came from, as JSON beside it."""
        return self.videos_dir / shard(video_id) / f"{video_id}.json"

    def blurred_path(self, video_id: str) -> Path:
        return video_in(self.blurred_dir, video_id)

    def clips_video_dir(self, video_id: str) -> Path:
        return self.clips_dir / shard(video_id) / video_id

    def clip_path(self, video_id: str, clip_id: str) -> Path:
        return self.clips_video_dir(video_id) / check_name(clip_id)

    def scenes_path(self, video_id: str) -> Path:
        return self.scenes_dir / shard(video_id) / f"{video_id}.json"

    def scenes_paths(self) -> list[Path]:
        """Every scenes file there is, sorted by name."""
        return sorted(path for path in self.scenes_dir.glob("*/*.json") if path.parent.name == path.stem[:2])

    @property
    def mined_dir(self) -> Path:
        return self.workdir / MINED_DIR

    def mined_part_path(self, vocab: str, part: int) -> Path:
        return self.mined_dir / check_name(vocab) / f"part{part}.jsonl"

    def object_tracks_video_dir(self, video_id: str) -> Path:
        return self.object_tracks_dir / shard(video_id) / video_id

    @property
    def tombstones_dir(self) -> Path:
        return self.workdir / "forgotten"

    def tombstone_path(self, video_id: str) -> Path:
        """The file whose being there means that the video is never downloaded or worked on again."""
        return self.tombstones_dir / shard(video_id) / f"{video_id}.json"

    def is_forgotten(self, video_id: str) -> bool:
        return self.tombstone_path(video_id).exists()

    @staticmethod
    def above(folder: Path) -> Layout | None:
        """The work folder that `folder` lies in, known by its tombstones; None if there is none with any."""
        for candidate in (folder, *folder.parents):
            if (candidate / "forgotten").is_dir():
                return Layout(candidate)
        return None


@dataclass(frozen=True)
class TracksLayout:
    """Paths below a folder of track records (`tracks_meta/<vocab>`)."""

    output_dir: Path

    def meta_path(self, video_id: str) -> Path:
        return self.output_dir / shard(video_id) / f"{video_id}-meta.jsonl.gzip"

    def progress_path(self, video_id: str) -> Path:
        return self.output_dir / shard(video_id) / f"{video_id}-progress.json"

    def embeddings_path(self, video_id: str) -> Path:
        return self.output_dir / shard(video_id) / f"{video_id}-embeddings.npy"

    @property
    def index_path(self) -> Path:
        """What `curate_db.py` chooses from, made of all the track files."""
        return self.output_dir / INDEX_NAME

    def meta_paths(self) -> list[Path]:
        """Every meta file there is, sorted by name, but for those of videos that were forgotten."""
        paths = sorted(self.output_dir.glob("*/*-meta.jsonl.gzip"))
        if Layout.above(self.output_dir) is not None:
            paths = [path for path in paths if not self.is_forgotten(path.name.removesuffix("-meta.jsonl.gzip"))]
        return paths

    def some_meta_paths(self) -> list[Path]:
        """`meta_paths`, for who can do nothing without any. Raises SetupError if there is none."""
        if paths := self.meta_paths():
            return paths
        raise SetupError(f"{self.output_dir}: no *-meta.jsonl.gzip files; parse_tracks.py makes them")

    def is_forgotten(self, video_id: str) -> bool:
        """Whether the video is to be forgotten in the work folder that this one lies in."""
        work = Layout.above(self.output_dir)
        try:
            return work is not None and work.is_forgotten(video_id)
        except RecordError:  # no id that could be forgotten
            return False


@dataclass(frozen=True)
class ObjectTracksLayout:
    """Paths of what `track_objects.py` makes of one clip, in the folder of its video."""

    video_dir: Path
    clip_id: str

    @property
    def _stem(self) -> str:
        return check_name(self.clip_id).removesuffix(".mp4")

    @property
    def records_path(self) -> Path:
        return self.video_dir / f"{self._stem}.jsonl.gzip"

    @property
    def mot_path(self) -> Path:
        return self.video_dir / f"{self._stem}.txt"

    @property
    def video_path(self) -> Path:
        """The clip with its tracks drawn in."""
        return self.video_dir / f"{self._stem}.mp4"

    def is_done(self, *, drawn: bool) -> bool:
        """Whether the clip's tracks are there, and the drawing if it is asked for."""
        return self.records_path.exists() and (self.video_path.exists() or not drawn)


def progress_beside(meta_path: Path) -> Path:
    """The progress file of a `…-meta.jsonl.gzip`."""
    return meta_path.with_name(meta_path.name.removesuffix("-meta.jsonl.gzip") + "-progress.json")


def embeddings_beside(meta_path: Path) -> Path:
    """The embeddings of a `…-meta.jsonl.gzip`."""
    return meta_path.with_name(meta_path.name.removesuffix("-meta.jsonl.gzip") + "-embeddings.npy")


def motion_beside(meta_path: Path) -> Path:
    """What was measured of the motion of the tracks of a `…-meta.jsonl.gzip`."""
    return meta_path.with_name(meta_path.name.removesuffix("-meta.jsonl.gzip") + "-motion.npy")


def blurred_beside(video_path: Path) -> Path:
    """The note of what was blurred in a video that was replaced."""
    return video_path.with_name(f"{video_path.name}{BLURRED_ENDING}")


def sidecar_beside(subset_path: Path) -> Path:
    """The JSON file that says how a subset `<name>.jsonl.gzip` came about."""
    return subset_path.with_name(subset_path.name.split(".jsonl")[0] + ".json")


def stats_beside(subset_path: Path) -> Path:
    """The page of charts of a subset `<name>.jsonl.gzip`."""
    return subset_path.with_name(subset_path.name.split(".jsonl")[0] + "-stats.html")


def failed_path(stage_dir: Path) -> Path:
    """The list of a stage's failures, which `--retry_failed` reads."""
    return stage_dir / FAILED_NAME


def slurm_logs_dir(stage_dir: Path) -> Path:
    """Where the Slurm jobs of a stage write their logs."""
    return stage_dir / "slurm_logs"


def slurm_log_path(stage_dir: Path, job_id: str) -> Path:
    """What a Slurm job of a stage said, in all its runs."""
    return slurm_logs_dir(stage_dir) / job_id / f"{job_id}_0_log.err"


def submitted_path(stage_dir: Path) -> Path:
    """Which Slurm jobs a stage was submitted as."""
    return stage_dir / "submitted.json"


def lock_path(path: Path) -> Path:
    """The claim on everything that is written about `path`."""
    return path.with_name(f".{path.name}.lock")
