"""The cache's number format, and the attention backend that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue.flags import flags, variables
from builder.catalogue.quantisation import attentions, cache_types, choices, within
from builder.rules import settings
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.floor import tried_attention
from builder.rules.numbers import CACHE, asked_cache, asked_method, is_latent
from builder.rules.precision import AMPERE, in_effect, with_bfloat16
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.quantisation import Attention
    from builder.catalogue.releases import Release
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_CACHE_SCALES = "vllm/model_executor/layers/quantization/kv_cache.py"
_NO_E5M2 = "vllm/model_executor/layers/attention (fp8_e5m2 kv-cache is not supported)"
_OLD_ENGINE = "XFORMERS"
_BACKENDS = "vllm/v1/attention/backends and platforms/cuda.py of each release"
_TYPES = "vllm/config/cache.py (CacheDType)"
_EIGHT_BITS = frozenset({"fp8", "fp8_e4m3", "fp8_e5m2"})
_LEFT_OUT: Move = (Change(CACHE, None),)
_GPU = "target.gpu"
_PRIORITIES = "vllm/platforms/cuda.py (_get_backend_priorities)"
_WIDE = frozenset({"FLEX_ATTENTION", "TRITON_ATTN", "XFORMERS"})
"""Backends that compute in float32 too (`supported_dtypes`)."""
_VALIDATES = Version("0.11.1")
"""First release that compares a backend with GPU, model and cache, and refuses it."""


@rule("kv-cache-dtype", "an attention backend takes the cache's number format on the GPU")
def kv_cache_dtype(subject: Subject) -> Iterator[Finding]:
    """Refuse a format of the cache that the release or every backend on this GPU lacks."""
    asked, gpu = asked_cache(subject), subject.gpu
    kind = cache_types().get(asked)
    if asked == "auto" or kind is None or gpu is None or not subject.is_cuda:
        return
    if Version(subject.version) < Version(kind.since):
        text = f"{subject.engine} has no cache in {asked}: it is there from {kind.since} on"
        hint = f"take {kind.since} or newer, or leave it out"
        moves = (_LEFT_OUT, *_releases(subject, asked))
        yield error(
            CACHE, text, hint, f"vllm/config/cache.py (CacheDType): {kind.source}", moves=moves
        )
        return
    found = _backends(subject, gpu)
    if not found:
        yield _no_backend(subject, asked)
    elif _contradicts_weights(subject, asked):
        text = "the engine refuses a cache in fp8_e5m2 beside weights in FP8"
        moves = ((Change(CACHE, "fp8_e4m3"),), _LEFT_OUT)
        yield error(CACHE, text, "write kv-cache-dtype: fp8_e4m3", _NO_E5M2, moves=moves)
    else:
        yield from _cache_costs(subject, asked, found[0])


def _runs(subject: Subject, version: str, capability: str, asked: str) -> bool:
    return bool(choices(version, capability, asked, mla=is_latent(subject)))


def _releases(subject: Subject, asked: str) -> tuple[Move, ...]:
    gpu = subject.gpu

    def suits(row: Release) -> bool:
        return gpu is not None and _runs(subject, row.version, gpu.compute_capability, asked)

    return other_releases(subject, suits)


def _no_backend(subject: Subject, asked: str) -> Finding:
    gpu, mla = subject.gpu, is_latent(subject)
    title = f"{gpu.title} (compute capability {gpu.compute_capability})" if gpu else ""
    rows = [row for row in attentions() if asked in row.kv_cache and row.mla == mla]
    kind = "latent attention (MLA)" if mla else "attention"
    text = f"no backend for {kind} of {subject.engine} takes a cache in {asked} on {title}"
    moves = (
        _LEFT_OUT,
        *_alike(subject, asked),
        *_releases(subject, asked),
        *_other_gpus(subject, asked),
    )
    if not rows:
        text = (
            f"nobody has read which backend of {subject.engine} takes a cache in {asked} on {title}"
        )
        hint = "leave it out, or try it before you ship it"
        return warning(CACHE, text, hint, _BACKENDS, moves=moves, verified=False)
    hint = "leave it out: the cache is then in the model's own format"
    there = [row for row in rows if row.there(subject.version)]
    verified = not any("minimum" in row.unverified for row in there)
    return error(CACHE, text, hint, _BACKENDS, moves=moves, verified=verified)


def _alike(subject: Subject, asked: str) -> tuple[Move, ...]:
    """Return formats of as many bits that a backend takes here."""
    gpu, bits = subject.gpu, cache_types()[asked].bits
    if gpu is None or bits is None:
        return ()
    others = [
        each.name
        for each in cache_types().values()
        if each.bits == bits
        and each.name != asked
        and Version(each.since) <= Version(subject.version)
        and _runs(subject, subject.version, gpu.compute_capability, each.name)
    ]
    return tuple((Change(CACHE, name, 0.5),) for name in others)


def _other_gpus(subject: Subject, asked: str) -> tuple[Move, ...]:
    return other_gpus(
        subject, lambda each: _runs(subject, subject.version, each.compute_capability, asked)
    )


def _contradicts_weights(subject: Subject, asked: str) -> bool:
    """Whether it is the one format of FP8 that the engine keeps from FP8 weights."""
    model = subject.model
    if asked != "fp8_e5m2" or model is None:
        return False
    is_online = model.scheme is None and asked_method(subject) == "fp8"
    own = model.method in {"fp8", "modelopt"} or (
        model.method is None and model.scheme == "fp8-block"
    )
    return is_online or own


def _cache_costs(subject: Subject, asked: str, backend: str) -> Iterator[Finding]:
    if backend == _OLD_ENGINE:
        text = (
            f"{subject.engine} takes no cache in {asked} on this GPU in its version 1: it falls "
            f"back to version 0, which lacks much of what the release is taken for"
        )
        hint = "leave it out, or take 0.11.1 or newer"
        moves = (_LEFT_OUT,)
        yield warning(
            CACHE, text, hint, "vllm/engine/arg_utils.py of 0.10.2", moves=moves, verified=False
        )
    if asked in _EIGHT_BITS:
        text = (
            f"keys and values are cut to 8 bits (attention: {backend}); where the checkpoint "
            f"holds no scales for them, the engine takes 1.0 and says so"
        )
        hint = "compare answers on long prompts before you ship it"
        yield note(CACHE, text, hint, _CACHE_SCALES)


@rule("attention-backend", "an attention backend that runs on the GPU is chosen")
def attention_backend(subject: Subject) -> Iterator[Finding]:
    """Refuse a backend that cannot run there; warn of GPUs without FlashAttention."""
    gpu = subject.gpu
    if gpu is None or not subject.is_cuda or subject.release is None:
        return
    place, name = _asked_backend(subject)
    if name is not None:
        yield from _asked_for(subject, gpu, place, name)
        return
    found = _chosen(subject, gpu)
    if not found:
        return  # `kv-cache-dtype` says so
    if float(gpu.compute_capability) < AMPERE:
        text = (
            f"{gpu.title} (compute capability {gpu.compute_capability}) runs no FlashAttention: "
            f"{subject.engine} takes {found[0]}, which is slower and less tested"
        )
        hint = "measure it, or take a GPU of compute capability 8.0 or newer"
        moves = with_bfloat16(subject)
        yield warning(_GPU, text, hint, _PRIORITIES, moves=moves)


def _chosen(subject: Subject, gpu: Gpu) -> tuple[str, ...]:
    """Return the backends that run here, in the order in which they are tried."""
    found = _backends(subject, gpu)
    if in_effect(subject) != "float32":
        return found
    return tuple(name for name in found if name in _WIDE)


def _backends(subject: Subject, gpu: Gpu) -> tuple[str, ...]:
    """Return what takes the cache, as far as the release is known to bring it."""
    cache, mla = asked_cache(subject), is_latent(subject)
    if subject.release is None:
        return choices(subject.version, gpu.compute_capability, cache, mla=mla)
    return tried_attention(subject.release, gpu, cache, mla=mla)


def _asked_backend(subject: Subject) -> tuple[str, str | None]:
    """Return where a backend is asked for, and which; None where the engine may choose."""
    value = subject.args.get(settings.FLAG)
    if isinstance(value, str) and flags()[f"--{settings.FLAG}"].offered(subject.version):
        return f"serve.args.{settings.FLAG}", _plain(value)
    value = subject.stack.serve.env.get(settings.VARIABLE)
    if value and variables()[settings.VARIABLE].offered(subject.version):
        return f"serve.env.{settings.VARIABLE}", _plain(value)
    return "", None


def _plain(name: str) -> str | None:
    """Old releases add the engine's version to a name; `auto` is none."""
    found = name.strip().upper().removesuffix("_VLLM_V1")
    return None if found in {"", "AUTO"} else found


def _asked_for(subject: Subject, gpu: Gpu, place: str, name: str) -> Iterator[Finding]:
    """Refuse a backend by name; one that no row speaks of is not judged."""
    rows = [row for row in attentions() if row.name == name]
    there = [row for row in rows if row.there(subject.version)]
    if not rows or (not there and Version(subject.version) < _VALIDATES):
        return
    own = [row for row in there if row.mla == is_latent(subject)]
    here = [row for row in own if _on(row, gpu)]
    moves: tuple[Move, ...] = ((Change(place, None),),)
    if not there:
        text = f"{subject.engine} has no attention backend {name}"
    elif not own:
        kind = "keys and values" if is_latent(subject) else "latent vectors (MLA)"
        text = f"{name} reads a cache of {kind}, which the model does not make"
    elif not here:
        text = f"{name} does not run on {gpu.title} (compute capability {gpu.compute_capability})"
        moves += other_gpus(subject, lambda each: any(_on(row, each) for row in own))
    elif not settings.takes_sinks(subject, gpu, name):
        text = f"{name} of {subject.engine} takes no attention sinks, which the model has, on "
        text += f"{gpu.title} (compute capability {gpu.compute_capability})"
    elif not any(asked_cache(subject) in row.kv_cache for row in here):
        text = f"{name} takes no cache in {asked_cache(subject)} on {gpu.title}"
        moves = (_LEFT_OUT, *moves)
    else:
        return
    hint = "leave it out: the engine chooses one that runs"
    yield error(place, text, hint, _BACKENDS, moves=moves)


def _on(row: Attention, gpu: Gpu) -> bool:
    return within(gpu.compute_capability, row.minimum, row.maximum)
