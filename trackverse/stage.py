"""How a stage script runs: parse, submit to Slurm if asked, otherwise work in one or more processes and sum up."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Protocol, TypeVar

from trackverse import cli, metafile, slurm, workers
from trackverse.errors import RecordError, SetupError, WorkerDiedError
from trackverse.types import SourceVideo
from trackverse.worklist import Tally

log = logging.getLogger("trackverse.stage")
Item = TypeVar("Item")


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
    argv: Sequence[str] | None = None,
) -> int:
    """Run a stage script; the exit status.

    `what` the items are called in the summary; `output_dir`: where the stage writes, by which a double submission is
    known; `parts`: the argument whose values (metafiles), with the chunks, become the elements of a Slurm array;
    `spread`: run `work` in `--num_workers` processes, otherwise once; `check`: raises SetupError before anything starts
    or is submitted; `finish`: what to do once after the workers, but not on a dry run.
    """
    cli.add_slurm(parser)
    args = parser.parse_args(argv)
    cli.set_up_logging(args.verbose)

    def main() -> int:
        chunk_id, num_chunks = getattr(args, "chunk_id", None), getattr(args, "num_chunks", 1)
        if chunk_id is not None and not 0 <= chunk_id < num_chunks:
            raise SetupError(f"--chunk_id {chunk_id}: of {num_chunks} chunks, the ids are 0 to {num_chunks - 1}")
        if check:
            check(args)
        if args.slurm:
            settings = slurm.Settings(**cli.slurm_settings(args))
            elements = list(_array_elements(parser, args, parts))
            print(slurm.submit(Path(sys.argv[0]).resolve(), elements, output_dir(args), settings, dry_run=args.dry_run))
            return 0
        tally = _run_workers(work, args) if spread else work(args, 0)
        if finish and not args.dry_run:
            finish(args)
        for line in tally.table():
            log.info("%s", line)
        log.info("%s", tally.summary(what))
        return tally.exit_status

    return cli.run(main)


def _array_elements(parser: cli.Parser, args: Namespace, parts: str | None) -> Iterator[list[str]]:
    """The command line of each element of the Slurm array: one part and one chunk each."""
    values = [[str(value)] for value in getattr(args, parts)] if parts else [None]
    chunks = range(args.num_chunks) if getattr(args, "chunk_id", 0) is None else [None]
    for value, chunk in product(values, chunks):
        element = Namespace(**vars(args))
        if parts and value:
            setattr(element, parts, value)
        if chunk is not None and args.num_chunks > 1:
            element.chunk_id = chunk
        yield cli.to_argv(parser, element)


def _run_workers(work: Work, args: Namespace) -> Tally:
    if args.num_workers == 1 or args.dry_run:
        args.num_workers = 1  # so that the one worker's share is everything
        return work(args, 0)
    shares = [(args, rank) for rank in range(args.num_workers)]
    tally = Tally()
    for result in workers.run_each(work, shares, partial(cli.set_up_logging, args.verbose)):
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


def videos(args: Namespace, metafiles: Sequence[Path], rank: int, tally: Tally) -> Iterator[SourceVideo]:
    """This worker's videos of the metafiles: of this command's chunk, up to `--limit`. Bad lines are counted once."""

    def on_bad_line(error: RecordError) -> None:
        if rank == 0:
            tally.failed[error.reason] += 1
            log.warning("%s", error)

    chunk_id, num_chunks = _chunk(args)
    listed = metafile.read_metafiles(metafiles, on_bad_line, chunk_id=chunk_id, num_chunks=num_chunks, limit=args.limit)
    return _of_worker(listed, args, rank)
