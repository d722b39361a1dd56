"""The root file system of an image as a folder, unpacked without root.

    rootfs/<key>/          every layer but weights; <key> names the list of diffIDs
    rootfs/<key>.lock      held while somebody unpacks
    rootfs/.tmp-<key>/     what is not whole yet; never used, removed by the next to unpack

Weight files are not copied: their places are empty files, for the sandbox to mount the file of
this machine there.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import zstandard

from builder import console, files
from builder.engine.tree import Refused, Tree
from builder.errors import IntegrityError
from builder.oci import uses
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.oci.image import Image
    from builder.oci.layer import Layer

_FORMAT = 1
"""Rises when the same layers would be unpacked in another way."""
_CHUNK = 1 << 20
_BROKEN = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error, zstandard.ZstdError)


@dataclass(frozen=True)
class Rootfs:
    """An image that can be entered."""

    key: str
    """Names the content."""
    path: Path
    weights: Mapping[str, Path]
    """Which file of this machine belongs at which absolute path of the image."""


def key_of(image: Image) -> str:
    """Return the name of what the image's layers unpack to."""
    text = "\n".join([f"rootfs {_FORMAT}", *(layer.diff_id for layer in image.layers)])
    return hashlib.sha256(text.encode()).hexdigest()


def place(image: Image, cache: Path) -> Rootfs:
    """Return where the image's files are or will be; nothing is written.

    Raises:
        IntegrityError: a weight file is gone or has another size.
    """
    weights = {f"/{name}": path for layer in image.layers for name, path in _weights(layer)}
    key = key_of(image)
    return Rootfs(key, cache / "rootfs" / key, weights)


def unpack(image: Image, cache: Path) -> Rootfs:
    """Return the image's files as a folder below `cache`, unpacked now unless they are there.

    Raises:
        IntegrityError: a layer is not what its digest says, or holds what none of ours holds.
        HostError: the folder cannot be written.
    """
    rootfs = place(image, cache)
    if uses.touch(rootfs.path):
        return rootfs
    try:
        with _locked(rootfs.path.with_name(f"{rootfs.key}.lock")):
            if not rootfs.path.is_dir():
                _unpack(image, rootfs.path)
    except OSError as fault:
        raise files.unwritable(rootfs.path, fault) from fault
    return rootfs


def _unpack(image: Image, path: Path) -> None:
    temporary = path.with_name(f"{files.TEMPORARY_PREFIX}{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # what a run that was killed left
    temporary.mkdir()
    try:
        tree = Tree(temporary)
        total = sum(layer.size for layer in image.layers)
        with console.step(f"unpacked {len(image.layers)} layers"):
            with console.progress("unpack", total) as bar:
                for layer in image.layers:
                    _layer(layer, tree, bar.advance)
            tree.mount_points()
            os.sync()  # a folder that is visible stays whole, also when the power fails
        temporary.rename(path)
        console.note(f"{path}: {human_bytes(tree.size)}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for whoever unpacks the same; the lock dies with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _weights(layer: Layer) -> Iterator[tuple[str, Path]]:
    """Yield the files that a weight layer frames, by their paths in the image."""
    for before, piece in zip(layer.pieces, layer.pieces[1:], strict=False):
        if isinstance(before, bytes) and isinstance(piece, Path):
            member = _framed(layer, before)
            if not piece.is_file() or piece.stat().st_size != member.size:
                message = f"{piece}: is not the file of `{layer.title}` any more"
                raise IntegrityError(message, "run the command again: it is fetched anew")
            yield member.name, piece


def _framed(layer: Layer, header: bytes) -> tarfile.TarInfo:
    """Return the tar entry that ends with `header`."""
    try:
        with tarfile.open(fileobj=io.BytesIO(header)) as tar:
            member = tar.next()
    except _BROKEN as fault:
        raise _fault(layer, str(fault)) from fault
    if member is None:
        raise _fault(layer, "no header before a file")
    return member


def _layer(layer: Layer, tree: Tree, advance: Callable[[int], object]) -> None:
    """Put a layer into the tree; its digest is known to be right when this returns."""
    chunks = _counted(layer.chunks(), advance)
    try:
        if framed := list(_weights(layer)):
            for name, _ in framed:
                tree.empty(name)
        else:
            _members(layer, chunks, tree)
    except _BROKEN as fault:
        raise _fault(layer, str(fault)) from fault
    except Refused as fault:
        raise _fault(layer, str(fault)) from fault
    for _ in chunks:
        pass  # reading to the end is what compares the digest


def _members(layer: Layer, chunks: Iterator[bytes], tree: Tree) -> None:
    with (
        _plain(layer, io.BufferedReader(_Stream(chunks), _CHUNK)) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar,
    ):
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # memory would grow with the layer
            tree.add(member, tar.extractfile(member) if member.isreg() else None)


def _plain(layer: Layer, packed: IO[bytes]) -> IO[bytes]:
    if layer.media_type.endswith("+zstd"):
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(packed))
    if layer.media_type.endswith("+gzip"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=packed))
    return packed


def _counted(chunks: Iterator[bytes], advance: Callable[[int], object]) -> Iterator[bytes]:
    for chunk in chunks:
        advance(len(chunk))
        yield chunk


def _fault(layer: Layer, fault: str) -> IntegrityError:
    return IntegrityError(f"layer `{layer.title}` ({layer.digest}): {fault}")


class _Stream(io.RawIOBase):
    """Chunks as a file that can be read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
