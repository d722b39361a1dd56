"""Who asks: challenges are read, tokens fetched in time, and secrets kept to their registry."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from builder import digest
from builder.oci.auth import Challenge, challenges
from builder.oci.refusals import RegistryError, UnauthorizedError, UnfitError
from builder.oci.registry import Repository, Settings
from builder.reference import Reference
from tests.registry_server import Registry, certificate, serving
from tests.registry_wire import Exchange, Fault, Reply, Request

DATA = b"some bytes"
DIGEST = digest.of_bytes(DATA)
USER, PASSWORD, IDENTITY = "ada", "pass-phrase-of-ada", "identity-token-of-ada"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="a, b"', [Challenge("basic", {"realm": "a, b"})]),
        (
            'BEARER Realm="https://t/",SERVICE=s , scope="repository:a:pull,push"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://t/", "service": "s", "scope": "repository:a:pull,push"},
                )
            ],
        ),
        (
            'Basic realm="x", Bearer realm="y", service="z", Negotiate',
            [
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": "y", "service": "z"}),
                Challenge("negotiate", {}),
            ],
        ),
        (
            'Negotiate dG9rZW4=, Basic realm="say \\"hi\\""',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": 'say "hi"'})],
        ),
        (', ,Basic realm = "x" ,,', [Challenge("basic", {"realm": "x"})]),
        ("Basic realm=x, realm=y", [Challenge("basic", {"realm": "x"})]),
        ("", []),
        ('"', []),
    ],
)
def test_challenges_are_read(header: str, expected: list[Challenge]) -> None:
    assert challenges([header]) == expected


def test_several_headers_are_one_list() -> None:
    found = challenges(['Basic realm="x"', 'Bearer realm="y"'])
    assert [each.scheme for each in found] == ["basic", "bearer"]


# --- against a registry ---------------------------------------------------------------------------


@dataclass
class Clock:
    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Tokens(Fault):
    """A token service with its own mind: `answer` stands for its next answers."""

    answers: list[Reply] = field(default_factory=list)

    def take(self, request: Request) -> Fault:
        return self if request.kind == "token" and self.answers else Fault()

    def before(self, exchange: Exchange) -> Reply | None:
        list(exchange.body())
        return self.answers.pop(0)


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "{}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    with serving(tmp_path) as found:
        found.access.mode = "bearer"
        found.access.clock = clock
        found.content.add_blob("demo", DATA)
        yield found


@pytest.fixture
def repository(registry: Registry, clock: Clock) -> Repository:
    settings = Settings(sleep=clock.sleep, clock=clock, random=lambda: 0.0)
    return Repository.open(Reference(registry.host, "demo"), settings)


def log_in(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, password: str = PASSWORD, **more: str
) -> None:
    pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = {"auths": {registry.host: {"auth": pair} | more}}
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(config))


def asked(registry: Registry) -> list[list[str]]:
    """The scopes of each question to the token service."""
    return [
        parse_qs(urlsplit(each.target).query).get("scope", [])
        for each in registry.requests
        if each.role == "token"
    ]


def token(value: Any = "t", **fields: Any) -> Reply:
    return Reply(200, {}, json.dumps({"token": value} | fields).encode())


def test_a_stranger_may_pull(registry: Registry, repository: Repository) -> None:
    assert repository.blob_size(DIGEST) == len(DATA)
    assert repository.blob_size(DIGEST) == len(DATA)
    assert asked(registry) == [["repository:demo:pull"]]
    assert registry.words() == ["GET ping", "HEAD blob", "HEAD blob"]


def test_a_stranger_may_not_push(registry: Registry, repository: Repository) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        repository.put_manifest(b"{}", "application/json", "1.0")
    assert caught.value.message == (
        f"{registry.host}/demo: the registry refused manifest 1.0: unauthorized"
    )
    assert caught.value.hint == f"docker login {registry.host}"


def test_who_has_logged_in_may_push(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    assert repository.upload(DIGEST, len(DATA), lambda: [DATA], lambda _: None) == 0
    assert asked(registry) == [["repository:demo:pull,push"]]


def test_who_only_reads_asks_for_no_more(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    assert b"".join(repository.blob(DIGEST, len(DATA))) == DATA
    assert asked(registry) == [["repository:demo:pull"]]


def test_a_reader_who_is_refused_asks_as_a_writer(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    grant = registry.access.grant

    def hidden(scopes: list[str], *, known: bool) -> str:
        return grant(scopes if "push" in scopes[0] else [], known=known)

    monkeypatch.setattr(registry.access, "grant", hidden)
    assert repository.blob_size(DIGEST) == len(DATA)
    assert asked(registry)[-1] == ["repository:demo:pull,push"]


def test_a_writer_who_is_refused_as_well_is_refused_as_a_reader(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    denied = Reply(403, {}, b'{"errors": [{"code": "DENIED"}]}')
    registry.plan = plan = Tokens([token("a"), token("b"), denied])
    with pytest.raises(UnauthorizedError, match="the registry refused manifest a: unauthorized"):
        repository.manifest("a")
    assert asked(registry)[2] == ["repository:demo:pull,push"]
    plan.answers[:] = [token("c"), token("d"), token("e"), token("f")]
    with pytest.raises(UnauthorizedError, match="the registry refused manifest a: unauthorized"):
        repository.manifest("a")


def test_an_identity_token_is_traded(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch, "", identitytoken=IDENTITY)
    repository.upload(DIGEST, len(DATA), lambda: [DATA], lambda _: None)
    request = next(each for each in registry.requests if each.role == "token")
    assert (request.method, request.authorization, request.target) == ("POST", None, "/token")


def test_a_token_is_renewed_before_its_end(
    registry: Registry, repository: Repository, clock: Clock
) -> None:
    registry.access.lifetime = 100
    repository.blob_size(DIGEST)
    clock.now += 79
    repository.blob_size(DIGEST)
    assert len(asked(registry)) == 1
    clock.now += 2
    repository.blob_size(DIGEST)
    assert len(asked(registry)) == 2
    assert 401 not in [each.status for each in registry.requests[1:]]


def test_a_token_that_does_not_say_lives_a_minute(
    registry: Registry, repository: Repository, clock: Clock
) -> None:
    registry.plan = Tokens([token(registry.access.grant(["repository:demo:pull"], known=False))])
    counts = []
    for passed in (0, 47, 2):
        clock.now += passed
        repository.blob_size(DIGEST)
        counts.append(len(asked(registry)))
    assert counts == [1, 1, 2]


def test_a_token_that_ends_on_the_way_is_renewed_once(
    registry: Registry, repository: Repository
) -> None:
    repository.blob_size(DIGEST)
    registry.access.tokens.clear()
    assert repository.blob_size(DIGEST) == len(DATA)
    assert len(asked(registry)) == 2


def test_a_token_that_ends_before_an_upload_costs_no_blob(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    sent: list[int] = []

    def chunks() -> Iterator[bytes]:
        if not sent:
            registry.access.tokens.clear()
        yield DATA

    again = repository.upload(DIGEST, len(DATA), chunks, sent.append)
    assert sum(sent) == len(DATA)
    assert again <= len(DATA)


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_a_token_has_two_names(registry: Registry, repository: Repository, field: str) -> None:
    value = registry.access.grant(["repository:demo:pull"], known=False)
    answer = Reply(200, {}, json.dumps({field: value}).encode())
    registry.plan = Tokens([answer])
    assert repository.blob_size(DIGEST) == len(DATA)


def test_a_mount_asks_for_both_repositories(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    registry.content.add_blob("other", b"other")
    assert repository.mount(digest.of_bytes(b"other"), "other")
    assert asked(registry) == [["repository:demo:pull,push", "repository:other:pull"]]


def test_where_both_are_refused_the_first_is_asked_for_alone(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    registry.plan = Tokens([Reply(403, {}, b'{"errors": [{"code": "DENIED"}]}')])
    assert not repository.mount(digest.of_bytes(b"other"), "other")
    assert asked(registry)[:2] == [
        ["repository:demo:pull,push", "repository:other:pull"],
        ["repository:demo:pull,push"],
    ]


def test_a_wrong_password_is_named_without_being_shown(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch, "not-the-password")
    registry.access.anonymous = False
    with pytest.raises(UnauthorizedError) as caught:
        repository.blob_size(DIGEST)
    assert caught.value.message == (
        f"{registry.host}/demo: the registry refused a token for demo: unauthorized"
    )
    assert caught.value.hint == (
        f"check the login in DOCKER_AUTH_CONFIG, or renew it: docker login {registry.host}"
    )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token": ""}', b'{"token": "a b"}', b'{"token": 7}', b"<html>"]
)
def test_an_answer_without_a_token(registry: Registry, repository: Repository, body: bytes) -> None:
    registry.plan = Tokens([Reply(200, {}, body)])
    with pytest.raises(UnfitError) as caught:
        repository.blob_size(DIGEST)
    message = f"{registry.host}/demo: its token service answered without a token"
    assert caught.value.message == message


def test_a_busy_token_service_is_asked_again(
    registry: Registry, repository: Repository, clock: Clock
) -> None:
    registry.plan = Tokens([Reply(503, {"retry-after": "7"}, b"")])
    assert repository.blob_size(DIGEST) == len(DATA)
    assert clock.slept == [7.0]


def test_basic_credentials_are_sent_once_asked_for(
    registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch)
    registry.access.mode = "basic"
    settings = Settings(sleep=clock.sleep, clock=clock)
    repository = Repository.open(Reference(registry.host, "demo"), settings)
    assert repository.blob_size(DIGEST) is not None
    assert [each.authorization is None for each in registry.requests] == [True, False]


def test_basic_without_a_login(registry: Registry, clock: Clock) -> None:
    registry.access.mode = "basic"
    settings = Settings(sleep=clock.sleep, clock=clock)
    repository = Repository.open(Reference(registry.host, "demo"), settings)
    with pytest.raises(UnauthorizedError, match="the registry refused blob"):
        repository.blob_size(DIGEST)


def test_a_login_of_a_kind_that_is_not_known(registry: Registry, clock: Clock) -> None:
    @dataclass
    class Odd(Fault):
        def take(self, request: Request) -> Fault:
            return self

        def before(self, exchange: Exchange) -> Reply | None:
            return Reply(401, {"www-authenticate": "Negotiate"}, b"")

    registry.plan = Odd()
    with pytest.raises(UnfitError) as caught:
        Repository.open(Reference(registry.host, "demo"), Settings(sleep=clock.sleep))
    assert caught.value.message == (
        f"{registry.host}: asks for a login of a kind that is not known"
    )


def test_no_password_goes_to_a_token_service_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    with serving(tmp_path, pem) as registry:
        registry.access.mode = "bearer"
        registry.access.realm = f"{registry.urls['plain']}/token"
        log_in(registry, monkeypatch)
        settings = Settings(certificates=str(pem))
        repository = Repository.open(Reference(registry.host, "demo"), settings)
        with pytest.raises(UnfitError) as caught:
            repository.blob_size(DIGEST)
        assert caught.value.message == (
            f"{registry.host}/demo: its token service is `{registry.access.realm}`"
        )
        assert not registry.words("plain")


def test_nothing_secret_is_shown(
    registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(registry, monkeypatch, "not-the-password", identitytoken=IDENTITY)
    registry.access.identity = "another"
    registry.access.anonymous = False
    with pytest.raises(RegistryError) as caught:
        repository.blob_size(DIGEST)
    shown = f"{caught.value!r} {caught.value.hint}"
    assert IDENTITY not in shown
    assert "not-the-password" not in shown
