"""The links between GPUs: what sharing each layer moves over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.rules.finding import warning
from builder.rules.registry import rule
from builder.rules.splitting import can_stage, recut, replicas, uneven

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.rules.change import Move
    from builder.rules.finding import Finding
    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

_PAIR = 2
_TOKENS = 1000
_ELEMENT = 2
_GIGA = 10**9
_SUMS = 2
"""All-reduces of a layer: after attention and after the feed-forward part."""
_SOURCE = (
    "vllm/distributed/device_communicators/custom_all_reduce.py; the engine's documents, "
    "parallelism and scaling"
)


@rule("parallel-pcie", "GPUs that share each layer are joined by NVLink")
def parallel_pcie(subject: Subject) -> Iterator[Finding]:
    """Warn of layers that are shared over PCIe, with what that moves and what moves less."""
    gpu, tensor = subject.gpu, subject.tensor
    if gpu is None or not subject.is_cuda or not _is_slow(gpu, tensor):
        return
    text = f"{tensor} x {gpu.title} share each layer over PCIe"
    if subject.model is not None:
        text += f": {_cost(subject.model, gpu, tensor)}"
    if tensor > _PAIR:
        text += "; the engine turns its own all-reduce off for more than two GPUs on PCIe"
    move = _better(subject, gpu)
    hint = "take GPUs with NVLink"
    if move:
        hint = f"write {' and '.join(str(each) for each in move)}: stages move far less; or {hint}"
    yield warning("target.gpu", text, hint, _SOURCE, moves=(move,) if move else ())


def _is_slow(gpu: Gpu, tensor: int) -> bool:
    return (gpu.link == "pcie" and tensor > 1) or (gpu.link == "bridge" and tensor > _PAIR)


def _cost(model: ModelFacts, gpu: Gpu, tensor: int) -> str:
    """Say what the sums of a prompt move: each GPU sends 2 (n - 1) / n of every sum."""
    one = model.shape.hidden * _ELEMENT * _TOKENS
    moved = _SUMS * model.shape.layers * one * 2 * (tensor - 1) / tensor
    seconds = moved / gpu.link_bytes
    return (
        f"{_TOKENS:,} tokens of a prompt move {moved / _GIGA:.1f} GB from each GPU, "
        f"{seconds * 1000:.0f} ms at {gpu.link_bytes / _GIGA:.0f} GB/s; stages would move "
        f"{one / _GIGA:.2f} GB"
    )


def _better(subject: Subject, gpu: Gpu) -> Move | None:
    """Return stages of single GPUs, or of bridged pairs; None where the model cannot be so cut."""
    tensor = _PAIR if gpu.link == "bridge" else 1
    per_copy = subject.count // replicas(subject)
    if per_copy % tensor or uneven(subject, tensor) or not can_stage(subject, per_copy // tensor):
        return None
    return recut(subject, tensor, per_copy // tensor)
