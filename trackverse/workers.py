"""Worker processes side by side, of which one that dies is noticed.

A `multiprocessing.Pool` waits for ever for the result of a worker that was killed (out of memory, say).
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from trackverse.errors import WorkerDiedError

Item = TypeVar("Item")
Result = TypeVar("Result")
# Spawned, not forked: onnxruntime and OpenCV keep threads that a fork would break.
CONTEXT = multiprocessing.get_context("spawn")
PR_SET_PDEATHSIG = 1
SECONDS_TO_END = 5.0  # for a worker that is told to end


def run_each(
    function: Callable[..., Result],
    argument_lists: Sequence[tuple[Any, ...]],
    set_up: Callable[[], object] | None = None,
) -> Iterator[Result | WorkerDiedError]:
    """`function(*arguments)` of each list in a process of its own, all at once; the results in their order.

    A worker that dies gives a WorkerDiedError in its place, and the others go on; an exception in one ends all, and is
    raised here. Whatever ends the loop, a kill too, no worker is left behind. `set_up` is called first in every worker.
    """
    workers = []
    try:
        for arguments in argument_lists:
            receiver, sender = CONTEXT.Pipe(duplex=False)
            worker = CONTEXT.Process(target=_answer, args=(sender, set_up, function, arguments), daemon=True)
            workers.append((worker, receiver))
            worker.start()
            sender.close()  # so that the worker's is the only one, and its death ends what can be received
        for worker, receiver in workers:
            try:
                answer, error, where = receiver.recv()
            except EOFError:
                worker.join()
                yield WorkerDiedError(_how_it_ended(worker.exitcode))
                continue
            if error is not None:
                error.add_note(where)
                raise error
            yield answer
        for worker, _ in workers:
            worker.join(SECONDS_TO_END)  # told to end while it is at that by itself, it would complain
    finally:
        _end([worker for worker, _ in workers if worker.pid is not None])


def _answer(
    sender: Connection, set_up: Callable[[], object] | None, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """In the worker: send the result, or the exception and where it came up."""
    # The terminal tells all processes to end, and the one that waits says so; or that one tells them, for an error.
    with contextlib.suppress(KeyboardInterrupt):
        try:
            if set_up:
                set_up()
            _end_with_parent()
            sender.send((function(*arguments), None, None))
        except Exception as error:  # noqa: BLE001  goes on in the process that waits
            sender.send((None, error, traceback.format_exc()))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway; told to, it would complain


def _end_with_parent() -> None:
    """Be told to end, by SIGTERM, when the process that waits is killed: nobody would have the results. Linux only."""
    parent = multiprocessing.parent_process()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent.pid:  # it was before
        os.kill(os.getpid(), signal.SIGTERM)


def _end(workers: Sequence[Any]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(SECONDS_TO_END)
        worker.kill()
        worker.join()


def map_each(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """`function` of each of many items, in their order, by `num_workers` processes. Raises WorkerDiedError."""
    pool = ProcessPoolExecutor(num_workers, mp_context=CONTEXT)
    try:
        yield from pool.map(function, items, chunksize=8)
    except BrokenProcessPool as error:
        raise WorkerDiedError(_how_it_ended(None)) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _how_it_ended(exit_code: int | None) -> str:
    """`exit_code` is negative after a signal."""
    how = "was killed" if exit_code is None else f"ended with status {exit_code}"
    if exit_code is not None and exit_code < 0:
        how = f"was killed by {signal.Signals(-exit_code).name}"
    return f"a worker process {how} (out of memory?); what is finished is kept, the same command goes on from here"
