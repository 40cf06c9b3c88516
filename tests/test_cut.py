"""Cutting videos: where the shots are, what is kept and why not, which files come out, and what a second run does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import shelf
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_script import run_killed
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, SceneManager, open_video

from trackverse import metafile, metafile_line, quality, scenes, segments, shots, weights
from trackverse.errors import RecordError, VideoError
from trackverse.flat_drawing import FlatDrawing
from trackverse.layout import Layout
from trackverse.quality import ScoreFilter, judge_clip, judge_frames, technical_quality
from trackverse.scenes import CutConfig, Segment, VideoScenes, balance, plan_segments, why_drop_length
from trackverse.segments import JudgingOnTheWay, detect_scenes, find_segments
from trackverse.shots import CutFinder, FadeFinder
from trackverse.types import Clip, SourceVideo
from trackverse.video import CloseLook, glance_through, probe, read_frames

REPO_DIR = Path(__file__).parent.parent
FPS = 30
HW = (180, 320)
# Their cuts are at thirds of a second, which no millisecond meets.
SHOTS = {"park": 100, "title": 121, "street": 95, "glimpse": 40, "harbour": 110}  # numbers of frames
STARTS = dict(zip(SHOTS, np.cumsum([0, *SHOTS.values()]), strict=False))
NUM_FRAMES = sum(SHOTS.values())


def floor_ms(frame_index: int) -> float:
    return frame_index * 1000 // FPS / 1000


# ---- the videos


def title_card() -> np.ndarray:
    image = np.full((*HW, 3), (20, 30, 90), np.uint8)
    cv2.putText(image, "CHAPTER ONE", (40, 90), cv2.FONT_HERSHEY_DUPLEX, 1.1, (255, 255, 255), 2, cv2.LINE_AA)
    cv2.circle(image, (250, 140), 20, (240, 200, 60), -1, cv2.LINE_AA)
    return image


def landscape(seed: int) -> np.ndarray:
    """A wide picture of rough ground in colours of its own, for a camera to pan over."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (12, 36, 3), dtype=np.uint8), (640, HW[0]), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(rng.integers(0, 256, (HW[0], 640, 1), dtype=np.uint8), (0, 0), 1)[..., None]
    tint = rng.uniform(0.35, 1, 3)
    return ((0.6 * coarse + 0.4 * fine) * tint).astype(np.uint8)


def write_video(path: Path, shots: dict[str, int], options: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "g": "250"} | (options or {})
        )
        stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
        for seed, (name, num_frames) in enumerate(shots.items()):
            view = landscape(seed)
            for number in range(num_frames):
                image = title_card() if name == "title" else np.ascontiguousarray(view[:, number : number + HW[1]])
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())


@pytest.fixture(scope="module")
def shots_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shots with hard cuts; odd: one is a drawn title, one lasts 1.3 s, cuts need not be at key frames."""
    path = tmp_path_factory.mktemp("videos") / "shots.mp4"
    write_video(path, SHOTS)
    return path


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever weights this machine has, the filters judge by what comes with the repository."""
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "weights"))


@pytest.fixture
def workdir(tmp_path: Path, shots_video: Path) -> Path:
    """A work folder with a space in its name, and one downloaded video, whose id begins with a hyphen."""
    path = tmp_path / "work dir"
    add_video(path, "-shots_vid0", shots_video)
    return path


def add_video(workdir: Path, video_id: str, source_path: Path) -> Path:
    path = Layout(workdir).video_path(video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source_path, path)
    return path


def write_metafile(path: Path, *entries: dict[str, object] | str) -> Path:
    lines = [{"video_id": entry, "url": None} if isinstance(entry, str) else entry for entry in entries]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(workdir: Path, *metafile_and_flags: Path | str) -> list[str]:
    words = ["cut_videos.py", "--workdir", workdir, "--metafile", *metafile_and_flags]
    return [sys.executable, *map(str, words)]


def cut(workdir: Path, *metafile_and_flags: Path | str, status: int = 0) -> str:
    """Run cut_videos.py; what it said."""
    done = subprocess.run(command(workdir, *metafile_and_flags), cwd=REPO_DIR, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def load(workdir: Path, video_id: str) -> VideoScenes:
    found = scenes.load(Layout(workdir).scenes_path(video_id))
    assert found is not None
    return found


def mined(workdir: Path, part: int = 0, vocab: str = "coco") -> list[SourceVideo]:
    bad_lines: list[RecordError] = []
    videos = list(metafile.read_metafile(Layout(workdir).mined_part_path(vocab, part), bad_lines.append))
    assert not bad_lines
    return videos


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with what changes when it is written again."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def num_frames(path: Path) -> int:
    return sum(len(batch.images) for batch in read_frames(path, long_side=64))


# ---- where the shots are


@pytest.fixture(scope="module")
def hidden_cuts_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five shots; odd: no key frame at the cuts, and two of three frames are such that no others need them."""
    path = tmp_path_factory.mktemp("videos") / "hidden_cuts.mp4"
    write_video(
        path, SHOTS, options={"g": "250", "sc_threshold": "0", "bf": "2", "x264-params": "b-adapt=0:b-pyramid=0"}
    )
    return path


@pytest.mark.parametrize("fast", [False, True], ids=["every frame", "fast"])
@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_cuts_are_found_at_the_frame(shots_video: Path, hidden_cuts_video: Path, detector: str, fast: bool) -> None:
    for path in (shots_video, hidden_cuts_video):
        found = detect_scenes(path, probe(path), detector, fast=fast)
        assert [start_s for start_s, _ in found] == [floor_ms(start) for start in STARTS.values()], path
        assert [end_s for _, end_s in found[:-1]] == [start_s for start_s, _ in found[1:]]
        assert found[-1][1] == floor_ms(NUM_FRAMES)


def test_the_fast_way_leaves_frames_out_and_shows_them_when_asked(hidden_cuts_video: Path) -> None:
    glances = glance_through(hidden_cuts_video, long_side=64, sample_fps=None, sample_long_side=64, fast=True)
    times_s = [glance.time_s for glance in glances]
    assert NUM_FRAMES / 4 < len(times_s) < NUM_FRAMES / 2
    first_s, last_s = next((a, b) for a, b in pairwise(times_s) if b - a > 1.5 / FPS)
    with CloseLook(hidden_cuts_video, long_side=64) as close_look:
        between = close_look.frames(first_s, last_s)
        assert close_look.frames(last_s, last_s) == []
    wanted = next(read_frames(hidden_cuts_video, start_s=first_s, end_s=last_s + 0.5 / FPS))
    np.testing.assert_allclose([time_s for time_s, _ in between], wanted.times_s)
    assert len(between) > 2


def test_change_is_scored_as_pyscenedetect_does() -> None:
    """At the size that cuts are looked for at; the detector keeps its score to itself."""
    images = [landscape(seed)[:, :64] for seed in range(4)]
    detector = ContentDetector()
    for number, (old, new) in enumerate(pairwise(images)):
        detector.process_frame(FrameTimecode(2 * number, float(FPS)), cv2.cvtColor(old, cv2.COLOR_RGB2BGR))
        detector.process_frame(FrameTimecode(2 * number + 1, float(FPS)), cv2.cvtColor(new, cv2.COLOR_RGB2BGR))
        assert shots.content_change(old, new) == pytest.approx(detector._frame_score, abs=1e-6)


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_cuts_are_those_that_pyscenedetect_finds_on_full_frames(shots_video: Path, detector: str) -> None:
    manager = SceneManager()
    manager.auto_downscale = False
    manager.add_detector(AdaptiveDetector() if detector == "adaptive" else ContentDetector())
    manager.detect_scenes(open_video(str(shots_video), backend="opencv"))
    theirs = [floor_ms(start.frame_num) for start, _ in manager.get_scene_list()]
    assert [start_s for start_s, _ in detect_scenes(shots_video, probe(shots_video), detector)] == theirs


HOW_IT_DIMS = {
    "fades through black": (np.array([1, 0.8, 0.6, 0.4, 0.2, 0, 0.2, 0.4, 0.6, 0.8, 1]), 0, True),
    "fades through white": (np.array([1, 0.8, 0.6, 0.4, 0.2, 0, 0.2, 0.4, 0.6, 0.8, 1]), 255, True),
    "half a second of black": (np.array([1, 0.5, *[0] * 15, 0.5, 1]), 0, True),
    "dark, not black": (np.array([1, 0.8, 0.6, 0.6, 0.8, 1]), 0, False),
}


@pytest.mark.parametrize("step", [1, 2], ids=["every frame", "every other"])
@pytest.mark.parametrize("same", [False, True], ids=["another shot", "the same shot"])
@pytest.mark.parametrize(("shares", "ground", "is_fade"), HOW_IT_DIMS.values(), ids=HOW_IT_DIMS)
def test_fades_are_found_and_what_comes_back_is_none(
    shares: np.ndarray, ground: int, is_fade: bool, same: bool, step: int
) -> None:
    """Cameras that pan slowly; a light that fails, or a flash, shows the same again."""
    views = [cv2.resize(landscape(seed), (128, 36), interpolation=cv2.INTER_AREA) for seed in (1, 1 if same else 3)]
    around = np.ones(40)
    dim = np.concatenate([around, shares, around])
    middle = 40 + len(shares) // 2
    finder = FadeFinder()
    found = []
    for number, share in list(enumerate(dim.tolist()))[middle % step :: step]:
        view = views[number >= middle][:, number // 16 : number // 16 + 64]
        found += finder.see((share * view + (1 - share) * ground).astype(np.uint8), number / FPS)
    assert len(found) == (is_fade and not same)
    assert all(abs(at - middle / FPS) <= 2 / FPS for at in found)


def test_a_second_of_black_is_a_shot_of_its_own_and_black_at_the_ends_is_none() -> None:
    finder = FadeFinder()
    view = landscape(1)[:36, :64]
    lit = np.array([0] * 20 + [1] * 40 + [0] * 45 + [1] * 40 + [0] * 20)
    found = [at for number, one in enumerate(lit) for at in finder.see(view * np.uint8(one), number / FPS)]
    assert found == [60 / FPS, 105 / FPS]


@pytest.mark.parametrize(("length", "is_cut"), [(1, False), (3, False), (10, False), (30, True)])
@pytest.mark.parametrize("what", ["flash", "dark", "another picture"])
def test_a_picture_that_is_soon_back_is_no_cut(what: str, length: int, is_cut: bool) -> None:
    other = {"flash": np.full((36, 64, 3), 240, np.uint8), "dark": np.zeros((36, 64, 3), np.uint8)}
    finder = CutFinder("adaptive")
    found = []
    for number in range(100):
        image = landscape(1)[:36, number // 3 : number // 3 + 64]
        if 40 <= number < 40 + length:
            image = other.get(what, landscape(2)[:36, :64])
        found += finder.see(np.ascontiguousarray(image), number / FPS)
    assert bool(found + finder.rest()) == is_cut


def test_without_a_detector_the_video_is_one_scene(shots_video: Path) -> None:
    assert detect_scenes(shots_video, probe(shots_video), "none") == [(0.0, floor_ms(NUM_FRAMES))]


def test_cuts_are_at_frame_times_however_uneven_they_are() -> None:
    """Frames of a video of variable frame rate; the cut is at frame 40."""
    times_s = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.09, 80))
    finder = CutFinder("adaptive")
    found = [finder.see(landscape(1 if n < 40 else 2)[:, :64], time_s) for n, time_s in enumerate(times_s.tolist())]
    assert [cut for cuts in [*found, finder.rest()] for cut in cuts] == [(times_s[39], times_s[40])]
    assert CutFinder("adaptive").rest() == []


# ---- judged on the way


LISTS = {
    "the scenes": None,
    "spans within scenes": [(0.5, 3.2), (7.6, 10.0), (11.9, 15.4)],
    "a span over all cuts": [(0.0, 15.5)],
    "spans that overlap": [(0.2, 3.0), (1.4, 3.3), (0.2, 2.0)],
    "a span between two samples": [(0.6, 0.9)],
    "a span past the end, a reversed and an empty one": [(12.0, 99.0), (5.0, 3.0), (5.0, 5.0)],
}


@pytest.mark.parametrize("case", LISTS)
def test_segments_are_judged_by_their_own_samples(shots_video: Path, case: str) -> None:
    """Samples are taken at each half second of the video, whatever the segments turn out to be."""
    batches = list(read_frames(shots_video, fps=quality.FPS))
    images = np.concatenate([batch.images for batch in batches])
    times_s = np.concatenate([batch.times_s for batch in batches])
    spans = LISTS[case]
    clips = None if spans is None else tuple(Clip("v", f"v.{n}.mp4", *span) for n, span in enumerate(spans))
    config = CutConfig(min_scene_len_s=0.2)
    filters = [
        ScoreFilter("number", "few", len, min_score=1),
        ScoreFilter("flat_drawing", "flat drawing", FlatDrawing(), max_score=0),
        ScoreFilter("technical_quality", "low technical quality", technical_quality, min_score=4),
    ]
    found = find_segments(SourceVideo("v", None, clips), shots_video, config, filters, clip_mode=None)
    judged = [segment for segment in found.segments if len(segment.scores) > 1]
    assert judged
    for segment in judged:
        clip = segment.clip
        own = images[(clip.start_s <= times_s) & (times_s < min(clip.end_s, clip.start_s + quality.FIRST_S))]
        by_itself = judge_clip(shots_video, filters, clip)
        scores = judge_frames(filters, own)[0] if len(own) else by_itself[0]
        own_scores = {name: score for name, score in segment.scores.items() if name != "length"}
        assert own_scores == pytest.approx(scores, abs=0.03), clip
        assert segment.reason == by_itself[1]
        assert own_scores == pytest.approx(by_itself[0], abs=1.5), (
            clip
        )  # one frame more or less, others of the same pictures


def test_stretches_are_judged_by_their_own_samples_in_little_memory() -> None:
    """A hundred minutes; sample n has the brightness n % 256, and the score is the list of its samples."""
    seen: list[list[int]] = []
    filters = [ScoreFilter("any", "poor", lambda images: float(seen.append(images[:, 0, 0, 0].tolist()) or 0))]
    spans = [(2.0, 6000.0), (20.0, 30.0), (40.0, 43.0), (50.0, 51.0)]
    judging = JudgingOnTheWay(spans, 6000.0, filters, min_len_s=3.0)
    most_kept = 0
    for number in range(12000):
        judging.see(np.full((2, 2, 3), number % 256, np.uint8), number / 2)
        if number == 60:
            judging.cut([29.5])  # found half a second late
        most_kept = max(most_kept, len(judging._samples))
    judging.end()
    assert seen == [list(range(4, 20)), list(range(40, 56)), list(range(59, 75)), list(range(80, 86))]
    assert most_kept <= 21
    looked = [(2.0, 29.5), (20.0, 29.5), (40.0, 43.0), (29.5, 6000.0), (50.0, 51.0), (29.5, 30.0)]
    assert [judging.verdict(stretch) is not None for stretch in looked] == [True] * 4 + [False] * 2


# ---- spans and scenes

SCENES = [(0.0, 10.0), (10.0, 20.0), (20.0, 32.5)]
PLANS = {
    "a span within a scene keeps its name": ([("v.1.mp4", 2, 7)], [("v.1.mp4", 2, 7, None)]),
    "a span that is a scene keeps its name": ([("v.1.mp4", 10, 20)], [("v.1.mp4", 10, 20, None)]),
    "a span over a cut becomes pieces": ([("v.1.mp4", 6, 14)], [("v.2.mp4", 6, 10, None), ("v.3.mp4", 10, 14, None)]),
    "pieces are numbered past all listed names": (
        [("v.0.mp4", 6, 14), ("v.7.mp4", 1, 5), ("other.mp4", 21, 25)],
        [("v.8.mp4", 6, 10, None), ("v.9.mp4", 10, 14, None), ("v.7.mp4", 1, 5, None), ("other.mp4", 21, 25, None)],
    ),
    "less than a frame beyond a cut is not a piece": ([("v.1.mp4", 3, 10.03)], [("v.1.mp4", 3, 10, None)]),
    "a span over the end is cut there": ([("v.1.mp4", 25, 99)], [("v.1.mp4", 25, 32.5, None)]),
    "a span beyond the end": ([("v.1.mp4", 40, 50)], [("v.1.mp4", 40, 50, "span beyond the end of the video")]),
    "a reversed span": ([("v.1.mp4", 7, 2)], [("v.1.mp4", 7, 2, "span empty or reversed")]),
    "an empty span": ([("v.1.mp4", 7, 7)], [("v.1.mp4", 7, 7, "span empty or reversed")]),
    "the later of two that overlap begins where the earlier ends": (
        [("v.1.mp4", 1, 6), ("v.2.mp4", 3, 9)],
        [("v.1.mp4", 1, 6, None), ("v.2.mp4", 6, 9, None)],
    ),
    "one listed later but beginning earlier ends where the other begins": (
        [("v.1.mp4", 3, 9), ("v.2.mp4", 1, 6)],
        [("v.1.mp4", 3, 9, None), ("v.2.mp4", 1, 3, None)],
    ),
    "a span within others": (
        [("v.1.mp4", 1, 6), ("v.2.mp4", 6, 9), ("v.3.mp4", 5, 8)],
        [("v.1.mp4", 1, 6, None), ("v.2.mp4", 6, 9, None), ("v.3.mp4", 5, 8, "span within others")],
    ),
    "spans that touch": (
        [("v.1.mp4", 1, 6), ("v.2.mp4", 6, 9)],
        [("v.1.mp4", 1, 6, None), ("v.2.mp4", 6, 9, None)],
    ),
    "a name listed twice counts once": (
        [("v.1.mp4", 1, 6), ("v.1.mp4", 3, 9)],
        [("v.1.mp4", 1, 6, None), ("v.1.mp4", 3, 9, "clip_id listed twice")],
    ),
    "an empty list asks for nothing": ([], []),
    "no list: the scenes": (
        None,
        [("v.0.mp4", 0, 10, None), ("v.1.mp4", 10, 20, None), ("v.2.mp4", 20, 32.5, None)],
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_segments_are_what_spans_and_scenes_share(case: str) -> None:
    spans, expected = PLANS[case]
    clips = None if spans is None else tuple(Clip("v", *span) for span in spans)
    planned = plan_segments(SourceVideo("v", None, clips), SCENES, min_piece_s=0.04)
    found = [(seg.clip.clip_id, seg.clip.start_s, seg.clip.end_s, seg.reason) for seg in planned]
    assert found == expected
    names = [segment.clip.clip_id for segment in planned if segment.reason is None]
    assert len(set(names)) == len(names)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(-2000, 40000), st.integers(-2000, 40000)), max_size=12))
def test_kept_segments_never_overlap_and_are_within_the_video(spans_ms: list[tuple[int, int]]) -> None:
    clips = tuple(Clip("v", f"v.{n}.mp4", start / 1000, end / 1000) for n, (start, end) in enumerate(spans_ms))
    planned = plan_segments(SourceVideo("v", None, clips), SCENES, min_piece_s=0.04)
    kept = sorted((one.clip.start_s, one.clip.end_s) for one in planned if one.reason is None)
    assert all(0 <= start_s < end_s <= SCENES[-1][1] for start_s, end_s in kept)
    assert all(end_s <= next_s for (_, end_s), (next_s, _) in pairwise(kept))
    assert len(planned) >= len(clips)


def test_shortened_spans_are_counted_by_reason() -> None:
    spans = [(1, 6), (3, 9), (25, 99), (40, 50), (7, 2), (4, 5), (20, 24)]
    clips = tuple(Clip("v", f"v.{n}.mp4", *span) for n, span in enumerate(spans))
    found = scenes.why_shortened(SourceVideo("v", None, clips), 32.5)
    assert found == ["span overlaps another", "span ends after the video"]
    assert scenes.why_shortened(SourceVideo("v", None, None), 32.5) == []


@pytest.mark.parametrize(
    ("case", "start_s", "end_s", "reason"),
    [
        ("just long enough", 0.1, 3.1, None),  # 3.1 - 0.1 is below 3 in floating point
        ("a millisecond short", 0, 2.999, "shorter than 3 s"),
        ("as long as allowed", 0.7, 600.7, None),
        ("a millisecond long", 0, 600.001, "longer than 600 s"),
    ],
)
def test_lengths(case: str, start_s: float, end_s: float, reason: str | None) -> None:
    assert why_drop_length(Clip("v", "v.0.mp4", start_s, end_s), CutConfig()) == reason, case


# ---- parts


def test_parts_are_balanced() -> None:
    weights = {f"v{n}": float(n % 17 + 1) for n in range(200)}
    parts = balance(weights, 7)
    totals = [sum(weights[key] for key in part) for part in parts]
    assert sorted(key for part in parts for key in part) == sorted(weights)
    assert max(totals) - min(totals) <= 1
    assert parts == balance(dict(reversed(weights.items())), 7), "the order in which videos are met doesn't matter"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_parts=st.sampled_from([2, 16, 128]),
    videos_per_part=st.integers(20, 500),
    spread=st.floats(0.1, 1.2),
)
def test_parts_are_of_one_length_within_two_percent(
    seed: int, num_parts: int, videos_per_part: int, spread: float
) -> None:
    """Kept seconds of a video are spread like lengths on the web are: log-normally, from 3 s to 2 h."""
    num_videos = num_parts * videos_per_part
    seconds = np.clip(np.random.default_rng(seed).lognormal(np.log(120), spread, num_videos), 3, 7200).tolist()
    weights = {f"v{n}": weight for n, weight in enumerate(seconds)}
    parts = balance(weights, num_parts)
    totals = np.array([sum(weights[key] for key in part) for part in parts])
    assert sorted(key for part in parts for key in part) == sorted(weights)
    # A video isn't divided: one that is longer than a part is a part of its own.
    if max(seconds) < totals.mean() / 2:
        assert np.abs(totals / totals.mean() - 1).max() <= 0.02


def test_parts_of_few_videos_are_as_equal_as_videos_allow() -> None:
    """The longest and the shortest part differ by one video at most."""
    seconds = np.random.default_rng(0).uniform(3, 600, 40).tolist()
    weights = {f"v{n}": weight for n, weight in enumerate(seconds)}
    totals = [sum(weights[key] for key in part) for part in balance(weights, 16)]
    assert max(totals) - min(totals) <= max(seconds)


def test_parts_may_outnumber_videos() -> None:
    assert balance({"a": 1.0, "b": 5.0}, 3) == [["b"], ["a"], []]
    assert balance({}, 2) == [[], []]


def keep(workdir: Path, video_id: str, seconds: float) -> None:
    """A scenes file of one kept and one dropped segment."""
    segments = (
        Segment(Clip(video_id, f"{video_id}.0.mp4", 0.0, seconds), scores={"flat_drawing": 0.1}),
        Segment(Clip(video_id, f"{video_id}.1.mp4", seconds, seconds + 1), reason="shorter than 3 s"),
    )
    url = metafile_line.youtube_url(video_id)
    spans = ((0.0, seconds), (seconds, seconds + 1))
    scenes.save(
        Layout(workdir).scenes_path(video_id),
        VideoScenes(video_id, url, seconds + 1, CutConfig(), None, "copy", spans, segments),
    )


def test_mined_parts_are_whole_and_stay_untouched(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for n in range(10):
        keep(tmp_path, f"{n:02}_video_id", 5.0 + n)
    scenes.write_mined_parts(layout, "lvis", 3)
    before = snapshot(tmp_path)
    kept = [video for part in range(3) for video in mined(tmp_path, part, "lvis")]
    assert sorted(video.video_id for video in kept) == [f"{n:02}_video_id" for n in range(10)]
    assert {video.clips for video in kept if video.video_id == "04_video_id"} == {
        (Clip("04_video_id", "04_video_id.0.mp4", 0.0, 9.0),)
    }
    assert {video.url for video in kept} == {metafile_line.youtube_url(f"{n:02}_video_id") for n in range(10)}
    scenes.write_mined_parts(layout, "lvis", 3)
    assert snapshot(tmp_path) == before
    scenes.write_mined_parts(layout, "lvis", 1)  # else parts 1 and 2 would hold segments a second time
    assert [path.name for path in layout.mined_part_path("lvis", 0).parent.iterdir()] == ["part0.jsonl"]
    assert len(mined(tmp_path, 0, "lvis")) == 10


def test_a_scenes_file_that_cant_be_used_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(tmp_path, "good_video0", 5.0)
    torn = Layout(tmp_path).scenes_path("torn_video0")
    torn.parent.mkdir()
    torn.write_text('{"video_id": "torn_vi')
    scenes.write_mined_parts(Layout(tmp_path), "coco", 1)
    assert [video.video_id for video in mined(tmp_path)] == ["good_video0"]
    assert str(torn) in caplog.text
    with pytest.raises(RecordError):
        scenes.load(torn)


# ---- the command


def test_the_scenes_decide_where_the_metafile_lists_no_clips(workdir: Path, tmp_path: Path) -> None:
    layout, ids = Layout(workdir), write_metafile(tmp_path / "ids.jsonl", "-shots_vid0")
    plan = cut(workdir, ids, "--dry_run")
    assert "1 video to do" in plan
    assert [path.name for path in workdir.iterdir()] == ["videos_mp4"]

    said = cut(workdir, ids)
    assert re.search(r"1 video done, 2 dropped \(.*\)", said)
    assert "1 flat drawing" in said and "1 shorter than 3 s" in said
    reasons = [segment.reason for segment in load(workdir, "-shots_vid0").segments]
    assert reasons == [None, "flat drawing", None, "shorter than 3 s", None]
    scores = [segment.scores for segment in load(workdir, "-shots_vid0").segments]
    judged = {"length", "flat_drawing", "technical_quality"}
    assert [set(score) for score in scores] == [judged, judged, judged, {"length"}, judged]
    settings = json.loads(layout.scenes_path("-shots_vid0").read_text())["settings"]
    assert settings["cartoon_model"].startswith("flat_drawing sha256:")
    assert settings["aesthetics_model"] == "technical_quality"

    kept = {"-shots_vid0.0.mp4": "park", "-shots_vid0.2.mp4": "street", "-shots_vid0.4.mp4": "harbour"}
    clips_dir = layout.clips_video_dir("-shots_vid0")
    assert sorted(path.name for path in clips_dir.iterdir()) == sorted(kept)
    for clip_id, shot in kept.items():
        assert num_frames(clips_dir / clip_id) == SHOTS[shot], shot
    (video,) = mined(workdir)
    assert (video.video_id, video.url) == ("-shots_vid0", metafile_line.youtube_url("-shots_vid0"))
    assert video.clips == load(workdir, "-shots_vid0").kept

    before = snapshot(workdir)
    assert "1 already there: nothing to do" in cut(workdir, ids)
    assert snapshot(workdir) == before
    assert "1 video cut with other settings" in cut(workdir, ids, "--min_scene_len", "2")
    assert snapshot(workdir) == before


def test_spans_are_cut_at_the_scenes(workdir: Path, tmp_path: Path) -> None:
    spans = {"0": (0.5, 2.0), "1": (8.0, 15.0), "2": ("00:00:04.000", "00:00:05.000"), "3": (90, 95), "4": (9, 8)}
    clips = [{"clip_id": f"-shots_vid0.{n}.mp4", "span": span} for n, span in spans.items()]
    listed = write_metafile(tmp_path / "part0.jsonl", {"video_id": "-shots_vid0", "clip": clips})
    said = cut(workdir, listed, "--min_scene_len", "1", "--mode", "encode")
    found = {segment.clip.clip_id: segment for segment in load(workdir, "-shots_vid0").segments}
    pieces = [floor_ms(STARTS[shot]) for shot in ("street", "glimpse", "harbour")]
    assert {
        name.split(".")[1]: (segment.clip.start_s, segment.clip.end_s, segment.reason)
        for name, segment in found.items()
    } == {
        "0": (0.5, 2.0, None),
        "5": (8.0, pieces[1], None),
        "6": (pieces[1], pieces[2], None),
        "7": (pieces[2], 15.0, None),
        "2": (4.0, 5.0, "flat drawing"),
        "3": (90.0, 95.0, "span beyond the end of the video"),
        "4": (9.0, 8.0, "span empty or reversed"),
    }
    assert "3 dropped" in said
    assert num_frames(Layout(workdir).clip_path("-shots_vid0", "-shots_vid0.0.mp4")) == 45
    assert num_frames(Layout(workdir).clip_path("-shots_vid0", "-shots_vid0.6.mp4")) == SHOTS["glimpse"]


def test_sound_is_kept_unless_it_is_left_out(tmp_path: Path) -> None:
    ids, source = write_metafile(tmp_path / "ids.jsonl", "sound_vid00"), shelf.with_sound(tmp_path)
    flags = ("--scene_detector", "none", "--min_scene_len", "1", "--filters", "length")
    for name, extra, has_audio in (("with", (), True), ("without", ("--no_audio",), False)):
        layout = Layout(tmp_path / name)
        layout.video_path("sound_vid00").parent.mkdir(parents=True)
        shutil.copy(source, layout.video_path("sound_vid00"))
        cut(layout.workdir, ids, *flags, *extra)
        assert probe(layout.clip_path("sound_vid00", "sound_vid00.0.mp4")).has_audio is has_audio
    assert "1 video cut with other settings" in cut(tmp_path / "with", ids, *flags, "--no_audio")


def test_clips_may_come_later_and_filters_may_be_off(workdir: Path, tmp_path: Path) -> None:
    ids = write_metafile(tmp_path / "ids.jsonl", "-shots_vid0")
    flags = ("--filters", "length", "cartoon=off", "aesthetics=off", "--max_scene_len", "3.9")
    cut(workdir, ids, *flags, "--no_clips")
    assert not Layout(workdir).clips_dir.exists()
    segments = load(workdir, "-shots_vid0").segments
    assert [segment.reason for segment in segments] == [None, "longer than 3.9 s", None, "shorter than 3 s", None]
    assert [list(segment.scores) for segment in segments] == [["length"]] * 5
    assert "1 video done" in cut(workdir, ids, *flags)
    assert len(list(Layout(workdir).clips_dir.rglob("*.mp4"))) == 3
    assert "already there" in cut(workdir, ids, *flags, "--no_clips")


def test_filters_that_only_score_keep_everything(workdir: Path, tmp_path: Path) -> None:
    ids = write_metafile(tmp_path / "ids.jsonl", "-shots_vid0")
    said = cut(workdir, ids, "--no_clips", "--filters", "length=score", "cartoon=score", "aesthetics=off")
    assert "cartoon: score by flat_drawing" in said and "aesthetics: off" in said and "dropped" not in said
    segments = load(workdir, "-shots_vid0").segments
    assert [segment.reason for segment in segments] == [None] * 5
    assert [list(segment.scores) for segment in segments] == [["length", "flat_drawing"]] * 5
    drawn = [segment.scores["flat_drawing"] for segment in segments]
    assert drawn[1] is not None and drawn[1] > 0 and max(drawn[:1] + drawn[2:]) < 0
    assert segments[3].scores["length"] == pytest.approx(SHOTS["glimpse"] / FPS, abs=0.002)
    assert len(mined(workdir)[0].clips or ()) == 5
    assert "1 video cut with other settings" in cut(workdir, ids, "--no_clips")


def test_files_of_other_versions_settings_still_count(workdir: Path, tmp_path: Path) -> None:
    keep(workdir, "-shots_vid0", 5.0)
    path = Layout(workdir).scenes_path("-shots_vid0")
    entry = json.loads(path.read_text())
    entry["settings"] = {"scene_detector": "adaptive", "max_flat": 0.5}
    path.write_text(json.dumps(entry))
    said = cut(workdir, write_metafile(tmp_path / "ids.jsonl", "-shots_vid0"), "--no_clips")
    assert "1 already there" in said and "1 video cut with other settings" in said
    assert [video.video_id for video in mined(workdir)] == ["-shots_vid0"]


def test_videos_that_fail_are_told_with_their_reason(workdir: Path, tmp_path: Path, shots_video: Path) -> None:
    truncated = add_video(workdir, "truncated_0", shots_video)
    truncated.write_bytes(shots_video.read_bytes()[: shots_video.stat().st_size // 2])
    ids = write_metafile(tmp_path / "ids.jsonl", "truncated_0", "not_there_0", "-shots_vid0")
    said = cut(workdir, ids, "--no_clips", "--num_workers", "2", status=1)
    assert "1 video done, 2 failed" in said and "1 video missing" in said
    failures = [json.loads(line) for line in (Layout(workdir).scenes_dir / "failed.jsonl").read_text().splitlines()]
    by_key = {entry["key"]: entry for entry in failures}
    assert by_key["not_there_0"]["reason"] == "video missing" and by_key["not_there_0"]["retry"]
    assert by_key["truncated_0"]["reason"] and not by_key["truncated_0"]["retry"]
    assert str(truncated) in by_key["truncated_0"]["message"]
    assert [video.video_id for video in mined(workdir)] == ["-shots_vid0"]

    add_video(workdir, "not_there_0", shots_video)  # its download was late
    said = cut(workdir, ids, "--no_clips", status=1)
    assert "1 video done, 1 already there, 1 failed before" in said
    assert [video.video_id for video in mined(workdir)] == ["-shots_vid0", "not_there_0"]
    shutil.copyfile(shots_video, truncated)
    assert "1 video done" in cut(workdir, ids, "--no_clips", "--retry_failed")


def test_commands_side_by_side_end_with_complete_parts(workdir: Path, tmp_path: Path, shots_video: Path) -> None:
    """Three at once: two with a chunk each, and one with everything."""
    names = ["-shots_vid0", "-shots_vid1", "-shots_vid2", "-shots_vid3"]
    for name in names[1:]:
        add_video(workdir, name, shots_video)
    ids = write_metafile(tmp_path / "ids.jsonl", *names)
    chunks = (["--num_chunks", "2", "--chunk_id", "0"], ["--num_chunks", "2", "--chunk_id", "1"], [])
    flags = ["--no_clips", "--filters", "length", "cartoon=off", "aesthetics=off", "--num_parts", "2"]
    running = [subprocess.Popen(command(workdir, ids, *flags, *chunk), cwd=REPO_DIR) for chunk in chunks]
    assert [process.wait(timeout=300) for process in running] == [0, 0, 0]
    assert [len(mined(workdir, part)) for part in (0, 1)] == [2, 2]
    assert {video.video_id for part in (0, 1) for video in mined(workdir, part)} == set(names)


KILLED_AT_A_CLIP = """
from trackverse.video import clips

def write_half_and_die(video, window, temporary, *, audio):
    temporary.write_bytes(b"half a clip")
    die()

clips._write_encoded = write_half_and_die
"""


def test_a_killed_run_leaves_nothing_that_counts(workdir: Path, tmp_path: Path) -> None:
    """The kill comes when the first clip is being written, before the scenes file."""
    layout, ids = Layout(workdir), write_metafile(tmp_path / "ids.jsonl", "-shots_vid0")
    _, *script_and_flags = command(workdir, ids, "--mode", "encode")
    run_killed(KILLED_AT_A_CLIP, *script_and_flags)
    assert len(list(layout.clips_dir.glob("*/*/.*"))) == 1
    assert not layout.scenes_paths() and not layout.mined_part_path("coco", 0).exists()
    assert "1 video done" in cut(workdir, ids, "--mode", "encode")
    clip_names = sorted(path.name for path in layout.clips_video_dir("-shots_vid0").iterdir())
    assert clip_names == [clip.clip_id for clip in load(workdir, "-shots_vid0").kept]
    assert len(mined(workdir)) == 1


def test_wrong_usage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not a plain file name" in cut(tmp_path, tmp_path / "none.jsonl", "--vocab", "../lvis", status=2)
    assert "no such metafile" in cut(tmp_path, tmp_path / "none.jsonl", status=2)
    lengths = ("--min_scene_len", "10", "--max_scene_len", "5")
    assert "10 is more than --max_scene_len 5" in cut(tmp_path, tmp_path / "none.jsonl", *lengths, status=2)
    assert "no such file" in cut(tmp_path, tmp_path / "none.jsonl", "--cartoon_model", "none.pth", status=2)
    monkeypatch.delenv("TRACKVERSE_DB", raising=False)
    done = subprocess.run(
        [sys.executable, "cut_videos.py", "--metafile", "x"], cwd=REPO_DIR, capture_output=True, text=True
    )
    assert done.returncode == 2 and "--workdir" in done.stderr


def test_a_missing_video_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"download_videos\.py"):
        find_segments(SourceVideo("v", None, None), tmp_path / "v.mp4", CutConfig(), [], clip_mode=None)


def test_more_spans_than_could_be_compared_are_the_videos_failure(tmp_path: Path) -> None:
    """A line of metadata has room for a quarter of a million, which would take days."""
    clips = tuple(Clip("video", f"video.{n}.mp4", n / 1000, n / 1000 + 5) for n in range(segments.MAX_SPANS + 1))
    (tmp_path / "video.mp4").write_bytes(b"it is not even opened")
    with pytest.raises(RecordError) as caught:
        find_segments(SourceVideo("video", None, clips), tmp_path / "video.mp4", CutConfig(), [], clip_mode=None)
    assert caught.value.reason == "too many spans"
