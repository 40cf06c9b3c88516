"""How a stage script runs: parse, submit to Slurm if asked, otherwise work in one or more processes and sum up."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Protocol, TypeVar

from trackverse import cli, layout, metafile, slurm, slurm_queue, slurm_status, workers
from trackverse.errors import RecordError, SetupError, WorkerDiedError
from trackverse.types import SourceVideo
from trackverse.worklist import Tally, load_failures

package_log = logging.getLogger("trackverse")
log = package_log.getChild("stage")
Item = TypeVar("Item")
MAX_SAID = 10  # bad entries of metafiles, a worker: many more are of the same kind


class Work(Protocol):
    """The visible loop of a stage: does this worker's share of `args`' items and says what became of them."""

    def __call__(self, args: Namespace, rank: int) -> Tally: ...


def start(
    parser: cli.Parser,
    work: Work,
    *,
    what: str,
    output_dir: Callable[[Namespace], Path],
    parts: str | None = None,
    spread: bool = True,
    check: Callable[[Namespace], object] | None = None,
    finish: Callable[[Namespace], None] | None = None,
    is_finished: Callable[[Namespace], bool] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a stage script; the exit status.

    `what` the items are called in the summary; `output_dir`: where the stage writes, by which a double submission is
    known; `parts`: the argument whose values (metafiles), with the chunks, become the elements of a Slurm array;
    `spread`: run `work` in `--num_workers` processes, otherwise once; `check`: raises SetupError before anything starts
    or is submitted; `finish`: what to do once after the workers, but not on a dry run; `is_finished`: whether that is
    done.
    """
    cli.add_slurm(parser)
    args = parser.parse_args(argv)
    cli.set_up_logging(args.verbose)

    def main() -> int:
        chunk_id, num_chunks = getattr(args, "chunk_id", None), getattr(args, "num_chunks", 1)
        if chunk_id is not None and not 0 <= chunk_id < num_chunks:
            raise SetupError(f"--chunk_id {chunk_id}: the ids are 0 to {num_chunks - 1}, of --num_chunks {num_chunks}")
        if check:
            check(args)
        script = Path(sys.argv[0]).resolve()
        if args.status:
            status = _show_status(work, parser, list(_array_elements(args, parts)), script, output_dir(args))
            if is_finished and not is_finished(args):
                print("not yet written: what comes of all parts together; the last job does it, or this command again")
            return status
        if args.slurm:
            settings = slurm.Settings(**cli.slurm_settings(args))
            elements = {
                _known_as(parser, element): cli.to_argv(parser, element) for _, element in _array_elements(args, parts)
            }
            print(slurm.submit(script, elements, output_dir(args), settings, dry_run=args.dry_run))
            return 0
        _check_retry(args, output_dir)
        tally = _run_workers(work, args) if spread else work(args, 0)
        if finish and not args.dry_run:
            finish(args)
        for line in tally.table():
            log.info("%s", line)
        log.info("%s", tally.summary(what))
        return tally.exit_status

    return cli.run(main)


def _array_elements(args: Namespace, parts: str | None) -> Iterator[tuple[str, Namespace]]:
    """What each element of the Slurm array is called, and its arguments: one part and one chunk each."""
    values = list(getattr(args, parts)) if parts else [None]
    names = [path.name for path in values if path]
    chunks = range(args.num_chunks) if getattr(args, "chunk_id", 0) is None else [None]
    for value, chunk in product(values, chunks):
        element = Namespace(**vars(args))
        if getattr(args, "workdir", args) is None and cli.WORKDIR_VARIABLE in os.environ:
            element.workdir = cli.workdir(args)  # not every site hands the environment on to its jobs
        label = []
        if parts and value:
            setattr(element, parts, [value])
            label.append(value.name if names.count(value.name) == 1 else str(value))
        if chunk is not None and args.num_chunks > 1:
            element.chunk_id = chunk
            label.append(f"chunk {chunk}")
        yield ", ".join(label) or "all", element


def _known_as(parser: cli.Parser, element: Namespace) -> str:
    """The command line by which an element is known in the queue: with more processes, it is still the same work."""
    return shlex.join(cli.to_argv(parser, element, without=("num_workers", "verbose")))


def _show_status(
    work: Work, parser: cli.Parser, elements: list[tuple[str, Namespace]], script: Path, stage_dir: Path
) -> int:
    """Print how far each element is; status 1 if one has failed. Raises SetupError if the queue can't be asked."""
    package_log.setLevel(logging.ERROR)  # what is wrong with an item is in the jobs' logs
    parts = []
    for label, element in elements:
        command = _known_as(parser, element)
        element.dry_run, element.num_workers = True, 1
        parts.append(slurm_status.Part(label, command, work(element, 0)))
    name = slurm_queue.job_name(script, stage_dir)
    noted = slurm_queue.load_note(layout.submitted_path(stage_dir)).get(name, {})
    try:
        listed = slurm_queue.listed_jobs(name)
    except SetupError:
        print("\n".join(slurm_status.table(parts, noted, None, stage_dir)[0]))
        raise
    lines, any_failed = slurm_status.table(parts, noted, listed, stage_dir)
    print("\n".join(lines))
    return 1 if any_failed else 0


def _check_retry(args: Namespace, output_dir: Callable[[Namespace], Path]) -> None:
    """Say what there is if no failure is of the class or reason that is to be tried again: it may be misspelt."""
    wanted = getattr(args, "retry_failed", None)
    if wanted not in (None, "all"):
        failures = load_failures(layout.failed_path(output_dir(args))).values()
        there = {failure.reason for failure in failures} | {failure.kind for failure in failures if failure.kind}
        if wanted not in there:
            log.warning(
                "--retry_failed %s: there is none, but %s", wanted, ", ".join(sorted(there)) or "no failure at all"
            )


def _run_workers(work: Work, args: Namespace) -> Tally:
    if args.num_workers == 1 or args.dry_run:
        args.num_workers = 1  # so that the one worker's share is everything
        return work(args, 0)
    shares = [(args, rank) for rank in range(args.num_workers)]
    tally = Tally()
    for result in workers.run_each(work, shares, partial(cli.set_up_worker, args.verbose)):
        tally.add(Tally(stopped=str(result)) if isinstance(result, WorkerDiedError) else result)
    return tally


def share(items: Iterable[Item], args: Namespace, rank: int) -> Iterator[Item]:
    """This worker's part of the items: of this command's chunk, up to `--limit`."""
    chunk_id, num_chunks = _chunk(args)
    return _of_worker(islice(islice(items, chunk_id, None, num_chunks), args.limit), args, rank)


def _chunk(args: Namespace) -> tuple[int, int]:
    """Which chunk of how many; all items are one chunk if none is asked for."""
    return (0, 1) if args.chunk_id is None else (args.chunk_id, args.num_chunks)


def _of_worker(items: Iterable[Item], args: Namespace, rank: int) -> Iterator[Item]:
    return islice(items, rank, None, args.num_workers)


class BadEntries:
    """Counts in a `tally` what is wrong with the entries of a worker's metafiles, and says it of the first few."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._num = tally, 0

    def add(self, error: RecordError) -> None:
        """One of them, or one that stands for all of its file."""
        self._tally.failed[error.reason] += 1
        self._num += 1
        log.log(logging.WARNING if self._num <= MAX_SAID else logging.DEBUG, "%s", error)

    def sum_up(self) -> None:
        """Say how many were only counted."""
        if self._num > MAX_SAID and not log.isEnabledFor(logging.DEBUG):
            log.warning("%d more entries like these; --verbose says which", self._num - MAX_SAID)


def videos(args: Namespace, metafiles: Sequence[Path], rank: int, tally: Tally) -> Iterator[SourceVideo]:
    """This worker's videos of the metafiles: of this command's chunk, up to `--limit`. Bad lines are counted once."""
    bad = BadEntries(tally)
    yield from _videos(args, metafiles, rank, bad.add)
    bad.sum_up()


def _videos(
    args: Namespace, metafiles: Sequence[Path], rank: int, on_bad_line: metafile.OnBadLine
) -> Iterator[SourceVideo]:
    chunk_id, num_chunks = _chunk(args)
    if args.limit is None:  # each worker reads a chunk of the chunk
        chunk_id, num_chunks = chunk_id + rank * num_chunks, num_chunks * args.num_workers
        return metafile.read_metafiles(
            metafiles, on_bad_line, chunk_id=chunk_id, num_chunks=num_chunks, tell_cut_short=rank == 0
        )
    tell = on_bad_line if rank == 0 else lambda error: None
    listed = metafile.read_metafiles(metafiles, tell, chunk_id=chunk_id, num_chunks=num_chunks, limit=args.limit)
    return _of_worker(listed, args, rank)
