"""Make safetensors files and models for tests."""

import json
import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
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


TINY_LLAMA = Path(__file__).parents[1] / "stacks" / "models" / "tiny-llama"
HIDDEN, INTERMEDIATE, HEAD_SIZE, KV_HEADS = 2048, 4352, 128, 2
"""One projection of the feed-forward network is 17 MiB: more than what shares layers."""


def sharded_llama(folder: Path, layers: int) -> int:
    """Write a Llama of zeros with four shards of over 16 MiB a layer; return how many shards.

    Data are holes, so the files take no disk; they differ by the names of their tensors.
    """
    shards = list(_shards(layers))
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    folder.mkdir(parents=True)
    for name, shapes in zip(names, shards, strict=True):
        _write_zeros(folder / name, shapes)
    weight_map = {
        tensor: name for name, shapes in zip(names, shards, strict=True) for tensor in shapes
    }
    (folder / "model.safetensors.index.json").write_bytes(index(weight_map))
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_LLAMA / name, folder)
    config = json.loads((TINY_LLAMA / "config.json").read_bytes()) | {
        "head_dim": HEAD_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return len(shards)


def _shards(layers: int) -> Iterator[dict[str, list[int]]]:
    """Yield the tensors of every shard, with their shapes."""
    vocabulary, keys = 512, KV_HEADS * HEAD_SIZE
    yield {
        "lm_head.weight": [vocabulary, HIDDEN],
        "model.embed_tokens.weight": [vocabulary, HIDDEN],
        "model.norm.weight": [HIDDEN],
    }
    for number in range(layers):
        prefix = f"model.layers.{number}"
        yield {
            f"{prefix}.input_layernorm.weight": [HIDDEN],
            f"{prefix}.post_attention_layernorm.weight": [HIDDEN],
            f"{prefix}.self_attn.k_proj.weight": [keys, HIDDEN],
            f"{prefix}.self_attn.o_proj.weight": [HIDDEN, HIDDEN],
            f"{prefix}.self_attn.q_proj.weight": [HIDDEN, HIDDEN],
            f"{prefix}.self_attn.v_proj.weight": [keys, HIDDEN],
        }
        yield {f"{prefix}.mlp.down_proj.weight": [HIDDEN, INTERMEDIATE]}
        yield {f"{prefix}.mlp.gate_proj.weight": [INTERMEDIATE, HIDDEN]}
        yield {f"{prefix}.mlp.up_proj.weight": [INTERMEDIATE, HIDDEN]}


def _write_zeros(path: Path, shapes: dict[str, list[int]]) -> None:
    tensors: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        tensors[name] = tensor(begin, end, shape, "BF16")
    header = with_header(json.dumps(tensors).encode(), b"")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + end)
