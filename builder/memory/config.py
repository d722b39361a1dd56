"""A model's shape from the fields of its `config.json`, as a lock keeps them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from builder.errors import StackError
from builder.memory.formats import Formats, formats
from builder.memory.kinds import require_kinds
from builder.memory.shape import Experts, Latent, ModelShape, Recurrent, Tower

if TYPE_CHECKING:
    from collections.abc import Mapping

_NESTED = ("text_config", "llm_config", "language_config")
_ALTERNATING = frozenset({"gemma2", "gpt_oss"})
"""Models whose every other layer has a window, where the config lists no layers."""
_FIVE_TO_ONE = frozenset({"gemma3", "gemma3_text"})
_GATED_VISION = frozenset({"pixtral", "qwen2_5_vl"})
_QWEN_VISION = frozenset(
    ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"]
)
IMAGE_TOKENS = 16384
"""Of the largest image that they take: 12,845,056 pixels, 28 x 28 to a token."""
_UNGATED = frozenset(
    {
        "bloom",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gptj",
        "mpt",
        "opt",
        "phi",
        "starcoder2",
    }
)
"""Two feed-forward matrices, not three."""
_ENCODERS = re.compile(r"bert|\bgte|\bnew\b|electra", re.IGNORECASE)
"""BERT and what came of it: no cache, and no step shorter than a request."""
_POOLING = ("Model", "Classification", "ForTextEncoding")
_BITS = 8
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def from_config(
    config: Mapping[str, Any], tensor_bytes: Mapping[str, int] | None = None
) -> ModelShape:
    """Return the shape that the fields of a `config.json` describe.

    Raises:
        StackError: a field is missing without which nothing can be said, or of another kind.
    """
    require_kinds(config)
    text = _text(config)
    layers, hidden = _need(text, "num_hidden_layers"), _need(text, "hidden_size")
    heads = _need(text, "num_attention_heads")
    window, window_tokens = _windows(text, layers)
    dtype_bytes, architecture = _dtype_bytes(text), _architecture(config)
    quantised = formats(_quantisation(config, text), dtype_bytes)
    is_plain = quantised == Formats(dtype_bytes * _BITS)
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_width=text.get("head_dim") or hidden // heads,
        width=text.get("intermediate_size") or 4 * hidden,
        vocabulary=_need(text, "vocab_size"),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        dtype_bytes=dtype_bytes,
        gated=text.get("model_type") not in _UNGATED,
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
        tower=_tower(config),
        vision_split=not (_is_pixtral(config) and is_plain),
        max_positions=text.get("max_position_embeddings"),
        rotary_rows=_rotary_rows(text),
        stored_bytes=_stored(tensor_bytes or {}, dtype_bytes, is_plain=is_plain) or None,
        cached=not is_encoder(f"{text.get('model_type')} {architecture}"),
        architecture=architecture,
        pools=architecture.endswith(_POOLING),
    )


def _tower(config: Mapping[str, Any]) -> Tower | None:
    """Return the tower of the Qwen family, whose images and videos have no fixed size."""
    vision = config.get("vision_config") or {}
    hidden = vision.get("embed_dim") or vision.get("hidden_size")
    if str(config.get("model_type")) not in _QWEN_VISION or not hidden:
        return None
    width = vision.get("intermediate_size") or 4 * hidden
    merged = vision.get("spatial_merge_size") or 2
    return Tower(hidden, width, merged * merged, IMAGE_TOKENS)


def _is_pixtral(config: Mapping[str, Any]) -> bool:
    return (config.get("vision_config") or {}).get("model_type") == "pixtral"


def is_encoder(names: str) -> bool:
    """Whether a model type or an architecture is that of a text encoder."""
    return bool(_ENCODERS.search(names))


def _stored(tensor_bytes: Mapping[str, int], dtype_bytes: int, *, is_plain: bool) -> int:
    """Return the bytes of the tensors: the engine converts those that are not quantised."""
    if not is_plain:
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


def _quantisation(config: Mapping[str, Any], text: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("quantization_config") or config.get("compression_config")
    return found or text.get("quantization_config") or {}


def _dtype_bytes(text: Mapping[str, Any]) -> int:
    name = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    return 4 if name.endswith("float32") else 2


def _windows(text: Mapping[str, Any], layers: int) -> tuple[int, int | None]:
    """Return how many layers look back over a window only, and how far.

    Layers that attend within chunks are cached like those that see everything: the engine does
    not group them unless asked to (`VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE`).
    """
    window = text.get("sliding_window")
    kinds = text.get("layer_types")
    if not window or text.get("use_sliding_window") is False:
        return 0, None
    if kinds:
        return sum(kind == "sliding_attention" for kind in kinds), window
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
    # Llama 4 names none: every token passes one expert more (`models/llama4.py`).
    always = 1 if str(text.get("model_type")).startswith("llama4") else 0
    shared = (text.get("n_shared_experts") or always) * width
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
