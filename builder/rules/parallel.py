"""Several GPUs: does the model come out even, and are there as many as the flags ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue.limits import no_pipeline
from builder.rules.change import Change, Move
from builder.rules.finding import error, warning
from builder.rules.registry import rule
from builder.rules.splitting import (
    COUNT,
    EXPERTS,
    PIPELINE,
    TENSOR,
    can_stage,
    counted,
    recut,
    replicas,
    splits_experts,
    staged,
    tensor_place,
    uneven,
)
from builder.stack.model import MOST_GPUS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_CONFIG = "vllm/config/model.py (verify_with_parallel_config)"
_LAYERS = "vllm/model_executor/layers/linear.py, vocab_parallel_embedding.py, fused_moe (divide)"
_WORLD = "vllm/config/parallel.py (World size is larger than the number of available GPUs)"
_STAGES = "vllm/distributed/utils.py (get_pp_indices)"
_MOST_NAMED = 8
_HOSTS = ("nnodes", "data-parallel-address", "data-parallel-start-rank", "headless")
"""Flags of engines that reach over several hosts: one container says nothing of the whole."""


@rule("parallel-heads", "every GPU gets an even share of each layer")
def parallel_heads(subject: Subject) -> Iterator[Finding]:
    """Refuse a number of GPUs by which heads, vocabulary, widths or experts do not divide."""
    model, gpu = subject.model, subject.gpu
    if model is None or gpu is None or not subject.is_cuda:
        return
    if splits_experts(subject) and model.shape.experts is None:
        text = f"{EXPERTS} deals out experts, and {model.name} has none: the engine refuses it"
        leave: tuple[Move, ...] = ((Change(EXPERTS, None),),)
        yield error(EXPERTS, text, "leave it out", _CONFIG, moves=leave)
        return
    odd = uneven(subject, subject.tensor)
    if not odd:
        return
    fits = [n for n in range(1, model.shape.heads + 1) if not uneven(subject, n)]
    named = ", ".join(str(n) for n in fits[:_MOST_NAMED])
    text = f"{subject.tensor} GPUs share each layer; of {model.name} they cannot divide evenly: "
    text += ", ".join(odd)
    hint = f"numbers that fit: {named}; stages (pipeline-parallel-size) need no even heads"
    source = _CONFIG if "attention heads" in odd[0] else _LAYERS
    yield error(tensor_place(subject), text, hint, source, moves=_even(subject))


def _even(subject: Subject) -> tuple[Move, ...]:
    def suits(tensor: int) -> bool:
        return not uneven(subject, tensor)

    return (*counted(subject, suits), *staged(subject, suits))


@rule("parallel-layers", "the model can be cut into as many stages as asked for")
def parallel_layers(subject: Subject) -> Iterator[Finding]:
    """Refuse stages of a model whose class cannot be cut; warn of stages without a layer."""
    model, stages = subject.model, subject.pipeline
    if model is None or stages == 1 or subject.gpu is None or not subject.is_cuda:
        return
    limit = no_pipeline(model.architecture, subject.version)
    per_copy = subject.count // replicas(subject)
    moves = tuple(
        recut(subject, per_copy // fewer, fewer)
        for fewer in range(min(stages - 1, per_copy), 0, -1)
        if can_stage(subject, fewer) and per_copy % fewer == 0
    )
    if limit is not None:
        text = f"{subject.engine} does not cut {limit.architecture} into stages; {stages} are asked"
        hint = "leave pipeline-parallel-size out, and let the GPUs share each layer"
        source = f"interface SupportsPP: {limit.source}"
        yield error(PIPELINE, text, hint, source, moves=moves)
    elif stages > model.shape.layers:
        text = f"{stages} stages for the {model.shape.layers} layers of {model.name}: some get none"
        hint = f"write pipeline-parallel-size: {model.shape.layers} or less"
        yield warning(PIPELINE, text, hint, _STAGES, moves=moves, verified=False)


@rule("gpu-count", "the flags ask for as many GPUs as the container has")
def gpu_count(subject: Subject) -> Iterator[Finding]:
    """Refuse more GPUs than there are; warn of idle ones, and of hosts that have but one."""
    gpu = subject.gpu
    if gpu is None or not subject.is_cuda or _is_wide(subject):
        return
    yield from _lonely(subject)
    asked = subject.tensor * subject.pipeline * replicas(subject)
    if asked == subject.count:
        return
    parts = _factors(subject)
    if asked > subject.count:
        text = f"{parts} ask for {asked} GPUs, target.count gives {subject.count}"
        yield error(COUNT, text, _hint(subject, asked), _WORLD, moves=_matching(subject, asked))
    else:
        text = f"{parts} use {asked} of {subject.count} GPUs: {subject.count - asked} idle"
        yield warning(COUNT, text, _hint(subject, asked), _WORLD, moves=_matching(subject, asked))


def _is_wide(subject: Subject) -> bool:
    by_ray = subject.args.get("distributed-executor-backend") == "ray"
    return by_ray or bool(subject.args.keys() & set(_HOSTS))


def _lonely(subject: Subject) -> Iterator[Finding]:
    gpu = subject.gpu
    if gpu is None or gpu.link != "none" or subject.count == 1:
        return
    text = f"target.count asks for {subject.count}; a host has one {gpu.title}"
    moves: tuple[Move, ...] = ((Change(COUNT, 1), Change(TENSOR, None), Change(PIPELINE, None)),)
    if gpu.kind == "soc":
        yield error(COUNT, text, "write count: 1", gpu.source, moves=moves)
    else:
        text += " as a rule: the exceptions are not in the catalogue"
        yield warning(COUNT, text, "write count: 1, or look at the host", gpu.source, moves=moves)


def _factors(subject: Subject) -> str:
    parts = [f"tensor-parallel-size {subject.tensor}"]
    if "tensor-parallel-size" not in subject.args:
        parts[0] += " (all GPUs, as no flag says otherwise)"
    if subject.pipeline > 1:
        parts.append(f"pipeline-parallel-size {subject.pipeline}")
    if replicas(subject) > 1:
        parts.append(f"data-parallel-size {replicas(subject)}")
    return " x ".join(parts)


def _rest(subject: Subject) -> int | None:
    """Return the GPUs that are left for each layer; None where the other flags take too many."""
    others = subject.pipeline * replicas(subject)
    return subject.count // others if subject.count % others == 0 else None


def _hint(subject: Subject, asked: int) -> str:
    rest = _rest(subject)
    more = f"count: {asked}" if asked <= MOST_GPUS else "smaller numbers"
    if rest is None:
        return f"write {more}"
    return f"write tensor-parallel-size: {rest} under serve.args, or {more}"


def _matching(subject: Subject, asked: int) -> tuple[Move, ...]:
    rest = _rest(subject)
    moves: list[Move] = [(Change(COUNT, asked),)] if asked <= MOST_GPUS else []
    if rest is not None:
        value = None if rest == subject.count else rest
        moves.append((Change(TENSOR, value),))
    per_copy = subject.count // replicas(subject)
    if per_copy and per_copy % subject.tensor == 0 and "tensor-parallel-size" in subject.args:
        moves.append(recut(subject, subject.tensor, per_copy // subject.tensor))
    return tuple(moves)
