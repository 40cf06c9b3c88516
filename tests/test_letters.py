"""Cells that text takes, and tables whose columns stand whatever the letters."""

from __future__ import annotations

from collections import Counter

import pytest

from trackverse import charts, letters, selection


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("", 0),
        ("dog", 3),
        ("犬", 2),
        ("강아지", 6),
        ("🐕 dog", 6),
        ("cafe\N{COMBINING ACUTE ACCENT}", 4),
        ("ｄｏｇ", 6),
        ("❤\N{VARIATION SELECTOR-16}", 1),
    ],
)
def test_width(text: str, cells: int) -> None:
    assert letters.width(text) == cells


@pytest.mark.parametrize(
    ("text", "cells", "short"),
    [
        ("dog", 3, "dog"),
        ("doggy", 4, "dog…"),
        ("犬犬", 4, "犬犬"),
        ("犬犬犬", 4, "犬…"),  # half a letter can't be shown
        ("cafe\N{COMBINING ACUTE ACCENT}s", 5, "cafe\N{COMBINING ACUTE ACCENT}s"),
    ],
)
def test_shortened(text: str, cells: int, short: str) -> None:
    assert letters.shortened(text, cells) == short
    assert letters.width(short) <= cells


def test_columns_of_classes_with_wide_names_stand_below_each_other() -> None:
    by_class = {
        name: {"tracks": 30, "chosen": 7} for name in ("dog", "犬", "🐕🐕🐕🐕", "cafe\N{COMBINING ACUTE ACCENT}")
    }
    lines = selection.as_text(by_class)
    assert {letters.width(line) for line in lines} == {len(lines[0])}
    assert [letters.width(line[: line.index("7")]) for line in lines[1:]] == [lines[0].index("chosen") + 5] * 4


def test_bars_begin_where_wide_names_end() -> None:
    narrow, wide = (charts.classes(Counter({name: 3})) for name in ("dogdog", "犬犬犬"))
    assert narrow.replace("dogdog", "") == wide.replace("犬犬犬", "")
