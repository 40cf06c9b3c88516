"""A web server on this host that serves bytes with ETags and ranges, and breaks the rules where it is told to."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Served:
    """One file, and how it is served.

    `statuses`: these errors are answered first, one a request. `cut_after`: each answer ends after that many bytes,
    `cut_times` times. `stall_after`: that many bytes, then silence. `ranges`: whether Range is obeyed; `if_range`:
    whether If-Range is. `claimed_size`: Content-Length, where it is a lie; -1 for none. `chunked`: no length, but an
    end that is marked. `go_on`: awaited after each 64 kB.
    """

    body: bytes
    statuses: list[int] = field(default_factory=list)
    cut_after: int | None = None
    cut_times: int = 10**9
    stall_after: int | None = None
    ranges: bool = True
    if_range: bool = True
    validators: bool = True
    claimed_size: int | None = None
    chunked: bool = False
    go_on: threading.Event | None = None

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'


class ResumeServer:
    """`files` by name, `requests` counted by name, `ranges` as they were asked for, `asked` the whole request lines."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: Counter[str] = Counter()
        self.ranges: list[str | None] = []
        self.asked: list[str] = []
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"


@contextmanager
def serve() -> Iterator[ResumeServer]:
    """A server on a free port for the length of the block."""
    server = ResumeServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def _handler_for(server: ResumeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = unquote(urlsplit(self.path).path).rpartition("/")[2]
            with server.lock:
                server.requests[name] += 1
                server.ranges.append(self.headers.get("Range"))
                server.asked.append(self.requestline)
                served = server.files.get(name)
                status = served.statuses.pop(0) if served and served.statuses else None
            self.close_connection = True
            if served is None or status is not None:
                self.send_error(status or 404)
                return
            start = self._start(served)
            if start is not None:
                self._send(served, start)

        def _start(self, served: Served) -> int | None:
            """The first byte of the answer, its headers sent; None if the answer was an error."""
            size = len(served.body)
            wanted = self.headers.get("Range") if served.ranges else None
            if served.if_range and self.headers.get("If-Range", served.etag) != served.etag:
                wanted = None
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if wanted and start >= size:
                self.send_error(416)
                return None
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if served.validators:
                self.send_header("ETag", served.etag)
            if served.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif served.claimed_size != -1:
                claimed = size if served.claimed_size is None else served.claimed_size
                self.send_header("Content-Length", str(claimed - start))
            self.end_headers()
            return start

        def _send(self, served: Served, start: int) -> None:
            end = len(served.body)
            cut = served.cut_after if served.cut_times > 0 else None
            if cut is not None:
                served.cut_times -= 1
                end = min(end, start + cut)
            if served.stall_after is not None:
                end = min(end, start + served.stall_after)
            try:
                for first in range(start, end, 1 << 16):
                    block = served.body[first : min(end, first + (1 << 16))]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if served.chunked else block)
                    if served.go_on is not None:
                        served.go_on.wait()
                if served.chunked and end == len(served.body):
                    self.wfile.write(b"0\r\n\r\n")
                self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                return  # the client is gone
            if served.stall_after is not None:
                server.ended.wait()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: what was asked is in `requests`."""

    return Handler
