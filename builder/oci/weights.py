"""Weight layers: header + file + padding, described and never written unless an output needs it.

The layer of a file lies at `models/blobs/sha256/<hex>` and its digest is a function of the file's
sha256 and size alone, so every image, revision and team that has the file shares the layer.  The
format, with test vectors, is in docs/layers.md.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from builder.digest import Digest, from_hex, of_chunks
from builder.errors import IntegrityError
from builder.files import Identity, identity
from builder.oci import lanes, tar
from builder.oci.layer import MEDIA_TYPES, Content, Layer, Piece, content_chunks, name_of
from builder.process import cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Advance = Callable[[int], object]
    Weigh = Callable[[Sequence["WeightFile"], Advance], Digest]

_TICK_NS = 10**8
"""Far more than the clock of any file system takes from one time to the next."""
_ALIGNED_FROM = 1 << 20
"""Bytes from which a file that is not the first of its layer begins on a page."""


@dataclass(frozen=True)
class WeightFile:
    """A file that becomes part of a weight layer."""

    content: Content
    sha256: str
    size: int


def weight_path(sha256: str) -> str:
    """Return where a weight file lies in an image: a function of its content alone."""
    return f"models/blobs/sha256/{sha256}"


def frame(sha256: str, size: int, offset: int = 0) -> tuple[bytes, bytes]:
    """Return what precedes and what follows a weight file at `offset` of its layer."""
    path = weight_path(sha256)
    if offset and size < _ALIGNED_FROM:
        return tar.header(path, size=size, mode=0o644), tar.padding(size)
    return tar.aligned_header(path, size, offset), tar.padding(size)


def framed(files: Sequence[WeightFile]) -> Iterator[tuple[bytes, WeightFile, bytes]]:
    """Yield every file of a layer with what precedes and what follows it."""
    offset = 0
    for file in files:
        before, after = frame(file.sha256, file.size, offset)
        yield before, file, after
        offset += len(before) + file.size + len(after)


def weight_layer(
    files: Sequence[WeightFile],
    digest: Digest,
    title: str,
    read_as: Mapping[Path, Identity] | None = None,
) -> Layer:
    """Return the layer that weight files make; nothing is read or written.

    `read_as` is what `identities` gave before this run read the files for `digest`.
    """
    pieces: list[Piece] = []
    for before, file, after in framed(files):
        pieces += [before, file.content, after] if after else [before, file.content]
    pieces.append(tar.END)
    literal = sum(len(piece) for piece in pieces if isinstance(piece, bytes))
    return Layer(
        digest=digest,
        size=literal + sum(file.size for file in files),
        diff_id=digest,
        media_type=MEDIA_TYPES["none"],
        title=title,
        pieces=tuple(pieces),
        read_as=read_as or {},
        sources={f.content: f.sha256 for f in files if isinstance(f.content, Path)},
    )


def identities(files: Iterable[WeightFile]) -> dict[Path, Identity]:
    """Return what files are now, to tell later whether they were touched since.

    One that was written a moment ago is left out: another write in the same tick of the clock
    would not show.
    """
    now, found = time.time_ns(), {}
    for file in files:
        if isinstance(file.content, Path) and file.content.is_file():
            seen = identity(file.content.stat())
            if max(seen.modified, seen.changed) < now - _TICK_NS:
                found[file.content] = seen
    return found


def weigh(files: Sequence[WeightFile], advance: Advance) -> Digest:
    """Read every file of a layer once: check it, and return the digest of the layer.

    Raises:
        IntegrityError: a file is not the one that its sha256 names.
    """
    layer = hashlib.sha256()
    for before, file, after in framed(files):
        plain = hashlib.sha256()
        layer.update(before)
        for chunk in content_chunks(file.content):
            plain.update(chunk)
            layer.update(chunk)
            advance(len(chunk))
        layer.update(after)
        if plain.hexdigest() != file.sha256:
            raise _wrong(file, plain.hexdigest())
    layer.update(tar.END)
    return from_hex(layer.hexdigest())


def weigh_checked(files: Sequence[WeightFile], advance: Advance) -> Digest:
    """Return the digest of the layer that files make whose own digests were just computed."""

    def counted() -> Iterator[bytes]:
        for before, file, after in framed(files):
            yield before
            for chunk in content_chunks(file.content):
                advance(len(chunk))
                yield chunk
            yield after
        yield tar.END

    return of_chunks(counted())


def side_by_side(
    weigh: Weigh, groups: Sequence[Sequence[WeightFile]], advance: Advance
) -> tuple[Digest, ...]:
    """Weigh layers with a thread for every processor; the first failure ends the others soon."""
    stop = Event()

    def advance_unless_stopped(count: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        advance(count)

    # Largest first: the last one to end should be a small one.
    order = sorted(range(len(groups)), key=lambda n: -sum(file.size for file in groups[n]))
    digests = lanes.side_by_side(
        lambda number: weigh(groups[number], advance_unless_stopped), order, cpus(), stop
    )
    return tuple(digest for _, digest in sorted(zip(order, digests, strict=True)))


def _wrong(file: WeightFile, actual: str) -> IntegrityError:
    message = f"{name_of(file.content)}: expected sha256:{file.sha256}, got sha256:{actual}"
    hint = "restore the file, or remove it if it is in the cache, then run the command again"
    return IntegrityError(message, hint)
