"""The large weights that don't come with the repository: where they are published, and a verified copy on this disk.

    python -m trackverse.weights list
    python -m trackverse.weights get detic-swinb lvis-classifier
    python -m trackverse.weights get all --mirror https://files.example.org/trackverse
    python -m trackverse.weights check

Files are kept in $TRACKVERSE_WEIGHTS, or in ~/.cache/trackverse. One that was copied there by hand is as good as a
downloaded one. Beside each lies its sha256, in <file>.sha256 as `sha256sum -c` reads it: the published one, or, where
none is published, that of the first copy seen that is a whole file of its kind, so that a later change is noticed.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from trackverse import cli, files
from trackverse.errors import ItemError, SetupError
from trackverse.fetch import FetchConfig, fetch, file_sha256
from trackverse.known_weights import BY_NAME, WEIGHTS, WeightFile
from trackverse.vectors import load_matrix

log = logging.getLogger("trackverse.weights")  # not __name__, which is __main__ as a command
FOLDER_VARIABLE = "TRACKVERSE_WEIGHTS"
DEFAULT_FOLDER = "~/.cache/trackverse"
PICKLE = b"\x80"  # how torch's checkpoints began before they were zip archives


def folder() -> Path:
    """Where weights are kept on this machine. The folder may not exist yet."""
    return cli.folder(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def find(name: str) -> Path:
    """The file of these weights. Raises SetupError if it is not there, or is not the file it should be."""
    path, _ = find_with_sha256(name)
    return path


def find_with_sha256(name: str) -> tuple[Path, str]:
    """The file of these weights and its sha256. Raises SetupError as `find` does.

    The file is read through only if it is newer than the hash recorded for it: hundreds of workers start on one copy.
    """
    return _find(BY_NAME[name])


def _find(entry: WeightFile) -> tuple[Path, str]:
    path = folder() / entry.filename
    if not path.is_file():
        raise SetupError(f"{path} is missing: python -m trackverse.weights get {entry.name}")
    record = _record_path(path)
    if record.exists() and record.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        recorded = _recorded_sha256(path)
        if recorded is not None and entry.sha256 in (None, recorded):
            return path, recorded
    return path, _verify(entry, path)


def download(entry: WeightFile, *, mirror: str | None = None, config: FetchConfig | None = None) -> Path:
    """The file of these weights, from the publisher or from `mirror`/<filename> if it is not there yet.

    A second process that wants the same file waits for the first. Raises ItemError and SetupError as `fetch` does.
    """
    path = folder() / entry.filename
    url = entry.url if mirror is None else f"{mirror.rstrip('/')}/{quote(entry.filename)}"
    lock = path.with_name(f".{path.name}.lock")
    try:
        with files.claim(lock) as free:
            if free:
                return _download_once(entry, path, url, config)
        log.info("%s: another process is downloading it, waiting", entry.name)
        with files.claim(lock, wait=True):
            return _download_once(entry, path, url, config)
    except OSError as error:
        raise SetupError(f"{path.parent}: can't keep weights there: {error.strerror}") from error


def _download_once(entry: WeightFile, path: Path, url: str, config: FetchConfig | None) -> Path:
    if path.exists():
        try:
            _find(entry)
            log.info("%s: already there, %s", entry.name, path)
            return path
        except SetupError as error:
            log.warning("%s; downloading it anew", error)
    log.info("%s: downloading %s", entry.name, url)
    known = entry.sha256 or _recorded_sha256(path)
    with _Meter(entry.name) as meter:
        digest = fetch(url, path, sha256=known, size=entry.size, config=config, report=meter.update)
    if entry.sha256 is None and (why := _why_not_whole(path)):
        path.unlink()
        raise ItemError(f"{url}: removed, because it is {why}", reason="another file")
    _write_record(path, digest)
    log.info("%s: %s, %.1f MB", entry.name, path, path.stat().st_size / 1e6)
    if entry.sha256 is None:
        log.info("%s: its publisher names no sha256; recorded that of this copy: %s", entry.name, digest)
    return path


def _verify(entry: WeightFile, path: Path) -> str:
    """Read the file through, and record its sha256. Raises SetupError if it is not the file it should be."""
    again = f"remove it, then: python -m trackverse.weights get {entry.name}"
    if entry.size not in (None, path.stat().st_size):
        raise SetupError(f"{path}: {path.stat().st_size} bytes instead of {entry.size}; {again}")
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise SetupError(f"{path}: can't read it: {error.strerror}") from error
    if entry.sha256 not in (None, digest):
        raise SetupError(f"{path}: its sha256 is {digest} instead of {entry.sha256}; {again}")
    if entry.sha256 is None and _recorded_sha256(path) not in (None, digest):
        raise SetupError(f"{path}: changed since {_record_path(path).name} was written; remove that, or {again}")
    if entry.sha256 is None and (why := _why_not_whole(path)):
        raise SetupError(f"{path}: {why}; {again}")
    if os.access(path.parent, os.W_OK):
        _write_record(path, digest)
    return digest


def _why_not_whole(path: Path) -> str | None:
    """What speaks against a file that no published hash vouches for: an error page, one that is cut off."""
    if path.suffix == ".npy":
        try:
            load_matrix(path)
        except (OSError, ValueError) as error:
            return f"no whole matrix in a .npy file ({error})"
    else:
        with path.open("rb") as file:
            is_pickle = file.read(1) == PICKLE
        if not is_pickle and not zipfile.is_zipfile(path):
            return "no whole checkpoint (neither a zip archive with an end nor a pickle)"
    return None


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded_sha256(path: Path) -> str | None:
    """The hash in the record beside `path`; None if there is none that can be read."""
    try:
        words = _record_path(path).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return words[0] if words and len(words[0]) == 64 else None


def _write_record(path: Path, digest: str) -> None:
    with files.atomic_write(_record_path(path)) as file:
        file.write(f"{digest}  {path.name}\n".encode())


class _Meter:
    """How far a download is: a bar on a terminal, one line a minute in a log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: tqdm[None] | None = None
        self._last_line_s = time.monotonic()

    def __enter__(self) -> _Meter:
        if sys.stderr.isatty():
            self._bar = tqdm(desc=self._name, unit="B", unit_scale=True, dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, num_bytes: int, total: int | None) -> None:
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(num_bytes - self._bar.n)
        elif time.monotonic() - self._last_line_s >= cli.SECONDS_BETWEEN_LOG_LINES:
            of_total = f" of {total / 1e6:.0f}" if total is not None else ""
            log.info("%s: %.0f%s MB so far", self._name, num_bytes / 1e6, of_total)
            self._last_line_s = time.monotonic()


def _list(entries: Sequence[WeightFile], args: Namespace) -> int:
    """What there is, and what of it is here."""
    cli.show(f"in {folder()}:")
    for entry in entries:
        path = folder() / entry.filename
        here = f"here, {path.stat().st_size / 1e6:.1f} MB" if path.exists() else "not here"
        cli.show(f"\n{entry.name}  ({here})\n    {entry.purpose}\n    {entry.url}\n    {entry.licence}")
        cli.show(f"    sha256 {entry.sha256 or 'not published'}")
    return 0


def _get(entries: Sequence[WeightFile], args: Namespace) -> int:
    failed = 0
    for entry in entries:
        try:
            download(entry, mirror=args.mirror, config=FetchConfig(proxy=args.proxy))
        except ItemError as error:
            log.error("error: %s: %s", entry.name, error)
            failed += 1
    return 1 if failed else 0


def _check(entries: Sequence[WeightFile], args: Namespace) -> int:
    """Read every file through, also those that have a record. Without names: the files that are here."""
    present = [entry for entry in entries if (folder() / entry.filename).is_file()]
    failed = 0
    for entry in entries if args.names else present:
        try:
            if entry not in present:
                _find(entry)  # says that it is missing, and how to get it
            digest = _verify(entry, folder() / entry.filename)
            cli.show(f"{entry.name}: sound, sha256 {digest} ({'published' if entry.sha256 else 'first seen here'})")
        except SetupError as error:
            cli.show(f"{entry.name}: {error}")
            failed += 1
    if not present:
        cli.show(f"no weights in {folder()}")
    return 1 if failed else 0


COMMANDS: dict[str, Callable[[Sequence[WeightFile], Namespace], int]] = {"list": _list, "get": _get, "check": _check}


def make_parser() -> cli.Parser:
    parser = cli.Parser(__doc__, prog="python -m trackverse.weights")
    parser.add_argument("command", choices=COMMANDS, help="what to do")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which weights, or all (see list)")
    parser.add_argument("--mirror", metavar="URL", help="take the files from URL/<filename> instead")
    parser.add_argument("--proxy", metavar="URL", help="proxy to ask through (default: as in $https_proxy)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = make_parser().parse_intermixed_args(argv)
    cli.set_up_logging(verbose=False)
    return cli.run(lambda: COMMANDS[args.command](_entries(args), args))


def _entries(args: Namespace) -> Sequence[WeightFile]:
    """The weights that a command names. Raises SetupError for a name that we don't know."""
    unknown = [name for name in args.names if name not in (*BY_NAME, "all")]
    if unknown or (args.command == "get" and not args.names):
        what = f"no weights are called {', '.join(unknown)}" if unknown else "get which?"
        raise SetupError(f"{what}: {', '.join(BY_NAME)}, or all")
    if not args.names or "all" in args.names:
        return WEIGHTS
    return [BY_NAME[name] for name in dict.fromkeys(args.names)]


if __name__ == "__main__":
    sys.exit(main())
