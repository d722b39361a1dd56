"""Take things out of the cache while others may use it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder import files
from builder.oci.contents import LOCK, Item, stamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_GOING = f"{files.TEMPORARY_PREFIX}gone-"
"""Begins the name of what is on its way out; whoever cleans up next may end it."""
_SETTLED_SECONDS = 60
"""Age from which a temporary file that nobody has locked is a leftover."""


def remove(item: Item) -> bool:
    """Remove an item unless somebody used or replaced it since it was looked at.

    It is moved away first: from then on nobody can find it by its name, so what is looked at
    then is final.  It is locked meanwhile, so that no other clean-up takes it for a leftover.

    Raises:
        HostError: the cache cannot be written.
    """
    away = item.path.with_name(f"{_GOING}{item.path.name}")
    with _claimed(item.path) as is_ours:
        if not is_ours:
            return False  # somebody else was faster
        try:
            item.path.rename(away)
            if stamp(away.lstat()) != item.stamp:
                _put_back(away, item.path)
                return False
        except FileNotFoundError:
            return False
        except OSError as fault:
            raise files.unwritable(item.path, fault) from fault
        _delete(away)
    return True


def remove_leftover(item: Item) -> bool:
    """Remove what a killed writer left, unless its writer lives.

    Raises:
        HostError: the cache cannot be written.
    """
    path = item.path
    if path.name.startswith(_GOING):
        with _claimed(path) as is_ours:
            if is_ours:
                _delete(path)
            return is_ours
    if path.is_dir():
        # Unpacked under the lock of its final name.
        name = path.name.removeprefix(files.TEMPORARY_PREFIX)
        with _unlocked(path.with_name(f"{name}{LOCK}"), "ab") as is_ours:
            if is_ours:
                _delete(path)
            return is_ours
    return remove_unlocked(item, _SETTLED_SECONDS)


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Lock a file or folder that nobody has locked, or tell that it is gone or somebody's."""
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        yield False
        return
    except OSError as fault:
        raise files.unwritable(path, fault) from fault
    try:
        yield _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Open whatever lies there without waiting for it, and a link as itself."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as fault:
        if fault.errno != errno.ELOOP:
            raise
        return os.open(path, os.O_PATH | os.O_NOFOLLOW)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a link, or a file system without locks: two clean-ups at once are to be avoided
    return True


def remove_unlocked(item: Item, settled: float = 0.0) -> bool:
    """Remove a file whose writer locks it, unless it does.

    A file younger than `settled` seconds is one that its writer is perhaps about to lock.

    Raises:
        HostError: the cache cannot be written.
    """
    if time.time() - item.used < settled:
        return False
    with _unlocked(item.path, "rb") as is_ours:
        if is_ours:
            _delete(item.path)
        return is_ours


@contextmanager
def _unlocked(path: Path, mode: str) -> Iterator[bool]:
    """Tell whether nobody has a file locked, and keep it so; it has to be there under its name."""
    try:
        with path.open(mode) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = path.stat().st_ino == os.fstat(file.fileno()).st_ino
            yield is_ours
    except (BlockingIOError, FileNotFoundError):
        yield False
    except OSError as fault:
        raise files.unwritable(path, fault) from fault


def _put_back(away: Path, path: Path) -> None:
    """Give a thing its name again.  What has taken the name meanwhile is as good."""
    with contextlib.suppress(OSError):
        away.rename(path)
        return
    _delete(away)


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # two clean-ups at once
    except OSError as fault:
        raise files.unwritable(path, fault) from fault
