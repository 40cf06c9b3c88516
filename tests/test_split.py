"""Splitting by video: shares, near-duplicates on one side, the same for a seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_tracks import LABELS, SETTINGS, VIDEO_HW, clip, make_track

from trackverse import split, subset
from trackverse.layout import TracksLayout
from trackverse.store import TrackStore


def fill(folder: Path) -> None:
    """40 videos of four tracks; `copy3` is video 3 again, after a minute of something else, and `cut3` half of it and
    other tracks.
    """
    store = TrackStore(TracksLayout(folder), SETTINGS)

    def tracks(seed: int, late_s: float) -> list:  # type: ignore[type-arg]
        return [
            make_track(100 * seed + n, num_frames=50 + 37 * n, label_id=(seed + n) % 14, start_s=2.3 * n + late_s)
            for n in range(4)
        ]

    for number in range(40):
        store.commit(clip(f"v{number:02}", 0), tracks(number, number * 0.31), VIDEO_HW, LABELS)
    store.commit(clip("copy3", 0), tracks(3, 3 * 0.31 + 61.2), VIDEO_HW, LABELS)
    store.commit(clip("cut3", 0), tracks(3, 3 * 0.31)[:2] + tracks(77, 5.0)[:2], VIDEO_HW, LABELS)


def test_a_split(tmp_path: Path) -> None:
    fill(tmp_path / "tracks")
    argv = ["--tracks_dir", str(tmp_path / "tracks"), "--shares", "0.5", "0.25", "0.25"]
    assert split.main([*argv, "--output_dir", str(tmp_path / "a")]) == 0
    lists = {name: (tmp_path / "a" / f"{name}.txt").read_text().split() for name in split.NAMES}
    every = [video_id for one in lists.values() for video_id in one]
    assert len(every) == len(set(every)) == 42
    told = json.loads((tmp_path / "a" / "split.json").read_text())
    assert told["near_duplicates"] == [["copy3", "cut3", "v03"]]
    assert any({"v03", "copy3", "cut3"} <= set(one) for one in lists.values())
    assert [told[name]["tracks"] for name in split.NAMES] == [4 * len(lists[name]) for name in split.NAMES]
    assert abs(told["train"]["tracks"] - 84) <= 12
    assert subset.video_ids_in(tmp_path / "a" / "val.txt") == frozenset(lists["val"])

    assert split.main([*argv, "--output_dir", str(tmp_path / "b"), "--num_workers", "2"]) == 0
    assert (tmp_path / "b" / "test.txt").read_bytes() == (tmp_path / "a" / "test.txt").read_bytes()
    assert split.main([*argv, "--output_dir", str(tmp_path / "c"), "--seed", "1", "--dry_run"]) == 0
    assert not (tmp_path / "c").exists()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, 3), st.data())
def test_groups_stay_together_and_shares_are_kept(sizes: list[int], seed: int, data: st.DataObject) -> None:
    number = len(sizes)
    groups = np.unique(
        data.draw(st.lists(st.integers(0, number), min_size=number, max_size=number)), return_inverse=True
    )[1]
    shares = [0.8, 0.1, 0.1]
    found = split.assign(groups, np.array(sizes), shares, np.random.default_rng(seed))
    for group in np.unique(groups):
        assert len(set(found[groups == group].tolist())) == 1
    largest = np.bincount(groups, sizes).max()
    for n, share in enumerate(shares):
        assert np.array(sizes)[found == n].sum() <= share * sum(sizes) + largest
