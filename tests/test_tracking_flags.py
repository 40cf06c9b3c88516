"""What the flags of the tracking stages stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trackverse import cli, tracking_flags
from trackverse.bytetrack import ByteTrackConfig
from trackverse.detectors import DEFAULTS
from trackverse.filters import FilterConfig
from trackverse.refine import RefineConfig
from trackverse.tracking import TrackingSettings
from trackverse.tracking_flags import NANODET_TRACKING

OF_THE_STAGE = FilterConfig(min_track_len=1.0, min_track_area=0.0)


def settings(*flags: str) -> TrackingSettings:
    parser = cli.Parser("a stage", prog="stage")
    tracking_flags.add(parser, frame_rate=16, filters=OF_THE_STAGE)
    return tracking_flags.settings(parser.parse_args([*flags]))


def test_without_flags() -> None:
    found = settings()
    assert (found.detector, found.tracker, found.filters) == (DEFAULTS["nanodet"], NANODET_TRACKING, OF_THE_STAGE)
    assert (found.frame_rate, found.refine, found.camera_motion) == (16, RefineConfig(), True)


def test_the_documented_ones() -> None:
    found = settings("--frame-rate", "8", "--conf", "0.2", "--track_thresh", "0.6", "--match_thresh", "0.3")
    assert (found.frame_rate, found.detector) == (8, replace(DEFAULTS["nanodet"], conf=0.2))
    assert found.tracker == replace(NANODET_TRACKING, track_thresh=0.6, match_thresh=0.3)


def test_detic_has_its_own_thresholds(tmp_path: Path) -> None:
    weights = tmp_path / "detic.pth"
    weights.write_bytes(b"x")
    found = settings("--vocab", "lvis", "--weights", str(weights), "--max_lost_s", "0")
    assert (found.detector, found.tracker) == (DEFAULTS["detic"], replace(ByteTrackConfig(), max_lost_s=0.0))


@pytest.mark.parametrize(
    ("flags", "refine", "camera_motion"),
    [
        (["--no_refine"], None, True),
        (["--no_camera_motion"], RefineConfig(), False),
        (["--no_refine", "--no_camera_motion", "--refine", "--camera_motion"], RefineConfig(), True),
    ],
    ids=["no second pass", "the camera is not followed", "the last one counts"],
)
def test_switches(flags: list[str], refine: RefineConfig | None, camera_motion: bool) -> None:
    found = settings(*flags)
    assert (found.refine, found.camera_motion) == (refine, camera_motion)
