"""Make safetensors files and models for tests."""

import json
import struct
from typing import Any

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8}


def tensor(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> Any:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def with_header(text: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def safetensors(tensors: dict[str, Any], size: int) -> bytes:
    return with_header(json.dumps(tensors).encode(), b"\x07" * size)


def weights(*names: str, dtype: str = "BF16") -> bytes:
    """One file with a tensor of four elements for each name."""
    width = {"BF16": 2, "F32": 4}[dtype] * 4
    spans = {
        name: tensor(number * width, (number + 1) * width, [2, 2], dtype)
        for number, name in enumerate(names)
    }
    return safetensors(spans, width * len(names))


def index(shards: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}).encode()


def model(**config: Any) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG | config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": weights("a", "b"),
    }
