"""The cache of downloads: files by sha256, fetched in parallel, resumed, verified, shared by all stacks.

downloads/sha256/<hex>           a verified file
downloads/sha256/<hex>.partial   what has arrived of it; locked while somebody fetches it
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from builder import console, files
from builder.errors import BuilderError, IntegrityError, ResolveError
from builder.sources import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

_PARALLEL = 8
_CHUNK = 1 << 18


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


class Downloads:
    """A folder of verified files."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "downloads" / "sha256"
        self._stop = Event()

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
        title = f"download {len(missing)} files"
        with console.progress(title, total) as bar, ThreadPoolExecutor(_PARALLEL) as workers:
            # Large files first: the last one to end should be a small one.
            queue = sorted(missing.values(), key=lambda item: -item.size)
            tasks = [workers.submit(self._fetch, item, bar.advance) for item in queue]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            except BaseException:
                self._stop.set()
                workers.shutdown(cancel_futures=True)
                raise

    def _fetch(self, item: Wanted, advance: Callable[[int], None]) -> None:
        partial = self._folder / f"{item.sha256}.partial"
        try:
            with _locked(partial) as file:
                if not self.has(item):
                    self._fill(item, file, advance)
                    partial.rename(self.path(item.sha256))
                    files.sync_folder(self._folder)
        except OSError as fault:
            raise files.unwritable(partial, fault) from fault

    def _fill(self, item: Wanted, file: BinaryIO, advance: Callable[[int], None]) -> None:
        """Write the file from the first place that has it, resuming what an earlier run left."""
        faults: list[BuilderError] = []
        for url in item.urls():
            try:
                self._from(url, item, file, advance)
            except (ResolveError, IntegrityError) as fault:
                faults.append(fault)
            else:
                return
        raise _reason(item, faults)

    def _from(self, url: str, item: Wanted, file: BinaryIO, advance: Callable[[int], None]) -> None:
        arrived = file.seek(0, os.SEEK_END)
        resumed = arrived if arrived < item.size else 0
        with web.opened(url, resumed) as (body, offset):
            file.truncate(offset)
            file.seek(0)
            state = hashlib.sha256()
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                state.update(chunk)
            advance(offset)
            for chunk in _limited(body, item.size - offset):
                self._check_stopped()
                state.update(chunk)
                file.write(chunk)
                advance(len(chunk))
        arrived = file.tell()
        if arrived == item.size and state.hexdigest() == item.sha256:
            _settle(file)
            return
        if arrived >= item.size:
            file.truncate(0)  # wrong bytes are not worth resuming
        raise _difference(url, item, arrived, state.hexdigest())

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt


def _limited(body: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield at most one byte more than expected: enough to notice a longer body."""
    left = limit + 1
    while left and (chunk := body.read(min(_CHUNK, left))):
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
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a partial file that nobody else is writing; waits for whoever is.

    The lock dies with its process.  A file that was renamed while we waited is not ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                os.fchmod(file.fileno(), 0o644)
                yield file
                path.unlink(missing_ok=True) if file.tell() == 0 else None
                return
