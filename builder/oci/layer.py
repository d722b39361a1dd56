"""Layers: what identifies one, and how its bytes are produced.

A stored layer is a blob of the store.  A weight layer (see `weights`) is never stored: its bytes
are literal headers and whole files, streamed from where the files lie when they are needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from builder.digest import Digest, from_hex, hex_of, of_chunks
from builder.errors import HostError, IntegrityError
from builder.files import Identity, cache_folder, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from zstandard import ZstdCompressor

Compression = Literal["zstd", "gzip", "none"]

MEDIA_TYPES: dict[Compression, str] = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "none": "application/vnd.oci.image.layer.v1.tar",
}
_CHUNK = 1 << 20
_ZSTD_LEVEL = 3
_ZSTD_VERSION = (1, 5, 7)
"""Another release of the library may write other bytes, and so other digests."""
_GZIP_LEVEL = 6
_M_MMAP_THRESHOLD = -3
"""`malloc.h`: from which size on a block is of the system, not of the C library's heap."""
_LARGE = 4 << 20
_ZSTD_THREADS = 1
"""Workers of one compressor: layers are written side by side, and each worker holds tens of MB."""


class Stream(Protocol):
    """A file that is not on this machine: its bytes come when they are asked for."""

    @property
    def label(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield its bytes from `offset` on."""


Content = Path | Stream
"""A whole file: where it lies, or whence it comes."""
Piece = bytes | Content


def name_of(content: Content) -> str:
    """Return what messages call a file."""
    return str(content) if isinstance(content, Path) else content.label


def content_chunks(content: Content) -> Iterator[bytes]:
    """Yield the bytes of a file.

    Raises:
        IntegrityError: it is not there.
    """
    if not isinstance(content, Path):
        yield from content.chunks()
        return
    try:
        with content.open("rb", buffering=0) as file:
            yield from iter(lambda: file.read(_CHUNK), b"")
    except OSError as fault:
        message = f"{content}: {(fault.strerror or 'unreadable').lower()}"
        hint = "restore it, or if it is in the cache run the command again: it is made anew"
        raise IntegrityError(message, hint) from fault


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an image, with the file its bytes come from."""

    digest: Digest
    """Digest of the blob, compressed."""
    size: int
    """Bytes of the blob."""
    diff_id: Digest
    """Digest of the uncompressed tar."""
    media_type: str
    title: str
    """What is in it, for the image's history."""
    pieces: tuple[Piece, ...]
    """Its bytes in order.  A stored layer is one file; a weight file may not be here yet."""
    sources: Mapping[Path, str] = field(default_factory=dict, compare=False)
    """Expected sha256 of the files among them, so that a wrong one can be named."""
    read_as: Mapping[Path, Identity] = field(default_factory=dict, compare=False)
    """What its files were when this run read them for the digest, see `is_as_read`."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the blob.

        Raises:
            IntegrityError: a file changed since the digest was computed.
        """
        if self.is_as_read():
            yield from self.raw()
            if not self.is_as_read():
                raise self.changed(of_chunks(self.raw()))
            return
        state = hashlib.sha256()
        for chunk in self.raw():
            state.update(chunk)
            yield chunk
        if from_hex(state.hexdigest()) != self.digest:
            raise self.changed(from_hex(state.hexdigest()))

    def is_as_read(self) -> bool:
        """Tell whether this run read every file for the digest, and nobody touched one since.

        Such a layer is not hashed once more: a file that is written, resized or replaced has
        another identity, down to the nanosecond of a time that no program can set.
        """
        contents = [piece for piece in self.pieces if not isinstance(piece, bytes)]
        return bool(self.read_as) and all(map(self._is_untouched, contents))

    def _is_untouched(self, content: Content) -> bool:
        if not isinstance(content, Path) or content not in self.read_as:
            return False
        try:
            return self.read_as[content] == identity(content.stat())
        except OSError:
            return False

    def raw(self) -> Iterator[bytes]:
        """Yield the bytes without looking at their digest."""
        for piece in self.pieces:
            yield from (piece,) if isinstance(piece, bytes) else content_chunks(piece)

    def changed(self, actual: Digest) -> IntegrityError:
        """Return the error for bytes that hash to `actual`; a blob that can be made again goes."""
        message = f"{self._names()}: expected layer {self.digest}, got {actual}"
        if self.is_stored:
            Path(self._names()).unlink(missing_ok=True)
            return IntegrityError(message, "the damaged blob was removed: run the command again")
        wrong = list(self._wrong())
        hint = "restore the file, or run builder lock with the stack"
        if any(path.is_relative_to(cache_folder()) for path, _, _ in wrong):
            hint = "run builder store verify, which removes what is damaged, then this again"
        lines = [f"{path}: expected sha256:{then}, got sha256:{now}" for path, then, now in wrong]
        return IntegrityError("\n".join(lines) or message, hint)

    def _wrong(self) -> Iterator[tuple[Path, str, str]]:
        """Yield every file that is not what it was, with the digests that it had and has."""
        for path, expected in self.sources.items():
            found = hex_of(of_chunks(content_chunks(path)))
            if found != expected:
                yield path, expected, found

    @property
    def is_stored(self) -> bool:
        """Whether it is a blob of the store, which can be made again; a weight file cannot."""
        return len(self.pieces) == 1 and isinstance(self.pieces[0], Path)

    def _names(self) -> str:
        contents = [piece for piece in self.pieces if not isinstance(piece, bytes)]
        return ", ".join(name_of(content) for content in contents)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> Iterable[bytes]: ...
    def flush(self) -> Iterable[bytes]: ...


class _NoCompressor:
    def compress(self, data: bytes, /) -> Iterable[bytes]:
        return (data,)

    def flush(self) -> Iterable[bytes]:
        return ()


class _Zstd:
    """A compressor that hands on what it has in small pieces: in one they would be 40 MB."""

    def __init__(self) -> None:
        self._session: Any = _new_zstd().chunker(chunk_size=_CHUNK)  # it has no types

    def compress(self, data: bytes, /) -> Iterable[bytes]:
        yield from self._session.compress(data)

    def flush(self) -> Iterable[bytes]:
        yield from self._session.finish()


class _Gzip:
    def __init__(self) -> None:
        self._session = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def compress(self, data: bytes, /) -> Iterable[bytes]:
        yield self._session.compress(data)

    def flush(self) -> Iterable[bytes]:
        yield self._session.flush()


def _new_zstd() -> ZstdCompressor:
    import zstandard

    if zstandard.ZSTD_VERSION != _ZSTD_VERSION:
        raise _other_zstd(zstandard.ZSTD_VERSION)
    _give_back_large_memory()
    # With no worker thread zstd takes another code path that gives other bytes.
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=_ZSTD_THREADS)


def _compressor(compression: Compression) -> _Compressor:
    if compression == "zstd":
        return _Zstd()
    if compression == "gzip":
        return _Gzip()
    return _NoCompressor()


@functools.cache
def _give_back_large_memory() -> None:
    """Have the C library return large blocks to the system as they are freed.

    By itself it keeps, for each thread, blocks as large as those that were freed before
    (mallopt(3)): 25 layers took 80 MB more.
    """
    with contextlib.suppress(AttributeError):  # musl does so anyway
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _other_zstd(found: tuple[int, ...]) -> HostError:
    expected, got = (".".join(map(str, version)) for version in (_ZSTD_VERSION, found))
    message = f"zstandard: expected its own libzstd {expected}, got {got}: digests would differ"
    return HostError(message, "reinstall it: pip install --force-reinstall zstandard==0.25.0")


class LayerSink:
    """Takes the bytes of a tar; compresses, digests and hands them on in one pass."""

    def __init__(self, compression: Compression, write: Callable[[bytes], object]) -> None:
        self._compression: Compression = compression
        self._compressor = _compressor(compression)
        self._write = write
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self._buffer = bytearray()
        self._size = 0

    def __call__(self, data: bytes) -> None:
        """Take the next bytes.  Compressors get equal chunks, however the bytes arrive."""
        self._buffer += data
        while len(self._buffer) >= _CHUNK:
            self._pack(bytes(self._buffer[:_CHUNK]))
            del self._buffer[:_CHUNK]

    def finish(self, title: str, path: Path) -> Layer:
        """Flush and return the layer; `path` is where its bytes will lie."""
        self._pack(bytes(self._buffer))
        self._emit(self._compressor.flush())
        return Layer(
            digest=from_hex(self._packed.hexdigest()),
            size=self._size,
            diff_id=from_hex(self._plain.hexdigest()),
            media_type=MEDIA_TYPES[self._compression],
            title=title,
            pieces=(path,),
        )

    def _pack(self, data: bytes) -> None:
        self._plain.update(data)
        self._emit(self._compressor.compress(data))

    def _emit(self, pieces: Iterable[bytes]) -> None:
        for data in pieces:
            self._packed.update(data)
            self._size += len(data)
            self._write(data)
