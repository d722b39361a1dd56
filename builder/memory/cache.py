"""How the engine lays out its key-value cache: blocks, pages and groups of layers.

Layers of one kind form one group, whose block holds a page of every layer.  Where a model has
several kinds, vLLM cuts its layers into groups of equal size and lends blocks to any of them, so
that a layer with a window gives back what it no longer sees
(`vllm/v1/core/kv_cache_utils.py`, `get_kv_cache_groups`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.memory.weights import heads_on_one

if TYPE_CHECKING:
    from builder.memory.shape import ModelShape, Recurrent
    from builder.memory.weights import Split

_ALMOST_EQUAL = 1.25
"""Kinds whose numbers of layers differ by less are padded to the larger one."""
_STATE_BYTES, _CONVOLUTION_BYTES = 4, 2
_STATE_BLOCKS = 2
"""Blocks of a recurrent state that one request holds while prefixes are cached."""
_STEP = 16


@dataclass(frozen=True, slots=True)
class CacheFormat:
    """What a deployment decides about its cache."""

    element_bytes: int = 2
    block_tokens: int = 16
    grouped: bool = True
    """False: an engine that treats a layer with a window like any other."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The cache of one GPU."""

    block_tokens: int
    block_bytes: int
    full_groups: int
    window_groups: int = 0
    window_tokens: int = 0
    state_groups: int = 0

    @property
    def groups(self) -> int:
        """Groups that share the blocks."""
        return self.full_groups + self.window_groups + self.state_groups

    def blocks(self, cache_bytes: int) -> int:
        """Return how many whole blocks fit."""
        return max(0, cache_bytes // self.block_bytes) if self.block_bytes else 0

    def tokens(self, cache_bytes: int) -> int:
        """Return the size that the engine logs: blocks, shared out to the groups."""
        return self.blocks(cache_bytes) // max(1, self.groups) * self.block_tokens

    def request_blocks(self, tokens: int, batched_tokens: int) -> int:
        """Return the blocks that one request of that length may hold at once."""
        whole = -(-tokens // self.block_tokens)
        # A window reaches over the tokens of one step, and may begin inside a block.
        seen = min(self.window_tokens - 1 + batched_tokens, tokens)
        window = -(-seen // self.block_tokens) + 1 if self.window_groups else 0
        return (
            self.full_groups * whole
            + self.window_groups * window
            + self.state_groups * _STATE_BLOCKS
        )

    def request_bytes(self, tokens: int, batched_tokens: int) -> int:
        """Return the bytes that one request of that length may hold at once."""
        return self.request_blocks(tokens, batched_tokens) * self.block_bytes


def token_bytes(shape: ModelShape, split: Split, element_bytes: int = 2) -> int:
    """Return the cache of one token on one GPU, over all layers that keep one."""
    if not shape.cached:
        return 0
    stateless = shape.layers - (shape.recurrent.layers if shape.recurrent else 0)
    return -(-stateless // split.pipeline) * _layer_token(shape, split, element_bytes)


@lru_cache(maxsize=1024)
def layout(shape: ModelShape, split: Split, form: CacheFormat) -> Layout:
    """Return how the cache of a model is laid out."""
    if not shape.cached:
        return Layout(form.block_tokens, block_bytes=0, full_groups=0)
    per_token = _layer_token(shape, split, form.element_bytes)
    block_tokens = form.block_tokens
    state = _state_bytes(shape.recurrent, split) if shape.recurrent else 0
    if state:
        # A page of attention is made as large as a state: then one pool serves both.
        block_tokens = -(-state // (per_token * _STEP)) * _STEP
    counts = [_share(count, split) for count in _kinds(shape, form)]
    size = _group_size([count for count in counts if count])
    full, window, recurrent = (-(-count // size) for count in counts)
    return Layout(
        block_tokens=block_tokens,
        block_bytes=size * block_tokens * per_token,
        full_groups=full,
        window_groups=window,
        window_tokens=shape.window_tokens or 0 if window else 0,
        state_groups=recurrent,
    )


def _layer_token(shape: ModelShape, split: Split, element_bytes: int) -> int:
    if shape.latent:
        return shape.latent.cached * element_bytes
    return 2 * heads_on_one(shape.kv_heads, split.tensor) * shape.head_width * element_bytes


def _kinds(shape: ModelShape, form: CacheFormat) -> tuple[int, int, int]:
    recurrent = shape.recurrent.layers if shape.recurrent else 0
    if form.grouped:
        return shape.full_layers, shape.window_layers, recurrent
    return shape.full_layers + shape.window_layers, 0, recurrent


def _share(count: int, split: Split) -> int:
    return -(-count // split.pipeline)


def _group_size(counts: list[int]) -> int:
    smallest, largest = min(counts), max(counts)
    return largest if largest < smallest * _ALMOST_EQUAL else smallest


def _state_bytes(recurrent: Recurrent, split: Split) -> int:
    keys = recurrent.key_heads * recurrent.key_width
    values = recurrent.value_heads * recurrent.value_width
    matrix = recurrent.key_width * values * _STATE_BYTES
    convolution = (2 * keys + values) * (recurrent.kernel - 1) * _CONVOLUTION_BYTES
    return (matrix + convolution) // split.tensor
