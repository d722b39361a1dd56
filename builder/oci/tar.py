"""Tar entries, byte for byte the same everywhere: pax interchange format, owner 0:0, one mtime.

Own writer because layer digests depend on every byte (`tarfile` may change its output) and
because a big file must begin at a multiple of the page size (see `aligned_header`).
Format: POSIX.1-2017, pax utility, "pax Interchange Format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BLOCK = 512
ALIGNMENT = 4096
"""File data of an aligned entry starts here, so that file systems can share its blocks."""

MTIME = 315532800
"""1980-01-01T00:00:00Z, the oldest time that zip archives made from these files can hold."""

_NAME_BYTES = 100
_SEGMENT_BYTES = 255
"""Longest name that Linux file systems take."""
_LINK_BYTES = 100
_MAX_OCTAL_SIZE = 8**11 - 1
"""Largest size of the ustar field, 8 GiB - 1; beyond it a pax `size` record."""

FILE, HARDLINK, SYMLINK, DIRECTORY, _PAX = b"0", b"1", b"2", b"5", b"x"

END = bytes(2 * BLOCK)
"""Two zero blocks end an archive."""


def padding(size: int) -> bytes:
    """Return the zero bytes that follow `size` bytes of file data."""
    return bytes(-size % BLOCK)


def header(path: str, *, kind: bytes = FILE, size: int = 0, mode: int = 0, link: str = "") -> bytes:
    """Return the header blocks of one entry, a pax header first where ustar is too small."""
    records = _records(path, size, link)
    pax = _pax_blocks(records) if records else b""
    return pax + _ustar(path, kind, size, mode, link)


def aligned_header(path: str, size: int, offset: int = 0) -> bytes:
    """Return a header after which the data of a file begins at a multiple of 4096.

    `offset` is where the entry begins in the archive; a pax `comment` record makes the header as
    long as it must be, 4096 bytes for a first entry.
    """
    records = _records(path, size, "")
    length = ALIGNMENT + -offset % ALIGNMENT
    # Blocks of the pax header itself and of the entry's own header do not hold records.
    comment = _record_of_length(b"comment", length - 2 * BLOCK - len(records))
    return _pax_blocks(records + comment) + _ustar(path, FILE, size, 0o644, "")


def _records(path: str, size: int, link: str) -> bytes:
    records = b""
    if len(link.encode()) > _LINK_BYTES or not link.isascii():
        records += _record(b"linkpath", link.encode())
    if len(path.encode()) > _NAME_BYTES or not path.isascii():
        records += _record(b"path", path.encode())
    if size > _MAX_OCTAL_SIZE:
        records += _record(b"size", str(size).encode())
    return records


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _record_of_length(key: bytes, length: int) -> bytes:
    fixed = len(str(length)) + len(b" " + key + b"=\n")
    return str(length).encode() + b" " + key + b"=" + b"." * (length - fixed) + b"\n"


def _pax_blocks(records: bytes) -> bytes:
    return _ustar("././@PaxHeader", _PAX, len(records), 0o644, "") + records + padding(len(records))


def _ustar(path: str, kind: bytes, size: int, mode: int, link: str) -> bytes:
    fields = (
        _text(path, _NAME_BYTES),
        _octal(mode, 8),
        _octal(0, 8),
        _octal(0, 8),
        _octal(size if size <= _MAX_OCTAL_SIZE else 0, 12),
        _octal(MTIME, 12),
        b" " * 8,
        kind,
        _text(link, _LINK_BYTES),
        b"ustar\x0000",
        bytes(64),
        _octal(0, 8),
        _octal(0, 8),
        bytes(167),
    )
    block = b"".join(fields)
    checksum = f"{sum(block):06o}\0 ".encode()
    return block[:148] + checksum + block[156:]


def _text(value: str, width: int) -> bytes:
    return value.encode("ascii", "replace")[:width].ljust(width, b"\0")


def _octal(value: int, width: int) -> bytes:
    return f"{value:0{width - 1}o}\0".encode()


class TarWriter:
    """Writes entries to a sink; refuses a path it has already written.

    Paths are relative, without a leading slash.  Parents are the caller's business:
    every directory goes in before what is in it (`parents` helps).
    """

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._paths: set[str] = set()
        self._folders: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._add(path)
        self._folders.add(path)
        self._sink(header(path + "/", kind=DIRECTORY, mode=mode))

    def parents(self, path: str) -> None:
        """Add the directories above `path` that are not there yet."""
        parts = path.split("/")[:-1]
        for end in range(1, len(parts) + 1):
            folder = "/".join(parts[:end])
            if folder in self._folders:
                continue
            if folder in self._paths:
                message = f"`{folder}` is no directory, but the parent of `{path}`"
                raise ValueError(message)
            self.directory(folder)

    def file(self, path: str, size: int, chunks: Iterable[bytes], mode: int = 0o644) -> None:
        """Add a regular file of `size` bytes."""
        self._add(path)
        self._sink(header(path, size=size, mode=mode))
        self._data(path, size, chunks)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path)
        self._sink(header(path, kind=SYMLINK, mode=0o777, link=target))

    def hardlink(self, path: str, target: str) -> None:
        """Add another name of `target`, which is in the archive already."""
        self._add(path)
        self._sink(header(path, kind=HARDLINK, mode=0o644, link=target))

    def close(self) -> None:
        """End the archive."""
        self._sink(END)

    def _add(self, path: str) -> None:
        segments = path.split("/")
        if any(each.startswith(".wh.") or len(each.encode()) > _SEGMENT_BYTES for each in segments):
            # A whiteout would delete a file of a lower layer (OCI image spec, "Whiteouts").
            message = f"whiteout or too long name in layer: `{path}`"
            raise ValueError(message)
        if path in self._paths or path.startswith("/") or not path:
            message = f"duplicate or absolute path in layer: `{path}`"
            raise ValueError(message)
        self._paths.add(path)

    def _data(self, path: str, size: int, chunks: Iterable[bytes]) -> None:
        written = 0
        for chunk in chunks:
            written += len(chunk)
            self._sink(chunk)
        if written != size:
            message = f"`{path}` has {written} bytes, expected {size}"
            raise ValueError(message)
        self._sink(padding(size))
