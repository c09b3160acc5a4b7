"""A web server on this machine that gives parts of files, and fails as tests ask it to."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class RangeServer(ThreadingHTTPServer):
    """Serves the files of `folder`; of each of `failures` (a status, or a number of bytes after
    which the body is cut off, below 100) one answer.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folder, self.etag, self.delay = folder, '"1"', 0.0
        self.failures: list[int] = []
        self.ranges: list[str | None] = []
        self.clients: set[tuple[str, int]] = set()
        self.active = self.most_active = 0
        self.lock = threading.Lock()


class RangeHandler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_GET(self) -> None:
        site = self.server
        with site.lock:
            site.ranges.append(self.headers["Range"])
            site.clients.add(self.client_address)
            site.active += 1
            site.most_active = max(site.most_active, site.active)
            failure = site.failures.pop(0) if site.failures else None
        time.sleep(site.delay)
        try:
            self._answer(failure)
        finally:
            with site.lock:
                site.active -= 1

    def _answer(self, failure: int | None) -> None:
        path = self.server.folder / urlsplit(self.path).path.lstrip("/")
        if failure is None and not path.is_file():
            failure = 404
        if failure is not None and failure >= 100:
            return self.send_error(failure)
        content = path.read_bytes()
        given = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        start, stop = (int(given[1]), int(given[2]) + 1) if given else (0, len(content))
        if start >= len(content):
            return self.send_error(416)
        body = content[start:stop]
        self.send_response(206 if given else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        if given:
            last = start + len(body) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(body[:failure])
        self.close_connection = failure is not None
        return None

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    with RangeServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder's files; yield its URL."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
