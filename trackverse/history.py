"""What live tracks have seen so far, written a frame at a time for all tracks at once."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trackverse.types import LOOK_FRAMES, Detections, Float32, Float64, Int64, Track
from trackverse.vectors import blocks, lengths, unit

# Frames that a slot holds before they are moved on to its track's own past: enough that moving costs nothing, few
# enough that 200 slots of 1203 class scores take 31 MB. Whole looks; more where what is held of a frame is little.
MIN_SLOT_FRAMES, MAX_SLOT_FRAMES, SLOT_FLOATS = 32, 128, 8192
MIN_SLOTS = 16
# An array, as numpy takes longer to make one of a number than to compute with it.
WHOLE = np.array(1, np.float32)


class _Piece(NamedTuple):
    """Some frames of a track in turn: `times_s` (F,), `xyxy` (F, 4), `scores` (F,), how much their looks count
    (`weights` (F,)), `logits` (F, C), and the `looks` (S, D) of them.
    """

    times_s: Float64
    xyxy: Float32
    scores: Float32
    weights: Float32
    logits: Float32
    looks: Float32


def _joined(pieces: list[_Piece]) -> _Piece:
    """A copy of all of them."""
    if len(pieces) == 1:
        return _Piece(*map(np.array, pieces[0]))
    return _Piece(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


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
            self._held[number] = _joined([piece])
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
    ten minutes have 4.6 GB of class scores, at 16 frames/s and 1203 classes. `look_frames`: see `Track`.
    """

    def __init__(self, file: IO[bytes] | None = None, look_frames: int = LOOK_FRAMES) -> None:
        self._spool = _Spool(file)
        self._look_frames = look_frames
        self._made: _Slots | None = None  # from the first detection on, when the widths of the rows are known
        # Of every slot's track, what is no longer in the slot: its numbers in the spool.
        self._pasts: list[list[int]] = []
        self._free: list[int] = []

    def open(self, num: int, detections: Detections) -> Int64:
        """Slots (num,) for new tracks that begin with some of the `detections`; nothing is written into them yet."""
        if len(self._free) < num:
            num_slots = max(MIN_SLOTS, 2 * (len(self._pasts) + num))
            held, frames = self._made, self._look_frames
            self._made = held.more(num_slots, detections) if held else _Slots(num_slots, detections, frames)
            self._free += range(num_slots - 1, len(self._pasts) - 1, -1)
            self._pasts += [[] for _ in range(num_slots - len(self._pasts))]
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
        if not len(slots):
            return
        held = self._slots
        place = held.ends.take(slots)
        held.ends[slots] = place + 1
        held.times_s[place] = time_s
        held.xyxy[place] = detections.xyxy.take(rows, axis=0)
        held.scores[place] = detections.scores.take(rows)
        held.weights[place] = weights
        for part in blocks(len(slots), detections.logits.shape[1]):
            logits = detections.logits.take(rows[part], axis=0)
            held.logits[place[part]] = logits
            if logits.shape[1] > 1:
                held.class_sums[slots[part]] += logits
        if detections.embeddings.shape[1]:
            self._add_looks(slots, place // held.per_look, detections.embeddings, rows, weights, shares)
        for slot in slots[place == held.lasts.take(slots)].tolist():
            self._put_away(slot)

    def _add_looks(
        self, slots: Int64, look: Int64, embeddings: Float32, rows: Int64, weights: Float32, shares: Float32
    ) -> None:
        """The looks of the detections of `rows` (K,) in the slots' looks of numbers `look` (K,), and in what the tracks
        look like.
        """
        held = self._slots
        ratios = shares / (WHOLE - weights * shares)  # of new, weighted looks to one part of the old appearance
        for part in blocks(len(slots), embeddings.shape[1]):
            seen = embeddings.take(rows[part], axis=0)
            seen *= weights[part, None]
            held.looks[look[part]] += seen
            seen *= ratios[part, None]
            seen += held.appearance.take(slots[part], axis=0)
            seen /= lengths(seen)[:, None]
            held.appearance[slots[part]] = seen

    @property
    def _slots(self) -> _Slots:
        assert self._made is not None, "no slot was opened yet"
        return self._made

    @property
    def appearance(self) -> Float32:
        """(S, D) at unit length: what the track of every slot looks like now."""
        return self._slots.appearance

    @property
    def class_sums(self) -> Float32:
        """(S, C): class scores of the track of every slot, summed over time."""
        return self._slots.class_sums

    def take(self, slot: int) -> Track:
        """The whole track of a slot, which is free from now on."""
        past = []
        if self._pasts[slot]:
            full = self._slots.piece(slot, self._slots.num_frames)
            past = [self._spool.take(number, full) for number in self._pasts[slot]]
            self._pasts[slot] = []
        self._free.append(slot)
        times_s, xyxy, scores, weights, logits, looks = _joined([*past, self._slots.piece(slot)])
        self._slots.empty(slot)
        embedding = unit(looks.sum(axis=0, keepdims=True))[0]
        look_weights = np.add.reduceat(weights, np.arange(0, len(weights), self._look_frames))
        seen = (times_s, xyxy, scores, logits, embedding, looks)
        return Track(*seen, look_weights=look_weights, look_frames=self._look_frames)

    def _put_away(self, slot: int) -> None:
        """Make room in a full slot."""
        self._pasts[slot].append(self._spool.put(self._slots.piece(slot)))
        self._slots.empty(slot)


class _Slots:
    """S slots, a row each of what the track is like now: `appearance` (S, D), `class_sums` (S, C). `num_frames` places
    each in the rest, which is as in `_Piece`: one a frame, of `looks` one a `look_frames`. `ends` (S,) is the place
    behind the last frame that a slot holds, `lasts` (S,) the last place that it has.
    """

    def __init__(self, num_slots: int, like: Detections, look_frames: int) -> None:
        """Empty slots for detections `like` these."""
        num_classes, num_dims = like.logits.shape[1], like.embeddings.shape[1]
        frames_that_fit = SLOT_FLOATS * look_frames // (num_dims + look_frames * max(num_classes, 1))
        self.num_frames = min(max(frames_that_fit, MIN_SLOT_FRAMES), MAX_SLOT_FRAMES) // look_frames * look_frames
        self._look_frames = look_frames
        self.per_look = np.array(look_frames)  # numpy takes longer to make an array of a number than to compute with it
        num_frames = num_slots * self.num_frames
        self.ends = np.arange(0, num_frames, self.num_frames)
        self.lasts = self.ends + self.num_frames - 1
        self.appearance = np.zeros((num_slots, num_dims), np.float32)
        self.class_sums = np.zeros((num_slots, num_classes), np.float32)
        self.times_s = np.zeros(num_frames, np.float64)
        self.xyxy = np.zeros((num_frames, 4), np.float32)
        self.scores = np.zeros(num_frames, np.float32)
        self.weights = np.zeros(num_frames, np.float32)
        self.logits = np.zeros((num_frames, num_classes), np.float32)
        self.looks = np.zeros((num_frames // look_frames, num_dims), np.float32)

    def more(self, num_slots: int, like: Detections) -> _Slots:
        """These slots, and empty ones behind them."""
        slots = _Slots(num_slots, like, self._look_frames)
        for name in ("ends", "appearance", "class_sums", *_Piece._fields):
            array = getattr(self, name)
            getattr(slots, name)[: len(array)] = array
        return slots

    def piece(self, slot: int, num: int | None = None) -> _Piece:
        """A view of the first `num` frames of a slot; without `num`, of those that it holds."""
        start = slot * self.num_frames
        end = int(self.ends[slot]) if num is None else start + num
        frames = slice(start, end)
        return _Piece(
            self.times_s[frames],
            self.xyxy[frames],
            self.scores[frames],
            self.weights[frames],
            self.logits[frames],
            self._looks(start, end),
        )

    def empty(self, slot: int) -> None:
        """Make the slot hold nothing."""
        start = slot * self.num_frames
        self._looks(start, int(self.ends[slot]))[:] = 0
        self.ends[slot] = start

    def _looks(self, start: int, end: int) -> Float32:
        """A view of the looks of the frames of some places."""
        return self.looks[start // self._look_frames : -(-end // self._look_frames)]
