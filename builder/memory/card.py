"""A model's shape from its card in the catalogue: the forecast before a lock, without a hub."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from builder.memory.config import IMAGE_TOKENS, is_encoder
from builder.memory.formats import named_format
from builder.memory.shape import Experts, Latent, ModelShape, Tower

if TYPE_CHECKING:
    from builder.catalogue.cards import ModelCard

_NOPE, _VALUE = 128, 128
"""Widths of a head with latent attention: every model with it on a card has these."""
_QUERY_RANK, _PLAIN_QUERIES = 1536, 2048
"""DeepSeek-V2 and V3 compress queries as well; models as wide as V2-Lite do not."""
_DRAFT_LAYERS = {"DeepseekV3ForCausalLM": 1}
"""Layers for speculative decoding whose tensors the card counts (arXiv 2412.19437, section 2.2)."""

_ROTARY_TABLES = {"Gemma3ForConditionalGeneration": 9}
"""Of `context` rows: one stretched eightfold, and one for the layers with a window."""

_TOWERS = {
    ("Qwen2_5_VLForConditionalGeneration", layers): Tower(1280, width, 4, IMAGE_TOKENS)
    for layers, width in ((28, 3420), (64, 3456), (80, 3456))
}
"""Width and depth of a tower do not follow from its parameters: arXiv 2502.13923, table 1."""
_WHOLE_TOWERS = frozenset({"Mistral3ForConditionalGeneration"})
"""Their own files load a tower for images that is not cut over GPUs."""


@lru_cache(maxsize=256)
def of_card(card: ModelCard) -> ModelShape:
    """Return the shape of a model of the catalogue."""
    form = named_format(card.scheme, card.group, card.dtype_bytes)
    encodes = is_encoder(card.architecture)
    latent = _latent(card)
    return ModelShape(
        hidden=card.hidden,
        layers=card.layers,
        heads=card.heads,
        kv_heads=card.heads if latent else card.kv_heads,
        head_width=card.hidden // card.heads if latent else card.head_dim,
        width=card.intermediate,
        vocabulary=card.vocab,
        tied=card.tied,
        gated=not encodes,
        dtype_bytes=card.dtype_bytes,
        linear_bits=form.linear_bits,
        expert_bits=form.expert_bits,
        expert_padding=form.expert_padding,
        expert_workspace=form.expert_workspace,
        experts=_experts(card),
        latent=latent,
        window_layers=_window_layers(card),
        window_tokens=card.window,
        draft_layers=_DRAFT_LAYERS.get(card.architecture, 0),
        vision_parameters=card.vision_parameters,
        tower=_TOWERS.get((card.architecture, card.layers)),
        vision_split=card.architecture not in _WHOLE_TOWERS or bool(card.scheme),
        max_positions=card.context,
        rotary_rows=0 if encodes else card.context * _ROTARY_TABLES.get(card.architecture, 1),
        stored_bytes=card.tensor_bytes,
        cached=not encodes,
        architecture=card.architecture,
        pools=card.task == "embedding",
    )


def _experts(card: ModelCard) -> Experts | None:
    if not card.experts:
        return None
    width = card.expert_intermediate or card.intermediate
    return Experts(
        count=card.experts,
        per_token=card.experts_per_token or 1,
        width=width,
        shared_width=card.shared_experts * width,
        dense_layers=card.dense_layers,
    )


def _latent(card: ModelCard) -> Latent | None:
    if card.latent is None or card.latent_rope is None:
        return None
    compressed = card.hidden > _PLAIN_QUERIES
    return Latent(
        rank=card.latent,
        rope=card.latent_rope,
        nope=_NOPE,
        value=_VALUE,
        query_rank=_QUERY_RANK if compressed else None,
    )


def _window_layers(card: ModelCard) -> int:
    if card.window is None:
        return 0
    return card.layers - (card.full_layers or 0)
