"""The registry of the tests behaves like a real one: one suite, run against both.

`following` is the specification, `imitating` the same server with the ways of docker-registry,
`real` that registry itself.  Where they differ, a switch of `Ways` has the name of the difference.
"""

import contextlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import urllib3

from tests.registry_content import INDEX_TYPE, MANIFEST_TYPE, digest_of
from tests.registry_server import AS_DOCKER_REGISTRY, Registry, Ways, certificate, serving

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYER = bytes(range(256)) * 40
LAYER_DIGEST = digest_of(LAYER)
NOWHERE = digest_of(b"nobody has this")
TIMEOUT = 5


@dataclass
class Remote:
    """A registry under test, with two repositories of its own."""

    url: str
    ways: Ways
    name: str
    other: str
    pool: urllib3.PoolManager

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """`path` is below the repository, or a whole address as registries give it."""
        base = f"{self.url}/v2/{self.name}/"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.pool.request(
            method, urljoin(base, path), body=body, headers=named, redirect=False, timeout=TIMEOUT
        )

    def start(self) -> str:
        answer = self.ask("POST", "blobs/uploads/")
        assert answer.status == 202
        return urljoin(self.url, answer.headers["location"])

    def push_blob(self, data: bytes) -> str:
        digest = digest_of(data)
        answer = self.ask("PUT", with_query(self.start(), digest=digest), data)
        assert answer.status == 201
        return digest

    def push_image(self, tag: str, **more: Any) -> str:
        """Make an image, which `more` tells from others, and return its digest."""
        config = {"mediaType": CONFIG_TYPE, "digest": self.push_blob(b"{}"), "size": 2}
        layer = {"mediaType": LAYER_TYPE, "digest": self.push_blob(LAYER), "size": len(LAYER)}
        fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config}
        data = json.dumps(fields | {"layers": [layer]} | more).encode()
        answer = self.put_manifest(tag, data)
        assert answer.status == 201
        return digest_of(data)

    def put_manifest(self, tag: str, data: bytes) -> urllib3.BaseHTTPResponse:
        return self.ask("PUT", f"manifests/{tag}", data, content_type=MANIFEST_TYPE)


def with_query(address: str, **query: str) -> str:
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    return f"{address}{'&' if '?' in address else '?'}{pairs}"


def code_of(answer: urllib3.BaseHTTPResponse) -> str:
    code: str = answer.json()["errors"][0]["code"]
    return code


@contextlib.contextmanager
def fake(folder: Path, ways: Ways) -> Iterator[Remote]:
    with serving(folder) as running, urllib3.PoolManager(retries=False) as pool:
        running.ways = ways
        yield Remote(running.urls["registry"], ways, "demo/one", "demo/two", pool)


REAL = pytest.param("real", marks=pytest.mark.engine)


@pytest.fixture(params=["following", "imitating", REAL])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    if request.param == "real":
        address = request.getfixturevalue("registry")
        own = f"suite/{secrets.token_hex(8)}"
        with urllib3.PoolManager(retries=False) as pool:
            yield Remote(f"http://{address}", AS_DOCKER_REGISTRY, f"{own}/a", f"{own}/b", pool)
    else:
        ways = Ways() if request.param == "following" else AS_DOCKER_REGISTRY
        with fake(tmp_path, ways) as running:
            yield running


def test_version_is_answered(remote: Remote) -> None:
    assert remote.ask("GET", "/v2/").status == 200


def test_absent_blob_is_not_found(remote: Remote) -> None:
    head = remote.ask("HEAD", f"blobs/{NOWHERE}")
    assert (head.status, head.data) == (404, b"")
    got = remote.ask("GET", f"blobs/{NOWHERE}")
    assert (got.status, code_of(got)) == (404, "BLOB_UNKNOWN")


def test_blob_is_there_once_sent(remote: Remote) -> None:
    digest = remote.push_blob(LAYER)
    head = remote.ask("HEAD", f"blobs/{digest}")
    assert (head.status, head.data) == (200, b"")
    assert head.headers["content-length"] == str(len(LAYER))
    assert head.headers["docker-content-digest"] == digest
    assert remote.ask("GET", f"blobs/{digest}").data == LAYER


def test_blob_belongs_to_its_repository(remote: Remote) -> None:
    digest = remote.push_blob(LAYER)
    assert remote.ask("HEAD", f"/v2/{remote.other}/blobs/{digest}").status == 404


@pytest.mark.parametrize(
    ("span", "content", "described"),
    [
        ("bytes=100-", LAYER[100:], "bytes 100-10239/10240"),
        ("bytes=5-9", LAYER[5:10], "bytes 5-9/10240"),
        ("bytes=10239-99999", LAYER[-1:], "bytes 10239-10239/10240"),
    ],
)
def test_part_of_a_blob(remote: Remote, span: str, content: bytes, described: str) -> None:
    answer = remote.ask("GET", f"blobs/{remote.push_blob(LAYER)}", range=span)
    assert (answer.status, answer.data) == (206, content)
    assert answer.headers["content-range"] == described


def test_part_beyond_the_end_is_refused(remote: Remote) -> None:
    address = f"{remote.url}/v2/{remote.name}/blobs/{remote.push_blob(LAYER)}"
    span = {"range": "bytes=10240-"}
    answer = remote.pool.request("GET", address, headers=span, preload_content=False)
    own_length = len(answer.read(decode_content=False, amt=64))
    assert answer.status == 416
    said = int(answer.headers["content-length"])
    assert said == (own_length if remote.ways.framed_refusals else len(LAYER))
    answer.close()


def test_upload_leads_to_a_place(remote: Remote) -> None:
    digest = digest_of(LAYER)
    answer = remote.ask("PUT", with_query(remote.start(), digest=digest), LAYER)
    assert answer.status == 201
    assert answer.headers["docker-content-digest"] == digest
    place = urljoin(remote.url, answer.headers["location"])
    assert place == f"{remote.url}/v2/{remote.name}/blobs/{digest}"


def test_upload_of_a_stream(remote: Remote) -> None:
    address = with_query(remote.start(), digest=LAYER_DIGEST)
    parts = iter([LAYER[:100], LAYER[100:]])
    answer = remote.pool.request("PUT", address, body=parts, timeout=TIMEOUT)
    assert answer.status == 201
    assert remote.ask("GET", f"blobs/{LAYER_DIGEST}").data == LAYER


def test_upload_of_nothing(remote: Remote) -> None:
    digest = remote.push_blob(b"")
    assert remote.ask("HEAD", f"blobs/{digest}").headers["content-length"] == "0"


def test_upload_again_is_no_fault(remote: Remote) -> None:
    assert remote.push_blob(LAYER) == remote.push_blob(LAYER)


def test_upload_with_another_digest_is_refused_and_over(remote: Remote) -> None:
    place = remote.start()
    answer = remote.ask("PUT", with_query(place, digest=NOWHERE), LAYER)
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")
    assert remote.ask("HEAD", f"blobs/{NOWHERE}").status == 404
    assert remote.ask("PUT", with_query(place, digest=LAYER_DIGEST), LAYER).status == 404


def test_upload_without_a_digest_is_refused(remote: Remote) -> None:
    answer = remote.ask("PUT", remote.start(), LAYER)
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")


def test_upload_that_never_was(remote: Remote) -> None:
    place = "blobs/uploads/00000000-0000-0000-0000-000000000000"
    assert remote.ask("PUT", with_query(place, digest=LAYER_DIGEST), LAYER).status == 404


def test_upload_in_the_opening_request(remote: Remote) -> None:
    address = with_query("blobs/uploads/", digest=LAYER_DIGEST)
    answer = remote.ask("POST", address, LAYER)
    if remote.ways.single_post:
        assert answer.status == 201
        assert remote.ask("GET", f"blobs/{LAYER_DIGEST}").data == LAYER
    else:
        assert answer.status == 202
        assert answer.headers["location"]


def test_upload_in_chunks(remote: Remote) -> None:
    place = remote.start()
    for start in range(0, len(LAYER), 4096):
        chunk = LAYER[start : start + 4096]
        end = start + len(chunk) - 1
        answer = remote.ask("PATCH", place, chunk, content_range=f"{start}-{end}")
        assert (answer.status, answer.headers["range"]) == (202, f"0-{end}")
        place = urljoin(remote.url, answer.headers["location"])
    assert remote.ask("PUT", with_query(place, digest=LAYER_DIGEST)).status == 201
    assert remote.ask("GET", f"blobs/{LAYER_DIGEST}").data == LAYER


def test_last_chunk_may_come_with_the_end(remote: Remote) -> None:
    answer = remote.ask("PATCH", remote.start(), LAYER[:10], content_range="0-9")
    place = urljoin(remote.url, answer.headers["location"])
    assert remote.ask("PUT", with_query(place, digest=LAYER_DIGEST), LAYER[10:]).status == 201


def test_chunk_out_of_order(remote: Remote) -> None:
    answer = remote.ask("PATCH", remote.start(), LAYER[:10], content_range="5000-5009")
    assert answer.status == (416 if remote.ways.ordered_chunks else 202)


def test_only_the_last_location_leads_on(remote: Remote) -> None:
    place = remote.start()
    assert remote.ask("PATCH", place, LAYER[:10], content_range="0-9").status == 202
    answer = remote.ask("PATCH", place, LAYER[10:20], content_range="10-19")
    assert answer.status == 404


def test_upload_tells_how_far_it_is(remote: Remote) -> None:
    answer = remote.ask("PATCH", remote.start(), LAYER[:10], content_range="0-9")
    status = remote.ask("GET", answer.headers["location"])
    assert (status.status, status.headers["range"]) == (204, "0-9")


def test_upload_given_up_is_gone(remote: Remote) -> None:
    place = remote.start()
    assert remote.ask("DELETE", place).status == 204
    assert remote.ask("GET", place).status == 404


def test_mount(remote: Remote) -> None:
    digest = remote.push_blob(LAYER)
    address = f"/v2/{remote.other}/blobs/uploads/?mount={digest}&from={remote.name}"
    answer = remote.ask("POST", address)
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, digest)
    assert remote.ask("GET", f"/v2/{remote.other}/blobs/{digest}").data == LAYER


def test_mount_of_nothing_opens_an_upload(remote: Remote) -> None:
    answer = remote.ask("POST", f"blobs/uploads/?mount={NOWHERE}&from={remote.other}")
    assert answer.status == 202
    place = with_query(urljoin(remote.url, answer.headers["location"]), digest=LAYER_DIGEST)
    assert remote.ask("PUT", place, LAYER).status == 201


def test_manifest_by_tag_and_digest(remote: Remote) -> None:
    digest = remote.push_image("1.0")
    for name in ("1.0", digest):
        head = remote.ask("HEAD", f"manifests/{name}", accept=MANIFEST_TYPE)
        got = remote.ask("GET", f"manifests/{name}", accept=MANIFEST_TYPE)
        assert (head.status, got.status, head.data) == (200, 200, b"")
        assert got.headers["docker-content-digest"] == digest == digest_of(got.data)
        assert got.headers["content-type"] == head.headers["content-type"] == MANIFEST_TYPE
        assert head.headers["content-length"] == str(len(got.data))


def test_manifest_by_digest_has_no_tag(remote: Remote) -> None:
    digest = remote.push_image("1.0")
    data = remote.ask("GET", f"manifests/{digest}", accept=MANIFEST_TYPE).data + b"\n"
    answer = remote.put_manifest(digest_of(data), data)
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, digest_of(data))
    assert remote.ask("GET", "tags/list").json()["tags"] == ["1.0"]


def test_manifest_with_another_digest_is_refused(remote: Remote) -> None:
    digest = remote.push_image("1.0")
    data = remote.ask("GET", f"manifests/{digest}", accept=MANIFEST_TYPE).data
    answer = remote.put_manifest(NOWHERE, data)
    assert (answer.status, code_of(answer)) == (400, "DIGEST_INVALID")


def test_manifest_without_its_blobs_is_refused(remote: Remote) -> None:
    remote.push_image("1.0")
    data = remote.ask("GET", "manifests/1.0", accept=MANIFEST_TYPE).data
    broken = data.replace(LAYER_DIGEST.encode(), NOWHERE.encode())
    answer = remote.put_manifest("2.0", broken)
    assert (answer.status, code_of(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert remote.ask("HEAD", "manifests/2.0", accept=MANIFEST_TYPE).status == 404


def test_manifest_that_is_none_is_refused(remote: Remote) -> None:
    answer = remote.put_manifest("1.0", b"not json")
    assert (answer.status, code_of(answer)) == (400, "MANIFEST_INVALID")


def test_absent_manifest_is_not_found(remote: Remote) -> None:
    answer = remote.ask("GET", "manifests/none", accept=MANIFEST_TYPE)
    assert (answer.status, code_of(answer)) == (404, "MANIFEST_UNKNOWN")


def test_manifest_of_a_type_that_was_not_accepted(remote: Remote) -> None:
    remote.push_image("1.0")
    assert remote.ask("GET", "manifests/1.0").status == (200 if remote.ways.any_accept else 404)


def test_tag_moves(remote: Remote) -> None:
    remote.push_image("latest")
    second = remote.push_image("latest", annotations={"n": "2"})
    answer = remote.ask("GET", "manifests/latest", accept=MANIFEST_TYPE)
    assert answer.headers["docker-content-digest"] == second


def test_index_of_manifests(remote: Remote) -> None:
    digest = remote.push_image("1.0")
    entry = {"mediaType": MANIFEST_TYPE, "digest": digest, "size": 1}
    entry |= {"platform": {"os": "linux", "architecture": "amd64"}}
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).encode()
    assert remote.ask("PUT", "manifests/all", data, content_type=INDEX_TYPE).status == 201
    answer = remote.ask("GET", "manifests/all", accept=f"{MANIFEST_TYPE}, {INDEX_TYPE}")
    assert (answer.data, answer.headers["content-type"]) == (data, INDEX_TYPE)


def test_deleted_manifest_is_gone_with_its_tags(remote: Remote) -> None:
    digest = remote.push_image("1.0")
    assert remote.ask("DELETE", f"manifests/{digest}").status == 202
    assert remote.ask("GET", f"manifests/{digest}", accept=MANIFEST_TYPE).status == 404
    assert remote.ask("GET", "manifests/1.0", accept=MANIFEST_TYPE).status == 404


def test_deleted_tag(remote: Remote) -> None:
    digest = remote.push_image("1.0")
    answer = remote.ask("DELETE", "manifests/1.0")
    assert answer.status == (202 if remote.ways.tag_deletion else 400)
    assert remote.ask("GET", f"manifests/{digest}", accept=MANIFEST_TYPE).status == 200


def test_tags_of_a_repository_that_never_was(remote: Remote) -> None:
    answer = remote.ask("GET", f"/v2/{remote.name}/never/tags/list")
    assert (answer.status, code_of(answer)) == (404, "NAME_UNKNOWN")


def test_tags_in_pages(remote: Remote) -> None:
    for tag in ("1.0", "1.1", "2.0"):
        remote.push_image(tag)
    answer = remote.ask("GET", "tags/list?n=2")
    if not remote.ways.paged_tags:
        assert sorted(answer.json()["tags"]) == ["1.0", "1.1", "2.0"]
        return
    assert answer.json()["tags"] == ["1.0", "1.1"]
    address, _, relation = answer.headers["link"].partition(">")
    assert relation == '; rel="next"'
    following = remote.ask("GET", address.lstrip("<"))
    assert following.json()["tags"] == ["2.0"]
    assert "link" not in following.headers


def test_referrers(remote: Remote) -> None:
    image = remote.push_image("1.0")
    subject = {"mediaType": MANIFEST_TYPE, "digest": image, "size": 1}
    one = remote.push_image("one", subject=subject, artifactType="text/one")
    two = remote.push_image("two", subject=subject, artifactType="text/two")
    answer = remote.ask("GET", f"referrers/{image}")
    if not remote.ways.referrers:
        assert answer.status == 404
        return
    assert {entry["digest"] for entry in answer.json()["manifests"]} == {one, two}
    filtered = remote.ask("GET", f"referrers/{image}?artifactType=text/two")
    assert [entry["digest"] for entry in filtered.json()["manifests"]] == [two]
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    assert remote.ask("GET", f"referrers/{NOWHERE}").json()["manifests"] == []


@pytest.mark.parametrize("name", ["Demo", "demo//one", "-demo"])
def test_name_outside_the_grammar(remote: Remote, name: str) -> None:
    assert remote.ask("GET", f"/v2/{name}/tags/list").status in {301, 400, 404}


def test_connection_serves_many_requests(remote: Remote) -> None:
    for _ in range(5):
        remote.push_blob(LAYER)
    pool = remote.pool.connection_from_url(remote.url)
    assert isinstance(pool, urllib3.HTTPConnectionPool)
    assert pool.num_connections == 1


# --- what only the registry of the tests does -------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def client() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=urllib3.Retry(1), timeout=TIMEOUT) as pool:
        yield pool


def basic(server: Registry) -> dict[str, str]:
    pair = f"{server.access.user}:{server.access.password}"
    return urllib3.make_headers(basic_auth=pair)


def test_basic_authentication(server: Registry, client: urllib3.PoolManager) -> None:
    server.access.mode = "basic"
    address = f"{server.urls['registry']}/v2/"
    refused = client.request("GET", address)
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == 'Basic realm="registry"'
    assert client.request("GET", address, headers=basic(server)).status == 200
    assert [request.authorization is None for request in server.requests] == [True, False]


def test_tokens_have_rights_and_an_end(server: Registry, client: urllib3.PoolManager) -> None:
    now = [1000.0]
    server.access.mode, server.access.clock = "bearer", lambda: now[0]
    address = f"{server.urls['registry']}/v2/demo/blobs/uploads/"
    refused = client.request("POST", address)
    scope = 'scope="repository:demo:pull,push"'
    assert refused.status == 401
    assert scope in refused.headers["www-authenticate"]

    def token(scope: str, headers: dict[str, str]) -> dict[str, str]:
        asked = client.request("GET", f"{server.access.realm}?scope={scope}", headers=headers)
        return {"authorization": f"Bearer {asked.json()['token']}"}

    full = token("repository:demo:pull,push", basic(server))
    assert client.request("POST", address, headers=full).status == 202
    for poor in (token("repository:demo:pull", basic(server)), token("repository:demo:push", {})):
        again = client.request("POST", address, headers=poor)
        assert 'error="insufficient_scope"' in again.headers["www-authenticate"]
    now[0] += server.access.lifetime
    assert client.request("POST", address, headers=full).status == 401


def test_mounting_needs_a_right_to_the_source(
    server: Registry, client: urllib3.PoolManager
) -> None:
    server.access.mode = "bearer"
    address = f"{server.urls['registry']}/v2/demo/blobs/uploads/?mount={NOWHERE}&from=base"
    challenge = client.request("POST", address).headers["www-authenticate"]
    assert 'scope="repository:base:pull repository:demo:pull,push"' in challenge


def test_token_service_knows_people(server: Registry, client: urllib3.PoolManager) -> None:
    wrong = urllib3.make_headers(basic_auth="ada:wrong")
    assert client.request("GET", server.access.realm, headers=wrong).status == 401
    fields = {"grant_type": "refresh_token", "refresh_token": server.access.identity}
    asked = client.request("POST", server.access.realm, fields=fields, encode_multipart=False)
    assert asked.json()["expires_in"] == server.access.lifetime
    server.access.anonymous = False
    assert client.request("GET", server.access.realm).status == 401


def test_blobs_are_given_elsewhere(server: Registry, client: urllib3.PoolManager) -> None:
    digest = server.content.add_blob("demo", LAYER)
    server.redirect = True
    address = f"{server.urls['registry']}/v2/demo/blobs/{digest}"
    answer = client.request("GET", address, redirect=True)
    assert answer.status == 200
    assert answer.data == LAYER
    assert [request.role for request in server.requests] == ["registry", "elsewhere"]


def test_requests_are_written_down(server: Registry, client: urllib3.PoolManager) -> None:
    place = client.request("POST", f"{server.urls['registry']}/v2/demo/blobs/uploads/")
    address = with_query(place.headers["location"], digest=LAYER_DIGEST)
    client.request("PUT", address, body=LAYER)
    assert server.words() == ["POST uploads", "PUT upload"]
    assert server.received() == server.requests[1].received == len(LAYER)
    assert [request.status for request in server.requests] == [202, 201]
    assert server.content.violations() == []


def test_violations_are_seen(server: Registry) -> None:
    digest = server.content.add_blob("demo", LAYER)
    server.content.path(digest).write_bytes(b"other")
    assert server.content.violations() == [f"demo: blob {digest} has other bytes"]


def test_tls(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    with serving(tmp_path, pem) as running, urllib3.PoolManager(ca_certs=str(pem)) as trusting:
        assert trusting.request("GET", f"{running.urls['registry']}/v2/").status == 200
        assert running.urls["plain"].startswith("http://")
        refused = pytest.raises(urllib3.exceptions.MaxRetryError, match="CERTIFICATE_VERIFY")
        with urllib3.PoolManager(retries=0) as strict, refused:
            strict.request("GET", f"{running.urls['registry']}/v2/")
