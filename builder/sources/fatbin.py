"""GPU code inside a file, found while its bytes stream by: NVIDIA's fat binaries and cubins.

A fat binary is a header and entries, one after the other, each with PTX or with a cubin (an ELF
file of machine code).  NVIDIA does not document the format: the offsets are those in the files
that nvcc 12.4 to 13.0 writes, and `cuobjdump -lelf -lptx` lists the same entries.  A header
counts only if its entries fill it to the byte, so that random bytes count for nothing.

Code without a function is a stub.  A source file leaves one for every GPU that its kernels are
not meant for, and one for nvcc's oldest GPU if it is compiled without a list: 5.2 with CUDA 12,
7.5 with CUDA 13.  No GPU runs anything of it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Kind = Literal["sass", "ptx"]
"""Machine code, or what the driver compiles."""

MAGIC = struct.pack("<I", 0xBA55ED50)
ELF = b"\x7fELF"
_CHUNK = 1 << 20
_HEADER = struct.Struct("<IHHQ")
"""Magic, version, size of this header, size of the entries."""
_ENTRY = struct.Struct("<HHIQIIIIIIQQQ")
"""Kind, version, size of this header, of the payload and of what is compressed in it, offset of
options, version, architecture, offset and size of a name, flags, nothing, size once expanded."""
_ENTRY_VERSION = 0x0101
_LARGEST_ENTRY_HEADER = 1 << 16
_KINDS: dict[int, Kind] = {1: "ptx", 2: "sass"}
"""Others, such as 8 for what is linked before it runs, are passed over."""
_LZ4, _ZSTD = 1 << 13, 1 << 15
_ACCELERATED, _FAMILY = 1 << 20, 1 << 21
_ARCHITECTURES = range(10, 1000)
_STUB_BYTES = 1 << 14
"""Larger code is not looked into: stubs hold some dozens of constants."""

_ELF_HEADER = struct.Struct("<4s5B7xHHIQQQI")
"""Magic, class, byte order, version, ABI and its version, type, machine, version, entry, offsets
of two tables, flags."""
SMALLEST = _ELF_HEADER.size
"""Bytes below which a file holds no code."""
_RELOCATABLE = 1
_EM_CUDA = 190
_OLD_ABI = 7
_NOTE = re.compile(rb"-arch sm_(\d{2,3}[af]?)[ \0]")
_NOTE_BYTES = 1 << 16
"""The compiler's own line stands after the symbols, in the first 14 KB of those that were seen."""


@dataclass(frozen=True, slots=True, order=True)
class Code:
    """What one entry is compiled for."""

    kind: Kind
    name: str
    """As the catalogue writes it: `90`, `90a` for that capability alone, `100f` for a family."""


@dataclass(frozen=True, slots=True)
class Part:
    """One fat binary, which is what one source file was compiled to, or one cubin."""

    code: frozenset[Code]
    stubs: frozenset[Code] = frozenset()
    """What it was compiled for and has nothing to run on."""


class Window:
    """A place in a stream: what is ahead can be looked at, what is behind is gone."""

    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        self._read, self._data, self._at = read, b"", 0
        self.left = size
        """Bytes from here to the end, as far as the stream told."""

    def ahead(self, count: int) -> bytes:
        """Return the next bytes and stay; fewer where the stream ends."""
        while len(self._data) - self._at < count and self._more():
            pass
        return self._data[self._at : self._at + count]

    def skip(self, count: int) -> None:
        """Go on by `count` bytes.

        Raises:
            EOFError: there are fewer.
        """
        self.left -= count
        while count > len(self._data) - self._at:
            count -= len(self._data) - self._at
            self._data, self._at = b"", 0
            if not self._more():
                message = "the file is shorter than it says"
                raise EOFError(message)
        self._at += count

    def find(self, needle: bytes) -> bool:
        """Go on to where `needle` begins; at the end there is none."""
        while (found := self._data.find(needle, self._at)) < 0:
            self.skip(max(len(self._data) - self._at - len(needle) + 1, 0))
            if not self._more():
                return False
        self.skip(found - self._at)
        return True

    def _more(self) -> bool:
        more = self._read(_CHUNK)
        self._data, self._at = self._data[self._at :] + more, 0
        return bool(more)


def parts(window: Window) -> Iterator[Part]:
    """Yield what each fat binary holds; one that breaks off, or lies of its size, holds nothing."""
    while window.find(MAGIC):
        if (found := _part(window)) is not None:
            yield found


def _part(window: Window) -> Part | None:
    header = window.ahead(_HEADER.size + _ENTRY.size)
    if len(header) < _HEADER.size + _ENTRY.size:
        window.skip(len(MAGIC))
        return None
    _, version, size, total = _HEADER.unpack_from(header)
    is_header = version == 1 and size == _HEADER.size and total <= window.left - size
    if not is_header or _entry(header[size:], total) is None:
        window.skip(len(MAGIC))
        return None
    window.skip(size)
    code, stubs = set[Code](), set[Code]()
    while total:
        entry = _entry(window.ahead(_ENTRY.size), total)
        if entry is None:
            return None
        total -= entry.size
        window.skip(entry.header)
        if entry.code is not None:
            (code if _has_functions(entry, window) else stubs).add(entry.code)
        window.skip(entry.payload)
    return Part(frozenset(code), frozenset(stubs - code))


@dataclass(frozen=True, slots=True)
class _Entry:
    header: int
    payload: int
    compressed: int
    expanded: int
    flags: int
    code: Code | None

    @property
    def size(self) -> int:
        return self.header + self.payload


def _entry(data: bytes, room: int) -> _Entry | None:
    """Return an entry if its header holds and it ends within `room`."""
    if len(data) < _ENTRY.size:
        return None
    number, version, header, payload, compressed, *rest = _ENTRY.unpack_from(data)
    architecture, flags, expanded = rest[2], rest[5], rest[7]
    is_header = version == _ENTRY_VERSION and _ENTRY.size <= header <= _LARGEST_ENTRY_HEADER
    if not is_header or header + payload > room or compressed > payload:
        return None
    kind = _KINDS.get(number)
    if kind is not None and architecture not in _ARCHITECTURES:
        return None
    letter = "a" if flags & _ACCELERATED else "f" if flags & _FAMILY else ""
    code = None if kind is None else Code(kind, f"{architecture}{letter}")
    is_packed = flags & (_LZ4 | _ZSTD)
    return _Entry(header, payload, compressed, expanded if is_packed else payload, flags, code)


def _has_functions(entry: _Entry, window: Window) -> bool:
    """Tell code from a stub; what cannot be expanded counts as code."""
    if entry.expanded > _STUB_BYTES or entry.payload > _STUB_BYTES:
        return True
    words = (b".text.",) if entry.code and entry.code.kind == "sass" else (b".entry", b".func")
    data = window.ahead(entry.payload)
    if any(
        word in data for word in words
    ):  # also where it is compressed: the first of a kind is not
        return True
    if entry.flags & _ZSTD:
        data = _zstd(data[: entry.compressed]) or words[0]
    elif entry.flags & _LZ4:
        data = lz4(data[: entry.compressed], _STUB_BYTES) or words[0]
    return any(word in data for word in words)


def _zstd(data: bytes) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_STUB_BYTES)
    except zstandard.ZstdError:
        return b""


def lz4(data: bytes, limit: int) -> bytes:
    """Expand a block of LZ4, at most to about `limit` bytes; nothing if it is none."""
    out, at, end = bytearray(), 0, len(data)
    try:
        while at < end and len(out) < limit:
            token, at = data[at], at + 1
            count, at = _length(data, at, token >> 4)
            out += data[at : at + count]
            at += count
            if at >= end:
                break
            offset = int.from_bytes(data[at : at + 2], "little")
            count, at = _length(data, at + 2, token & 15)
            if not 0 < offset <= len(out):
                return b""
            piece = bytes(out[-offset:][: count + 4])
            out += (piece * ((count + 4) // len(piece) + 1))[: count + 4]
    except IndexError:
        return b""
    return bytes(out)


def _length(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    """Return a length and where it ends: 15 says that bytes follow, up to one below 255."""
    if nibble < 15:  # noqa: PLR2004 - four bits, all set
        return nibble, at
    while data[at] == 255:  # noqa: PLR2004 - eight bits, all set
        nibble, at = nibble + 255, at + 1
    return nibble + data[at], at + 1


def is_loaded(window: Window) -> bool:
    """Tell whether what begins here is what a process loads: a program, a library, a fat binary."""
    header = window.ahead(_ELF_HEADER.size)
    if not header.startswith(ELF):
        return header.startswith(MAGIC)
    return len(header) == _ELF_HEADER.size and _ELF_HEADER.unpack(header)[6] != _RELOCATABLE


def cubin(window: Window) -> Code | None:
    """Return what a cubin that lies on its own is compiled for, None if it is another ELF file.

    The flags of its header name the architecture, but a family never, and the letter `a` not
    always.  The line of the compiler in a note does; not every compiler leaves one.
    """
    header = window.ahead(_ELF_HEADER.size)
    if len(header) < _ELF_HEADER.size or not header.startswith(ELF):
        return None
    fields = _ELF_HEADER.unpack(header)
    abi, machine, flags = fields[5], fields[7], fields[-1]
    if machine != _EM_CUDA:
        return None
    if (note := _NOTE.search(window.ahead(_NOTE_BYTES))) is not None:
        return Code("sass", note[1].decode())
    is_old = abi <= _OLD_ABI
    architecture, letter = (flags & 0xFF, 0x800) if is_old else (flags >> 8 & 0xFF, 0x8)
    return Code("sass", f"{architecture}{'a' if flags & letter else ''}")
