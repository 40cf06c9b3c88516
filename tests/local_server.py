"""A small web server on this host that serves a folder, and misbehaves where it is told to."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".m3u8": "application/x-mpegurl",
    ".mpd": "application/dash+xml",
    ".html": "text/html",
}


@dataclass(frozen=True)
class Behaviour:
    """What one path answers instead of its file.

    `status`: this error. `redirect_to`: this URL. `cut_after`: that many bytes, then the connection ends.
    `stall_after`: that many bytes, then nothing until the server ends. `trickle`: so many bytes every twentieth of a
    second. `length`: whether the size is said beforehand. `announced`: this many bytes are, whatever follows.
    `first_times`: only the first so many requests are treated so.
    """

    status: int | None = None
    redirect_to: str | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    trickle: int | None = None
    length: bool = True
    announced: int | None = None
    first_times: int | None = None


class LocalServer:
    """Serves `folder`. `requests` counts what was asked, by path; `ranges` holds the Range headers in their order.
    `fault_of`, where set, is asked for the behaviour of each request by its path and query, and may answer None."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.behaviours: dict[str, Behaviour] = {}
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.fault_of: Callable[[str], Behaviour | None] = lambda path_and_query: None
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        """The URL of a file in the folder."""
        return f"http://{host}:{self.http.server_port}/{name}"


@contextmanager
def serve(folder: Path) -> Iterator[LocalServer]:
    """A server on a free port of this host for the length of the block."""
    server = LocalServer(folder)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def _handler_for(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/")
            with server.lock:
                server.requests[name] += 1
                times = server.requests[name]
                fault = server.fault_of(self.path.lstrip("/"))
                if wanted := self.headers.get("Range"):
                    server.ranges.append(wanted)
            behaviour = fault or server.behaviours.get(name, Behaviour())
            if behaviour.first_times is not None and times > behaviour.first_times:
                behaviour = Behaviour()
            path = (server.folder / name).resolve()
            if behaviour.status:
                self.send_error(behaviour.status)
            elif behaviour.redirect_to:
                self.send_response(302)
                self.send_header("Location", behaviour.redirect_to)
                self.end_headers()
            elif not path.is_relative_to(server.folder.resolve()) or not path.is_file():
                self.send_error(404)
            else:
                self._send_file(path, behaviour)

        def _send_file(self, path: Path, behaviour: Behaviour) -> None:
            body = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = 0, len(body)
            if wanted:
                start, end = int(wanted[1]), min(int(wanted[2] or end - 1) + 1, end)
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPES.get(path.suffix, "application/octet-stream"))
            self.send_header("Accept-Ranges", "bytes")
            if behaviour.length:
                announced = end - start if behaviour.announced is None else behaviour.announced
                self.send_header("Content-Length", str(announced))
            self.end_headers()
            limit = behaviour.cut_after if behaviour.cut_after is not None else behaviour.stall_after
            sent = body[start : end if limit is None else min(end, start + limit)]
            step = behaviour.trickle or len(sent) or 1
            try:
                for at in range(0, len(sent), step):
                    self.wfile.write(sent[at : at + step])
                    self.wfile.flush()
                    if behaviour.trickle and server.ended.wait(0.05):
                        return
            except (BrokenPipeError, ConnectionResetError):
                return  # the client has read enough
            if behaviour.stall_after is not None:
                server.ended.wait()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: what was asked is in `requests`."""

    return Handler
