"""What live tracks have seen so far, written a frame at a time for all tracks at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO

import numpy as np

from trackverse.types import LOOK_FRAMES, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import unit

# Frames that a slot holds before they are moved on to its track's own memory: enough that moving costs nothing, few
# enough that 200 slots of 1203 class scores take 31 MB. Whole looks.
SLOT_FRAMES = 4 * LOOK_FRAMES
MIN_SLOTS = 16


@dataclass
class _Past:
    """The frames of one track that are no longer in its slot, in pieces; `blocks` are numbers of `_Spool`'s."""

    times_s: list[Float64] = field(default_factory=list)
    xyxy: list[Float32] = field(default_factory=list)
    scores: list[Float32] = field(default_factory=list)
    logits: list[Float32] = field(default_factory=list)
    looks: list[Float32] = field(default_factory=list)
    look_weights: list[Float32] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


class _Spool:
    """Blocks of class scores (SLOT_FRAMES, C) in a file. What is taken out makes room for others."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._num_blocks = 0
        self._free: list[int] = []

    def put(self, block: Float32) -> int:
        """The block's number."""
        if self._free:
            number = self._free.pop()
        else:
            number, self._num_blocks = self._num_blocks, self._num_blocks + 1
        self._file.seek(number * block.nbytes)
        self._file.write(block.tobytes())
        return number

    def take(self, number: int, num_classes: int) -> Float32:
        """The block of a number, which is free from now on."""
        num_bytes = SLOT_FRAMES * num_classes * np.dtype(np.float32).itemsize
        self._file.seek(number * num_bytes)
        block = np.frombuffer(self._file.read(num_bytes), np.float32).reshape(SLOT_FRAMES, num_classes)
        self._free.append(number)
        return block


class Histories:
    """A slot for every live track; a slot is free again when its track is taken out.

    With a `file`, class scores lie there till then: 100 tracks of ten minutes have 4.6 GB of them, at 16 frames/s and
    1203 classes.
    """

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._spool = None if file is None else _Spool(file)
        self._slots: _Slots | None = None  # from the first detection on, when the widths of the rows are known
        self._pasts: list[_Past] = []
        self._free: list[int] = []

    def open(self, detections: Detections) -> Int64:
        """Slots (N,) for new tracks, one for each detection; nothing is written into them yet."""
        num = len(detections)
        if len(self._free) < num:
            num_slots = max(MIN_SLOTS, 2 * (len(self._pasts) + num))
            self._slots = _Slots.make(num_slots, detections, self._slots)
            self._free += range(num_slots - 1, len(self._pasts) - 1, -1)
            self._pasts += [_Past() for _ in range(num_slots - len(self._pasts))]
        return np.array([self._free.pop() for _ in range(num)], np.int64)

    def add(self, slots: Int64, time_s: float, detections: Detections, weights: Float32) -> None:
        """One more frame for the tracks of `slots` (K,), a detection each, whose looks count `weights` (K,)."""
        if self._slots is None or not len(slots):
            return
        held = self._slots
        n = held.num[slots]
        held.times_s[slots, n] = time_s
        held.xyxy[slots, n] = detections.xyxy
        held.scores[slots, n] = detections.scores
        held.logits[slots, n] = detections.logits
        held.looks[slots, n // LOOK_FRAMES] += weights[:, None] * detections.embeddings
        held.look_weights[slots, n // LOOK_FRAMES] += weights
        n += 1
        held.num[slots] = n
        for slot in slots[n == SLOT_FRAMES].tolist():
            self._empty(slot)

    def take(self, slot: int) -> Track:
        """The whole track of a slot, which is free from now on."""
        assert self._slots is not None
        self._empty(slot)
        past, self._pasts[slot] = self._pasts[slot], _Past()
        self._free.append(slot)
        looks = np.concatenate(past.looks)
        num_classes = self._slots.logits.shape[2]
        spooled = [self._spool.take(block, num_classes) for block in past.blocks] if self._spool else []
        return Track(
            np.concatenate(past.times_s),
            np.concatenate(past.xyxy),
            np.concatenate(past.scores),
            np.concatenate([*spooled, *past.logits]),
            unit(looks.sum(axis=0, keepdims=True))[0],
            looks,
            look_weights=np.concatenate(past.look_weights),
        )

    def _empty(self, slot: int) -> None:
        """Move what a slot holds to the past. Copied: a view would keep all slots alive."""
        held, past = self._slots, self._pasts[slot]
        assert held is not None
        n = int(held.num[slot])
        past.times_s.append(held.times_s[slot, :n].copy())
        past.xyxy.append(held.xyxy[slot, :n].copy())
        past.scores.append(held.scores[slot, :n].copy())
        if self._spool and n == SLOT_FRAMES:
            past.blocks.append(self._spool.put(held.logits[slot]))
        else:  # the last frames, since a track is about to be taken
            past.logits.append(held.logits[slot, :n].copy())
        num_looks = -(-n // LOOK_FRAMES)
        past.looks.append(held.looks[slot, :num_looks].copy())
        past.look_weights.append(held.look_weights[slot, :num_looks].copy())
        held.looks[slot, :num_looks] = 0
        held.look_weights[slot, :num_looks] = 0
        held.num[slot] = 0


@dataclass
class _Slots:
    """S slots of up to `SLOT_FRAMES` frames: `num` (S,), the others (S, SLOT_FRAMES, ...) but for `looks`, weighted
    sums of the embeddings of `LOOK_FRAMES` frames each, (S, SLOT_FRAMES / LOOK_FRAMES, D), and `look_weights`.
    """

    num: Int64
    times_s: Float64
    xyxy: Float32
    scores: Float32
    logits: Float32
    looks: Float32
    look_weights: Float32

    @staticmethod
    def make(num_slots: int, like: Detections, old: _Slots | None) -> _Slots:
        """Empty slots for detections `like` these, after those that are there."""
        shape = (num_slots, SLOT_FRAMES)
        slots = _Slots(
            np.zeros(num_slots, np.int64),
            np.zeros(shape, np.float64),
            np.zeros((*shape, 4), np.float32),
            np.zeros(shape, np.float32),
            np.zeros((*shape, like.logits.shape[1]), np.float32),
            np.zeros((num_slots, SLOT_FRAMES // LOOK_FRAMES, like.embeddings.shape[1]), np.float32),
            np.zeros((num_slots, SLOT_FRAMES // LOOK_FRAMES), np.float32),
        )
        if old is not None:
            for name, array in vars(old).items():
                getattr(slots, name)[: len(array)] = array
        return slots
