"""How much room text takes where a letter has a cell or two: terminals, and drawings that follow their rule."""

from __future__ import annotations

import unicodedata


def width(text: str) -> int:
    """Cells of a text: two for the wide letters of East Asia and for emoji, none for marks upon other letters."""
    return sum(_cells(letter) for letter in text)


def padded(text: str, cells: int) -> str:
    """The text and as many blanks as fill so many cells."""
    return text + " " * (cells - width(text))


def shortened(text: str, cells: int) -> str:
    """The text if it fits into so many cells, else its beginning and a sign that there is more."""
    if width(text) <= cells:
        return text
    room, kept = cells - 1, ""
    for letter in text:
        room -= _cells(letter)
        if room < 0:
            break
        kept += letter
    return f"{kept}…"


def _cells(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
