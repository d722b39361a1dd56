"""Blobs into the folder of a layout: cloned where the file system can, else copied, and hashed.

- A clone shares its blocks with the source and has a life of its own.  A hard link would not:
  whoever changed a file of the layout would change the cache, or the weights, with it.
- Where nothing can be cloned a blob is read, hashed and written in one pass.  Hashing brings
  every byte here anyway, and writing it while it is in the processor's cache takes no longer
  than `copy_file_range` and one more reading.
- A blob has its name when it is whole, verified and durable.  Its folder is made durable after
  the last one, and what names blobs is written after that.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, BinaryIO

from builder import console, files
from builder.digest import Digest, from_hex, hex_of, of_chunks, of_file
from builder.errors import UsageError
from builder.oci.lanes import side_by_side
from builder.oci.layer import content_chunks
from builder.oci.tar import ALIGNMENT
from builder.oci.verified import mark_of
from builder.process import cpus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from builder.oci.layer import Layer, Piece

Advance = Callable[[int], object]
Clone = Callable[[int, int, int, int], object]
"""Makes a file (source, target, offset, size: descriptors and bytes) part of another, or raises."""

_FICLONERANGE = 0x4020940D
_CHUNK = 1 << 20
_WINDOW = 8 << 20
"""Bytes after which what was written is sent to the disk, so that little is left for fsync."""
_LANES = 32
"""Threads at most: more make no disk faster."""


def clone_range(source: int, target: int, offset: int, size: int) -> None:
    """Let `target` share the blocks of `source` from `offset` on; OSError where that cannot be."""
    fcntl.ioctl(target, _FICLONERANGE, struct.pack("qQQQ", source, 0, size, offset))


class BlobFolder:
    """The folder `blobs/sha256` of a layout."""

    def __init__(
        self,
        path: Path,
        advance: Advance,
        known: Collection[bytes] = (),
        clone: Clone = clone_range,
    ) -> None:
        self.path = path
        self.marks: set[bytes] = set()
        """Of the blobs that are known to be right: see `verified`."""
        self._known = known
        self._advance, self._clone = advance, clone
        self._stop, self._counting = Event(), Lock()
        self._temporaries: set[Path] = set()

    def put(self, layers: Sequence[Layer]) -> None:
        """Make the folder hold these blobs; one that is there is kept if it is known to be right.

        Raises:
            HostError: there is no space, or the folder cannot be written.
            IntegrityError: a source is not what its digest says.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            files.sweep(self.path)
            self._check_space([layer for layer in layers if not self._has_size(layer)])
            # Largest first: the last one to end should be a small one.
            order = sorted(layers, key=lambda layer: -layer.size)
            # Twice as many as processors: half of them may wait for the disk.
            side_by_side(self._bring, order, min(2 * cpus(), _LANES), self._stop)
            for folder in (self.path, self.path.parent):
                files.sync_folder(folder)
        except OSError as fault:
            raise files.unwritable(self.path, fault) from fault
        finally:
            # Here and not where they were made: a thread may still be waiting for the disk.
            for temporary in tuple(self._temporaries):
                with contextlib.suppress(OSError):
                    temporary.unlink()

    def _has_size(self, layer: Layer) -> bool:
        with contextlib.suppress(OSError):
            return self._path(layer).stat().st_size == layer.size
        return False

    def _path(self, layer: Layer) -> Path:
        return self.path / hex_of(layer.digest)

    def _check_space(self, layers: Sequence[Layer]) -> None:
        """Refuse what cannot fit before the first byte; clones take no space."""
        needed = sum(layer.size for layer in layers)
        if needed > files.free_bytes(self.path):
            needed -= sum(map(self._clonable, layers))
            files.check_space(self.path, needed)

    def _clonable(self, layer: Layer) -> int:
        """Return how many bytes of a blob need no space, by cloning each of its files for trial."""
        offset = count = 0
        for piece in layer.pieces:
            size = _size(piece)
            if offset % ALIGNMENT == 0:
                with tempfile.TemporaryFile(dir=self.path) as file:
                    count += size if self._cloned(file, piece) else 0
            offset += size
        return count

    def _bring(self, layer: Layer) -> None:
        if not self._is_there(layer):
            self._write(layer)

    def _is_there(self, layer: Layer) -> bool:
        """Hash a blob that is there, unless it is known to be right; a wrong one goes."""
        path = self._path(layer)
        if path.is_dir():
            message = f"{path}: is a folder where a blob should be"
            raise UsageError(message, "remove it, or choose another folder for the layout")
        try:
            with open(path, "rb", buffering=0, opener=files.at_once) as file:
                stat = os.fstat(file.fileno())
                mark = mark_of(path.name, stat)
                if stat.st_size == layer.size and self._is_right(file, layer, mark):
                    self.marks.add(mark)
                    return True
        except FileNotFoundError:
            return False
        except OSError:
            pass  # it cannot be read: no better than wrong
        console.warn(f"{path}: was damaged, is written again")
        # At once: should its source not be here, the next run must see that the blob is lacking.
        path.unlink()
        return False

    def _is_right(self, file: BinaryIO, layer: Layer, mark: bytes) -> bool:
        if mark in self._known:
            self._count(layer.size)
            return True
        actual = of_chunks(map(self._passed, iter(lambda: file.read(_CHUNK), b"")))
        if actual != layer.digest:
            self._count(-file.tell())
            return False
        os.fsync(file.fileno())  # whoever wrote it may have left it in memory
        return True

    def _write(self, layer: Layer) -> None:
        descriptor, temporary = files.temporary_in(self.path)
        self._temporaries.add(temporary)
        with os.fdopen(descriptor, "w+b") as file:
            self._write_verified(file, layer)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            self._check_stop()
            path = temporary.rename(self._path(layer))
            self.marks.add(mark_of(path.name, os.fstat(file.fileno())))
        self._temporaries.discard(temporary)

    def _write_verified(self, file: BinaryIO, layer: Layer) -> None:
        if layer.is_as_read():
            for piece in layer.pieces:
                self._place(file, piece)
            if layer.is_as_read():
                return
            file.seek(0)
            file.truncate()
        actual = self._fill(file, layer.pieces)
        if actual != layer.digest:
            raise layer.changed(actual)

    def _place(self, file: BinaryIO, piece: Piece) -> None:
        """Put a piece there that needs no hashing."""
        if cloned := self._cloned(file, piece):
            self._count(cloned.size)
            return
        for _ in _write_through(file, self._bytes(piece)):
            pass

    def _fill(self, file: BinaryIO, pieces: Sequence[Piece]) -> Digest:
        """Write the bytes of a blob and return the digest of what lies there."""
        state = hashlib.sha256()
        is_doubtful = False
        for piece in pieces:
            cloned = self._cloned(file, piece)
            written = self._bytes(piece) if cloned else _write_through(file, self._bytes(piece))
            for chunk in written:
                state.update(chunk)
            # The source is hashed for its clone, whose bytes are not in memory; if it was touched
            # meanwhile the one need not be what the other is.
            if isinstance(piece, Path) and cloned:
                is_doubtful |= cloned != files.identity(piece.stat())
        if is_doubtful:
            file.seek(0)
            return of_file(file)
        return from_hex(state.hexdigest())

    def _cloned(self, file: BinaryIO, piece: Piece) -> files.Identity | None:
        """Clone a file to the end of another and return what it was; None if that cannot be."""
        if not isinstance(piece, Path):
            return None
        file.flush()
        offset = file.tell()
        try:
            with piece.open("rb") as source:
                cloned = files.identity(os.fstat(source.fileno()))
                self._clone(source.fileno(), file.fileno(), offset, cloned.size)
        except OSError:
            os.ftruncate(file.fileno(), offset)
            return None
        file.seek(0, os.SEEK_END)
        return cloned

    def _bytes(self, piece: Piece) -> Iterator[bytes]:
        chunks = (piece,) if isinstance(piece, bytes) else content_chunks(piece)
        return map(self._passed, chunks)

    def _passed(self, chunk: bytes) -> bytes:
        """Count a chunk, unless the work is to end."""
        self._check_stop()
        self._count(len(chunk))
        return chunk

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt

    def _count(self, count: int) -> None:
        with self._counting:
            self._advance(count)


def _size(piece: Piece) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    if isinstance(piece, Path):
        return piece.stat().st_size if piece.exists() else 0
    return piece.size


def _write_through(file: BinaryIO, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Write chunks as they pass, and have the disk begin with them."""
    begun = file.tell()
    for chunk in chunks:
        file.write(chunk)
        yield chunk
        if file.tell() - begun >= _WINDOW:
            # What is not on the disk yet is sent there, and stays in memory.
            os.posix_fadvise(file.fileno(), begun, file.tell() - begun, os.POSIX_FADV_DONTNEED)
            begun = file.tell()
