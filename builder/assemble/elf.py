"""Ask a shared library for x86-64 what it is called: its `DT_SONAME` (System V ABI, chapter 5)."""

from __future__ import annotations

import struct
from typing import BinaryIO

_FILE = struct.Struct("<4sBB10xHH12xQ14xHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ITEM = struct.Struct("<qQ")

_BITS_64, _LITTLE, _SHARED, _X86_64 = 2, 1, 3, 62
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SONAME = 5, 14
_LONGEST = 4096


def soname(file: BinaryIO) -> str | None:
    """Return the library's name, empty if it has none; None if the file is no such library."""
    header = file.read(_FILE.size)
    if len(header) < _FILE.size:
        return None
    *kind, table, size, count = _FILE.unpack(header)
    if kind != [b"\x7fELF", _BITS_64, _LITTLE, _SHARED, _X86_64] or size != _SEGMENT.size:
        return None
    try:
        return _soname(file, table, count)
    except struct.error:  # cut off
        return None


def _soname(file: BinaryIO, table: int, count: int) -> str | None:
    segments = list(_SEGMENT.iter_unpack(_at(file, table, _SEGMENT.size * count)))
    dynamic = next(((s[2], s[5]) for s in segments if s[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return None
    items = dict(_ITEM.iter_unpack(_at(file, *dynamic)))
    if not {_DT_SONAME, _DT_STRTAB} <= items.keys():
        return ""
    address = items[_DT_STRTAB] + items[_DT_SONAME]
    for kind, _, offset, start, _, length, *_ in segments:
        if kind == _PT_LOAD and start <= address < start + length:
            name = _at(file, offset + address - start, _LONGEST)
            return name.partition(b"\0")[0].decode("ascii", "replace")
    return ""


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
