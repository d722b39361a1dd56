"""How a model is cut over GPUs: what does not come out even, and other ways to cut it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from builder.catalogue.limits import no_pipeline
from builder.rules.change import Change, Move
from builder.stack.model import MOST_GPUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

TENSOR = "serve.args.tensor-parallel-size"
PIPELINE = "serve.args.pipeline-parallel-size"
EXPERTS = "serve.args.enable-expert-parallel"
COUNT = "target.count"
_PADDED_VOCABULARY = 64
"""The engine rounds the vocabulary up to a multiple (vocab_parallel_embedding.py)."""
_USUAL = (1, 2, 4, 8, 16)
"""GPUs in a host."""
_STEP = 0.01
_LATER = 0.9
"""A pipeline is offered after another number of GPUs: it answers a lone request no faster."""
_TOWER_OFF = ("language-model-only", "mm-encoder-tp-mode")


def tensor_place(subject: Subject) -> str:
    """Return the field that says over how many GPUs a layer is split."""
    return TENSOR if "tensor-parallel-size" in subject.args else COUNT


def splits_experts(subject: Subject) -> bool:
    """Whether experts are dealt out whole (`--enable-expert-parallel`), not cut."""
    return "enable-expert-parallel" in subject.args


def replicas(subject: Subject) -> int:
    """Return the copies of the model on this host."""
    return subject.number("data-parallel-size-local", subject.data)


def uneven(subject: Subject, tensor: int) -> list[str]:
    """Return what of the model cannot be divided by so many GPUs, in words."""
    model = subject.model
    if model is None:
        return []
    found = [f"{n} {what}" for n, what in _dimensions(subject, model) if n % tensor]
    shape = model.shape
    if shape.latent is None and shape.kv_heads % tensor and tensor % shape.kv_heads:
        found.append(f"{shape.kv_heads} key-value heads")
    experts = shape.experts
    if experts is not None:
        cut = tensor * replicas(subject)
        if splits_experts(subject) and experts.count < cut:
            found.append(f"{experts.count} experts for {cut} GPUs")
        elif not splits_experts(subject) and experts.width % cut:
            found.append(f"width {experts.width} of an expert")
    return found


def _dimensions(subject: Subject, model: ModelFacts) -> Iterator[tuple[int, str]]:
    shape = model.shape
    yield shape.heads, "attention heads"
    step = _PADDED_VOCABULARY
    yield -(-shape.vocabulary // step) * step, "rows of the padded vocabulary"
    if has_dense(model):
        yield shape.width, "columns of the feed-forward part"
    if shape.experts is not None and shape.experts.shared_width:
        yield shape.experts.shared_width, "columns of the shared expert"
    if model.vision_heads and not subject.args.keys() & set(_TOWER_OFF):
        yield model.vision_heads, "attention heads of the vision tower"


def has_dense(model: ModelFacts) -> bool:
    """Whether some layer has no experts."""
    return model.shape.experts is None or model.shape.experts.dense_layers > 0


def can_stage(subject: Subject, stages: int) -> bool:
    """Whether the engine cuts the model into so many stages."""
    model = subject.model
    if stages == 1 or model is None:
        return True
    return stages <= model.shape.layers and not no_pipeline(model.architecture, subject.version)


def recut(subject: Subject, tensor: int, stages: int, distance: float = 0.0) -> Move:
    """Return the flags of another cut over as many GPUs; those that say nothing are left out."""
    flags = subject.args.keys()
    moves = []
    is_default = stages == 1 and tensor * replicas(subject) == subject.count
    if tensor != subject.tensor or "tensor-parallel-size" in flags:
        moves.append(Change(TENSOR, None if is_default else tensor, distance))
    if stages != subject.pipeline:
        moves.append(Change(PIPELINE, None if stages == 1 else stages, distance))
    return tuple(moves)


def staged(subject: Subject, suits: Callable[[int], bool]) -> Iterator[Move]:
    """Yield cuts of the same GPUs into more stages, the fewest stages first."""
    per_copy = subject.count // replicas(subject)
    for tensor in range(per_copy, 0, -1):
        stages = per_copy // tensor
        same = (tensor, stages) == (subject.tensor, subject.pipeline)
        if per_copy % tensor or same or not suits(tensor) or not can_stage(subject, stages):
            continue
        yield recut(subject, tensor, stages, _LATER)


def counted(subject: Subject, suits: Callable[[int], bool]) -> Iterator[Move]:
    """Yield other numbers of GPUs, the nearest first and of two the smaller."""
    sizes = sorted(_USUAL, key=lambda size: (abs(size - subject.tensor), size))
    fits = [size for size in sizes if size != subject.tensor and suits(size)]
    for rank, tensor in enumerate(fits):
        total = prod((tensor, subject.pipeline, replicas(subject)))
        if total > MOST_GPUS:
            continue
        move = [Change(COUNT, total, rank * _STEP)] if total != subject.count else []
        if "tensor-parallel-size" in subject.args or total != tensor:
            move.append(Change(TENSOR, tensor))
        yield tuple(move)
