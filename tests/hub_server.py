"""A model hub on this machine: as much of the real one as the client asks for.

The API and `resolve` answer on one port, large files on another, as a CDN does: a redirect crosses
hosts.  What a request carried is recorded; faults are set by path.
"""

import functools
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPO = "acme/tiny"
MODIFIED = "2026-03-02T10:11:12.000Z"
COMMITTED = "2026-03-01T08:00:00.000Z"
MESSAGES = {
    "RepoNotFound": (401, "Repository not found"),
    "GatedRepo": (403, "Access to model acme/tiny is restricted"),
    "RevisionNotFound": (404, "Invalid rev id"),
    "EntryNotFound": (404, "Entry not found"),
}


@dataclass
class Request:
    host: str
    path: str
    authorization: str | None
    span: str | None


@dataclass
class Hub:
    """The state that the handlers read; tests change it between requests."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    gated: str | None = None
    """The token that opens the files, if they are gated."""
    private: bool = False
    busy: list[dict[str, str]] = field(default_factory=list)
    """Headers of the next 429 answers of the API."""
    served: dict[str, bytes] = field(default_factory=dict)
    """What a file gives instead of its content."""
    cut: dict[str, int] = field(default_factory=dict)
    """After how many bytes the connection breaks, once."""
    ranges: bool = True
    history: bool = True
    endpoint: str = ""
    cdn: str = ""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        listed = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())  # noqa: S324
        name = hashlib.sha1(repr(listed).encode()).hexdigest()  # noqa: S324
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def revision(self, name: str) -> str | None:
        return name if name in self.commits else self.branches.get(name)

    def siblings(self, commit: str) -> Iterator[dict[str, object]]:
        for path, data in self.commits[commit].items():
            entry: dict[str, object] = {"rfilename": path, "size": len(data)}
            if path in self.large:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
                entry["blobId"] = "0" * 40
            else:
                entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324
            yield entry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: object) -> None:
        self.hub = hub
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        seen = Request(headers["host"], path, headers["authorization"], headers["range"])
        self.hub.requests.append(seen)
        if found := re.fullmatch(r"/cdn/([0-9a-f]{40})/(.+)", path):
            self.body(found[2], self.hub.commits[found[1]][found[2]])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(.+)", path):
            self.api(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(found[1], found[2], found[3])
        else:
            self.refuse("EntryNotFound")

    def api(self, repo: str, what: str) -> None:
        kind, _, name = what.partition("/")
        commit = self.hub.revision(name)
        if self.hub.busy:
            self.answer(429, b"slow down", self.hub.busy.pop(0))
        elif repo != REPO or (self.hub.private and not self.token()):
            self.refuse("RepoNotFound")
        elif kind == "auth-check":
            if self.open():
                self.json({})
        elif commit is None:
            self.refuse("RevisionNotFound")
        elif kind == "commits" and self.hub.history:
            first = {"id": commit, "authors": [], "date": COMMITTED, "title": "", "message": ""}
            self.json([first])
        elif kind == "revision":
            siblings = list(self.hub.siblings(commit))
            self.json({"id": repo, "sha": commit, "lastModified": MODIFIED, "siblings": siblings})
        else:
            self.answer(404, b"{}", {})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit = self.hub.revision(revision)
        if repo != REPO:
            self.refuse("RepoNotFound")
        elif commit is None:
            self.refuse("RevisionNotFound")
        elif path not in self.hub.commits[commit]:
            self.refuse("EntryNotFound")
        elif not self.open():
            return
        elif path in self.hub.large:
            location = f"{self.hub.cdn}/cdn/{commit}/{path}"
            sha256 = hashlib.sha256(self.hub.commits[commit][path]).hexdigest()
            headers = {"x-repo-commit": commit, "x-linked-etag": f'"{sha256}"'}
            self.answer(302, b"", headers | {"location": location})
        else:
            self.body(path, self.hub.commits[commit][path])

    def token(self) -> str:
        return (self.headers["authorization"] or "").removeprefix("Bearer ")

    def open(self) -> bool:
        if self.hub.gated is None or self.token() == self.hub.gated:
            return True
        self.refuse("GatedRepo")
        return False

    def body(self, path: str, data: bytes) -> None:
        data = self.hub.served.get(path, data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["range"] or "")
        headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "accept-ranges": "bytes"}
        if not asked or not self.hub.ranges:
            self.answer(200, data, headers, self.hub.cut.pop(path, None))
            return
        begin, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if begin >= len(data):
            self.answer(416, b"", {"content-range": f"bytes */{len(data)}"})
            return
        headers["content-range"] = f"bytes {begin}-{last}/{len(data)}"
        self.answer(206, data[begin : last + 1], headers)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def refuse(self, code: str) -> None:
        status, message = MESSAGES[code]
        self.answer(status, b"{}", {"x-error-code": code, "x-error-message": message})

    def answer(
        self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[:cut])
        self.close_connection = cut is not None


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub and its CDN, each on a port of its own."""
    hub = Hub()
    handler = functools.partial(Handler, hub)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    threads = [threading.Thread(target=s.serve_forever, args=(0.01,)) for s in servers]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server, thread in zip(servers, threads, strict=True):
        server.daemon_threads = True
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
