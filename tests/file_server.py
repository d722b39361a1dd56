"""A web server on this machine: serves what a test puts there, and does wrong when told to."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    method: str
    path: str
    span: str | None
    accept: str
    user: str | None


@dataclass
class Site:
    """What is served; tests change it between requests."""

    pages: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    """An answer without content, by path."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """After how many bytes the next connections break, by path."""
    stalls: dict[str, int] = field(default_factory=dict)
    """After how many bytes nothing more comes until the end of the test."""
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    sent: int = 0
    """Bytes of bodies."""
    stalled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def spans(self) -> list[str | None]:
        return [request.span for request in self.requests]

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        site, path = self.site, self.path
        span = self.headers.get("range")
        _, _, user = self.headers.get("authorization", "").partition("Basic ")
        name = base64.b64decode(user).decode() if user else None
        accept = self.headers.get("accept", "")
        site.requests.append(Request(self.command, path, span, accept, name))
        body = site.pages.get(path)
        status = site.status.get(path, 200 if body is not None else 404)
        if status != 200 or body is None:
            self.plain(status, b"", {})
            return
        first, _, last = span.removeprefix("bytes=").partition("-") if span else ("0", "", "")
        start = int(first) if site.ranges else 0
        end = min(int(last) + 1, len(body)) if last and site.ranges else len(body)
        if start and start >= len(body):
            self.plain(416, b"", {"content-range": f"bytes */{len(body)}"})
            return
        headers = {"content-type": site.types.get(path, "application/octet-stream")}
        is_part = bool(span) and site.ranges
        if is_part:
            headers["content-range"] = f"bytes {start}-{end - 1}/{len(body)}"
        part = body[start:end] if with_body else b""
        headers["content-length"] = str(end - start)
        self.plain(206 if is_part else 200, part, headers)

    def plain(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        cuts = self.site.cuts.get(self.path)
        cut = cuts.pop(0) if cuts and body else None
        stall = self.site.stalls.get(self.path) if body else None
        self.send(body[:cut] if stall is None else body[:stall])
        if stall is not None:
            self.site.stalled.set()
            self.site.over.wait(30)
        self.close_connection = cut is not None or stall is not None

    def send(self, body: bytes) -> None:
        self.site.sent += len(body)
        self.wfile.write(body)
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    handler = type("Bound", (Handler,), {"site": site})
    with Server(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site
        finally:
            site.over.set()
            server.shutdown()
            thread.join()
