"""GPU code in a stream of bytes."""

import io
import random
import struct
from collections.abc import Callable

import pytest

from builder.sources import fatbin
from builder.sources.fatbin import Part, Window
from tests import fatbin_maker as maker


def window(data: bytes, step: int = 1 << 20) -> Window:
    file = io.BytesIO(data)
    return Window(lambda count: file.read(min(count, step)), len(data))


def spelt(part: Part) -> str:
    code = [each.name if each.kind == "sass" else f"ptx{each.name}" for each in sorted(part.code)]
    return " ".join(code + [f"({each.name})" for each in sorted(part.stubs)])


def read(data: bytes, step: int = 1 << 20) -> list[str]:
    return [spelt(part) for part in fatbin.parts(window(data, step))]


def test_each_source_file_is_a_part() -> None:
    first = maker.container(maker.entry("80"), maker.entry("90a"), maker.ptx("80"))
    second = maker.container(maker.entry("100f"))
    assert read(maker.library(first, second)) == ["ptx80 80 90a", "100f"]


@pytest.mark.parametrize("packing", ["", "zstd", "lz4"])
@pytest.mark.parametrize(
    ("make", "data", "found"),
    [
        (maker.entry, maker.KERNEL, "75"),
        (maker.entry, maker.CONSTANTS, "(75)"),
        (maker.entry, maker.CONSTANTS * 900, "75"),
        (maker.ptx, maker.PTX, "ptx75"),
        (maker.ptx, maker.PTX_CONSTANTS, "(75)"),
        (maker.ptx, b".target sm_75\n.func helper()\n", "ptx75"),
    ],
    ids=["kernel", "constants", "large", "ptx", "constants of ptx", "function of ptx"],
)
def test_a_stub_is_code_without_a_function(
    make: Callable[..., bytes], data: bytes, found: str, packing: maker.Packing
) -> None:
    assert read(maker.container(make("75", data, packing=packing))) == [found]


def test_compressed_names_are_found_where_the_bytes_do_not_show_them() -> None:
    # `.te` and `xt.kernel` apart: the literals of LZ4, then a match four bytes back.
    data = bytes([0x40]) + b".tex" + b"\x04\x00" + bytes([0x90]) + b".text.abc"
    assert fatbin.lz4(data, 99) == b".tex.tex.text.abc"
    long = b"\0" * 4 + b".tex" + b"t." + b"\0" * 90
    packed = bytes([0x10]) + b"a" + b"\x01\x00" + bytes([0xF0, len(long) - 15]) + long
    assert fatbin.lz4(packed, 999) == b"aaaaa" + long


@pytest.mark.parametrize(
    "data",
    [b"", b"\xf0", b"\x10a\x00\x00\x00", b"\x10a\x09\x00\x00", b"\x1fa\x01\x00"],
    ids=["nothing", "no length", "offset 0", "offset too far", "no match length"],
)
def test_what_is_no_lz4_gives_nothing(data: bytes) -> None:
    assert fatbin.lz4(data, 99) == b""


@pytest.mark.parametrize("packing", ["zstd", "lz4"])
def test_what_cannot_be_expanded_counts_as_code(packing: maker.Packing) -> None:
    entry = bytearray(maker.entry("80", maker.CONSTANTS, packing=packing))
    entry[64:] = b"\xff" * (len(entry) - 64)
    assert read(maker.container(bytes(entry))) == ["80"]


def test_code_that_is_linked_first_is_passed_over() -> None:
    linked = maker.entry("50", kind=maker.LINKED)
    assert read(maker.container(linked, maker.entry("80"))) == ["80"]


@pytest.mark.parametrize("step", [1, 7, 64, 4096])
def test_pieces_may_end_anywhere(step: int) -> None:
    whole = maker.library(
        maker.container(maker.entry("80"), maker.ptx("80", packing="zstd")),
        maker.container(maker.entry("120f", maker.KERNEL * 50)),
    )
    assert read(whole, step) == ["ptx80 80", "120f"]


def corrupted(offset: int, value: bytes) -> bytes:
    """A container whose second entry would be at 16 + 64 + 40; `value` overwrites."""
    data = bytearray(maker.container(maker.entry("80"), maker.entry("90")))
    data[offset : offset + len(value)] = value
    return bytes(data)


SECOND = 16 + len(maker.entry("80"))


@pytest.mark.parametrize(
    "data",
    [
        maker.container(maker.entry("80"))[:-1],
        maker.header(2**62) + maker.entry("80"),
        maker.header(len(maker.entry("80")) - 8) + maker.entry("80"),
        maker.header(len(maker.entry("80")) + 8) + maker.entry("80") + bytes(8),
        corrupted(4, b"\x02"),
        corrupted(6, b"\x20"),
        corrupted(16 + 4, b"\x00"),
        corrupted(16 + 8, struct.pack("<Q", 2**63)),
        corrupted(16 + 16, struct.pack("<I", 2**31)),
        corrupted(16 + 28, b"\x00"),
        corrupted(SECOND + 2, b"\x00"),
        corrupted(SECOND + 8, struct.pack("<Q", 2**63)),
        fatbin.MAGIC,
        fatbin.MAGIC * 1000,
        maker.header(0) * 1000,
    ],
    ids=[
        "truncated", "larger than the file", "ends inside an entry", "ends after an entry",
        "another version", "another header", "entry without header", "payload without end",
        "compressed without end", "no architecture", "second entry is none",
        "second entry without end", "magic at the end", "nothing but magic", "nothing but headers",
    ],
)  # fmt: skip
def test_what_lies_of_itself_holds_nothing(data: bytes) -> None:
    assert read(maker.elf() + data) == []


def test_what_follows_a_lie_is_found() -> None:
    sound = maker.container(maker.entry("90"))
    for lie in (fatbin.MAGIC, maker.header(2**40), corrupted(SECOND + 2, b"\x00")):
        assert read(maker.elf() + lie + sound) == ["90"]


def test_a_stream_that_ends_too_early_is_noticed() -> None:
    data = maker.container(maker.entry("80", bytes(1 << 15)))
    short = io.BytesIO(data[: 1 << 14])
    with pytest.raises(EOFError, match="shorter than it says"):
        list(fatbin.parts(Window(short.read, len(data))))


def test_random_bytes_hold_nothing() -> None:
    noise = random.Random(7)  # noqa: S311 - the same bytes in every run
    pieces = [fatbin.MAGIC + noise.randbytes(noise.randrange(200)) for _ in range(3000)]
    assert read(b"".join(pieces)) == []


@pytest.mark.parametrize(
    ("flags", "abi", "note", "name"),
    [
        (0x6005A04, 8, "sm_90a", "90a"),
        (0x6006402, 8, "sm_100f", "100f"),
        (0x6006402, 8, "", "100"),
        (0x1000670C, 8, "", "103a"),
        (0x5A055A, 7, "", "90"),
        (0x5A0D5A, 7, "", "90a"),
        (0x340534, 7, "sm_52", "52"),
    ],
)
def test_a_cubin_on_its_own(flags: int, abi: int, note: str, name: str) -> None:
    found = fatbin.cubin(window(maker.cubin(flags, abi, note)))
    assert found == fatbin.Code("sass", name)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", maker.elf(), b"x" * 100])
def test_what_is_no_cubin(data: bytes) -> None:
    assert fatbin.cubin(window(data)) is None


@pytest.mark.parametrize(
    ("data", "is_loaded"),
    [
        (maker.elf(), True),
        (maker.elf(kind=2), True),
        (maker.elf(kind=1), False),
        (maker.container(maker.entry("80")), True),
        (b"!<arch>\n" + bytes(99), False),
        (b"\x7fELF", False),
    ],
    ids=["library", "program", "object file", "fat binary", "static library", "short"],
)
def test_what_a_process_loads(data: bytes, is_loaded: bool) -> None:
    assert fatbin.is_loaded(window(data)) is is_loaded
