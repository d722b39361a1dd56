"""What pure steps need to know about a model: a few fields of its config, and bytes by dtype.

The config is reduced to the fields that the rules and the memory forecast read.  What they do not
read stays out of the lock, so that it does not grow with every new key of a model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from builder.errors import StackError
from builder.lock import Facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.sources.safetensors import Header


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FIELDS = _words("""
    architectures model_type torch_dtype dtype is_encoder_decoder tie_word_embeddings vocab_size
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim
    n_embd n_layer n_head n_positions num_kv_heads n_head_kv multi_query
    max_position_embeddings original_max_position_embeddings rope_theta
    sliding_window sliding_window_pattern use_sliding_window max_window_layers layer_types
    attention_chunk_size full_attention_interval num_kv_shared_layers

    kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim index_head_dim index_topk

    num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok
    moe_intermediate_size shared_expert_intermediate_size first_k_dense_replace
    num_nextn_predict_layers

    linear_num_key_heads linear_num_value_heads linear_key_head_dim linear_value_head_dim
    linear_conv_kernel_dim mamba_d_state mamba_d_conv mamba_expand mamba_n_heads mamba_d_head
    mamba_n_groups hybrid_override_pattern

    depth embed_dim image_size patch_size num_heads out_hidden_size spatial_merge_size
""")
"""Shape and attention; latent attention; experts; linear attention and state space; vision."""
_WHOLE = _words("rope_scaling rope_parameters")
"""Small objects that are kept as they are."""
_NESTED = _words("text_config llm_config language_config vision_config audio_config")
"""Configs of the parts of a multimodal model: the same fields again."""
_QUANTISATION = _words("quantization_config compression_config")
_QUANTISATION_FIELDS = _words("""
    quant_method quant_algo kv_cache_quant_algo bits group_size desc_act sym zero_point version
    fmt format activation_scheme weight_block_size kv_cache_scheme checkpoint_format
    load_in_4bit load_in_8bit bnb_4bit_quant_type
""")
_GROUP_FIELDS = _words("""
    weights input_activations output_activations format
    num_bits type strategy group_size dynamic symmetric actorder block_structure
""")


def facts(config: Mapping[str, Any], headers: Iterable[Header]) -> Facts:
    """Return the facts of a model from its config and the headers of its weights.

    Raises:
        StackError: the config has objects in objects without end.
    """
    amounts: dict[str, int] = {}
    for header in headers:
        for dtype, count in header.tensor_bytes.items():
            amounts[dtype] = amounts.get(dtype, 0) + count
    try:
        reduced = _reduced(config)
    except RecursionError:
        message = "model: config.json: values are nested too deeply"
        raise StackError(message, "look at the file: the engine reads it too") from None
    return Facts(config=reduced, tensor_bytes=dict(sorted(amounts.items())))


def _reduced(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in sorted(config.items()):
        if key in _FIELDS or key in _WHOLE:
            found[key] = _plain(value)
        elif key in _NESTED and isinstance(value, dict):
            found[key] = _reduced(value)
        elif key in _QUANTISATION and isinstance(value, dict):
            found[key] = _quantisation(value)
    return {key: value for key, value in found.items() if value not in (None, {})}


def _quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the scheme; the lists of layers it does not apply to are long and nobody reads them."""
    scheme = {key: _plain(config[key]) for key in config.keys() & _QUANTISATION_FIELDS}
    groups = config.get("config_groups")
    if isinstance(groups, dict):
        scheme["config_groups"] = _plain({name: _group(group) for name, group in groups.items()})
    return {key: value for key, value in sorted(scheme.items()) if value is not None}


def _group(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _group(item) for key, item in value.items() if key in _GROUP_FIELDS}


def _plain(value: Any) -> Any:
    """Return what TOML can hold, as a lock gives it back: no null, tuples, sorted keys."""
    if isinstance(value, dict):
        items = ((str(key), _plain(item)) for key, item in sorted(value.items()))
        return {key: item for key, item in items if item is not None}
    if isinstance(value, list | tuple):
        return tuple(item for item in map(_plain, value) if item is not None)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
