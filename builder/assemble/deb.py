"""Read a .deb without unpacking it: an ar archive of `control.tar.*` and `data.tar.*` (deb(5)).

Members are streamed in the order of the archive; memory does not grow with the package.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import zstandard

from builder.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAGIC = b"!<arch>\n"
_HEADER = 60
_MEMBER = re.compile(rb"(?P<name>.{16}).{32}(?P<size>[0-9]+) *`\n", re.DOTALL)
# Not OSError: a full disk below the reader of this stream is no fault of the package.
_BROKEN = (
    EOFError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    tarfile.TarError,
    zlib.error,
    zstandard.ZstdError,
)


@contextmanager
def data(path: Path) -> Iterator[tarfile.TarFile]:
    """Open the package's files as a tar stream: each member can be read once, in order."""
    with _tar(path, "data.tar") as tar:
        yield tar


def control(path: Path) -> str:
    """Return the package's control paragraph."""
    with _tar(path, "control.tar") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name in ("./control", "control") else None
            if content is not None:
                return content.read().decode()
    raise _fault(path, "has no control file")


@contextmanager
def _tar(path: Path, prefix: str) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        name, size = _seek(path, file, prefix)
        section = io.BufferedReader(_Section(file, size))
        try:
            with (
                _unpacked(path, name, section) as stream,
                tarfile.open(fileobj=stream, mode="r|") as tar,
            ):
                yield tar
        except _BROKEN as fault:
            raise _fault(path, f"`{name}` cannot be read: {fault}") from fault


def _seek(path: Path, file: BinaryIO, prefix: str) -> tuple[str, int]:
    """Leave `file` at the content of the member that begins with `prefix`; its name and size."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise _fault(path, "is not a Debian package")
    while match := _MEMBER.fullmatch(file.read(_HEADER)):
        name, size = match["name"].decode("ascii", "replace").strip(" /"), int(match["size"])
        if name.startswith(prefix):
            return name, size
        # Members begin at even offsets.
        file.seek(size + size % 2, io.SEEK_CUR)
    raise _fault(path, f"has no `{prefix}`")


def _unpacked(path: Path, name: str, section: IO[bytes]) -> IO[bytes]:
    ending = name.rpartition(".")[2]
    if ending == "xz":
        return lzma.LZMAFile(section)
    if ending == "gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=section))
    if ending == "zst":
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(section))
    if ending == "tar":
        return section
    raise _fault(path, f"`{name}` is packed in an unknown way")


class _Section(io.RawIOBase):
    """The next `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._file.read(min(len(buffer), self._left))
        buffer[: len(block)] = block
        self._left -= len(block)
        return len(block)


def _fault(path: Path, fault: str) -> IntegrityError:
    return IntegrityError(f"{path.name}: {fault}", "run `builder fetch` to get the file again")
