"""Small fat binaries and cubins, as nvcc writes them."""

import struct
from typing import Literal

import zstandard

Packing = Literal["", "zstd", "lz4"]

KERNEL = b"\0.shstrtab\0.text.kernel\0.nv.info\0"
CONSTANTS = b"\0.shstrtab\0.nv.constant4\0.nv.info\0"
PTX = b".version 9.0\n.target sm_80\n.visible .entry kernel()\n"
PTX_CONSTANTS = b".version 9.0\n.target sm_80\n.global .align 1 .b8 begin[1];\n"
LINKED = 8
"""The kind of an entry with code that is linked before it runs."""
_LETTERS = {"": 0, "a": 1 << 20, "f": 1 << 21}
_PACKED = {"": 0, "lz4": 1 << 13, "zstd": 1 << 15}


def literals(data: bytes) -> bytes:
    """A block of LZ4 without matches."""
    rest = len(data) - 15
    return bytes([0xF0]) + b"\xff" * (rest // 255) + bytes([rest % 255]) + data


def entry(name: str, data: bytes = KERNEL, kind: int = 2, packing: Packing = "") -> bytes:
    """An entry for an architecture such as `90a`."""
    plain = name.rstrip("af")
    flags = 0x11 | _LETTERS[name.removeprefix(plain)] | _PACKED[packing]
    packed = {
        "": lambda: data,
        "zstd": lambda: zstandard.ZstdCompressor().compress(data),
        "lz4": lambda: literals(data),
    }[packing]()
    payload = packed + bytes(-len(packed) % 8)
    compressed, expanded = (len(packed), len(data)) if packing else (0, 0)
    numbers = (kind, 0x101, 64, len(payload), compressed, 0, 0x10008, int(plain), 0, 0)
    return struct.pack("<HHIQIIIIIIQQQ", *numbers, flags, 0, expanded) + payload


def ptx(name: str, data: bytes = PTX, packing: Packing = "") -> bytes:
    return entry(name, data, kind=1, packing=packing)


def header(size: int) -> bytes:
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, size)


def container(*entries: bytes) -> bytes:
    """A fat binary: what one source file is compiled to."""
    content = b"".join(entries)
    return header(len(content)) + content


def elf(machine: int = 62, kind: int = 3, flags: int = 0, abi: int = 0) -> bytes:
    ident = b"\x7fELF" + bytes([2, 1, 1, 0, abi]) + bytes(7)
    return ident + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 0, 0, flags, *(0,) * 6)


def library(*containers: bytes) -> bytes:
    """A shared object with fat binaries among other bytes."""
    return elf() + b"".join(b"other bytes" * 9 + each for each in containers) + b"the end"


def cubin(flags: int, abi: int = 8, note: str = "") -> bytes:
    """Machine code on its own; compilers leave `note`, or nothing."""
    text = f"-arch {note} -m 64 \0".encode() if note else b""
    return elf(machine=190, kind=2, flags=flags, abi=abi) + bytes(300) + text + KERNEL
