"""The forecast's questions as a stack asks them: `serve`, its flags and the number of GPUs.

Flags are read as the recipe writes them and the engine understands them.  A value that is none
of its kind counts as absent here: that it is wrong is said where flags are checked.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from builder.errors import StackError
from builder.memory.deployment import Serving
from builder.memory.weights import Split
from builder.stack.arguments import on_the_line
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.memory.shape import ModelShape
    from builder.stack.model import Stack

_CACHE_BYTES = {"fp8": 1, "int8": 1, "bfloat16": 2, "float16": 2, "half": 2, "float32": 4}
_DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
_POOLING_TASKS = frozenset({"embed", "embedding", "classify", "score", "reward", "pooling"})
_ONLINE_BITS = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_channel", "fp8_per_block"), 8.0),
    "int8_per_channel_weight_only": 8.0,
    "mxfp8": 8.25,
    "bitsandbytes": 4.5,
    "nvfp4_per_token": 4.5,
}
"""By `quantization`: bits of a weight and its share of the scales, where the files hold 16.
vLLM 0.33.0, docs/features/quantization/online.md."""
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])?")


def of_stack(stack: Stack, shape: ModelShape, concurrency: int = 1) -> Serving:
    """Return what a stack asks of the engine.

    Raises:
        StackError: neither the stack nor the model names a longest context.
    """
    found = of_serve(dict(stack.serve), stack.engine.version, stack.target.count, shape)
    return replace(found, concurrency=concurrency)


def of_serve(serve: Mapping[str, Any], version: str, gpus: int, shape: ModelShape) -> Serving:
    """Return what `serve` of a stack, as plain values, asks of the engine on so many GPUs.

    Raises:
        StackError: neither the stack nor the model names a longest context.
    """
    flags = on_the_line(serve.get("args", {}))
    tokens = _count(serve.get("max_model_len")) or shape.max_positions
    if tokens is None:
        message = "serve.max_model_len: the model's config names no longest context"
        raise StackError(message, "set serve.max_model_len")
    cache = str(flags.get("kv-cache-dtype", "auto"))
    return Serving(
        version=version,
        context_tokens=tokens,
        sequences=_count(serve.get("max_num_seqs")),
        batched_tokens=_count(flags.get("max-num-batched-tokens")),
        utilisation=_share(serve.get("gpu_memory_utilization")),
        split=_split(flags, gpus),
        dtype_bytes=_DTYPE_BYTES.get(str(flags.get("dtype"))),
        cache_element_bytes=next((n for k, n in _CACHE_BYTES.items() if cache.startswith(k)), None),
        block_tokens=_count(flags.get("block-size")) or 16,
        eager=_is_on(flags.get("enforce-eager")),
        pools=_pools(flags),
        offload_bytes=_gib(flags.get("cpu-offload-gb")),
        cache_bytes=_count(flags.get("kv-cache-memory-bytes")),
        online_bits=_ONLINE_BITS.get(str(flags.get("quantization"))),
        drafts=_drafts(flags.get("speculative-config")),
    )


def _split(flags: Mapping[str, Any], gpus: int) -> Split:
    """Return how the GPUs share a model: by tensors, where no flag says otherwise."""
    return Split(
        _count(flags.get("tensor-parallel-size")) or gpus,
        _count(flags.get("pipeline-parallel-size")) or 1,
        _count(flags.get("data-parallel-size")) or 1,
    )


def _count(value: object) -> int | None:
    """Return a whole number above zero, written as the engine takes it: `2048`, `8k`, `10G`."""
    if isinstance(value, bool):
        return None
    found = _AMOUNT.fullmatch(str(value).strip())
    if found is None:
        return None
    number, suffix = found.groups()
    power = "kmgt".find((suffix or " ").lower()) + 1
    base = 1000 if (suffix or "k").islower() else 1024
    return int(float(number) * base**power) or None


def _gib(value: object) -> int:
    try:
        return max(0, round(float(str(value)) * GIB))
    except (ValueError, OverflowError):
        return 0


def _share(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None


def _is_on(value: object) -> bool:
    return value is True or str(value).lower() == "true"


def _pools(flags: Mapping[str, Any]) -> bool | None:
    """Whether flags say that the model gives vectors or classes; None: as the model says."""
    words = {str(flags.get(name)) for name in ("task", "runner", "convert")}
    if words & _POOLING_TASKS:
        return True
    return False if "generate" in words else None


def _drafts(value: object) -> bool:
    """Whether the model's own layers for drafts are used: `mtp` and what was named before it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, dict) and str(value.get("method")).endswith("mtp")
