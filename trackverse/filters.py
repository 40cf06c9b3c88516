"""Which tracks are worth keeping. A filter answers why not."""

from __future__ import annotations

from dataclasses import dataclass

from trackverse import boxes
from trackverse.types import Track


@dataclass(frozen=True)
class FilterConfig:
    """`min_track_len`: seconds from first to last frame; `min_track_area`: mean box area as a share of the frame's."""

    min_track_len: float = 3.0
    min_track_area: float = 0.1


def why_drop(track: Track, frame_hw: tuple[int, int], config: FilterConfig) -> str | None:
    """The reason not to keep a track, None if it is kept."""
    # Times are sums of frame durations: 30 frames of 0.1 s must not fall short of 3 s by a rounding error.
    if track.times_s[-1] - track.times_s[0] < config.min_track_len - 1e-6:
        return f"shorter than {config.min_track_len:g} s"
    if boxes.area(track.xyxy).mean() < config.min_track_area * frame_hw[0] * frame_hw[1]:
        return f"smaller than {config.min_track_area:g} of the frame"
    return None
