"""Does a model fit a GPU, by how much, and what would: one forecast, made without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.errors import StackError
from builder.memory.cache import CacheFormat, Layout, layout
from builder.memory.start import Start
from builder.memory.weights import weight_bytes

if TYPE_CHECKING:
    from builder.memory.deployment import Device, Serving
    from builder.memory.engine import Limits
    from builder.memory.shape import ModelShape
    from builder.memory.weights import Split

_SURE_SHARE = 0.02
"""Of the budget: nine forecasts in ten were closer to the logs than that (docs/memory.md)."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The memory of one GPU: the fullest one, where several share a model."""

    device: Device
    free_bytes: int
    """What is free on the device when the engine starts alone."""
    budget_bytes: int
    """What the engine may take; with a cache of a size that was asked for, what it will take."""
    weights_bytes: int
    activation_bytes: int
    outside_bytes: int
    """Outside of PyTorch: libraries, buffers between GPUs."""
    graphs_bytes: int
    graphs_counted: bool
    """False: graphs come on top of the budget."""
    layout: Layout
    request_bytes: int
    """Cache that one request of full length may hold; 0 for an encoder, which keeps none."""
    needed_bytes: int
    """The same for the requests asked for, those of one replica."""
    limits: Limits

    @property
    def cache_bytes(self) -> int:
        """What is left for the cache; below zero, the engine does not start."""
        counted = self.graphs_bytes if self.graphs_counted else 0
        used = self.weights_bytes + self.activation_bytes + self.outside_bytes + counted
        return self.budget_bytes - used

    @property
    def cache_tokens(self) -> int:
        """What the engine will log as the size of its cache."""
        return self.layout.tokens(self.cache_bytes)

    @property
    def spare_bytes(self) -> int:
        """Bytes left beyond what is needed; below zero, bytes short."""
        return self.cache_bytes - self.needed_bytes

    @property
    def excess_bytes(self) -> int:
        """Bytes of the budget beyond what is free at the start: above zero it is refused."""
        return max(0, self.budget_bytes - self.free_bytes)

    @property
    def beyond_bytes(self) -> int:
        """Free bytes that are left beside the budget, and beside graphs that it does not hold."""
        outside = 0 if self.graphs_counted else self.graphs_bytes
        return self.free_bytes - self.budget_bytes - outside

    @property
    def fits(self) -> bool:
        """The engine starts and holds the requests asked for."""
        holds = self.cache_bytes > 0 or not self.request_bytes
        return self.spare_bytes >= 0 and holds and not self.excess_bytes

    @property
    def is_close(self) -> bool:
        """The verdict may be wrong: what is spare or short is within the forecast's own error."""
        return abs(self.spare_bytes) < self.budget_bytes * _SURE_SHARE

    @property
    def bar(self) -> tuple[tuple[str, int], ...]:
        """The parts of the budget in the order they are taken, for a bar."""
        parts = [
            ("weights", self.weights_bytes),
            ("activations", self.activation_bytes),
            ("outside PyTorch", self.outside_bytes),
        ]
        if self.graphs_counted:
            parts.append(("graphs", self.graphs_bytes))
        return (*parts, ("cache", max(0, self.cache_bytes)))


@lru_cache(maxsize=4096)
def forecast(shape: ModelShape, serving: Serving, device: Device) -> Forecast:
    """Return how the memory of a GPU will be used.

    Raises:
        StackError: the model cannot be cut that way, or the version is none.
    """
    if fault := _split_fault(shape, serving.split):
        raise fault
    shape = serving.loaded(shape)
    version, limits, split = serving.engine, serving.limits(shape, device), serving.split
    form = _cache_format(shape, serving)
    cache = layout(shape, split, form)
    request = cache.request_bytes(serving.context_tokens, limits.batched_tokens)
    weights = max(0, weight_bytes(shape, split) - serving.offload_bytes)
    start = Start(
        version, shape, split, limits, device.capability, form.element_bytes, serving.context_tokens
    )
    activation, outside = start.activation_bytes, version.outside_bytes(split, linked=device.linked)
    graphs = 0 if serving.eager or not shape.cached else start.graph_bytes
    budget = int(device.total_bytes * (serving.utilisation or version.utilisation))
    fixed = serving.cache_bytes is not None
    if serving.cache_bytes is not None:
        budget = weights + activation + outside + graphs + serving.cache_bytes
    return Forecast(
        device=device,
        free_bytes=device.free_bytes(split),
        budget_bytes=budget,
        weights_bytes=weights,
        activation_bytes=activation,
        outside_bytes=outside,
        graphs_bytes=graphs,
        graphs_counted=version.counts_graphs(shape) or fixed,
        layout=cache,
        request_bytes=request,
        needed_bytes=serving.requests * request,
        limits=limits,
    )


def can_split(shape: ModelShape, split: Split) -> bool:
    """Whether the engine can cut a model that way."""
    return _split_fault(shape, split) is None


def _cache_format(shape: ModelShape, serving: Serving) -> CacheFormat:
    return CacheFormat(
        element_bytes=serving.cache_element_bytes or shape.dtype_bytes,
        block_tokens=serving.block_tokens,
        grouped=serving.engine.groups_cache,
    )


def _split_fault(shape: ModelShape, split: Split) -> StackError | None:
    if not _divides(shape, split.tensor):
        whole = range(1, shape.heads + 1)
        fit = ", ".join(str(count) for count in whole if _divides(shape, count))
        heads = f"{shape.heads} heads"
        if shape.latent is None:
            heads += f" and {shape.kv_heads} key-value heads"
        message = (
            "serve.args.tensor-parallel-size: expected a number that divides"
            f" {heads}, got {split.tensor}"
        )
        return StackError(message, f"use one of {fit}")
    if split.pipeline > shape.layers:
        message = (
            f"serve.args.pipeline-parallel-size: expected at most {shape.layers} layers,"
            f" got {split.pipeline}"
        )
        return StackError(message, "give each GPU at least one layer")
    return None


def _divides(shape: ModelShape, tensor: int) -> bool:
    if shape.heads % tensor:
        return False
    # A latent is the same on every GPU, and keys and values may be repeated.
    return bool(shape.latent) or not (shape.kv_heads % tensor and tensor % shape.kv_heads)
