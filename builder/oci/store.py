"""Layers and images on this machine, by content.

    blobs/sha256/<hex>   blobs whose content hashes to their name
    layers/<key>.json    what a layer's inputs produced: the look-up for an unchanged layer

A blob is visible only when it is whole and durable, and a record is written after its blob, so
a crash, a full disk or two builds at once never leave a blob that does not match its name, nor a
record of what never was.  There are no locks to wait for: whoever comes second finds the work
done, or does the same work with the same result.  A record that does not match its own digest,
or whose blob is not what it says, is no record: the layer is built again.
"""

from __future__ import annotations

import contextlib
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO

from builder import files
from builder.digest import Digest, hex_of, of_bytes, parse
from builder.oci import uses
from builder.oci.image import canonical
from builder.oci.layer import Compression, Layer, LayerSink
from builder.oci.tar import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOBS, RECORDS = "blobs/sha256", "layers"
_WRITTEN = (BLOBS, RECORDS, "collisions", "weights", "code", "indexes", "places", "running")
"""Folders in which files appear by a rename."""
_CHEAP = 1 << 20
"""Bytes up to which a blob is read when it is recalled: it takes less than opening it did."""


class Store:
    """A folder of blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stop = Event()
        """Set to end, soon, whatever other threads write."""

    def blob_path(self, digest: Digest) -> Path:
        """Return where a blob lies, or would lie."""
        return self.root / BLOBS / hex_of(digest)

    def begin(self) -> None:
        """Be known as a user, so that no clean-up takes away what is used; then `sweep`."""
        uses.hold(self.root)
        self.sweep()

    def sweep(self) -> None:
        """Remove what killed writers left."""
        for folder in _WRITTEN:
            with contextlib.suppress(OSError):
                files.sweep(self.root / folder)

    def put(self, data: bytes) -> Digest:
        """Store a small blob and return its digest."""
        digest = of_bytes(data)
        path = self.blob_path(digest)
        if not (uses.touch(path) and _holds(path, digest)):
            files.write_atomic(path, data, 0o444)
        return digest

    def build_layer(
        self, title: str, compression: Compression, fill: Callable[[TarWriter], None]
    ) -> Layer:
        """Write a layer with what `fill` puts into the tar, and return it.

        Raises:
            HostError: the store cannot be written.
        """
        with self._draft() as (file, temporary):
            sink = LayerSink(compression, lambda data: self._write(file, data))
            writer = TarWriter(sink)
            fill(writer)
            writer.close()
            return self._adopt(sink.finish(title, temporary), file, temporary)

    @contextmanager
    def _draft(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Open a temporary file that is gone after a failure."""
        folder = self.root / BLOBS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = files.temporary_in(folder)
        except OSError as fault:
            raise files.unwritable(self.root, fault) from fault
        file = os.fdopen(descriptor, "wb")
        try:
            yield file, temporary
        except BaseException:
            with contextlib.suppress(OSError):  # the failure itself is what there is to say
                temporary.unlink(missing_ok=True)
            raise
        finally:
            with contextlib.suppress(OSError):
                file.close()  # after a failure what is buffered cannot be written and need not be

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
        text = json.dumps(_record(key, layer), indent=1, sort_keys=True)
        files.write_atomic(self.record_path(key), text.encode())

    def recall(self, key: str) -> Layer | None:
        """Return the layer recorded for `key`, if its blob is here and whole.

        Its size is looked at, and the content of a small one.  Who reads the bytes of a layer
        compares its digest.
        """
        layer = self.recorded(key)
        # The record first: a clean-up removes records before blobs.
        if layer is None or not uses.touch(self.record_path(key)):
            return None
        path = self.blob_path(layer.digest)
        return layer if uses.touch(path) and _is_whole(path, layer) else None

    def recorded(self, key: str) -> Layer | None:
        """Return what the record of `key` says, if it is one; its blob may be gone."""
        try:
            record = json.loads(self.record_path(key).read_bytes())
            digest = parse(record["digest"])
            layer = Layer(
                digest=digest,
                size=int(record["size"]),
                diff_id=parse(record["diff_id"]),
                media_type=str(record["media_type"]),
                title=str(record["title"]),
                pieces=(self.blob_path(digest),),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: the layer is built again
        return layer if record == _record(key, layer) else None

    def record_path(self, key: str) -> Path:
        """Return where the record of `key` lies, or would lie."""
        return self.root / RECORDS / f"{key}.json"


def _record(key: str, layer: Layer) -> dict[str, Any]:
    """Return what is written down; `check` makes it vouch for itself and for its key."""
    record = {
        "digest": layer.digest,
        "size": layer.size,
        "diff_id": layer.diff_id,
        "media_type": layer.media_type,
        "title": layer.title,
    }
    return {**record, "check": of_bytes(canonical({**record, "key": key}))}


def _is_whole(path: Path, layer: Layer) -> bool:
    try:
        if path.stat().st_size != layer.size:
            return False
    except OSError:
        return False
    return layer.size > _CHEAP or _holds(path, layer.digest)


def _holds(path: Path, digest: Digest) -> bool:
    try:
        return of_bytes(path.read_bytes()) == digest
    except OSError:
        return False
