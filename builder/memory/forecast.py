"""Does a model fit a GPU, by how much, and what would: one forecast, made without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder.errors import StackError
from builder.memory.cache import CacheFormat, Layout, layout
from builder.memory.engine import Limits, engine
from builder.memory.weights import Split, weight_bytes
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.catalogue import Gpu
    from builder.memory.engine import Engine
    from builder.memory.shape import ModelShape

_DRIVER_BYTES = round(0.6 * GIB)
"""What a driver keeps for itself, at most: `memory.total` less what the engine sees of it."""
_SMALL_GPUS = frozenset({"A100", "A800"})
_MOST_TOKENS = 1 << 30
_SURE_SHARE = 0.02
"""Of the budget: nine forecasts in ten were closer to the logs than that (docs/memory.md)."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the engine sees it."""

    name: str
    total_bytes: int

    @classmethod
    def of(cls, gpu: Gpu) -> Device:
        """Return a GPU of the catalogue."""
        return cls(gpu.title, gpu.visible_bytes or gpu.memory_bytes - _DRIVER_BYTES)

    @property
    def is_small(self) -> bool:
        """The engine gives it the limits of a smaller one, whatever its memory."""
        return any(name in self.name for name in _SMALL_GPUS)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a deployment asks of the engine; None stands for the engine's default."""

    version: str
    context_tokens: int
    concurrency: int = 1
    """Requests of full length that must fit at once."""
    sequences: int | None = None
    """`max_num_seqs`."""
    batched_tokens: int | None = None
    """`max_num_batched_tokens`."""
    utilisation: float | None = None
    """`gpu_memory_utilization`."""
    split: Split = field(default_factory=Split)
    cache_element_bytes: int | None = None
    """1 for an fp8 cache; None: as the model's dtype."""
    block_tokens: int = 16
    eager: bool = False
    """No graphs."""
    legacy: bool | None = None
    """Version 0 of the engine, where both were there."""
    sorts: bool | None = None
    """The sampler sorts, where both were there."""

    @property
    def engine(self) -> Engine:
        """Return what is known of the engine's version."""
        return engine(self.version, legacy=self.legacy, sorts=self.sorts)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The memory of one GPU: the fullest one, where several share a model."""

    device: Device
    budget_bytes: int
    """What the engine may take."""
    weights_bytes: int
    activation_bytes: int
    outside_bytes: int
    """Outside of PyTorch: libraries, buffers between GPUs."""
    graphs_bytes: int
    graphs_counted: bool
    """False: graphs come on top of the budget."""
    layout: Layout
    needed_bytes: int
    """Cache that the requests asked for may hold at once."""
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
    def beyond_bytes(self) -> int:
        """Bytes of the device that are left beside the budget for graphs that it does not hold."""
        outside = 0 if self.graphs_counted else self.graphs_bytes
        return self.device.total_bytes - self.budget_bytes - outside

    @property
    def fits(self) -> bool:
        """The engine starts and holds the requests asked for."""
        return self.spare_bytes >= 0 and self.cache_bytes > 0

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


def forecast(shape: ModelShape, serving: Serving, device: Device) -> Forecast:
    """Return how the memory of a GPU will be used.

    Raises:
        StackError: the model cannot be cut that way.
    """
    _check_split(shape, serving.split)
    version, limits = serving.engine, _limits(serving, device)
    cache = layout(shape, serving.split, _cache_format(shape, serving))
    request = cache.request_bytes(serving.context_tokens, limits.batched_tokens)
    utilisation = serving.utilisation or version.utilisation
    return Forecast(
        device=device,
        budget_bytes=int(device.total_bytes * utilisation),
        weights_bytes=weight_bytes(shape, serving.split),
        activation_bytes=version.activation_bytes(shape, serving.split, limits),
        outside_bytes=version.outside_bytes(serving.split),
        graphs_bytes=(0 if serving.eager else version.graph_bytes(shape, serving.split, limits)),
        graphs_counted=version.counts_graphs,
        layout=cache,
        needed_bytes=serving.concurrency * request,
        limits=limits,
    )


def largest_context(shape: ModelShape, serving: Serving, device: Device) -> int:
    """Return the most tokens a request may have at that concurrency; 0 if not even one block."""
    bound = shape.max_positions or _MOST_TOKENS

    def fits(tokens: int) -> bool:
        return forecast(shape, replace(serving, context_tokens=tokens), device).fits

    return _most(fits, bound)


def highest_concurrency(shape: ModelShape, serving: Serving, device: Device) -> int:
    """Return how many requests of full length fit at once."""
    one = forecast(shape, replace(serving, concurrency=1), device)
    if not one.fits:
        return 0
    blocks = one.layout.request_blocks(serving.context_tokens, one.limits.batched_tokens)
    return one.layout.blocks(one.cache_bytes) // blocks


def smallest_device(
    shape: ModelShape, serving: Serving, devices: Iterable[Device]
) -> Device | None:
    """Return the device with the least memory on which it fits."""
    ordered = sorted(devices, key=lambda device: (device.total_bytes, device.name))
    return next((item for item in ordered if forecast(shape, serving, item).fits), None)


def _most(fits: Callable[[int], bool], bound: int) -> int:
    """Return the largest number up to `bound` that fits, given that smaller ones fit as well."""
    low, high = 0, bound
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _limits(serving: Serving, device: Device) -> Limits:
    default = serving.engine.limits(
        device.total_bytes, a100=device.is_small, context_tokens=serving.context_tokens
    )
    return Limits(
        serving.sequences or default.sequences,
        serving.batched_tokens or default.batched_tokens,
    )


def _cache_format(shape: ModelShape, serving: Serving) -> CacheFormat:
    return CacheFormat(
        element_bytes=serving.cache_element_bytes or shape.dtype_bytes,
        block_tokens=serving.block_tokens,
        grouped=serving.engine.groups_cache,
    )


def _check_split(shape: ModelShape, split: Split) -> None:
    tensor, heads, kv_heads = split.tensor, shape.heads, shape.kv_heads
    fit = [n for n in range(1, heads + 1) if not heads % n and not (kv_heads % n and n % kv_heads)]
    if shape.latent is None and tensor not in fit:
        message = (
            "serve.args.tensor-parallel-size: expected a number that divides"
            f" {heads} heads and {kv_heads} key-value heads, got {tensor}"
        )
        raise StackError(message, f"use one of {', '.join(map(str, fit))}")
    if heads % tensor:
        message = (
            f"serve.args.tensor-parallel-size: expected a divisor of {heads} heads, got {tensor}"
        )
        raise StackError(message, "use a power of two")
    if split.pipeline > shape.layers:
        message = (
            f"serve.args.pipeline-parallel-size: expected at most {shape.layers} layers,"
            f" got {split.pipeline}"
        )
        raise StackError(message, "give each GPU at least one layer")
