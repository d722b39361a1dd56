"""What registries do wrong: small faults, and when in a conversation each one strikes.

A fault steps into one exchange of a registry that is otherwise good (`registry_wire.Fault`).  A
`Script` says which exchange: by method and kind of path, the nth time it happens.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from fnmatch import fnmatchcase
from typing import Any

from tests.registry_content import Code, Manifest, Refusal
from tests.registry_wire import Exchange, Fault, Hangup, Reply, Request, Role, Slice

FOREVER = 10**6
_PAUSE = 0.002
_DROPS = 20


@dataclass(frozen=True)
class Rule:
    """`words` is a pattern over `METHOD kind`; the fault strikes from the `nth` time on."""

    words: str
    fault: Fault
    nth: int = 1
    times: int = 1
    role: Role = "registry"

    def strikes(self, count: int) -> bool:
        return self.nth <= count < self.nth + self.times


@dataclass
class Script:
    rules: tuple[Rule, ...]
    struck: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: Request) -> Fault:
        with self.lock:
            for number, rule in enumerate(self.rules):
                if rule.role == request.role and fnmatchcase(request.words, rule.words):
                    self.counts[number] = self.counts.get(number, 0) + 1
                    if rule.strikes(self.counts[number]):
                        self.struck += 1
                        return rule.fault
        return Fault()


def plain(reply: Reply) -> bytes:
    return b"".join(reply.chunks())


def visible(exchange: Exchange, reply: Reply) -> bytes:
    """The body as it is sent: none where only the head was asked for."""
    return b"" if exchange.command == "HEAD" else plain(reply)


# --- another answer ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers(Fault):
    """Answers in the registry's place, once `part` of the body has come."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    part: float = 1

    def before(self, exchange: Exchange) -> Reply | None:
        exchange.swallow(self.part)
        return Reply(self.status, self.headers, self.body)


@dataclass(frozen=True)
class Refuses(Fault):
    """Answers with an error of the specification."""

    code: Code
    part: float = 1

    def before(self, exchange: Exchange) -> Reply | None:
        exchange.swallow(self.part)
        refusal = Refusal(self.code, "as scripted")
        return Reply(refusal.status, refusal.headers, refusal.body)


@dataclass(frozen=True)
class TokenOver(Fault):
    """The token ended while the body came."""

    part: float = 1
    everyone: bool = False
    """No token that was given is taken any more."""

    def before(self, exchange: Exchange) -> Reply | None:
        exchange.swallow(self.part)
        access = exchange.registry.access
        if self.everyone:
            access.tokens.clear()
        challenge = access.challenge(exchange.needed(), "invalid_token")
        refusal = Refusal(Code.UNAUTHORIZED, headers=challenge)
        return Reply(refusal.status, refusal.headers, refusal.body)


class Echoes(Fault):
    """An error page that shows what the request carried."""

    def before(self, exchange: Exchange) -> Reply | None:
        exchange.swallow(1)
        header = exchange.request_.authorization or ""
        body = f'{{"errors": [{{"code": "DENIED", "message": "bad header {header}"}}]}}'
        return Reply(400, {"content-type": "application/json"}, body.encode())


def busy(retry_after: str = "") -> Answers:
    return Answers(429, {"retry-after": retry_after})


def date_in(seconds: float, now: float) -> str:
    return formatdate(now + seconds, usegmt=True)


# --- connections that break -------------------------------------------------------------------


@dataclass(frozen=True)
class Resets(Fault):
    """Resets the connection once `part` of the body has come."""

    part: float = 0

    def before(self, exchange: Exchange) -> Reply | None:
        if self.part:
            exchange.swallow(self.part)
        raise Hangup


class ResetsLate(Fault):
    """Does what was asked, and resets the connection before it answers."""

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        raise Hangup


class HangsUp(Fault):
    """Closes the connection after the answer and does not say so."""

    def send(self, exchange: Exchange, reply: Reply) -> None:
        exchange.send(reply)
        exchange.close_connection = True


class Drips(Fault):
    """Gives the answer byte by byte."""

    def send(self, exchange: Exchange, reply: Reply) -> None:
        exchange.send_head(reply)
        body = visible(exchange, reply)
        for position in range(min(_DROPS, len(body))):
            exchange.registry.over.wait(_PAUSE)
            exchange.wfile.write(body[position : position + 1])
        exchange.wfile.write(body[_DROPS:])


@dataclass(frozen=True)
class Stalls(Fault):
    """Gives no answer, or stops after `part` of its body."""

    part: float | None = None

    def send(self, exchange: Exchange, reply: Reply) -> None:
        if self.part is not None:
            exchange.send_head(reply)
            exchange.wfile.write(visible(exchange, reply)[: int(reply.length * self.part)])
        exchange.registry.over.wait(30)
        raise Hangup


@dataclass(frozen=True)
class Truncates(Fault):
    """Announces the whole body and closes after `part` of it."""

    part: float = 0.5

    def send(self, exchange: Exchange, reply: Reply) -> None:
        exchange.send_head(reply)
        exchange.wfile.write(visible(exchange, reply)[: int(reply.length * self.part)])
        exchange.close_connection = True


# --- answers that are not right ---------------------------------------------------------------


@dataclass(frozen=True)
class Changes(Fault):
    """Changes headers of the right answer; an empty value leaves one out."""

    headers: dict[str, str]

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        return reply.plus(self.headers)


@dataclass(frozen=True)
class Changed(Fault):
    """Changes the right answer by a function."""

    change: Callable[[Exchange, Reply], Reply]

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        return self.change(exchange, reply)


def other_bytes(_: Exchange, reply: Reply) -> Reply:
    return Reply(reply.status, reply.headers, bytes(reply.length))


def shorter(_: Exchange, reply: Reply) -> Reply:
    return Reply(reply.status, reply.headers, plain(reply)[:-10])


def longer(_: Exchange, reply: Reply) -> Reply:
    return Reply(reply.status, reply.headers, plain(reply) + b"and more")


def whole(exchange: Exchange, reply: Reply) -> Reply:
    """As if no range had been asked for."""
    path = exchange.registry.content.path(exchange.request_.last)
    headers = {name: value for name, value in reply.headers.items() if name != "content-range"}
    return Reply(200, headers, Slice(path, 0, path.stat().st_size))


def another_part(_: Exchange, reply: Reply) -> Reply:
    """A later part than the one asked for."""
    span = reply.headers.get("content-range", "bytes 0-0/0")
    first, last = map(int, span.removeprefix("bytes ").split("/")[0].split("-"))
    moved = f"bytes {first + 7}-{last}/{span.rpartition('/')[2]}"
    return Reply(206, reply.headers | {"content-range": moved}, plain(reply)[7:])


def relative(_: Exchange, reply: Reply) -> Reply:
    location = reply.headers["location"]
    return reply.plus({"location": location[location.index("/v2/") :]})


@dataclass(frozen=True)
class Sends(Fault):
    """Sends the client to another of the servers, for good uploads and downloads."""

    role: Role
    status: int | None = None

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        urls = exchange.registry.urls
        if self.status:
            return Reply(self.status, {"location": urls[self.role] + exchange.path})
        location = reply.headers["location"].replace(urls["registry"], urls[self.role])
        return reply.plus({"location": location})


class Loops(Fault):
    """Redirects to where the client comes from."""

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        return Reply(307, {"location": exchange.path})


class SaysThere(Fault):
    """Has every blob, to hear it: the size is the one that the client hopes for."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def before(self, exchange: Exchange) -> Reply | None:
        size = self.sizes[exchange.request_.last]
        return Reply(200, {"content-length": str(size)})


class SaysMounted(Fault):
    """Answers a mount with 201 and has no blob."""

    def before(self, exchange: Exchange) -> Reply | None:
        digest = exchange.query("mount")[0]
        return Reply(201, {"location": f"/v2/x/blobs/{digest}", "docker-content-digest": digest})


class OpensUpload(Fault):
    """Answers a mount with 202: the client may send."""

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        repository = exchange.request_.repository
        name = exchange.registry.content.start(repository)
        location = f"{exchange.registry.urls['registry']}/v2/{repository}/blobs/uploads/{name}"
        return Reply(202, {"location": f"{location}?_state=0"})


@dataclass(frozen=True)
class MovesTag(Fault):
    """Somebody else moves the tag as soon as ours is stored."""

    other: bytes

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        request, content = exchange.request_, exchange.registry.content
        media_type = request.headers["content-type"]
        content.put_manifest(request.repository, request.last, Manifest(self.other, media_type))
        return reply


@dataclass(frozen=True)
class Grants(Fault):
    """Changes what the token service says."""

    fields: dict[str, Any]

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        given = json.loads(plain(reply)) | self.fields
        kept = {name: value for name, value in given.items() if value is not None}
        return Reply(reply.status, reply.headers, json.dumps(kept).encode())
