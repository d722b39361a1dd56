"""What the memory of a model depends on: its layers, heads and widths, as plain numbers.

`from_config` reads them from the fields of a `config.json` that a lock keeps; a model without
one is given by its numbers.  Bits of a weight include the scales that lie beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from builder.errors import StackError
from builder.memory.formats import Formats, formats

if TYPE_CHECKING:
    from collections.abc import Mapping

_NESTED = ("text_config", "llm_config", "language_config")
_ALTERNATING = frozenset({"gemma2", "gpt_oss"})
"""Models whose every other layer has a window, where the config lists no layers."""
_FIVE_TO_ONE = frozenset({"gemma3", "gemma3_text"})
_GATED_VISION = frozenset({"pixtral", "qwen2_5_vl"})
_ENCODERS = re.compile(r"bert|\bgte|\bnew\b|electra", re.IGNORECASE)
"""BERT and what came of it: no cache, and no step shorter than a request."""
_POOLING = ("Model", "Classification", "ForTextEncoding")
_BITS, _HALF = 8, 2
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


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
    max_positions: int | None = None
    """Longest context."""
    rotary_rows: int = 0
    """Positions in the rotary tables, which scaling may lengthen."""
    stored_bytes: int | None = None
    """Sum over the tensors of the weight files, where they were read, in the dtype above."""
    cached: bool = True
    """False: an encoder, which reads a text at once and keeps nothing of it."""
    pools: bool = False
    """It gives vectors or classes: nothing is sampled from its vocabulary."""

    @property
    def full_layers(self) -> int:
        """Layers whose cache grows with every token."""
        return self.layers - self.window_layers - (self.recurrent.layers if self.recurrent else 0)


def from_config(
    config: Mapping[str, Any], tensor_bytes: Mapping[str, int] | None = None
) -> ModelShape:
    """Return the shape that the fields of a `config.json` describe.

    Raises:
        StackError: a field is missing without which nothing can be said.
    """
    text = _text(config)
    layers, hidden = _need(text, "num_hidden_layers"), _need(text, "hidden_size")
    heads = _need(text, "num_attention_heads")
    window, window_tokens = _windows(text, layers)
    quantised = formats(_quantisation(config), _dtype_bytes(config))
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_width=text.get("head_dim") or hidden // heads,
        width=text.get("intermediate_size") or 4 * hidden,
        vocabulary=_need(text, "vocab_size"),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        dtype_bytes=_dtype_bytes(config),
        linear_bits=quantised.linear_bits,
        expert_bits=quantised.expert_bits,
        expert_padding=quantised.expert_padding,
        expert_workspace=quantised.expert_workspace,
        experts=_experts(text),
        latent=_latent(text),
        recurrent=_recurrent(text, layers),
        window_layers=window,
        window_tokens=window_tokens,
        draft_layers=text.get("num_nextn_predict_layers") or 0,
        vision_parameters=_vision(config.get("vision_config") or {}),
        max_positions=text.get("max_position_embeddings"),
        rotary_rows=_rotary_rows(text),
        stored_bytes=_stored(tensor_bytes or {}, _dtype_bytes(config), quantised) or None,
        cached=not is_encoder(f"{text.get('model_type')} {_architecture(config)}"),
        pools=_architecture(config).endswith(_POOLING),
    )


def is_encoder(names: str) -> bool:
    """Whether a model type or an architecture is that of a text encoder."""
    return bool(_ENCODERS.search(names))


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
    if shape.linear_bits != shape.dtype_bytes * _BITS or shape.expert_bits:
        return replace(shape, dtype_bytes=wanted)
    stored = shape.stored_bytes and shape.stored_bytes * wanted // shape.dtype_bytes
    return replace(shape, dtype_bytes=wanted, linear_bits=wanted * _BITS, stored_bytes=stored)


def _stored(tensor_bytes: Mapping[str, int], dtype_bytes: int, quantised: Formats) -> int:
    """Return the bytes of the tensors: the engine converts those that are not quantised."""
    if quantised != Formats(dtype_bytes * _BITS):
        return sum(tensor_bytes.values())
    return sum(
        size * dtype_bytes // _FLOAT_BYTES.get(name, dtype_bytes)
        for name, size in tensor_bytes.items()
    )


def _architecture(config: Mapping[str, Any]) -> str:
    return str(next(iter(config.get("architectures") or ()), ""))


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part that describes the language model."""
    inner = next((config[key] for key in _NESTED if isinstance(config.get(key), dict)), None)
    return config if inner is None else {**config, **inner}


def _need(text: Mapping[str, Any], field: str) -> int:
    value = text.get(field)
    if isinstance(value, int) and value > 0:
        return value
    message = f"model: config.json: expected a positive number in `{field}`, got `{value}`"
    raise StackError(message, "the memory of a model without it has to be given by numbers")


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("quantization_config") or config.get("compression_config")
    return found or _text(config).get("quantization_config") or {}


def _dtype_bytes(config: Mapping[str, Any]) -> int:
    text = _text(config)
    name = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    return 4 if name.endswith("float32") else 2


def _windows(text: Mapping[str, Any], layers: int) -> tuple[int, int | None]:
    """Return how many layers look back over a window only, and how far."""
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    kinds = text.get("layer_types")
    if not window or text.get("use_sliding_window") is False:
        return 0, None
    if kinds:
        return sum(kind in {"sliding_attention", "chunked_attention"} for kind in kinds), window
    kind = text.get("model_type")
    if kind in _ALTERNATING:
        return (layers + 1) // 2, window
    pattern = text.get("sliding_window_pattern") or (6 if kind in _FIVE_TO_ONE else None)
    return (layers - layers // pattern, window) if pattern else (layers, window)


def _rotary_rows(text: Mapping[str, Any]) -> int:
    """Return the rows of all rotary tables: scaled linearly, one has that many times the rows."""
    positions = text.get("max_position_embeddings") or 0
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    scaling = scaling.get("full_attention") or scaling
    linear = (scaling.get("rope_type") or scaling.get("type")) == "linear"
    rows = round(positions * scaling.get("factor", 1)) if linear else positions
    # Layers with a window turn at a frequency of their own.
    return rows + (positions if text.get("model_type") in _FIVE_TO_ONE else 0)


def _experts(text: Mapping[str, Any]) -> Experts | None:
    names = ("n_routed_experts", "num_local_experts", "num_experts")
    count = next((text[name] for name in names if text.get(name)), 0)
    if not count:
        return None
    width = text.get("moe_intermediate_size") or _need(text, "intermediate_size")
    shared = (text.get("n_shared_experts") or 0) * width
    return Experts(
        count=count,
        per_token=text.get("num_experts_per_tok") or 1,
        width=width,
        shared_width=text.get("shared_expert_intermediate_size") or shared,
        dense_layers=text.get("first_k_dense_replace") or 0,
    )


def _latent(text: Mapping[str, Any]) -> Latent | None:
    if not text.get("kv_lora_rank"):
        return None
    return Latent(
        rank=text["kv_lora_rank"],
        rope=_need(text, "qk_rope_head_dim"),
        nope=_need(text, "qk_nope_head_dim"),
        value=_need(text, "v_head_dim"),
        query_rank=text.get("q_lora_rank"),
    )


def _recurrent(text: Mapping[str, Any], layers: int) -> Recurrent | None:
    if not text.get("linear_num_value_heads"):
        return None
    kinds, interval = text.get("layer_types"), text.get("full_attention_interval") or 4
    linear = sum(kind == "linear_attention" for kind in kinds) if kinds else 0
    return Recurrent(
        layers=linear or layers - layers // interval,
        key_heads=_need(text, "linear_num_key_heads"),
        key_width=_need(text, "linear_key_head_dim"),
        value_heads=_need(text, "linear_num_value_heads"),
        value_width=_need(text, "linear_value_head_dim"),
        kernel=text.get("linear_conv_kernel_dim") or 4,
    )


def _vision(config: Mapping[str, Any]) -> int:
    """Return the parameters of a vision tower: its attention and feed-forward matrices."""
    hidden = config.get("embed_dim") or config.get("hidden_size") or 0
    layers = config.get("depth") or config.get("num_hidden_layers") or 0
    matrices = 3 if config.get("model_type") in _GATED_VISION else 2
    width = config.get("intermediate_size") or 4 * hidden
    return int(layers * (4 * hidden * hidden + matrices * hidden * width))
