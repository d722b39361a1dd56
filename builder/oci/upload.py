"""One blob on its way to a registry: a POST, and one PUT that streams all of it.

Nothing is kept: after a fault the registry is asked whether it has the blob, and if not the bytes
are made again from their source.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urldefrag, urlsplit

from builder.errors import IntegrityError
from builder.oci.refusals import (
    DigestError,
    LostError,
    NotFoundError,
    PassingError,
    RegistryError,
    RejectedError,
    TooLargeError,
    UnauthorizedError,
    UnfitError,
)
from builder.oci.session import Call, Session
from builder.oci.transport import Answer, Request, SourceError
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from builder.digest import Digest

_PIECE = 1 << 20
_STORE_SECONDS = 900.0
"""Registries copy or hash a blob once they have it, and answer after that."""
_CANCEL_SECONDS = 10.0
_STREAM = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes that a registry is to have."""

    digest: Digest
    size: int
    chunks: Callable[[], Iterable[bytes]]
    """Makes the bytes; may be called again."""
    advance: Callable[[int], object]

    @property
    def what(self) -> str:
        """Its name in messages."""
        return f"blob {self.digest}"


def upload(session: Session, blob: Blob, is_there: Callable[[], bool]) -> int:
    """Send a blob and return how many bytes were sent again because of faults."""
    again = 0
    renewed = False
    for number in itertools.count(1):
        body = _Body(blob, session.reference.name)
        try:
            _attempt(session, blob, body)
        except SourceError:
            pass
        except UnauthorizedError:
            if renewed:
                raise
            renewed = True  # the token ended on the way: the next request gets a new one
        except PassingError as fault:
            session.wait(fault, number)
        else:
            blob.advance(blob.size - body.sent)  # the registry had it after all
            return again
        if body.fault:
            raise body.fault
        if is_there():
            blob.advance(blob.size - body.sent)
            return again
        again += body.sent
        blob.advance(-body.sent)
    raise AssertionError  # counting does not end


def cancel(session: Session, url: str) -> None:
    """Tell the registry that an upload will not be finished; if it does not hear, so be it."""
    request = Request(method="DELETE", url=url, seconds=_CANCEL_SECONDS)
    with contextlib.suppress(RegistryError):
        expected = (HTTPStatus.NO_CONTENT, HTTPStatus.OK, HTTPStatus.ACCEPTED)
        call = Call(what="the end of an upload", request=request, right="push", expected=expected)
        session.finish(session.ask(call))


def started(session: Session, url: str, answer: Answer) -> str:
    """Return where an upload goes on, as the answer to its POST says."""
    session.finish(answer)
    location = answer.headers.get("location")
    if not location:
        message = f"{session.reference.name}: the registry began an upload and did not say where"
        raise UnfitError(message, "check the registry and the proxy before it")
    return urldefrag(session.transport.joined(url, location)).url


def check_digest(session: Session, answer: Answer, digest: Digest) -> None:
    """Compare what the registry says that it stored with what was sent."""
    named = answer.headers.get("docker-content-digest")
    if named in (None, "", digest) or named.startswith("sha512:"):
        return
    message = f"{session.reference.name}: expected {digest}, the registry stored {named[:80]}"
    raise DigestError(message, "the proxy before it, or its storage, changes bytes: check them")


def _attempt(session: Session, blob: Blob, body: _Body) -> None:
    url = session.url("blobs/uploads/")
    request = Request(method="POST", url=url, headers={"content-length": "0"}, body=b"")
    expected = (HTTPStatus.ACCEPTED, HTTPStatus.CREATED)
    answer = session.ask(Call(what=blob.what, request=request, right="push", expected=expected))
    if answer.status == HTTPStatus.CREATED:  # it has it already
        session.finish(answer)
        check_digest(session, answer, blob.digest)
        return
    location = started(session, url, answer)
    try:
        _put(session, blob, location, body)
    except (RegistryError, SourceError):
        cancel(session, location)
        raise
    finally:
        body.close()


def _put(session: Session, blob: Blob, location: str, body: _Body) -> None:
    mark = "&" if urlsplit(location).query else "?"
    request = Request(
        method="PUT",
        url=f"{location}{mark}digest={quote(blob.digest, safe='')}",
        headers={"content-length": str(blob.size), "content-type": _STREAM},
        body=body,
        seconds=_STORE_SECONDS,
    )
    call = Call(what=blob.what, request=request, right="push", expected=(HTTPStatus.CREATED,))
    try:
        answer = session.ask(call)
    except TooLargeError as fault:
        raise _too_large(session, blob, fault) from fault
    except NotFoundError as fault:
        raise LostError(fault.message, fault.hint) from fault
    except RejectedError as fault:
        if fault.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        raise LostError(fault.message, fault.hint) from fault
    session.finish(answer)
    check_digest(session, answer, blob.digest)
    if body.sent != blob.size:
        place = session.reference.name
        message = f"{place}: the registry took {body.sent} of {blob.size} bytes for {blob.what}"
        raise LostError(message, "check the registry and the proxy before it")


def _too_large(session: Session, blob: Blob, fault: TooLargeError) -> TooLargeError:
    amount = f"{blob.size} bytes ({human_bytes(blob.size)})"
    message = f"{session.reference.name}: the registry refuses a layer of {amount}"
    error = TooLargeError(message, fault.hint)
    error.status = fault.status
    return error


class _Body:
    """What a PUT sends: pieces of a size that is worth a system call."""

    def __init__(self, blob: Blob, place: str) -> None:
        self.sent = 0
        self.fault: Exception | None = None
        """What went wrong with the source."""
        self._blob = blob
        self._place = place
        self._pieces = self._counted()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._pieces.close()

    def _counted(self) -> Generator[bytes, None, None]:
        for piece in pieces(self._made()):
            yield piece
            self.sent += len(piece)
            self._blob.advance(len(piece))

    def _made(self) -> Iterator[bytes]:
        """Yield the bytes of the source; its faults pass through urllib3 as ours."""
        try:
            yield from self._measured()
        except Exception as fault:
            self.fault = fault
            raise SourceError from fault

    def _measured(self) -> Iterator[bytes]:
        """Yield no byte more than was announced: it would begin the next request."""
        made, size = 0, self._blob.size
        for chunk in self._blob.chunks():
            made += len(chunk)
            if made > size:
                break
            yield chunk
        if made != size:
            message = f"{self._place}: {self._blob.what}: expected {size} bytes, got "
            message += str(made) if made < size else f"over {size}"
            raise IntegrityError(message, "its source has changed: restore it, or lock again")


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Join small chunks; large ones pass as they are."""
    small = bytearray()
    for chunk in chunks:
        if not small and len(chunk) >= _PIECE:
            yield chunk
            continue
        small += chunk
        if len(small) >= _PIECE:
            yield bytes(small)
            small.clear()
    if small:
        yield bytes(small)
