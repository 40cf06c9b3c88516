"""Answers that hardly come: a time limit for each wait is not enough where every second brings one byte more."""

from __future__ import annotations

import time
from http.client import HTTPResponse, IncompleteRead
from typing import Any

PATIENCE_S = 120.0
MIN_BYTES = 64 << 10  # in PATIENCE_S; sites that throttle send a hundred times as much


class PacedBody:
    """The body of an answer, read as it comes. Raises TimeoutError if less than MIN_BYTES come in PATIENCE_S."""

    def __init__(self, body: HTTPResponse) -> None:
        self._body = body
        self._begin_s, self._num_bytes = time.monotonic(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def read(self, amt: int | None = None) -> bytes:
        """As HTTPResponse.read: what ends early is IncompleteRead only where all of it is asked for."""
        parts: list[bytes] = []
        missing = amt
        while missing is None or missing > 0:
            part = self._body.read1(-1 if missing is None else missing)
            if not part:
                break
            parts.append(part)
            missing = None if missing is None else missing - len(part)
            self._check_pace(len(part))
        whole = b"".join(parts)
        if amt is None and self._body.length:
            raise IncompleteRead(whole, self._body.length)
        return whole

    def _check_pace(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        now_s = time.monotonic()
        if now_s - self._begin_s < PATIENCE_S:
            return
        if self._num_bytes < MIN_BYTES:
            raise TimeoutError(f"only {self._num_bytes} bytes came in {now_s - self._begin_s:.0f} s")
        self._begin_s, self._num_bytes = now_s, 0
