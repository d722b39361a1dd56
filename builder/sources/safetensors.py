"""Headers of safetensors files, read and validated by ourselves.

A file is accepted only if every byte of it is accounted for: tensors follow one another without
hole or overlap, from the end of the header to the end of the file.  So nothing can hide in it,
and two readers cannot disagree about what it holds.  Only the beginning of a file is read.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeGuard

from builder.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX_BYTES = 8
"""The length of the header, little-endian."""
LONGEST_HEADER = 100_000_000
"""The format's own limit."""
SUFFIX = ".safetensors"

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
_HINT = "fetch the file again; if it stays, ask its author for a whole file or choose another model"
_PAIR = 2
_SHOWN = 60
"""Characters of a tensor's name that are repeated."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself."""

    tensor_bytes: Mapping[str, int]
    """Bytes by dtype, sorted."""
    tensors: frozenset[str]


class _MalformedError(Exception):
    """What is wrong, before the file is named."""


def header_bytes(prefix: bytes) -> int:
    """Return how many bytes the header needs, its length included."""
    return PREFIX_BYTES + int.from_bytes(prefix[:PREFIX_BYTES], "little")


def read_header(file: BinaryIO, size: int, place: str) -> Header:
    """Read the header from the beginning of `file`, a safetensors file of `size` bytes.

    Raises:
        IntegrityError: the file is not whole, or not what the format says.
    """
    try:
        return _header(_document(file, size), size)
    except _MalformedError as fault:
        message = f"{place}: is not a valid safetensors file: {fault}"
        raise IntegrityError(message, _HINT) from None


@dataclass(frozen=True)
class _Document:
    length: int
    content: dict[str, Any]


def _document(file: BinaryIO, size: int) -> _Document:
    prefix = file.read(PREFIX_BYTES)
    if len(prefix) < PREFIX_BYTES:
        _fail("it is shorter than its own length field")
    length = header_bytes(prefix)
    if length - PREFIX_BYTES > LONGEST_HEADER:
        _fail(
            f"its header would have {length - PREFIX_BYTES} bytes, at most {LONGEST_HEADER} may be"
        )
    if length > size:
        _fail(f"its header would end at byte {length} of {size}")
    text = file.read(length - PREFIX_BYTES)
    if len(text) < length - PREFIX_BYTES:
        _fail("it ends inside its header")
    return _Document(length, _object(text))


def _object(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        _fail("its header is not a JSON object")
    try:
        content = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        _fail("its header is not JSON")
    return dict(content)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        _fail(f"its header names {_quoted(twice)} twice")
    return found


def _header(document: _Document, size: int) -> Header:
    tensors = dict(document.content)
    _check_metadata(tensors.pop("__metadata__", {}))
    spans = [_span(name, tensor) for name, tensor in tensors.items()]
    _check_cover(spans, size - document.length)
    amounts: dict[str, int] = {}
    for span in spans:
        amounts[span.dtype] = amounts.get(span.dtype, 0) + span.end - span.begin
    return Header(dict(sorted(amounts.items())), frozenset(tensors))


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        _fail("`__metadata__` is not an object")
    if not all(isinstance(value, str) for value in metadata.values()):
        _fail("`__metadata__` holds something other than text")


@dataclass(frozen=True)
class _Span:
    """Where a tensor lies, counted from the end of the header."""

    name: str
    dtype: str
    begin: int
    end: int


def _span(name: str, tensor: Any) -> _Span:
    if not isinstance(tensor, dict):
        _fail(f"{_quoted(name)} is not an object")
    dtype, shape, offsets = (tensor.get(key, ()) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        _fail(f"{_quoted(name)} has an unknown dtype")
    if not _are_counts(shape):
        _fail(f"{_quoted(name)} has no valid shape")
    if not _are_counts(offsets) or len(offsets) != _PAIR or offsets[0] > offsets[1]:
        _fail(f"{_quoted(name)} has no valid offsets")
    _check_length(name, math.prod(shape) * _BITS[dtype], offsets[1] - offsets[0])
    return _Span(name, dtype, offsets[0], offsets[1])


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_length(name: str, bits: int, length: int) -> None:
    expected, left = divmod(bits, 8)
    if left:
        _fail(f"{_quoted(name)} does not end at a whole byte")
    if expected != length:
        _fail(f"{_quoted(name)} should have {expected} bytes, its offsets span {length}")


def _check_cover(spans: Iterable[_Span], size: int) -> None:
    """Check that the tensors fill what follows the header exactly."""
    position = 0
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if span.begin > position:
            _fail(f"{span.begin - position} bytes before {_quoted(span.name)} belong to no tensor")
        if span.begin < position:
            _fail(f"{_quoted(span.name)} overlaps another tensor")
        position = span.end
    if position > size:
        _fail(f"its tensors need {position} bytes, it has {size}")
    if position < size:
        _fail(f"its last {size - position} bytes belong to no tensor")


def _quoted(name: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in name)
    return f"`{plain if len(plain) <= _SHOWN else plain[:_SHOWN] + '…'}`"


def _fail(reason: str) -> NoReturn:
    raise _MalformedError(reason)
