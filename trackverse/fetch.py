"""One file from the web: resumed where an earlier run stopped, verified, and under its name only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from trackverse import files
from trackverse.errors import ItemError, SetupError

log = logging.getLogger(__name__)
BLOCK_BYTES = 1 << 16
PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # worth another try; any other error status stays
Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class FetchConfig:
    """`timeout_s`: longest silence of a server. `tries`: how many in a row may bring nothing new before we give up;
    between them pauses of `pause_s`, twice that, four times that … `proxy`: a URL; None leaves it to the environment.
    `max_bytes`: of a file whose length the server doesn't say; all that is fetched is smaller than 4 GB.
    """

    timeout_s: float = 30
    tries: int = 4
    pause_s: float = 1
    proxy: str | None = None
    max_bytes: int = 1 << 32


@dataclass(frozen=True)
class _Origin:
    """Where the bytes of a partial file come from: `validator` is the ETag or date that the server gave for them."""

    url: str
    validator: str | None
    size: int | None


class _BrokenError(Exception):
    """A request that failed in a way that may pass."""


class _StaleError(_BrokenError):
    """What is there can't be gone on from: the next request asks for all."""


class _EndlessError(Exception):
    """More bytes than any file that we want has."""


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    config: FetchConfig | None = None,
    report: Report = lambda num_bytes, total: None,
) -> str:
    """Download `url` to `path` and return its sha256. `report` is told the bytes so far and the total, if it is known.

    Only one process at a time may fetch the same path. A partial file stays beside `path`, hidden, for the next run.
    Raises ItemError: no answer, an error status, a file that isn't what `sha256` and `size` say (it is removed then).
    Raises SetupError: a folder that can't be written, a full disk, a URL that is neither http nor https.
    """
    part = _Part(path)
    while True:
        resumed = part.size > 0
        _complete(url, part, sha256, size, config or FetchConfig(), report)
        digest = file_sha256(part.path)
        if sha256 in (None, digest):
            with _folder_errors(path.parent):
                part.publish(path)
            return digest
        part.discard()
        if not resumed:
            break
        log.info("%s: what an earlier run left does not fit what came now: once more from the start", path.name)
    raise ItemError(
        f"{url}: removed, because its sha256 is {digest} instead of {sha256}: another file, or damaged on the way",
        reason="wrong hash",
    )


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Part:
    """The partial file of `path`, and beside it a note of where its bytes come from."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f".{path.name}.part")
        self._note = path.with_name(f".{path.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> _Origin | None:
        """None if there is no note, or none that can be read: then nothing is known of the bytes."""
        try:
            return _Origin(**json.loads(self._note.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def begin(self, origin: _Origin) -> None:
        """Empty, with bytes of `origin` to come."""
        self.discard()
        with files.atomic_write(self._note) as file:
            file.write(json.dumps(asdict(origin)).encode())

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def publish(self, path: Path) -> None:
        files.publish(self.path, path)
        self._note.unlink(missing_ok=True)


def _complete(url: str, part: _Part, sha256: str | None, size: int | None, config: FetchConfig, report: Report) -> None:
    """Ask until the partial file is as long as it should be."""
    failures, most = 0, part.size
    while True:
        try:
            _ask(url, part, sha256, size, config, report)
            return
        except _BrokenError as error:
            failures = 1 if part.size > most else failures + 1
            most = max(most, part.size)
            if failures >= config.tries:
                later = "the same command goes on from what is there" if part.size else "try again later"
                raise ItemError(
                    f"{url}: {error} ({failures} tries); {later}", reason="no complete answer", retry=True
                ) from error
            pause_s = config.pause_s * 2 ** (failures - 1)
            log.info("%s, at %.1f MB: trying again in %.0f s", error, part.size / 1e6, pause_s)
            time.sleep(pause_s)


def _ask(url: str, part: _Part, sha256: str | None, size: int | None, config: FetchConfig, report: Report) -> None:
    """One request, for what is missing if that is safe, and its answer added to the partial file."""
    headers = _resume_headers(url, part, verifiable=sha256 is not None)
    if headers is None:
        return
    try:
        with _open(url, headers, config) as response, _folder_errors(part.path.parent):
            total = _total_size(response)
            _check_size(url, total, size, torn_is_noticed=response.chunked or sha256 is not None)
            total = size if total is None else total
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            _settle(response, part, _Origin(url, validator, total), verifiable=sha256 is not None)
            _check_space(part, total)
            with open(part.path, "ab") as file:
                for num_bytes in _receive(response, file, config.max_bytes if total is None else None):
                    report(num_bytes, total)
    except _StaleError:
        part.discard()
        raise
    except _EndlessError as error:
        part.discard()
        raise ItemError(f"{url}: {error}", reason="no end") from error
    if total is not None and part.size != total:
        raise _BrokenError(f"the connection ended after {part.size} of {total} bytes")


def _check_size(url: str, total: int | None, size: int | None, *, torn_is_noticed: bool) -> None:
    """`total` is what the server says, `size` what the publisher says."""
    if None not in (total, size) and total != size:
        raise ItemError(f"{url}: {total} bytes instead of {size}: another file", reason="wrong size")
    if total is None and size is None and not torn_is_noticed:
        message = f"{url}: the server does not say how long the file is, so that a torn one would not be noticed"
        raise ItemError(message, reason="unknown size")


def _resume_headers(url: str, part: _Part, *, verifiable: bool) -> dict[str, str] | None:
    """Headers that ask for the missing bytes, {} for all; None if nothing is missing.

    Bytes of two versions of a file must not be joined: without a hash to notice that (`verifiable`), the server has to
    vouch for the version.
    """
    origin = part.origin
    if not part.size or origin is None:
        return {}
    if origin.size == part.size and (origin.url == url or verifiable):
        return None
    if origin.url == url and origin.validator and not origin.validator.startswith("W/"):
        return {"Range": f"bytes={part.size}-", "If-Range": origin.validator}
    return {"Range": f"bytes={part.size}-"} if verifiable else {}


def _settle(response: http.client.HTTPResponse, part: _Part, origin: _Origin, *, verifiable: bool) -> None:
    """Make the partial file what the answer goes on from: as it is, or empty if the answer begins at the start."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        part.begin(origin)
        return
    begins_at = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if begins_at is None or int(begins_at[1]) != part.size:
        raise _StaleError("the server went on from somewhere else")
    before = part.origin
    same = before is not None and before.size in (None, origin.size) and origin.validator in (None, before.validator)
    if not (same or verifiable):
        raise _StaleError("the server has another version by now")


def _open(url: str, headers: dict[str, str], config: FetchConfig) -> http.client.HTTPResponse:
    """The server's answer, after redirects."""
    if not url.startswith(("http://", "https://")):
        raise SetupError(f"{url}: not a http:// or https:// address")
    proxies = None if config.proxy is None else {"http": config.proxy, "https": config.proxy}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "trackverse-tools", **headers})
        response: http.client.HTTPResponse = opener.open(request, timeout=config.timeout_s)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _StaleError("the server has less than what is there") from error
        if error.code in PASSING_STATUSES:
            raise _BrokenError(f"HTTP {error.code} {error.reason}") from error
        raise ItemError(f"{url}: HTTP {error.code} {error.reason}", reason=f"HTTP {error.code}") from error
    except (ValueError, http.client.InvalidURL) as error:  # spaces, a bad port, no host
        raise SetupError(f"{url}: not an address ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_why(error)) from error


def _total_size(response: http.client.HTTPResponse) -> int | None:
    """Bytes of the whole file, as the server says; None if it doesn't."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _check_space(part: _Part, total: int | None) -> None:
    missing = (total or 0) - part.size
    free = shutil.disk_usage(part.path.parent).free
    if missing > free:
        raise SetupError(f"{part.path.parent}: {missing / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")


def _receive(response: http.client.HTTPResponse, file: BinaryIO, max_bytes: int | None) -> Iterator[int]:
    """How many bytes the file has, after each block."""
    for block in _blocks(response):
        file.write(block)
        if max_bytes is not None and file.tell() > max_bytes:
            raise _EndlessError(f"it does not end after {max_bytes / 1e6:.0f} MB, and doesn't say when it will")
        yield file.tell()


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read(BLOCK_BYTES):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(_why(error)) from error


def _why(error: Exception) -> str:
    """What happened to a connection, in one line."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return f"no connection ({str(cause) or type(cause).__name__})"


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """Errors of the file system, told as what the user can do about them."""
    try:
        yield
    except OSError as error:
        raise SetupError(f"{folder}: can't write the file there: {error.strerror or error}") from error
