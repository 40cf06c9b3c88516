"""Copies of videos are found wherever they begin, and by chance nothing is; every pair against brute force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from trackverse.near_duplicates import MIN_COSINE, MIN_ENDS, MIN_IOU, MIN_TWINS, MIN_WHOLE, TIME_S, near_duplicates
from trackverse.track_table import TrackTable
from trackverse.types import Float16, Float64, Int64

FRAME_WH = (1280, 720)


@dataclass(frozen=True)
class Seen:
    """A track: `boxes` (2, 4) are its first and last, left, top, right, bottom px."""

    label_id: int
    start_s: float
    end_s: float
    boxes: Float64
    look: Float64


Video = list[Seen]


def make_video(seed: int, num_tracks: int = 20, num_classes: int = 5) -> Video:
    """Tracks of 3 to 12 s, two or three at a time, that drift."""
    rng = np.random.default_rng(seed)
    tracks = []
    for start_s in np.sort(rng.uniform(0, 3 * num_tracks, num_tracks)).tolist():
        left_top, size = rng.uniform((0, 0), (900, 400)), rng.uniform(60, 300, 2)
        first = np.concatenate([left_top, left_top + size])
        last = first + np.tile(rng.normal(0, 40, 2), 2)
        look = rng.normal(size=8)
        length_s = rng.uniform(3, 12)
        tracks.append(Seen(int(rng.integers(num_classes)), start_s, start_s + length_s, np.stack([first, last]), look))
    return tracks


def make_table(videos: Sequence[Video], frame_wh: tuple[int, int] = FRAME_WH) -> TrackTable:
    tracks = [track for video in videos for track in video]
    boxes = np.array([track.boxes for track in tracks]).reshape(-1, 2, 4)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(axis=2).mean(axis=1) / (frame_wh[0] * frame_wh[1])
    xyxy = np.clip(np.rint(boxes), 0, 65535).astype(np.uint16).reshape(-1, 4)
    columns = {
        "label_id": np.array([track.label_id for track in tracks], np.int64),
        "start_s": np.array([track.start_s for track in tracks]),
        "end_s": np.array([track.end_s for track in tracks]),
        "area": area.astype(np.float32),
    }
    starts = 2 * np.arange(len(tracks) + 1)
    return TrackTable(
        np.repeat(np.arange(len(videos)), np.array([len(video) for video in videos], np.int64)),
        [f"v{number}" for number in range(len(videos))],
        {},
        columns,
        lambda: [(starts[:-1], starts, xyxy)],
    )


def looks_of(videos: Sequence[Video]) -> Callable[[Int64], Float16]:
    looks = np.array([track.look for video in videos for track in video]).astype(np.float16)
    return lambda rows: looks[rows]


def together(videos: Sequence[Video], *, with_looks: bool = True, min_share: float = 0.5) -> list[int]:
    return near_duplicates(make_table(videos), min_share, looks_of(videos) if with_looks else None).tolist()


def later(video: Video, offset_s: float) -> Video:
    return [replace(track, start_s=track.start_s + offset_s, end_s=track.end_s + offset_s) for track in video]


def cut(video: Video, *spans: tuple[float, float]) -> Video:
    """The video's tracks, cut where the spans begin and end; what is left of less than a second is lost."""
    pieces = []
    for start_s, end_s in spans:
        for track in video:
            begin, end = max(track.start_s, start_s), min(track.end_s, end_s)
            if end - begin >= 1:
                shares = (np.array([begin, end]) - track.start_s) / (track.end_s - track.start_s)
                boxes = track.boxes[0] + shares[:, None] * (track.boxes[1] - track.boxes[0])
                pieces.append(replace(track, start_s=begin, end_s=end, boxes=boxes))
    return pieces


def encoded_again(video: Video, seed: int) -> Video:
    """As a detector sees it another time: frames early or late, other boxes and looks by a little, one in five lost."""
    rng = np.random.default_rng(seed)
    return [
        replace(
            track,
            start_s=track.start_s + rng.uniform(-0.1, 0.1),
            end_s=track.end_s + rng.uniform(-0.1, 0.1),
            boxes=track.boxes + rng.normal(0, 3, (2, 4)),
            look=track.look + rng.normal(0, 0.05, 8),
        )
        for track in video
        if rng.uniform() < 0.8
    ]


def mirrored(video: Video) -> Video:
    return [replace(track, boxes=FRAME_WH[0] * np.array([1, 0, 1, 0]) + track.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1])
            for track in video]  # fmt: skip


@pytest.mark.parametrize(
    ("copy", "is_found", "is_found_without_looks"),
    [
        pytest.param(lambda video: video, True, True, id="the same again"),
        pytest.param(lambda video: encoded_again(video, 1), True, True, id="encoded again"),
        pytest.param(lambda video: later(video, 5.0), True, True, id="after an intro of 5 s"),
        pytest.param(lambda video: encoded_again(later(video, 905.3), 2), True, True, id="late in a long recording"),
        pytest.param(lambda video: later(cut(video, (3.4, 99)), -3.4), True, True, id="trimmed by 3.4 s"),
        pytest.param(lambda video: encoded_again(later(cut(video, (13, 99)), -13), 3), True, True, id="trimmed more"),
        pytest.param(lambda video: cut(video, (0, 17), (17, 31), (31, 50), (50, 99)), True, True, id="other segments"),
        pytest.param(lambda video: cut(video, *((n, n + 4.0) for n in range(0, 72, 4))), True, False, id="cut short"),
        pytest.param(lambda video: make_video(77), False, False, id="another video"),
        pytest.param(mirrored, False, False, id="mirrored"),
        pytest.param(lambda video: [replace(t, label_id=t.label_id + 9) for t in video], False, False, id="classes"),
        pytest.param(lambda video: [replace(t, look=-t.look) for t in video], False, True, id="other looks"),
        pytest.param(lambda video: video[:1], False, False, id="a single track"),
        pytest.param(lambda video: video[:3], True, False, id="three tracks of it"),
        pytest.param(lambda video: video[:8] + later(make_video(78), 90), False, False, id="two fifths, and more"),
        pytest.param(
            lambda video: [replace(t, start_s=t.start_s * 1.3, end_s=t.end_s * 1.3) for t in video],
            False, False, id="slower",
        ),
    ],
)  # fmt: skip
def test_a_copy(copy: Callable[[Video], Video], is_found: bool, is_found_without_looks: bool) -> None:
    video = make_video(0)
    videos = [make_video(5), video, make_video(6), copy(video), make_video(7)]
    for with_looks, wanted in ((True, is_found), (False, is_found_without_looks)):
        groups = together(videos, with_looks=with_looks)
        assert (groups[1] == groups[3]) == wanted, with_looks
        assert len({groups[0], groups[1], groups[2], groups[4]}) == 4


def test_a_copy_of_another_resolution() -> None:
    """Each video's frames are as large as its boxes in px and in shares say."""
    video = make_video(0)
    small = [replace(track, boxes=track.boxes / 2) for track in video]
    columns = {
        name: np.concatenate([make_table([video])[name]] * 2) for name in ("label_id", "start_s", "end_s", "area")
    }
    table = replace(make_table([video, small]), columns=columns)
    assert len(set(near_duplicates(table, 0.5).tolist())) == 1


def test_a_hundred_copies_are_one_group() -> None:
    video = make_video(0)
    groups = together([*(encoded_again(later(video, n), n) for n in range(100)), make_video(1)])
    assert len(set(groups[:100])) == 1
    assert groups[100] != groups[0]


@pytest.mark.parametrize("block", [1, 7, 100])
def test_tracks_are_looked_at_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [make_video(n, 12) for n in range(6)]
    videos += [encoded_again(later(video, 10), 1) for video in videos]
    monkeypatch.setattr("trackverse.near_duplicates.BLOCK", block)
    assert together(videos) == [*range(6), *range(6)]


def test_nothing_is_no_copy() -> None:
    assert together([]) == []
    assert len(set(together([[], []]))) == 2


def is_copy(one: Video, other: Video, with_looks: bool, min_share: float) -> bool:
    """By brute force: at the offset of any two tracks' starts, whether the definition holds."""

    def is_there(a: Seen, b: Seen, end: int, offset_s: float) -> bool:
        times = (b.start_s - a.start_s, b.end_s - a.end_s)
        (left, top, right, bottom), (left2, top2, right2, bottom2) = a.boxes[end], b.boxes[end]
        common = max(min(right, right2) - max(left, left2), 0) * max(min(bottom, bottom2) - max(top, top2), 0)
        union = (right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - common
        is_near = abs(times[end] - offset_s) <= TIME_S
        return a.label_id == b.label_id and is_near and bool(common >= (MIN_IOU - 0.02) * union)

    def number(pairs: list[tuple[int, int]]) -> int:
        return min(len({a for a, _ in pairs}), len({b for _, b in pairs}))

    least = max(MIN_TWINS, min_share * min(len(one), len(other)))
    for offset_s in [b.start_s - a.start_s for a in one for b in other]:
        ends = {(i, j): is_there(a, b, 0, offset_s) + is_there(a, b, 1, offset_s)
                for i, a in enumerate(one) for j, b in enumerate(other)}  # fmt: skip
        if with_looks:
            for i, j in ends:
                a, b = one[i].look, other[j].look
                if a @ b < (MIN_COSINE - 0.01) * np.linalg.norm(a) * np.linalg.norm(b):
                    ends[i, j] = 0
        twins, whole = (number([pair for pair, num_ends in ends.items() if num_ends >= n]) for n in (1, 2))
        if twins >= least and (twins + whole >= MIN_ENDS if with_looks else whole >= MIN_WHOLE):
            return True
    return False


@pytest.mark.parametrize("with_looks", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_found_are_copies_by_brute_force(seed: int, with_looks: bool) -> None:
    """Videos of one class, in the middle of the picture, some of them copies: hard to tell apart."""
    rng = np.random.default_rng(seed)
    videos = [make_video(100 * seed + n, int(rng.integers(2, 12)), num_classes=1) for n in range(12)]
    for video in videos:
        middle = np.array([400, 200, 800, 600])
        video[:] = [
            replace(
                t, boxes=middle + 0.1 * (t.boxes - middle), look=np.abs(t.look), end_s=t.start_s + rng.integers(3, 6)
            )
            for t in video
        ]
    videos += [encoded_again(later(video, float(rng.uniform(-3, 60))), seed) for video in videos[:4]]
    found = together(videos, with_looks=with_looks)
    linked = list(range(len(videos)))
    for i in range(len(videos)):
        for j in range(i):
            if is_copy(videos[i], videos[j], with_looks, 0.5):
                linked = [linked[j] if group == linked[i] else group for group in linked]
    for i in range(len(videos)):
        for j in range(i):
            assert found[i] != found[j] or linked[i] == linked[j]
    exact = together([*videos[:12], *(later(video, 31.7) for video in videos[:12])], with_looks=with_looks)
    for n, video in enumerate(videos[:12]):
        assert (
            exact[n] == exact[n + 12] or len(video) < MIN_WHOLE
        )  # with few pairs, it may have none next to its copy's
