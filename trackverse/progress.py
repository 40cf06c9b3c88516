"""`<id>-progress.json`: which segments of a video are in its track file, and how much of that file counts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trackverse import files, jsonl
from trackverse.errors import RecordError
from trackverse.types import OWN_EMBEDDING

MAX_COUNT = 1 << 62  # what a file system can hold


@dataclass(frozen=True)
class Progress:
    """What is committed of one video.

    `segments_complete`: [start, end] s of each finished segment, with or without tracks. `num_tracks` records lie in
    the first `meta_bytes` bytes of the track file; bytes beyond belong to a commit that never happened. `settings` is
    what the records depend on (detector, vocabulary, frame rate, thresholds).
    """

    segments_complete: tuple[tuple[float, float], ...] = ()
    num_tracks: int = 0
    meta_bytes: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def embedder(self) -> str | None:
        """What made the tracks' embeddings, if the settings say so. Those of two embedders can't be compared."""
        name = self.settings.get("embedding")
        if name == OWN_EMBEDDING:
            name = self.settings.get("detector")
        return name if name is None else str(name)

    def has(self, start_s: float, end_s: float) -> bool:
        """Whether the segment is complete; times are compared as they are stored, to 0.1 ms."""
        return _rounded(start_s, end_s) in self.segments_complete

    def plus(self, start_s: float, end_s: float, *, num_tracks: int, num_bytes: int) -> Progress:
        """With one more complete segment, of `num_tracks` records in `num_bytes` bytes."""
        segments = (*self.segments_complete, _rounded(start_s, end_s))
        return Progress(segments, self.num_tracks + num_tracks, self.meta_bytes + num_bytes, self.settings)


def load(path: Path) -> Progress | None:
    """The progress in a file, None if there is no file. Raises RecordError (reason "bad progress file")."""
    return _parse(_read(path), path) if path.exists() else None


def load_ours(path: Path) -> Progress | None:
    """As `load`; None also for a file of the published pipeline, which says less."""
    value = _read(path) if path.exists() else {}
    is_ours = not isinstance(value, dict) or "schema" in value
    return _parse(value, path) if is_ours else None


def load_meta_bytes(path: Path) -> int | None:
    """How many bytes of the track file count; None, for all, if nothing of ours says so. Raises RecordError."""
    progress = load_ours(path)
    return progress.meta_bytes if progress else None


def _read(path: Path) -> Any:
    try:
        return jsonl.read_json(path)
    except OSError as error:
        raise RecordError(f"{path}: can't be read ({error.strerror})", reason="bad progress file") from error


def _parse(value: Any, path: Path) -> Progress:
    schema = value.get("schema", jsonl.SCHEMA) if isinstance(value, dict) else jsonl.SCHEMA
    if schema != jsonl.SCHEMA and str(schema).startswith(jsonl.SCHEMA.rstrip("1")):
        raise RecordError(
            f"{path}: of format {str(schema)[:40]!r}, this version writes {jsonl.SCHEMA}: use the version that "
            "made it, or another --output_dir",
            reason="newer version",
        )
    try:
        if schema != jsonl.SCHEMA:
            raise ValueError(f"schema {schema!r}")
        segments = tuple((float(start), float(end)) for start, end in value["segments_complete"])
        num_tracks, meta_bytes, settings = value["num_tracks"], value["meta_bytes"], value["settings"]
        if not (type(num_tracks) is int and type(meta_bytes) is int and isinstance(settings, dict)):
            raise TypeError("num_tracks, meta_bytes or settings of the wrong type")
        if not (0 <= num_tracks < MAX_COUNT and 0 <= meta_bytes < MAX_COUNT):
            raise ValueError("a count that can't be")
        if not all(math.isfinite(time_s) for segment in segments for time_s in segment):
            raise ValueError("a time that is not finite")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"{path}: not a progress file ({jsonl.misfit(error)})", reason="bad progress file") from error
    return Progress(segments, num_tracks, meta_bytes, settings)


def save(path: Path, progress: Progress) -> None:
    """Replace the progress file in one step: this is the instant at which a segment's tracks start to exist."""
    with files.atomic_write(path) as file:
        file.write(jsonl.dump({"schema": jsonl.SCHEMA, **asdict(progress)}).encode() + b"\n")


def _rounded(start_s: float, end_s: float) -> tuple[float, float]:
    return round(start_s, 4), round(end_s, 4)
