"""Push: what the registry has is neither read nor sent, and a tag never names half an image."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from builder.digest import Digest, hex_of, of_bytes
from builder.errors import IntegrityError, PublishError, ResolveError, UsageError
from builder.oci import limits
from builder.oci.image import MANIFEST_TYPE, Image, make_image
from builder.oci.layer import Layer
from builder.oci.profiles import Profile
from builder.oci.push import Push, Pushed, source_repository
from builder.oci.refusals import ForbiddenError, RejectedError
from builder.oci.registry import Repository, Settings
from builder.reference import parse
from builder.units import MIB
from tests.registry_server import Registry, serving
from tests.registry_wire import Exchange, Fault, Reply, Request

TAR = "application/vnd.oci.image.layer.v1.tar"
NAME = "llm/tiny:1"
REPOSITORY = "llm/tiny"
LONG = 10.0
"""Seconds after which a test has failed rather than waited."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with serving(folder) as registry:
        yield registry


def layer_of(path: Path, content: bytes) -> Layer:
    """A layer as weights make one: literal bytes around a file."""
    path.write_bytes(content)
    data = b"header" + content
    digest = of_bytes(data)
    pieces = (b"header", path)
    size = len(data)
    return Layer(
        digest=digest, size=size, diff_id=digest, media_type=TAR, title=path.name, pieces=pieces
    )


def layers_of(folder: Path, *sizes: int) -> list[Layer]:
    return [layer_of(folder / f"part-{n}", os.urandom(size)) for n, size in enumerate(sizes)]


def image_of(layers: Sequence[Layer], colour: str = "red") -> Image:
    config = {"Env": [f"COLOUR={colour}"]}
    return make_image(NAME, "linux/amd64", layers, config, "2026-01-01T00:00:00Z")


def push(server: Registry, image: Image, name: str = NAME, mount_from: Sequence[str] = ()) -> Push:
    reference = parse(f"{server.host}/{name}")
    calm = Settings(plain_http=frozenset({server.host}), sleep=lambda _: None)
    return Push(image, Repository.open(reference, calm), mount_from)


def ignore(count: int) -> None: ...


def asked(server: Registry, method: str, kind: str) -> list[Request]:
    return [request for request in server.requests if request.words == f"{method} {kind}"]


def sent(server: Registry) -> list[str]:
    """Every PUT in order: the digest of a blob, the name of a manifest."""
    puts = [request for request in server.requests if request.method == "PUT"]
    return [parse_qs(urlsplit(put.target).query).get("digest", [put.last])[0] for put in puts]


@dataclass
class Script:
    """Lets one fault act in every exchange that it is meant for."""

    meant: Callable[[Request], bool]
    fault: Fault
    times: int = 1000
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: Request) -> Fault:
        with self.lock:
            if self.times and self.meant(request):
                self.times -= 1
                return self.fault
        return Fault()


@dataclass
class Answer(Fault):
    """Answers in the registry's place."""

    reply: Reply

    def before(self, exchange: Exchange) -> Reply | None:
        return self.reply


@dataclass
class Before(Fault):
    """Does something of its own before the registry answers."""

    act: Callable[[], object]

    def before(self, exchange: Exchange) -> Reply | None:
        self.act()
        return None


@dataclass
class After(Fault):
    """Does something of its own once the registry has made its answer."""

    act: Callable[[], object]

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        self.act()
        return reply


def is_upload(request: Request) -> bool:
    return request.words == "PUT upload"


# --- what is sent, and in which order -------------------------------------------------------------


def test_blobs_go_before_the_config_before_the_manifest_before_the_tag(
    server: Registry, tmp_path: Path
) -> None:
    image = image_of(layers_of(tmp_path, 10, 30_000, 20_000))
    pushed = push(server, image).send(ignore)
    order = sent(server)
    assert set(order[:3]) == {layer.digest for layer in image.layers}
    assert order[3:] == [of_bytes(image.config), image.digest, "1"]
    total = sum(layer.size for layer in image.layers) + len(image.config)
    assert pushed == Pushed(image.digest, total, 0, sent=4, mounted=0, present=0)
    assert server.received() == total
    assert server.content.held[REPOSITORY].tags == {"1": image.digest}
    assert server.content.violations() == []


def test_the_largest_layers_are_begun_first(server: Registry, tmp_path: Path) -> None:
    meeting = threading.Barrier(8)
    server.plan = Script(is_upload, Before(lambda: meeting.wait(LONG)), times=8)
    image = image_of(layers_of(tmp_path, *range(1000, 11_000, 1000)))
    push(server, image).send(ignore)
    assert set(sent(server)[:8]) == {layer.digest for layer in image.layers[2:]}


def test_a_second_push_only_asks(server: Registry, tmp_path: Path) -> None:
    image = image_of(layers_of(tmp_path, 10, 20))
    push(server, image).send(ignore)
    server.requests.clear()
    pushed = push(server, image).send(ignore)
    assert pushed == Pushed(image.digest, 0, 0, sent=0, mounted=0, present=3)
    assert {request.method for request in server.requests} <= {"HEAD", "GET"}
    assert len(asked(server, "HEAD", "blob")) == 3


def test_another_tag_of_a_known_image_costs_manifests_only(
    server: Registry, tmp_path: Path
) -> None:
    image = image_of(layers_of(tmp_path, 10, 20))
    push(server, image).send(ignore)
    server.requests.clear()
    push(server, image, f"{REPOSITORY}:2").send(ignore)
    assert sent(server) == [image.digest, "2"]
    assert server.content.held[REPOSITORY].tags == {"1": image.digest, "2": image.digest}


def test_a_new_config_sends_one_small_blob(server: Registry, tmp_path: Path) -> None:
    layers = layers_of(tmp_path, 10, 20_000)
    push(server, image_of(layers)).send(ignore)
    for layer in layers:
        Path(str(layer.pieces[1])).unlink()  # what is there already is not read
    server.requests.clear()
    image = image_of(layers, "blue")
    pushing = push(server, image)
    assert pushing.lacks() == frozenset()
    pushed = pushing.send(ignore)
    assert pushed == Pushed(image.digest, len(image.config), 0, sent=1, mounted=0, present=2)
    assert sent(server) == [of_bytes(image.config), image.digest, "1"]


def test_a_layer_that_occurs_twice_is_asked_for_and_sent_once(
    server: Registry, tmp_path: Path
) -> None:
    first, second = layers_of(tmp_path, 10, 20)
    image = image_of([first, second, first])
    pushing = push(server, image)
    assert pushing.lacks() == {first.digest, second.digest}
    assert pushing.send(ignore).sent == 3
    assert sorted(sent(server)[:2]) == sorted([first.digest, second.digest])
    assert len(asked(server, "HEAD", "blob")) == len(asked(server, "PUT", "upload")) == 3


def test_the_registry_is_asked_once(server: Registry, tmp_path: Path) -> None:
    pushing = push(server, image_of(layers_of(tmp_path, 10, 20)))
    lacking = pushing.lacks()
    server.requests.clear()
    assert pushing.lacks() == lacking
    assert server.requests == []
    pushing.send(ignore)
    assert asked(server, "HEAD", "blob") == []


def test_without_a_tag_the_digest_is_the_name(server: Registry, tmp_path: Path) -> None:
    image = image_of(layers_of(tmp_path, 10))
    assert push(server, image, REPOSITORY).send(ignore).digest == image.digest
    assert sent(server)[-1] == image.digest
    assert server.content.held[REPOSITORY].tags == {}


def test_a_digest_to_push_to_has_to_be_that_of_the_image(server: Registry, tmp_path: Path) -> None:
    image, other = image_of(layers_of(tmp_path, 10)), of_bytes(b"other")
    with pytest.raises(UsageError) as caught:
        push(server, image, f"{REPOSITORY}@{other}").lacks()
    place = f"{server.host}/{REPOSITORY}@{other}"
    assert caught.value.message == f"{place}: expected this digest, got {image.digest}"
    assert {request.words for request in server.requests} <= {"GET ping"}


# --- mounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["llm/base", "{host}/llm/base", "{host}/llm/base:latest"])
def test_layers_of_another_repository_are_mounted(
    server: Registry, tmp_path: Path, spelling: str
) -> None:
    layers = layers_of(tmp_path, 10, 20_000, 30_000)
    push(server, image_of(layers[:2]), "llm/base:1").send(ignore)
    server.requests.clear()
    image = image_of(layers)
    pushing = push(server, image, mount_from=["llm/none", spelling.format(host=server.host)])
    assert pushing.lacks() == {layers[2].digest}
    pushed = pushing.send(ignore)
    total = layers[2].size + len(image.config)
    assert pushed == Pushed(image.digest, total, 0, sent=2, mounted=2, present=0)
    assert server.received() == total
    assert server.content.violations() == []
    assert server.content.uploads == {}, "what refused mounts opened is closed"


def test_the_repository_itself_is_no_source(server: Registry, tmp_path: Path) -> None:
    push(server, image_of(layers_of(tmp_path, 10)), mount_from=[REPOSITORY]).lacks()
    assert asked(server, "POST", "uploads") == []


def test_nothing_is_mounted_across_registries() -> None:
    target = parse("registry.example.com/llm/tiny:1")
    with pytest.raises(UsageError) as caught:
        source_repository("other.example.com/llm/base", target)
    assert caught.value.message == (
        "--mount-from other.example.com/llm/base: registry `other.example.com` is not the one "
        "pushed to, `registry.example.com`: blobs are mounted within one registry only"
    )
    assert "registry.example.com" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "target", "repository"),
    [
        ("llm/base", "registry.example.com/llm/tiny", "llm/base"),
        ("registry.example.com/llm/base:1", "registry.example.com/llm/tiny", "llm/base"),
        ("localhost:5000/base", "localhost:5000/tiny", "base"),
        ("base", "registry.example.com/tiny", "base"),
        ("python", "me/tiny", "library/python"),
        ("docker.io/me/base", "me/tiny", "me/base"),
    ],
)
def test_a_source_without_a_host_is_on_the_same_registry(
    text: str, target: str, repository: str
) -> None:
    assert source_repository(text, parse(target)) == repository


# --- limits ---------------------------------------------------------------------------------------


def limited(
    layer_bytes: int | None = None,
    upload_seconds: int | None = None,
    manifest_bytes: int = MIB,
    *,
    verified: bool = True,
) -> Profile:
    return Profile(
        name="Small Registry",
        layer_bytes=layer_bytes,
        upload_seconds=upload_seconds,
        chunks=True,
        manifest_bytes=manifest_bytes,
        source="its manual",
        verified=verified,
    )


def large(title: str, size: int) -> Layer:
    digest = of_bytes(title.encode())
    return Layer(digest=digest, size=size, diff_id=digest, media_type=TAR, title=title, pieces=())


def test_too_large_layers_are_refused_all_at_once() -> None:
    image = image_of([large("a", 10**10), large("b", 10**10 + 1), large("c", 3 * 10**10)])
    with pytest.raises(PublishError) as caught:
        limits.check(image, limited(layer_bytes=10**10), "registry.example.com/llm/tiny:1")
    assert caught.value.message == (
        "registry.example.com/llm/tiny:1: Small Registry takes layers of up to 10000000000 bytes "
        "(its manual):\n  b: 10000000001 bytes\n  c: 30000000000 bytes"
    )
    assert 'save_pretrained(folder, max_shard_size="9GB")' in caught.value.hint


def test_a_limit_from_hearsay_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    limits.check(image_of([large("a", 11)]), limited(10, verified=False), "example.com/tiny")
    assert capsys.readouterr().err == (
        "warning: example.com/tiny: Small Registry is said to take layers of up to 10 bytes "
        "(its manual):\n  a: 11 bytes\n"
    )


def test_a_too_large_manifest_is_refused() -> None:
    image = image_of([large("a", 1)])
    limits.check(image, limited(manifest_bytes=len(image.manifest)), "x")
    with pytest.raises(PublishError, match=r"manifests of up to 10 bytes, this has \d+$"):
        limits.check(image, limited(manifest_bytes=10), "registry.example.com/llm/tiny:1")


def test_any_size_goes_where_no_limit_is_known() -> None:
    image = image_of([large("a", 10**15)])
    limits.check(image, limited(), "registry.example.com/llm/tiny:1")
    assert limits.too_large(image.layers, limited()) == ()


def test_a_limit_of_time_becomes_the_bandwidth_that_is_needed() -> None:
    known = limited(upload_seconds=600)
    assert limits.haste([6 * 10**9, 6 * 10**9], known) == (
        "Small Registry ends an upload after 10 min 0 s: "
        "the largest 2, sent at once, need 20.0 MB/s"
    )
    assert limits.haste([1000], known) is None
    assert limits.haste([10**12], limited()) is None


def test_limits_are_known_before_the_first_request() -> None:
    class Unasked(Repository):
        reference = parse("ghcr.io/llm/tiny:1")

        def __init__(self) -> None: ...

        def blob_size(self, digest: Digest) -> int | None:
            pytest.fail("asked before the limits were looked at")

    pushing = Push(image_of([large("weights", 10**11)]), Unasked())
    with pytest.raises(PublishError, match=r"^ghcr\.io/llm/tiny:1: .*\n  weights: 100000000000 b"):
        pushing.lacks()


# --- what may be wrong here -----------------------------------------------------------------------


def test_a_layer_that_is_nowhere_is_named_before_a_byte_moves(
    server: Registry, tmp_path: Path
) -> None:
    layers = layers_of(tmp_path, 10, 20_000)
    (tmp_path / "part-1").unlink()
    pushing = push(server, image_of(layers))
    assert layers[1].digest in pushing.lacks()
    with pytest.raises(ResolveError) as caught:
        pushing.send(ignore)
    assert caught.value.message == (
        f"{server.host}/{NAME}: layer part-1: neither the registry nor this machine has it "
        f"(20.0 kB): {tmp_path / 'part-1'}"
    )
    assert "--mount-from" in caught.value.hint
    assert asked(server, "POST", "uploads") == []


def test_a_file_of_another_size_is_named_before_a_byte_moves(
    server: Registry, tmp_path: Path
) -> None:
    layers = layers_of(tmp_path, 10, 20)
    (tmp_path / "part-1").write_bytes(b"short")
    with pytest.raises(IntegrityError, match="layer part-1: expected 26 bytes, got 11: "):
        push(server, image_of(layers)).send(ignore)
    assert asked(server, "POST", "uploads") == []


def test_a_changed_file_leaves_neither_blob_nor_manifest(server: Registry, tmp_path: Path) -> None:
    layers = layers_of(tmp_path, 10, 3 * MIB)
    (tmp_path / "part-1").write_bytes(bytes(3 * MIB))
    with pytest.raises(IntegrityError, match=f"expected layer {layers[1].digest}, got sha256:"):
        push(server, image_of(layers)).send(ignore)
    held = server.content.held[REPOSITORY]
    assert (held.manifests, held.tags) == ({}, {})
    assert layers[1].digest not in held.blobs
    assert server.received() < 3 * MIB, "the last bytes are held back until all are known"


# --- several at once ------------------------------------------------------------------------------


def test_blobs_travel_side_by_side(server: Registry, tmp_path: Path) -> None:
    meeting = threading.Barrier(4)
    server.plan = Script(is_upload, Before(lambda: meeting.wait(LONG)), times=4)
    image = image_of(layers_of(tmp_path, 10, 20, 30, 40))
    push(server, image).send(ignore)
    assert not meeting.broken


def test_blobs_are_asked_for_side_by_side(server: Registry, tmp_path: Path) -> None:
    meeting = threading.Barrier(8)
    waits = Before(lambda: meeting.wait(LONG))
    server.plan = Script(lambda request: request.words == "HEAD blob", waits, times=8)
    push(server, image_of(layers_of(tmp_path, *range(1, 9)))).lacks()
    assert not meeting.broken


def test_a_refused_blob_ends_the_others_soon(server: Registry, tmp_path: Path) -> None:
    layers = layers_of(tmp_path, 10, 20, 30, 40)
    together = threading.Barrier(4)

    class Refused(Fault):
        """One blob is refused when all are on their way; the others get no answer."""

        def before(self, exchange: Exchange) -> Reply | None:
            together.wait(LONG)
            if hex_of(layers[0].digest) in exchange.request_.target:
                return Reply(403)
            server.over.wait(LONG)
            return None

    server.plan = Script(is_upload, Refused())
    begin = time.monotonic()
    with pytest.raises(ForbiddenError):
        push(server, image_of(layers)).send(ignore)
    assert time.monotonic() - begin < 3
    assert server.content.held[REPOSITORY].manifests == {}


def test_ctrl_c_ends_a_push_that_hangs(server: Registry, tmp_path: Path) -> None:
    begun: list[float] = []

    def interrupt() -> None:
        begun.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
        server.over.wait(LONG)

    server.plan = Script(is_upload, Before(interrupt), times=1)
    with pytest.raises(KeyboardInterrupt):
        push(server, image_of(layers_of(tmp_path, 10))).send(ignore)
    assert time.monotonic() - begun[0] < 1


# --- progress -------------------------------------------------------------------------------------


def test_progress_counts_the_bytes_of_lacking_layers(server: Registry, tmp_path: Path) -> None:
    layers = layers_of(tmp_path, 10, MIB, 2 * MIB)
    push(server, image_of(layers[:1])).send(ignore)
    counts: list[int] = []
    pushing = push(server, image_of(layers))
    pushing.send(counts.append)
    assert sum(counts) == layers[1].size + layers[2].size


@dataclass
class LosingBlob(Fault):
    """Takes a blob, loses it, and says that something went wrong."""

    server: Registry
    digest: str

    def after(self, exchange: Exchange, reply: Reply) -> Reply:
        self.server.content.held[REPOSITORY].blobs.discard(self.digest)
        return Reply(503)


def test_a_broken_upload_costs_one_blob_and_progress_stays_true(
    server: Registry, tmp_path: Path
) -> None:
    layers = layers_of(tmp_path, 10, 2 * MIB)
    counts: list[int] = []

    def is_large(request: Request) -> bool:
        return is_upload(request) and hex_of(layers[1].digest) in request.target

    server.plan = Script(is_large, LosingBlob(server, layers[1].digest), times=1)
    pushed = push(server, image_of(layers)).send(counts.append)
    assert sum(counts) == layers[0].size + layers[1].size
    assert 0 < pushed.sent_again_bytes <= layers[1].size
    assert server.content.violations() == []


# --- what registries do ---------------------------------------------------------------------------


def there(layer: Layer) -> Reply:
    return Reply(200, {"content-length": str(layer.size)})


def test_a_blob_that_only_seemed_to_be_there_is_sent_after_all(
    server: Registry, tmp_path: Path
) -> None:
    layers = layers_of(tmp_path, 10, 20)

    def is_asked(request: Request) -> bool:
        return request.words == "HEAD blob" and request.last == layers[1].digest

    server.plan = Script(is_asked, Answer(there(layers[1])), times=1)
    image = image_of(layers)
    pushing = push(server, image)
    assert pushing.lacks() == {layers[0].digest}
    pushed = pushing.send(ignore)
    assert (pushed.sent, pushed.present) == (3, 0)
    assert server.content.held[REPOSITORY].tags == {"1": image.digest}
    assert server.content.violations() == []


def test_a_mount_that_was_none_is_made_good(server: Registry, tmp_path: Path) -> None:
    layers = layers_of(tmp_path, 10)

    def is_mount(request: Request) -> bool:
        return request.words == "POST uploads" and "mount=" in request.target

    server.plan = Script(is_mount, Answer(Reply(201)))
    pushing = push(server, image_of(layers), mount_from=["llm/base"])
    assert pushing.lacks() == frozenset()
    pushed = pushing.send(ignore)
    assert (pushed.sent, pushed.mounted) == (2, 0)
    assert server.content.violations() == []


def test_a_manifest_refused_for_itself_is_put_once(server: Registry, tmp_path: Path) -> None:
    layers = layers_of(tmp_path, 10)
    image = image_of(layers)
    push(server, image, f"{REPOSITORY}:0").send(ignore)
    server.requests.clear()
    refused = Answer(Reply(400, {}, b'{"errors":[{"code":"MANIFEST_INVALID","message":"odd"}]}'))
    server.plan = Script(lambda request: request.words == "PUT manifest", refused)
    with pytest.raises(RejectedError, match="odd"):
        push(server, image).send(ignore)
    assert sent(server) == [image.digest]


def test_a_blob_of_another_size_is_sent_again(
    server: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = layers_of(tmp_path, 10)
    server.content.held[REPOSITORY].blobs.add(layers[0].digest)
    server.content.path(layers[0].digest).write_bytes(b"half")
    pushed = push(server, image_of(layers)).send(ignore)
    assert pushed.sent == 2
    assert "part-0: expected 16 bytes, got 4: sending it again" in capsys.readouterr().err
    assert server.content.violations() == []


def test_a_tag_that_somebody_else_moves_is_a_warning(
    server: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = layers_of(tmp_path, 10)
    theirs, ours = image_of(layers, "red"), image_of(layers, "blue")
    push(server, theirs, f"{REPOSITORY}:2").send(ignore)
    tags = server.content.held[REPOSITORY].tags

    def is_tagged(request: Request) -> bool:
        return request.words == "PUT manifest" and request.last == "1"

    server.plan = Script(is_tagged, After(lambda: tags.update({"1": theirs.digest})))
    assert push(server, ours).send(ignore).digest == ours.digest
    warning = capsys.readouterr().err
    assert f"expected {ours.digest}, got {theirs.digest}: somebody else moved the tag" in warning
    assert ours.digest in server.content.held[REPOSITORY].manifests


# --- a real registry ------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_real_registry_takes_an_image(registry: str, tmp_path: Path) -> None:
    name = f"push-test/{os.urandom(6).hex()}"
    layers = layers_of(tmp_path, 10, 3 * MIB, 5 * MIB)
    image = image_of(layers)

    def repository(path: str) -> Repository:
        return Repository.open(parse(f"{registry}/{path}:1"), Settings())

    assert Push(image, repository(name)).send(ignore).sent == 4
    found = repository(name).manifest("1")
    assert (found.digest, found.media_type) == (image.digest, MANIFEST_TYPE)
    read = b"".join(repository(name).blob(layers[2].digest, layers[2].size))
    assert of_bytes(read) == layers[2].digest

    again = Push(image, repository(name)).send(ignore)
    assert again == Pushed(image.digest, 0, 0, sent=0, mounted=0, present=4)

    other = image_of(layers, "blue")
    mounted = Push(other, repository(f"{name}-other"), [name]).send(ignore)
    config = len(other.config)
    assert mounted == Pushed(other.digest, config, 0, sent=1, mounted=3, present=0)
