"""The boxes of many tracks in one table."""

from __future__ import annotations

import numpy as np

from trackverse.rows import Rows
from trackverse.types import Track


def seen(*times_s: float) -> Track:
    num = len(times_s)
    xyxy = np.outer(times_s, [1, 1, 2, 2]).astype(np.float32)
    return Track(np.array(times_s), xyxy, np.ones(num, np.float32), np.ones((num, 1), np.float32), np.zeros(0))


def test_tracks_lie_one_after_the_other() -> None:
    rows = Rows.of([seen(0.5, 1.0), seen(0.25), seen(3.0, 4.0, 5.0)])
    assert rows.times_s.tolist() == [0.5, 1.0, 0.25, 3.0, 4.0, 5.0]
    assert rows.xyxy[:, 2].tolist() == [2 * time_s for time_s in rows.times_s]
    assert (rows.first.tolist(), rows.stop.tolist(), rows.lengths.tolist()) == ([0, 2, 3], [2, 3, 6], [2, 1, 3])
    assert rows.owner.tolist() == [0, 0, 1, 2, 2, 2]


def test_the_rows_of_a_chain_are_those_of_all_its_tracks() -> None:
    rows = Rows.of_chains([[seen(0.5, 1.0), seen(1.5)], [seen(0.25)], [seen(3.0), seen(4.0, 5.0), seen(6.0)]])
    assert rows.times_s.tolist() == [0.5, 1.0, 1.5, 0.25, 3.0, 4.0, 5.0, 6.0]
    assert (rows.first.tolist(), rows.stop.tolist()) == ([0, 3, 4], [3, 4, 8])
    assert rows.owner.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
