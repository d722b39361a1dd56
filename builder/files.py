"""Atomic files, our folders on this machine, and the data that travels with the package.

A file is visible only when it is whole: temporary file in the same folder, write, fsync,
rename, fsync of the folder.  A crash leaves at most a `.tmp-…` file behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import platformdirs

from builder.errors import HostError
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY_PREFIX = ".tmp-"
_ORPHAN_SECONDS = 60


def cache_folder() -> Path:
    """Return the folder for downloads, layers and images (`$BUILDER_CACHE`, else XDG's)."""
    chosen = os.environ.get("BUILDER_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("builder"))


def data_path(name: str) -> Path:
    """Return package data such as `dockerfiles` or `smoke`: in the wheel, else in the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_data" / name
    return installed if installed.exists() else package.parent / name


@contextmanager
def writing(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends without an exception."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = temporary_in(path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.rename(path)
        temporary = None
        sync_folder(path.parent)
    except OSError as fault:
        raise unwritable(path, fault) from fault
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # what went wrong before says more
                temporary.unlink()


def temporary_in(folder: Path) -> tuple[int, Path]:
    """Open a new temporary file, locked for as long as it is open: see `sweep`."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        os.close(descriptor)
        Path(name).unlink()
        raise
    return descriptor, Path(name)


def sweep(folder: Path) -> None:
    """Remove temporary files that nobody has open any more: their writers were killed."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        # A pipe has no reader to wait for.
        with contextlib.suppress(OSError), open(path, "rb", opener=at_once) as file:
            # A writer locks its file at once; the age covers the moment before that.
            if time.time() - os.fstat(file.fileno()).st_mtime > _ORPHAN_SECONDS:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe, and without following a link."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def check_writable(folder: Path) -> None:
    """Raise HostError unless `folder`, or the nearest folder above it, can be written."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as fault:
        raise unwritable(folder, fault) from fault
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise unwritable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


class Identity(NamedTuple):
    """What is another as soon as a file is replaced, written or resized."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def identity(stat: os.stat_result) -> Identity:
    """Return which file this is, and as of when."""
    return Identity(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def free_bytes(folder: Path) -> int:
    """Return how much can be written where `folder` is; a file system that cannot say has room."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_blocks else sys.maxsize


def check_space(folder: Path, needed: int) -> None:
    """Raise HostError unless `needed` bytes can be written where `folder` is."""
    free = free_bytes(folder)
    if needed > free:
        wanted, found = human_bytes(needed), human_bytes(free)
        message = f"{folder}: expected {wanted} of free space, got {found}"
        raise HostError(message, "free space, or choose a folder on another file system")


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make `data` the content of `path` in one step."""
    with writing(path, mode) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, fault: OSError) -> HostError:
    """Return the error for a file that could not be written."""
    reason = (fault.strerror or str(fault)).lower()
    message = f"{path}: cannot be written: {reason}"
    hint = "free space, or choose a folder that can be written"
    if path.is_relative_to(cache_folder()):
        hint = "free space, or set BUILDER_CACHE to a folder that can be written"
    return HostError(message, hint)
