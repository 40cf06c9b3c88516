"""Reading, writing and cutting over a shelf of odd videos; every frame carries its number (see shelf.py)."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import shelf

from trackverse.errors import VideoError
from trackverse.video import (
    VideoWriter,
    cut_clip,
    cut_clips,
    decodes_at_both_ends,
    frame_times,
    glance_through,
    probe,
    read_frames,
    read_planes,
)
from trackverse.video.planes import Planes, yuv_of
from trackverse.video.writing import open_mp4, published

STREET = Path(__file__).resolve().parent.parent / "assets" / "demo" / "street.mp4"
Maker = Callable[[Path], Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A shelf video's path by its maker; each is drawn once."""
    folder = tmp_path_factory.mktemp("shelf")
    made: dict[tuple[Any, ...], Path] = {}

    def get(maker: Callable[..., Path], *args: Any) -> Path:
        if (maker, *args) not in made:
            made[(maker, *args)] = maker(folder, *args)
        return made[(maker, *args)]

    return get


def read(path: Path, **options: Any) -> tuple[list[int], np.ndarray, list[np.ndarray]]:
    """Numbers, times and images of what `read_frames` gives."""
    batches = list(read_frames(path, **options))
    images = [image for batch in batches for image in batch.images]
    times_s = np.concatenate([batch.times_s for batch in batches]) if batches else np.zeros(0)
    return [shelf.frame_number(image) for image in images], times_s, images


def reason(path: Path) -> str:
    """Why a video can't be read."""
    with pytest.raises(VideoError) as caught:
        list(read_frames(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.reason


# --- Every frame of every readable video -----------------------------------------------------------------------------

EVERY_FRAME: list[tuple[str, Maker, int]] = [
    ("plain", shelf.plain, 60),
    ("two shots", shelf.two_shots, 75),
    ("B-frames and open groups", shelf.b_frames, 75),
    ("with sound", shelf.with_sound, 75),
    ("late start", shelf.late_start, 60),
    ("late start in Matroska", shelf.late_start_matroska, 60),
    ("transport stream", shelf.transport_stream, 60),
    ("no times at all", shelf.without_times, 60),
    ("decoding times only", shelf.mpeg4_avi, 60),
    ("Flash", shelf.flash, 60),
    ("odd size", shelf.odd_size, 30),
    ("lossless Matroska", shelf.lossless_matroska, 45),
]


@pytest.mark.parametrize(("maker", "num_frames"), [case[1:] for case in EVERY_FRAME], ids=[c[0] for c in EVERY_FRAME])
def test_every_frame_comes_once_from_zero_on(make: Callable[..., Path], maker: Maker, num_frames: int) -> None:
    numbers, times_s, _ = read(make(maker), batch_size=7)
    assert numbers == list(range(num_frames))
    np.testing.assert_allclose(times_s, np.arange(num_frames) / shelf.FPS, atol=6e-4)


@pytest.mark.parametrize("maker", [case[1] for case in EVERY_FRAME], ids=[case[0] for case in EVERY_FRAME])
@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, 0.1, [0, 1, 2]),
        (0.5, 0.6, [15, 16, 17]),
        (0.8, 0.8, []),
        (0.667, 0.733, [20, 21]),  # bounds in whole milliseconds, as clips are written
        (0.68, 0.74, [21, 22]),  # bounds between frames
        (0.9, 1.0, [27, 28, 29]),
        (99.0, math.inf, []),
    ],
)
def test_a_stretch_holds_the_frames_that_begin_in_it(
    make: Callable[..., Path], maker: Maker, start_s: float, end_s: float, expected: list[int]
) -> None:
    assert read(make(maker), start_s=start_s, end_s=end_s)[0] == expected


@pytest.mark.parametrize("maker", [shelf.plain, shelf.b_frames, shelf.late_start, shelf.variable_rate])
def test_times_of_all_frames_are_those_that_they_are_read_with(make: Callable[..., Path], maker: Maker) -> None:
    np.testing.assert_array_equal(frame_times(make(maker)), read(make(maker))[1])


def test_every_seek_is_exact(make: Callable[..., Path]) -> None:
    for maker in (shelf.b_frames, shelf.transport_stream):
        for first in range(60):
            numbers, times_s, _ = read(make(maker), start_s=first / 30, end_s=first / 30 + 0.05)
            assert numbers[0] == first
            assert times_s[0] == pytest.approx(first / 30, abs=1e-4)


def test_variable_rate_gives_true_times(make: Callable[..., Path]) -> None:
    numbers, times_s, _ = read(make(shelf.variable_rate))
    assert numbers == list(range(len(shelf.VARIABLE_PTS)))
    np.testing.assert_allclose(times_s, np.array(shelf.VARIABLE_PTS) / 30, atol=1e-4)


# --- Sampling --------------------------------------------------------------------------------------------------------

SAMPLING: list[tuple[str, Maker, dict[str, float], list[int]]] = [
    ("a third of the rate", shelf.plain, {"fps": 10, "end_s": 0.5}, [0, 3, 6, 9, 12]),
    ("16 of 30: the frame on show at the tick", shelf.plain, {"fps": 16, "end_s": 0.5}, [0, 1, 3, 5, 7, 9, 11, 13]),
    ("ticks count from the start", shelf.plain, {"fps": 10, "start_s": 1 / 30, "end_s": 0.4}, [1, 4, 7, 10]),
    ("faster than the video: each frame once", shelf.plain, {"fps": 100, "end_s": 0.1}, [0, 1, 2]),
    ("the same rate", shelf.plain, {"fps": 30, "start_s": 0.9, "end_s": 1.0}, [27, 28, 29]),
    ("less than one tick long: the first frame", shelf.plain, {"fps": 2, "start_s": 0.5, "end_s": 0.6}, [15]),
    (
        "between frames: the next stands in",
        shelf.plain,
        {"fps": 10, "start_s": 0.51, "end_s": 0.8},
        [16, 18, 21],
    ),
    ("up to the last tick", shelf.plain, {"fps": 10, "start_s": 1.7}, [51, 54, 57]),
    ("B-frames", shelf.b_frames, {"fps": 7.5, "start_s": 0.2, "end_s": 1.0}, [6, 10, 14, 18, 22, 26]),
    ("still stretches: no frame twice", shelf.variable_rate, {"fps": 10}, [0, 2, 4, 5, 8, 9, 12]),
    ("bursts are thinned", shelf.variable_rate, {"fps": 1}, [0, 5, 9]),
    ("one frame", shelf.one_frame, {"fps": 16}, [7]),
    ("no times", shelf.without_times, {"fps": 10, "start_s": 0.5, "end_s": 1.0}, [15, 18, 21, 24, 27]),
    ("late start", shelf.late_start, {"fps": 10, "start_s": 0.5, "end_s": 1.0}, [15, 18, 21, 24, 27]),
]


@pytest.mark.parametrize(
    ("maker", "options", "expected"), [case[1:] for case in SAMPLING], ids=[c[0] for c in SAMPLING]
)
def test_sampling(make: Callable[..., Path], maker: Maker, options: dict[str, float], expected: list[int]) -> None:
    assert read(make(maker), **options)[0] == expected


@pytest.mark.parametrize("fps", [1, 2.5, 8, 15, 16, 24, 29.97])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_skipping_in_the_decoder_changes_no_pixel(make: Callable[..., Path], fps: float, num_threads: int) -> None:
    """What is sampled equals what a full decode gives at those times, found by going through all frames."""
    _, all_times_s, all_images = read(make(shelf.b_frames), num_threads=1)
    ticks_s = 0.4 + np.arange(math.ceil(1.5 * fps)) / fps
    rows = np.unique(np.searchsorted(all_times_s, ticks_s[ticks_s < 1.9] + 6e-4, side="right") - 1)
    _, times_s, images = read(make(shelf.b_frames), start_s=0.4, end_s=1.9, fps=fps, num_threads=num_threads)
    np.testing.assert_array_equal(times_s, all_times_s[rows])
    np.testing.assert_array_equal(np.stack(images), np.stack([all_images[row] for row in rows]))


@pytest.mark.parametrize(("case", "maker", "num_frames"), EVERY_FRAME, ids=[case for case, *_ in EVERY_FRAME])
def test_glancing_shows_every_frame_small_and_some_large(
    make: Callable[..., Path], case: str, maker: Maker, num_frames: int
) -> None:
    path = make(maker)
    _, times_s, images = read(path)
    glances = list(glance_through(path, long_side=16, sample_fps=2.0, sample_long_side=4096))
    assert len(glances) == num_frames
    assert [glance.time_s for glance in glances] == times_s.tolist()
    assert {max(glance.image.shape) for glance in glances} == {16}
    ticks_s = np.arange(0, times_s[-1] + 1e-3, 0.5)
    at_or_after = sorted({int(np.searchsorted(times_s, tick_s - 1e-3)) for tick_s in ticks_s})
    sampled = [n for n, glance in enumerate(glances) if glance.sample is not None]
    assert sampled == at_or_after, case
    for n in sampled:
        sample = glances[n].sample
        assert sample is not None and sample.shape == images[n].shape
        assert shelf.frame_number(sample) == shelf.frame_number(images[n])


def test_batches_are_full_but_for_the_last(make: Callable[..., Path]) -> None:
    batches = list(read_frames(make(shelf.plain), batch_size=25))
    assert [len(batch.times_s) for batch in batches] == [25, 25, 10]
    assert batches[0].images.shape == (25, 64, 96, 3)
    assert batches[0].images.dtype == np.uint8 and batches[0].times_s.dtype == np.float64


# --- Pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("long_side", "expected_hw"),
    [(None, (64, 96)), (48, (32, 48)), (96, (64, 96)), (500, (64, 96)), (31, (21, 31)), (1, (1, 1))],
)
def test_long_side_shrinks_and_never_enlarges(
    make: Callable[..., Path], long_side: int | None, expected_hw: tuple[int, int]
) -> None:
    (batch,) = read_frames(make(shelf.plain), long_side=long_side, end_s=0.2)
    assert batch.images.shape == (6, *expected_hw, 3)
    if min(expected_hw) > 8:
        assert [shelf.frame_number(image) for image in batch.images] == list(range(6))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video_comes_upright(make: Callable[..., Path], degrees: int) -> None:
    path = make(shelf.rotated, degrees)
    numbers, _, images = read(path)
    assert numbers == list(range(30))
    difference = np.abs(images[20].astype(int) - shelf.draw(20))
    assert difference.mean() < 6
    assert read(path, long_side=48)[2][0].shape == (32, 48, 3)
    info = probe(path)
    assert (info.frame_hw, info.rotation) == ((64, 96), degrees)


def test_colors_are_those_of_the_source(make: Callable[..., Path]) -> None:
    _, _, images = read(make(shelf.two_shots))
    for frame, shot in ((10, 0), (60, 1)):
        color = np.median(images[frame][-12:, 52:72].reshape(-1, 3), axis=0)
        np.testing.assert_allclose(color, shelf.SHOT_COLORS[shot], atol=6)


def test_untagged_hd_is_read_as_bt709(tmp_path: Path) -> None:
    picture = np.full((720, 64, 3), (200, 60, 40), np.uint8)
    tagged = tmp_path / "hd.mp4"
    with VideoWriter(tagged, frame_hw=(720, 64), fps=10, crf=8) as writer:
        writer.write(picture)
    untagged = tmp_path / "untagged.mp4"
    with av.open(str(tagged)) as source, av.open(str(untagged), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"crf": "8"})
        stream.height, stream.width = 720, 64
        for frame in source.decode(video=0):
            assert frame.colorspace == 1  # as the writer tags it
            untouched = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")
            output.mux(stream.encode(untouched))
        output.mux(stream.encode())
    for path in (tagged, untagged):
        np.testing.assert_allclose(read(path)[2][0].mean(axis=(0, 1)), (200, 60, 40), atol=5)


# --- What a file holds -----------------------------------------------------------------------------------------------

FACTS: list[tuple[str, Maker, dict[str, Any]]] = [
    ("plain", shelf.plain, {"fps": 30, "duration_s": 2.0, "num_frames": 60, "has_audio": False, "codec": "h264"}),
    ("with sound", shelf.with_sound, {"fps": 30, "duration_s": 2.5, "has_audio": True}),
    ("late start", shelf.late_start, {"duration_s": 2.0}),
    ("late start in Matroska", shelf.late_start_matroska, {"duration_s": 2.0, "num_frames": None}),
    ("transport stream", shelf.transport_stream, {"duration_s": 2.0, "num_frames": None}),
    ("no times, no header", shelf.without_times, {"duration_s": 2.0, "num_frames": None}),
    ("one frame", shelf.one_frame, {"duration_s": 1 / 30, "num_frames": 1}),
    ("odd size", shelf.odd_size, {"frame_hw": (63, 97), "codec": "mpeg4"}),
    ("truncated", shelf.truncated, {"duration_s": 2.5}),
]


@pytest.mark.parametrize(("maker", "facts"), [case[1:] for case in FACTS], ids=[case[0] for case in FACTS])
def test_probe(make: Callable[..., Path], maker: Maker, facts: dict[str, Any]) -> None:
    info = vars(probe(make(maker)))
    for name, value in facts.items():
        assert info[name] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value), name


BAD_FILES: list[tuple[str, Maker, str]] = [
    ("no such file", lambda folder: folder / "nowhere.mp4", "video missing"),
    ("zero bytes", shelf.zero_bytes, "empty file"),
    ("an error page", shelf.text, "not a video"),
    ("text that libav would draw", shelf.ansi_text, "not a video"),
    ("a playlist of other files", shelf.playlist, "not a video"),
    ("a folder", lambda folder: folder, "not a video"),
    ("sound alone", shelf.audio_only, "no video stream"),
    ("16400 px wide", shelf.huge, "frame too large"),
    ("cut off before its index", shelf.without_index, "truncated video"),
]


@pytest.mark.parametrize(("maker", "expected"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_bad_file_is_one_clear_line(make: Callable[..., Path], maker: Maker, expected: str) -> None:
    path = make(maker)
    assert reason(path) == expected
    for function in (probe, decodes_at_both_ends):
        with pytest.raises(VideoError) as caught:
            function(path)
        assert caught.value.reason == expected
        assert caught.value.retry == (expected == "video missing")


@pytest.mark.parametrize("maker", [shelf.truncated, shelf.truncated_matroska])
@pytest.mark.parametrize("options", [{}, {"fps": 10}])
def test_truncated_file_gives_what_decodes_and_then_fails(
    make: Callable[..., Path], maker: Maker, options: dict[str, float]
) -> None:
    numbers = []
    with pytest.raises(VideoError, match=r"ends after .* of 2\.5 s") as caught:
        for batch in read_frames(make(maker), batch_size=4, **options):  # type: ignore[arg-type]
            numbers += [shelf.frame_number(image) for image in batch.images]
    assert caught.value.reason == "truncated video"
    whole = numbers if options else numbers[:-3]  # of the last frames, some lack what they are predicted from
    assert len(whole) >= 4 and whole == list(range(0, whole[-1] + 1, 3 if options else 1))


def test_truncation_past_the_stretch_is_not_met(make: Callable[..., Path]) -> None:
    assert read(make(shelf.truncated), end_s=0.5)[0] == list(range(15))


def test_a_hole_in_the_data_does_not_end_the_video(make: Callable[..., Path], tmp_path: Path) -> None:
    data = bytearray(make(shelf.transport_stream).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path = tmp_path / "hole.ts"
    path.write_bytes(data)
    numbers, times_s, _ = read(path)
    assert {0, 1, 2, 57, 58, 59} <= set(numbers)
    assert (np.diff(times_s) > 0).all()


@pytest.mark.parametrize("maker", [case[1] for case in EVERY_FRAME] + [shelf.variable_rate, shelf.one_frame])
def test_whole_video_decodes_at_both_ends(make: Callable[..., Path], maker: Maker) -> None:
    path = make(maker)
    assert decodes_at_both_ends(path) == probe(path)


@pytest.mark.parametrize("maker", [shelf.truncated, shelf.truncated_matroska])
def test_truncated_video_does_not_decode_at_both_ends(make: Callable[..., Path], maker: Maker) -> None:
    with pytest.raises(VideoError) as caught:
        decodes_at_both_ends(make(maker))
    assert caught.value.reason == "truncated video"


def test_garbled_duration_tag_is_passed_over(make: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "garbled.mkv"
    path.write_bytes(make(shelf.late_start_matroska).read_bytes().replace(b"00:00:03.5", b"x0:00:03:5"))
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.01)
    assert len(read(path)[0]) == 60


def test_unknown_codec_is_said(make: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "unknown.mp4"
    path.write_bytes(make(shelf.plain).read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    assert reason(path) == "unknown codec"


def test_stream_that_comes_up_midway_is_passed_over(make: Callable[..., Path]) -> None:
    numbers, _, _ = read(make(shelf.damaged_flash), start_s=0.3)
    assert numbers[:15] == list(range(9, 24))


def test_damaged_files_end_in_frames_or_one_clear_line(make: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for maker in (shelf.b_frames, shelf.late_start_matroska, shelf.transport_stream, shelf.flash):
        whole = make(maker)
        for number in range(12):
            data = bytearray(whole.read_bytes())
            for _ in range(1 + number % 4):
                first = int(rng.integers(len(data) - 100))
                data[first : first + 100] = rng.bytes(100)
            path = tmp_path / f"damaged_{number}{whole.suffix}"
            path.write_bytes(data)
            for function in (probe, lambda path: read(path, start_s=0.4, fps=8)):
                with contextlib.suppress(VideoError):
                    function(path)


def test_abandoned_reading_closes_the_file(make: Callable[..., Path]) -> None:
    path = make(shelf.plain)

    def is_open() -> bool:
        return any(link.is_symlink() and link.resolve() == path for link in Path("/proc/self/fd").iterdir())

    gc.disable()  # so that it isn't the collector that closes it
    try:
        frames = read_frames(path, batch_size=2)
        next(frames)
        assert is_open()
        del frames
        assert not is_open()
    finally:
        gc.enable()


PLANES: dict[str, Callable[..., Path]] = {
    "as most are": lambda make: make(shelf.plain),
    "HEVC": lambda make: make(shelf.hevc),
    "MPEG-4": lambda make: make(shelf.mpeg4_avi),
    "odd size": lambda make: make(shelf.odd_size),
    "lying on its side": lambda make: make(shelf.rotated, 90),
    "upside down": lambda make: make(shelf.rotated, 180),
    "damaged in the middle": lambda make: make(shelf.damaged_flash),
}


@pytest.mark.parametrize("video", PLANES.values(), ids=PLANES)
def test_planes_show_what_images_do(
    make: Callable[..., Path], tmp_path: Path, video: Callable[[Callable[..., Path]], Path]
) -> None:
    """Copied plane by plane into another video: the same times and colours, whatever the source's are."""
    path = video(make)
    _, times_s, images = read(path)
    times, pictures = zip(*read_planes(path), strict=True)
    assert list(times) == list(times_s)
    with VideoWriter(tmp_path / "copy.mp4", frame_hw=images[0].shape[:2], fps=30, crf=8) as writer:
        for picture in pictures:
            writer.write_planes(picture)
    copies = read(tmp_path / "copy.mp4")[2]
    height, width = images[0].shape[:2]
    assert len(copies) == len(images)
    for copy, image in zip(copies, images, strict=True):
        assert copy.shape == (height + height % 2, width + width % 2, 3)
        assert np.abs(copy[:height, :width].astype(int) - image).mean() < 4


def test_planes_are_the_reader_s_own(make: Callable[..., Path]) -> None:
    """Writing to one must not show in frames that the decoder predicts from it."""
    expected = [[plane.copy() for plane in picture.split()] for _, picture in read_planes(make(shelf.b_frames))]
    for (_, picture), planes in zip(read_planes(make(shelf.b_frames)), expected, strict=True):
        for plane, same in zip(picture.split(), planes, strict=True):
            np.testing.assert_array_equal(plane, same)
            plane[:] = 77


def test_planes_of_another_size_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="planes of"),
        VideoWriter(tmp_path / "a.mp4", frame_hw=(63, 97), fps=30) as writer,
    ):
        writer.write_planes(Planes.empty((64, 96)))


@pytest.mark.parametrize("rgb", [(0, 0, 0), (255, 255, 255), (200, 60, 40), (30, 90, 210), (60, 200, 80)])
def test_a_colour_in_planes_is_read_back(tmp_path: Path, rgb: tuple[int, int, int]) -> None:
    planes = Planes.empty((64, 96))
    for plane, value in zip(planes.split(), yuv_of(rgb), strict=True):
        plane[:] = value
    with VideoWriter(tmp_path / "a.mp4", frame_hw=(64, 96), fps=30, crf=4) as writer:
        writer.write_planes(planes)
    assert np.abs(read(tmp_path / "a.mp4")[2][0].astype(int) - rgb).max() <= 4


# --- Writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hw", [(64, 96), (63, 97), (64, 97), (63, 96)])
def test_written_video_reads_back(tmp_path: Path, hw: tuple[int, int]) -> None:
    path = tmp_path / "new folder" / "clip.mp4"
    pictures = [shelf.draw(number, hw=hw) for number in range(41)]
    with VideoWriter(path, frame_hw=hw, fps=30000 / 1001) as writer:
        for picture in pictures:
            writer.write(picture)
        assert not path.exists()
    numbers, times_s, images = read(path)
    assert numbers == list(range(41))
    np.testing.assert_allclose(times_s, np.arange(41) * 1001 / 30000, atol=1e-4)
    assert images[0].shape == (hw[0] + hw[0] % 2, hw[1] + hw[1] % 2, 3)
    assert np.abs(images[20][: hw[0], : hw[1]].astype(int) - pictures[20]).mean() < 6
    assert probe(path).duration_s == pytest.approx(41 * 1001 / 30000, abs=1e-3)
    assert [one.name for one in path.parent.iterdir()] == ["clip.mp4"]


def key_times_s(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.is_keyframe]


@pytest.mark.parametrize("keyframe_s", [0.25, 0.5])
def test_key_frames_come_in_time_and_the_index_is_in_front(tmp_path: Path, keyframe_s: float) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, frame_hw=shelf.FRAME_HW, fps=24, keyframe_s=keyframe_s) as writer:
        for number in range(60):
            writer.write(shelf.draw(number))
    expected = np.arange(0, 2.5, keyframe_s)
    times_s = np.array(key_times_s(path))
    for time_s in expected:
        assert np.abs(times_s - time_s).min() < 1e-3
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_failed_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="mid-way"), VideoWriter(path, frame_hw=shelf.FRAME_HW, fps=30) as writer:
        writer.write(shelf.draw(0))
        raise RuntimeError("mid-way")
    with pytest.raises(ValueError, match="image of"), VideoWriter(path, frame_hw=shelf.FRAME_HW, fps=30) as writer:
        writer.write(shelf.draw(0, hw=(10, 10)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_video_of_no_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught, VideoWriter(tmp_path / "c.mp4", frame_hw=shelf.FRAME_HW, fps=30):
        pass
    assert caught.value.reason == "no frames"
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    """/dev/full takes no byte, as a full disk does."""
    path = tmp_path / "clip.mp4"
    with pytest.raises(VideoError) as caught, published(path), open_mp4(Path("/dev/full")) as output:
        stream = output.add_stream("libx264", rate=30)
        stream.height, stream.width = shelf.FRAME_HW
        output.mux(stream.encode(av.VideoFrame.from_ndarray(shelf.draw(0))))
        output.mux(stream.encode())
    assert (caught.value.reason, caught.value.retry) == ("write failed", True)


# --- Cutting ---------------------------------------------------------------------------------------------------------

CLIPS: list[tuple[str, float, float]] = [
    ("from the beginning", 0.0, 0.5),
    ("on a key frame", 0.8, 1.2),
    ("between key frames", 0.5, 0.9),
    ("in whole milliseconds", 0.333, 0.733),
    ("between frames", 0.51, 0.92),
    ("one frame", 0.7, 0.71),
    ("to the end", 1.3, math.inf),
    ("everything", 0.0, math.inf),
]
CUT_SOURCES: list[tuple[str, Maker]] = [
    ("B-frames", shelf.b_frames),
    ("plain", shelf.plain),
    ("late start", shelf.late_start),
    ("Matroska", shelf.late_start_matroska),
    ("transport stream", shelf.transport_stream),
    ("AVI", shelf.mpeg4_avi),
]


@pytest.mark.parametrize(("start_s", "end_s"), [case[1:] for case in CLIPS], ids=[case[0] for case in CLIPS])
@pytest.mark.parametrize("maker", [case[1] for case in CUT_SOURCES], ids=[case[0] for case in CUT_SOURCES])
def test_copied_clip_shows_exactly_the_scene(
    make: Callable[..., Path], tmp_path: Path, maker: Maker, start_s: float, end_s: float
) -> None:
    path = tmp_path / "clips" / "a clip.mp4"
    cut_clip(make(maker), path, start_s, end_s)
    _, scene_times_s, scene_images = read(make(maker), start_s=start_s, end_s=end_s)
    _, times_s, images = read(path)
    np.testing.assert_allclose(times_s, scene_times_s - scene_times_s[0], atol=1.1e-3)
    np.testing.assert_array_equal(np.stack(images), np.stack(scene_images))
    assert probe(path).codec == probe(make(maker)).codec
    assert probe(path).duration_s == pytest.approx(len(images) / 30, abs=0.035)
    decodes_at_both_ends(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("start_s", "end_s"), [case[1:] for case in CLIPS], ids=[case[0] for case in CLIPS])
def test_encoded_clip_shows_the_scene_and_hides_nothing(
    make: Callable[..., Path], tmp_path: Path, start_s: float, end_s: float
) -> None:
    path = tmp_path / "clip.mp4"
    cut_clip(make(shelf.b_frames), path, start_s, end_s, mode="encode")
    expected = read(make(shelf.b_frames), start_s=start_s, end_s=end_s)
    numbers, times_s, _ = read(path)
    assert numbers == expected[0]
    np.testing.assert_allclose(times_s, expected[1] - expected[1][0], atol=1e-4)
    assert probe(path).num_frames == len(numbers)
    for key_s in np.arange(0, len(numbers) / 30, 0.5):
        assert np.abs(np.array(key_times_s(path)) - key_s).min() < 1e-3


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("libx265", ".mp4"), ("libx265", ".mkv"), ("libvpx-vp9", ".webm"), ("libvpx-vp9", ".mp4"), ("libsvtav1", ".mp4")],
)
def test_other_codecs_are_read_and_copied(
    make: Callable[..., Path], tmp_path: Path, codec: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduling = os.sched_getscheduler(0)
    source = make(shelf.other_codec, codec, suffix)
    assert os.sched_getscheduler(0) == scheduling, "the tests that come later run as those before"
    assert read(source)[0] == list(range(45))
    assert read(source, fps=10, start_s=0.3)[0] == list(range(9, 45, 3))
    caplog.set_level("INFO", logger="trackverse")
    cut_clip(source, tmp_path / "clip.mp4", 0.8, 1.2)
    assert "encoded" not in caplog.text
    np.testing.assert_array_equal(
        np.stack(read(tmp_path / "clip.mp4")[2]), np.stack(read(source, start_s=0.8, end_s=1.2)[2])
    )


@pytest.mark.parametrize(("start_s", "end_s"), [(3.3, 5.2), (4.8, 5.3), (5.0, 6.0)])
def test_clip_of_the_street_video(tmp_path: Path, start_s: float, end_s: float) -> None:
    scene = read(STREET, start_s=start_s, end_s=end_s)
    cut_clip(STREET, tmp_path / "copy.mp4", start_s, end_s)
    cut_clip(STREET, tmp_path / "encode.mp4", start_s, end_s, mode="encode")
    _, copy_times_s, copied = read(tmp_path / "copy.mp4")
    _, encode_times_s, encoded = read(tmp_path / "encode.mp4")
    np.testing.assert_allclose(copy_times_s, scene[1] - scene[1][0], atol=1e-4)
    np.testing.assert_allclose(encode_times_s, scene[1] - scene[1][0], atol=1e-4)
    np.testing.assert_array_equal(np.stack(copied), np.stack(scene[2]))
    assert np.abs(np.stack(encoded).astype(int) - np.stack(scene[2])).mean() < 4


def test_clips_of_a_video_share_no_frame_and_miss_none(make: Callable[..., Path], tmp_path: Path) -> None:
    bounds = [0.0, 0.433, 0.867, 1.5, 2.5]
    numbers = []
    for k, (start_s, end_s) in enumerate(pairwise(bounds)):
        cut_clip(make(shelf.b_frames), tmp_path / f"{k}.mp4", start_s, end_s)
        numbers += read(tmp_path / f"{k}.mp4")[0]
    assert numbers == list(range(75))


@pytest.mark.parametrize("maker", [shelf.b_frames, shelf.with_sound, shelf.without_times])
def test_clips_cut_together_are_as_cut_alone(make: Callable[..., Path], tmp_path: Path, maker: Maker) -> None:
    """Also in an order that isn't theirs, up to the very end, and where each has to be encoded."""
    spans = [(1.5, 99.0), (0.2, 0.9), (0.0, 99.0), (0.5, 1.1)]
    together = {tmp_path / f"together{n}.mp4": span for n, span in enumerate(spans)}
    cut_clips(make(maker), together)
    for path, span in together.items():
        alone = tmp_path / "alone.mp4"
        cut_clip(make(maker), alone, *span)
        numbers, times_s, images = read(path)
        expected_numbers, expected_times_s, expected_images = read(alone)
        assert numbers == expected_numbers and times_s.tolist() == expected_times_s.tolist(), span
        np.testing.assert_array_equal(images, expected_images)
        assert probe(path) == probe(alone)


def test_the_same_clip_is_the_same_file_every_time(make: Callable[..., Path], tmp_path: Path) -> None:
    for maker, mode in ((shelf.without_times, "copy"), (shelf.b_frames, "encode"), (shelf.b_frames, "copy")):
        files = set()
        for number in range(10):
            path = tmp_path / f"{maker.__name__}{number}.mp4"
            cut_clip(make(maker), path, 0.2, 0.9, mode=mode)  # type: ignore[arg-type]
            files.add(path.read_bytes())
        assert len(files) == 1, (maker, mode)


def test_clip_of_a_clip(make: Callable[..., Path], tmp_path: Path) -> None:
    cut_clip(make(shelf.b_frames), tmp_path / "clip.mp4", 0.5, 1.5)
    cut_clip(tmp_path / "clip.mp4", tmp_path / "again.mp4", 0.2, math.inf)
    assert read(tmp_path / "again.mp4")[0] == list(range(21, 45))


def test_sampling_a_copied_clip_counts_from_its_first_shown_frame(make: Callable[..., Path], tmp_path: Path) -> None:
    cut_clip(make(shelf.b_frames), tmp_path / "clip.mp4", 0.5, 1.5)
    numbers, times_s, _ = read(tmp_path / "clip.mp4", fps=10, start_s=0.2, end_s=0.6)
    assert numbers == [21, 24, 27, 30]
    np.testing.assert_allclose(times_s, [0.2, 0.3, 0.4, 0.5], atol=1e-4)


def test_variable_rate_survives_both_ways(make: Callable[..., Path], tmp_path: Path) -> None:
    for mode in ("copy", "encode"):
        cut_clip(make(shelf.variable_rate), tmp_path / "clip.mp4", 0.3, 1.1, mode=mode)  # type: ignore[arg-type]
        numbers, times_s, _ = read(tmp_path / "clip.mp4")
        assert numbers == [3, 4, 5, 6, 7]
        np.testing.assert_allclose(times_s, np.array([0, 1, 20, 21, 22]) / 30, atol=1e-3)


@pytest.mark.parametrize("mode", ["copy", "encode"])
def test_sound_stays_with_the_picture(make: Callable[..., Path], tmp_path: Path, mode: str) -> None:
    """The source's sound begins at 1.0 s, so that of a clip from 0.7 s at 0.3 s."""
    path = tmp_path / "clip.mp4"
    cut_clip(make(shelf.with_sound), path, 0.7, 2.0, mode=mode)  # type: ignore[arg-type]
    assert read(path)[0] == list(range(21, 60))
    loud_s, end_s = math.inf, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.25)
            if len(loud):
                loud_s = min(loud_s, frame.time + loud[0] / frame.sample_rate)
            end_s = frame.time + frame.samples / frame.sample_rate
    assert loud_s == pytest.approx(0.3, abs=0.01)
    assert end_s == pytest.approx(1.3, abs=0.03)
    cut_clip(make(shelf.with_sound), path, 0.7, 2.0, mode=mode, audio=False)  # type: ignore[arg-type]
    assert not probe(path).has_audio


def test_rotation_goes_along(make: Callable[..., Path], tmp_path: Path) -> None:
    for mode in ("copy", "encode"):
        cut_clip(make(shelf.rotated, 90), tmp_path / "clip.mp4", 0.2, 0.8, mode=mode)  # type: ignore[arg-type]
        numbers, _, images = read(tmp_path / "clip.mp4")
        assert numbers == list(range(6, 24))
        assert np.abs(images[4].astype(int) - shelf.draw(10)).mean() < 6


@pytest.mark.parametrize("maker", [shelf.lossless_matroska, shelf.without_times])
def test_what_cannot_be_copied_is_encoded_and_said(
    make: Callable[..., Path], tmp_path: Path, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="trackverse")
    cut_clip(make(maker), tmp_path / "clip.mp4", 0.5, 1.0)
    assert read(tmp_path / "clip.mp4")[0] == list(range(15, 30))
    assert probe(tmp_path / "clip.mp4").codec == "h264"
    assert "the clip is encoded" in caplog.text


@pytest.mark.parametrize("mode", ["copy", "encode"])
@pytest.mark.parametrize(
    ("maker", "start_s", "end_s", "expected"),
    [
        (shelf.plain, 50.0, 60.0, "no frames"),
        (shelf.plain, 1.0, 1.0, "no frames"),
        (shelf.truncated, 0.2, 2.0, "truncated video"),
        (shelf.truncated, 2.0, 2.4, "truncated video"),
        (shelf.text, 0.0, 1.0, "not a video"),
    ],
)
def test_failed_cut_leaves_nothing(
    make: Callable[..., Path], tmp_path: Path, mode: str, maker: Maker, start_s: float, end_s: float, expected: str
) -> None:
    with pytest.raises(VideoError) as caught:
        cut_clip(make(maker), tmp_path / "clip.mp4", start_s, end_s, mode=mode)  # type: ignore[arg-type]
    assert caught.value.reason == expected
    assert list(tmp_path.iterdir()) == []
