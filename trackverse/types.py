"""The nouns of the pipeline: small immutable records of numpy arrays that every stage speaks.

Shape letters: T frames, N objects, C labels, D embedding, H W pixels. All times are seconds on the source video's
clock with its first frame at 0.0. Row n of every array is the same object.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


# Detections that go into one look of a track: enough that noise averages out, few enough that a change of the object is
# told to half a second at 16 frames/s, and that looks take an eighth of the memory that embeddings do. Where frames
# come rarely, as many as fit into `LOOK_S`: at 4 frames/s eight take two seconds, after which a dancer's track may have
# slipped to another one, and hardly any look is one object's. 0.5 s does as well there, and less well in a street.
LOOK_FRAMES, LOOK_S = 8, 0.8

OWN_EMBEDDING = "detector"  # the features by which a detector itself tells classes, as objects' looks

# Frame times are rounded: 8 frames of 0.1 s must come out as neither more nor less than 0.8 s.
ROUNDING_S = 1e-6
MAX_FRAMES = 24 * 3600 * 60  # of a video: a day at 60 a second. What is remembered of each must fit into memory


def look_frames(frame_rate: float) -> int:
    """Detections that go into one look, at so many frames a second."""
    return min(max(int(LOOK_S * frame_rate + ROUNDING_S), 1), LOOK_FRAMES)


@dataclass(frozen=True)
class Clip:
    """The address of a stretch of one shot, never its pixels. `end_s` is exclusive."""

    video_id: str
    clip_id: str
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class SourceVideo:
    """One video of a metafile. `clips` is None where the metafile lists none: then the scenes decide."""

    video_id: str
    url: str | None
    clips: tuple[Clip, ...] | None


@dataclass(frozen=True)
class FrameBatch:
    """Consecutive sampled frames: `images` (T, H, W, 3) uint8 RGB and `times_s` (T,)."""

    images: UInt8
    times_s: Float64


@dataclass(frozen=True)
class Detections:
    """One frame's objects: `xyxy` (N, 4) px, `scores` (N,), `logits` (N, C), `embeddings` (N, D).

    `logits` are the detector's per-class scores as they go into the record (background left out). Rows of `embeddings`
    have any length, and are 0 where a look isn't known; D is 0 where no appearance is used.
    """

    xyxy: Float32
    scores: Float32
    logits: Float32
    embeddings: Float32

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: Int64 | Bool) -> Detections:
        """The objects of the given row numbers or mask."""
        return Detections(self.xyxy[rows], self.scores[rows], self.logits[rows], self.embeddings[rows])

    @staticmethod
    def empty(num_labels: int, embedding_dim: int) -> Detections:
        """No objects, with the columns of a detector of `num_labels` and `embedding_dim`."""
        return Detections(
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, num_labels), np.float32),
            np.zeros((0, embedding_dim), np.float32),
        )


@dataclass(frozen=True)
class Track:
    """One object through time, after association.

    `times_s` (T,) rising, `xyxy` (T, 4) px of the source video, `scores` (T,), `logits` (T, C), `embedding` (D,): the
    mean of the detections' embeddings at unit length (D = 0 where there are none), those in plain view weighing most.
    `looks` (S, D): the same sums over `look_frames` detections in turn each (the last look may have fewer), with the
    sums of their weights, `look_weights` (S,); with one row, the whole track's.
    `interpolated` (T,): frames in which the object was not detected; their scores and logits are 0.
    """

    times_s: Float64
    xyxy: Float32
    scores: Float32
    logits: Float32
    embedding: Float32
    looks: Float32 = field(default=None)  # type: ignore[arg-type]
    interpolated: Bool = field(default=None)  # type: ignore[arg-type]
    look_weights: Float32 = field(default=None)  # type: ignore[arg-type]
    look_frames: int = LOOK_FRAMES

    def __post_init__(self) -> None:
        if self.looks is None:
            object.__setattr__(self, "looks", self.embedding[None] * np.float32(len(self.times_s)))
        if self.interpolated is None:
            object.__setattr__(self, "interpolated", np.zeros(len(self.times_s), bool))
        if self.look_weights is None:  # all alike
            num, num_looks = len(self.times_s), len(self.looks)
            weights = np.full(num_looks, self.look_frames, np.float32)
            weights[-1:] -= num_looks * self.look_frames - num
            in_turn = num_looks == -(-num // self.look_frames)
            object.__setattr__(self, "look_weights", weights if in_turn else weights * 0 + num / max(num_looks, 1))

    def __len__(self) -> int:
        return len(self.times_s)
