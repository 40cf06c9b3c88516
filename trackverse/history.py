"""What live tracks have seen so far, written a frame at a time for all tracks at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO

import numpy as np

from trackverse.types import LOOK_FRAMES, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import blocks, lengths, unit

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

    def open(self, num: int, detections: Detections) -> Int64:
        """Slots (num,) for new tracks that begin with some of the `detections`; nothing is written into them yet."""
        if len(self._free) < num:
            num_slots = max(MIN_SLOTS, 2 * (len(self._pasts) + num))
            self._slots = _Slots.make(num_slots, detections, self._slots)
            self._free += range(num_slots - 1, len(self._pasts) - 1, -1)
            self._pasts += [_Past() for _ in range(num_slots - len(self._pasts))]
        assert self._slots is not None
        slots = np.array([self._free.pop() for _ in range(num)], np.int64)
        self._slots.class_sums[slots] = 0
        self._slots.appearance[slots] = 0
        return slots

    def add(
        self, slots: Int64, time_s: float, detections: Detections, rows: Int64, weights: Float32, shares: Float32
    ) -> None:
        """One more frame for the tracks of `slots` (K,): those detections of `rows` (K,), whose looks count `weights`
        (K,) in the end and make `shares` (K,) of what the track looks like now.
        """
        if self._slots is None or not len(slots):
            return
        held = self._slots
        n = held.num.take(slots)
        place = slots * SLOT_FRAMES + n
        look = place // LOOK_FRAMES
        held.times_s[place] = time_s
        held.xyxy[place] = detections.xyxy.take(rows, axis=0)
        held.scores[place] = detections.scores.take(rows)
        held.look_weights[look] += weights
        for part in blocks(len(slots), detections.logits.shape[1]):
            logits = detections.logits.take(rows[part], axis=0)
            held.logits[place[part]] = logits
            if logits.shape[1] > 1:
                held.class_sums[slots[part]] += logits
        for part in blocks(len(slots) if detections.embeddings.shape[1] else 0, detections.embeddings.shape[1]):
            seen = detections.embeddings.take(rows[part], axis=0)
            appearance = held.appearance.take(slots[part], axis=0)
            appearance *= 1 - shares[part, None]
            appearance += shares[part, None] * seen
            appearance /= lengths(appearance)[:, None]
            held.appearance[slots[part]] = appearance
            seen *= weights[part, None]
            held.looks[look[part]] += seen
        n += 1
        held.num[slots] = n
        for slot in slots[n == SLOT_FRAMES].tolist():
            self._empty(slot)

    @property
    def appearance(self) -> Float32:
        """(S, D) at unit length: what the track of every slot looks like now."""
        assert self._slots is not None
        return self._slots.appearance

    @property
    def class_sums(self) -> Float32:
        """(S, C): class scores of the track of every slot, summed over time."""
        assert self._slots is not None
        return self._slots.class_sums

    def take(self, slot: int) -> Track:
        """The whole track of a slot, which is free from now on."""
        assert self._slots is not None
        self._empty(slot)
        past, self._pasts[slot] = self._pasts[slot], _Past()
        self._free.append(slot)
        looks = np.concatenate(past.looks)
        num_classes = self._slots.logits.shape[1]
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
        frames = slice(slot * SLOT_FRAMES, slot * SLOT_FRAMES + n)
        past.times_s.append(held.times_s[frames].copy())
        past.xyxy.append(held.xyxy[frames].copy())
        past.scores.append(held.scores[frames].copy())
        if self._spool and n == SLOT_FRAMES:
            past.blocks.append(self._spool.put(held.logits[frames]))
        else:  # the last frames, since a track is about to be taken
            past.logits.append(held.logits[frames].copy())
        looks = slice(frames.start // LOOK_FRAMES, -(-frames.stop // LOOK_FRAMES))
        past.looks.append(held.looks[looks].copy())
        past.look_weights.append(held.look_weights[looks].copy())
        held.looks[looks] = 0
        held.look_weights[looks] = 0
        held.num[slot] = 0


@dataclass
class _Slots:
    """S slots, a row each of `num` (S,) frames held and of what the track is like now: `appearance` (S, D),
    `class_sums` (S, C). `SLOT_FRAMES` rows each of the frames, and one a `LOOK_FRAMES` of the weighted sums of their
    embeddings, `looks`, and of the weights, `look_weights`.
    """

    num: Int64
    appearance: Float32
    class_sums: Float32
    times_s: Float64
    xyxy: Float32
    scores: Float32
    logits: Float32
    looks: Float32
    look_weights: Float32

    @staticmethod
    def make(num_slots: int, like: Detections, old: _Slots | None) -> _Slots:
        """Empty slots for detections `like` these, after those that are there."""
        num_classes, num_dims = like.logits.shape[1], like.embeddings.shape[1]
        num_frames, num_looks = num_slots * SLOT_FRAMES, num_slots * SLOT_FRAMES // LOOK_FRAMES
        slots = _Slots(
            np.zeros(num_slots, np.int64),
            np.zeros((num_slots, num_dims), np.float32),
            np.zeros((num_slots, num_classes), np.float32),
            np.zeros(num_frames, np.float64),
            np.zeros((num_frames, 4), np.float32),
            np.zeros(num_frames, np.float32),
            np.zeros((num_frames, num_classes), np.float32),
            np.zeros((num_looks, num_dims), np.float32),
            np.zeros(num_looks, np.float32),
        )
        if old is not None:
            for name, array in vars(old).items():
                getattr(slots, name)[: len(array)] = array
        return slots
