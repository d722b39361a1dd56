"""What the client of registries does over real connections, when all is well and when it is not."""

import base64
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from builder import catalogue, digest
from builder.digest import Digest
from builder.errors import HostError, IntegrityError
from builder.oci import transport
from builder.oci.profiles import profile
from builder.oci.refusals import (
    BrokenError,
    BusyError,
    DigestError,
    ForbiddenError,
    NotFoundError,
    RegistryError,
    RejectedError,
    TooLargeError,
    UnfitError,
    UntrustedError,
    clean,
    reasons,
)
from builder.oci.registry import Repository, Settings
from builder.oci.upload import pieces
from builder.reference import Reference
from tests.registry_server import Registry, Ways, certificate, serving
from tests.registry_wire import Exchange, Fault, Hangup, Reply, Request

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
DATA = hashlib.shake_256(b"a layer").digest(3 << 20)
DIGEST = digest.of_bytes(DATA)
USER, PASSWORD = "ada", "pass-phrase-of-ada"
ROOT = Path(__file__).parents[1]


@dataclass
class Script(Fault):
    """Steps in at the first requests of a kind (`PUT upload`), as often as there are answers."""

    words: str
    answers: Sequence[Callable[[Exchange], Reply | None]]
    taken: int = 0

    def take(self, request: Request) -> Fault:
        left = self.taken < len(self.answers)
        return self if request.words == self.words and left else Fault()

    def before(self, exchange: Exchange) -> Reply | None:
        self.taken += 1
        return self.answers[self.taken - 1](exchange)


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[Exchange], Reply]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Reply(status, named, body)


def whole(status: int, body: bytes = b"", **headers: str) -> Callable[[Exchange], Reply]:
    """An answer after everything was read."""

    def act(exchange: Exchange) -> Reply:
        list(exchange.body())
        return answer(status, body, **headers)(exchange)

    return act


def cut(count: int) -> Callable[[Exchange], Reply]:
    """Reset the connection after so many bytes of the body."""

    def act(exchange: Exchange) -> Reply:
        list(exchange.read(count))
        raise Hangup

    return act


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "{}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def repository(server: Registry, waits: list[float]) -> Repository:
    return opened(server, waits)


def opened(server: Registry, waits: list[float], **settings: Any) -> Repository:
    chosen = Settings(sleep=waits.append, random=lambda: 0.0, **settings)
    return Repository.open(Reference(server.host, "demo"), chosen)


def send(repository: Repository, data: bytes = DATA) -> tuple[int, int]:
    """Upload `data`; return what was sent again, and where progress ended."""
    moved: list[int] = []
    again = repository.upload(digest.of_bytes(data), len(data), lambda: blocks(data), moved.append)
    return again, sum(moved)


def blocks(data: bytes, size: int = 1 << 18) -> Iterator[bytes]:
    yield from (data[at : at + size] for at in range(0, len(data), size))


def stored(server: Registry) -> bytes:
    return server.content.blob("demo", DIGEST).read_bytes()


# --- uploads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, b"", b"x"], ids=["large", "empty", "small"])
def test_a_blob_is_sent_in_one_stream(
    server: Registry, repository: Repository, data: bytes
) -> None:
    assert send(repository, data) == (0, len(data))
    put = server.requests[-1]
    assert server.words() == ["GET ping", "POST uploads", "PUT upload"]
    assert put.headers["content-length"] == str(len(data))
    assert put.headers["content-type"] == "application/octet-stream"
    assert "transfer-encoding" not in put.headers
    assert parse_qs(urlsplit(put.target).query)["_state"] == ["0"]
    assert repository.blob_size(digest.of_bytes(data)) == len(data)


def test_small_chunks_are_joined() -> None:
    joined = list(pieces([b"a", b"b" * (1 << 20), b"", b"c" * (1 << 20), b"d"]))
    assert [len(piece) for piece in joined] == [(1 << 20) + 1, 1 << 20, 1]


@pytest.mark.parametrize("count", [0, 70_000, len(DATA)])
def test_a_broken_upload_begins_again(
    server: Registry, repository: Repository, waits: list[float], count: int
) -> None:
    server.plan = Script("PUT upload", [cut(count)])
    again, moved = send(repository)
    assert (moved, waits, stored(server)) == (len(DATA), [0.5], DATA)
    assert again <= len(DATA)


def test_what_the_registry_got_is_not_sent_again(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    def keep(exchange: Exchange) -> Reply:
        data = b"".join(exchange.body())
        server.content.add_blob("demo", data)
        raise Hangup

    server.plan = Script("PUT upload", [keep])
    assert send(repository) == (0, len(DATA))
    assert server.received() == len(DATA)


def test_a_blob_that_is_mounted_at_once_is_done(server: Registry, repository: Repository) -> None:
    server.plan = Script("POST uploads", [answer(201, docker_content_digest=DIGEST)])
    assert send(repository) == (0, len(DATA))
    assert server.words()[-1] == "POST uploads"


@pytest.mark.parametrize("status", [404, 408, 416, 429, 500, 503])
def test_an_upload_that_may_pass_is_made_again(
    server: Registry, repository: Repository, waits: list[float], status: int
) -> None:
    server.plan = Script("PUT upload", [answer(status)])
    _, moved = send(repository)
    assert (moved, waits, stored(server)) == (len(DATA), [0.5], DATA)
    assert "DELETE upload" in server.words()


def test_attempts_end(server: Registry, repository: Repository, waits: list[float]) -> None:
    server.plan = Script("PUT upload", [whole(500)] * 9)
    with pytest.raises(BusyError) as caught:
        send(repository)
    assert caught.value.message == (
        f"{server.host}/demo: the registry refused blob {DIGEST}: answered 500 (6 attempts)"
    )
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert server.content.uploads == {}


def test_an_early_refusal_is_reported_as_it_is(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    """The layer is larger than what fits into the buffers between the two sides."""
    large = 1 << 28
    made = []

    def chunks() -> Iterator[bytes]:
        for _ in range(large >> 20):
            made.append(1)
            yield bytes(1 << 20)

    server.plan = Script("PUT upload", [answer(413)])
    with pytest.raises(TooLargeError) as caught:
        repository.upload(DIGEST, large, chunks, lambda _: None)
    assert caught.value.message == (
        f"{server.host}/demo: the registry refuses a layer of {large} bytes (268.4 MB)"
    )
    assert "client_max_body_size" in caught.value.hint
    assert len(made) < large >> 20
    assert waits == []


def test_an_early_refusal_is_read_over_tls(tmp_path: Path, waits: list[float]) -> None:
    pem = certificate(tmp_path)
    with serving(tmp_path, pem) as server:
        repository = opened(server, waits, certificates=str(pem))
        server.plan = Script("PUT upload", [answer(403)])
        with pytest.raises(ForbiddenError):
            repository.upload(DIGEST, 1 << 28, lambda: [bytes(1 << 20)] * 256, lambda _: None)


def test_an_early_refusal_is_read_from_a_connection_that_broke(
    server: Registry, repository: Repository
) -> None:
    class Rude(Script):
        def send(self, exchange: Exchange, reply: Reply) -> None:
            exchange.send(reply)
            raise Hangup

    server.plan = Rude("PUT upload", [answer(403)])
    with pytest.raises(ForbiddenError):
        repository.upload(DIGEST, 1 << 28, lambda: [bytes(1 << 20)] * 256, lambda _: None)


def test_a_token_that_ends_in_an_upload_is_renewed(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.plan = Script("PUT upload", [answer(401)])
    _, moved = send(repository)
    assert (moved, waits, stored(server)) == (len(DATA), [], DATA)


def test_who_is_not_let_in_is_told_so(server: Registry, repository: Repository) -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "quota used up."}]}'
    server.plan = Script("POST uploads", [answer(403, body)])
    with pytest.raises(ForbiddenError) as caught:
        send(repository)
    assert caught.value.message == (
        f"{server.host}/demo: the registry refused blob {DIGEST}: denied: quota used up"
    )
    assert caught.value.hint.startswith("ask its owner for the right to push")


def test_a_registry_that_says_yes_too_early(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.plan = Script("PUT upload", [answer(201)])
    large = b"\0" * (1 << 25)
    _, moved = send(repository, large)
    assert moved == len(large)
    assert server.content.blob("demo", digest.of_bytes(large)).stat().st_size == len(large)


def test_another_digest_is_an_error(server: Registry, repository: Repository) -> None:
    other = digest.of_bytes(b"other")
    server.plan = Script("PUT upload", [whole(201, docker_content_digest=other)])
    with pytest.raises(DigestError) as caught:
        send(repository)
    assert caught.value.message == (
        f"{server.host}/demo: expected {DIGEST}, the registry stored {other}"
    )


class OwnError(Exception):
    """A fault of the source."""


@pytest.mark.parametrize(
    "fault",
    [
        IntegrityError("model.safetensors: expected a, got b"),
        OSError(errno.EIO, "bad disk"),
        BrokenPipeError(),
        ConnectionResetError(),
        TimeoutError(),
        OwnError(),
        RegistryError("another registry"),
        BusyError("another registry"),
        KeyboardInterrupt(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_the_source_passes_unchanged(
    server: Registry, repository: Repository, waits: list[float], fault: BaseException
) -> None:
    def chunks() -> Iterator[bytes]:
        yield DATA
        raise fault

    with pytest.raises(type(fault)) as caught:
        repository.upload(DIGEST, len(DATA) + 1, chunks, lambda _: None)
    assert caught.value is fault
    assert waits == []
    assert server.words().count("PUT upload") <= 1
    if isinstance(fault, Exception):
        # The PUT that was cut may be noted by its own thread after the end of the upload.
        assert server.words().count("DELETE upload") == 1
        assert server.content.uploads == {}


@pytest.mark.parametrize(("size", "got"), [(len(DATA) - 1, "over"), (len(DATA) + 1, "")])
def test_no_other_number_of_bytes_is_sent(
    server: Registry, repository: Repository, size: int, got: str
) -> None:
    with pytest.raises(IntegrityError) as caught:
        repository.upload(DIGEST, size, lambda: blocks(DATA), lambda _: None)
    count = f"over {size}" if got else str(len(DATA))
    assert caught.value.message == (
        f"{server.host}/demo: blob {DIGEST}: expected {size} bytes, got {count}"
    )


def test_an_interrupt_ends_an_upload_at_once(server: Registry, repository: Repository) -> None:
    def stall(exchange: Exchange) -> Reply:
        next(exchange.read(1))
        os.kill(os.getpid(), signal.SIGINT)
        server.over.wait(10)
        raise Hangup

    server.plan = Script("PUT upload", [stall])
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        repository.upload(DIGEST, 1 << 28, lambda: [bytes(1 << 20)] * 256, lambda _: None)
    server.over.set()
    assert time.monotonic() - begin < 5


def test_an_upload_may_lead_elsewhere_without_credentials(
    server: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.access.mode = "basic"
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = {"auths": {server.host: {"auth": pair}}}
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(config))
    repository = opened(server, [])

    def lead(exchange: Exchange) -> Reply:
        name = server.content.start("demo")
        url = f"{server.urls['elsewhere']}/v2/demo/blobs/uploads/{name}?_state=0"
        return Reply(202, {"location": url})

    server.plan = Script("POST uploads", [lead])
    send(repository)
    put = server.requests[-1]
    assert (put.role, put.words, put.authorization) == ("elsewhere", "PUT upload", None)
    assert stored(server) == DATA


@pytest.mark.parametrize("location", ["", "ftp://nowhere/x", "http://[::1/x", "http://:99999999/x"])
def test_a_location_that_is_none(server: Registry, repository: Repository, location: str) -> None:
    server.plan = Script("POST uploads", [answer(202, location=location)])
    with pytest.raises(UnfitError):
        send(repository)


def test_an_upload_holds_little_memory(server: Registry, repository: Repository) -> None:
    def take(exchange: Exchange) -> Reply:
        for _ in exchange.body():
            pass
        return Reply(201)

    server.plan = Script("PUT upload", [take])
    piece = bytes(1 << 20)
    tracemalloc.start()
    try:
        repository.upload(DIGEST, 100 << 20, lambda: (piece for _ in range(100)), lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


# --- waiting --------------------------------------------------------------------------------------


def test_a_registry_is_left_alone_as_long_as_it_asks(
    server: Registry,
    repository: Repository,
    waits: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    busy = [
        answer(429, retry_after="20"),
        answer(503, retry_after=date),
        answer(500, retry_after="x"),
    ]
    server.plan = Script("GET tags", busy)
    server.content.add_blob("demo", b"x")
    assert repository.tags() == ()
    assert waits[0] == 20.0
    assert 90 < waits[1] <= 100
    assert waits[2] == 2.0
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == (
        f"{server.host}/demo: the registry refused the list of tags: answered 429; "
        "trying again in 20.0 s"
    )
    assert len(notes) == 3


def test_nobody_waits_for_an_hour(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.plan = Script("GET tags", [answer(429, retry_after="3600")])
    with pytest.raises(BusyError, match="it asks to be left alone for 1 h 0 min"):
        repository.tags()
    assert waits == []


@pytest.mark.parametrize("status", [400, 405, 501, 505])
def test_what_does_not_pass_is_not_asked_again(
    server: Registry, repository: Repository, waits: list[float], status: int
) -> None:
    server.plan = Script("PUT manifest", [whole(status)])
    with pytest.raises(RejectedError) as caught:
        repository.put_manifest(b"{}", MANIFEST_TYPE, "1.0")
    assert caught.value.status == status
    assert waits == []


# --- mounts ---------------------------------------------------------------------------------------


def test_a_blob_is_mounted(server: Registry, repository: Repository) -> None:
    server.content.add_blob("other/name", DATA)
    assert repository.mount(DIGEST, "other/name")
    assert stored(server) == DATA


def test_a_mount_that_became_an_upload_is_cancelled(
    server: Registry, repository: Repository
) -> None:
    assert not repository.mount(DIGEST, "other")
    assert server.words()[-2:] == ["POST uploads", "DELETE upload"]
    assert server.content.uploads == {}


@pytest.mark.parametrize("status", [202, 400, 401, 403, 404, 405, 500])
def test_a_mount_that_is_not_a_yes_is_a_no(
    server: Registry, repository: Repository, status: int
) -> None:
    server.plan = Script("POST uploads", [answer(status)] * 4)
    assert not repository.mount(DIGEST, "other")


# --- blobs ----------------------------------------------------------------------------------------


@dataclass
class Torn(Fault):
    """Answers to GET of a blob end early, after so many bytes."""

    ends: list[int]

    def take(self, request: Request) -> Fault:
        return self if request.words == "GET blob" and self.ends else Fault()

    def send(self, exchange: Exchange, reply: Reply) -> None:
        exchange.send_head(reply)
        left = self.ends.pop(0)
        for chunk in reply.chunks():
            exchange.wfile.write(chunk[:left])
            left -= min(left, len(chunk))
        exchange.close_connection = True


def pull(repository: Repository) -> bytes:
    return b"".join(repository.blob(DIGEST, len(DATA)))


def test_a_broken_download_goes_on_where_it_stopped(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.content.add_blob("demo", DATA)
    server.plan = Torn([1 << 20, 0, 1 << 20])
    assert pull(repository) == DATA
    spans = [each.headers.get("range") for each in server.requests if each.words == "GET blob"]
    assert spans[0] is None
    assert len(spans) == 4
    assert all(span and int(span[6:-1]) > 0 for span in spans[1:])


def test_downloads_that_give_nothing_end(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.content.add_blob("demo", DATA)
    server.plan = Torn([0] * 20)
    with pytest.raises(BrokenError, match=r"\(6 attempts\)"):
        pull(repository)


def test_a_registry_without_ranges(server: Registry, repository: Repository) -> None:
    server.content.add_blob("demo", DATA)

    class Plan(Torn):
        def take(self, request: Request) -> Fault:
            request.headers.pop("range", None)
            return super().take(request)

    server.plan = Plan([1 << 20])
    assert pull(repository) == DATA
    assert server.words().count("GET blob") == 2


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (DATA[:-1], f"blob {DIGEST}: expected {len(DATA)} bytes, got {len(DATA) - 1}"),
        (DATA + b"x", f"blob {DIGEST}: expected {len(DATA)} bytes, got {len(DATA) + 1}"),
        (DATA[:-1] + b"x", f"expected blob {DIGEST}, got {digest.of_bytes(DATA[:-1] + b'x')}"),
    ],
    ids=["short", "long", "other"],
)
def test_other_bytes_are_found_out(
    server: Registry, repository: Repository, waits: list[float], data: bytes, fault: str
) -> None:
    server.plan = Script("GET blob", [answer(200, data)])
    with pytest.raises(IntegrityError) as caught:
        pull(repository)
    assert caught.value.message == f"{server.host}/demo: {fault}"
    assert waits == []


class Chunked(Fault):
    """Answers to GET of a blob do not say how long they are."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, request: Request) -> Fault:
        return self if request.words == "GET blob" else Fault()

    def send(self, exchange: Exchange, reply: Reply) -> None:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        exchange.wfile.write(head + b"%x\r\n%b\r\n" % (len(self.data), self.data))
        exchange.close_connection = True


def test_a_blob_that_has_come_whole_needs_no_end(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.content.add_blob("demo", DATA)
    server.plan = Chunked(DATA)
    assert pull(repository) == DATA
    assert (server.words().count("GET blob"), waits) == (1, [])


def test_a_blob_without_a_length_may_be_too_long(server: Registry, repository: Repository) -> None:
    server.content.add_blob("demo", DATA)
    server.plan = Chunked(DATA + b"x")
    with pytest.raises(IntegrityError, match=f"expected {len(DATA)} bytes, got {len(DATA) + 1}"):
        pull(repository)


def test_a_range_that_was_not_asked_for(server: Registry, repository: Repository) -> None:
    span = f"bytes 5-{len(DATA) - 1}/{len(DATA)}"
    server.plan = Script("GET blob", [answer(206, DATA[5:], content_range=span)])
    with pytest.raises(UnfitError, match="asked for bytes from 0 on, got those from 5 on"):
        pull(repository)


def test_a_redirect_elsewhere_takes_no_credentials(
    server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.access.mode = "bearer"
    server.redirect = True
    server.content.add_blob("demo", DATA)
    assert pull(opened(server, [])) == DATA
    seen = [(each.role, each.authorization is None) for each in server.requests]
    assert seen[-2:] == [("registry", False), ("elsewhere", True)]


def test_redirects_end(server: Registry, repository: Repository) -> None:
    server.plan = plan = Script("GET blob", [answer(307, location="?again")] * 9)
    with pytest.raises(UnfitError, match="over 5 redirects"):
        pull(repository)
    assert plan.taken == 6


def test_nothing_leads_from_https_to_http(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    with serving(tmp_path, pem) as server:
        server.content.add_blob("demo", DATA)
        repository = opened(server, [], certificates=str(pem))
        plain = server.urls["plain"] + f"/v2/demo/blobs/{DIGEST}"
        server.plan = Script("GET blob", [answer(307, location=plain)])
        with pytest.raises(UnfitError, match="leads from https to `http://localhost`"):
            pull(repository)
        server.plan = Script("POST uploads", [answer(202, location=plain)])
        with pytest.raises(UnfitError, match="leads from https to `http://localhost`"):
            send(repository)
        assert not server.words("plain")


def test_the_size_of_a_blob_behind_an_address_for_get_alone(
    server: Registry, repository: Repository
) -> None:
    server.content.add_blob("demo", DATA)
    server.plan = Script("HEAD blob", [answer(403)])
    assert repository.blob_size(DIGEST) == len(DATA)


def test_a_blob_that_is_not_there(server: Registry, repository: Repository) -> None:
    assert repository.blob_size(DIGEST) is None
    with pytest.raises(NotFoundError) as caught:
        pull(repository)
    assert caught.value.message.startswith(f"{server.host}/demo: the registry refused blob")


# --- manifests ------------------------------------------------------------------------------------


def put(repository: Repository, tag: str = "1.0", **more: Any) -> tuple[bytes, Digest]:
    repository.upload(digest.of_bytes(b"{}"), 2, lambda: [b"{}"], lambda _: None)
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest.of_bytes(b"{}"),
        "size": 2,
    }
    fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": []}
    data = json.dumps(fields | more).encode()
    reference = tag or digest.of_bytes(data)
    return data, repository.put_manifest(data, MANIFEST_TYPE, reference)


def test_a_manifest_comes_back_as_it_was(repository: Repository) -> None:
    data, name = put(repository)
    found = repository.manifest("1.0")
    assert (found.data, found.media_type, found.digest) == (data, MANIFEST_TYPE, name)
    assert repository.manifest(name) == found
    assert repository.tags() == ("1.0",)


def test_another_manifest_than_was_asked_for(server: Registry, repository: Repository) -> None:
    server.plan = Script("GET manifest", [answer(200, b"{}")])
    with pytest.raises(IntegrityError, match=f"manifest {DIGEST}: expected {DIGEST}, got sha256:"):
        repository.manifest(DIGEST)


def test_a_manifest_that_is_not_what_its_header_says(
    server: Registry, repository: Repository
) -> None:
    server.plan = Script("GET manifest", [answer(200, b"{}", docker_content_digest=DIGEST)])
    with pytest.raises(IntegrityError, match=f"manifest 1.0: expected {DIGEST}, got sha256:"):
        repository.manifest("1.0")


def test_a_type_in_the_manifest_stands_in_for_none_outside(
    server: Registry, repository: Repository
) -> None:
    body = json.dumps({"mediaType": INDEX_TYPE}).encode()
    server.plan = Script("GET manifest", [answer(200, body, content_type="application/json; a=b")])
    assert repository.manifest("1.0").media_type == INDEX_TYPE


def test_a_manifest_has_an_end(server: Registry, repository: Repository) -> None:
    server.plan = Script("GET manifest", [answer(200, bytes((4 << 20) + 1))])
    with pytest.raises(UnfitError, match="answered with over 4194304 bytes"):
        repository.manifest("1.0")


def test_the_registry_stored_another_manifest(server: Registry, repository: Repository) -> None:
    server.plan = Script("PUT manifest", [whole(201, docker_content_digest=DIGEST)])
    with pytest.raises(DigestError, match=f"the registry stored {DIGEST}"):
        repository.put_manifest(b"{}", MANIFEST_TYPE, "1.0")


def test_a_manifest_is_put_again(
    server: Registry, repository: Repository, waits: list[float]
) -> None:
    server.plan = Script("PUT manifest", [whole(502), cut(1)])
    put(repository)
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("ways", [Ways(), Ways(referrers=False)], ids=["api", "tag"])
def test_referrers(server: Registry, repository: Repository, ways: Ways) -> None:
    server.ways = ways
    data, subject = put(repository)
    fields = {"digest": subject, "size": len(data), "mediaType": MANIFEST_TYPE}
    made = {
        kind: put(repository, "", subject=fields, artifactType=kind)
        for kind in ("example/sbom", "example/signature")
    }
    if not ways.referrers:
        listed = [
            {"mediaType": MANIFEST_TYPE, "digest": name, "size": len(text), "artifactType": kind}
            for kind, (text, name) in made.items()
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed}
        tag = subject.replace(":", "-")
        repository.put_manifest(json.dumps(index).encode(), INDEX_TYPE, tag)
    everything = {entry["digest"] for entry in repository.referrers(subject)}
    assert everything == {name for _, name in made.values()}
    [one] = repository.referrers(subject, "example/sbom")
    assert one["digest"] == made["example/sbom"][1]


def test_a_registry_that_does_not_filter(server: Registry, repository: Repository) -> None:
    entries = [{"artifactType": "a"}, {"artifactType": "b"}, {}]
    server.plan = Script(
        "GET referrers", [answer(200, json.dumps({"manifests": entries}).encode())]
    )
    assert repository.referrers(DIGEST, "a") == ({"artifactType": "a"},)


def test_nothing_refers(server: Registry, repository: Repository) -> None:
    assert repository.referrers(DIGEST) == ()
    server.ways = Ways(referrers=False)
    assert repository.referrers(DIGEST) == ()


def test_lists_come_in_pages(server: Registry, repository: Repository) -> None:
    pages = [
        answer(200, b'{"tags": ["a"]}', link='</v2/demo/tags/list?last=a>; rel="next"'),
        answer(200, b'{"tags": ["b"]}', link="<?last=b>; rel=next"),
        answer(200, b'{"tags": null}'),
    ]
    server.plan = Script("GET tags", pages)
    assert repository.tags() == ("a", "b")
    assert [urlsplit(each.target).query for each in server.requests[1:]] == ["", "last=a", "last=b"]


@pytest.mark.parametrize(
    ("body", "link"),
    [
        (b"<html>", ""),
        (b"[]", ""),
        (b'{"tags": "a"}', ""),
        (b'{"tags": []}', "</v2/demo/tags/list>; rel=next"),
        (b'{"tags": []}', "<http://elsewhere.invalid/>; rel=next"),
    ],
)
def test_lists_that_are_none(
    server: Registry, repository: Repository, body: bytes, link: str
) -> None:
    server.plan = Script("GET tags", [answer(200, body, link=link)])
    with pytest.raises(UnfitError, match="unreadable answer"):
        repository.tags()


# --- opening --------------------------------------------------------------------------------------


def test_what_is_no_registry(server: Registry, waits: list[float]) -> None:
    server.plan = Script("GET ping", [answer(404)] * 2)
    with pytest.raises(UnfitError) as caught:
        opened(server, waits)
    assert caught.value.message == f"{server.host}: not a registry: `/v2/` answered 404"


def test_nobody_is_there(waits: list[float]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BrokenError) as caught:
            Repository.open(
                Reference(host, "demo"), Settings(sleep=waits.append, random=lambda: 0.0)
            )
    assert caught.value.message == (
        f"{host}/demo: the connection to {host} failed: connection refused (3 attempts)"
    )
    assert waits == [0.5, 1.0]


def test_http_elsewhere_must_be_asked_for(
    server: Registry, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.oci.session.is_loopback", lambda host: False)
    with pytest.raises(UnfitError) as caught:
        opened(server, waits)
    assert caught.value.message == f"{server.host}/demo: the registry does not speak https"
    assert caught.value.hint.endswith(f"--insecure-registry {server.host}")
    opened(server, waits, plain_http=frozenset({server.host}))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:5000", True),
        ("a.localhost:5000", True),
        ("127.8.9.1:80", True),
        ("[::1]:5000", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("ghcr.io", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, expected: bool) -> None:
    assert transport.is_loopback(host) == expected


def test_a_certificate_that_is_not_trusted(tmp_path: Path, waits: list[float]) -> None:
    pem = certificate(tmp_path)
    with serving(tmp_path, pem) as server:
        with pytest.raises(UntrustedError) as caught:
            opened(server, waits)
        assert "its certificate is not trusted: self-signed certificate" in caught.value.message
        assert f"/etc/docker/certs.d/{server.host}/ca.crt" in caught.value.hint
        assert waits == []
        opened(server, waits, certificates=str(pem))


def test_docker_s_own_certificates_are_trusted(
    tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    monkeypatch.setattr(transport, "_DOCKER_CERTIFICATES", tmp_path)
    with serving(tmp_path, pem) as server:
        folder = tmp_path / server.host
        folder.mkdir()
        shutil.copy(pem, folder / "ca.crt")
        opened(server, waits)


def test_a_file_of_certificates_that_is_none(server: Registry, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    with pytest.raises(HostError, match="expected certificates in PEM form"):
        opened(server, [], certificates=str(path))


def test_a_proxy_is_used_unless_excepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:pass%2Fphrase@proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "ghcr.io")
    found = transport.Transport(Settings(), "demo")
    used = {
        host: found._manager(f"https://{host}/").proxy  # noqa: SLF001
        for host in ("quay.io", "ghcr.io", "localhost:5000")
    }
    assert str(used.pop("quay.io")) == "http://proxy.invalid:3128"
    assert set(used.values()) == {None}


def test_a_proxy_that_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:secret/word@proxy:31x28")
    with pytest.raises(HostError) as caught:
        Repository.open(Reference("quay.invalid", "demo"), Settings())
    assert "secret" not in caught.value.message + caught.value.hint


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"errors": [{"code": "NAME_UNKNOWN", "message": "no such."}]}', "name unknown: no such"),
        (b'{"errors": [{"code": "A"}, {"message": "b"}]}', "a; b"),
        (b'{"errors": [{"code": "DENIED", "message": "denied"}]}', "denied"),
        (b'{"errors": []}', ""),
        (b'{"errors": {"code": 1}}', ""),
        (b'{"errors": null}', ""),
        (b"<html>", ""),
        (b"", ""),
    ],
)
def test_what_a_registry_says(body: bytes, expected: str) -> None:
    assert reasons(body) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31m\r\nb\u202ec", "a [31m b c"),
        ("token eyJhbGciOi.eyJzdWIiOi.c2ln is old", "token … is old"),
        ("sent Basic YWRhOnNlY3JldA== twice", "sent … twice"),
        ("see https://ada:secret@a.b/c?sig=abc", "see https://…a.b/c…"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_what_a_stranger_says_is_cleaned(text: str, expected: str) -> None:
    assert clean(text) == expected


# --- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name", "layer_bytes"),
    [
        ("ghcr.io", "GitHub", 10_000_000_000),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "Amazon ECR", 52_000 << 20),
        ("public.ecr.aws", "Amazon ECR Public", 10_000 << 20),
        ("acme.azurecr.io", "Azure", 195 << 30),
        ("europe-docker.pkg.dev", "Google Artifact Registry", None),
        ("eu.gcr.io", "Google Artifact Registry", None),
        ("quay.io", "Quay", 20_000_000_000),
        ("docker.io", "Docker Hub", None),
        ("registry.gitlab.com", "GitLab", 10_000 * (10 << 20)),
        ("swr.eu-west-101.myhuaweicloud.com", "Huawei SWR", 10_000_000_000),
        ("registry.example.com:5000", "any other", None),
        ("ghcr.io.example.com", "any other", None),
    ],
)
def test_limits_are_known_by_host(host: str, name: str, layer_bytes: int | None) -> None:
    found = profile(host)
    assert (found.name, found.layer_bytes) == (name, layer_bytes)
    assert bool(found.source) == (layer_bytes is not None)


def test_every_limit_has_a_source() -> None:
    default = catalogue.registries()["other"]
    for row in catalogue.registries().values():
        limits = ("layer_bytes", "upload_seconds", "chunks")
        named = {name for name in limits if getattr(row, name) != getattr(default, name)}
        assert named <= set(row.sources), row.name
        assert set(row.unverified) <= set(row.sources), row.name


def test_the_documented_limits_are_those_of_the_catalogue() -> None:
    text = (ROOT / "docs" / "registries.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    for row in catalogue.registries().values():
        if row.hosts:
            assert limits_row(row) in rows


def limits_row(row: catalogue.Registry) -> str:
    """A line of the table in docs/registries.md."""
    doubt = "" if "layer_bytes" not in row.unverified else " (unverified)"
    layer = "none known" if row.layer_bytes is None else f"{row.layer_bytes / 1e9:.1f} GB{doubt}"
    upload = "none known" if row.upload_seconds is None else f"{row.upload_seconds // 60} minutes"
    hosts = ", ".join(f"`{host}`" for host in row.hosts)
    return f"| {row.title} | {hosts} | {layer} | {upload} |"
