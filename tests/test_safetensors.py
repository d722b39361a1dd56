"""Headers of safetensors files: accepted only if every byte is accounted for."""

import io
import json
import struct

import pytest

from builder.errors import IntegrityError
from builder.sources.safetensors import LONGEST_HEADER, header_bytes, read_header
from tests.model_maker import safetensors, tensor, weights, with_header

ONE = {"a": tensor(0, 4)}


def read(data: bytes, size: int | None = None) -> object:
    return read_header(io.BytesIO(data), len(data) if size is None else size, "m: w.safetensors")


def test_bytes_by_dtype_and_names() -> None:
    spans = {
        "b": tensor(8, 12, [1, 1], "F32"),
        "a": tensor(0, 8, [4], "BF16"),
        "packed": tensor(12, 14, [4], "F4"),
        "empty": tensor(14, 14, [0, 7], "F8_E4M3"),
        "scalar": tensor(14, 15, [], "BOOL"),
        "__metadata__": {"format": "pt"},
    }
    data = safetensors(spans, 15)
    header = read_header(io.BytesIO(data), len(data), "m")
    assert header.tensors == {"a", "b", "packed", "empty", "scalar"}
    assert header.tensor_bytes == {"BF16": 8, "BOOL": 1, "F32": 4, "F4": 2, "F8_E4M3": 0}
    assert list(header.tensor_bytes) == sorted(header.tensor_bytes)


def test_the_beginning_of_a_file_is_enough() -> None:
    data = weights("a", "b")
    prefix = data[: header_bytes(data[:8])]
    assert read_header(io.BytesIO(prefix), len(data), "m").tensors == {"a", "b"}


def test_padding_after_the_object_is_allowed() -> None:
    read(with_header(json.dumps(ONE).encode() + b"   ", b"1234"))


FAULTS = {
    "empty": (b"", "shorter than its own length field"),
    "length-past-end": (struct.pack("<Q", 99) + b"{}", "would end at byte 107 of 10"),
    "length-past-limit": (struct.pack("<Q", LONGEST_HEADER + 1) + b"{}", "at most 100000000"),
    "not-json": (with_header(b"{nope", b""), "is not JSON"),
    "not-utf-8": (with_header(b'{"\xff": 1}', b""), "is not JSON"),
    "nested-too-deep": (with_header(b'{"a":' + b"[" * 200_000, b""), "is not JSON"),
    "not-an-object": (with_header(b"[1]", b""), "is not a JSON object"),
    "blank-first": (with_header(b" {}", b""), "is not a JSON object"),
    "twice": (
        with_header(b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 4)).encode(),) * 2), b"1234"),
        "names `a` twice",
    ),
    "twice-inside": (
        with_header(b'{"a":{"dtype":"U8","dtype":"I8","shape":[],"data_offsets":[0,1]}}', b"1"),
        "names `dtype` twice",
    ),
    "metadata": (safetensors({"__metadata__": {"a": 1}}, 0), "other than text"),
    "metadata-list": (safetensors({"__metadata__": []}, 0), "not an object"),
    "not-a-tensor": (safetensors({"a": 1}, 0), "`a` is not an object"),
    "dtype": (safetensors({"a": tensor(0, 4, dtype="X8")}, 4), "unknown dtype"),
    "dtype-list": (safetensors({"a": {**tensor(0, 4), "dtype": []}}, 4), "unknown dtype"),
    "shape": (safetensors({"a": tensor(0, 4, [-4])}, 4), "no valid shape"),
    "shape-bool": (safetensors({"a": {**tensor(0, 1), "shape": [True]}}, 1), "no valid shape"),
    "shape-missing": (
        safetensors({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, 1),
        "no valid shape",
    ),
    "offsets": (
        safetensors({"a": {**tensor(0, 4), "data_offsets": [4, 0]}}, 4),
        "no valid offsets",
    ),
    "offsets-one": (
        safetensors({"a": {**tensor(0, 4), "data_offsets": [4]}}, 4),
        "no valid offsets",
    ),
    "length": (safetensors({"a": tensor(0, 4, [5])}, 4), "should have 5 bytes, its offsets span 4"),
    "huge": (safetensors({"a": tensor(0, 4, [2**62, 2**62])}, 4), "its offsets span 4"),
    "half-a-byte": (safetensors({"a": tensor(0, 1, [1], "F4")}, 1), "a whole byte"),
    "overlap": (safetensors({"a": tensor(0, 4), "b": tensor(2, 6)}, 6), "`b` overlaps"),
    "hole": (safetensors({"a": tensor(0, 2), "b": tensor(4, 6)}, 6), "2 bytes before `b`"),
    "hole-first": (safetensors({"a": tensor(2, 4)}, 4), "2 bytes before `a`"),
    "truncated": (safetensors(ONE, 3), "need 4 bytes, it has 3"),
    "trailing": (safetensors(ONE, 9), "last 5 bytes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_malformed_file_is_refused(name: str) -> None:
    data, reason = FAULTS[name]
    with pytest.raises(IntegrityError) as caught:
        read(data)
    assert caught.value.message.startswith("m: w.safetensors: is not a valid safetensors file: ")
    assert reason in caught.value.message
    assert caught.value.hint


def test_a_header_that_ends_early_is_refused() -> None:
    data = safetensors(ONE, 4)
    with pytest.raises(IntegrityError, match="ends inside its header"):
        read(data[:20], len(data))


def test_a_hostile_name_is_shown_harmlessly() -> None:
    with pytest.raises(IntegrityError) as caught:
        read(safetensors({"\x1b[31m" + "x" * 500: 1}, 0))
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 200
