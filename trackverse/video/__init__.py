"""Reading, writing and cutting video: with its sister `transcode`, the only place that knows PyAV, presentation times
(pts) and time bases.

Everybody else speaks seconds on the video's own clock: its first shown frame is at 0.0, however late its pts begin.
A frame belongs to the stretch [start, end) that it begins in.
"""

from trackverse.video.clips import cut_clip, cut_clips
from trackverse.video.container import GET_AGAIN
from trackverse.video.reading import (
    CloseLook,
    Glance,
    decodes_at_both_ends,
    frame_times,
    glance_through,
    probe,
    read_frames,
    read_planes,
)
from trackverse.video.source import VideoInfo
from trackverse.video.writing import VideoWriter

__all__ = [
    "GET_AGAIN",
    "CloseLook",
    "Glance",
    "VideoInfo",
    "VideoWriter",
    "cut_clip",
    "cut_clips",
    "decodes_at_both_ends",
    "frame_times",
    "glance_through",
    "probe",
    "read_frames",
    "read_planes",
]
