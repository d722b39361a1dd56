"""A model hub on this machine: as much of the real one as the client asks for.

The API and `resolve` answer on one port, large files on another, as a CDN does: a redirect crosses
hosts.  The redirect is signed, and may be good for fewer requests than a client needs.  What a
request carried is recorded; faults are set by path.
"""

import functools
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

REPO = "acme/tiny"
_PIECE = 1 << 16
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
    busy_files: list[dict[str, str]] = field(default_factory=list)
    """Headers of the next 429 answers where files are."""
    busy_cdn: list[int] = field(default_factory=list)
    """Statuses of the next answers of the CDN."""
    revoked: set[str] = field(default_factory=set)
    """Tokens that have expired."""
    link_uses: int | None = None
    """How many requests a link to the CDN is good for."""
    stale_links: int = 0
    """How many of the next links have expired already."""
    links: dict[str, int] = field(default_factory=dict)
    """How many requests each link was used for."""
    served: dict[str, bytes] = field(default_factory=dict)
    """What a file gives instead of its content."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """After how many bytes the next connections break."""
    gates: dict[str, int] = field(default_factory=dict)
    """After how many bytes nothing more comes until `opened`: a slow server."""
    stalled: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    sent: int = 0
    """Bytes of the bodies of files."""
    ranges: bool = True
    misplaced: int = 0
    """How many bytes too late a range begins."""
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
            self.cdn(found[2], self.hub.commits[found[1]][found[2]])
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
        if self.hub.busy_files:
            self.answer(429, b"slow down", self.hub.busy_files.pop(0))
        elif repo != REPO:
            self.refuse("RepoNotFound")
        elif commit is None:
            self.refuse("RevisionNotFound")
        elif path not in self.hub.commits[commit]:
            self.refuse("EntryNotFound")
        elif not self.open():
            return
        elif path in self.hub.large:
            location = f"{self.hub.cdn}/cdn/{commit}/{path}?signature={self.sign()}"
            sha256 = hashlib.sha256(self.hub.commits[commit][path]).hexdigest()
            headers = {"x-repo-commit": commit, "x-linked-etag": f'"{sha256}"'}
            self.answer(302, b"", headers | {"location": location})
        else:
            self.body(path, self.hub.commits[commit][path])

    def sign(self) -> str:
        """Return a new link's signature."""
        hub = self.hub
        signature = str(len(hub.links))
        is_stale = hub.stale_links > 0
        hub.stale_links -= is_stale
        hub.links[signature] = sys.maxsize if is_stale else 0
        return signature

    def cdn(self, path: str, data: bytes) -> None:
        hub = self.hub
        (signature,) = parse_qs(urlsplit(self.path).query).get("signature", [""])
        hub.links[signature] += 1
        if hub.links[signature] > (hub.link_uses or sys.maxsize):
            self.answer(403, b"Request has expired", {})
        elif hub.busy_cdn:
            self.answer(hub.busy_cdn.pop(0), b"", {})
        else:
            self.body(path, data)

    def token(self) -> str:
        return (self.headers["authorization"] or "").removeprefix("Bearer ")

    def open(self) -> bool:
        if self.token() in self.hub.revoked:
            message = "Invalid credentials in Authorization header"
            self.answer(401, b"{}", {"x-error-message": message})
            return False
        if self.hub.gated is None or self.token() == self.hub.gated:
            return True
        self.refuse("GatedRepo")
        return False

    def body(self, path: str, data: bytes) -> None:
        data = self.hub.served.get(path, data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["range"] or "")
        headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "accept-ranges": "bytes"}
        if not asked or not self.hub.ranges:
            self.file(path, 200, data, headers)
            return
        begin, last = (
            int(asked[1]) + self.hub.misplaced,
            min(int(asked[2] or len(data)), len(data) - 1),
        )
        if begin >= len(data):
            self.answer(416, b"", {"content-range": f"bytes */{len(data)}"})
            return
        headers["content-range"] = f"bytes {begin}-{last}/{len(data)}"
        self.file(path, 206, data[begin : last + 1], headers)

    def file(self, path: str, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Send a file, or as much of it as the test lets through."""
        cuts = self.hub.cuts.get(path)
        cut = cuts.pop(0) if cuts else None
        self.start(status, len(data), headers)
        if self.command == "HEAD":
            return
        gate = self.hub.gates.get(path)
        if gate is not None:
            self.send(data[:gate])
            self.hub.stalled.set()
            self.hub.opened.wait(30)
        self.send(data[gate or 0 : cut])
        self.close_connection = cut is not None

    def send(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            self.hub.sent += len(piece)  # before: the client may be done before we are
            self.wfile.write(piece)

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def refuse(self, code: str) -> None:
        status, message = MESSAGES[code]
        self.answer(status, b"{}", {"x-error-code": code, "x-error-message": message})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.start(status, len(data), headers)
        if self.command == "GET":
            self.wfile.write(data)

    def start(self, status: int, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(size))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub and its CDN, each on a port of its own."""
    hub = Hub()
    handler = functools.partial(Handler, hub)
    servers = [Server(("127.0.0.1", 0), handler) for _ in range(2)]
    threads = [threading.Thread(target=s.serve_forever, args=(0.01,)) for s in servers]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.opened.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
