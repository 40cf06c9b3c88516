"""How a camera pans and zooms slowly, on drawn tracks of which that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from trackverse import slow_camera
from trackverse.boxes import STANDING_STILL, moved
from trackverse.refine import RefineConfig, refine
from trackverse.sway import Sway
from trackverse.types import Float64, Track

FPS = 10.0
CLIP_S = np.arange(200) / FPS
MIDDLE = np.array([640.0, 360.0])
HEIGHT = 100.0
NEVER = np.zeros(len(CLIP_S))


def wave(hz: float, height: float) -> Float64:
    return height * np.sin(2 * np.pi * hz * CLIP_S)


# Shift to the right and down, px, and growth, the logarithm of a scale.
CAMERAS = {
    "a pan": (wave(0.1, 150), wave(0.07, 40), NEVER),
    "a zoom": (NEVER, NEVER, wave(0.1, 0.25)),
    "a pan and a zoom": (wave(0.1, 150), NEVER, wave(0.13, 0.2)),
}


def walkers(num: int, *, turns: bool = False, seed: int = 0) -> list[Track]:
    """Before a camera that stands still: they go straight on, or each turns to and fro by itself."""
    rng = np.random.default_rng(seed)
    tracks = []
    for _ in range(num):
        start, speed = rng.uniform(-1, 1, 2) * (500, 200) + MIDDLE, rng.uniform(-40, 40, 2) * (1, 0.2)
        way = speed * CLIP_S[:, None]
        if turns:
            way = way + 60 * np.sin(rng.uniform(0.5, 0.9) * CLIP_S[:, None] + rng.uniform(0, 6, 2))
        centre = start + way + rng.normal(0, 2, way.shape)
        half = np.array([20, HEIGHT / 2])
        xyxy = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
        ones = np.ones(len(CLIP_S), np.float32)
        tracks.append(Track(CLIP_S, xyxy, ones, ones[:, None], np.zeros(0, np.float32)))
    return tracks


def filmed(tracks: Sequence[Track], camera: tuple[Float64, Float64, Float64]) -> list[Track]:
    right, down, growth = camera
    motion = np.tile(STANDING_STILL, (len(CLIP_S), 1, 1)) * np.exp(growth)[:, None, None]
    motion[:, :, 2] = MIDDLE + np.stack([right, down], axis=1) - motion[:, :, :2] @ MIDDLE
    return [replace(track, xyxy=moved(track.xyxy, motion)) for track in tracks]


def only(track: Track, frames: slice) -> Track:
    return Track(track.times_s[frames], track.xyxy[frames], track.scores[frames], track.logits[frames], track.embedding)


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_pans_and_zooms_are_found(camera: tuple[Float64, Float64, Float64]) -> None:
    found, about = slow_camera.speeds(filmed(walkers(8), camera), CLIP_S)
    right, down, growth = (np.gradient(course, CLIP_S) for course in camera)
    aside = about - MIDDLE - np.stack(camera[:2], axis=1)  # a zoom about another place shifts the picture besides
    true = np.stack([right + growth * aside[:, 0], down + growth * aside[:, 1], growth])
    middle = slice(10, -10)  # what begins or ends at the clip's ends, nobody knows
    for one, other, camera_s in zip(found, true, camera, strict=True):
        # Less a speed that is kept all the time, which may be a crowd's as well.
        assert np.std((one - other)[middle]) < (0.4 * np.std(other) if camera_s.any() else 5.0)


@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_a_camera_that_stands_still_is_left_alone(num: int) -> None:
    for seed in range(10):
        found, _ = slow_camera.speeds(walkers(num, seed=seed), CLIP_S)
        assert not found.any()


@pytest.mark.parametrize("num", [1, 2, 3, 8])
def test_those_who_turn_by_themselves_are_no_camera(num: int) -> None:
    """At up to 54 px/s to either side, so that by chance some do so together now and then."""
    found = [slow_camera.speeds(walkers(num, turns=True, seed=seed), CLIP_S)[0] for seed in range(10)]
    assert np.mean([speeds.any() for speeds in found]) <= 0.2
    assert np.abs(found).max() < 10


def test_who_is_seen_alone_tells_nothing() -> None:
    found, _ = slow_camera.speeds(filmed(walkers(1), CAMERAS["a pan"]), CLIP_S)
    assert not found.any()


@pytest.mark.parametrize("num_frames", [1, 2, 5], ids="{} frames".format)
def test_clips_of_a_few_frames(num_frames: int) -> None:
    tracks = [only(track, slice(num_frames)) for track in walkers(3)]
    found, _ = slow_camera.speeds(tracks, CLIP_S[:num_frames])
    assert found.shape == (3, num_frames)
    assert not found.any()


def test_boxes_that_make_no_sense_do_no_harm() -> None:
    """They jump about as far as numbers are exact, and are as high as a pixel or as all of that."""
    rng = np.random.default_rng(0)
    tracks = []
    for track in walkers(5):
        centre, half = rng.uniform(-1.6e7, 1.6e7, (len(CLIP_S), 2)), rng.choice([0.5, 5e6], (len(CLIP_S), 1))
        tracks.append(replace(track, xyxy=np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)))
    assert np.isfinite(Sway.of(tracks, CLIP_S).motion).all()


def test_who_is_out_of_sight_while_the_camera_turns_round_is_one_object() -> None:
    whole = filmed(walkers(8), CAMERAS["a pan"])
    parts = []
    for track in whole:
        parts += [only(track, slice(0, 65)), only(track, slice(85, None))]  # the pan turns round at 7.5 s
    assert len(list(refine(parts, RefineConfig(), frame_times_s=CLIP_S))) == len(whole)
