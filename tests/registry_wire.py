"""One exchange between a client and the registry of the tests, and how a fault steps into it.

An exchange has three moments: before the body is read, after the registry has made its answer,
and while that answer is sent.  A fault may act at each.
"""

import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.registry_content import Right
    from tests.registry_server import Registry

Role = Literal["registry", "token", "elsewhere", "plain"]
ROLES: tuple[Role, ...] = ("registry", "token", "elsewhere", "plain")
_PATHS = {
    "upload": r"/v2/(?P<name>.+)/blobs/uploads/(?P<last>[0-9a-f-]+)",
    "uploads": r"/v2/(?P<name>.+)/blobs/uploads/(?P<last>)",
    "blob": r"/v2/(?P<name>.+)/blobs/(?P<last>sha256:[0-9a-f]{64})",
    "manifest": r"/v2/(?P<name>.+)/manifests/(?P<last>[^/]+)",
    "tags": r"/v2/(?P<name>.+)/tags/(?P<last>)list",
    "referrers": r"/v2/(?P<name>.+)/referrers/(?P<last>sha256:[0-9a-f]{64})",
    "ping": r"/v2/(?P<name>)(?P<last>)",
    "token": r"/(?P<name>)(?P<last>)token",
}
_BLOCK = 1 << 16
_LINGER = 1.0
"""Seconds for which a client may go on sending after it was answered."""


@dataclass
class Request:
    """What the registry writes down of a request."""

    role: Role
    method: str
    target: str
    kind: str
    repository: str
    last: str
    """The digest, the reference or the upload that the path ends in."""
    headers: dict[str, str]
    received: int = 0
    """Bytes of the body."""
    status: int = 0
    """What was answered; 0 if the connection was cut."""

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    @property
    def words(self) -> str:
        return f"{self.method} {self.kind}"


def read_request(role: Role, method: str, target: str, headers: dict[str, str]) -> Request:
    path = urlsplit(target).path
    for kind, pattern in _PATHS.items():
        if found := re.fullmatch(pattern, path):
            return Request(role, method, target, kind, found["name"], found["last"], headers)
    return Request(role, method, target, "other", "", "", headers)


@dataclass(frozen=True)
class Slice:
    """Part of a file."""

    path: Path
    start: int
    length: int

    def chunks(self) -> Iterator[bytes]:
        left = self.length
        with self.path.open("rb") as file:
            file.seek(self.start)
            while chunk := file.read(min(_BLOCK, left)):
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    """Lower-case names; an empty value leaves the header out."""
    body: bytes | Slice = b""

    def plus(self, headers: dict[str, str]) -> "Reply":
        return replace(self, headers=self.headers | headers)

    def chunks(self) -> Iterator[bytes]:
        return self.body.chunks() if isinstance(self.body, Slice) else iter([self.body])

    @property
    def length(self) -> int:
        return self.body.length if isinstance(self.body, Slice) else len(self.body)


class Hangup(Exception):  # noqa: N818 - meant to happen
    """The connection is to be reset."""


class Exchange(BaseHTTPRequestHandler):
    """A connection with its requests, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: "Registry"
    role: Role
    request_: Request
    unread: bool
    """Whether the body, or part of it, is still on its way."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_ = read_request(self.role, self.command, self.path, headers)
        self.unread = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        fault = self.fault()
        try:
            reply = fault.before(self) or fault.after(self, self.reply())
            self.request_.status = reply.status
            fault.send(self, reply)
            if self.unread:
                self.linger()
        except Hangup:
            self.reset()
        except OSError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def fault(self) -> "Fault":
        raise NotImplementedError

    def reply(self) -> Reply:
        raise NotImplementedError

    def query(self, name: str) -> list[str]:
        return parse_qs(urlsplit(self.path).query).get(name, [])

    def needed(self) -> "frozenset[Right]":
        """What a client must be allowed to do."""
        request = self.request_
        if request.kind == "ping":
            return frozenset()
        acts = {"GET": ["pull"], "HEAD": ["pull"], "DELETE": ["delete"]}
        rights = {(request.repository, act) for act in acts.get(request.method, ["pull", "push"])}
        return frozenset(rights | {(name, "pull") for name in self.query("from")})

    def body(self) -> Iterator[bytes]:
        if "transfer-encoding" in self.request_.headers:
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            yield from self.read(int(self.request_.headers.get("content-length", 0)))
        self.unread = False

    def read(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes of the connection."""
        while size:
            chunk = self.rfile.read(min(size, _BLOCK))
            if not chunk:
                raise Hangup
            size -= len(chunk)
            self.request_.received += len(chunk)
            yield chunk

    def swallow(self, part: float) -> None:
        """Read part of the body and forget it; of a body that has bytes, one at least."""
        length = int(self.request_.headers.get("content-length", 0))
        most = length if part == 1 else min(max(int(length * part), 1), length - 1)
        for _chunk in self.read(max(most, 0)):
            pass
        self.unread = most < length

    def send(self, reply: Reply) -> None:
        self.send_head(reply)
        if self.command != "HEAD":
            for chunk in reply.chunks():
                self.wfile.write(chunk)

    def send_head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        length = {} if reply.status == 204 else {"content-length": str(reply.length)}
        for name, value in (length | reply.headers).items():
            if value:
                self.send_header(name, value)
        if self.unread:
            self.send_header("connection", "close")
        self.end_headers()

    def linger(self) -> None:
        """Take what the client still sends, so that it can read the answer."""
        self.close_connection = True
        self.connection.settimeout(_LINGER)
        if not isinstance(self.connection, ssl.SSLSocket):
            self.connection.shutdown(socket.SHUT_WR)
        while chunk := self.connection.recv(_BLOCK):
            self.request_.received += len(chunk)

    def reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            at_once = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            self.connection.close()


class Fault:
    """What goes wrong in one exchange: as it stands, nothing."""

    def before(self, exchange: Exchange) -> Reply | None:
        """May answer in the registry's place, the body unread."""

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        return reply

    def send(self, exchange: Exchange, reply: Reply) -> None:
        exchange.send(reply)
