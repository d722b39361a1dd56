"""A registry on this machine that follows the OCI distribution specification 1.1.

Four servers share one content: `registry`; `token`, which gives bearer tokens; `elsewhere`, where
redirects and uploads may lead and where nobody is asked who they are; and `plain`, which is
`elsewhere` without TLS.  Every request is recorded.  `Ways` says where real registries differ, and
a fault plan may step into any exchange.

Left out: the catalogue of repositories, digests other than sha256, schema 1 manifests, conversion
between manifest types, minimum chunk lengths, limits of rate and size, garbage collection,
paging of referrers, several ranges in one request, and compressed answers.
"""

import json
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from tests.registry_content import INDEX_TYPE, Access, Code, Content, Manifest, Refusal
from tests.registry_wire import ROLES, Exchange, Fault, Reply, Request, Role, Slice

_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_WINDOW = 128 << 10


@dataclass(frozen=True)
class Ways:
    """Where registries may differ; as it stands, what the specification prefers."""

    referrers: bool = True
    """The referrers API exists."""
    single_post: bool = True
    """A blob may come whole with the POST that opens an upload."""
    ordered_chunks: bool = True
    """A chunk that does not follow the one before is refused."""
    paged_tags: bool = True
    """A list of tags is cut where the client asks for it."""
    tag_deletion: bool = True
    """A tag can be deleted and its manifest kept."""
    any_accept: bool = True
    """A manifest is given to a client that did not say it takes its type."""
    framed_refusals: bool = True
    """The refusal of a range has its own length, and not that of the blob."""


AS_DOCKER_REGISTRY = Ways(*[False] * 7)
"""What docker-registry 2.8.2 does."""


class Plan(Protocol):
    def take(self, request: Request) -> Fault: ...


class NoPlan:
    def take(self, request: Request) -> Fault:
        return Fault()


@dataclass
class Registry:
    """The state that the servers read; tests change it between requests."""

    content: Content
    ways: Ways = field(default_factory=Ways)
    access: Access = field(default_factory=Access)
    redirect: bool = False
    """Blobs are given from `elsewhere`."""
    plan: Plan = field(default_factory=NoPlan)
    requests: list[Request] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    """Set at the end, so that nobody waits."""

    @property
    def host(self) -> str:
        return urlsplit(self.urls["registry"]).netloc

    def words(self, role: Role = "registry") -> list[str]:
        return [request.words for request in self.requests if request.role == role]

    def received(self) -> int:
        """Bytes of blobs that clients sent, wherever to."""
        return sum(r.received for r in self.requests if r.kind in {"upload", "uploads"})


class Handler(Exchange):
    def fault(self) -> Fault:
        self.registry.requests.append(self.request_)
        return self.registry.plan.take(self.request_)

    def reply(self) -> Reply:
        try:
            return self.answer()
        except Refusal as refusal:
            return Reply(refusal.status, refusal.headers, refusal.body)

    def answer(self) -> Reply:
        request = self.request_
        if request.kind == "token" and self.role == "token":
            return self.token()
        if self.role == "registry":
            self.registry.access.check(request.authorization, self.needed())
        if request.kind == "ping":
            return self.json({})
        if not _NAME.fullmatch(request.repository):
            raise Refusal(Code.NAME_INVALID)
        method = getattr(self, f"{request.method}_{request.kind}".lower(), None)
        if method is None:
            raise Refusal(Code.UNSUPPORTED)
        reply: Reply = method(request.repository, request.last)
        return reply

    def token(self) -> Reply:
        access, form = self.registry.access, parse_qs(b"".join(self.body()).decode())
        known = access.known(self.request_.authorization)
        known |= form.get("refresh_token") == [access.identity]
        known |= form.get("username", [""])[0] == access.user and form.get("password") == [
            access.password
        ]
        stranger = self.request_.authorization is None and not form
        if not (known or (stranger and access.anonymous)):
            raise Refusal(Code.UNAUTHORIZED)
        token = access.grant(form.get("scope") or self.query("scope"), known=known)
        return self.json({"token": token, "access_token": token, "expires_in": access.lifetime})

    # --- blobs ---

    def get_blob(self, repository: str, digest: str) -> Reply:
        path = self.registry.content.blob(repository, digest)
        if self.registry.redirect and self.role == "registry" and self.command == "GET":
            return Reply(307, {"location": self.registry.urls["elsewhere"] + self.path})
        size = path.stat().st_size
        headers = {
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
            "docker-content-digest": digest,
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request_.headers.get("range", ""))
        if not asked:
            return Reply(200, headers, Slice(path, 0, size))
        first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        if first >= size:
            length = {} if self.registry.ways.framed_refusals else {"content-length": str(size)}
            self.close_connection = bool(length)
            return Reply(416, length | {"content-range": f"bytes */{size}"}, b"no such range")
        headers["content-range"] = f"bytes {first}-{last}/{size}"
        return Reply(206, headers, Slice(path, first, last + 1 - first))

    head_blob = get_blob

    def delete_blob(self, repository: str, digest: str) -> Reply:
        self.registry.content.blob(repository, digest)
        self.registry.content.held[repository].blobs.remove(digest)
        return Reply(202)

    def post_uploads(self, repository: str, _: str) -> Reply:
        content = self.registry.content
        for digest, source in zip(self.query("mount"), self.query("from"), strict=False):
            if content.mount(repository, digest, source):
                return self.created(repository, digest)
        name = content.start(repository)
        if (digests := self.query("digest")) and self.registry.ways.single_post:
            content.uploads[name].append(self.body())
            return self.created(repository, content.finish(name, digests[0]))
        for _chunk in self.body():
            pass
        return self.accepted(repository, name)

    def patch_upload(self, repository: str, name: str) -> Reply:
        upload = self.registry.content.upload(repository, name)
        self.check_state(upload.size)
        span = self.request_.headers.get("content-range")
        if span and self.registry.ways.ordered_chunks:
            first, _, last = span.partition("-")
            length = self.request_.headers.get("content-length", str(int(last) + 1 - int(first)))
            if int(first) != upload.size or int(last) + 1 - int(first) != int(length):
                raise Refusal(Code.BLOB_UPLOAD_INVALID, headers={"range": self.span(upload.size)})
        upload.append(self.body())
        return self.accepted(repository, name)

    def get_upload(self, repository: str, name: str) -> Reply:
        self.registry.content.upload(repository, name)
        reply = self.accepted(repository, name)
        return Reply(204, reply.headers)

    def put_upload(self, repository: str, name: str) -> Reply:
        upload = self.registry.content.upload(repository, name)
        self.check_state(upload.size)
        upload.append(self.body())
        digest = next(iter(self.query("digest")), "")
        return self.created(repository, self.registry.content.finish(name, digest))

    def delete_upload(self, repository: str, name: str) -> Reply:
        self.registry.content.upload(repository, name)
        self.registry.content.drop(name)
        return Reply(204)

    def check_state(self, size: int) -> None:
        """Only the place given with the last answer leads on."""
        if self.query("_state") != [str(size)]:
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN, "an old location")

    def accepted(self, repository: str, name: str) -> Reply:
        size = self.registry.content.uploads[name].size
        location = f"{self.base()}/v2/{repository}/blobs/uploads/{name}?_state={size}"
        return Reply(202, {"location": location, "range": self.span(size)})

    def created(self, repository: str, digest: str) -> Reply:
        location = f"{self.base()}/v2/{repository}/blobs/{digest}"
        return Reply(201, {"location": location, "docker-content-digest": digest})

    def span(self, size: int) -> str:
        return f"0-{max(size - 1, 0)}"

    def base(self) -> str:
        return self.registry.urls[self.role]

    # --- manifests ---

    def put_manifest(self, repository: str, reference: str) -> Reply:
        media_type = self.request_.headers.get("content-type", "")
        manifest = Manifest(b"".join(self.body()), media_type)
        digest = self.registry.content.put_manifest(repository, reference, manifest)
        location = f"{self.base()}/v2/{repository}/manifests/{digest}"
        headers = {"location": location, "docker-content-digest": digest}
        subject = manifest.fields.get("subject", {}).get("digest", "")
        return Reply(
            201, headers | {"oci-subject": subject if self.registry.ways.referrers else ""}
        )

    def get_manifest(self, repository: str, reference: str) -> Reply:
        digest = self.registry.content.resolve(repository, reference)
        manifest = self.registry.content.held[repository].manifests[digest]
        accepted = self.request_.headers.get("accept", "")
        if manifest.media_type not in accepted and not self.registry.ways.any_accept:
            raise Refusal(Code.MANIFEST_UNKNOWN, "its type is not accepted")
        headers = {"content-type": manifest.media_type, "docker-content-digest": digest}
        return Reply(200, headers, manifest.data)

    head_manifest = get_manifest

    def delete_manifest(self, repository: str, reference: str) -> Reply:
        content = self.registry.content
        if ":" in reference:
            content.delete_manifest(repository, reference)
        elif self.registry.ways.tag_deletion:
            content.resolve(repository, reference)
            del content.held[repository].tags[reference]
        else:
            raise Refusal(Code.DIGEST_INVALID, reference)
        return Reply(202)

    def get_tags(self, repository: str, _: str) -> Reply:
        if repository not in self.registry.content.held:
            raise Refusal(Code.NAME_UNKNOWN, repository)
        tags = sorted(self.registry.content.held[repository].tags)
        headers = {}
        if self.registry.ways.paged_tags:
            tags = [tag for tag in tags if tag > next(iter(self.query("last")), "")]
            count = int(next(iter(self.query("n")), len(tags)))
            if 0 < count < len(tags):
                following = f"/v2/{repository}/tags/list?n={count}&last={tags[count - 1]}"
                headers["link"] = f'<{following}>; rel="next"'
            tags = tags[:count]
        return self.json({"name": repository, "tags": tags}, headers)

    def get_referrers(self, repository: str, digest: str) -> Reply:
        if not self.registry.ways.referrers:
            raise Refusal(Code.NAME_UNKNOWN, "no such page")
        found, headers = self.registry.content.referrers(repository, digest), {}
        if asked := self.query("artifactType"):
            found = [entry for entry in found if entry["artifactType"] == asked[0]]
            headers["oci-filters-applied"] = "artifactType"
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": found}
        return self.json(index, headers | {"content-type": INDEX_TYPE})

    def json(self, value: object, headers: dict[str, str] | None = None) -> Reply:
        kind = {"content-type": "application/json"}
        return Reply(200, kind | (headers or {}), json.dumps(value).encode())


class Server(ThreadingHTTPServer):
    """Closes what clients keep open, so that no thread is left behind."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        # A client that sends more than this fits is still sending when it is answered.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
        self.open: set[socket.socket] = set()

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        if self.tls:
            request = self.tls.wrap_socket(request, server_side=True)
        self.open.add(request)
        with request:
            super().finish_request(request, client_address)
        self.open.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def certificate(folder: Path) -> Path:
    """Make a key and a certificate for this machine, in one file that is also its own CA."""
    path = folder / "registry.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-subj", "/CN=localhost", "-keyout", str(path), "-out", str(folder / "crt")]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    with path.open("ab") as file:
        file.write((folder / "crt").read_bytes())
    return path


@contextmanager
def serving(folder: Path, pem: Path | None = None) -> Iterator[Registry]:
    """Run a registry whose blobs lie in `folder`, with TLS if there is a certificate."""
    registry = Registry(Content(folder))
    with ExitStack() as stack:
        for role in ROLES:
            stack.enter_context(_listening(registry, role, pem if role != "plain" else None))
        registry.access.realm = f"{registry.urls['token']}/token"
        yield registry
        registry.over.set()


@contextmanager
def _listening(registry: Registry, role: Role, pem: Path | None) -> Iterator[None]:
    server = Server(type("Bound", (Handler,), {"registry": registry, "role": role}))
    if pem:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(pem)
    # Elsewhere has a name of its own: ports alone do not make a host foreign.
    name = "localhost" if role in {"elsewhere", "plain"} else "127.0.0.1"
    scheme = "https" if pem else "http"
    registry.urls[role] = f"{scheme}://{name}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.003,))
    thread.start()
    try:
        yield
    finally:
        registry.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
