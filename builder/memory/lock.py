"""The forecast's questions as a lock asks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.errors import StackError
from builder.memory.forecast import Serving
from builder.memory.shape import from_config
from builder.memory.weights import Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.lock import Lock
    from builder.lock.schema import Model
    from builder.memory.shape import ModelShape

_MAIN = "main"
_CACHE_BYTES = {"fp8": 1, "bfloat16": 2, "float16": 2}


def of_lock(lock: Lock) -> tuple[ModelShape, Serving]:
    """Return the main model of a lock and how its stack serves it.

    Raises:
        StackError: the lock does not say enough.
    """
    model = next((model for model in lock.models if model.role == _MAIN), None)
    if model is None:
        message = f"models: expected one with the role `{_MAIN}`, got none"
        raise StackError(message, "lock the stack again")
    shape = of_model(model)
    return shape, _serving(lock.stack.get("serve", {}), _version(lock), shape)


def of_model(model: Model) -> ModelShape:
    """Return the shape of a locked model, with the bytes that its files hold."""
    return from_config(model.facts.config, model.facts.tensor_bytes)


def _version(lock: Lock) -> str:
    found = next((w.version for w in lock.wheels if w.name == lock.engine.distribution), None)
    version = found or lock.stack.get("engine", {}).get("version")
    if version is None:
        message = f"packages: expected a wheel of {lock.engine.distribution}, got none"
        raise StackError(message, "lock the stack again")
    return str(version)


def _serving(serve: Mapping[str, Any], version: str, shape: ModelShape) -> Serving:
    flags = {name.replace("_", "-"): value for name, value in serve.get("args", {}).items()}
    tokens = serve.get("max_model_len") or shape.max_positions
    if tokens is None:
        message = "serve.max_model_len: the model's config names no longest context"
        raise StackError(message, "set serve.max_model_len")
    cache = str(flags.get("kv-cache-dtype", "auto"))
    return Serving(
        version=version,
        context_tokens=tokens,
        sequences=serve.get("max_num_seqs"),
        batched_tokens=flags.get("max-num-batched-tokens"),
        utilisation=serve.get("gpu_memory_utilization"),
        split=Split(
            flags.get("tensor-parallel-size", 1),
            flags.get("pipeline-parallel-size", 1),
        ),
        cache_element_bytes=next((n for k, n in _CACHE_BYTES.items() if cache.startswith(k)), None),
        block_tokens=flags.get("block-size") or 16,
        eager=bool(flags.get("enforce-eager", False)),
    )
