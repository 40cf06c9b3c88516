"""Work ahead in a thread: decoding goes on while the detector computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """What the thread says last: that it is through, or what stopped it."""

    error: Exception | None


def prefetch(items: Generator[T, None, None], depth: int = 2) -> Generator[T, None, None]:
    """The items, made by a thread that is up to `depth` of them ahead: memory holds no more.

    An error in the thread is raised here, after the items that came before it. When the caller stops early and closes
    this generator, the thread ends with the item that it is at.
    """
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    is_unwanted = threading.Event()

    def make() -> None:
        error: Exception | None = None
        try:
            for item in items:
                ready.put(item)
                if is_unwanted.is_set():
                    break
        except Exception as caught:  # noqa: BLE001  raised again where it can be handled
            error = caught
        finally:
            items.close()
            ready.put(_End(error))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
    finally:
        is_unwanted.set()
        while thread.is_alive():  # it may be waiting for room: make some until it is through
            _empty(ready)
            thread.join(timeout=0.01)
    if item.error is not None:
        raise item.error


def _empty(ready: queue.Queue[T | _End]) -> None:
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            return
