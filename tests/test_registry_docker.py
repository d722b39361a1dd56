"""The client of registries against docker-registry: in the clear, and with TLS and logins."""

import base64
import json
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import digest
from builder.oci.refusals import NotFoundError, RejectedError, UnauthorizedError, UntrustedError
from builder.oci.registry import Repository, Settings
from builder.reference import Reference

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
USER, PASSWORD = "ada", "pass-phrase-of-ada"
HASH = "$2b$05$abcdefghijklmnopqrstuuHwZvjmQrtVim0pzGVa5FPez1g9Ka53u"
"""What htpasswd -B makes of that password."""
START_SECONDS = 20


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "SSL_CERT_FILE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def opened(host: str, name: str = "", certificates: str | None = None) -> Repository:
    reference = Reference(host, name or f"t{uuid.uuid4().hex}/a")
    return Repository.open(reference, Settings(certificates=certificates))


def upload(repository: Repository, data: bytes) -> dict[str, object]:
    """Send a blob; return what a manifest says of it."""
    name = digest.of_bytes(data)
    moved: list[int] = []
    assert repository.upload(name, len(data), lambda: [data[:9], data[9:]], moved.append) == 0
    assert sum(moved) == len(data)
    assert repository.blob_size(name) == len(data)
    return {"mediaType": LAYER_TYPE, "digest": name, "size": len(data)}


def image(repository: Repository, *layers: dict[str, object]) -> bytes:
    config = upload(repository, json.dumps({"os": "linux"}).encode()) | {"mediaType": CONFIG_TYPE}
    fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config}
    return json.dumps(fields | {"layers": layers}).encode()


def round_trip(repository: Repository, other: Repository) -> None:
    """All that a push and a pull need."""
    data = uuid.uuid4().bytes * 100_000
    name = digest.of_bytes(data)
    assert repository.blob_size(name) is None
    manifest = image(repository, upload(repository, data))
    pushed = repository.put_manifest(manifest, MANIFEST_TYPE, digest.of_bytes(manifest))
    assert repository.put_manifest(manifest, MANIFEST_TYPE, "1.0") == pushed
    found = repository.manifest("1.0")
    assert (found.data, found.media_type, found.digest) == (manifest, MANIFEST_TYPE, pushed)
    assert b"".join(repository.blob(name, len(data))) == data
    assert repository.tags() == ("1.0",)
    assert repository.referrers(pushed) == ()
    assert other.mount(name, repository.reference.repository)
    assert other.blob_size(name) == len(data)
    assert not other.mount(digest.of_bytes(uuid.uuid4().bytes), repository.reference.repository)


@pytest.mark.engine
def test_a_real_registry_in_the_clear(registry: str) -> None:
    round_trip(opened(registry), opened(registry))


@pytest.mark.engine
def test_a_real_registry_refuses_other_bytes(registry: str) -> None:
    repository = opened(registry)
    with pytest.raises(RejectedError, match="digest invalid") as caught:
        repository.upload(digest.of_bytes(b"a"), 1, lambda: [b"b"], lambda _: None)
    assert caught.value.status == 400
    with pytest.raises(NotFoundError, match="name unknown"):
        repository.tags()


# --- with TLS and logins --------------------------------------------------------------------------


@dataclass
class Secured:
    host: str
    ca: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A registry of our own, with a certificate of our own authority and one user."""
    for program in ("docker-registry", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed")
    folder = tmp_path_factory.mktemp("registry")
    certify(folder)
    (folder / "htpasswd").write_text(f"{USER}:{HASH}\n")
    host = f"127.0.0.1:{free_port()}"
    settings = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "content")}},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}},
        "http": {
            "addr": host,
            "tls": {"certificate": str(folder / "server.crt"), "key": str(folder / "server.key")},
        },
    }
    (folder / "settings.yml").write_text(json.dumps(settings))  # JSON is YAML
    command = ["docker-registry", "serve", str(folder / "settings.yml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            await_port(host, process, folder / "log")
            yield Secured(host, folder / "ca.crt")
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def certify(folder: Path) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    usage = [
        "-addext",
        "keyUsage=critical,keyCertSign",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]
    authority = ["-CA", "ca.crt", "-CAkey", "ca.key"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    for command in (
        [*key, *usage, "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"],
        [*key, *names, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"],
    ):
        subprocess.run(["openssl", "req", *command], check=True, capture_output=True, cwd=folder)
    sign = ["openssl", "x509", "-req", "-in", "server.csr", *authority, "-CAcreateserial"]
    sign += ["-copy_extensions", "copy", "-days", "2", "-out", "server.crt"]
    subprocess.run(sign, check=True, capture_output=True, cwd=folder)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def await_port(host: str, process: subprocess.Popen[bytes], log: Path) -> None:
    name, _, port = host.partition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((name, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"the registry did not start: {log.read_text()}")


def log_in(folder: Path, host: str, password: str = PASSWORD) -> None:
    pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": pair}}}))


def test_a_real_registry_with_tls_and_a_login(secured: Secured, tmp_path: Path) -> None:
    log_in(tmp_path, secured.host)
    names = [opened(secured.host, certificates=str(secured.ca)) for _ in range(2)]
    round_trip(*names)


def test_a_large_layer_over_tls(secured: Secured, tmp_path: Path) -> None:
    log_in(tmp_path, secured.host)
    data = bytes(20 << 20)
    repository = opened(secured.host, certificates=str(secured.ca))
    upload(repository, data)
    assert b"".join(repository.blob(digest.of_bytes(data), len(data))) == data


def test_a_wrong_password(secured: Secured, tmp_path: Path) -> None:
    log_in(tmp_path, secured.host, "not-the-password")
    repository = opened(secured.host, "demo", certificates=str(secured.ca))
    with pytest.raises(UnauthorizedError) as caught:
        repository.upload(digest.of_bytes(b""), 0, list, lambda _: None)
    with pytest.raises(UnauthorizedError) as reading:
        repository.manifest("1.0")
    assert reading.value.message == (
        f"{secured.host}/demo: the registry refused manifest 1.0: "
        "unauthorized: authentication required"
    )
    assert f"docker login {secured.host}" in caught.value.hint
    assert "not-the-password" not in caught.value.message + caught.value.hint


def test_nobody_logged_in(secured: Secured) -> None:
    repository = opened(secured.host, "demo", certificates=str(secured.ca))
    with pytest.raises(UnauthorizedError) as caught:
        repository.tags()
    assert caught.value.hint == f"docker login {secured.host}"


def test_a_wrong_authority(secured: Secured, tmp_path: Path) -> None:
    certify(tmp_path)
    for certificates in ("", str(tmp_path / "ca.crt")):
        with pytest.raises(UntrustedError) as caught:
            opened(secured.host, "demo", certificates=certificates)
        assert caught.value.message.startswith(
            f"{secured.host}/demo: its certificate is not trusted: "
        )
