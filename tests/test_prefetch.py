"""Working ahead: the same items, bounded, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

import pytest

from trackverse.prefetch import prefetch


class Source:
    """Numbers, and how many were made so far; optionally an error after them."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.num_made = 0
        self.is_closed = False

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                self.num_made += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.is_closed = True


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_the_same_items_in_the_same_order(count: int) -> None:
    source = Source(count)
    assert list(prefetch(source.items())) == list(range(count))
    assert source.is_closed
    assert threads() == []


def test_no_more_than_the_depth_is_made_ahead() -> None:
    source = Source(100)
    with closing(prefetch(source.items(), depth=3)) as items:
        next(items)
        time.sleep(0.2)
        assert source.num_made <= 1 + 3 + 1  # taken, waiting, and the one that waits for room


@pytest.mark.parametrize("count", [0, 1, 5])
def test_an_error_comes_after_the_items_before_it(count: int) -> None:
    source = Source(count, ValueError("torn"))
    items = prefetch(source.items())
    assert [next(items) for _ in range(count)] == list(range(count))
    with pytest.raises(ValueError, match="torn"):
        next(items)
    assert threads() == []


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_stopping_early_ends_the_thread_and_closes_the_source(taken: int) -> None:
    source = Source(1000)
    with closing(prefetch(source.items())) as items:
        for _ in range(taken):
            next(items)
    assert threads() == []
    assert source.num_made < 20
    assert source.is_closed or not taken  # a generator that never began has nothing to close
