"""The HTTP client: redirections, proxies with a login, and what servers refuse."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from depalm.sources.http import REDIRECTIONS, DownloadError, HttpClient, content_of, file_version


class Redirecting(BaseHTTPRequestHandler):
    """/n leads to /n-1, and /0 is a file of what was asked of it."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append(self.headers)
        hops = int(self.path.rpartition("/")[2])
        body = b"" if hops else self.headers["Range"].encode()
        self.send_response(302 if hops else 206)
        if hops:
            self.send_header("Location", f"/{hops - 1}")
        self.send_header("Last-Modified", "then")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        site: Any = server
        site.asked, site.url = [], f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield site
        server.shutdown()


def test_redirections_are_followed_with_the_same_headers_up_to_a_limit() -> None:
    client, part = HttpClient(), {"Range": "bytes=3-5"}
    with serving() as site:
        with client.get(f"{site.url}/{REDIRECTIONS}", part) as response:
            assert b"".join(content_of(response)) == b"bytes=3-5"
            assert file_version(response) == "then"
        assert len(site.asked) == 1 + REDIRECTIONS
        assert {headers["User-Agent"] for headers in site.asked} == {"depalm"}
        with (
            pytest.raises(DownloadError, match="redirects more than 10 times"),
            client.get(f"{site.url}/{REDIRECTIONS + 1}", part),
        ):
            pass


def test_a_proxy_gets_its_login_and_is_bypassed_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, part = HttpClient(), {"Range": "bytes=0-0"}
    with serving() as site:
        monkeypatch.setenv("http_proxy", site.url.replace("//", "//me:se%2Fcret@"))
        with client.get("http://files.invalid/0", part) as response:
            assert b"".join(content_of(response)) == b"bytes=0-0"
        login = b64encode(b"me:se/cret").decode()
        assert site.asked[-1]["Proxy-Authorization"] == f"Basic {login}"
        assert site.asked[-1]["Host"] == "files.invalid"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with client.get(f"{site.url}/0", part) as response:
            assert response.status == 206
        assert site.asked[-1]["Proxy-Authorization"] is None
