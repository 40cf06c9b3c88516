"""Numbers and what they count."""

from __future__ import annotations

import pytest

from trackverse.wording import counted


@pytest.mark.parametrize(
    ("number", "what", "said"),
    [
        (0, "tracks", "0 tracks"),
        (1, "tracks", "1 track"),
        (2, "tracks", "2 tracks"),
        (1, "classes", "1 class"),
        (1, "track files", "1 track file"),
        (1, "tracks seen in under 5 frames", "1 track seen in under 5 frames"),
        (1, "groups of near-duplicate videos", "1 group of near-duplicate videos"),
        (1, "page", "1 page"),
        (1, "elements", "1 element"),
        (0, "subsets", "0 subsets"),
        (1, "subsets", "1 subset"),
        (1, "no clips listed", "1 no clips listed"),
        (2, "truncated video", "2 truncated video"),
        (1, "track file cut short", "1 track file cut short"),
    ],
)
def test_one_is_not_many(number: int, what: str, said: str) -> None:
    assert counted(number, what) == said
