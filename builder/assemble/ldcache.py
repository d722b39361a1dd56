"""Write `/etc/ld.so.cache`, which `ldconfig` would make if anything were run.

The loader finds libraries in its default folders without it, but `ldconfig -p` fails, and Triton
and `ctypes.util.find_library` ask that.  Format: `struct cache_file_new` of glibc's
`sysdeps/generic/dl-cache.h`, "1.1", without the old-format header and without extensions.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2
_X86_64_LIBC6 = 0x0303

_NAME = re.compile(r"(?:lib|ld-).+\.so(?:\..+)?")
_PIECES = re.compile(r"([0-9]+)")


def may_be_library(name: str) -> bool:
    """Tell whether a file of that name belongs into the cache if it is a library."""
    return _NAME.fullmatch(name) is not None


def folders(configurations: Mapping[str, str]) -> tuple[str, ...]:
    """Return where to look, from `etc/ld.so.conf.d/*.conf`, without slashes at the beginning."""
    lines = (line for _, text in sorted(configurations.items()) for line in text.splitlines())
    named = (line.partition("#")[0].strip() for line in lines)
    absolute = [line.strip("/") for line in named if line.startswith("/")]
    return tuple(dict.fromkeys([*absolute, "lib", "usr/lib"]))


def cache(libraries: Mapping[str, str]) -> bytes:
    """Return the cache for these libraries: absolute paths by the name that programs ask for."""
    # The loader searches by bisection in this order.
    names = sorted(libraries, key=functools.cmp_to_key(compare), reverse=True)
    start = _HEADER.size + _ENTRY.size * len(names)
    entries, strings = bytearray(), bytearray()
    for name in names:
        key = start + len(strings)
        strings += name.encode() + b"\0"
        value = start + len(strings)
        strings += libraries[name].encode() + b"\0"
        entries += _ENTRY.pack(_X86_64_LIBC6, key, value, 0, 0)
    header = _HEADER.pack(_MAGIC, len(names), len(strings), _LITTLE_ENDIAN, 0)
    return bytes(header + entries + strings)


def compare(one: str, other: str) -> int:
    """Compare as glibc's `_dl_cache_libcmp`: numbers by value, and after everything else."""
    while one and other:
        if one[0].isdigit() and other[0].isdigit():
            (left, one), (right, other) = _number(one), _number(other)
        elif one[0].isdigit() or other[0].isdigit():
            return 1 if one[0].isdigit() else -1
        else:
            left, right = ord(one[0]), ord(other[0])
            one, other = one[1:], other[1:]
        if left != right:
            return left - right
    return len(one) - len(other)


def _number(text: str) -> tuple[int, str]:
    digits = _PIECES.match(text)
    end = digits.end() if digits else 0
    return int(text[:end]), text[end:]
