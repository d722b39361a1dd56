"""What a layout remembers of its blobs, so that nobody has to hash a hundred gigabytes again.

An attribute of `index.json` holds a mark for each blob that was written or hashed by the run that
wrote the index: what the file system says of the blob's file, down to the inode and the nanosecond
of its last change, which no program can set.  A blob that still has its mark has the bytes that
were verified: whoever writes, resizes, replaces or copies it makes it another file.  Another
program that writes the index takes the attribute away, and a file system without attributes
remembers nothing: blobs are hashed again.  As everywhere else, a disk that silently changes what
it was given is found by who reads the blob.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from builder import files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

_ATTRIBUTE = "user.builder.verified"
_MARK = 16
_MARKS = 200
"""File systems hold attributes of 4 KB; beyond that blobs are hashed again."""


def mark_of(name: str, stat: os.stat_result) -> bytes:
    """Return the mark of a blob whose file is as `stat` says."""
    return hashlib.sha256(f"{name} {files.identity(stat)}".encode()).digest()[:_MARK]


def recall(index: Path) -> frozenset[bytes]:
    """Return the marks that the last run left."""
    try:
        data = os.getxattr(index, _ATTRIBUTE)
    except OSError:
        return frozenset()
    return frozenset(data[start : start + _MARK] for start in range(0, len(data), _MARK))


def remember(index: int, marks: Collection[bytes], earlier: Iterable[bytes]) -> None:
    """Leave marks for the next run on an index that is being written.

    `earlier` ones may belong to other images of the layout: they stay while there is room.
    """
    rest = sorted(set(earlier) - set(marks))
    with contextlib.suppress(OSError):
        os.setxattr(index, _ATTRIBUTE, b"".join([*sorted(marks), *rest][:_MARKS]))
