"""Quantised weights over several GPUs: a group that shares a scale must stay on one of them."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue.quantisation import schemes
from builder.rules.alternatives import other_checkpoints, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, warning
from builder.rules.registry import rule
from builder.rules.splitting import (
    EXPERTS,
    counted,
    has_dense,
    replicas,
    splits_experts,
    staged,
    tensor_place,
    uneven,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

_BLOCKS = "fp8-block"
_ROWS = frozenset({"awq", "gptq", "w4a16", "nvfp4"})
"""Schemes whose groups lie along the inputs: outputs may be cut anywhere."""
_ADAPTS = frozenset({"awq", "gptq"})
"""Experts in these run in kernels that halve the group until it fits (moe_wna16.py)."""
_FINER = Version("0.29.0")
"""First release that divides the blocks of experts until they fit (refine_fp8_moe_block_shape)."""
_FINEST = 32
_BLOCK = "vllm/model_executor/layers/quantization/fp8.py, utils/fp8_utils.py (not divisible by)"
_GROUP = "input size is not aligned with the quantized weight shape: awq.py, gptq.py, wNa16.py"
_MOST_CHECKPOINTS = 3


@rule("parallel-groups", "no group of quantised weights is cut in two")
def parallel_groups(subject: Subject) -> Iterator[Finding]:
    """Refuse a split that cuts groups or blocks that share a scale."""
    model = subject.model
    if model is None or subject.gpu is None or not subject.is_cuda or subject.tensor == 1:
        return
    if uneven(subject, subject.tensor):
        return  # not even the widths divide: `parallel-heads` says so
    size = group(model)
    cut = _cut(subject, subject.tensor)
    if size is None or not cut:
        return
    place = tensor_place(subject)
    title = schemes()[model.scheme].title if model.scheme else ""
    text = f"{model.name} holds {title}; {size} weights share a scale, and over {subject.tensor} "
    text += f"GPUs each gets {', '.join(cut)}"
    hint = "take fewer GPUs a layer and more stages"
    if _is_experts_alone(cut) and not splits_experts(subject):
        hint = "write enable-expert-parallel: true under serve.args: experts then stay whole"
    moves = tuple(_moves(subject, cut))
    if model.scheme == "w4a16" and _is_experts_alone(cut):
        yield warning(place, text, hint, _GROUP, moves=moves, verified=False)
    else:
        source = _BLOCK if model.scheme == _BLOCKS else _GROUP
        yield error(place, text, hint, source, moves=moves)


def group(model: ModelFacts) -> int | None:
    """Return the weights that share a scale; None where that is not known or does not matter."""
    if model.scheme is None or model.scheme not in {_BLOCKS, *_ROWS}:
        return None
    return model.group or schemes()[model.scheme].group


def _cut(subject: Subject, tensor: int) -> list[str]:
    """Return the widths on one GPU that are no multiple of the group, in words."""
    model = subject.model
    size = group(model) if model else None
    if model is None or size is None:
        return []
    found = [f"{width} {what}" for width, what in _widths(model, tensor) if width % size]
    experts = model.shape.experts
    if experts is not None and not splits_experts(subject):
        width = experts.width // (tensor * replicas(subject))
        if width % size and not _copes(subject, width, size):
            found.append(f"{width} columns of an expert")
    return found


def _widths(model: ModelFacts, tensor: int) -> Iterator[tuple[int, str]]:
    shape = model.shape
    if shape.latent is not None:
        yield shape.heads * shape.latent.value // tensor, "columns of attention"
    else:
        yield shape.heads * shape.head_width // tensor, "columns of attention"
        if model.scheme == _BLOCKS:
            keys = max(1, shape.kv_heads // tensor)
            yield keys * shape.head_width, "columns of keys"
    if has_dense(model):
        yield shape.width // tensor, "columns of the feed-forward part"
    if shape.experts is not None and shape.experts.shared_width:
        yield shape.experts.shared_width // tensor, "columns of the shared expert"


def _copes(subject: Subject, width: int, size: int) -> bool:
    """Whether the engine takes smaller groups for experts by itself."""
    model = subject.model
    if model is None or gcd(size, width, model.shape.hidden) < _FINEST:
        return False
    is_finer = model.scheme == _BLOCKS and Version(subject.version) >= _FINER
    return is_finer or model.scheme in _ADAPTS


def _is_experts_alone(cut: list[str]) -> bool:
    return all(each.endswith("an expert") for each in cut)


def _moves(subject: Subject, cut: list[str]) -> Iterator[Move]:
    def suits(tensor: int) -> bool:
        return not uneven(subject, tensor) and not _cut(subject, tensor)

    if _is_experts_alone(cut):
        yield (Change(EXPERTS, value=True),)
        if subject.model and subject.model.scheme == _BLOCKS:
            yield from other_releases(subject, lambda row: Version(row.version) >= _FINER)
    yield from counted(subject, suits)
    yield from staged(subject, suits)
    yield from other_checkpoints(subject, lambda each: each.scheme not in {_BLOCKS, *_ROWS})[
        :_MOST_CHECKPOINTS
    ]
