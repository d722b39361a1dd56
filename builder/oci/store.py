"""Layers and images on this machine, by content.

    blobs/sha256/<hex>   blobs whose content hashes to their name
    layers/<key>.json    what a layer's inputs produced: the look-up for an unchanged layer

A blob is visible only when it is whole and durable, so a crash, a full disk or two builds at
once never leave a blob that does not match its name.  There are no locks: whoever comes
second finds the work done, or does the same work with the same result.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from builder import files
from builder.digest import Digest, hex_of, of_bytes, parse
from builder.oci.layer import Compression, Layer, LayerSink
from builder.oci.tar import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Store:
    """A folder of blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stop = Event()
        """Set to end, soon, whatever other threads write."""

    def blob_path(self, digest: Digest) -> Path:
        """Return where a blob lies, or would lie."""
        return self.root / "blobs" / "sha256" / hex_of(digest)

    def sweep(self) -> None:
        """Remove what killed writers left."""
        for folder in ("blobs/sha256", "layers", "collisions"):
            files.sweep(self.root / folder)

    def put(self, data: bytes) -> Digest:
        """Store a small blob and return its digest."""
        digest = of_bytes(data)
        path = self.blob_path(digest)
        if not path.exists():
            files.write_atomic(path, data, 0o444)
        return digest

    def build_layer(
        self, title: str, compression: Compression, fill: Callable[[TarWriter], None]
    ) -> Layer:
        """Write a layer with what `fill` puts into the tar, and return it.

        Raises:
            HostError: the store cannot be written.
        """
        folder = self.root / "blobs" / "sha256"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = files.temporary_in(folder)
        except OSError as fault:
            raise files.unwritable(self.root, fault) from fault
        file = os.fdopen(descriptor, "wb")
        try:
            sink = LayerSink(compression, lambda data: self._write(file, data))
            writer = TarWriter(sink)
            fill(writer)
            writer.close()
            return self._adopt(sink.finish(title, temporary), file, temporary)
        finally:
            with contextlib.suppress(OSError):
                file.close()  # after a failure what is buffered cannot be written and need not be
            temporary.unlink(missing_ok=True)

    def _write(self, file: BinaryIO, data: bytes) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        try:
            file.write(data)
        except OSError as fault:
            raise files.unwritable(self.root, fault) from fault

    def _adopt(self, layer: Layer, file: BinaryIO, temporary: Path) -> Layer:
        """Give a finished blob its name once it is durable."""
        path = self.blob_path(layer.digest)
        try:
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
            temporary.rename(path)
            files.sync_folder(path.parent)
        except OSError as fault:
            raise files.unwritable(self.root, fault) from fault
        return replace(layer, pieces=(path,))

    def remember(self, key: str, layer: Layer) -> None:
        """Record which layer the inputs named by `key` produce."""
        record = {
            "digest": layer.digest,
            "size": layer.size,
            "diff_id": layer.diff_id,
            "media_type": layer.media_type,
            "title": layer.title,
        }
        text = json.dumps(record, indent=1, sort_keys=True)
        files.write_atomic(self._record_path(key), text.encode())

    def recall(self, key: str) -> Layer | None:
        """Return the layer recorded for `key` if its blob is here and has the right size."""
        try:
            record = json.loads(self._record_path(key).read_bytes())
            path = self.blob_path(parse(record["digest"]))
            layer = Layer(
                digest=parse(record["digest"]),
                size=int(record["size"]),
                diff_id=parse(record["diff_id"]),
                media_type=str(record["media_type"]),
                title=str(record["title"]),
                pieces=(path,),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: the layer is built again
        return layer if _has_size(path, layer.size) else None

    def _record_path(self, key: str) -> Path:
        return self.root / "layers" / f"{key}.json"


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
