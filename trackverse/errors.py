"""Errors that a user can cause or meet. Each carries one line that names the file and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self


class TrackverseError(Exception):
    """Base of all errors that end in one clear line, never in a traceback."""


class SetupError(TrackverseError):
    """Wrong usage or an unusable set-up: the command ends with status 2 and nothing is marked as failed."""


class StopWorkError(TrackverseError):
    """This worker must stop asking (rate limit, bot check): status 1, and the item at hand is not marked.

    `unmark`: keys of earlier items whose failures in this run turn out to be of the same making.
    """

    def __init__(self, message: str, *, unmark: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unmark = tuple(unmark)


class WorkerDiedError(TrackverseError):
    """A worker process ended before its work did: killed, most likely for want of memory."""


class ItemError(TrackverseError):
    """One item can't be done.

    `reason` is the short text that failures are counted by ("truncated video"); `str(error)` is the whole line.
    `retry` says that the next run tries the item again unasked; otherwise only `--retry_failed` does. `kind`: the class
    of reasons that this one belongs to, in stages that have classes.
    """

    def __init__(self, message: str, *, reason: str, retry: bool = False, kind: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry = retry
        self.kind = kind

    def bare(self) -> Self:
        """Without the traces of where it came about, which would keep all that was read there in memory."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def __reduce__(self) -> tuple[object, ...]:
        """Errors come back from worker processes, and pickle knows nothing of keyword arguments."""
        return _rebuild, (type(self), str(self), self.reason, self.retry, self.kind)


class VideoError(ItemError):
    """A video that can't be read or written."""


class RecordError(ItemError):
    """A line of metadata, of tracks or of progress that doesn't hold what its format says."""


def _rebuild(error_type: type[ItemError], message: str, reason: str, retry: bool, kind: str | None) -> ItemError:
    return error_type(message, reason=reason, retry=retry, kind=kind)
