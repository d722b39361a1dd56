"""What would fit: the longest context, the most requests, the smallest GPU, the fewest GPUs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.memory.deployment import Device
from builder.memory.forecast import can_split, forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.catalogue import Gpu
    from builder.memory.deployment import Serving
    from builder.memory.shape import ModelShape

_MOST_TOKENS = 1 << 30


@lru_cache(maxsize=1024)
def largest_context(shape: ModelShape, serving: Serving, device: Device) -> int:
    """Return the most tokens a request may have at that concurrency; 0 if not even one block.

    Raises:
        StackError: the model cannot be cut that way.
    """
    bound = shape.max_positions or _MOST_TOKENS

    def fits(tokens: int) -> bool:
        return forecast(shape, replace(serving, context_tokens=tokens), device).fits

    return _most(fits, bound)


def highest_concurrency(shape: ModelShape, serving: Serving, device: Device) -> int:
    """Return how many requests of full length fit at once, over all replicas.

    Without a cache it is what the engine takes in one step.

    Raises:
        StackError: the model cannot be cut that way.
    """
    one = forecast(shape, replace(serving, concurrency=1), device)
    if not one.fits:
        return 0
    if not one.request_bytes:
        return one.limits.sequences * serving.split.data
    return one.cache_bytes // one.request_bytes * serving.split.data


def smallest_device(
    shape: ModelShape, serving: Serving, devices: Iterable[Device]
) -> Device | None:
    """Return the device with the least memory on which it fits; None if there is none."""
    ordered = sorted(devices, key=lambda device: (device.total_bytes, device.name))
    return next((item for item in ordered if _fits(shape, serving, item)), None)


def smallest_gpu(shape: ModelShape, serving: Serving, gpus: Iterable[Gpu]) -> Gpu | None:
    """Return the GPU of the catalogue with the least memory on which it fits, if there is one."""
    ordered = sorted(gpus, key=lambda gpu: (gpu.usable_bytes, gpu.name))
    return next((gpu for gpu in ordered if _fits(shape, serving, Device.of(gpu))), None)


def fewest_gpus(shape: ModelShape, serving: Serving, device: Device, most: int = 8) -> int | None:
    """Return with how many GPUs of that kind, by tensor parallelism, it fits; None if with none."""
    for count in range(1, most + 1):
        split = replace(serving.split, tensor=count)
        if _fits(shape, replace(serving, split=split), device):
            return count
    return None


def _fits(shape: ModelShape, serving: Serving, device: Device) -> bool:
    """Whether it fits; a model that cannot be cut that way does not."""
    return can_split(shape, serving.split) and forecast(shape, serving, device).fits


def _most(fits: Callable[[int], bool], bound: int) -> int:
    """Return the largest number up to `bound` that fits, given that smaller ones fit as well."""
    low, high = 0, bound
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
