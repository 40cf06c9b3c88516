"""What live tracks have seen so far, written a frame at a time for all tracks at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trackverse.types import LOOK_FRAMES, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import blocks, lengths, unit

# Frames that a slot holds before they are moved on to its track's own past: enough that moving costs nothing, few
# enough that 200 slots of 1203 class scores take 31 MB. Whole looks; more where what is held of a frame is little.
MIN_SLOT_FRAMES, MAX_SLOT_FRAMES, SLOT_FLOATS = 4 * LOOK_FRAMES, 16 * LOOK_FRAMES, 8192
MIN_SLOTS = 16


class _Piece(NamedTuple):
    """Some frames of a track in turn: `times_s` (F,), `frames` (F, 6), `logits` (F, C), and the `looks` (S, D) of them.

    A row of `frames` is a box, its score and how much its looks count.
    """

    times_s: Float64
    frames: Float32
    logits: Float32
    looks: Float32

    def copy(self) -> _Piece:
        return _Piece(self.times_s.copy(), self.frames.copy(), self.logits.copy(), self.looks.copy())


XYXY, SCORE, WEIGHT = slice(0, 4), 4, 5


def _joined(pieces: list[_Piece]) -> _Piece:
    times_s, frames, logits, looks = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    return _Piece(times_s, frames, logits, looks)


class _Spool:
    """Pieces of one shape, in a file or, without one, in memory. What is taken out makes room for others."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file
        self._held: dict[int, _Piece] = {}
        self._num_pieces = 0
        self._free: list[int] = []

    def put(self, piece: _Piece) -> int:
        """Copies the piece; returns its number."""
        if self._free:
            number = self._free.pop()
        else:
            number, self._num_pieces = self._num_pieces, self._num_pieces + 1
        if self._file is None:
            self._held[number] = piece.copy()
        else:
            self._file.seek(number * sum(array.nbytes for array in piece))
            for array in piece:
                self._file.write(array.tobytes())
        return number

    def take(self, number: int, like: _Piece) -> _Piece:
        """The piece of a number, which is free from now on; its shape is that of another one."""
        self._free.append(number)
        if self._file is None:
            return self._held.pop(number)
        self._file.seek(number * sum(array.nbytes for array in like))
        arrays: list[npt.NDArray[Any]] = [
            np.frombuffer(self._file.read(array.nbytes), array.dtype).reshape(array.shape) for array in like
        ]
        return _Piece(*arrays)


class Histories:
    """A slot for every live track; a slot is free again when its track is taken out.

    With a `file`, what is past lies there till then, in pieces of which only the numbers are in memory: 100 tracks of
    ten minutes have 4.6 GB of class scores, at 16 frames/s and 1203 classes.
    """

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._spool = _Spool(file)
        self._slots: _Slots | None = None  # from the first detection on, when the widths of the rows are known
        # Of every slot's track, what is no longer in the slot: its numbers in the spool.
        self._pasts: list[list[int]] = []
        self._free: list[int] = []

    def open(self, num: int, detections: Detections) -> Int64:
        """Slots (num,) for new tracks that begin with some of the `detections`; nothing is written into them yet."""
        if len(self._free) < num:
            num_slots = max(MIN_SLOTS, 2 * (len(self._pasts) + num))
            self._slots = _Slots.make(num_slots, detections, self._slots)
            self._free += range(num_slots - 1, len(self._pasts) - 1, -1)
            self._pasts += [[] for _ in range(num_slots - len(self._pasts))]
        assert self._slots is not None
        slots = np.array([self._free.pop() for _ in range(num)], np.int64)
        self._slots.class_sums[slots] = 0
        self._slots.appearance[slots] = 0
        return slots

    def add(
        self, slots: Int64, time_s: float, detections: Detections, rows: Int64, weights: Float32, shares: Float32
    ) -> None:
        """One more frame for the tracks of `slots` (K,): those detections of `rows` (K,), whose looks count `weights`
        (K,) in the end, and of which `shares` (K,), if in plain view, go into what the track looks like now.
        """
        if self._slots is None or not len(slots):
            return
        held = self._slots
        n = held.num.take(slots)
        place = slots * held.num_frames + n
        frames = np.empty((len(slots), WEIGHT + 1), np.float32)
        frames[:, XYXY] = detections.xyxy.take(rows, axis=0)
        frames[:, SCORE] = detections.scores.take(rows)
        frames[:, WEIGHT] = weights
        held.times_s[place] = time_s
        held.frames[place] = frames
        for part in blocks(len(slots), detections.logits.shape[1]):
            logits = detections.logits.take(rows[part], axis=0)
            held.logits[place[part]] = logits
            if logits.shape[1] > 1:
                held.class_sums[slots[part]] += logits
        if detections.embeddings.shape[1]:
            self._add_looks(slots, place // LOOK_FRAMES, detections.embeddings, rows, weights, shares)
        n += 1
        held.num[slots] = n
        for slot in slots[n == held.num_frames].tolist():
            self._put_away(slot)

    def _add_looks(
        self, slots: Int64, look: Int64, embeddings: Float32, rows: Int64, weights: Float32, shares: Float32
    ) -> None:
        """The looks of the detections of `rows` (K,) in the slots' looks of numbers `look` (K,), and in what the tracks
        look like.
        """
        assert self._slots is not None
        held = self._slots
        ratios = shares / (1 - weights * shares)  # of new, weighted looks to one part of the old appearance
        for part in blocks(len(slots), embeddings.shape[1]):
            seen = embeddings.take(rows[part], axis=0)
            seen *= weights[part, None]
            held.looks[look[part]] += seen
            seen *= ratios[part, None]
            seen += held.appearance.take(slots[part], axis=0)
            seen /= lengths(seen)[:, None]
            held.appearance[slots[part]] = seen

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
        full = self._slots.piece(slot, self._slots.num_frames)
        past = [self._spool.take(number, full) for number in self._pasts[slot]]
        self._pasts[slot] = []
        self._free.append(slot)
        last = self._slots.piece(slot).copy()
        self._slots.empty(slot)
        times_s, frames, logits, looks = _joined([*past, last]) if past else last
        return Track(
            times_s,
            frames[:, XYXY].copy(),
            frames[:, SCORE].copy(),
            logits,
            unit(looks.sum(axis=0, keepdims=True))[0],
            looks,
            look_weights=np.add.reduceat(frames[:, WEIGHT], np.arange(0, len(frames), LOOK_FRAMES)),
        )

    def _put_away(self, slot: int) -> None:
        """Make room in a full slot."""
        assert self._slots is not None
        self._pasts[slot].append(self._spool.put(self._slots.piece(slot)))
        self._slots.empty(slot)


@dataclass
class _Slots:
    """S slots, a row each of `num` (S,) frames held and of what the track is like now: `appearance` (S, D),
    `class_sums` (S, C). `num_frames` rows each of the rest, which is as in `_Piece`: one a frame, of `looks` one a
    `LOOK_FRAMES`.
    """

    num_frames: int
    num: Int64
    appearance: Float32
    class_sums: Float32
    times_s: Float64
    frames: Float32
    logits: Float32
    looks: Float32

    @staticmethod
    def make(num_slots: int, like: Detections, old: _Slots | None) -> _Slots:
        """Empty slots for detections `like` these, after those that are there."""
        num_classes, num_dims = like.logits.shape[1], like.embeddings.shape[1]
        looks_that_fit = SLOT_FLOATS // (num_dims + LOOK_FRAMES * max(num_classes, 1))
        per_slot = min(max(looks_that_fit * LOOK_FRAMES, MIN_SLOT_FRAMES), MAX_SLOT_FRAMES)
        num_frames, num_looks = num_slots * per_slot, num_slots * per_slot // LOOK_FRAMES
        slots = _Slots(
            per_slot,
            np.zeros(num_slots, np.int64),
            np.zeros((num_slots, num_dims), np.float32),
            np.zeros((num_slots, num_classes), np.float32),
            np.zeros(num_frames, np.float64),
            np.zeros((num_frames, WEIGHT + 1), np.float32),
            np.zeros((num_frames, num_classes), np.float32),
            np.zeros((num_looks, num_dims), np.float32),
        )
        if old is not None:
            for name, array in vars(old).items():
                if name != "num_frames":
                    getattr(slots, name)[: len(array)] = array
        return slots

    def piece(self, slot: int, num: int | None = None) -> _Piece:
        """A view of the first `num` frames of a slot; without `num`, of those that it holds."""
        num = int(self.num[slot]) if num is None else num
        frames = slice(slot * self.num_frames, slot * self.num_frames + num)
        looks = slice(frames.start // LOOK_FRAMES, -(-frames.stop // LOOK_FRAMES))
        return _Piece(self.times_s[frames], self.frames[frames], self.logits[frames], self.looks[looks])

    def empty(self, slot: int) -> None:
        """Make the slot hold nothing."""
        self.piece(slot).looks[:] = 0
        self.num[slot] = 0
