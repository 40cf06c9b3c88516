"""The page about a folder of tracks: what is on it, that it is complete in itself, and what bad input does to it."""

from __future__ import annotations

import base64
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from trackverse import charts, jsonl, report
from trackverse.errors import ItemError
from trackverse.layout import TracksLayout
from trackverse.records import parse_record
from trackverse.report import Glance, choose, main, make_page, picture_of, read_glances
from trackverse.store import TrackStore
from trackverse.types import Clip, Track
from trackverse.video import VideoWriter
from trackverse.worklist import Tally

FRAME_HW = (90, 160)
FPS = 10
GREY, RED = (90, 90, 90), (230, 30, 30)
LABELS = ("person", "dog", "<script>alert(1)</script>")
SETTINGS = {"detector": "painted", "vocab": "test", "fps": float(FPS)}


def red_box(frame_index: int) -> tuple[int, int, int, int]:
    """Where the red square of a frame is: left, top, width, height in px. It moves to the right."""
    return 20 + 4 * frame_index, 30, 20, 20


def write_video(path: Path, *, enlarged: int = 1) -> None:
    """Two seconds of a red square that moves over grey; `enlarged`: each pixel drawn so many times wide and high."""
    size = (FRAME_HW[0] * enlarged, FRAME_HW[1] * enlarged)
    with VideoWriter(path, frame_hw=size, fps=FPS, crf=8) as writer:
        for frame_index in range(20):
            image = np.full((*FRAME_HW, 3), GREY, np.uint8)
            left, top, width, height = red_box(frame_index)
            image[top : top + height, left : left + width] = RED
            writer.write(image.repeat(enlarged, 0).repeat(enlarged, 1))


def make_track(label_id: int, *, score: float = 0.8, num_frames: int = 20) -> Track:
    """The red square from the first frame on, as one of LABELS."""
    logits = np.full((num_frames, len(LABELS)), 0.1, np.float32)
    logits[:, label_id] = 0.9
    tlwh = np.array([red_box(n) for n in range(num_frames)], np.float32)
    xyxy = np.concatenate([tlwh[:, :2], tlwh[:, :2] + tlwh[:, 2:]], axis=1)
    scores = np.full(num_frames, score, np.float32)
    return Track(np.arange(num_frames) / FPS, xyxy, scores, logits, np.zeros(0, np.float32))


def add_tracks(tracks_dir: Path, video_id: str, tracks: list[Track]) -> None:
    store = TrackStore(TracksLayout(tracks_dir), SETTINGS)
    store.commit(Clip(video_id, f"{video_id}.0.mp4", 0.0, 2.0), tracks, FRAME_HW, LABELS)


def add_lines(tracks_dir: Path, video_id: str, lines: list[str]) -> None:
    path = TracksLayout(tracks_dir).meta_path(video_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(jsonl.gzip_member(line.encode()) for line in lines))


def foreign_line(**changes: object) -> str:
    """A record of the published layout without frame size and scores."""
    boxes = [list(red_box(n)) for n in range(20)]
    times = [n / FPS for n in range(20)]
    value = {"track_id": 3, "track_ts": [0.0, 1.9], "frame_ts": times, "frame_bboxes": boxes, "yid": "moving"}
    value |= {"track_mp4_filename": "mo/moving-cat.mp4", "top10_label_ids": [7], "top10_label_names": ["cat"]}
    return jsonl.dump(value | changes)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """(tracks_dir, videos_dir) of one video with two tracks, a person and a worse dog; nothing is odd about them."""
    tracks_dir, videos_dir = tmp_path / "tracks", tmp_path / "videos"
    add_tracks(tracks_dir, "moving", [make_track(1, score=0.5), make_track(0)])
    write_video(videos_dir / "mo" / "moving.mp4")
    return tracks_dir, videos_dir


class PageReader(HTMLParser):
    """Collects a page's tags, what they refer to, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(folders: tuple[Path, Path], tally: Tally | None = None, **options: object) -> str:
    tracks_dir, videos_dir = folders
    tally = tally or Tally()
    paths = TracksLayout(tracks_dir).meta_paths()
    tracks = [track for path in paths for track in read_glances(path, tally)]
    return make_page(tracks, videos_dir, tally=tally, **options)


def jpegs_of(page: str) -> list[np.ndarray]:
    """The pictures of a page, (H, W, 3) RGB."""
    found = [base64.b64decode(data) for data in re.findall(r'href="data:image/jpeg;base64,([^"]+)"', page)]
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in found]
    assert all(image is not None for image in images)
    return [image[..., ::-1] for image in images]


def test_every_track_has_a_card_with_class_score_id_and_times(folders: tuple[Path, Path]) -> None:
    text = " ".join(PageReader(page_of(folders)).text)
    assert re.search(r"dog 0\.45 moving #0 0:00\.0–0:01\.9 · 1\.9 s", text)
    assert re.search(r"person 0\.72 moving #1 0:00\.0–0:01\.9 · 1\.9 s", text)
    assert "2 of 2" in text


def test_the_header_counts_what_is_there(folders: tuple[Path, Path]) -> None:
    add_tracks(folders[0], "other", [make_track(0, num_frames=11)])
    numbers = re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page_of(folders))
    assert numbers == [
        ("videos with tracks", "2"),
        ("tracks", "3"),
        ("tracked in all", "0.1 min"),
        ("classes", "2"),
        ("median length", "1.9 s"),
    ]


def test_pictures_show_the_object_in_the_middle_of_its_track(folders: tuple[Path, Path]) -> None:
    page = page_of(folders)
    images = jpegs_of(page)
    places = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" rx="1"', page)
    assert len(images) == len(places) == 2
    for image, place in zip(images, places, strict=True):
        left, top, width, height = (round(float(value)) for value in place)
        inside = image[top + 3 : top + height - 3, left + 3 : left + width - 3]
        assert np.abs(inside.mean(axis=(0, 1)) - RED).max() < 25
        outside = np.delete(image, slice(left - 3, left + width + 3), axis=1)
        assert np.abs(outside.mean(axis=(0, 1)) - GREY).max() < 25


def test_a_box_is_found_in_a_video_of_another_size(folders: tuple[Path, Path]) -> None:
    """The tracks were made from 160 x 90 px, the video that is here has 320 x 180."""
    write_video(folders[1] / "mo" / "moving.mp4", enlarged=2)
    track = next(read_glances(TracksLayout(folders[0]).meta_path("moving"), Tally()))
    picture = picture_of(track, folders[1])
    assert picture.hw == (72, 72)  # the box of 40 px, and 0.4 of it on every side
    assert picture.tlwh == pytest.approx((16, 16, 40, 40))


@pytest.mark.parametrize(
    ("tlwh", "hw"),
    [
        pytest.param((0, 0, 160, 90), FRAME_HW, id="the whole frame"),
        pytest.param((-50, -50, 20, 20), (36, 36), id="outside the frame"),
        pytest.param((155, 85, 20, 20), (36, 36), id="over the corner"),
        pytest.param((80, 40, 1, 1), (24, 24), id="a pixel"),
        pytest.param((80, 40, -5, -5), (24, 24), id="reversed"),
        pytest.param((1e300, 0, 1e300, 1), FRAME_HW, id="absurd"),
    ],
)
def test_odd_boxes_give_pictures_within_the_frame(
    folders: tuple[Path, Path], tlwh: tuple[float, float, float, float], hw: tuple[int, int]
) -> None:
    track = Glance("moving", 0, "dog", 0.5, 0.0, 1.9, 1.0, tlwh, FRAME_HW, (0.5, 0.5))
    assert picture_of(track, folders[1]).hw == hw


def test_the_page_loads_nothing(folders: tuple[Path, Path]) -> None:
    page = page_of(folders)
    reader = PageReader(page)
    references = [value for name, value in reader.attributes if name in ("src", "href", "srcset", "xlink:href")]
    assert len(references) == 2
    assert all(value.startswith("data:image/jpeg;base64,") for value in references)
    assert not reader.tags.keys() & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    assert not re.search(r"https?:|//\w|url\(|@import", re.sub(r"base64,[^\"]+", "", page))
    assert "default-src 'none'" in page


def test_foreign_text_is_text(tmp_path: Path) -> None:
    """Labels, ids and the title hold markup, and the title a byte that isn't UTF-8."""
    add_tracks(tmp_path, "moving", [make_track(2)])
    video_id = '"><img src=x onerror=alert(2)>'
    add_lines(tmp_path, "other", [foreign_line(yid=video_id, top10_label_names=["$title"])])
    status = main([f"--tracks_dir={tmp_path}", f"--videos_dir={tmp_path}", f"--output_file={tmp_path / 'a.html'}",
                   "--title=</title><script>alert(3)</script>\udcff"])  # fmt: skip
    assert status == 1  # no pictures
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    reader = PageReader(page)
    assert reader.tags["script"] == reader.tags["img"] == 0
    shown = {"<script>alert(1)</script>", f"{video_id} #3", "$title", "</title><script>alert(3)</script>?"}
    assert shown <= set(reader.text)


def test_no_tracks_at_all(folders: tuple[Path, Path]) -> None:
    page = make_page([], folders[1], tally=Tally())
    assert "There are no tracks." in page
    assert jpegs_of(page) == []
    assert PageReader(page).tags["svg"] == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda path: path.unlink(), "video missing", id="no file"),
        pytest.param(lambda path: path.write_bytes(b""), "empty file", id="no bytes"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:900]), "truncated video", id="cut off"),
        pytest.param(lambda path: path.write_text("sorry" * 99), "not a video", id="an error page"),
    ],
)
def test_a_video_that_cant_be_read_leaves_cards_without_pictures(folders, damage, reason) -> None:  # type: ignore[no-untyped-def]
    damage(folders[1] / "mo" / "moving.mp4")
    tally = Tally()
    page = page_of(folders, tally)
    assert tally.failed == {reason: 2}
    assert page.count(f"no picture: {reason}") == 2
    assert ">person<" in page and ">dog<" in page
    assert jpegs_of(page) == []


def test_a_track_after_the_end_of_its_video_has_no_picture(folders: tuple[Path, Path]) -> None:
    track = Glance("moving", 0, "dog", 0.5, 60.0, 62.0, 61.0, (10, 10, 20, 20), FRAME_HW, (0.1, 0.1))
    with pytest.raises(ItemError, match=r"ends before 61\.000 s"):
        picture_of(track, folders[1])


def test_the_reasons_are_told_on_the_page(folders: tuple[Path, Path]) -> None:
    (folders[1] / "mo" / "moving.mp4").unlink()
    tally = Tally(failed=Counter({"torn gzip": 1}))
    assert {"2 × video missing", "1 × torn gzip"} <= set(PageReader(page_of(folders, tally)).text)


def test_tracks_of_other_layouts_have_pictures_but_no_place_in_the_frame(folders: tuple[Path, Path]) -> None:
    tid_layout = {"tid": 4, "fn": "mo/moving-cow.mp4", "track_ts": [0.0, 1.0, 1.9], "top10_lbl": [9]}
    tid_layout |= {"track_bbox": [list(red_box(n)) for n in (0, 10, 19)], "top10_desc": ["cow"]}
    tid_layout |= {f"top10_{name}_{part}": [0.3] for name in ("logit", "wlogit") for part in ("mu", "std")}
    folder = folders[0] / "foreign"
    add_lines(folder, "moving", [foreign_line(), jsonl.dump(tid_layout)])
    page = page_of((folder, folders[1]))
    text = " ".join(PageReader(page).text)
    assert re.search(r"cat moving #3 0:00\.0", text), "no score where none is recorded"
    assert re.search(r"cow 0\.30 moving #4 0:00\.0", text)
    assert "2 of unknown frame size left out" in text
    assert len(jpegs_of(page)) == 2


def test_what_was_read_before_a_bad_line_is_kept(folders: tuple[Path, Path]) -> None:
    add_lines(folders[0], "other", [foreign_line(yid="other"), "{}", foreign_line(yid="other")])
    tally = Tally()
    assert len(list(read_glances(TracksLayout(folders[0]).meta_path("other"), tally))) == 1
    assert tally.failed == {"bad record": 1}


def glances(sizes: dict[str, int]) -> list[Glance]:
    """`sizes` tracks of each class, with falling scores."""
    return [
        Glance("v", number, label, 1 - number / 100, 0.0, 1.0, 0.5, (0, 0, 9, 9), None, None)
        for label, size in sizes.items()
        for number in range(size)
    ]


@pytest.mark.parametrize(
    ("max_tracks", "expected"),
    [
        pytest.param(99, ["car 0", "car 1", "car 2", "ant 0", "bee 0"], id="room for all: by class size, then score"),
        pytest.param(4, ["car 0", "car 1", "ant 0", "bee 0"], id="every class has its best before one has its third"),
        pytest.param(2, ["car 0", "ant 0"], id="fewer places than classes: the largest classes, then by name"),
    ],
)
def test_choice_of_tracks(max_tracks: int, expected: list[str]) -> None:
    tracks = glances({"bee": 1, "car": 3, "ant": 1})
    assert [f"{track.label} {track.track_id}" for track in choose(tracks[::-1], max_tracks)] == expected


def test_the_page_says_how_many_of_how_many(folders: tuple[Path, Path]) -> None:
    page = page_of(folders, max_tracks=1)
    assert "1 of 2: the best-scored of each class in turn" in page
    assert len(jpegs_of(page)) == 1


def bar_labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)<", svg)


def test_class_chart_has_the_largest_classes_and_sums_up_the_rest() -> None:
    svg = charts.classes(Counter({f"class {n}": 20 - n for n in range(12)}))
    assert bar_labels(svg)[:2] == ["class 0", "20"]
    assert bar_labels(svg)[-1] == "and 2 more with 19 tracks"
    widths = [float(width) for width in re.findall(r'class="bar"[^>]*width="([\d.]+)"', svg)]
    assert widths == sorted(widths, reverse=True)
    assert widths[9] / widths[0] == pytest.approx(11 / 20, abs=0.01)


def test_charts_say_one_track_of_one() -> None:
    assert bar_labels(charts.classes(Counter({f"class {n:02}": 1 for n in range(11)})))[-1] == "and 1 more with 1 track"
    assert ">0 to 1 track<" in charts.places([(0.5, 0.5)])
    assert ">0 to 1,200 tracks<" in charts.places([(0.5, 0.5)] * 1200)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([], {}, id="none"),
        pytest.param([0.0], {"0": "1"}, id="one of a single frame"),
        pytest.param([0.9, 0.1 + 0.2, 0.3], {"0.3": "2", "0.9": "1"}, id="bounds belong to the bar that they begin"),
        pytest.param([1.0] * 99 + [500.0], {"0.9+": "100"}, id="the long tail is in the last bar"),
        pytest.param([5.0, -3.0, 1e300], {"0": "2"}, id="absurd lengths harm nothing"),
    ],
)
def test_length_chart(lengths: list[float], expected: dict[str, str]) -> None:
    svg = charts.lengths(np.array(lengths))
    assert "nan" not in svg and "inf" not in svg
    bars = re.findall(r'class="bar" x="([\d.]+)"[^>]*height="([\d.]+)"', svg)
    texts = re.findall(r'class="soft" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', svg)
    ticks = {x: text for x, _, anchor, text in texts if anchor == "start"}
    counts = [text for _, _, anchor, text in texts if anchor == "middle"]
    tall = [ticks.get(x) for x, height in bars if float(height) > 0]
    assert len(tall) == len(counts)
    for tick, size in expected.items():
        assert (tick, size) in zip(tall, counts, strict=True)


@pytest.mark.parametrize("num_classes", [1, 2, 10, 30, 5000])
def test_line_of_ranks_goes_through_every_rank_that_can_be_told_apart(num_classes: int) -> None:
    """And its ends are told beside them."""
    sizes = np.arange(num_classes, 0, -1) + 2.0
    svg = charts.ranks(sizes)
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]+)"', svg)[0].split()]
    assert len(points) == num_classes if num_classes <= 30 else 200 < len(points) <= charts.WIDTH
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(set(xs)) and list(ys) == sorted(ys)
    told = re.findall(r'<text class="soft" x="[\d.]+" y="([\d.]+)"[^>]*>([^<]+)<', svg)[-2:]
    assert [text for _, text in told] == [charts._short(num_classes + 2), "3"]
    assert [float(y) for y, _ in told] == pytest.approx([ys[0], ys[-1]], abs=7)


def test_map_counts_where_tracks_begin() -> None:
    svg = charts.places([(0.0, 0.0), (0.01, 0.01), (1.0, 1.0), (7.0, -3.0)])
    cells = re.findall(r'class="bar" x="([\d.]+)" y="([\d.]+)"[^>]*fill-opacity="([\d.]+)"><title>(\d+)<', svg)
    assert [(x, y, told) for x, y, _, told in cells] == [
        ("1.0", "1.0", "2"),
        ("338.5", "1.0", "1"),
        ("338.5", "181.0", "1"),
    ]
    assert float(cells[0][2]) > float(cells[1][2])


def test_first_boxes_are_placed_by_their_centres(folders: tuple[Path, Path]) -> None:
    track = next(read_glances(TracksLayout(folders[0]).meta_path("moving"), Tally()))
    assert track.first_xy == pytest.approx((30 / 160, 40 / 90))


def test_the_middle_is_the_frame_nearest_to_half_time() -> None:
    """Seen often in the first second and once at its end: the middle frame of the list is far from half time."""
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.9, 2.0]
    line = foreign_line(frame_ts=times, frame_bboxes=[[n, 0, 5, 5] for n in range(7)])
    track = report.glance(parse_record(line.encode(), "line"))
    assert (track.middle_s, track.middle_tlwh) == (0.9, (5, 0, 5, 5))


def test_numbers_are_short() -> None:
    assert [charts._short(n) for n in (0, 999, 1000, 9940, 9960, 123_456, 999_700, 12_345_678)] == [
        "0", "999", "1.0k", "9.9k", "10k", "123k", "1.0M", "12M",
    ]  # fmt: skip
    assert [report._clock(s) for s in (0.0, 59.96, 75.25, 3675.3)] == ["0:00.0", "0:59.9", "1:15.2", "1:01:15.3"]


def test_command_makes_the_page_and_ends_with_0(folders: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "new folder" / "page.html"
    assert main(["--tracks-dir", str(folders[0]), "--videos-dir", str(folders[1]), "--output-file", str(page)]) == 0
    assert "<title>Tracks of tracks</title>" in page.read_text(encoding="utf-8")
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_command_ends_with_1_where_something_is_missing_on_the_page(folders: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = [f"--tracks_dir={folders[0]}", f"--videos_dir={folders[1]}", f"--output_file={page}"]
    (folders[0] / "to").mkdir()
    (folders[0] / "to" / "torn-meta.jsonl.gzip").write_bytes(jsonl.gzip_member(foreign_line().encode())[:-9])
    assert main(arguments) == 1
    assert "1 × torn gzip" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"tracks_dir": "nowhere"}, "parse_tracks.py makes them", id="no tracks folder"),
        pytest.param({"output_file": "videos"}, "can't be written", id="output is a folder"),
    ],
)
def test_command_ends_with_2_and_one_line(
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    told: str,
) -> None:
    names = {"tracks_dir": "tracks", "videos_dir": "videos", "output_file": "page.html"} | change
    assert main([f"--{flag}={tmp_path / name}" for flag, name in names.items()]) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if line.startswith("error: ")] and told in error[-1]
    assert not (tmp_path / "page.html").exists()


def test_wrong_usage_ends_with_2() -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--max_tracks", "0"])
    assert exit_.value.code == 2
