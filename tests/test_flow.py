"""Motion beside the camera's: drawn scenes whose speeds are known, and the command on a real video."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, make_track
from shelf import write
from test_curate import curate_db

from trackverse import forget, measure_motion
from trackverse.boxes import STANDING_STILL, tlwh_to_xyxy
from trackverse.camera import CameraMotion, fitted
from trackverse.detectors import DEFAULTS, choose_detector
from trackverse.filters import FilterConfig
from trackverse.flow import CameraPath, MotionMeter, Moving
from trackverse.layout import TracksLayout, motion_beside
from trackverse.refine import RefineConfig
from trackverse.store import TrackStore, load_motion, read_columns, write_motion
from trackverse.tracking import TrackingSettings, track_clip
from trackverse.tracking_flags import NANODET_TRACKING
from trackverse.types import Clip, Detections, Track
from trackverse.video import probe

HW, SIZE, FPS = (180, 320), 60, 8


def texture(hw: tuple[int, int], seed: int) -> np.ndarray:
    """Soft noise, in which every place looks like itself."""
    noise = np.random.default_rng(seed).uniform(0, 255, (*hw, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def scene(camera: tuple[float, float], own: tuple[float, float], number: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """As `filmed`, of a wall that moves by `camera` px a frame, and an object that moves by `own` on it."""
    return filmed(np.outer(range(number), camera), np.outer(range(number), own))


def filmed(camera: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) of a wall that has moved by `camera` (T, 2) px, with an object that has moved by `own` (T, 2)
    on it, and the object's boxes (T, 4) tlwh.
    """
    wall, thing = texture((HW[0] + 200, HW[1] + 200), 0), texture((SIZE, SIZE), 1)
    images, boxes = [], []
    for (x, y), (own_x, own_y) in zip(camera.astype(float), own.astype(float), strict=True):
        image = cv2.warpAffine(wall, np.array([[1, 0, x - 100], [0, 1, y - 100]], float), HW[::-1])
        left, top = 100 + x + own_x, 50 + y + own_y
        place = np.array([[1, 0, left], [0, 1, top]], float)
        mask = cv2.warpAffine(np.ones((SIZE, SIZE), np.uint8), place, HW[::-1])
        image[mask > 0] = cv2.warpAffine(thing, place, HW[::-1])[mask > 0]
        images.append(image)
        boxes.append([left, top, SIZE, SIZE])
    return np.stack(images), np.array(boxes, float)


@pytest.mark.parametrize("share, moves", [(0.5, True), (0.3, False)], ids=["half", "fewer than two fifths"])
def test_what_few_corners_agree_on_may_be_an_object(share: float, moves: bool) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 320, (60, 2)).astype(np.float32)
    there = points + rng.uniform(-40, 40, (60, 2)).astype(np.float32)
    agree = slice(int(share * 60))
    there[agree] = points[agree] + (5, 2)
    np.testing.assert_allclose(fitted(points, there), [[1, 0, 5 * moves], [0, 1, 2 * moves]], atol=0.3)


def test_what_is_three_times_as_large_is_another_picture() -> None:
    points = np.random.default_rng(0).uniform(0, 320, (60, 2)).astype(np.float32)
    assert (fitted(points, 3 * points) == STANDING_STILL).all()
    assert (fitted(points, points / 3) == STANDING_STILL).all()
    np.testing.assert_allclose(fitted(points, 1.5 * points), [[1.5, 0, 0], [0, 1.5, 0]], atol=1e-3)


SCENES = {
    "nothing moves": ((0, 0), (0, 0), 0.0),
    "the object moves": ((0, 0), (3, 0), 0.4),
    "only the camera moves": ((3, 1), (0, 0), 0.0),
    "both move, against each other": ((-3, 0), (3, 0), 0.4),
    "the camera follows the object": ((4, 0), (-4, 0), 4 * FPS / SIZE),
}


@pytest.mark.parametrize(("camera", "own", "expected"), SCENES.values(), ids=SCENES)
def test_what_is_left_without_the_cameras_motion(
    camera: tuple[float, float], own: tuple[float, float], expected: float
) -> None:
    images, boxes = scene(camera, own)
    track = Moving(np.arange(len(images)) / FPS, boxes)
    meter = MotionMeter([track])
    for number, image in enumerate(images):
        meter(image, number / FPS)
    assert track.camera_motion == pytest.approx(expected, abs=0.03)
    assert track.flow_motion == pytest.approx(expected, abs=0.08)


@pytest.mark.parametrize(("camera", "own", "expected"), SCENES.values(), ids=SCENES)
def test_the_cameras_path_tells_the_same_of_a_track_that_is_known_later(
    camera: tuple[float, float], own: tuple[float, float], expected: float
) -> None:
    images, boxes = scene(camera, own)
    xyxy = tlwh_to_xyxy(boxes).astype(np.float32)
    follow, path = CameraMotion(), CameraPath()
    for number, image in enumerate(images):
        path.add(number / FPS, follow(image, xyxy[number : number + 1]))
    like = make_track(1, num_frames=len(images))
    track = Track(np.arange(len(images)) / FPS, xyxy, like.scores, like.logits, like.embedding)
    assert path.motion_of(track) == pytest.approx(expected, abs=0.05)
    later = replace(track, times_s=track.times_s[5:], xyxy=xyxy[5:])
    assert path.motion_of(later) == pytest.approx(expected, abs=0.05)
    short = replace(track, times_s=track.times_s[:3], xyxy=xyxy[:3])  # no half a second
    assert path.motion_of(short) == pytest.approx(expected, abs=0.1)
    once = replace(track, times_s=track.times_s[:1], xyxy=xyxy[:1])
    assert np.isnan(path.motion_of(once))


def test_what_stands_still_does_so_however_the_camera_shifts_and_zooms() -> None:
    path, xyxy = CameraPath(), np.array([[20, 30, 60, 110], [50, 30, 90, 110], [100, 60, 180, 220]], np.float32)
    for time_s, zoom, shift in ((0.0, 1, 0), (1.0, 1, 30), (2.0, 2, 0)):
        path.add(time_s, np.array([[zoom, 0, shift], [0, zoom, 0]], float))
    like = make_track(1, num_frames=3)
    track = Track(np.arange(3.0), xyxy, like.scores, like.logits, like.embedding)
    assert path.motion_of(track) == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_measured_is_not_known() -> None:
    images, boxes = scene((0, 0), (3, 0), number=4)
    once, later, outside = (
        Moving(np.zeros(1), boxes[:1]),
        Moving(np.array([9.0, 9.5]), boxes[:2]),
        Moving(np.array([0.0, 0.375]), boxes[:2] + np.array([1000, 1000, 0, 0])),
    )
    meter = MotionMeter([once, later, outside])
    for number, image in enumerate(images):
        meter(image, number / FPS)
    assert np.isnan([once.camera_motion, once.flow_motion, later.camera_motion, later.flow_motion]).all()
    assert outside.flow_motion == 0
    MotionMeter([])(images[0], 0.0)


# ---- the command

CAMERA, OWN = (2, 0), {"still": (0, 0), "quick": (3, 1)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 20 frames, 8 a second, filmed with a moving camera; in each, one object, tracked."""
    folder = tmp_path_factory.mktemp("moving")
    store = TrackStore(TracksLayout(folder / "tracks"), SETTINGS)
    for name, own in OWN.items():
        images, tlwh = scene(CAMERA, own, number=20)
        path = folder / "videos" / name[:2] / f"{name}.mp4"
        path.parent.mkdir(parents=True)
        write(path, list(images), rate=FPS)
        xyxy = np.concatenate([tlwh[:, :2], tlwh[:, :2] + tlwh[:, 2:]], axis=1).astype(np.float32)
        like = make_track(1, num_frames=20)
        track = Track(np.arange(20) / FPS, xyxy, like.scores, like.logits, like.embedding)
        store.commit(clip(name, 0), [track], HW, LABELS)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "moving", symlinks=True))


def measure(folder: Path, *argv: str) -> int:
    where = ["--tracks_dir", str(folder / "tracks"), "--videos_dir", str(folder / "videos")]
    return measure_motion.main([*where, *argv])


def test_tracks_are_measured_and_chosen_by_their_own_motion(folder: Path, tmp_path: Path) -> None:
    layout = TracksLayout(folder / "tracks")
    argv = ("--criterion", "max_motion", "--num_samples", "1", "--motion")
    before = curate_db(folder / "tracks", tmp_path / "a.jsonl.gzip", *argv, "camera")
    assert before.returncode == 2 and "python -m trackverse.measure_motion" in before.stderr

    assert measure(folder) == 0
    rows = {name: load_motion(motion_beside(layout.meta_path(name)))[0] for name in OWN}
    assert rows["still"] == pytest.approx([0, 0, 0], abs=0.06)
    assert rows["quick"][1:] == pytest.approx([np.hypot(3, 1) * FPS / SIZE] * 2, abs=0.1)

    for motion in ("camera", "flow"):
        subset = tmp_path / f"{motion}.jsonl.gzip"
        ended = curate_db(folder / "tracks", subset, *argv, motion, "--min_motion", "0.2")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(gzip.decompress(subset.read_bytes()))["yid"] == "quick"
        sidecar = json.loads((tmp_path / f"{motion}.json").read_text())
        assert (sidecar["motion"], sidecar["classes"]) == (motion, sidecar["classes"])
        assert sum(told.get("motion below 0.2", 0) for told in sidecar["classes"].values()) == 1


def test_only_what_is_missing_is_measured(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = TracksLayout(folder / "tracks")
    assert measure(folder, "--dry_run") == 0
    assert not list(folder.rglob("*-motion.npy"))
    assert measure(folder, "--num_workers", "2") == 0
    path = motion_beside(layout.meta_path("quick"))
    before = path.stat().st_mtime_ns
    assert measure(folder) == 0
    assert path.stat().st_mtime_ns == before
    TrackStore(layout, SETTINGS).commit(clip("quick", 1), [], VIDEO_HW, LABELS)
    assert measure(folder) == 0
    assert path.stat().st_mtime_ns > before


class FindsIt:
    """Stands in for a detector: finds the object of a scene where it was drawn, frame by frame; NaN: it is missed."""

    name, labels, embedding_dim = "known", LABELS, 0

    def __init__(self, tlwh: np.ndarray) -> None:
        self._xyxy = iter(tlwh_to_xyxy(tlwh).astype(np.float32))

    def __call__(self, images: np.ndarray) -> list[Detections]:
        scores = np.full((1, len(LABELS)), 0.9, np.float32)
        nothing = np.zeros((1, 0), np.float32)
        found = (Detections(next(self._xyxy)[None], scores[:, 0], scores, nothing) for _ in images)
        return [one.select(np.isfinite(one.xyxy).all(axis=1)) for one in found]


@pytest.mark.parametrize("is_followed", [True, False], ids=["followed", "not followed"])
def test_who_is_missed_for_long_while_the_camera_sways(tmp_path: Path, is_followed: bool) -> None:
    """Out of sight for 1.2 s in the middle of a swing, longer than the online pass looks for it."""
    swing = 60 * np.sin(3 * np.pi * np.arange(64) / 16)
    images, tlwh = filmed(np.stack([swing, 0 * swing], axis=1), np.zeros((64, 2)))
    write(tmp_path / "swing.mp4", list(images), rate=16)
    tlwh[21:40] = np.nan
    settings = TrackingSettings(
        choose_detector("nanodet", "coco", None),
        16,
        DEFAULTS["nanodet"],
        replace(NANODET_TRACKING, max_lost_s=0.5),
        FilterConfig(0.0, 0.0),
        RefineConfig(),
        is_followed,
    )
    path, whole = tmp_path / "swing.mp4", Clip("swing", "swing.0", 0.0, 4.0)
    tracks = list(track_clip(path, probe(path), whole, FindsIt(tlwh), settings, dropped=Counter()))
    assert (len(tracks) == 1) == is_followed  # without, the case is a hard one
    if is_followed:
        there = np.round(tracks[0].times_s * 16).astype(int)
        assert np.nanmax(np.abs(tracks[0].xyxy - tlwh_to_xyxy(tlwh[there]))) < 2  # px: back where it was seen


def parse_anew(folder: Path, *, camera_motion: bool) -> TracksLayout:
    """As parse_tracks does; where the tracks are."""
    choice = choose_detector("nanodet", "coco", None)
    settings = TrackingSettings(
        choice, FPS, DEFAULTS["nanodet"], NANODET_TRACKING, FilterConfig(0.0, 0.0), camera_motion=camera_motion
    )
    shutil.rmtree(folder / "tracks")
    layout = TracksLayout(folder / "tracks")
    store = TrackStore(layout, settings.as_dict())
    for name, own in OWN.items():
        _, tlwh = scene(CAMERA, own, number=20)
        path = folder / "videos" / name[:2] / f"{name}.mp4"
        camera, whole = CameraPath(), clip(name, 0)
        tracks = track_clip(path, probe(path), whole, FindsIt(tlwh), settings, dropped=Counter(), camera_path=camera)
        store.commit(whole, tracks, HW, LABELS, camera_motion=camera.motion_of)
    return layout


def test_tracks_whose_camera_is_not_followed_are_stored_without_a_motion(folder: Path) -> None:
    layout = parse_anew(folder, camera_motion=False)
    assert all(layout.meta_path(name).exists() and not motion_beside(layout.meta_path(name)).exists() for name in OWN)


def test_tracks_of_a_moving_camera_are_stored_with_their_own_motion(folder: Path) -> None:
    """As measure_motion finds it afterwards, which adds the flow."""
    layout = parse_anew(folder, camera_motion=True)
    parsed = {}
    for name in OWN:
        parsed[name] = load_motion(motion_beside(layout.meta_path(name)))
        assert len(parsed[name]) == 1 and np.isnan(parsed[name][:, 2]).all()
        (part,), _ = read_columns(layout.meta_path(name))
        assert part.numbers["camera_motion"].tolist() == pytest.approx(parsed[name][:, 1].tolist())
    assert measure(folder) == 0
    for name in OWN:
        measured = load_motion(motion_beside(layout.meta_path(name)))
        assert parsed[name][:, :2] == pytest.approx(measured[:, :2], abs=0.05)
        assert np.isfinite(measured).all()


def test_motion_is_committed_with_its_tracks(tmp_path: Path) -> None:
    """What was measured of earlier segments stays, and what a kill left of one that was not committed goes."""
    layout = TracksLayout(tmp_path)
    path = motion_beside(layout.meta_path("abc"))
    store = TrackStore(layout, SETTINGS)
    store.commit(clip("abc", 0), [make_track(1), make_track(2, start_s=1)], HW, LABELS, camera_motion=lambda track: 0.5)
    assert load_motion(path) == pytest.approx(np.array([[0, 0.5, np.nan], [1, 0.5, np.nan]]), nan_ok=True)
    write_motion(path, [(0, 0.0, 0.25, 0.75), (1, 1.0, 0.5, 1.5), (2, 9.0, 9.0, 9.0), (3, 9.0, 9.0, 9.0)])
    store.commit(clip("abc", 1), [make_track(3, start_s=10)], HW, LABELS, camera_motion=lambda track: 2.0)
    expected = np.array([[0, 0.25, 0.75], [1, 0.5, 1.5], [10, 2, np.nan]])
    assert load_motion(path) == pytest.approx(expected, nan_ok=True)
    store.commit(clip("abc", 2), [], HW, LABELS, camera_motion=lambda track: 2.0)
    assert len(load_motion(path)) == 3
    path.unlink()
    store.commit(clip("abc", 3), [make_track(4, start_s=30)], HW, LABELS, camera_motion=lambda track: 2.0)
    assert np.isnan(load_motion(path)[:3]).all() and load_motion(path)[3, 1] == 2


def test_a_video_that_is_not_there_costs_its_own_tracks_only(folder: Path) -> None:
    (folder / "videos" / "st" / "still.mp4").unlink()
    assert measure(folder) == 1
    assert len(list(folder.rglob("*-motion.npy"))) == 1


def test_motion_of_other_tracks_under_the_same_number_is_not_taken(folder: Path) -> None:
    meta_path = TracksLayout(folder / "tracks").meta_path("quick")
    write_motion(motion_beside(meta_path), [(0, 0.0, 1.0, 2.0), (7, 0.0, 3.0, 4.0)])
    (part,), errors = read_columns(meta_path)
    assert (part.numbers["camera_motion"].tolist(), part.numbers["flow_motion"].tolist()) == ([1.0], [2.0])
    write_motion(motion_beside(meta_path), [(0, 5.0, 1.0, 2.0)])
    (part,), errors = read_columns(meta_path)
    assert np.isnan(part.numbers["camera_motion"]).all() and not errors
    motion_beside(meta_path).write_bytes(b"no numbers")
    (part,), (error,) = read_columns(meta_path)
    assert np.isnan(part.numbers["flow_motion"]).all() and error.reason == "bad motion file"


def test_it_goes_when_its_video_is_forgotten() -> None:
    assert forget.Name("abc").is_file("abc-motion.npy")
    assert not forget.Name("abc").is_file("abcd-motion.npy")
