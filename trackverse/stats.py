"""What is in a set of tracks, in numbers and as a page of charts."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass

import numpy as np

from trackverse import charts, html_page
from trackverse.html_page import figure
from trackverse.track_table import TrackTable
from trackverse.types import Float64, Int64
from trackverse.wording import counted

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class Stats:
    """`sizes`: tracks of each class that has any; `values`: for each quantity its numbers, those that are known."""

    sizes: Counter[str]
    num_videos: int
    values: dict[str, Float64]

    @property
    def num_tracks(self) -> int:
        return self.sizes.total()

    @property
    def h_index(self) -> int:
        """The largest h for which h classes have at least h tracks each."""
        return sum(size >= rank for rank, size in enumerate(sorted(self.sizes.values(), reverse=True), 1))

    def lines(self) -> list[str]:
        """As a table of text: counts, then percentiles of every quantity."""
        of_videos = f"{counted(self.num_tracks, 'tracks')} of {counted(self.num_videos, 'videos')}"
        h_index = f"H-index {self.h_index} (so many classes have as many tracks or more)"
        told = [f"{of_videos}, {counted(len(self.sizes), 'classes')}, {h_index}"]
        width = max(map(len, self.values))
        told.append(f"{'percentiles':<{width}}" + "".join(f"{f'{p}%':>10}" for p in PERCENTILES))
        for name, values in self.values.items():
            if len(values):
                told.append(
                    f"{name:<{width}}" + "".join(f"{value:>10.4g}" for value in np.percentile(values, PERCENTILES))
                )
        return told


def stats_of(table: TrackTable, rows: Int64 | None = None, *, motion: str = "box_motion") -> Stats:
    """Of the given rows, or of all."""
    where = slice(None) if rows is None else rows
    label_ids, counts = np.unique(table["label_id"][where], return_counts=True)
    sizes = Counter[str]()
    for label_id, number in zip(label_ids.tolist(), counts.tolist(), strict=True):
        sizes[table.labels[label_id]] += number
    by_video = np.bincount(table.videos[where], minlength=len(table.video_ids))
    columns = {
        "length in s": table["end_s"][where] - table["start_s"][where],
        "share of the frame": table["area"][where],
        "motion in sizes/s": table[motion][where],
        "score": table["score"][where],
    }
    values = {name: column[np.isfinite(column)] for name, column in columns.items()}
    values["tracks of a class"] = np.array(list(sizes.values()), np.float64)
    values["tracks of a video"] = by_video[by_video > 0].astype(np.float64)
    return Stats(sizes, int((by_video > 0).sum()), values)


def page(parts: dict[str, Stats]) -> str:
    """An HTML page of charts, complete in itself: of each part, which is named, its numbers and plots."""
    figures = []
    for name, stats in parts.items():
        ranked = np.array(sorted(stats.sizes.values(), reverse=True), np.float64)
        plots = {
            ("Classes", "tracks of each class"): charts.classes(stats.sizes),
            ("Long tail", "tracks of the classes by rank, both on logarithmic scales"): charts.ranks(ranked),
            ("Lengths", "tracks by seconds from first to last frame"): charts.lengths(stats.values["length in s"]),
            ("Motion", "tracks by box sizes a second"): charts.lengths(
                stats.values["motion in sizes/s"], least=0.01, what="motion in box sizes a second"
            ),
        }
        for (heading, explanation), svg in plots.items():
            figures.append(figure(f"{name}: {heading.lower()}", explanation, svg))
    numbers = {
        f"{what}, {name}": f"{number:,}"
        for name, stats in parts.items()
        for what, number in (
            ("tracks", stats.num_tracks),
            ("classes", len(stats.sizes)),
            ("H-index", stats.h_index),
            ("videos", stats.num_videos),
        )
    }
    notes = [
        f"<b>{html.escape(name)}</b><pre>{html.escape(chr(10).join(stats.lines()))}</pre>"
        for name, stats in parts.items()
    ]
    shown = "python -m trackverse.report makes a page with pictures of tracks."
    return html_page.filled(title=" and ".join(parts), numbers=numbers, notes=notes, figures=figures, shown=shown)
