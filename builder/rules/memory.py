"""Memory and context: does the engine start on this GPU, and does it hold a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue import gpus
from builder.catalogue.flags import default
from builder.memory import Device, forecast, highest_concurrency, largest_context, smallest_gpu
from builder.rules.alternatives import other_checkpoints, other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule
from builder.rules.served import (
    LAYER_BY_LAYER,
    forecast_of,
    is_widened,
    of_subject,
    on_gpu,
    whole_bytes,
)
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.catalogue import Gpu
    from builder.memory import Forecast
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_MODEL = "docs/memory.md: the forecast and its errors against published logs"
_WHOLE = "vllm/model_executor/layers/quantization/fp8.py of 0.14.1 and 0.15.0: create_weights"
_FIELD_OF_GPU = "target.gpu"
_LENGTH = "serve.max_model_len"
_SHARE = "serve.gpu_memory_utilization"
_STRETCHES = ("rope", "max_", "seq_length", "n_positions")
"""Of the names in a config that say how long a context may be."""
_STEP = 256
"""A shorter context is offered in steps of as many tokens."""
_SHORTEST = 2048
"""Below that nobody serves a language model."""
_COUNTS = (2, 4, 8)
_EIGHT_BITS = "fp8"
_HIGHEST = 0.95
_OVERRIDE = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


@rule("model-unknown", "the model's shape is known")
def model_unknown(subject: Subject) -> Iterator[Finding]:
    """Warn of a model of which nothing is known here: memory and splits are not judged."""
    if subject.model is None:
        name = subject.stack.model.repo or subject.stack.model.path
        unjudged = (
            "neither memory nor its split over GPUs is" if subject.gpu else "its context is not"
        )
        text = f"nothing is known of {name}: {unjudged} judged"
        hint = "run builder lock, which asks the hub for its config.json and sizes"
        yield warning("model.repo", text, hint, "no lock, no card in the catalogue")


@rule("context-length", "the model was made for a context as long as asked")
def context_length(subject: Subject) -> Iterator[Finding]:
    """Refuse a context beyond the model's own: the engine does."""
    model, asked = subject.model, subject.stack.serve.max_model_len
    longest = model.shape.max_positions if model else None
    if model is None or longest is None or asked is None or asked <= longest:
        return
    if _is_stretched(subject):
        return
    text = f"asks for {asked:,} tokens, {model.name} was made for {longest:,}"
    hint = f"write max_model_len: {longest}, or stretch it with hf-overrides if its authors say how"
    if subject.stack.serve.env.get(_OVERRIDE, "0") == "1":
        text += f"; {_OVERRIDE} lets it start, and answers beyond that are noise or errors"
        yield warning(_LENGTH, text, hint, model.source)
        return
    moves: tuple[Move, ...] = ((Change(_LENGTH, longest),),)
    yield error(_LENGTH, text, hint, model.source, moves=moves)


def _is_stretched(subject: Subject) -> bool:
    """Whether flags say how positions go beyond the model's own."""
    overrides = str(subject.args.get("hf-overrides", ""))
    return "rope-scaling" in subject.args or any(word in overrides for word in _STRETCHES)


@rule("memory-fit", "weights, cache and working memory fit the GPU")
def memory_fit(subject: Subject) -> Iterator[Finding]:
    """Refuse a model that does not fit, with what is short; warn where it is close."""
    found = forecast_of(subject)
    if found is None or subject.model is None or subject.gpu is None:
        return
    place = _FIELD_OF_GPU
    if found.fits:
        if (whole := whole_bytes(subject)) > found.free_bytes:
            yield _too_wide(subject, whole, found)
        elif found.is_close:
            text = f"fits with {_gib(found.spare_bytes)} to spare, which is within {_error(found)}"
            hint = f"measure it, or serve less: {_answers(subject)}"
            yield warning(place, text, hint, _MODEL, moves=_smaller(subject))
        return
    text = f"{_short(found, subject)}: {_parts(found)}"
    if is_widened(subject, subject.gpu):
        text += "; in float32, as neither bfloat16 nor float16 can be computed in here"
    if found.is_close:
        text += f"; that is within {_error(found)}"
    yield error(place, text, _answers(subject), _MODEL, moves=tuple(_moves(subject)))


def _too_wide(subject: Subject, whole: int, found: Forecast) -> Finding:
    """Old releases quantise weights that are all on the GPU: they have to fit as they are."""
    text = f"before {subject.engine} quantises the weights they lie on the GPU as they are: "
    text += f"{_gib(whole)} of {_gib(found.free_bytes)} that are free"
    hint = f"take {LAYER_BY_LAYER} or newer, or a checkpoint that is quantised"
    newer = other_releases(subject, lambda row: Version(row.version) >= LAYER_BY_LAYER)
    moves = (*newer, *_more(subject), *_quantised(subject))
    return error(_FIELD_OF_GPU, text, hint, _WHOLE, moves=moves)


def _short(found: Forecast, subject: Subject) -> str:
    model, gpu = subject.model, subject.gpu
    where = f"{subject.count} x {gpu.title}" if gpu and subject.count > 1 else gpu and gpu.title
    name = model.name if model else ""
    if found.excess_bytes:
        return f"{name} on {where}: more is asked for than is free, by {_gib(found.excess_bytes)}"
    share = -found.spare_bytes / max(1, found.budget_bytes)
    return (
        f"{name} on {where} is short of {_gib(-found.spare_bytes)} a GPU, {share:.0%} of the "
        f"budget, for one request of {subject.context:,} tokens"
    )


def _parts(found: Forecast) -> str:
    parts = [f"{name} {_gib(size)}" for name, size in found.bar if name != "cache"]
    return f"of {_gib(found.budget_bytes)}: {', '.join(parts)}, request {_gib(found.needed_bytes)}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _error(found: Forecast) -> str:
    return f"the forecast's own error of {_gib(found.budget_bytes * 2 // 100)}"


@dataclass(frozen=True, slots=True)
class Answers:
    """What would fit, of a model served as the stack says."""

    context: int
    """The longest one on this GPU; 0 where not even one block fits."""
    requests: int
    """Of the stack's own length, at once."""
    gpu: str | None
    """The catalogue's smallest on which it fits, as many of them as here; None if none does."""


def answers(subject: Subject) -> Answers | None:
    """Return what would fit; None where model or GPU is unknown, or it cannot be split."""
    model, gpu = subject.model, subject.gpu
    serving = of_subject(subject, model) if model else None
    if forecast_of(subject) is None or model is None or gpu is None or serving is None:
        return None
    arch = subject.stack.target.platform.partition("/")[2]
    sold = [each for each in gpus().values() if each.arch == arch and not each.one_market]
    sold = [each for each in sold if "memory_mib" not in each.unverified]
    sold = [each for each in sold if not is_widened(subject, each)]
    smallest = smallest_gpu(model.shape, on_gpu(subject, serving, sold[0]), sold) if sold else None
    return Answers(
        largest_context(model.shape, serving, Device.of(gpu)),
        highest_concurrency(model.shape, serving, Device.of(gpu)),
        smallest.name if smallest else None,
    )


def _answers(subject: Subject) -> str:
    """Say what would fit: a lower share, a context, a GPU."""
    found, fits = forecast_of(subject), answers(subject)
    if found is None or fits is None:
        return "serve less"
    if found.excess_bytes:
        share = math.floor(found.free_bytes / found.device.total_bytes * 100) / 100
        return f"write gpu_memory_utilization: {share}, or less"
    where = f"; the smallest GPU on which it fits is {fits.gpu}" if fits.gpu else ""
    if fits.context:
        return f"the longest context that fits is {fits.context:,} tokens{where}"
    return f"no context fits: take more or larger GPUs, or a quantised checkpoint{where}"


def _moves(subject: Subject) -> Iterator[Move]:
    yield from _smaller(subject)
    yield from _more(subject)
    yield from _quantised(subject)
    yield from other_gpus(subject, _fits_on(subject))


def _smaller(subject: Subject) -> tuple[Move, ...]:
    """Return moves within `serve`: a shorter context, a larger share, a cache of 8 bits."""
    model, gpu, serve = subject.model, subject.gpu, subject.stack.serve
    serving = of_subject(subject, model) if model else None
    if model is None or gpu is None or serving is None:
        return ()
    moves: list[Move] = []
    tokens = largest_context(model.shape, serving, Device.of(gpu)) // _STEP * _STEP
    if tokens >= min(_SHORTEST, serving.context_tokens):
        moves.append((Change(_LENGTH, tokens, 0.5),))
    share = serve.gpu_memory_utilization or serving.engine.utilisation
    if share < _HIGHEST and not gpu.unified:
        moves.append((Change(_SHARE, _HIGHEST, 0.1),))
    elif share > _HIGHEST:
        moves.append((Change(_SHARE, _HIGHEST),))
    if serving.cache_element_bytes is None and gpu.architecture.fp8:
        moves.append((Change("serve.args.kv-cache-dtype", _EIGHT_BITS, 0.3),))
    return tuple(moves)


def _more(subject: Subject) -> Iterator[Move]:
    """More of the same GPU; a split that the stack writes grows with them."""
    if "tensor-parallel-size" in subject.args or "pipeline-parallel-size" in subject.args:
        flag = "serve.args.tensor-parallel-size"
        for count in _COUNTS:
            if count > subject.count:
                tensor = Change(flag, count // subject.pipeline, -1.0)
                yield Change("target.count", count, count / 100), tensor
        return
    for count in _COUNTS:
        if count > subject.count:
            yield (Change("target.count", count, count / 100),)


def _quantised(subject: Subject) -> tuple[Move, ...]:
    """The same model with fewer bits, as the catalogue has it."""
    card = subject.model.card if subject.model else None
    if card is None or card.scheme is not None:
        return ()
    return other_checkpoints(subject, lambda each: bool(each.scheme))


def _fits_on(subject: Subject) -> Callable[[Gpu], bool]:
    """Tell of a GPU whether the same model, served the same way, fits on it."""
    model = subject.model
    serving = of_subject(subject, model) if model else None

    def fits(gpu: Gpu) -> bool:
        if model is None or serving is None:
            return False
        return forecast(model.shape, on_gpu(subject, serving, gpu), Device.of(gpu)).fits

    return fits


@rule("utilisation-default", "the share of memory that the engine takes is written down")
def utilisation_default(subject: Subject) -> Iterator[Finding]:
    """Note a share that is left to the engine: its default moved, and so what fits."""
    if subject.gpu is None or not subject.is_cuda:
        return
    if subject.stack.serve.gpu_memory_utilization is not None:
        return
    row = default("gpu_memory_utilization", subject.version)
    if row is not None:
        text = (
            f"{subject.engine} takes {row.value} of the GPU by default; from 0.20.0 on that is "
            f"0.92, graphs included, before it was 0.9 without them"
        )
        hint = f"write gpu_memory_utilization: {row.value}, so that an upgrade does not move it"
        yield note(_SHARE, text, hint, row.source)


@rule("unified-memory", "memory that is the host's is counted as such")
def unified_memory(subject: Subject) -> Iterator[Finding]:
    """Warn of a GPU whose memory is the host's: what the host uses is not there."""
    gpu = subject.gpu
    if gpu is None or not gpu.unified:
        return
    text = f"the memory of {gpu.title} is the host's: what other programs use is missing here"
    hint = "write gpu_memory_utilization with room for the host, 0.8 or less"
    share = subject.stack.serve.gpu_memory_utilization
    moves: tuple[Move, ...] = ((Change(_SHARE, 0.8),),)
    if share is None or share > 0.8:  # noqa: PLR2004 - as the hint says
        yield warning(_SHARE, text, hint, gpu.source, moves=moves)
