"""Number formats: what the engine computes in, and what it keeps in its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue.limits import no_float16
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, warning
from builder.rules.numbers import DTYPE, METHOD, asked_dtype, asked_method, floor_of, in_force
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.limits import Limit
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

AMPERE = 8.0
"""The first compute capability whose cores know bfloat16."""
_FALLS_BACK = Version("0.9.0")
"""First release that computes in another format by itself where the GPU lacks the model's."""
_WORKER = "vllm/platforms/cuda.py (check_if_supports_dtype)"
_RESOLVE = "vllm/config/model.py (_get_and_verify_dtype)"
_VERIFY = "vllm/config/vllm.py (_get_quantization_config)"


def in_effect(subject: Subject) -> str | None:
    """Return the format that the engine computes in; None where that is not known here."""
    return computed_on(subject, subject.gpu)


def computed_on(subject: Subject, gpu: Gpu | None) -> str | None:
    """Return the format that it would compute in on a GPU.

    Left to itself, it takes the model's own, if GPU and model take that, else the first of
    bfloat16, float16 and float32 that both do; what is stored in 32 bits is computed in 16, and
    models that give vectors then prefer float16.
    """
    asked, model = asked_dtype(subject), subject.model
    if asked != "auto" or model is None or gpu is None:
        return None if asked == "auto" else asked
    fits = ["bfloat16", "float16", "float32"]
    if float(gpu.compute_capability) < AMPERE:
        fits.remove("bfloat16")
    if no_float16(model.architecture, subject.version):
        fits.remove("float16")
    preferred = "float16" if model.shape.pools and "float16" in fits else fits[0]
    own = preferred if model.dtype == "float32" else model.dtype
    return own if own in fits else preferred


@rule("dtype", "the GPU and the weights take the number format that is computed in")
def dtype(subject: Subject) -> Iterator[Finding]:
    """Refuse a format that the GPU, the model or the quantisation lacks; warn of what it costs."""
    asked, model, gpu = asked_dtype(subject), subject.model, subject.gpu
    if asked is None or model is None or gpu is None or not subject.is_cuda:
        return
    old = float(gpu.compute_capability) < AMPERE
    is_early = Version(subject.version) < _FALLS_BACK
    limit = no_float16(model.architecture, subject.version)
    if old and (
        asked == "bfloat16" or (asked == "auto" and model.dtype == "bfloat16" and is_early)
    ):
        yield _no_bfloat16(subject, limit)
    elif asked == "float16" and limit is not None:
        yield _no_float16(subject, limit)
    else:
        yield from _of_method(subject)
        yield from _costs(subject, limit)


def _no_bfloat16(subject: Subject, limit: Limit | None) -> Finding:
    gpu, model = subject.gpu, subject.model
    title = f"{gpu.title} (compute capability {gpu.compute_capability})" if gpu else ""
    ours = "float32" if limit else "float16"
    text = f"bfloat16 needs compute capability 8.0 or newer, {title} has no cores for it"
    if model and asked_dtype(subject) == "auto":
        text += f"; {model.name} is in bfloat16, and {subject.engine} does not fall back by itself"
    moves: tuple[Move, ...] = ((Change(DTYPE, ours),), *with_bfloat16(subject))
    if asked_dtype(subject) == "auto":
        moves += other_releases(subject, lambda row: Version(row.version) >= _FALLS_BACK)
    return error(DTYPE, text, f"write dtype: {ours} under serve.args", _WORKER, moves=moves)


def with_bfloat16(subject: Subject) -> tuple[Move, ...]:
    """Return moves to GPUs of compute capability 8.0 or newer."""
    return other_gpus(subject, lambda each: float(each.compute_capability) >= AMPERE)


def _no_float16(subject: Subject, limit: Limit) -> Finding:
    name = subject.model.name if subject.model else ""
    text = f"{name} overflows in float16: {subject.engine} refuses it ({limit.architecture})"
    hint = "leave it out: the model's own format is taken"
    moves: tuple[Move, ...] = ((Change(DTYPE, None),), (Change(DTYPE, "bfloat16"),))
    return error(DTYPE, text, hint, limit.source, moves=moves)


def _of_method(subject: Subject) -> Iterator[Finding]:
    """Refuse a format that the quantisation method does not multiply in."""
    computed = in_effect(subject)
    floors = [(each, floor_of(each, subject.version)) for each in in_force(subject)]
    known = [(each, floor.dtypes) for each, floor in floors if floor and floor.dtypes]
    if computed is None or not known or len(known) < len(floors):
        return
    if any(computed in dtypes for _, dtypes in known):
        return
    method, dtypes = known[0]
    place = METHOD if asked_method(subject) and asked_dtype(subject) == "auto" else DTYPE
    text = (
        f"method `{method.name}` of {subject.engine} multiplies in {' or '.join(dtypes)}, and "
        f"{computed} is computed in"
    )
    hint = f"write dtype: {dtypes[0]} under serve.args"
    moves = (*((Change(DTYPE, each),) for each in dtypes), *_other_methods(subject))
    source = f"{_VERIFY}; get_supported_act_dtypes: {method.source}"
    yield error(place, text, hint, source, moves=moves)


def _other_methods(subject: Subject) -> tuple[Move, ...]:
    moves: tuple[Move, ...] = ()
    if asked_method(subject) is not None:
        moves += ((Change(METHOD, None),),)
    if asked_dtype(subject) != "auto":
        moves += ((Change(DTYPE, None),),)
    return (*moves, *with_bfloat16(subject))


def _costs(subject: Subject, limit: Limit | None) -> Iterator[Finding]:
    """Warn of a format that is not the model's own, and of one that is twice as wide."""
    model, computed = subject.model, in_effect(subject)
    if computed == "float32":
        yield _wide(subject, limit)
    elif asked_dtype(subject) == "auto" and model and model.dtype == "bfloat16" != computed:
        title = subject.gpu.title if subject.gpu else ""
        text = (
            f"{title} has no bfloat16: the engine falls back to float16, in which numbers beyond "
            f"65,504 of a model that was trained in bfloat16 overflow"
        )
        hint = "compare answers, then write dtype: float16 so that it is no surprise"
        moves: tuple[Move, ...] = ((Change(DTYPE, "float16"),), *with_bfloat16(subject))
        yield warning(DTYPE, text, hint, _RESOLVE, moves=moves)


def _wide(subject: Subject, limit: Limit | None) -> Finding:
    text = (
        "float32 is computed in: weights and cache take twice the room of 16 bits, and neither "
        "FlashAttention nor FlashInfer runs"
    )
    if asked_dtype(subject) != "auto":
        hint = "leave it out unless the answers need it"
        return warning(DTYPE, text, hint, _RESOLVE, moves=((Change(DTYPE, None),),))
    if limit and subject.model and subject.gpu:
        why = f"{subject.model.name} overflows in float16, {subject.gpu.title} has no bfloat16"
        text = f"{why}: {text}"
    hint = "take a GPU of compute capability 8.0 or newer"
    return warning(DTYPE, text, hint, _RESOLVE, moves=with_bfloat16(subject))
