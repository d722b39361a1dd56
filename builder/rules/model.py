"""What rules know of a model: from a lock, from a folder's config, or from a card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.memory import ModelShape, from_config
from builder.memory import of_card as shape_of_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.catalogue.cards import ModelCard

_COMPRESSED = {
    "float-quantized": "fp8",
    "naive-quantized": "fp8",
    "int-quantized": "int8-w8a8",
    "pack-quantized": "w4a16",
    "nvfp4-pack-quantized": "nvfp4",
    "mxfp4-pack-quantized": "mxfp4",
}
"""Scheme by `format` of compressed-tensors."""
_SCHEMES = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "awq": "awq",
    "gptq": "gptq",
    "mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "bitsandbytes": "bitsandbytes",
    "gguf": "gguf",
}
"""Scheme by `quant_method`, or by `quant_algo` of ModelOpt."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as rules see it."""

    name: str
    shape: ModelShape
    architecture: str
    """The class that its configuration names."""
    dtype: str
    """`bfloat16`, `float16` or `float32`."""
    scheme: str | None
    """Of the catalogue's quantisation table; None where the weights are not quantised."""
    method: str | None
    """What its configuration calls the quantisation; None where it was not read, or there is none.
    """
    group: int | None
    """Weights that share a scale."""
    source: str
    vision_heads: int | None = None
    """Attention heads of its vision tower; None where there is none, or nobody looked."""
    card: ModelCard | None = None
    """The catalogue's card of the repository, whatever the other facts come from."""

    @property
    def task(self) -> str:
        """`chat`, `vision`, `embedding` or `text`."""
        if self.card is not None:
            return self.card.task
        if self.architecture.endswith("ForConditionalGeneration"):
            return "vision"
        return "chat" if self.architecture.endswith("ForCausalLM") else "embedding"


def of_config(
    name: str,
    config: Mapping[str, Any],
    tensor_bytes: Mapping[str, int] | None,
    card: ModelCard | None = None,
) -> ModelFacts:
    """Return the facts that the fields of a `config.json` give.

    Raises:
        StackError: the config lacks what every model of the engine has.
    """
    shape = from_config(config, tensor_bytes)
    quantised = config.get("quantization_config") or config.get("compression_config") or {}
    return ModelFacts(
        name=name,
        shape=shape,
        architecture=shape.architecture,
        dtype=_dtype(config),
        scheme=scheme_of(quantised),
        method=str(quantised.get("quant_method") or "") or None,
        group=_group(quantised),
        source=f"config.json of {name}",
        vision_heads=_vision_heads(config),
        card=card,
    )


def of_card(known: ModelCard, repo: str) -> ModelFacts:
    """Return the facts of a repository that the catalogue has a card of."""
    return ModelFacts(
        name=repo,
        shape=shape_of_card(known),
        architecture=known.architecture,
        dtype=known.dtype,
        scheme=known.scheme,
        method=None,
        group=known.group,
        source=f"the catalogue's card of {known.repo}: {known.source}",
        vision_heads=known.vision_heads,
        card=known,
    )


def scheme_of(quantised: Mapping[str, Any]) -> str | None:
    """Return the catalogue's scheme that a `quantization_config` describes, if it has one."""
    method = str(quantised.get("quant_method") or "").lower()
    if method == "compressed-tensors":
        return _compressed(quantised)
    name = str(quantised.get("quant_algo") or method).lower()
    scheme = _SCHEMES.get(name)
    return "fp8-block" if scheme == "fp8" and quantised.get("weight_block_size") else scheme


def _compressed(quantised: Mapping[str, Any]) -> str | None:
    groups = list((quantised.get("config_groups") or {}).values())
    weights: Mapping[str, Any] = (groups[0].get("weights") or {}) if groups else {}
    inputs = (groups[0].get("input_activations") or {}) if groups else {}
    if weights.get("num_bits") == 4 and inputs.get("num_bits") == 8:  # noqa: PLR2004 - bits
        return "w4a8-fp8"
    scheme = _COMPRESSED.get(str(quantised.get("format")))
    return "fp8-block" if scheme == "fp8" and weights.get("block_structure") else scheme


def _group(quantised: Mapping[str, Any]) -> int | None:
    groups = list((quantised.get("config_groups") or {}).values())
    found = quantised.get("group_size")
    if groups and not found:
        found = (groups[0].get("weights") or {}).get("group_size")
    if not found and quantised.get("weight_block_size"):
        found = quantised["weight_block_size"][0]
    return found if isinstance(found, int) and found > 0 else None


def _vision_heads(config: Mapping[str, Any]) -> int | None:
    tower = config.get("vision_config") or {}
    found = tower.get("num_heads") or tower.get("num_attention_heads")
    return found if isinstance(found, int) else None


def _dtype(config: Mapping[str, Any]) -> str:
    inner = config.get("text_config") or {}
    keys = [(part, key) for part in (config, inner) for key in ("dtype", "torch_dtype")]
    found = (part[key] for part, key in keys if part.get(key))
    return str(next(found, "bfloat16")).removeprefix("torch.")
