"""The command line that all stages share: one spelling rule, one set of common flags, one way to log and to fail."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from trackverse import files
from trackverse.errors import RecordError, SetupError, TrackverseError
from trackverse.layout import check_name

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Number = TypeVar("Number", int, float)
ALIASES = {"--n_workers": "--num_workers", "--jobs": "--num_workers"}
WORKDIR_VARIABLE = "TRACKVERSE_DB"
SECONDS_BETWEEN_LOG_LINES = 60
CPUS = 4  # of a job whose number of workers is not given: the one it has decodes and detects in threads


class Parser(argparse.ArgumentParser):
    """argparse with `--output-file` read as `--output_file`, no abbreviations, short errors, defaults in the help."""

    def __init__(self, description: str | None, *, prog: str | None = None) -> None:
        super().__init__(prog, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)

    def format_help(self) -> str:
        """The usual help, under a usage line that shows what must be given and not every flag there is."""
        needed = [action for action in self._actions if action.required]
        flags = [f"{action.option_strings[-1]} {_value_of(action)}" for action in needed if action.option_strings]
        others = [
            f"[{_value_of(action)} ...]" if action.nargs == "*" else _value_of(action)
            for action in needed
            if not action.option_strings
        ]
        command = "%(prog)s" if self.prog.startswith("python") else "python %(prog)s"
        self.usage = " ".join([command, *flags, "[flags]", *others])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """End with status 2 and one line."""
        self.exit(2, f"error: {message} ({self.prog} --help explains the flags)\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # argparse's overloads
        return super().parse_known_args(spell_flags(sys.argv[1:] if args is None else args), namespace)


def _value_of(action: argparse.Action) -> str:
    return "{" + ",".join(action.choices) + "}" if action.choices else str(action.metavar)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults shown where there is something to show, descriptions as written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool) or action.default == []:
            return action.help
        return super()._get_help_string(action)


def spell_flags(argv: Sequence[str]) -> list[str]:
    """Flags in their one spelling: underscores inside names, no aliases. Values and all after `--` stay as they are."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [_spell(word) for word in argv[:end]] + list(argv[end:])


def _spell(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = "--" + name[2:].replace("-", "_")
    return ALIASES.get(name, name) + equals + value


class _NumWorkers(argparse.Action):
    """Notes that the number was given: then a job has as many CPUs."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:  # type: ignore[no-untyped-def]
        namespace.num_workers = namespace.given_workers = values


def stage_parser(docstring: str | None, *, itemwise: bool = True) -> Parser:
    """The parser of a stage script, with the flags that every stage takes. The docstring becomes the description.

    A stage that is not `itemwise` makes one thing of all its input: it has no chunks and no failures to retry.
    """
    parser = Parser(docstring)
    common = parser.add_argument_group("on every stage")
    common.add_argument("--dry_run", action="store_true", help="say what would be done, write nothing")
    common.add_argument("--limit", type=at_least_one, metavar="N", help="only the first N items of the list")
    common.add_argument(
        "--num_workers", action=_NumWorkers, type=at_least_one, default=1, metavar="N", help="processes side by side"
    )
    if itemwise:
        common.add_argument(
            "--retry_failed",
            nargs="?",
            const="all",
            metavar="REASON",
            help="try items again that failed in an earlier run: all, or those with this reason, or of this class "
            "(as in failed.jsonl)",
        )
        common.add_argument("--num_chunks", type=at_least_one, default=1, metavar="N", help="split the list in N")
        common.add_argument("--chunk_id", type=int, metavar="K", help="do only chunk K, from 0 (default: all chunks)")
    common.add_argument("--verbose", action="store_true", help="log more")
    return parser


def add_workdir(parser: Parser) -> None:
    """`--workdir`, with `$TRACKVERSE_DB` as its default."""
    parser.add_argument("--workdir", type=folder, metavar="DIR", help=f"work folder (default: ${WORKDIR_VARIABLE})")


def workdir(args: argparse.Namespace) -> Path:
    """The work folder, from the flag or the environment. Raises SetupError if neither names one."""
    if args.workdir is not None:
        return Path(args.workdir)
    if os.environ.get(WORKDIR_VARIABLE):
        return folder(os.environ[WORKDIR_VARIABLE])
    raise SetupError(f"no work folder: give --workdir DIR, or export {WORKDIR_VARIABLE}=DIR")


def add_slurm(parser: Parser) -> None:
    """`--slurm` and the settings of the site."""
    group = parser.add_argument_group("on a Slurm cluster")
    group.add_argument("--slurm", action="store_true", help="submit this command as a job array instead of running it")
    group.add_argument("--status", action="store_true", help="show how far the submitted array of this command is")
    group.add_argument("--partition", metavar="NAME", help="partition to submit to (default: the site's)")
    group.add_argument("--account", metavar="NAME", help="account to charge (default: yours)")
    group.add_argument("--qos", metavar="NAME", help="quality of service (default: the site's)")
    group.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs for each element")
    group.add_argument(
        "--cpus",
        type=at_least_one,
        metavar="N",
        help=f"CPUs for each element (default: as many as --num_workers, {CPUS} where that is not given)",
    )
    group.add_argument("--mem", default="8G", metavar="SIZE", help="memory for each element")
    group.add_argument(
        "--time", type=at_least_one, default=720, metavar="MINUTES", help="time limit of a run; requeued after it"
    )
    group.add_argument("--max_parallel", type=at_least_one, default=128, metavar="N", help="elements that run at once")
    group.add_argument(
        "--slurm_extra",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other sbatch option, e.g. constraint=a100, or exclusive= where there is no value",
    )


SLURM_FLAGS = ("partition", "account", "qos", "gpus", "cpus", "mem", "time", "max_parallel", "slurm_extra")


def slurm_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The values of the flags that `add_slurm` added, but `--slurm` itself."""
    for pair in args.slurm_extra:
        if not pair.partition("=")[1]:
            raise SetupError(f"--slurm_extra {pair}: not KEY=VALUE")
    extra = {key: value for key, _, value in (pair.partition("=") for pair in args.slurm_extra)}
    settings = {name: getattr(args, name) for name in SLURM_FLAGS if name != "slurm_extra"}
    return settings | {"cpus": args.cpus or getattr(args, "given_workers", CPUS), "extra": extra}


def to_argv(parser: Parser, args: argparse.Namespace, *, without: Sequence[str] = ()) -> list[str]:
    """The command line that parses to `args`, without the defaults, without what is about Slurm or `--dry_run`, and
    `without` the arguments of these names."""
    argv: list[str] = []
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest in ("slurm", "status", "dry_run", *SLURM_FLAGS, *without) or value == action.default:
            continue
        if action.nargs == 0:
            if value == action.const:  # of two switches for one thing, the one that was given
                argv.append(action.option_strings[-1])
        else:
            values = [str(one) for one in value] if isinstance(value, list) else [str(value)]
            argv += [*action.option_strings[-1:], *values]
    return argv


def folder(text: str) -> Path:
    """A path as a user types it: relative, with `~`, with spaces."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path (is a shell variable unset?)")
    return Path(text).expanduser().absolute()


def file_name(text: str) -> str:
    """A name for a file or folder, without the way to it."""
    try:
        return check_name(text)
    except RecordError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    return _number(int, text, lambda number: number >= 1, "a whole number from 1 on")


def at_least_zero(text: str) -> int:
    """A whole number from 0."""
    return _number(int, text, lambda number: number >= 0, "a whole number from 0 on")


def number_or_auto(text: str) -> int | None:
    """A whole number from 1, or "auto", which is None."""
    return None if text == "auto" else at_least_one(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    return _number(float, text, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def positive(text: str) -> float:
    """A finite number above 0."""
    return _number(float, text, lambda number: 0 < number < math.inf, "a number above 0")


def not_negative(text: str) -> float:
    """A finite number from 0."""
    return _number(float, text, lambda number: 0 <= number < math.inf, "a number from 0 on")


def finite(text: str) -> float:
    """A finite number."""
    return _number(float, text, math.isfinite, "a finite number")


def _number(kind: Callable[[str], Number], text: str, is_good: Callable[[Number], bool], what: str) -> Number:
    with contextlib.suppress(ValueError):
        number = kind(text)
        if is_good(number):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def set_up_logging(verbose: bool) -> None:
    """Our log lines on stderr; other libraries only from warnings on."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    logging.getLogger("trackverse").setLevel(logging.DEBUG if verbose else logging.INFO)


def progress(items: Iterable[Item], *, what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a progress bar on a terminal and one line a minute in a log, and from side-by-side workers."""
    if sys.stderr.isatty() and multiprocessing.parent_process() is None:
        with logging_redirect_tqdm():  # log lines above the bar, not through it
            yield from tqdm(items, total=total, unit=f" {what}", dynamic_ncols=True)
        return
    of_total = f" of {total}" if total is not None else ""
    last_line = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last_line >= SECONDS_BETWEEN_LOG_LINES:
            log.info("%d%s %s so far", number, of_total, what)
            last_line = time.monotonic()
        yield item


def show(line: str) -> None:
    """One line of a command's answer, on standard output."""
    print(line)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is begun is undone, what holds claims gives them back, and the process ends."""


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does, unless somebody has already said what it is to do."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the tidying up
    raise Terminated


def _hold_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _release_fork() -> None:
    """A fork of this process has nothing to tidy up: SIGTERM ends it."""
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release_sigterm()


# Python drops a signal with a handler that reaches a fork in its first moments, and the fork would live on.
os.register_at_fork(before=_hold_sigterm, after_in_parent=_release_sigterm, after_in_child=_release_fork)


def set_up_worker(verbose: bool) -> None:
    """In a worker process of ours, first of all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all of them; ours is the parent's SIGTERM
    end_in_order()
    multiprocessing.util.Finalize(None, files.give_back_claims, exitpriority=0)
    set_up_logging(verbose)


def run(main: Callable[[], int], *, goes_on: bool = True) -> int:
    """`main`'s exit status; our own errors are one line and status 1, or 2 for a set-up error; Ctrl-C is 130, and
    SIGTERM 143. `goes_on`: whether the command, given again, does only what is missing."""
    end_in_order()
    try:
        return main()
    except TrackverseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SetupError) else 1
    except OSError as error:  # no permission, disk full, no such folder: what the user can mend, not a bug of ours
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        is_term = isinstance(error, Terminated)
        how = "told to end" if is_term else "interrupted"
        then = "what was finished is kept, the same command goes on from here" if goes_on else "give the command again"
        print(f"{how}: {then}", file=sys.stderr)
        return 128 + (signal.SIGTERM if is_term else signal.SIGINT)
    finally:
        files.give_back_claims()
