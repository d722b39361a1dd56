"""What the memory of a model depends on: its layers, heads and widths, as plain numbers.

Bits of a weight include the scales that lie beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_BITS, _HALF = 8, 2


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a layer."""

    count: int
    per_token: int
    width: int
    shared_width: int = 0
    """Width of those that every token passes."""
    dense_layers: int = 0
    """Leading layers without experts."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Attention that keeps one latent vector a token instead of keys and values (MLA)."""

    rank: int
    rope: int
    nope: int
    value: int
    query_rank: int | None = None

    @property
    def cached(self) -> int:
        """Elements a token and layer."""
        return self.rank + self.rope


@dataclass(frozen=True, slots=True)
class Recurrent:
    """Layers with a state of fixed size in place of a cache (gated delta net)."""

    layers: int
    key_heads: int
    key_width: int
    value_heads: int
    value_width: int
    kernel: int = 4


@dataclass(frozen=True, slots=True)
class Tower:
    """An encoder of images whose inputs grow with what is asked: large images, and videos."""

    hidden: int
    width: int
    patches: int
    """That become one token."""
    item_tokens: int
    """Of the largest image."""

    def tokens(self, context: int, batched: int) -> int:
        """Return the tokens that the engine profiles at once: a video may fill the context."""
        return max(batched, self.item_tokens, context - self.item_tokens)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model, reduced to what takes memory."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    width: int
    """Of the feed-forward part."""
    vocabulary: int
    tied: bool = False
    """The output shares the embedding's weights."""
    gated: bool = True
    """Three feed-forward matrices, not two."""
    dtype_bytes: int = 2
    linear_bits: float = 16
    expert_bits: float | None = None
    """None: as the other matrices."""
    expert_padding: int = 1
    """The engine rounds the widths of experts up to a multiple."""
    expert_workspace: bool = True
    """The engine copies every token for each expert it visits."""
    experts: Experts | None = None
    latent: Latent | None = None
    recurrent: Recurrent | None = None
    window_layers: int = 0
    window_tokens: int | None = None
    draft_layers: int = 0
    """Stored for speculative decoding and not loaded without it."""
    vision_parameters: int = 0
    tower: Tower | None = None
    """Where its own step may outweigh that of the text."""
    vision_split: bool = True
    """The tower for images is cut over GPUs; Mistral's own files load one that is not."""
    max_positions: int | None = None
    """Longest context."""
    rotary_rows: int = 0
    """Positions in the rotary tables, which scaling may lengthen."""
    stored_bytes: int | None = None
    """Sum over the tensors of the weight files, where they were read, in the dtype above."""
    cached: bool = True
    """False: an encoder, which reads a text at once and keeps nothing of it."""
    architecture: str = ""
    """The class that its config names, where one was read."""
    pools: bool = False
    """It gives vectors or classes: nothing is sampled from its vocabulary."""

    @property
    def is_quantised(self) -> bool:
        """Whether any weights are stored in another type than the rest."""
        return self.expert_bits is not None or self.linear_bits != self.dtype_bytes * _BITS

    @property
    def full_layers(self) -> int:
        """Layers whose cache grows with every token."""
        return self.layers - self.window_layers - (self.recurrent.layers if self.recurrent else 0)


def as_loaded(shape: ModelShape, dtype_bytes: int | None, *, drafts: bool) -> ModelShape:
    """Return what the engine makes of a model: in 16 bits unless told otherwise, without drafts."""
    wanted = dtype_bytes or min(shape.dtype_bytes, _HALF)
    if wanted != shape.dtype_bytes:
        shape = _converted(shape, wanted)
    if drafts:
        # A layer of drafts is one more of the last kind, its cache included.
        shape = replace(shape, layers=shape.layers + shape.draft_layers, draft_layers=0)
    return shape


def _converted(shape: ModelShape, wanted: int) -> ModelShape:
    if shape.is_quantised:
        return replace(shape, dtype_bytes=wanted)
    stored = shape.stored_bytes and shape.stored_bytes * wanted // shape.dtype_bytes
    return replace(shape, dtype_bytes=wanted, linear_bits=wanted * _BITS, stored_bytes=stored)
