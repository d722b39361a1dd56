"""Who uses the cache, and what was used last: how a clean-up knows what to leave alone.

    running/.tmp-…   one file per process that uses the cache, locked for as long as it lives

The modification time of such a file is when its process began, and that of a blob, a record, a
download or an unpacked image is when it was used last.  So what a running process uses is
younger than its file.  Nobody waits for anybody, and a lock dies with its process.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from builder import files

if TYPE_CHECKING:
    from pathlib import Path

_FOLDER = "running"
_BEGINNING_SECONDS = 60
"""A file this young may be one that its process is about to lock."""
_held: set[Path] = set()


def hold(root: Path) -> None:
    """Be known as a user of the cache until this process ends.

    A cache that cannot be written is used all the same: nobody can clean it up either.
    """
    if root in _held:
        return
    folder = root / _FOLDER
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _, path = files.temporary_in(folder)  # stays open, and so locked, until the process ends
        _held.add(root)
        atexit.register(_release, path)


def _release(path: Path) -> None:
    with contextlib.suppress(OSError):  # the lock goes in any case
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Running:
    """The processes that use a cache now."""

    count: int
    since: float | None
    """When the first of them began."""


def running(root: Path) -> Running:
    """Return who else uses the cache; files of processes that were killed do not count."""
    others = (root / _FOLDER).glob(f"{files.TEMPORARY_PREFIX}*")
    begun = [moment for path in others if (moment := _begun(path)) is not None]
    return Running(len(begun), min(begun, default=None))


def _begun(path: Path) -> float | None:
    try:
        with path.open("rb") as file:
            moment = os.fstat(file.fileno()).st_mtime
            is_young = time.time() - moment < _BEGINNING_SECONDS
            return moment if is_young or _is_locked(file) else None
    except OSError:
        return None  # it ended just now


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def touch(path: Path) -> bool:
    """Note that something is used now, and return whether it is there.

    A clean-up moves a thing away before it looks at its time once more.  So a thing that was
    touched by its name is left alone, and one that is being removed cannot be touched.
    """
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:
        return path.exists()  # somebody else's, or read-only: used as it is
    return True
