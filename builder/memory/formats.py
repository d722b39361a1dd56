"""How many bits a weight takes once it is quantised, its scales and zero points included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCALE_BITS, _BYTE = 16, 8
_FP8 = 8 + 32 / (128 * 128)
"""A byte, and a float32 for each block of 128 by 128."""
_MXFP4, _NVFP4 = 4 + 8 / 32, 4 + 8 / 16
"""One-byte scales for 32 and for 16 weights."""
_MXFP4_PADDING = 256

_SCHEME_BITS = {
    "fp8": 8.0,
    "fp8-block": _FP8,
    "int8-w8a8": 8.0,
    "nvfp4": _NVFP4,
    "mxfp8": 8 + 8 / 32,
    "bitsandbytes": _NVFP4,
    "gguf": _NVFP4,
}
"""Schemes whose scales do not depend on a size that a model chooses."""


@dataclass(frozen=True, slots=True)
class Formats:
    """Bits of a weight in the matrices and in the experts."""

    linear_bits: float
    expert_bits: float | None = None
    expert_padding: int = 1
    expert_workspace: bool = True


def formats(quantisation: Mapping[str, Any], dtype_bytes: int) -> Formats:
    """Return the bits that a `quantization_config` asks for; one that is not known changes none."""
    plain = Formats(linear_bits=dtype_bytes * _BYTE)
    method = str(quantisation.get("quant_method") or "").lower()
    algorithm = str(quantisation.get("quant_algo") or method).lower()
    if method == "mxfp4":
        # Attention stays as it is; both widths of the experts are rounded up for the kernels.
        # These gather and scatter by themselves: no buffers of the fused experts.
        return Formats(plain.linear_bits, _MXFP4, _MXFP4_PADDING, expert_workspace=False)
    if method == "compressed-tensors":
        return _compressed(quantisation, plain)
    if method == "bitsandbytes":
        return Formats(_NVFP4 if quantisation.get("load_in_4bit") else _BYTE)
    if quantisation.get("bits"):
        return Formats(_grouped(quantisation["bits"], quantisation))
    known = {"nvfp4": _NVFP4, "fp8": _FP8, "fbgemm_fp8": _FP8, "modelopt": _FP8}
    return Formats(known.get(algorithm, plain.linear_bits))


def named_format(scheme: str | None, group: int | None, dtype_bytes: int) -> Formats:
    """Return the bits of a scheme of `quantisation.toml`, without its `quantization_config`."""
    if scheme is None:
        return Formats(dtype_bytes * _BYTE)
    if scheme == "mxfp4":
        return formats({"quant_method": scheme}, dtype_bytes)
    bits = _SCHEME_BITS.get(scheme)
    if bits is not None:
        return Formats(bits)
    return Formats(_grouped(4, {"group_size": group, "zero_point": scheme == "awq"}))


def _compressed(quantisation: Mapping[str, Any], plain: Formats) -> Formats:
    groups = quantisation.get("config_groups") or {}
    weights = next((group.get("weights") or {} for group in groups.values()), {})
    if not weights.get("num_bits"):
        return plain
    if "nvfp4" in str(quantisation.get("format")):
        return Formats(_NVFP4)
    return Formats(_grouped(weights["num_bits"], weights))


def _grouped(bits: int, scheme: Mapping[str, Any]) -> float:
    """Add a 16-bit scale, and a zero point where there is one, to each group of weights."""
    size = scheme.get("group_size") or 0
    if size <= 0:
        return bits
    symmetric = scheme.get("symmetric", scheme.get("sym", not scheme.get("zero_point", False)))
    return bits + (_SCALE_BITS + (0 if symmetric else bits)) / size
