"""The cache of downloads: files by sha256, in parallel, resumed, verified, for all stacks.

downloads/sha256/<hex>           a verified file
downloads/sha256/<hex>.partial   what has arrived of it; locked while somebody fetches it
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO

from builder import console, files
from builder.errors import BuilderError, IntegrityError, ResolveError
from builder.sources import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_PARALLEL = 8
_CHUNK = 1 << 18
_BREAKS = 4
"""How often a connection may break in the middle of one file."""
_LOOK_AGAIN_SECONDS = 0.1
"""While another process downloads the same file."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file by its content, and where it may be."""

    label: str
    """What messages call it, such as the file name."""
    sha256: str
    size: int
    urls: Callable[[], Iterable[str]]
    """Called only if the file is not in the cache."""
    gone: Callable[[], ResolveError] | None = None
    """The error where no place has it."""


@dataclass(frozen=True)
class _Transfer:
    """One file on its way; `stop` ends it from another thread."""

    item: Wanted
    advance: Callable[[int], None]
    stop: Event

    def check_stopped(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt


class Downloads:
    """A folder of verified files."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "downloads" / "sha256"

    def path(self, sha256: str) -> Path:
        """Return where a file lies, or would lie."""
        return self._folder / sha256

    def has(self, wanted: Wanted) -> bool:
        """Tell whether the whole file is here."""
        try:
            return self.path(wanted.sha256).stat().st_size == wanted.size
        except OSError:
            return False

    def fetch(self, wanted: Sequence[Wanted]) -> None:
        """Bring every file into the cache.

        Raises:
            ResolveError: no place has a file, or none can be reached.
            IntegrityError: a place has other bytes under its name.
        """
        missing = {item.sha256: item for item in wanted if not self.has(item)}
        if not missing:
            return
        total = sum(item.size for item in missing.values())
        # Large files first: the last one to end should be a small one.
        queue = sorted(missing.values(), key=lambda item: -item.size)
        stop = Event()
        with console.progress(f"download {len(missing)} files", total) as bar:
            try:
                _side_by_side(lambda item: self._fetch(_Transfer(item, bar.advance, stop)), queue)
            except BaseException:
                stop.set()
                raise

    def _fetch(self, transfer: _Transfer) -> None:
        item = transfer.item
        partial = self._folder / f"{item.sha256}.partial"
        try:
            with _locked(partial, transfer.check_stopped) as file:
                if not self.has(item):
                    _fill(transfer, file)
                    partial.rename(self.path(item.sha256))
                    files.sync_folder(self._folder)
        except OSError as fault:
            raise files.unwritable(partial, fault) from fault


def _fill(transfer: _Transfer, file: BinaryIO) -> None:
    """Write the file from the first place that has it, resuming what an earlier run left."""
    transfer.advance(min(file.seek(0, os.SEEK_END), transfer.item.size))
    faults: list[BuilderError] = []
    try:
        for url in transfer.item.urls():
            try:
                return _insist(url, transfer, file)
            except (ResolveError, IntegrityError) as fault:
                faults.append(fault)
    except ResolveError as fault:
        faults.append(fault)  # a place that would have named more addresses cannot be asked
    raise _reason(transfer.item, faults)


def _insist(url: str, transfer: _Transfer, file: BinaryIO) -> None:
    """Go on where the connection broke, as long as bytes arrive; begin anew, once, if they differ.

    What an earlier run left may be the fault of another place, so wrong bytes after a resumed
    download say nothing about this one.
    """
    breaks, is_anew = 0, False
    while True:
        before = file.seek(0, os.SEEK_END)
        was_resumed = 0 < before < transfer.item.size
        try:
            return _from(url, transfer, file)
        except IntegrityError:
            if is_anew or not was_resumed:
                raise
            is_anew = True
        except web.BrokenError as fault:
            breaks += 1
            arrived = file.seek(0, os.SEEK_END)
            if breaks > _BREAKS or arrived <= before:
                raise _difference(url, transfer.item, arrived, "") from fault


def _from(url: str, transfer: _Transfer, file: BinaryIO) -> None:
    item = transfer.item
    arrived = file.seek(0, os.SEEK_END)
    resumed = arrived if arrived < item.size else 0
    state = hashlib.sha256()
    with _opened(url, resumed) as (body, offset):
        file.truncate(min(offset, arrived))
        file.seek(0)
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            state.update(chunk)
        for chunk in _limited(body, item.size - offset):
            transfer.check_stopped()
            state.update(chunk)
            file.write(chunk)
            transfer.advance(len(chunk))
    arrived = file.tell()
    if arrived == item.size and state.hexdigest() == item.sha256:
        _settle(file)
        return
    if arrived >= item.size:
        file.truncate(0)  # wrong bytes are not worth resuming
    raise _difference(url, item, arrived, state.hexdigest())


@contextmanager
def _opened(url: str, offset: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a place; where it has fewer bytes than have arrived, there is nothing to skip."""
    try:
        with web.opened(url, offset) as result:
            yield result
    except web.RangeError:
        with web.opened(url, 0) as result:
            yield result


def _side_by_side(work: Callable[[Wanted], None], queue: Sequence[Wanted]) -> None:
    """Do `work` for every item, several at a time; the first failure ends it.

    Daemon threads: one that waits for a server must not hold up an interrupt or the exit.
    """
    todo, done = SimpleQueue[Wanted | None](), SimpleQueue[BaseException | None]()

    def run() -> None:
        while (item := todo.get()) is not None:
            try:
                work(item)
            except BaseException as fault:  # noqa: BLE001 - raised again by the caller
                done.put(fault)
                return
            done.put(None)

    count = min(_PARALLEL, len(queue))
    for item in (*queue, *(None,) * count):
        todo.put(item)
    for _ in range(count):
        Thread(target=run, daemon=True).start()
    for _ in queue:
        fault = done.get()
        if fault is not None:
            raise fault


def _limited(body: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield at most one byte more than expected: enough to notice a longer body."""
    left = limit + 1
    # `read1`: what has arrived, so that an interrupt need not wait for a slow server.
    some: Callable[[int], bytes] = body.read1  # type: ignore[attr-defined]
    while left and (chunk := some(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk


def _difference(url: str, item: Wanted, arrived: int, actual: str) -> BuilderError:
    place = f"{item.label} from {web.redacted(url)}"
    if arrived < item.size:
        message = f"{place}: ended after {arrived} of {item.size} bytes"
        return ResolveError(message, "run the command again: it goes on where this one stopped")
    if arrived > item.size:
        message = f"{place}: is longer than the {item.size} bytes of the lock"
    else:
        message = f"{place}: expected sha256:{item.sha256}, got sha256:{actual}"
    hint = "the place has other bytes than were locked: check it before locking again"
    return IntegrityError(message, hint)


def _reason(item: Wanted, faults: Sequence[BuilderError]) -> BuilderError:
    """Return the fault that says most: wrong bytes, then a failure, then absence."""
    telling = [fault for fault in faults if not isinstance(fault, web.NotFoundError)]
    wrong = [fault for fault in telling if isinstance(fault, IntegrityError)]
    if wrong or telling:
        return (wrong or telling)[0]
    if item.gone:
        return item.gone()
    message = f"{item.label}: no configured place has this file"
    return ResolveError(message, "check the index settings, or lock again")


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o444)
    os.fsync(file.fileno())


@contextmanager
def _locked(path: Path, check_stopped: Callable[[], None]) -> Iterator[BinaryIO]:
    """Open a partial file that nobody else is writing; waits for whoever is.

    The lock dies with its process.  A file that was renamed while we waited is not ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+b") as file:
            _lock(file, check_stopped)
            if not _lies_at(path, file):
                continue
            os.fchmod(file.fileno(), 0o644)
            try:
                yield file
            finally:
                if file.seek(0, os.SEEK_END) == 0:
                    path.unlink(missing_ok=True)
            return


def _lies_at(path: Path, file: BinaryIO) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO, check_stopped: Callable[[], None]) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            check_stopped()
            time.sleep(_LOOK_AGAIN_SECONDS)
