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
from builder.digest import Digest, from_hex
from builder.errors import BuilderError, IntegrityError, ResolveError
from builder.oci import uses
from builder.sources import streams, web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_PARALLEL = 8
_CHUNK = 1 << 18
_KEPT = "what has arrived is kept: the next run goes on from there"
_LOOK_AGAIN_SECONDS = 0.1
"""While another process downloads the same file."""


@dataclass(frozen=True)
class Framing:
    """A larger thing that a file is the middle of, digested while the file arrives."""

    before: bytes
    after: bytes
    found: Callable[[Digest], object]
    """Hears the digest of the whole once the file is verified; not if the file was here before."""


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
    refused: Callable[[], ResolveError] | None = None
    """The error where a place does not let us have it."""
    framed: Framing | None = None


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
        self.root = root
        self._folder = root / "downloads" / "sha256"

    def path(self, sha256: str) -> Path:
        """Return where a file lies, or would lie."""
        return self._folder / sha256

    def has(self, wanted: Wanted) -> bool:
        """Tell whether the whole file is here."""
        path = self.path(wanted.sha256)
        try:
            return uses.touch(path) and path.stat().st_size == wanted.size
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
                    # Not before: a run that is killed here leaves something to be written to.
                    os.fchmod(file.fileno(), 0o444)
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
    found = streams.reason(transfer.item, faults)
    if file.seek(0, os.SEEK_END):
        found.hint = f"{found.hint}\n{_KEPT}".lstrip()
    raise found


def _insist(url: str, transfer: _Transfer, file: BinaryIO) -> None:
    """Begin anew, once, if the bytes are wrong or too many.

    What an earlier run left may be the fault of another place, so wrong bytes after a resumed
    download say nothing about this one.
    """
    was_resumed = 0 < file.seek(0, os.SEEK_END) <= transfer.item.size
    try:
        _from(url, transfer, file)
    except (IntegrityError, web.RangeError):
        if not was_resumed:
            raise
    else:
        return
    _empty(transfer, file)
    _from(url, transfer, file)


def _from(url: str, transfer: _Transfer, file: BinaryIO) -> None:
    item, digests = transfer.item, _Digests(transfer.item)
    arrived = file.seek(0, os.SEEK_END)
    if arrived > item.size:
        _empty(transfer, file)
    file.seek(0)
    # Before anything is asked for: a server would not wait while gigabytes are read again.
    for chunk in iter(lambda: file.read(_CHUNK), b""):
        transfer.check_stopped()
        digests.update(chunk)
    for chunk in streams.resumed(url, item, file.tell()):
        transfer.check_stopped()
        digests.update(chunk)
        file.write(chunk)
        transfer.advance(len(chunk))
    try:
        streams.check(url, item, file.tell(), digests.plain.hexdigest())
    except IntegrityError:
        _empty(transfer, file)  # wrong bytes are not worth resuming
        raise
    _settle(file)
    digests.tell()


class _Digests:
    """What is computed of a file while its bytes pass by."""

    def __init__(self, item: Wanted) -> None:
        self._framed = item.framed
        self.plain = hashlib.sha256()
        self._layer = hashlib.sha256(item.framed.before if item.framed else b"")

    def update(self, chunk: bytes) -> None:
        self.plain.update(chunk)
        if self._framed:
            self._layer.update(chunk)

    def tell(self) -> None:
        """Hand on the digest of the frame; the file is the one that was wanted."""
        if self._framed:
            self._layer.update(self._framed.after)
            self._framed.found(from_hex(self._layer.hexdigest()))


def _empty(transfer: _Transfer, file: BinaryIO) -> None:
    transfer.advance(-min(file.seek(0, os.SEEK_END), transfer.item.size))
    file.truncate(0)


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


def _settle(file: BinaryIO) -> None:
    file.flush()
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
