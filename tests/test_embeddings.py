"""Stored embeddings are gathered in the order that is asked for, and those of different embedders never mix."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, make_track

from trackverse.embeddings import StoredEmbeddings
from trackverse.errors import SetupError
from trackverse.index_refresh import refresh
from trackverse.layout import TracksLayout, progress_beside
from trackverse.store import TrackStore
from trackverse.track_table import make_table

COLOURS = {"embedding": "hsv_stripes"}
OWN = {"embedding": "detector", "detector": "detic sha256:0123"}


def stored(folder: Path, one: dict[str, Any], other: dict[str, Any]) -> StoredEmbeddings:
    """Of two videos with a track each, parsed with these settings."""
    layout = TracksLayout(folder / "tracks")
    for number, settings in enumerate((one, other)):
        video_id = f"video{number}"
        TrackStore(layout, SETTINGS | settings).commit(clip(video_id, 0), [make_track(number)], VIDEO_HW, LABELS)
        if not settings:  # as the published pipeline leaves it
            progress_beside(layout.meta_path(video_id)).write_text('{"segments_complete": [[0, 10]], "num_tracks": 1}')
    index = refresh(folder / "index.parquet", layout.meta_paths())
    return StoredEmbeddings(index, layout.meta_paths(), make_table(index, dropped=Counter()), failed=Counter())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(COLOURS, COLOURS, id="the same"),
        pytest.param(COLOURS, COLOURS | {"detector": "detic sha256:0123"}, id="the same of two detectors' boxes"),
        pytest.param(OWN, OWN, id="one detector's own"),
        pytest.param(COLOURS, {}, id="one that doesn't say"),
        pytest.param({}, OWN, id="the first doesn't say"),
    ],
)
def test_what_can_be_compared_is_gathered(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    rows = stored(tmp_path, one, other)(np.array([1, 0, 1]))
    wanted = np.array([make_track(number).embedding for number in (1, 0, 1)])
    np.testing.assert_allclose(rows, wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        pytest.param(
            COLOURS, {"embedding": "other"}, "video1-embeddings.npy: made by other, .* by hsv_stripes", id="two"
        ),
        pytest.param(OWN, OWN | {"detector": "detic sha256:4567"}, "detic sha256:4567, .* detic sha256:0123", id="own"),
    ],
)
def test_other_embedders_of_as_many_numbers_are_refused(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], told: str
) -> None:
    embeddings = stored(tmp_path, one, other)
    for _ in range(2):  # not only the first time
        with pytest.raises(SetupError, match=told):
            embeddings(np.array([0, 1]))
