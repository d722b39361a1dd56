"""Files read through this machine: in order, verified, whatever the network does, and no copy."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from builder.errors import BuilderError, IntegrityError, ResolveError
from builder.lock import Facts, Model, ModelFile
from builder.oci.layer import Stream
from builder.oci.tar import END
from builder.oci.weights import WeightFile, frame, weigh, weight_layer
from builder.sources import hub, streams
from builder.sources.streams import RemoteFile
from tests.hub_server import REPO, Hub, serving

PATH = "model.safetensors"
LABEL = f"{REPO}/{PATH}"
CONTENT = hashlib.shake_128(b"weights").digest(5_000_000)
OTHER = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
SHA256, OTHER_SHA256 = (hashlib.sha256(data).hexdigest() for data in (CONTENT, OTHER))
TOKEN = "hf_secretsecretsecret"
CHECK = "the place has other bytes than were locked: check it before locking again"


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as running:
        yield running


@pytest.fixture
def remote(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    vars(server).update(vars(Hub(endpoint=server.endpoint, cdn=server.cdn)))
    server.large = {PATH}
    server.commit({PATH: CONTENT})
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.opened.set()
    assert not left()


@pytest.fixture
def file(remote: Hub) -> RemoteFile:
    return locked(remote)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def left() -> list[threading.Thread]:
    """Threads that do not end by themselves; a server that is silent is so for longer."""
    for thread in readers():
        thread.join(10)
    return readers()


def locked(remote: Hub, content: bytes = CONTENT) -> RemoteFile:
    sha256 = hashlib.sha256(content).hexdigest()
    locked_file = ModelFile(path=PATH, size=len(content), sha256=sha256)
    model = Model(
        role="main",
        repo=REPO,
        commit=remote.branches["main"],
        files=(locked_file,),
        facts=Facts(config={}, tensor_bytes={}),
    )
    return hub.stream(model, locked_file)


def spans(remote: Hub) -> list[str | None]:
    return [request.span for request in remote.requests if request.path.startswith("/cdn/")]


def asked(remote: Hub) -> list[str]:
    """Who was asked, hub or CDN."""
    return [request.path.split("/")[1].replace("acme", "hub") for request in remote.requests]


def read(file: Stream, offset: int = 0) -> bytes:
    return b"".join(file.chunks(offset))


def fault(file: RemoteFile) -> tuple[BuilderError, int]:
    """What reading raises, and how many bytes came before."""
    got = list[bytes]()
    with pytest.raises((ResolveError, IntegrityError)) as caught:
        got.extend(file.chunks())
    assert TOKEN not in caught.value.message + caught.value.hint
    return caught.value, sum(map(len, got))


def place(remote: Hub) -> str:
    return f"{LABEL} from {remote.endpoint}/{REPO}/resolve/{remote.branches['main']}/{PATH}"


def test_a_file_passes_through_in_chunks_and_leaves_nothing(
    remote: Hub, file: RemoteFile, tmp_path: Path
) -> None:
    chunks = list(file.chunks())
    assert b"".join(chunks) == CONTENT
    assert max(map(len, chunks)) <= 2 << 20
    assert (file.label, file.size) == (LABEL, len(CONTENT))
    assert not list(tmp_path.iterdir())
    assert (spans(remote), remote.sent) == ([None], len(CONTENT))


def test_nothing_is_asked_for_until_it_is_read(remote: Hub, file: RemoteFile) -> None:
    file.chunks()
    assert not remote.requests


def test_it_can_be_read_again_and_from_the_middle(remote: Hub, file: RemoteFile) -> None:
    assert [read(file), read(file, 4_999_999)] == [CONTENT, CONTENT[-1:]]
    assert spans(remote) == [None, "bytes=4999999-"]
    remote.requests.clear()
    assert read(file, len(CONTENT)) == b""
    assert not remote.requests


def test_an_empty_file_needs_no_hub(remote: Hub) -> None:
    assert read(locked(remote, b"")) == b""
    assert not remote.requests


def test_the_digest_of_its_layer_and_the_layer_itself_come_without_a_copy(
    file: RemoteFile, tmp_path: Path
) -> None:
    weights = [WeightFile(file, SHA256, file.size)]
    before, after = frame(SHA256, file.size)
    whole = before + CONTENT + after + END
    digest = weigh(weights, lambda _: None)
    assert digest == f"sha256:{hashlib.sha256(whole).hexdigest()}"
    assert b"".join(weight_layer(weights, digest, "weights").chunks()) == whole
    assert not list(tmp_path.iterdir())


# --- the network --------------------------------------------------------------------------------


def test_a_break_is_taken_up_where_it_was_and_the_consumer_sees_nothing(
    remote: Hub, file: RemoteFile
) -> None:
    remote.cuts[PATH] = [2_000_000, 0, 1_500_000]
    assert read(file) == CONTENT
    assert spans(remote) == [None, "bytes=2000000-", "bytes=2000000-", "bytes=3500000-"]
    assert remote.sent == len(CONTENT)


def test_a_connection_that_keeps_breaking_is_an_error(remote: Hub, file: RemoteFile) -> None:
    remote.cuts[PATH] = [1_000_000] + [0] * 4
    found, _ = fault(file)
    assert found.message == f"{place(remote)}: ended after 1000000 of 5000000 bytes"
    assert found.hint == "check the network, then run the command again"
    assert len(spans(remote)) == 5


def test_breaks_far_apart_are_no_reason_to_give_up(
    remote: Hub, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_PROGRESS", 400_000)
    remote.cuts[PATH] = [400_000] * 12
    assert read(file) == CONTENT


def test_where_ranges_are_not_served_what_came_already_is_skipped(
    remote: Hub, file: RemoteFile
) -> None:
    remote.ranges = False
    remote.cuts[PATH] = [2_000_000, 3_000_000]
    assert read(file) == CONTENT
    assert spans(remote) == [None, "bytes=2000000-", "bytes=3000000-"]
    assert read(file, 4_000_000) == CONTENT[4_000_000:]


def test_a_range_that_begins_too_late_is_an_error(remote: Hub, file: RemoteFile) -> None:
    remote.misplaced = 5
    with pytest.raises(ResolveError) as caught:
        read(file, 1000)
    url = place(remote).partition(" from ")[2]
    assert caught.value.message == f"{url}: answered from byte 1005, was asked from 1000"


def test_a_link_that_expires_in_the_middle_is_asked_for_again(
    remote: Hub, file: RemoteFile
) -> None:
    remote.link_uses = 1
    remote.cuts[PATH] = [2_000_000]
    assert read(file) == CONTENT
    assert asked(remote) == ["hub", "cdn"] * 2
    assert list(remote.links.values()) == [1, 1]


def test_a_link_that_has_expired_already_is_asked_for_again(remote: Hub, file: RemoteFile) -> None:
    remote.link_uses, remote.stale_links = 1, 1
    assert read(file) == CONTENT
    assert asked(remote) == ["hub", "cdn"] * 2


def test_a_host_of_files_that_refuses_is_named(remote: Hub, file: RemoteFile) -> None:
    remote.link_uses, remote.stale_links = 1, 9
    found, _ = fault(file)
    url = place(remote).partition(" from ")[2]
    host = remote.cdn.removeprefix("http://")
    assert found.message == f"{url}: sends to {host}, which answered 403"
    assert found.hint == "check the proxy between here and there"
    assert asked(remote) == ["hub", "cdn"] * 2


def test_a_busy_host_is_left_alone_as_long_as_it_asks(
    remote: Hub,
    file: RemoteFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    naps: list[float] = []
    monkeypatch.setattr("builder.sources.patience.time.sleep", naps.append)
    remote.busy_files = [{"retry-after": "75"}, {"ratelimit": '"resolvers";r=0;t=9'}, {}]
    remote.busy_cdn = [503]
    assert read(file) == CONTENT
    assert naps == [75.0, 9.0, 2.0, 4.0]
    url = place(remote).partition(" from ")[2]
    said = ("1 min 15 s", "9.0 s", "2.0 s", "4.0 s")
    assert capsys.readouterr().err.splitlines() == [
        f"{url}: busy, next attempt in {seconds}" for seconds in said
    ]


# --- what is not as it should be ----------------------------------------------------------------


def test_wrong_bytes_are_an_error_before_the_last_of_them_come(
    remote: Hub, file: RemoteFile
) -> None:
    remote.served[PATH] = OTHER
    found, got = fault(file)
    assert isinstance(found, IntegrityError)
    assert found.message == f"{place(remote)}: expected sha256:{SHA256}, got sha256:{OTHER_SHA256}"
    assert found.hint == CHECK
    assert got < len(OTHER)


def test_bytes_that_change_between_two_connections_are_noticed(
    remote: Hub, file: RemoteFile
) -> None:
    remote.cuts[PATH] = [4_000_000]
    remote.gates[PATH] = 3_000_000
    with closing(file.chunks()) as chunks:
        next(chunks)
        remote.served[PATH] = OTHER
        remote.opened.set()
        with pytest.raises(IntegrityError, match=f"got sha256:{OTHER_SHA256}"):
            list(chunks)


@pytest.mark.parametrize("more", [1, 3_000_000])
def test_a_longer_file_is_an_error(remote: Hub, file: RemoteFile, more: int) -> None:
    remote.served[PATH] = CONTENT + bytes(more)
    found, got = fault(file)
    assert isinstance(found, IntegrityError)
    assert found.message == f"{place(remote)}: is longer than the 5000000 bytes of the lock"
    assert got < len(CONTENT)


def test_a_shorter_file_is_an_error(remote: Hub, file: RemoteFile) -> None:
    remote.served[PATH] = CONTENT[:3_000_000]
    found, _ = fault(file)
    assert found.message == f"{place(remote)}: ended after 3000000 of 5000000 bytes"


def test_a_file_that_is_gone(remote: Hub, file: RemoteFile) -> None:
    commit = remote.branches["main"]
    remote.commits[commit].clear()
    found, _ = fault(file)
    assert found.message == f"{LABEL}: the hub does not have it at commit {commit[:12]} any more"


def test_a_gated_file_opens_with_a_token_that_the_other_host_never_sees(
    remote: Hub, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.gated = TOKEN
    assert fault(file)[0].message == "acme/tiny: is gated: its licence must be accepted first"
    remote.requests.clear()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read(file) == CONTENT
    assert [request.authorization for request in remote.requests] == [f"Bearer {TOKEN}", None]


def test_a_token_that_expires_in_the_middle_is_explained(
    remote: Hub, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.gated = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    remote.gates[PATH], remote.cuts[PATH] = 3_000_000, [3_000_001]
    with closing(file.chunks()) as chunks:
        next(chunks)
        remote.revoked.add(TOKEN)
        remote.opened.set()
        with pytest.raises(ResolveError) as caught:
            list(chunks)
    assert caught.value.message == "acme/tiny: the hub refused access (401)"
    assert "set HF_TOKEN to a valid token" in caught.value.hint


def test_another_place_is_asked_where_the_first_has_nothing(remote: Hub, file: RemoteFile) -> None:
    (good,) = file.wanted.urls()
    bad = f"{remote.endpoint}/{REPO}/resolve/main/absent"
    both = RemoteFile(replace(file.wanted, urls=lambda: [bad, good]))
    assert read(both) == CONTENT
    remote.cuts[PATH] = [2_000_000] + [0] * 4
    turned = replace(file.wanted, urls=lambda: [good, bad])
    assert "ended after 2000000" in fault(RemoteFile(turned))[0].message


# --- the thread that reads ahead ----------------------------------------------------------------


def until(remote: Hub, count: int) -> None:
    """Wait until so many bytes have left the server."""
    deadline = time.monotonic() + 30
    while remote.sent < count:
        assert time.monotonic() < deadline
        os.sched_yield()


def test_the_network_goes_on_while_the_consumer_is_busy_but_not_far(remote: Hub) -> None:
    large = bytes(64 << 20)
    remote.commit({PATH: large})
    with closing(locked(remote, large).chunks()) as chunks:
        got = len(next(chunks))
        until(remote, got + (3 << 20))
    assert remote.sent < 48 << 20
    assert not left()


def test_a_consumer_that_stops_waits_for_no_server(remote: Hub, file: RemoteFile) -> None:
    remote.gates[PATH] = 3_000_000
    chunks = file.chunks()
    next(chunks)
    assert remote.stalled.wait(10)
    assert readers()
    chunks.close()
    assert not left()
    assert asked(remote) == ["hub", "cdn"]
