"""Files of a lock in order over the network, going on where connections break.

Nothing here is written to disk, and never more than a few MiB are held.
"""

from __future__ import annotations

import contextlib
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Lock, Thread
from typing import TYPE_CHECKING, BinaryIO

from builder.errors import BuilderError, IntegrityError, ResolveError
from builder.sources import web

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from builder.sources.downloads import Wanted

    Item = bytes | BaseException | None
    Source = Callable[["Switch"], Generator[bytes, None, None]]

_READ = 1 << 18
_CHUNK = 1 << 20
_AHEAD = 4
"""Chunks that wait for the consumer: what the network brings while it is busy."""
_BREAKS = 4
"""How often a connection may break..."""
_PROGRESS = 64 << 20
"""...until so many bytes more have arrived."""
_THREAD = "read ahead"
_END_SECONDS = 2.0
"""For a thread that waits for a server to notice that nobody listens any more."""


class Switch:
    """Ends what another thread reads, also where it waits for the next bytes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._is_off = False
        self._body: BinaryIO | None = None

    def check(self) -> None:
        """Raise KeyboardInterrupt if reading is to end."""
        if self._is_off:
            raise KeyboardInterrupt

    @contextmanager
    def watching(self, body: BinaryIO) -> Iterator[None]:
        """Let `turn_off` end the reading of `body`."""
        with self._lock:
            self.check()
            self._body = body
        try:
            yield
        finally:
            with self._lock:
                self._body = None

    def turn_off(self) -> None:
        with self._lock:
            self._is_off = True
            # A file has nothing to shut down, a body that was read to its end has no connection.
            with contextlib.suppress(AttributeError, ValueError, RuntimeError, OSError):
                self._body.shutdown()  # type: ignore[union-attr]


@dataclass(frozen=True)
class RemoteFile:
    """A file that is not on this machine, and passes through it."""

    wanted: Wanted

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.wanted.label

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.wanted.size

    def chunks(self, offset: int = 0) -> Generator[bytes, None, None]:
        """Yield its bytes from `offset` on, read ahead by a thread that ends with the iterator.

        Read from its beginning it is verified, and its last bytes come only after that.

        Raises:
            ResolveError: no place has it, or the connection keeps breaking.
            IntegrityError: a place has other bytes.
        """
        return _ahead(lambda switch: self._verified(offset, switch))

    def _verified(self, offset: int, switch: Switch) -> Generator[bytes, None, None]:
        faults: list[BuilderError] = []
        arrived, state, held = offset, hashlib.sha256(), b""
        for url in self.wanted.urls():
            try:
                for chunk in _gathered(resumed(url, self.wanted, offset, switch)):
                    arrived += len(chunk)
                    state.update(chunk)
                    if held:
                        yield held
                    held = chunk
                digest = self.wanted.sha256 if offset else state.hexdigest()
                check(url, self.wanted, arrived, digest)
            except (ResolveError, IntegrityError) as fault:
                faults.append(fault)
                if arrived > offset:
                    break  # another place cannot take back what the consumer has
            else:
                yield held
                return
        raise reason(self.wanted, faults)


def resumed(url: str, wanted: Wanted, begin: int, switch: Switch | None = None) -> Iterator[bytes]:
    """Yield what a place has from byte `begin` on, at most one byte more than was locked.

    Raises:
        RangeError: the place has fewer bytes than are to be skipped.
        ResolveError: it has fewer than were locked, or the connection keeps breaking.
    """
    arrived, breaks, settled = begin, 0, begin
    while arrived < wanted.size:
        try:
            for chunk in _body(url, wanted.size, arrived, switch or Switch()):
                arrived += len(chunk)
                yield chunk
            if arrived < wanted.size:
                raise _difference(url, wanted, arrived, "")
        except web.BrokenError as fault:
            if arrived - settled >= _PROGRESS:
                breaks, settled = 0, arrived
            breaks += 1
            if breaks > _BREAKS:
                raise _difference(url, wanted, arrived, "") from fault


def _body(url: str, size: int, begin: int, switch: Switch) -> Iterator[bytes]:
    """Yield one answer from `begin` on; where ranges are not served what is before is skipped."""
    switch.check()
    with web.opened(url, begin) as (body, first), switch.watching(body):
        if first > begin:
            message = f"{web.redacted(url)}: answered from byte {first}, was asked from {begin}"
            raise ResolveError(message, "check the proxy between here and there")
        skip = begin - first
        for chunk in _limited(body, size - first):
            switch.check()
            if skip < len(chunk):
                yield chunk[skip:]
            skip = max(0, skip - len(chunk))


def _limited(body: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield at most one byte more than expected: enough to notice a longer body."""
    left = limit + 1
    # `read1`: what has arrived, so that an interrupt need not wait for a slow server.
    some: Callable[[int], bytes] = body.read1  # type: ignore[attr-defined]
    while left and (chunk := some(min(_READ, left))):
        left -= len(chunk)
        yield chunk


def _gathered(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Join what a network brings in small pieces: every chunk changes threads and is hashed."""
    pieces, size = list[bytes](), 0
    for chunk in chunks:
        pieces.append(chunk)
        size += len(chunk)
        if size >= _CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _ahead(source: Source) -> Generator[bytes, None, None]:
    """Yield what `source` yields in a thread, which is a few chunks ahead of us."""
    queue, switch = Queue["Item"](_AHEAD), Switch()
    thread = Thread(target=_run, args=(source, queue, switch), name=_THREAD, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        switch.turn_off()
        with contextlib.suppress(Empty):
            while True:  # it may be waiting for room
                queue.get_nowait()
        thread.join(_END_SECONDS)


def _run(source: Source, queue: Queue[Item], switch: Switch) -> None:
    try:
        with contextlib.closing(source(switch)) as chunks:
            for chunk in chunks:
                queue.put(chunk)
                switch.check()
    except BaseException as fault:  # noqa: BLE001 - raised again by the consumer
        queue.put(fault)
    else:
        queue.put(None)


def check(url: str, wanted: Wanted, arrived: int, actual: str) -> None:
    """Compare what a place sent with the lock."""
    if arrived != wanted.size or actual != wanted.sha256:
        raise _difference(url, wanted, arrived, actual)


def _difference(url: str, wanted: Wanted, arrived: int, actual: str) -> BuilderError:
    place = f"{wanted.label} from {web.redacted(url)}"
    if arrived < wanted.size:
        message = f"{place}: ended after {arrived} of {wanted.size} bytes"
        return ResolveError(message, "check the network, then run the command again")
    if arrived > wanted.size:
        message = f"{place}: is longer than the {wanted.size} bytes of the lock"
    else:
        message = f"{place}: expected sha256:{wanted.sha256}, got sha256:{actual}"
    hint = "the place has other bytes than were locked: check it before locking again"
    return IntegrityError(message, hint)


def reason(wanted: Wanted, faults: Sequence[BuilderError]) -> BuilderError:
    """Return the fault that says most: wrong bytes, then a failure, then absence."""
    telling = [fault for fault in faults if not isinstance(fault, web.NotFoundError)]
    wrong = [fault for fault in telling if isinstance(fault, IntegrityError)]
    if wrong or telling:
        found = (wrong or telling)[0]
        is_explained = isinstance(found, web.RefusedError) and wanted.refused
        return wanted.refused() if is_explained and wanted.refused else found
    if wanted.gone:
        return wanted.gone()
    message = f"{wanted.label}: no configured place has this file"
    return ResolveError(message, "check the index settings, or lock again")
