"""One blob on its way from a registry: verified, and gone on with where the connection broke."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from builder import digest as digests
from builder.errors import IntegrityError
from builder.oci.refusals import BrokenError, PassingError, UnfitError
from builder.oci.session import Call, Session
from builder.oci.transport import Answer, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.digest import Digest

_PIECE = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-\d*/(\d+|\*)", re.IGNORECASE)
_EXPECTED = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
_AGAIN = "check the storage of the registry and the proxy before it"


def blob_size(session: Session, digest: Digest, method: str) -> int | None:
    """Return how large a blob is, as the answer to HEAD or GET says, None if it does not."""
    headers = {} if method == "HEAD" else {"range": "bytes=0-0"}
    answer = _asked(session, digest, method, headers)
    answer.close() if method == "GET" else session.finish(answer)
    return _span(answer)[1]


def download(session: Session, digest: Digest, size: int) -> Iterator[bytes]:
    """Yield the bytes of a blob.

    Raises:
        IntegrityError: they are not what the digest says; known only once all were given out.
    """
    state = hashlib.sha256()
    done = fresh = number = 0
    while True:
        try:
            for piece in _From(session, digest, size, done).pieces():
                state.update(piece)
                done += len(piece)
                fresh += len(piece)
                yield piece
            break
        except PassingError as fault:
            if done == size:
                break  # nothing was missing but the end
            # Who gives a piece between two faults is slow, not gone.
            number = 1 if fresh >= _PIECE else number + 1
            fresh = 0
            session.wait(fault, number)
    got = digests.from_hex(state.hexdigest())
    if got != digest:
        message = f"{session.reference.name}: expected blob {digest}, got {got}"
        raise IntegrityError(message, _AGAIN)


@dataclass(frozen=True)
class _From:
    """A blob from an offset on, as one answer has it."""

    session: Session
    digest: Digest
    size: int
    offset: int

    def pieces(self) -> Iterator[bytes]:
        headers = {"range": f"bytes={self.offset}-"} if self.offset else {}
        answer = _asked(self.session, self.digest, "GET", headers)
        try:
            yield from self._wanted(answer)
        finally:
            answer.close()

    def _wanted(self, answer: Answer) -> Iterator[bytes]:
        start, total = _span(answer)
        if total not in (None, self.size):
            raise self._other(total)
        if start > self.offset:
            message = f"{self.session.reference.name}: asked for bytes from {self.offset} on, got "
            message += f"those from {start} on"
            raise UnfitError(message, _AGAIN)
        at = start
        with self.session.transport.faults():
            for block in answer.stream(_PIECE, decode_content=False):
                known = max(0, min(self.offset - at, len(block)))
                at += len(block)
                if at > self.size:
                    raise self._other(at)
                if known < len(block):
                    yield block[known:] if known else block
        if at != self.size:
            message = f"{self.session.reference.name}: the answer ended after {at} bytes"
            raise BrokenError(message, "check the network, then run the command again")

    def _other(self, got: int | None) -> IntegrityError:
        place = self.session.reference.name
        message = f"{place}: blob {self.digest}: expected {self.size} bytes, got {got}"
        return IntegrityError(message, _AGAIN)


def _asked(session: Session, digest: Digest, method: str, headers: dict[str, str]) -> Answer:
    request = Request(method=method, url=session.url(f"blobs/{digest}"), headers=headers)
    return session.ask(Call(what=f"blob {digest}", request=request, expected=_EXPECTED))


def _span(answer: Answer) -> tuple[int, int | None]:
    """Return the offset of the first byte of a body, and the size of the whole (RFC 9110, 14.4)."""
    span = _RANGE.match(answer.headers.get("content-range", ""))
    if answer.status == HTTPStatus.PARTIAL_CONTENT and span:
        return int(span[1]), int(span[2]) if span[2] != "*" else None
    length = answer.headers.get("content-length", "")
    return 0, int(length) if length.isdecimal() else None
