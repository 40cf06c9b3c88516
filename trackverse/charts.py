"""Small charts as inline SVG: text in, text out, no drawing library.

Colours and letters come from the page's style sheet, by the classes `bar`, `hole`, `axis` and `soft`.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from trackverse import letters
from trackverse.types import Float64
from trackverse.wording import named

WIDTH = 360  # svg units: about the css pixels that a chart gets on a phone, and beside two others on a wide screen
LETTER_WIDTH = 7  # of the 12 px letters, on average and rounded up
MAX_CLASSES = 10
MAX_LABEL = 20  # letters, wide ones count twice; a longer one is cut and told whole on hovering
MAX_BARS = 15
LONG_TAIL = 0.95  # of the lengths get bars of their own; the longest share the last one
CELLS = (16, 9)  # columns and rows of the map


def classes(sizes: Counter[str]) -> str:
    """A bar for each of the largest classes; the others share a last line."""
    row_height, number_width = 21, 44
    by_size = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    bars, rest = by_size[:MAX_CLASSES], by_size[MAX_CLASSES:]
    shorts = [letters.shortened(label, MAX_LABEL) for label, _ in bars]
    label_width = LETTER_WIDTH * max(map(letters.width, shorts), default=0) + 8
    shapes = []
    for row, ((label, size), short) in enumerate(zip(bars, shorts, strict=True)):
        length = max(1.0, (WIDTH - label_width - number_width) * size / bars[0][1])
        middle = row_height * (row + 0.5)
        shapes += [
            f'<text y="{middle + 4}">{html.escape(short)}<title>{html.escape(label)}</title></text>',
            f'<rect class="bar" x="{label_width}" y="{middle - 7}" width="{length:.1f}" height="14" rx="2"/>',
            f'<text class="soft" x="{label_width + length + 6:.1f}" y="{middle + 4}">{_short(size)}</text>',
        ]
    if rest:
        num_tracks = sum(size for _, size in rest)
        more = f"and {len(rest):,} more with {num_tracks:,} {named(num_tracks, 'tracks')}"
        shapes.append(f'<text class="soft" y="{row_height * (len(bars) + 0.5) + 4}">{more}</text>')
    return _svg(row_height * (len(bars) + bool(rest)), "Number of tracks of each class", shapes)


def lengths(lengths_s: Float64, *, least: float = 1.0, what: str = "length in seconds") -> str:
    """A histogram of lengths (N,) in s, or of `what` else is given; the last bar holds the long tail too, and says so.

    `least`: how far the axis goes at least.
    """
    height, base, top = 210, 186, 16
    reach = max(float(np.quantile(lengths_s, LONG_TAIL)), least) if len(lengths_s) else least
    step = _round_step(reach / MAX_BARS)
    num_bars = math.ceil(reach / step - 1e-3)
    # Times are rounded to 0.1 ms: 3 s must not fall into the bar before by a rounding error.
    bins = np.floor(lengths_s / step + 1e-3)
    sizes = np.bincount(np.clip(bins, 0, num_bars - 1).astype(int), minlength=num_bars)
    is_open = bool((bins >= num_bars).any())
    slot = WIDTH / num_bars
    ticks_every = math.ceil(32 / slot)
    shapes = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>']
    for bar, size in enumerate(sizes.tolist()):
        left, extent = slot * bar, (base - top) * size / max(1, sizes.max())
        place = f'x="{left + 1:.1f}" y="{base - extent:.1f}" width="{slot - 2:.1f}" height="{extent:.1f}"'
        tick = f"{bar * step:g}{'+' if is_open and bar == num_bars - 1 else ''}"
        shapes += [
            f'<rect class="bar" {place}/>',
            _soft_text(_short(size) if size else "", left + slot / 2, base - extent - 5, "middle"),
            # From the right, so that the open end is among those that are told.
            _soft_text("" if (num_bars - 1 - bar) % ticks_every else tick, left + 1, base + 17, "start"),
        ]
    return _svg(height, f"Number of tracks by {what}", shapes)


def ranks(sizes: Float64) -> str:
    """A line of sizes (N,) from 1 up, falling, by their rank, on logarithmic scales."""
    height, base, top = 210, 186, 16
    shapes = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>']
    if len(sizes):
        widest, highest = max(math.log10(len(sizes)), 1.0), max(math.log10(sizes[0]), 1.0)
        # As many points as can be told apart.
        shown = np.unique(np.rint(np.geomspace(1, len(sizes), WIDTH)).astype(int))
        xs = np.log10(shown) / widest * (WIDTH - 40)
        ys = base - np.log10(sizes[shown - 1]) / highest * (base - top)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs.tolist(), ys.tolist(), strict=True))
        shapes.append(f'<polyline fill="none" stroke="var(--mark)" stroke-width="2" points="{points}"/>')
        shapes += [f'<circle class="bar" r="2" cx="{xs[n]:.1f}" cy="{ys[n]:.1f}"/>' for n in (0, len(xs) - 1)]
        for power in range(math.floor(widest) + 1):
            shapes.append(_soft_text(_short(10**power), power / widest * (WIDTH - 40), base + 17, "start"))
        shapes.append(_soft_text(_short(int(sizes[0])), 8, float(ys[0]) - 6, "start"))
        shapes.append(_soft_text(_short(int(sizes[-1])), float(xs[-1]) + 6, float(ys[-1]) - 5, "start"))
    return _svg(height, "Number of tracks of each class by rank", shapes)


def places(xy: Sequence[tuple[float, float]]) -> str:
    """A map of how many points lie where in the frame. `xy`: shares of its width and height, clipped to it."""
    columns, rows = CELLS
    cell = WIDTH / columns
    share = np.clip(np.array(xy, np.float64).reshape(-1, 2), 0, 1)
    column_row = np.minimum((share * CELLS).astype(int), (columns - 1, rows - 1))
    sizes = np.zeros(CELLS, int)
    np.add.at(sizes, tuple(column_row.T), 1)
    most = int(sizes.max())
    shapes = []
    for (column, row), size in np.ndenumerate(sizes):
        shapes += _cell(cell * column, cell * row, cell, size / max(1, most), f"{size:,}")
    top = cell * rows + 8
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0)
    for number, strength in enumerate(strengths):
        shapes += _cell(cell * number, top, cell, strength, "")
    shapes.append(_soft_text(f"0 to {most:,} {named(most, 'tracks')}", cell * len(strengths) + 6, top + 15, "start"))
    return _svg(top + cell, "Number of tracks in each part of the frame", shapes)


def _cell(left: float, top: float, side: float, strength: float, told: str) -> list[str]:
    """A square of the map: empty, and with colour on it by `strength` in [0, 1], `told` on hovering."""
    place = f'x="{left + 1:.1f}" y="{top + 1:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" rx="2"'
    empty = f'<rect class="hole" {place}/>'
    colour = f'<rect class="bar" {place} fill-opacity="{0.15 + 0.85 * strength:.2f}"><title>{told}</title></rect>'
    return [empty, colour] if strength > 0 else [empty]


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)


def _short(number: int) -> str:
    """A count in at most four letters: 999, 1.2k, 12k, 3.4M."""
    if number < 1000:
        return f"{number}"
    value, unit = (number / 1e3, "k") if number < 999_500 else (number / 1e6, "M")
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def _soft_text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text class="soft" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>' if text else ""


def _svg(height: float, what: str, shapes: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{what}">{"".join(shapes)}</svg>'
