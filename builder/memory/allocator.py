"""What PyTorch's allocator adds to weights: large tensors are rounded up, small rests stay.

`c10/cuda/CUDACachingAllocator.cpp`: from 10 MiB on a tensor gets memory of its own in steps of
2 MiB, and a rest of at most 1 MiB is not split off, so that it counts as the tensor's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.units import MIB

if TYPE_CHECKING:
    from builder.memory.shape import ModelShape
    from builder.memory.weights import Split

_OWN_BYTES, _STEP_BYTES, _KEPT_BYTES = 10 * MIB, 2 * MIB, MIB
_BITS = 8


def slack_bytes(shape: ModelShape, split: Split) -> int:
    """Return what the tensors of the layers on the fullest GPU take beyond their sizes."""
    layers = -(-shape.layers // split.pipeline)
    dense = layers if shape.experts is None else min(layers, shape.experts.dense_layers)
    attention = sum(map(_slack, _attention(shape, split)))
    feed = sum(map(_slack, _dense(shape, split)))
    experts = sum(map(_slack, _experts(shape, split)))
    return layers * attention + dense * feed + (layers - dense) * experts


def _slack(size: float) -> int:
    rest = -int(size) % _STEP_BYTES
    return rest if size >= _OWN_BYTES and rest <= _KEPT_BYTES else 0


def _attention(shape: ModelShape, split: Split) -> tuple[float, ...]:
    if shape.latent:
        return ()
    size = shape.hidden * shape.head_width * _whole(shape.linear_bits) / _BITS
    keys = -(-shape.kv_heads // split.tensor)
    heads = shape.heads / split.tensor
    return (size * (heads + 2 * keys), size * heads)


def _dense(shape: ModelShape, split: Split) -> tuple[float, ...]:
    size = shape.hidden * shape.width / split.tensor * _whole(shape.linear_bits) / _BITS
    return ((2 if shape.gated else 1) * size, size)


def _experts(shape: ModelShape, split: Split) -> tuple[float, ...]:
    if shape.experts is None:
        return ()
    experts, step = shape.experts, shape.expert_padding
    width = -(-experts.width // step) * step / (split.tensor * split.data)
    bits = _whole(shape.expert_bits or shape.linear_bits)
    size = experts.count * shape.hidden * width * bits / _BITS
    return (2 * size, size)


def _whole(bits: float) -> int:
    """Return the bits without the scales, which are tensors of their own."""
    return int(bits)
