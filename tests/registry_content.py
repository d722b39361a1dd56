"""What a registry holds, without HTTP: repositories, blobs, uploads, manifests and tokens.

Blobs lie in a folder, so large ones cost no memory, and every byte is hashed as it comes in.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


class Code(Enum):
    """The errors of the specification, with the status each is answered with."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN", 404
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID", 416
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN", 404
    DENIED = "DENIED", 403
    DIGEST_INVALID = "DIGEST_INVALID", 400
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN", 400
    MANIFEST_INVALID = "MANIFEST_INVALID", 400
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN", 404
    NAME_INVALID = "NAME_INVALID", 400
    NAME_UNKNOWN = "NAME_UNKNOWN", 404
    TOOMANYREQUESTS = "TOOMANYREQUESTS", 429
    UNAUTHORIZED = "UNAUTHORIZED", 401
    UNSUPPORTED = "UNSUPPORTED", 405


class Refusal(Exception):  # noqa: N818 - nothing broke: this is an answer
    """An answer with an error of the specification."""

    def __init__(self, code: Code, detail: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        name, self.status = code.value
        error = {"code": name, "message": name.replace("_", " ").lower(), "detail": detail}
        self.body = json.dumps({"errors": [error]}).encode()
        self.headers = {"content-type": "application/json"} | (headers or {})


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Manifest:
    data: bytes
    media_type: str

    @property
    def fields(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.data)
        return value

    def blobs(self) -> list[str]:
        fields = self.fields
        listed = [fields["config"]] if "config" in fields else []
        return [entry["digest"] for entry in [*listed, *fields.get("layers", ())]]

    def children(self) -> list[str]:
        return [entry["digest"] for entry in self.fields.get("manifests", ())]


@dataclass
class Held:
    """One repository."""

    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Upload:
    repository: str
    path: Path
    size: int = 0
    state: Any = field(default_factory=hashlib.sha256)

    def append(self, chunks: Iterable[bytes]) -> None:
        with self.path.open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
                self.state.update(chunk)
                self.size += len(chunk)


@dataclass
class Content:
    folder: Path
    held: defaultdict[str, Held] = field(default_factory=lambda: defaultdict(Held))
    uploads: dict[str, Upload] = field(default_factory=dict)

    def path(self, digest: str) -> Path:
        return self.folder / digest.removeprefix("sha256:")

    def add_blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        self.path(digest).write_bytes(data)
        self.held[repository].blobs.add(digest)
        return digest

    def blob(self, repository: str, digest: str) -> Path:
        if digest not in self.held[repository].blobs:
            raise Refusal(Code.BLOB_UNKNOWN, digest)
        return self.path(digest)

    def start(self, repository: str) -> str:
        name = secrets.token_hex(8)
        self.uploads[name] = Upload(repository, self.folder / f"upload-{name}")
        self.uploads[name].path.touch()
        return name

    def upload(self, repository: str, name: str) -> Upload:
        upload = self.uploads.get(name)
        if upload is None or upload.repository != repository:
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN, name)
        return upload

    def drop(self, name: str) -> None:
        self.uploads.pop(name).path.unlink(missing_ok=True)

    def finish(self, name: str, digest: str) -> str:
        """A wrong digest ends the upload too: it has to be started again."""
        upload = self.uploads[name]
        actual = f"sha256:{upload.state.hexdigest()}"
        if actual != digest:
            self.drop(name)
            raise Refusal(Code.DIGEST_INVALID, f"expected {digest}, got {actual}")
        del self.uploads[name]
        upload.path.replace(self.path(digest))
        self.held[upload.repository].blobs.add(digest)
        return digest

    def mount(self, repository: str, digest: str, source: str) -> bool:
        if source not in self.held or digest not in self.held[source].blobs:
            return False
        self.held[repository].blobs.add(digest)
        return True

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> str:
        held = self.held[repository]
        digest = digest_of(manifest.data)
        try:
            wanted, children = manifest.blobs(), manifest.children()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refusal(Code.MANIFEST_INVALID) from None
        if ":" in reference and reference != digest:
            raise Refusal(Code.DIGEST_INVALID, f"expected {reference}, got {digest}")
        missing = [name for name in wanted if name not in held.blobs]
        missing += [name for name in children if name not in held.manifests]
        if missing:
            raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, missing[0])
        held.manifests[digest] = manifest
        if ":" not in reference:
            held.tags[reference] = digest
        return digest

    def resolve(self, repository: str, reference: str) -> str:
        held = self.held[repository]
        digest = reference if ":" in reference else held.tags.get(reference, "")
        if digest not in held.manifests:
            raise Refusal(Code.MANIFEST_UNKNOWN, reference)
        return digest

    def delete_manifest(self, repository: str, digest: str) -> None:
        held = self.held[repository]
        del held.manifests[self.resolve(repository, digest)]
        held.tags = {tag: target for tag, target in held.tags.items() if target != digest}

    def referrers(self, repository: str, digest: str) -> list[dict[str, Any]]:
        return [
            {
                "mediaType": manifest.media_type,
                "digest": name,
                "size": len(manifest.data),
                "artifactType": fields.get("artifactType")
                or fields.get("config", {}).get("mediaType", ""),
                "annotations": fields.get("annotations", {}),
            }
            for name, manifest in self.held[repository].manifests.items()
            if (fields := manifest.fields).get("subject", {}).get("digest") == digest
        ]

    def violations(self) -> list[str]:
        """What is wrong: a manifest without its blobs, a blob with other bytes."""
        found = []
        for name, held in self.held.items():
            for digest, manifest in held.manifests.items():
                lost = [blob for blob in manifest.blobs() if blob not in held.blobs]
                found += [f"{name}@{digest}: no blob {blob}" for blob in lost]
            found += [
                f"{name}: blob {blob} has other bytes"
                for blob in held.blobs
                if digest_of(self.path(blob).read_bytes()) != blob
            ]
        return found


Right = tuple[str, str]
"""A repository and what may be done: `pull` or `push`."""


@dataclass
class Access:
    """Who may do what.  A token names its rights and has an end."""

    mode: Literal["none", "basic", "bearer"] = "none"
    user: str = "ada"
    password: str = "pass-phrase-of-ada"
    identity: str = "identity-token-of-ada"
    """What a credential helper gives in place of a password."""
    anonymous: bool = True
    """Whether strangers may pull (`bearer` only)."""
    lifetime: float = 300
    clock: Callable[[], float] = time.monotonic
    realm: str = ""
    tokens: dict[str, tuple[float, frozenset[Right]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def known(self, header: str | None) -> bool:
        pair = f"{self.user}:{self.password}".encode()
        return header == f"Basic {base64.b64encode(pair).decode()}"

    def grant(self, scopes: list[str], *, known: bool) -> str:
        """Make a token for the part of `scopes` that the asker may have."""
        rights = set()
        for scope in " ".join(scopes).split():
            repository, actions = re.fullmatch(r"repository:(.+):([a-z,*]+)", scope).groups()  # type: ignore[union-attr]
            allowed = {"pull", "push", "delete"} if known else {"pull"}
            rights |= {(repository, action) for action in actions.split(",") if action in allowed}
        token = f"token-{secrets.token_hex(12)}"
        with self.lock:
            self.tokens[token] = (self.clock() + self.lifetime, frozenset(rights))
        return token

    def check(self, header: str | None, needed: frozenset[Right]) -> None:
        if self.mode == "none" or (self.mode == "basic" and self.known(header)):
            return
        if self.mode == "basic":
            raise Refusal(Code.UNAUTHORIZED, headers={"www-authenticate": 'Basic realm="registry"'})
        kind, _, token = (header or "").partition(" ")
        end, rights = self.tokens.get(token, (0.0, frozenset[Right]()))
        fresh = kind == "Bearer" and self.clock() < end
        if not (fresh and needed <= rights):
            error = "insufficient_scope" if fresh else "invalid_token"
            raise Refusal(Code.UNAUTHORIZED, headers=self.challenge(needed, error))

    def challenge(self, needed: frozenset[Right], error: str = "") -> dict[str, str]:
        scopes = defaultdict(list)
        for repository, action in sorted(needed):
            scopes[repository].append(action)
        named = " ".join(f"repository:{name}:{','.join(found)}" for name, found in scopes.items())
        parts = {"realm": self.realm, "service": "registry.test", "scope": named, "error": error}
        listed = ",".join(f'{key}="{value}"' for key, value in parts.items() if value)
        return {"www-authenticate": f"Bearer {listed}"}
