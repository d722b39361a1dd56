"""One repository of a registry, as the OCI distribution specification 1.1 has it.

What is read is checked against its digest.  What is written is compared with what the registry
says that it stored.
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from builder import digest as digests
from builder.oci import download, manifests, upload
from builder.oci.manifests import Manifest
from builder.oci.refusals import (
    ForbiddenError,
    NotFoundError,
    PassingError,
    RegistryError,
    RejectedError,
    UnauthorizedError,
    UnfitError,
)
from builder.oci.session import Call, Session
from builder.oci.transport import Request, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from builder.digest import Digest
    from builder.reference import Reference

__all__ = ["Manifest", "RegistryError", "Repository", "Settings"]

_MOUNT_ATTEMPTS = 2
_ANY = digests.of_bytes(b"{}")
"""A blob that may or may not be there."""
_NO = (ForbiddenError, NotFoundError, PassingError, RejectedError, UnauthorizedError)


class Repository:
    """One repository of a registry; may be used by several threads at once."""

    def __init__(self, session: Session) -> None:
        self.reference = session.reference
        self._session = session

    @classmethod
    def open(cls, reference: Reference, settings: Settings) -> Repository:
        """Find out how the registry is spoken to; whether it lets us in shows later.

        Raises:
            RegistryError: it does not answer, or is none.
        """
        return cls(Session(reference, settings))

    def require_login(self) -> None:
        """Ask for a blob as one who will write, so that a missing login shows before any work.

        Raises:
            RegistryError: the registry does not let us in.
        """
        self._session.write()
        self.blob_size(_ANY)

    def blob_size(self, digest: Digest) -> int | None:
        """Return how large a blob is, None where the registry does not have it."""
        session = self._session
        try:
            size = session.patiently(lambda: download.blob_size(session, digest, "HEAD"))
        except NotFoundError:
            return None
        except (ForbiddenError, RejectedError):
            size = None  # a signed address that it leads to may be good for GET alone
        if size is not None:  # some proxies take the length out of an answer without a body
            return size
        try:
            return session.patiently(lambda: download.blob_size(session, digest, "GET"))
        except NotFoundError:
            return None

    def mount(self, digest: Digest, source_repository: str) -> bool:
        """Let the registry take a blob from another of its repositories; tell whether it did.

        An answer that is not a yes is a no: what cannot be mounted can be sent.
        """
        session = self._session
        url = session.url("blobs/uploads/")
        url += "?" + urlencode({"mount": digest, "from": source_repository})
        request = Request(method="POST", url=url, headers={"content-length": "0"}, body=b"")
        call = Call(
            what=f"a mount of blob {digest}",
            request=request,
            right="push",
            expected=(HTTPStatus.CREATED, HTTPStatus.ACCEPTED),
            also_from=(source_repository,),
        )
        try:
            answer = session.patiently(lambda: session.ask(call), _MOUNT_ATTEMPTS)
        except _NO:
            return False
        if answer.status == HTTPStatus.CREATED:
            session.finish(answer)
            upload.check_digest(session, answer, digest)
            return True
        with suppress(UnfitError):  # an upload that leads nowhere needs no end
            upload.cancel(session, upload.started(session, url, answer))
        return False

    def upload(
        self,
        digest: Digest,
        size: int,
        chunks: Callable[[], Iterable[bytes]],
        advance: Callable[[int], object],
    ) -> int:
        """Send a blob in one stream; return how many bytes were sent again because of faults.

        `chunks` is called again after a fault, and `advance` with a negative count.  What `chunks`
        raises passes unchanged.
        """
        blob = upload.Blob(digest=digest, size=size, chunks=chunks, advance=advance)
        return upload.upload(self._session, blob, lambda: self.blob_size(digest) == size)

    def blob(self, digest: Digest, size: int) -> Iterator[bytes]:
        """Yield the bytes of a blob; go on where the connection breaks.

        Raises:
            IntegrityError: they are not what the digest says; known only once all were given out.
        """
        return download.download(self._session, digest, size)

    def manifest(self, reference: str) -> Manifest:
        """Return the manifest of a tag or digest.

        Raises:
            NotFoundError: there is none.
            IntegrityError: it is not what the digest says.
        """
        return self._session.patiently(lambda: manifests.read(self._session, reference))

    def put_manifest(self, data: bytes, media_type: str, reference: str) -> Digest:
        """Store a manifest under a tag or its digest; return its digest."""
        manifest = Manifest(data, media_type, digests.of_bytes(data))
        self._session.patiently(lambda: manifests.write(self._session, manifest, reference))
        return manifest.digest

    def referrers(
        self, digest: Digest, artifact_type: str | None = None
    ) -> tuple[dict[str, Any], ...]:
        """Return the descriptors of what refers to a manifest, of one type or of all."""
        return manifests.referrers(self._session, digest, artifact_type)

    def tags(self) -> tuple[str, ...]:
        """Return every tag.

        Raises:
            NotFoundError: there is no such repository.
        """
        return manifests.tags(self._session)
