"""Bytes of the weights on one GPU: what is split over them, and what each of them repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.memory.allocator import slack_bytes

if TYPE_CHECKING:
    from builder.memory.shape import ModelShape, Recurrent

_BITS = 8
_PADDED_VOCABULARY = 64


@dataclass(frozen=True, slots=True)
class Split:
    """How a model is cut over GPUs."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    """Replicas, each with a cache of its own; experts are cut over all of them."""


@lru_cache(maxsize=1024)
def weight_bytes(shape: ModelShape, split: Split) -> int:
    """Return the bytes of the weights on the fullest GPU, buffers made at load time included.

    Sizes come from the shape; where the files were read, they are scaled to what these hold, so
    that only the split rests on the shape.
    """
    return _exact(shape, split) + slack_bytes(shape, split)


def _exact(shape: ModelShape, split: Split) -> int:
    """Return the same without what the allocator adds."""
    scale = 1.0
    if shape.stored_bytes:
        # Files hold drafts, which are not loaded, and widths as they are, which are rounded up.
        filed = replace(shape, expert_padding=1)
        drafts = filed.draft_layers * _layer(filed, Split())
        scale = shape.stored_bytes / (_stored(filed, Split()) + drafts)
    return round(_stored(shape, split) * scale + buffer_bytes(shape, split))


def replicated_bytes(shape: ModelShape, split: Split) -> int:
    """Return the bytes that one GPU holds beyond its share: the price of the split."""
    return _exact(shape, split) - _exact(shape, Split()) // (split.tensor * split.pipeline)


def _stored(shape: ModelShape, split: Split) -> float:
    """Return what the fullest stage holds of what the files hold."""
    padded = -(-shape.vocabulary // _PADDED_VOCABULARY) * _PADDED_VOCABULARY
    table = padded * shape.hidden * shape.dtype_bytes / split.tensor
    # Either end of a pipeline has one table; without a pipeline a tied one serves both ends.
    tables = 1 if shape.tied or split.pipeline > 1 else 2
    layers = -(-shape.layers // split.pipeline)
    share = layers / shape.layers
    towers = split.tensor if shape.vision_split else 1
    vision = shape.vision_parameters * shape.dtype_bytes / towers
    return tables * table + share * _layers(shape, split) + vision


def _layers(shape: ModelShape, split: Split) -> float:
    dense = shape.experts.dense_layers if shape.experts else 0
    recurrent = shape.recurrent.layers if shape.recurrent else 0
    attention = (shape.layers - recurrent) * _attention(shape, split)
    if shape.recurrent:
        attention += recurrent * _recurrent(shape, shape.recurrent) / split.tensor
    feed = dense * _dense(shape, split) + (shape.layers - dense) * _feed_forward(shape, split)
    norms = 2 * shape.layers * shape.hidden * shape.dtype_bytes
    return attention + feed + norms


def _layer(shape: ModelShape, split: Split) -> float:
    return _attention(shape, split) + _feed_forward(shape, split)


def _attention(shape: ModelShape, split: Split) -> float:
    size = shape.linear_bits / _BITS
    if shape.latent:
        latent, hidden = shape.latent, shape.hidden
        width = shape.heads * (latent.nope + latent.rope)
        entry = latent.query_rank or hidden
        once = hidden * latent.cached + (hidden * latent.query_rank if latent.query_rank else 0)
        cut = entry * width + latent.rank * shape.heads * (latent.nope + latent.value)
        cut += shape.heads * latent.value * hidden
        return size * (once + cut / split.tensor)
    queries = 2 * shape.hidden * shape.heads * shape.head_width / split.tensor
    keys = 2 * shape.hidden * heads_on_one(shape.kv_heads, split.tensor) * shape.head_width
    return size * (queries + keys)


def heads_on_one(heads: int, tensor: int) -> int:
    """Return the key-value heads on each GPU: with fewer heads than GPUs they are repeated."""
    return -(-heads // tensor)


def _recurrent(shape: ModelShape, state: Recurrent) -> float:
    keys, values = state.key_heads * state.key_width, state.value_heads * state.value_width
    elements = shape.hidden * (2 * keys + 2 * values + 2 * state.value_heads)
    return shape.linear_bits / _BITS * (elements + values * shape.hidden)


def _feed_forward(shape: ModelShape, split: Split) -> float:
    if shape.experts is None:
        return _dense(shape, split)
    experts, step = shape.experts, shape.expert_padding
    bits = shape.expert_bits or shape.linear_bits
    width, hidden = _round_up(experts.width, step), shape.hidden
    routed = experts.count * 3 * hidden * width * bits / _BITS
    shared = 3 * hidden * experts.shared_width * shape.linear_bits / _BITS
    router = experts.count * hidden * shape.dtype_bytes
    return routed / (split.tensor * split.data) + shared / split.tensor + router


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _dense(shape: ModelShape, split: Split) -> float:
    matrices = 3 if shape.gated else 2
    return matrices * shape.hidden * shape.width * shape.linear_bits / _BITS / split.tensor


def buffer_bytes(shape: ModelShape, split: Split) -> float:
    """Return what the engine makes while it loads: rotary tables, latent projections unfolded."""
    rotary = shape.latent.rope if shape.latent else shape.head_width
    tables = float(shape.rotary_rows * rotary * shape.dtype_bytes)
    if shape.latent is None:
        return tables
    heads = shape.heads / split.tensor
    unfolded = shape.latent.rank * heads * (shape.latent.nope + shape.latent.value)
    return tables + -(-shape.layers // split.pipeline) * unfolded * shape.dtype_bytes
