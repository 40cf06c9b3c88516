"""Detections at the door, frames to tracks, what is kept, and tracks as MOT text and as a drawn video."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import shelf

from trackverse import drawing, tracking
from trackverse.boxes import tlwh_to_xyxy, xyxy_to_tlwh
from trackverse.bytetrack import ByteTrackConfig, ByteTracker
from trackverse.detectors import DEFAULTS, choose_detector
from trackverse.drawing import colour_of, draw_tracks
from trackverse.errors import VideoError
from trackverse.export import write_mot
from trackverse.filters import FilterConfig, why_drop
from trackverse.records import FrameClasses, Origin, TopClasses, TrackRecord
from trackverse.refine import RefineConfig, refine
from trackverse.segments import detect_scenes
from trackverse.tracking import TrackingSettings, seen_once, track_clip, track_frames, usable
from trackverse.types import Clip, Detections, FrameBatch, Track, UInt8
from trackverse.video import VideoWriter, frame_times, probe, read_frames

FRAME_HW = (100, 200)
NAN, INF = np.nan, np.inf
NOT_FINITE, OUTSIDE = "detections not finite", "detections empty or outside the frame"
TWO_CLASSES = "detections of an object seen as two classes"


# ---- detections at the door


def one_detection(xyxy: list[float], score: float = 0.9, logit: float = 0.8, look: float = 1.0) -> Detections:
    rows = ([xyxy], [score], [[logit, 0.1]], [[look, 0.0]])
    return Detections(*(np.array(row, np.float32) for row in rows))


INSIDE = [10, 20, 50, 80]
REFUSED = {
    "NaN in the box": (one_detection([NAN, 20, 50, 80]), NOT_FINITE),
    "inf in the box": (one_detection([10, 20, INF, 80]), NOT_FINITE),
    "-inf in the box": (one_detection([-INF, 20, 50, 80]), NOT_FINITE),
    "NaN score": (one_detection(INSIDE, score=NAN), NOT_FINITE),
    "inf score": (one_detection(INSIDE, score=INF), NOT_FINITE),
    "NaN class score": (one_detection(INSIDE, logit=NAN), NOT_FINITE),
    "NaN look": (one_detection(INSIDE, look=NAN), NOT_FINITE),
    "inf look": (one_detection(INSIDE, look=INF), NOT_FINITE),
    "a look too long for float32": (one_detection(INSIDE, look=1e30), NOT_FINITE),
    "reversed left and right": (one_detection([50, 20, 10, 80]), OUTSIDE),
    "reversed top and bottom": (one_detection([10, 80, 50, 20]), OUTSIDE),
    "no height": (one_detection([10, 20, 50, 20]), OUTSIDE),
    "no width": (one_detection([10, 20, 10, 80]), OUTSIDE),
    "half a pixel wide": (one_detection([10, 20, 10.5, 80]), OUTSIDE),
    "left of the frame": (one_detection([-50, 20, -10, 80]), OUTSIDE),
    "right of the frame": (one_detection([200, 20, 250, 80]), OUTSIDE),
    "below the frame": (one_detection([10, 100, 50, 180]), OUTSIDE),
    "half a pixel in the frame": (one_detection([199.5, 20, 250, 80]), OUTSIDE),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("detection, reason", REFUSED.values(), ids=REFUSED)
def test_refused_and_counted(detection: Detections, reason: str) -> None:
    refused = Counter[str]()
    kept = usable(detection, FRAME_HW, refused)
    assert len(kept) == 0
    assert (kept.xyxy.shape, kept.logits.shape, kept.embeddings.shape) == ((0, 4), (0, 2), (0, 2))
    assert refused == {reason: 1}


KEPT = {
    "inside": (INSIDE, INSIDE),
    "the whole frame": ([0, 0, 200, 100], [0, 0, 200, 100]),
    "over the left and top edge": ([-10, -5, 50, 80], [0, 0, 50, 80]),
    "over the right and bottom edge": ([150, 60, 240, 130], [150, 60, 200, 100]),
    "a pixel in the frame": ([199, 20, 250, 80], [199, 20, 200, 80]),
}


@pytest.mark.parametrize("xyxy, expected", KEPT.values(), ids=KEPT)
def test_kept_and_cut_to_the_frame(xyxy: list[float], expected: list[float]) -> None:
    refused = Counter[str]()
    kept = usable(one_detection(xyxy), FRAME_HW, refused)
    np.testing.assert_array_equal(kept.xyxy, [expected])
    assert not refused


def test_the_good_ones_stay_whole_and_in_order_among_the_bad() -> None:
    rng = np.random.default_rng(2)
    xyxy = np.array([INSIDE, [NAN] * 4, [20, 20, 60, 70], [5, 5, 5, 5], [30, 20, 90, 90]], np.float32)
    found = Detections(xyxy, *(rng.random(shape).astype(np.float32) for shape in (5, (5, 3), (5, 2))))
    refused = Counter[str](before=1)
    kept, rows = usable(found, FRAME_HW, refused), [0, 2, 4]
    for name in ("xyxy", "scores", "logits", "embeddings"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(found, name)[rows])
    assert refused == {"before": 1, NOT_FINITE: 1, OUTSIDE: 1}


def test_no_detections_are_normal() -> None:
    refused = Counter[str]()
    kept = usable(Detections.empty(3, 0), FRAME_HW, refused)
    assert (len(kept), kept.logits.shape, kept.embeddings.shape) == (0, (0, 3), (0, 0))
    assert not refused


def double(*seen: tuple[float, float, list[float]]) -> Detections:
    """Boxes 100 px wide and high, each from a left edge on, with a score and those of all classes."""
    left, scores, logits = zip(*seen, strict=True)
    xyxy = [[x, 10, x + 100, 110] for x in left]
    rows = (xyxy, scores, logits, np.zeros((len(seen), 0)))
    return Detections(*(np.array(row, np.float32) for row in rows))


CAR, MINIVAN = [0.6, 0.5, 0.0], [0.5, 0.6, 0.1]
SEEN_ONCE = {
    "the less sure one goes": (double((10, 0.6, CAR), (14, 0.7, MINIVAN)), [1]),
    "of two that are as sure, the later one": (double((10, 0.7, CAR), (14, 0.7, MINIVAN)), [0]),
    "classes that contradict each other": (double((10, 0.6, CAR), (14, 0.7, [0.1, 0.0, 0.8])), [0, 1]),
    "one class, which the detector has looked after": (double((10, 0.6, CAR), (14, 0.7, CAR)), [0, 1]),
    "beside each other": (double((10, 0.6, CAR), (26, 0.7, MINIVAN)), [0, 1]),
    "only what overlaps one that stays": (double((10, 0.9, CAR), (20, 0.8, MINIVAN), (30, 0.7, CAR)), [0, 2]),
    "three": (double((10, 0.5, CAR), (12, 0.9, MINIVAN), (14, 0.7, CAR)), [1]),
    "nothing known of classes": (double((10, 0.6, [0.0, 0.0]), (14, 0.7, [0.0, 0.0])), [0, 1]),
    "no classes": (double((10, 0.6, []), (14, 0.7, [])), [0, 1]),
    "one": (double((10, 0.6, CAR)), [0]),
    "none": (Detections.empty(3, 0), []),
}


@pytest.mark.parametrize("found, rows", SEEN_ONCE.values(), ids=SEEN_ONCE)
def test_an_object_that_looks_like_two_classes_is_one_detection(found: Detections, rows: list[int]) -> None:
    refused = Counter[str]()
    kept = seen_once(found, refused)
    np.testing.assert_array_equal(kept.xyxy, found.xyxy[rows])
    np.testing.assert_array_equal(kept.logits, found.logits[rows])
    assert +refused == +Counter({TWO_CLASSES: len(found) - len(rows)})


# ---- frames to tracks


@dataclass
class Squares:
    """Stands in for a detector where its answers must be known: it finds each image's pixels of value 255."""

    name: str = "squares"
    labels: tuple[str, ...] = ("square",)
    embedding_dim: int = 0
    is_broken: bool = False  # then every answer comes with a second one that no tracker could use

    def __call__(self, images: UInt8) -> list[Detections]:
        return [self._find(image) for image in images]

    def _find(self, image: UInt8) -> Detections:
        y, x = np.nonzero(image[..., 0] > 200)
        boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else []
        boxes += [[NAN] * 4] * self.is_broken
        num = len(boxes)
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        return Detections(
            xyxy, np.full(num, 0.9, np.float32), np.ones((num, 1), np.float32), np.ones((num, 0), np.float32)
        )


class Undecided(Squares):
    """Sees a square as a rectangle too: in two of three images, a bit off."""

    labels = ("square", "rectangle")

    def __call__(self, images: UInt8) -> list[Detections]:
        return [self._twice(one, number % 3 > 0) for number, one in enumerate(super().__call__(images))]

    def _twice(self, one: Detections, is_undecided: bool) -> Detections:
        num = 1 + is_undecided
        xyxy, scores = np.concatenate([one.xyxy, one.xyxy + 1]), np.array([0.9, 0.85], np.float32)
        logits = np.array([[0.9, 0.8], [0.8, 0.85]], np.float32)
        return Detections(xyxy[:num], scores[:num], logits[:num], np.zeros((num, 0), np.float32))


def square_at(left: int, hw: tuple[int, int] = (60, 120)) -> UInt8:
    """A white square of 20 px on black, 30 px from the top."""
    image = np.zeros((*hw, 3), np.uint8)
    image[30:50, left : left + 20] = 255
    return image


def batches(num_frames: int, batch_size: int) -> list[FrameBatch]:
    """A square that moves on by a pixel a frame, 10 frames a second."""
    images = np.stack([square_at(n) for n in range(num_frames)])
    times_s = np.arange(num_frames) / 10
    return [
        FrameBatch(images[n : n + batch_size], times_s[n : n + batch_size]) for n in range(0, num_frames, batch_size)
    ]


def test_boxes_come_in_pixels_of_the_source_video_whatever_the_detector_saw() -> None:
    refused = Counter[str]()
    (track,) = track_frames(
        batches(30, 7), Squares(), ByteTracker(ByteTrackConfig()), video_hw=(180, 480), refused=refused
    )
    # The images are 60 x 120 px: three times smaller downwards, four times across.
    expected = [[4 * n, 90, 4 * (n + 20), 150] for n in range(30)]
    np.testing.assert_allclose(track.xyxy, expected)
    np.testing.assert_array_equal(track.times_s, np.arange(30) / 10)
    assert not refused


def test_what_a_broken_detector_answers_is_counted_and_harms_no_track() -> None:
    refused = Counter[str]()
    tracks = track_frames(
        batches(30, 32), Squares(is_broken=True), ByteTracker(ByteTrackConfig()), video_hw=(60, 120), refused=refused
    )
    assert [len(track) for track in tracks] == [30]
    assert refused == {NOT_FINITE: 30}


class Swapping:
    """Stands in for a detector whose looks have any length, as Detic's: of two who are hidden in frames 10 and 11, and
    stand in one another's place afterwards. Just before, each looks more like the other one than like itself, and by
    far the longest.
    """

    name, labels, embedding_dim = "swapping", ("person",), 2

    def __init__(self) -> None:
        self._number = -1

    def __call__(self, images: UInt8) -> list[Detections]:
        return [self._next() for _ in images]

    def _next(self) -> Detections:
        self._number += 1
        if self._number in (10, 11):
            return Detections.empty(1, 2)
        left = 100 + 8 * np.array([0, 1] if self._number < 10 else [1, 0])
        looks = np.array([[60, 80], [80, 60]]) if self._number == 9 else 3 * np.eye(2)
        xyxy = np.stack([left, 0 * left, left + 40, 0 * left + 80], axis=1)
        columns = (xyxy, [0.9, 0.9], [[1.0], [1.0]], looks)
        return Detections(*(np.array(column, np.float32) for column in columns))


def test_how_long_a_look_is_says_nothing() -> None:
    images = np.zeros((20, 90, 160, 3), np.uint8)
    batch = FrameBatch(images, np.arange(20) / 10)
    tracker, refused = ByteTracker(ByteTrackConfig()), Counter[str]()
    tracks = list(track_frames([batch], Swapping(), tracker, video_hw=(90, 160), refused=refused))
    places = sorted(track.xyxy[:, 0].tolist() for track in tracks)
    assert places == [[100] * 10 + [108] * 8, [108] * 10 + [100] * 8]
    assert not refused


def test_an_object_that_looks_like_two_classes_is_one_track() -> None:
    refused, tracker = Counter[str](), ByteTracker(ByteTrackConfig())
    (track,) = track_frames(batches(30, 30), Undecided(), tracker, video_hw=(60, 120), refused=refused)
    np.testing.assert_allclose(track.xyxy[:, 0], np.arange(30))
    np.testing.assert_allclose(track.logits, np.tile(np.float32([0.9, 0.8]), (30, 1)))
    assert refused == {TWO_CLASSES: 20}


def test_no_frames_give_no_tracks() -> None:
    tracker, refused = ByteTracker(ByteTrackConfig()), Counter[str]()
    assert list(track_frames([], Squares(), tracker, video_hw=FRAME_HW, refused=refused)) == []


@pytest.fixture(scope="module")
def square_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of one moving square, 25 frames a second, 90 x 240 px: small, so that two stages' sizes differ."""
    path = tmp_path_factory.mktemp("videos") / "square.mp4"
    with VideoWriter(path, frame_hw=(90, 240), fps=25) as writer:
        for n in range(125):
            writer.write(square_at(n, (90, 240)))
    return path


def settings(*, frame_rate: float = 8, min_track_len: float = 0.0, min_track_area: float = 0.0) -> TrackingSettings:
    filters = FilterConfig(min_track_len, min_track_area)
    return TrackingSettings(
        choose_detector("nanodet", None, None),
        frame_rate,
        replace(DEFAULTS["nanodet"], frame_size=160),
        ByteTrackConfig(),
        filters,
    )


def clip_of(start_s: float, end_s: float) -> Clip:
    return Clip("square", "square.0.mp4", start_s, end_s)


def tracks_of(path: Path, clip: Clip, config: TrackingSettings, dropped: Counter[str]) -> list[Track]:
    return list(track_clip(path, probe(path), clip, Squares(), config, dropped=dropped))


def test_a_clip_is_tracked_on_the_clock_and_in_the_pixels_of_its_video(square_video: Path) -> None:
    dropped = Counter[str]()
    (track,) = tracks_of(square_video, clip_of(1.0, 4.0), settings(), dropped)
    assert 1.0 <= track.times_s[0] < 1.04 and 3.8 < track.times_s[-1] < 4.0
    assert len(track) == 24  # 3 s, 8 frames a second
    frame = np.round(track.times_s * 25)
    np.testing.assert_allclose(track.xyxy[:, 0], frame, atol=2)  # the square's left edge is at the frame's number
    np.testing.assert_allclose(track.xyxy[:, 2] - track.xyxy[:, 0], 20, atol=3)
    assert not dropped


def test_the_second_pass_gives_the_same_object_with_its_class_scores_and_inside_the_frame(square_video: Path) -> None:
    dropped = Counter[str]()
    (once,) = tracks_of(square_video, clip_of(1.0, 4.0), settings(), dropped)
    (twice,) = tracks_of(square_video, clip_of(1.0, 4.0), replace(settings(), refine=RefineConfig()), dropped)
    np.testing.assert_array_equal(twice.times_s, once.times_s)
    np.testing.assert_array_equal(twice.logits, once.logits)
    np.testing.assert_allclose(twice.xyxy, once.xyxy, atol=2)
    assert twice.xyxy.min() >= 0 and not dropped


class SurerToTheRight(Squares):
    """It finds a square that comes from the left, first doubtfully, then surely."""

    def _find(self, image: UInt8) -> Detections:
        found = super()._find(image)
        return replace(found, scores=np.minimum(2 * found.xyxy[:, 0] / image.shape[1], np.float32(0.9)))


def test_with_the_second_pass_a_track_begins_where_the_detector_first_doubts_its_object(square_video: Path) -> None:
    video, clip, detector = probe(square_video), clip_of(1.0, 4.0), SurerToTheRight()
    late, whole = (
        next(track_clip(square_video, video, clip, detector, replace(settings(), refine=second), dropped=Counter()))
        for second in (None, RefineConfig())
    )
    assert late.scores[0] >= ByteTrackConfig().track_thresh and len(late) < 24
    assert len(whole) == 24 and whole.scores.min() > 0 and (np.diff(whole.scores) >= -0.02).all()
    np.testing.assert_array_equal(whole.logits, np.ones((24, 1)))


def test_boxes_that_smoothing_moves_over_the_edge_are_cut_to_the_frame(square_video: Path, monkeypatch) -> None:
    def refine_beyond(tracks, *args, **more):
        return (replace(track, xyxy=track.xyxy - 60) for track in refine(tracks, *args, **more))

    monkeypatch.setattr(tracking, "refine", refine_beyond)
    config = replace(settings(), refine=RefineConfig())
    (track,) = tracks_of(square_video, clip_of(1.0, 4.0), config, Counter())
    assert track.xyxy.min() == 0


def test_the_second_pass_is_told_of_the_whole_clip(square_video: Path, monkeypatch) -> None:
    told = {}

    def refine_told(tracks, config, **more):
        told.update(more)
        return refine(tracks, config, **more)

    monkeypatch.setattr(tracking, "refine", refine_told)
    for camera_motion in (True, False):
        config = replace(settings(), refine=RefineConfig(), camera_motion=camera_motion)
        tracks_of(square_video, clip_of(1.0, 4.0), config, Counter())
        assert (told["sway"] is not None) == camera_motion
    assert told["sure_score"] == config.tracker.track_thresh
    assert told["frame_width"] == probe(square_video).frame_hw[1]
    assert len(told["frame_times_s"]) == 24 and told["frame_times_s"][0] >= 1.0


@pytest.mark.parametrize(("frame_rate", "num"), [(100, 8), (8, 6), (4, 3), (0.1, 1)])
def test_a_look_takes_less_than_a_second(square_video: Path, frame_rate: float, num: int) -> None:
    """However many frames a second are asked for, and however many there are."""
    (track,) = tracks_of(square_video, clip_of(0.0, 5.0), settings(frame_rate=frame_rate), Counter())
    assert track.look_frames == num


def test_where_the_video_has_fewer_frames_than_are_asked_for_a_look_is_of_as_many_as_it_has(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "slow.mp4", frame_hw=(90, 240), fps=2) as writer:
        for n in range(10):
            writer.write(square_at(n, (90, 240)))
    (track,) = tracks_of(tmp_path / "slow.mp4", clip_of(0.0, 5.0), settings(frame_rate=16), Counter())
    assert track.look_frames == 1 and len(track) == len(track.looks) == 10


def test_with_the_second_pass_other_settings_are_recorded() -> None:
    assert "max_fill_gap_s" not in settings().as_dict()
    assert replace(settings(), refine=RefineConfig()).as_dict()["max_fill_gap_s"] == RefineConfig().max_fill_gap_s


def test_a_cut_is_never_joined_across(tmp_path: Path) -> None:
    """What is on the spot of the one before, and looks the same, is another object in another shot."""
    path = tmp_path / "two_shots.mp4"
    with VideoWriter(path, frame_hw=(90, 240), fps=25) as writer:
        for n in range(125):
            ground = (0, 90, 0) if n < 60 else (90, 0, 90)
            writer.write(np.maximum(square_at(100, (90, 240)), np.array(ground, np.uint8)))
    shots = detect_scenes(path, probe(path), "adaptive")
    config = replace(settings(frame_rate=25), refine=RefineConfig())
    tracks = [track for shot in shots for track in tracks_of(path, clip_of(*shot), config, Counter())]
    frames = [np.round(25 * track.times_s).astype(int).tolist() for track in tracks]
    assert frames == [list(range(60)), list(range(60, 125))]
    # The case is a hard one: nothing but the cut tells the two apart.
    assert [len(track) for track in tracks_of(path, clip_of(0.0, 5.0), config, Counter())] == [125]


def test_dropped_tracks_are_counted_by_reason(square_video: Path) -> None:
    dropped = Counter[str]()
    assert tracks_of(square_video, clip_of(0.0, 2.0), settings(min_track_len=3), dropped) == []
    assert tracks_of(square_video, clip_of(0.0, 4.0), settings(min_track_area=0.5), dropped) == []
    assert dropped == {"tracks shorter than 3 s": 1, "tracks smaller than 0.5 of the frame": 1}


def test_a_clip_after_the_end_of_its_video_is_an_error(square_video: Path) -> None:
    with pytest.raises(VideoError, match=r"square\.mp4: ends before square\.0\.mp4 begins") as caught:
        tracks_of(square_video, clip_of(5.0, 9.0), settings(), Counter())
    assert caught.value.reason == "clip after the video's end"


def test_a_clip_over_the_end_of_its_video_is_tracked_as_far_as_it_goes(square_video: Path) -> None:
    (track,) = tracks_of(square_video, clip_of(4.0, 60.0), settings(), Counter())
    assert 4.8 < track.times_s[-1] < 5.0


# ---- what is kept


def track_of(times_s: list[float], *areas_wh: tuple[float, float]) -> Track:
    """A track of boxes of these sizes, the last one again and again."""
    num = len(times_s)
    sizes = np.array([*areas_wh, *[areas_wh[-1]] * (num - len(areas_wh))], np.float32)
    xyxy = np.concatenate([np.zeros((num, 2), np.float32), sizes], axis=1)
    return Track(np.array(times_s), xyxy, *(np.ones(shape, np.float32) for shape in (num, (num, 1), 0)))


TENTHS = [float(time_s) for time_s in np.cumsum([0.1] * 31)]  # their sums are not quite 3.0 apart
WHY_DROP = {
    "3 s of a tenth of the frame": (track_of([0, 3], (200, 10)), None),
    "a little shorter": (track_of([0, 2.999], (200, 100)), "shorter than 3 s"),
    "3 s in steps of 0.1 s": (track_of(TENTHS, (200, 100)), None),
    "3 s with a long gap": (track_of([0, 0.1, 3], (200, 100)), None),
    "a single frame": (track_of([5], (200, 100)), "shorter than 3 s"),
    "a little smaller": (track_of([0, 3], (200, 9.99)), "smaller than 0.1 of the frame"),
    "small at first, large enough on average": (track_of([0, 1, 2, 3], (20, 10), (100, 100)), None),
    "large once, too small on average": (track_of([0, 1, 2, 3], (100, 50), (20, 10)), "smaller than 0.1 of the frame"),
    "short and small": (track_of([0, 1], (1, 1)), "shorter than 3 s"),
}


@pytest.mark.parametrize("track, reason", WHY_DROP.values(), ids=WHY_DROP)
def test_why_drop(track: Track, reason: str | None) -> None:
    assert why_drop(track, FRAME_HW, FilterConfig()) == reason


def test_a_filter_of_zero_keeps_all() -> None:
    assert why_drop(track_of([5], (1, 1)), FRAME_HW, FilterConfig(0, 0)) is None


# ---- as MOT text and drawn


def record_of(track_id: int, times_s: np.ndarray, xyxy: np.ndarray, label_id: int = 0) -> TrackRecord:
    num = len(times_s)
    scores, ids, ones = np.full(num, 0.75), np.full(num, label_id), np.ones(num)
    return TrackRecord(
        "square",
        track_id,
        np.asarray(times_s, np.float64),
        xyxy_to_tlwh(np.asarray(xyxy, np.float64)),
        TopClasses((label_id,), ("person",), np.ones((2, 1)), np.ones((2, 1))),
        "sq/square.mp4",
        Origin("square", "square.0.mp4", (90, 240), "squares", "coco", 8),
        FrameClasses(scores, ids, ("person",) * num, ones, np.zeros(num, bool)),
    )


def test_mot_text_is_sorted_by_frame_and_counts_from_one(tmp_path: Path) -> None:
    first = record_of(0, np.array([10.0, 10.125, 10.25]), [[1, 2, 11, 22], [2, 2, 12, 22], [3.333, 2, 13.333, 22]])
    second = record_of(1, np.array([10.125, 10.3751]), [[5, 5, 9, 8], [6, 5, 10, 8]], label_id=2)
    write_mot(tmp_path / "a.txt", [second, first], start_s=10.0, frame_times_s=np.arange(9) / 8)
    assert (tmp_path / "a.txt").read_text() == (
        "1,1,1.00,2.00,10.00,20.00,0.7500,1,-1\n"
        "2,1,2.00,2.00,10.00,20.00,0.7500,1,-1\n"
        "2,2,5.00,5.00,4.00,3.00,0.7500,3,-1\n"
        "3,1,3.33,2.00,10.00,20.00,0.7500,1,-1\n"
        "4,2,6.00,5.00,4.00,3.00,0.7500,3,-1\n"
    )


def test_mot_text_of_a_variable_frame_rate_counts_the_frames_that_are_there(tmp_path: Path) -> None:
    """Seen in two frames that are closer than the mean frame rate has them, and after a hole; rounded as in records."""
    frame_times_s = np.array([0, 1, 2, 30, 60, 62, 90]) / 30
    seen = frame_times_s[[0, 1, 5]]
    record = record_of(0, 10 + seen.round(4), [[1, 2, 11, 22]] * 3)
    write_mot(tmp_path / "a.txt", [record], start_s=10.0, frame_times_s=frame_times_s)
    assert [line.split(",")[0] for line in (tmp_path / "a.txt").read_text().splitlines()] == ["1", "2", "6"]


def test_mot_text_of_no_tracks_is_an_empty_file(tmp_path: Path) -> None:
    write_mot(tmp_path / "none.txt", [], start_s=0.0, frame_times_s=np.arange(9) / 8)
    assert (tmp_path / "none.txt").read_bytes() == b""


def test_mot_text_reads_back_as_the_same_boxes(tmp_path: Path, square_video: Path) -> None:
    (track,) = tracks_of(square_video, clip_of(0.0, 3.0), settings(frame_rate=25), Counter())
    record = record_of(0, track.times_s, track.xyxy)
    write_mot(tmp_path / "a.txt", [record], start_s=0.0, frame_times_s=frame_times(square_video))
    rows = np.loadtxt(tmp_path / "a.txt", delimiter=",")
    np.testing.assert_array_equal(rows[:, 0], np.arange(1, 76))
    np.testing.assert_allclose(tlwh_to_xyxy(rows[:, 2:6]), track.xyxy, atol=0.02)


def has_colour(image: UInt8, box: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether the lower edge of a box (where no label is) is drawn in a colour; H.264 leaves thin lines half as bright.

    White and black are not taken for it: the hue counts.
    """
    left, _, right, bottom = box.round().astype(int)
    edge = image[bottom - 1 : bottom + 2, left + 3 : right - 3].astype(float)
    length = np.linalg.norm(edge, axis=2)
    likeness = edge @ np.array(colour) / np.maximum(length, 1) / np.linalg.norm(colour)
    return bool(((likeness > 0.95) & (length > 150)).any(axis=0).mean() > 0.8)


def test_a_drawn_video_has_the_frames_of_its_source_and_boxes_where_the_record_says(
    tmp_path: Path, square_video: Path
) -> None:
    """Every third frame from 1 s to 3 s, on a clock that begins 100 s earlier; the box moves on between them."""
    shown = np.arange(25, 76, 3)
    # Around the square, and wider than it, so that the lines are not lost on white.
    xyxy = np.stack([[n + 40, 20, n + 100, 70] for n in range(125)]).astype(float)
    record = record_of(3, 100 + shown / 25, xyxy[shown])
    drawn_path = tmp_path / "drawn.mp4"
    draw_tracks(square_video, drawn_path, [record], start_s=100.0, video=probe(square_video))

    source, drawn = probe(square_video), probe(drawn_path)
    assert (drawn.num_frames, drawn.frame_hw, drawn.fps) == (source.num_frames, source.frame_hw, source.fps)
    images = np.concatenate([batch.images for batch in read_frames(drawn_path)])
    assert len(images) == 125
    is_there = [has_colour(image, box, colour_of(3)) for image, box in zip(images, xyxy, strict=True)]
    assert is_there == [25 <= n <= shown[-1] for n in range(125)]


def test_boxes_that_were_filled_in_are_dashed(tmp_path: Path, square_video: Path) -> None:
    """Detected in the first and the last of 125 frames, filled in between."""
    box = np.array([90.0, 20, 190, 70])
    record = record_of(1, np.arange(125) / 25, np.tile(box, (125, 1)))
    assert record.frames is not None
    filled = np.arange(125) % 124 != 0
    record = replace(record, frames=replace(record.frames, interpolated=filled))
    draw_tracks(square_video, tmp_path / "drawn.mp4", [record], start_s=0.0, video=probe(square_video))
    images = np.concatenate([batch.images for batch in read_frames(tmp_path / "drawn.mp4")])
    assert has_colour(images[0], box, colour_of(1)) and has_colour(images[124], box, colour_of(1))
    lower_edge = images[1:124, 69:72, 95:185].max(axis=(1, 3)) > 150  # (frames, px)
    assert ((lower_edge.mean(axis=1) > 0.3) & (lower_edge.mean(axis=1) < 0.8)).all()


def test_where_the_detector_missed_an_object_its_box_is_dashed(tmp_path: Path, square_video: Path) -> None:
    """Every third frame is looked at; in those of the third second it isn't found, and the gap wasn't filled either."""
    shown = np.array([n for n in range(0, 125, 3) if not 50 < n < 70])
    box = np.array([90.0, 20, 190, 70])
    record = record_of(1, shown / 25, np.tile(box, (len(shown), 1)))
    draw_tracks(square_video, tmp_path / "drawn.mp4", [record], start_s=0.0, video=probe(square_video))
    images = np.concatenate([batch.images for batch in read_frames(tmp_path / "drawn.mp4")])
    lower_edge = (images[:, 69:72, 95:185].max(axis=(1, 3)) > 150).mean(axis=1)
    is_missed = (np.arange(125) > 48) & (np.arange(125) < 72)
    assert ((lower_edge[is_missed] > 0.3) & (lower_edge[is_missed] < 0.8)).all()
    assert (lower_edge[:123][~is_missed[:123]] > 0.9).all()


def test_nothing_is_drawn_where_an_object_is_long_unseen(tmp_path: Path, square_video: Path) -> None:
    """Seen in the first and in the last second, not in the three between."""
    times_s = np.concatenate([np.arange(0, 1, 0.04), np.arange(4, 4.98, 0.04)])
    box = np.array([150.0, 20, 210, 70])
    record = record_of(1, times_s, np.tile(box, (len(times_s), 1)))
    draw_tracks(square_video, tmp_path / "drawn.mp4", [record], start_s=0.0, video=probe(square_video))
    images = np.concatenate([batch.images for batch in read_frames(tmp_path / "drawn.mp4")])
    is_there = [has_colour(image, box, colour_of(1)) for image in images]
    assert is_there == [n < 25 or n >= 100 for n in range(125)]
    assert np.ptp(images[26:99].astype(int), axis=-1).max() < 30  # nor dashes, nor anything in colour


def test_a_video_of_a_variable_frame_rate_plays_as_before(tmp_path: Path) -> None:
    source = shelf.variable_rate(tmp_path)
    draw_tracks(source, tmp_path / "drawn.mp4", [], start_s=0.0, video=probe(source))
    np.testing.assert_allclose(frame_times(tmp_path / "drawn.mp4"), frame_times(source), atol=1e-3)


def test_drawing_no_tracks_copies_the_video(tmp_path: Path, square_video: Path) -> None:
    draw_tracks(square_video, tmp_path / "drawn.mp4", [], start_s=0.0, video=probe(square_video))
    before, after = (
        np.concatenate([batch.images for batch in read_frames(path)]) for path in (square_video, tmp_path / "drawn.mp4")
    )
    assert np.abs(before.astype(int) - after).mean() < 2


def black(path: Path, frame_hw: tuple[int, int], num_frames: int = 3, fps: float = 5) -> Path:
    """A video."""
    with VideoWriter(path, frame_hw=frame_hw, fps=fps) as writer:
        for _ in range(num_frames):
            writer.write(np.zeros((*frame_hw, 3), np.uint8))
    return path


@pytest.mark.parametrize("frame_hw", [(48, 64), (63, 97), (1080, 1920)], ids=["small", "odd", "full HD"])
def test_boxes_at_and_over_the_edge_draw_on_any_size(tmp_path: Path, frame_hw: tuple[int, int]) -> None:
    """Labels wider than the frame, boxes at its corners, and a box of a few pixels."""
    height, width = frame_hw
    source = black(tmp_path / "source.mp4", frame_hw)
    corners = [[0, 0, 9, 9], [width - 9, height - 9, width, height], [0, 0, width, height], [5, 5, 7, 7]]
    records = [record_of(n, np.array([0.0, 0.2, 0.4]), [box] * 3) for n, box in enumerate(corners)]
    image = drawn_on(source, records)[1]
    assert all(is_coloured(image, record.track_id).any() for record in records)


def drawn_on(source: Path, records: list[TrackRecord]) -> UInt8:
    """The frames (T, H, W, 3) of a video in which the records are drawn."""
    destination = source.with_name("drawn.mp4")
    draw_tracks(source, destination, records, start_s=0.0, video=probe(source))
    return np.concatenate([batch.images for batch in read_frames(destination)])


def is_coloured(image: UInt8, track_id: int) -> np.ndarray:
    """(H, W): where an image has the colour of a track."""
    return np.abs(image.astype(float) - colour_of(track_id)).max(axis=2) < 60


@pytest.mark.parametrize("frame_hw", [(360, 640), (2160, 3840)], ids=["360p", "4K"])
def test_letters_and_lines_are_readable(tmp_path: Path, frame_hw: tuple[int, int]) -> None:
    """Labels as high as a twentieth to a fortieth of the picture, and lines that H.264 doesn't blur away."""
    height, width = frame_hw
    left, top, right, bottom = width // 4, height // 2, width // 3, 3 * height // 4
    record = record_of(1, np.array([0.0, 0.2, 0.4]), [[left, top, right, bottom]] * 3)
    there = is_coloured(drawn_on(black(tmp_path / "source.mp4", frame_hw), [record])[1], 1)
    label_height = there[: top - 2, left : left + (right - left) // 2].any(axis=1).sum()
    assert 1 / 40 < label_height / height < 1 / 20
    lower_edge = there[bottom - height // 40 : bottom + height // 40, (left + right) // 2]
    assert max(2, height // 400) <= lower_edge.sum() <= height // 90 + 1


def test_a_box_moves_on_between_the_frames_that_were_looked_at_and_leaves_a_trail(tmp_path: Path) -> None:
    """By 10 px a frame, of which every second one was looked at."""
    left, bottom, width = 20 + 10 * np.arange(50), 200, 40
    xyxy = np.stack([left, np.full(50, 100), left + width, np.full(50, bottom)], axis=1)
    record = record_of(1, np.arange(0, 50, 2) / 10, xyxy[::2])
    images = drawn_on(black(tmp_path / "source.mp4", (800, 1200), 50, 10), [record])
    seen, between = (is_coloured(images[n], 1) for n in (40, 41))
    for there, n in ((seen, 40), (between, 41)):
        side = np.flatnonzero(there[150, : left[n] + width // 2])
        assert abs(side.mean() - left[n]) < 2
        middle = left[n] + width // 2
        assert there[bottom - 4 : bottom + 5, middle - 150].any()  # 1.5 s ago it was there
        assert not there[bottom - 4 : bottom + 5, : middle - 225].any()  # longer than 2 s ago
    lower_edge = slice(bottom - 9, bottom + 10), slice(left[41] + 10, left[40] + 30)
    assert seen[lower_edge].sum() > 1.4 * between[lower_edge].sum()  # thick where it was looked at


def test_a_label_says_who_and_what_it_is_and_how_surely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(drawing.cv2, "putText", lambda ink, text, *more: written.append(text))
    record = record_of(7, np.array([0.0, 0.2, 0.4]), [[20, 50, 60, 90]] * 3)
    assert record.frames is not None
    record = replace(record, frames=replace(record.frames, interpolated=np.array([False, True, False])))
    drawn_on(black(tmp_path / "source.mp4", (100, 200)), [record])
    assert written == ["7 person 0.75", "7 person", "7 person 0.75"]  # what was not detected has no score


NEIGHBOURS = [(1, 300.0), (2, 334.0), (3, 368.0)]  # ids, and their left edges


def test_labels_of_neighbours_do_not_hide_each_other(tmp_path: Path) -> None:
    """Three side by side, narrower than what is written of them."""
    source = black(tmp_path / "source.mp4", (360, 640))
    records = [record_of(n, np.array([0.0, 0.2, 0.4]), [[left, 120, left + 30, 200]] * 3) for n, left in NEIGHBOURS]
    together = drawn_on(source, records)[1]
    for record in records:
        alone = is_coloured(drawn_on(source, [record])[1], record.track_id).sum()
        # Less are only the lines that a label crosses. One label over another is a fifth less.
        assert is_coloured(together, record.track_id).sum() > 0.9 * alone


def test_colours_of_neighbouring_ids_differ() -> None:
    colours = np.array([colour_of(track_id) for track_id in range(200)])
    assert (np.abs(np.diff(colours, axis=0)).sum(axis=1) > 150).all()
    assert colour_of(5) == colour_of(5)
