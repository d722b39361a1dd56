"""Kernels that the engine would compile when it starts: it finds no `nvcc` in an image of wheels.

The image turns off what it can (see `settings`); what the stack asks for all the same is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from packaging.version import Version

from builder.rules import settings
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.numbers import CACHE
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue.releases import Compiled
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"
_DEEP_GEMM = "VLLM_USE_DEEP_GEMM"
_WARM_UP = "VLLM_DEEP_GEMM_WARMUP"
_TRIES_FIRST, _ASKS_NVCC = Version("0.23.0"), Version("0.30.0")
"""From the first on a failing import of DeepGEMM is no failure; from the second on the import
needs no compiler any more, only the first matrix does (vllm/third_party/deep_gemm/__init__.py)."""
_ATTENTION = "flashinfer/jit/cpp_ext.py of 0.6.8.post1 and 0.7.2.post1; vllm/platforms/cuda.py"
_BY_REQUEST = "vllm/v1/sample/ops/topk_topp_sampler.py of 0.20.2"


@rule("flashinfer-kernels", "nothing is left to FlashInfer that it would have to compile")
def flashinfer_kernels(subject: Subject) -> Iterator[Finding]:
    """Refuse FlashInfer where the stack insists on it; else say what the image does instead."""
    if settings.compiles_flashinfer(subject):
        yield from _attention(subject)
        yield from _sampler(subject)


def _refusal(subject: Subject, place: str, text: str, hint: str, **more: Any) -> Finding:
    """Refuse, or warn where the stack names a compiler: nobody tried the one of the wheels."""
    if not settings.names_compiler(subject):
        return error(place, text, hint, **more)
    text += "; the stack names a compiler, and that of the wheels is newer than their headers"
    return warning(place, text, hint, verified=False, **more)


def _attention(subject: Subject) -> Iterator[Finding]:
    named = settings.image_attention(subject)
    backend = settings.told_attention(subject) or settings.first_attention(subject)
    if backend is None or not backend.startswith("FLASHINFER"):
        return
    place = settings.attention_place(subject)
    others = settings.other_attention(subject)
    text = f"{subject.engine} computes attention by {backend} here, which is compiled with nvcc"
    key = place.rpartition(".")[2]
    if named is not None:
        text += f" at the start; the image has none, and names {named} instead"
        hint = f"measure it: {backend} is the engine's first choice; or write {key}: {named}"
        yield warning(place, text, hint, _ATTENTION)
        return
    text += " at the start; the engine finds none"
    hint = f"write {key}: {others[0]}" if others else "leave kv-cache-dtype out"
    moves: tuple[Move, ...] = tuple((Change(place, name),) for name in others[:1])
    if not others and "kv-cache-dtype" in subject.args:
        moves = ((Change(CACHE, None),),)
    yield _refusal(subject, place, text, hint, source=_ATTENTION, moves=moves)


def _sampler(subject: Subject) -> Iterator[Finding]:
    row, asked = settings.sampler(subject), _asked(subject, _SAMPLER)
    place = f"serve.env.{_SAMPLER}"
    text = f"{subject.engine} samples by FlashInfer, which is compiled with nvcc at the start"
    if asked is None and row is not None:
        text += "; the image has none, so it turns that off and the engine samples by itself"
        yield note(place, text, _say(_SAMPLER), row.source)
    elif asked == "1" and (row is not None or _SAMPLER in subject.stack.serve.env):
        text += "; the engine finds none, and ends with `Could not find nvcc`"
        source = row.source if row else _BY_REQUEST
        hint = f"{_say(_SAMPLER)}; the engine then samples by itself"
        yield _refusal(subject, place, text, hint, source=source, moves=(_off(_SAMPLER),))


def _asked(subject: Subject, variable: str) -> str | None:
    """Return `0` or `1`; a stack that names a compiler asks for what it may compile."""
    given = subject.stack.serve.env.get(variable)
    if given is None:
        return "1" if settings.names_compiler(subject) else None
    return "0" if given == "0" else "1"


def _say(variable: str) -> str:
    return f'write serve.env: {{{variable}: "0"}}'


def _off(variable: str) -> Move:
    return (Change(f"serve.env.{variable}", "0"),)


@rule("deep-gemm", "nothing is left to DeepGEMM that it would have to compile")
def deep_gemm(subject: Subject) -> Iterator[Finding]:
    """Refuse DeepGEMM, which has no compiler here, where the stack insists; warn what it costs."""
    asked = _asked(subject, _DEEP_GEMM)
    in_blocks, warms_up = settings.blocks(subject), settings.warm_up(subject)
    if asked == "0":
        return
    if in_blocks is not None:
        yield from _in_blocks(subject, in_blocks, asked)
    elif warms_up is not None and asked and subject.stack.serve.env.get(_WARM_UP) != "skip":
        text = (
            f"{subject.engine} asks DeepGEMM as it warms up, whatever the model; it finds no nvcc, "
            f"and ends with `DeepGEMM backend is not available or outdated`"
        )
        moves = (_off(_DEEP_GEMM),)
        place, source = f"serve.env.{_DEEP_GEMM}", warms_up.source
        yield _refusal(subject, place, text, _say(_DEEP_GEMM), source=source, moves=moves)


def _in_blocks(subject: Subject, row: Compiled, asked: str | None) -> Iterator[Finding]:
    """FP8 in blocks runs on DeepGEMM, where the release finds it."""
    place = f"serve.env.{_DEEP_GEMM}"
    finds_none = _TRIES_FIRST <= Version(subject.version) < _ASKS_NVCC
    if asked is None or finds_none:
        text = (
            f"{subject.engine} would compile DeepGEMM with nvcc for FP8 in blocks; the image has "
            f"none, so other kernels multiply, which are slower"
        )
        hint = "measure it, or take a checkpoint with one scale a channel"
        yield warning(place, text, hint, row.source)
        return
    text = (
        f"{subject.engine} computes FP8 in blocks by DeepGEMM, which is compiled with nvcc at "
        f"the start; the engine finds none"
    )
    moves = (_off(_DEEP_GEMM),)
    yield _refusal(subject, place, text, _say(_DEEP_GEMM), source=row.source, moves=moves)
