"""A video's id, as it is found in the names of files and in text."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENDINGS = (
    r"(\.json|\.(mp4|m4v|mov|mkv|webm)(\.blurred\.json)?|-(meta\.jsonl\.gzip|progress\.json|(embeddings|motion)\.npy)"
    r"|-\w*-[0-9a-f]{12}\.mp4)?"
)
STEMS = r"(-(meta\.jsonl|progress|embeddings|motion)|-\w*-[0-9a-f]{12}|\.\w+\.blurred)?"  # of half written ones


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
