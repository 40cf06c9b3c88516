"""A small part of the campaign: every stage killed at some of its calls, of every kind, and run again."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import Bench, campaign, site, some_points, table
from material import STAGES
from warm import Warm

KILLS = {
    "download": 10, "cut": 8, "blur": 7, "blur in place": 5, "parse": 8, "track": 6, "curate": 8, "split": 8,
    "forget": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    folder = tmp_path_factory.mktemp("faults")
    with site(folder / "site") as address, Warm(folder / "logs") as warm:
        yield functools.cache(lambda name: Bench(warm, STAGES[name], folder / name, address))


@pytest.mark.parametrize("name", STAGES)
def test_killed_anywhere_the_same_command_ends_with_the_undisturbed_result(bench_of: object, name: str) -> None:
    rng = random.Random(name)
    bench = bench_of(name)  # type: ignore[operator]
    figures = campaign(bench, some_points(bench, KILLS[name], rng), num_random=1, rng=rng)
    print("\n".join(table({name: figures})))
    assert not figures.wrong
    assert figures.kills >= KILLS[name]
    assert len(figures.kinds) >= 3


def test_the_watch_sees_what_ffmpeg_writes_too(bench_of: object, tmp_path: Path) -> None:
    """The second video of the site comes as WebM, and another program puts it into an MP4."""
    bench = bench_of("download")  # type: ignore[operator]
    by_ffmpeg = [call for call in bench.calls if call.path.name.endswith(".whole.mp4") and call.kind == "write"]
    assert by_ffmpeg
