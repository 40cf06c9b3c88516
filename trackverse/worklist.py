"""The loop that every stage has: my share of the items, minus what is done, each item claimed while it is worked on.

todo = Worklist(clips, key=..., is_done=..., claim_path=..., failed_path=..., tally=tally)
for clip in todo:
    with todo.attempt(clip):
        ...
log.info(tally.summary())
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Generic, TypeVar

from trackverse import files, jsonl
from trackverse.errors import ItemError, RecordError, StopWorkError
from trackverse.layout import lock_path
from trackverse.wording import counted

log = logging.getLogger(__name__)
Item = TypeVar("Item")
FORGOTTEN = "forgotten on request"  # counted as dropped, see trackverse.forget


@dataclass
class Tally:
    """What became of the items, for the summary and the exit status."""

    done: int = 0
    already: int = 0
    elsewhere: int = 0
    planned: int = 0  # counted by --dry_run instead of being done
    failed: Counter[str] = field(default_factory=Counter)
    failed_before: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    kinds: dict[str, str] = field(default_factory=dict)  # the class of each reason, in stages that have classes
    shortened: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add another worker's counts."""
        self.done += other.done
        self.already += other.already
        self.elsewhere += other.elsewhere
        self.planned += other.planned
        self.failed.update(other.failed)
        self.failed_before.update(other.failed_before)
        self.dropped.update(other.dropped)
        self.shortened.update(other.shortened)
        self.stopped = self.stopped or other.stopped
        self.kinds.update(other.kinds)

    @property
    def exit_status(self) -> int:
        """0: all done; 1: some failed, now or in an earlier run, or the worker had to stop."""
        return 1 if self.failed or self.failed_before or self.stopped else 0

    def summary(self, what: str = "items") -> str:
        """One line: "118 videos done, 40 already there, 3 failed (2 truncated video, 1 no video stream)"."""
        parts = [f"{counted(self.planned, what)} to do" if self.planned else f"{counted(self.done, what)} done"]
        parts += [f"{self.already} already there"] * bool(self.already)
        parts += [f"{self.elsewhere} done by another process"] * bool(self.elsewhere)
        parts += [_by_reason("failed", self.failed)] * bool(self.failed)
        parts += [_by_reason("failed before", self.failed_before) + ": --retry_failed tries again"] * bool(
            self.failed_before
        )
        parts += [_by_reason("dropped", self.dropped)] * bool(self.dropped)
        parts += [_by_reason("shortened", self.shortened)] * bool(self.shortened)
        parts += [f"stopped early: {self.stopped}"] * bool(self.stopped)
        nothing = not (self.done or self.planned or self.failed or self.stopped)
        return ", ".join(parts) + (": nothing to do" if nothing and not self.elsewhere else "")

    def table(self) -> list[str]:
        """The failures by class and reason, a line each under a heading; empty in a stage that has no classes."""
        if not self.kinds:
            return []
        reasons = sorted(self.failed | self.failed_before, key=lambda reason: (self.kinds.get(reason, "-"), reason))
        rows = [("class", "reason", "now", "before"), ("done", "", str(self.done + self.elsewhere), str(self.already))]
        rows += [
            (self.kinds.get(reason, "-"), reason, str(self.failed[reason]), str(self.failed_before[reason]))
            for reason in reasons
        ]
        return [f"{kind:<12} {reason:<22} {now:>8} {before:>8}" for kind, reason, now, before in rows]


def _by_reason(what: str, reasons: Counter[str]) -> str:
    return f"{reasons.total()} {what} ({', '.join(counted(n, reason) for reason, n in reasons.most_common())})"


class Worklist(Generic[Item]):
    """Items to do, in order, each by one process at a time.

    `key` names an item in the list of failures; `tally` counts what becomes of the items; `is_done` looks at the disk;
    `claim_path` gives the lock file (neighbouring items with the same one are done under one claim, by one process, in
    order). Items that failed for good in an earlier run, or in `max_tries` runs in a row for what might have passed,
    are passed over unless `retry_failed` is "all", their reason or its class. An item that another process holds is
    looked at again at the end. `prepare` is called before an item is claimed: to load a model, say, when it is certain
    to be needed, and before anything is written. Items for which `is_forgotten` says so, before or under the claim, are
    counted as dropped: their video is to be forgotten.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        key: Callable[[Item], str],
        is_done: Callable[[Item], bool],
        claim_path: Callable[[Item], Path],
        failed_path: Path,
        tally: Tally,
        retry_failed: str | None = None,
        max_tries: int | None = None,
        dry_run: bool = False,
        prepare: Callable[[], object] = lambda: None,
        is_forgotten: Callable[[Item], bool] = lambda item: False,
    ) -> None:
        self._items, self._key, self._is_done, self._claim_path = items, key, is_done, claim_path
        self._failed_path, self._retry_failed, self._dry_run = failed_path, retry_failed, dry_run
        self._max_tries, self._prepare, self._is_forgotten = max_tries, prepare, is_forgotten
        self._failures = load_failures(failed_path)
        self.tally = tally

    def __iter__(self) -> Iterator[Item]:
        busy: dict[Path, list[Item]] = {}
        for claim_path, group in groupby(self._items, key=self._claim_path):
            pending = [item for item in group if self._is_pending(item)]
            if self._dry_run:
                self.tally.planned += len(pending)
            elif pending:
                self._prepare()
                with files.claim(claim_path) as claimed:
                    if not claimed:
                        busy.setdefault(claim_path, []).extend(pending)
                        continue
                    yield from self._under_claim(pending, {})
            else:
                files.clear_claim(claim_path)  # of one that was killed when it had only this left to do
            if self.tally.stopped:
                return
        while busy:
            for claim_path in list(busy):
                with files.claim(claim_path) as claimed:
                    if claimed:
                        yield from self._under_claim(busy.pop(claim_path), load_failures(self._failed_path))
                if self.tally.stopped:
                    return
            if busy:
                time.sleep(files.MAX_LOOK_S)
        if not self._dry_run:
            self._mend_list()

    def _is_pending(self, item: Item) -> bool:
        try:
            if self._is_forgotten(item):
                self.tally.dropped[FORGOTTEN] += 1
                return False
            if self._is_done(item):
                self.tally.already += 1
                return False
        except ItemError as error:  # not noted: it is seen again at every look, until somebody mends it
            self.tally.failed[error.reason] += 1
            log.warning("%s: %s", self._key(item), error)
            return False
        failure = self._failures.get(self._key(item))
        if failure and not self._is_due(failure):
            self._count(self.tally.failed_before, failure)
            return False
        return True

    def _is_due(self, failure: Failure) -> bool:
        if self._retry_failed is not None and self._retry_failed in ("all", failure.reason, failure.kind):
            return True
        return failure.retry and (self._max_tries is None or failure.tries < self._max_tries)

    def _count(self, counter: Counter[str], failure: Failure | ItemError) -> None:
        counter[failure.reason] += 1
        if failure.kind is not None:
            self.tally.kinds[failure.reason] = failure.kind

    def _under_claim(self, pending: list[Item], failures: dict[str, Failure]) -> Iterator[Item]:
        """What is still to do: another process may have done, or failed, items between our look and our claim."""
        for item in pending:
            failure = failures.get(self._key(item))
            if self._is_forgotten(item):
                self.tally.dropped[FORGOTTEN] += 1
            elif self._is_done(item):
                self.tally.elsewhere += 1
            elif failure and failure != self._failures.get(self._key(item)):
                self._count(self.tally.failed, failure)
            else:
                yield item
            if self.tally.stopped:
                return

    @contextlib.contextmanager
    def attempt(self, item: Item) -> Iterator[None]:
        """Do one item: an expected error is counted and noted, StopWorkError ends the loop, a bug goes on up."""
        key = self._key(item)
        try:
            yield
        except StopWorkError as error:
            self.tally.stopped = str(error)
            log.error("%s: %s", key, error)
            for unmarked in error.unmark:
                self._note(unmarked, self._failures.get(unmarked))
        except ItemError as error:
            self._fail(key, error)
        except (IsADirectoryError, NotADirectoryError) as error:  # likewise: other items have other paths
            self._fail(key, ItemError(f"{error.filename}: {error.strerror}", reason="something in the way"))
        except MemoryError as error:  # the item's doing: the next one may well fit
            self._fail(key, ItemError(f"memory ran out ({error})", reason="out of memory", retry=True))
        else:
            self.tally.done += 1
            if key in self._failures:
                self._note(key, None)

    def _mend_list(self) -> None:
        """Undo what a worker that was killed while it noted a failure has left."""
        if os.path.lexists(lock_path(self._failed_path)):
            with files.claim(lock_path(self._failed_path), wait=True):
                files.cut_torn_line(self._failed_path)

    def _fail(self, key: str, error: ItemError) -> None:
        self._count(self.tally.failed, error)
        log.warning("%s: %s", key, error)
        before = self._failures.get(key)
        tries = 1 + (before.tries if before and before.retry and error.retry else 0)
        self._note(key, Failure(error.reason, str(error), error.retry, error.kind, tries))

    def _note(self, key: str, failure: Failure | None) -> None:
        entry: dict[str, object] = {"key": key, "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        entry |= failure.to_json() if failure else {"reason": None}
        with files.claim(lock_path(self._failed_path), wait=True):
            files.append_line(self._failed_path, jsonl.dump(entry))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item failed; `retry` says that the next run tries it again unasked.

    `kind`: the class of the reason, in stages that have classes. `tries`: how many runs in a row it failed in for what
    might have passed.
    """

    reason: str
    message: str
    retry: bool
    kind: str | None = None
    tries: int = 1

    def to_json(self) -> dict[str, object]:
        """Its part of the line in the list of failures; without a class and a first try, which go without saying."""
        return {key: value for key, value in asdict(self).items() if (key, value) not in (("kind", None), ("tries", 1))}

    @classmethod
    def from_json(cls, entry: dict[str, object]) -> Failure:
        """Raises KeyError, TypeError or ValueError if the entry is not one. Reasons and classes, of which there are
        few, are shared between failures, of which there may be a million."""
        kind = entry.get("kind")
        return cls(
            sys.intern(str(entry["reason"])),
            str(entry["message"]),
            bool(entry["retry"]),
            None if kind is None else sys.intern(str(kind)),
            int(str(entry.get("tries", 1))),
        )


def load_failures(path: Path) -> dict[str, Failure]:
    """Items that stand as failed in a stage's list, by key. A torn line (of a killed writer) is passed over."""
    failures: dict[str, Failure] = {}
    if not path.exists():
        return failures
    for number, line in jsonl.read_lines(path):
        try:
            entry = jsonl.parse(line, f"{path}:{number}")
            if entry["reason"] is None:
                failures.pop(entry["key"], None)
            else:
                failures[entry["key"]] = Failure.from_json(entry)
        except (RecordError, KeyError, TypeError, ValueError) as error:
            log.warning("%s:%d: passed over, not a failure entry (%s)", path, number, error)
    return failures
