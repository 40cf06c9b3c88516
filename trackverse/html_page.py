"""The page that reports and statistics are shown on, assets/report.html, filled in."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Template

from trackverse.layout import ASSETS_DIR

TEMPLATE_PATH = ASSETS_DIR / "report.html"


def filled(
    *,
    title: str,
    numbers: Mapping[str, str],
    notes: Sequence[str],
    figures: Sequence[str],
    shown: str,
    cards: Sequence[str] = (),
) -> str:
    """The page as HTML, complete in itself. `notes`, `figures` and `cards` are HTML; all else is plain text: the title,
    the `numbers` by what they are of, and what is said of what is `shown`.
    """
    terms = [f"<div><dt>{html.escape(what)}</dt><dd>{html.escape(value)}</dd></div>" for what, value in numbers.items()]
    items = "".join(f"<li>{note}</li>" for note in notes)
    return Template(TEMPLATE_PATH.read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        numbers="".join(terms),
        notes=f'<ul class="notes">{items}</ul>' if items else "",
        charts="\n".join(figures),
        shown=html.escape(shown),
        cards="\n".join(cards),
    )


def figure(heading: str, explanation: str, svg: str) -> str:
    """A chart under a heading and an explanation, both plain text."""
    caption = f"{html.escape(heading)}<small>{html.escape(explanation)}</small>"
    return f'<figure class="panel"><figcaption>{caption}</figcaption>{svg}</figure>'
