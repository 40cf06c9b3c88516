"""Where the shots of a video change: hard cuts, as PySceneDetect finds them, and fades through black or white."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trackverse.types import UInt8

if TYPE_CHECKING:
    from scenedetect.common import FrameTimecode
    from scenedetect.detector import SceneDetector

LONG_SIDE = 64  # px; shot changes are as plain at this size, grain is less so, and looking at it costs next to nothing
MIN_SHOT_S = 0.6
MIN_CHANGE = 15.0  # PySceneDetect's least score of a cut (min_content_val)
# A frame is black if no more than a fiftieth of its values are above the first of these, and no longer black once a
# twenty-fifth are above the second.
BLACK_LEVEL, BLACK_FRAC = 32, 0.02
LIT_LEVEL, LIT_FRAC = 48, 0.04
LONG_BLACK_S = 1.0  # black for as long is a shot of its own
BEFORE_S, AFTER_S = 1.0, 0.7  # how much of the shots before and after black is looked at
MAX_FLASH_S = 0.4  # within which the picture is back
MAX_BACK_FRAC = 1 / 3  # of the change in between: a picture that differs less is the same one, of a camera that moves


class CutFinder:
    """Finds where new shots start, the first shot left out: the times in s of the frames before and after each cut.

    Is shown all frames of a video (`every_frame`) or some, at even or uneven times, then asked for the `rest`. A flash,
    or a light that fails for a moment, is no cut: the picture comes back as it was.
    """

    def __init__(self, detector: str, *, every_frame: bool = True) -> None:
        self._detector = _new_detector(detector, every_frame)
        self._recent: deque[tuple[float, UInt8]] = deque()
        self._unsure: list[tuple[float, float]] = []
        # The times of the frame before and of the frame, by the latter in microseconds, which the detector hands back.
        self._cuts: dict[int, tuple[float, float]] = {}
        self._last: FrameTimecode | None = None

    def see(self, image: UInt8, time_s: float) -> list[tuple[float, float]]:
        """The cuts that are certain once this (H, W, 3) RGB frame is known: about half a second late."""
        from scenedetect.common import FrameTimecode, Timecode

        before_s = -math.inf if self._last is None else self._cuts[self._last.pts][1]
        # The frame rate has to be there; with a time in it, it is not looked at.
        self._last = FrameTimecode(Timecode(round(time_s * 1e6), Fraction(1, 1_000_000)), fps=1.0)
        self._cuts[self._last.pts] = (before_s, time_s)
        self._recent.append((time_s, image))
        while self._recent[0][0] < time_s - 3 * MAX_FLASH_S:
            self._recent.popleft()
        self._note(self._detector.process_frame(self._last, cv2.cvtColor(image, cv2.COLOR_RGB2BGR)))
        return self._sure(time_s - MAX_FLASH_S)

    def rest(self) -> list[tuple[float, float]]:
        """The cuts that only the end of the video makes certain."""
        if self._last is not None:
            self._note(self._detector.post_process(self._last))
        return self._sure(math.inf)

    def _note(self, found: Iterable[FrameTimecode]) -> None:
        cuts = [self._cuts[pts] for pts in sorted({cut.pts for cut in found})]
        self._unsure += [cut for cut in cuts if cut[0] > -math.inf]

    def _sure(self, until_s: float) -> list[tuple[float, float]]:
        ready = [cut for cut in self._unsure if cut[1] <= until_s]
        self._unsure = self._unsure[len(ready) :]
        return [cut for cut in ready if not self._is_flash(*cut)]

    def _is_flash(self, before_s: float, after_s: float) -> bool:
        """Whether a picture from shortly before a cut is there again shortly after it."""
        old = [image for time_s, image in self._recent if after_s - MAX_FLASH_S <= time_s <= before_s]
        new = [image for time_s, image in self._recent if after_s <= time_s <= after_s + MAX_FLASH_S]
        return bool(old and new) and _comes_back(old, new, content_change(old[-1], new[0]))


class FadeFinder:
    """Finds where new shots start that fade in from black or white after another has faded out: times in s.

    Is shown small frames of a video, all or some of them, in their order. A picture that comes back as it was, as after
    a flash or when a light fails for a moment, is no new shot.
    """

    def __init__(self) -> None:
        self._dips = (_Dip(), _Dip())

    def see(self, image: UInt8, time_s: float) -> list[float]:
        """The starts that are certain once this (H, W, 3) RGB frame is known: about `AFTER_S` late."""
        to_black, to_white = self._dips
        return to_black.see(image, time_s) + to_white.see(255 - image, time_s)


class _Dip:
    """Frames that go black, and what is seen before and after that."""

    def __init__(self) -> None:
        self._before: deque[tuple[float, UInt8]] = deque()
        self._black_s: tuple[float, float] | None = None  # of the first and the last black frame
        self._black = np.zeros(0, np.uint8)
        self._after: list[tuple[float, UInt8]] = []

    def see(self, image: UInt8, time_s: float) -> list[float]:
        """The starts of new shots that are certain once this (H, W, 3) image is known."""
        if self._black_s is None or self._after:
            if np.count_nonzero(image > BLACK_LEVEL) <= BLACK_FRAC * image.size:
                found = self._starts()  # black again before the new shot was seen for long
                self._before.extend(self._after)
                self._black_s, self._black, self._after = (time_s, time_s), image, []
                return found
        elif np.count_nonzero(image > LIT_LEVEL) <= LIT_FRAC * image.size:
            self._black_s = (self._black_s[0], time_s)
            return []
        if self._black_s is None:
            self._before.append((time_s, image))
            while self._before[0][0] < time_s - BEFORE_S:
                self._before.popleft()
            return []
        self._after.append((time_s, image))
        if time_s < self._after[0][0] + AFTER_S:
            return []
        found = self._starts()
        self._before, self._black_s, self._after = deque(self._after), None, []
        return found

    def _starts(self) -> list[float]:
        """The starts that the last stretch of black stands for, now that what follows is seen."""
        if self._black_s is None or not self._before or not self._after:
            return []  # a video that begins in black
        first_s, last_s = self._black_s
        if self._after[0][0] - first_s >= LONG_BLACK_S:
            return [first_s, self._after[0][0]]
        old, new = ([image for _, image in seen] for seen in (self._before, self._after))
        change = content_change(max(old, key=np.mean), self._black)
        return [] if _comes_back(old, new, change) else [(first_s + last_s) / 2]


def _comes_back(old: Sequence[UInt8], new: Sequence[UInt8], change: float) -> bool:
    """Whether one of the `old` (H, W, 3) images is there again among the `new` ones, after a `change` in between.

    Dim ones are left out: they are alike whatever they show.
    """
    least = max(image.mean() for image in old) / 2
    bright_old, bright_new = ([image for image in images if image.mean() >= least] for images in (old, new))
    most = min(MIN_CHANGE, MAX_BACK_FRAC * change)
    return any(content_change(one, other) < most for one in bright_old for other in bright_new)


def content_change(before: UInt8, after: UInt8) -> float:
    """How much two (H, W, 3) RGB frames differ: PySceneDetect's score, the mean over hue, saturation and brightness."""
    old, new = (cv2.cvtColor(image, cv2.COLOR_RGB2HSV) for image in (before, after))
    return float(cv2.absdiff(old, new).mean())


def _new_detector(name: str, every_frame: bool) -> SceneDetector:
    """A detector of hard cuts. Slow dissolves are not found."""
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    if name == "content":
        return ContentDetector(min_scene_len=MIN_SHOT_S)
    # The best single setting of PySceneDetect's own benchmark over BBC, AutoShot and ClipShots.
    # Between every other frame, what moves fast looks like more of a change, beside which a cut looks like less.
    threshold = 3.5 if every_frame else 2.5
    return AdaptiveDetector(adaptive_threshold=threshold, window_width=3, min_scene_len=MIN_SHOT_S)
