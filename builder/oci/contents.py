"""What is in the cache: every file or folder that can go on its own, with its size and last use."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import files
from builder.oci.store import BLOBS, RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal[
    "downloads",
    "blobs",
    "layers",
    "collisions",
    "weights",
    "code",
    "indexes",
    "places",
    "rootfs",
    "sandbox",
    "contexts",
    "tools",
    "leftovers",
    "other",
]
DOWNLOADS = "downloads/sha256"
PARTIAL = ".partial"
LOCK = ".lock"
_FILES: dict[str, Kind] = {
    DOWNLOADS: "downloads",
    BLOBS: "blobs",
    RECORDS: "layers",
    "collisions": "collisions",
    "weights": "weights",
    "code": "code",
    "indexes": "indexes",
    "places": "places",
}
"""Folders of files."""
_TREES: dict[str, Kind] = {
    "rootfs": "rootfs",
    "sandbox": "sandbox",
    "contexts": "contexts",
    "tools": "tools",
}
"""Folders of folders."""
_OWN = {"running"}
"""What says who uses the rest."""


@dataclass(frozen=True)
class Item:
    """Something that can be removed on its own."""

    kind: Kind
    path: Path
    size: int
    used: float
    """When it was used last, in seconds since 1970."""
    stamp: tuple[int, int]
    """Which file it is, and when it was touched: another one under the same name differs."""


def contents(root: Path) -> Iterator[Item]:
    """Yield what is in the cache; what goes away meanwhile is left out."""
    for folder, kind in {**_FILES, **_TREES}.items():
        for entry in _entries(root / folder):
            if (found := _item(entry, kind)) is not None:
                yield found
    known = {Path(folder).parts[0] for folder in (*_FILES, *_TREES)} | _OWN
    for entry in _entries(root):
        if entry.name not in known and (found := _item(entry, "other")) is not None:
            yield found


def stamp(status: os.stat_result) -> tuple[int, int]:
    """Return what changes when a file is replaced or touched."""
    return status.st_ino, status.st_mtime_ns


def is_temporary(path: Path) -> bool:
    """Tell whether a name is that of something unfinished, or on its way out."""
    return path.name.startswith(files.TEMPORARY_PREFIX)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _item(entry: os.DirEntry[str], kind: Kind) -> Item | None:
    path = Path(entry.path)
    with contextlib.suppress(FileNotFoundError):
        status = entry.stat(follow_symlinks=False)
        is_tree = stat.S_ISDIR(status.st_mode)
        if kind in _TREES.values() and not is_tree:
            return None  # locks, and what is written anew at every run
        if is_temporary(path):
            kind = "leftovers"
        size = _tree_size(path) if is_tree else status.st_size
        return Item(kind, path, size, _used(kind, path, status), stamp(status))
    return None


def _used(kind: Kind, path: Path, status: os.stat_result) -> float:
    """Return when something was used last.

    What is used by its name only is touched then.  Small files are used by reading them, which
    the time of access tells, to the day, on file systems that keep it.
    """
    if kind in ("collisions", "weights", "code", "indexes", "places"):
        return max(status.st_mtime, status.st_atime)
    if kind == "sandbox":
        # The cache of an image's engine is used whenever the image is.
        with contextlib.suppress(OSError):
            return max(status.st_mtime, (path.parents[1] / "rootfs" / path.name).stat().st_mtime)
    return status.st_mtime


def _tree_size(folder: Path) -> int:
    """Return the bytes of the files below a folder, several names of one counted once."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = Path(place, name).lstat()
                seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())
