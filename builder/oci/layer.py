"""Layers: what identifies one, and how its bytes are produced.

A stored layer is a blob of the store.  A file layer is never stored: it is header + file +
padding, its digest depends on the file alone, and its bytes are streamed from the file.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from builder.digest import Digest, from_hex
from builder.errors import HostError, IntegrityError
from builder.oci import tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Compression = Literal["zstd", "gzip", "none"]

_MEDIA_TYPES: dict[Compression, str] = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "none": "application/vnd.oci.image.layer.v1.tar",
}
_CHUNK = 1 << 20
_ZSTD_LEVEL = 3
_ZSTD_VERSION = (1, 5, 7)
"""Another release of the library may write other bytes, and so other digests."""
_GZIP_LEVEL = 6
_ZSTD_THREADS = 1
"""Workers of one compressor: layers are written side by side, and each worker holds tens of MB."""


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
    pieces: tuple[bytes | Path, ...]
    """Its bytes in order: literal bytes, and whole files.  A stored layer is one file."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes of the blob.

        Raises:
            IntegrityError: a file changed since the digest was computed.
        """
        state = hashlib.sha256()
        for chunk in self.raw():
            state.update(chunk)
            yield chunk
        if from_hex(state.hexdigest()) != self.digest:
            raise self._changed(from_hex(state.hexdigest()))

    def _changed(self, actual: Digest) -> IntegrityError:
        paths = [piece for piece in self.pieces if isinstance(piece, Path)]
        names = ", ".join(str(path) for path in paths)
        message = f"{names}: expected layer {self.digest}, got {actual}"
        if len(paths) == len(self.pieces):
            # A blob of the store can be made again, a weight file cannot.
            paths[0].unlink(missing_ok=True)
            return IntegrityError(message, "the damaged blob was removed: run the command again")
        return IntegrityError(message, "restore the file, or run builder lock with the stack")

    def raw(self) -> Iterator[bytes]:
        """Yield the bytes without looking at their digest."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                with piece.open("rb") as file:
                    yield from iter(lambda: file.read(_CHUNK), b"")


@dataclass(frozen=True)
class FileDigests:
    """Both identities of a file that becomes a layer of its own."""

    file: Digest
    layer: Digest


def weight_path(sha256: str) -> str:
    """Return where a weight file lies in an image: a function of its content alone."""
    return f"models/blobs/sha256/{sha256}"


def frame(sha256: str, size: int) -> tuple[bytes, bytes]:
    """Return what precedes and what follows a weight file in its layer."""
    return tar.aligned_header(weight_path(sha256), size), tar.padding(size)


def weigh(path: Path, sha256: str, on_bytes: Callable[[int], object]) -> FileDigests:
    """Read a file once and return its digest and that of the layer it makes.

    `sha256` is what the file is expected to be; the layer digest is only meaningful if it is.
    """
    size = path.stat().st_size
    before, after = frame(sha256, size)
    plain, framed = hashlib.sha256(), hashlib.sha256(before)
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            plain.update(chunk)
            framed.update(chunk)
            on_bytes(len(chunk))
    framed.update(after + tar.END)
    return FileDigests(from_hex(plain.hexdigest()), from_hex(framed.hexdigest()))


@dataclass(frozen=True)
class WeightFile:
    """A file on this machine that becomes part of a weight layer."""

    path: Path
    sha256: str
    size: int


def weight_layer(files: Sequence[WeightFile], digest: Digest, title: str) -> Layer:
    """Return the layer that weight files make; nothing is read or written."""
    pieces: list[bytes | Path] = []
    for file in files:
        before, after = frame(file.sha256, file.size)
        pieces += [before, file.path, after]
    pieces.append(tar.END)
    literal = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
    return Layer(
        digest=digest,
        size=literal + sum(file.size for file in files),
        diff_id=digest,
        media_type=_MEDIA_TYPES["none"],
        title=title,
        pieces=tuple(pieces),
    )


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _NoCompressor:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(compression: Compression) -> _Compressor:
    if compression == "zstd":
        import zstandard

        if zstandard.ZSTD_VERSION != _ZSTD_VERSION:
            raise _other_zstd(zstandard.ZSTD_VERSION)
        # With no worker thread zstd takes another code path that gives other bytes.
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=_ZSTD_THREADS)
        return compressor.compressobj()
    if compression == "gzip":
        return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return _NoCompressor()


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
            media_type=_MEDIA_TYPES[self._compression],
            title=title,
            pieces=(path,),
        )

    def _pack(self, data: bytes) -> None:
        self._plain.update(data)
        self._emit(self._compressor.compress(data))

    def _emit(self, data: bytes) -> None:
        self._packed.update(data)
        self._size += len(data)
        self._write(data)
