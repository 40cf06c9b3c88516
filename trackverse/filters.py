"""Which tracks are worth keeping. A filter answers why not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trackverse import boxes
from trackverse.types import ROUNDING_S, Track

# A longer step from one frame of a track to the next is time out of sight, unless its frames come as rarely anyway.
HOLE_S = 1.0


@dataclass(frozen=True)
class FilterConfig:
    """`min_track_len`: seconds from first to last frame, less the time out of sight; `min_track_area`: mean box area as
    a share of the frame's.
    """

    min_track_len: float = 3.0
    min_track_area: float = 0.1


def why_drop(track: Track, frame_hw: tuple[int, int], config: FilterConfig) -> str | None:
    """The reason not to keep a track, None if it is kept."""
    steps_s = np.diff(track.times_s)
    hole = steps_s > max(HOLE_S, 2 * float(np.median(steps_s))) if len(steps_s) else np.zeros(0, bool)
    if steps_s[~hole].sum() < config.min_track_len - ROUNDING_S:
        return f"shorter than {config.min_track_len:g} s"
    if boxes.area(track.xyxy).mean() < config.min_track_area * frame_hw[0] * frame_hw[1]:
        return f"smaller than {config.min_track_area:g} of the frame"
    return None
