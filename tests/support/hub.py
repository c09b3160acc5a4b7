"""A stand-in for the Hub's HTTP interface: repositories that take commits and give files."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "d" * 40


class Hub(ThreadingHTTPServer):
    """`repositories` are files by name, by owner/name; `created` are the calls that made them.
    `told` is what is said of every model besides, such as its tags.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, object]] = []
        self.messages: list[str] = []
        self.told: dict[str, object] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self.send_error(401)
        elif self.path == "/api/repos/create":
            told = json.loads(body)
            name = "/".join(part for part in (told.get("organization"), told["name"]) if part)
            self.server.created.append(told)
            self.server.repositories.setdefault(name, {})
            self.reply({"url": f"{self.server.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif self.path.endswith("/commit/main"):
            name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    self.server.messages.append(value["summary"])
                else:
                    content = base64.b64decode(value["content"])
                    self.server.repositories[name][value["path"]] = content
            url = f"{self.server.url}/{name}/commit/{COMMIT}"
            self.reply({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/").split("/")
        files = self.server.repositories.get("/".join(path[:2]))
        if files is None:
            self.send_error(404)
        elif path[2:3] == ["resolve"] and path[4] in files:
            content = files[path[4]]
            self.reply(content, {"ETag": f'"{blob(content)}"', "X-Repo-Commit": COMMIT})
        elif path[2:] in ([], ["revision", "main"], ["revision", COMMIT]):
            siblings = [
                {"rfilename": name, "size": len(content), "blobId": blob(content)}
                for name, content in files.items()
            ]
            told = {"id": "/".join(path[:2]), "sha": COMMIT, "siblings": siblings}
            self.reply({**self.server.told, **told})
        else:
            self.send_error(404)

    def reply(self, content: object, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def blob(content: bytes) -> str:
    """The SHA-1 of a git blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()
