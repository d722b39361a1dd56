"""Of what kind the fields of a `config.json` are, as far as anything is computed from them.

A config is written by anybody.  One whose fields are of other kinds, or beyond all measure, says
nothing: it must not end in a number that looks like a forecast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST = 2**40
_MOST_HEADS = 2**12
"""Every way to share them over GPUs is tried."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LAYERS_AND_HEADS = _words(
    "num_attention_heads num_key_value_heads num_hidden_layers num_heads depth"
)
_NUMBERS = _LAYERS_AND_HEADS | _words("""
    hidden_size intermediate_size vocab_size head_dim max_position_embeddings
    sliding_window sliding_window_pattern full_attention_interval spatial_merge_size embed_dim
    kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim
    num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok
    moe_intermediate_size shared_expert_intermediate_size first_k_dense_replace
    num_nextn_predict_layers linear_num_key_heads linear_num_value_heads linear_key_head_dim
    linear_value_head_dim linear_conv_kernel_dim num_bits
""")
_WORDS = _words("model_type")
_LISTS = _words("architectures layer_types weight_block_size")
_OBJECTS = _words("""
    text_config llm_config language_config vision_config rope_scaling rope_parameters
    full_attention quantization_config compression_config config_groups weights input_activations
""")
_OF_OBJECTS = "config_groups"
_FRACTIONS = _words("factor bits group_size")
"""May be no whole number, or below zero: `group_size: -1` is one group for the whole row."""


def require_kinds(config: Mapping[str, Any]) -> None:
    """Look at every field that is read, at any depth.

    Raises:
        StackError: one is of another kind than its readers expect.
    """
    for field, value in config.items():
        if value is None:
            continue
        if wanted := _not_of(field, value):
            got = str(value)[:60]
            message = f"model: config.json: expected {wanted} in `{field}`, got `{got}`"
            raise StackError(message, "look at the file: the engine reads it too")
        if field in _OBJECTS:
            parts = value.values() if field == _OF_OBJECTS else (value,)
            for part in parts:
                require_kinds(part)


def _not_of(field: str, value: Any) -> str:
    """Return what was wanted where a value is not of the kind of its field."""
    if field in _NUMBERS:
        most = _MOST_HEADS if field in _LAYERS_AND_HEADS else _MOST
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return "" if is_whole and 0 <= value <= most else f"a whole number up to {most}"
    if field in _FRACTIONS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number and -_MOST <= value <= _MOST else "a number"
    if field in _WORDS:
        return "" if isinstance(value, str) else "text"
    if field in _LISTS:
        return "" if isinstance(value, list | tuple) else "a list"
    return _not_object(field, value)


def _not_object(field: str, value: Any) -> str:
    if field not in _OBJECTS:
        return ""
    if not isinstance(value, dict):
        return "an object"
    nested = field == _OF_OBJECTS and not all(isinstance(each, dict) for each in value.values())
    return "objects" if nested else ""
