"""Quantised weights: does the GPU multiply them, unpack them, or refuse them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue import architectures
from builder.catalogue.quantisation import methods, path, paths, schemes
from builder.rules.alternatives import other_checkpoints, other_gpus, other_releases
from builder.rules.finding import error, note, warning
from builder.rules.numbers import METHOD, asked_method, scheme_in_force
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.quantisation import Path
    from builder.catalogue.releases import Release
    from builder.rules.change import Move
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_GPU = "target.gpu"
_NOBODY = "no source that was read says how the engine runs it"
_ALONE = frozenset({"mxfp4"})
"""Schemes in which models are published and in no other: unpacking them is all there is."""


def _path(subject: Subject) -> Path | None:
    model, gpu = subject.model, subject.gpu
    if model is None or model.scheme is None or gpu is None:
        return None
    return path(model.scheme, subject.version, gpu.compute_capability)


def is_refused(subject: Subject) -> bool:
    """Whether the release refuses the checkpoint's scheme on the GPU."""
    found = _path(subject)
    return found is not None and found.how == "refused"


def is_gone(scheme: str, version: str) -> bool:
    """Whether a release has no method any more, or none yet, that loads a scheme."""
    known = methods()
    return all(known[name].floor(version) is None for name in schemes()[scheme].methods)


@rule("quantisation-capability", "the GPU runs the checkpoint's quantisation")
def quantisation_capability(subject: Subject) -> Iterator[Finding]:
    """Refuse weights in a scheme that the release does not run on the GPU."""
    model, gpu = subject.model, subject.gpu
    if model is None or model.scheme is None or gpu is None or not subject.is_cuda:
        return
    if is_gone(model.scheme, subject.version):
        return  # the method is missing, whatever the GPU: `quantisation-method` says so
    found, title = _path(subject), schemes()[model.scheme].title
    where = f"{gpu.title} (compute capability {gpu.compute_capability})"
    moves = (*_releases(subject, gpu), *_checkpoints(subject, gpu), *_gpus(subject))
    if found is None:
        text = f"{model.name} holds {title}; {_NOBODY} on {where} in {subject.engine}"
        hint = "take a release or a GPU of which it is known, or try it before you ship it"
        yield warning(_GPU, text, hint, model.source, moves=moves, verified=False)
    elif found.how == "refused":
        text = f"{model.name} holds {title}; {subject.engine} refuses it on {where}"
        if found.note:
            text += f": {found.note}"
        verified = "how" not in found.unverified
        hint = _hint(subject, moves)
        yield error(_GPU, text, hint, found.source, moves=moves, verified=verified)


def _hint(subject: Subject, moves: tuple[Move, ...]) -> str:
    scheme = subject.model.scheme if subject.model else None
    fits = [each for each in architectures() if _runs(scheme, subject.version, each)]
    where = f"{subject.engine} runs it on compute capability {_span(fits)}" if fits else ""
    repos = [str(c.value) for move in moves for c in move if c.place == "model.repo"]
    others = f"checkpoints of the model that run here: {', '.join(repos)}" if repos else ""
    return "; ".join(filter(None, (where, others))) or "take another checkpoint of the model"


def _span(capabilities: list[str]) -> str:
    """Write a list of compute capabilities as a range, where none is missing in between."""
    known = list(architectures())
    first, last = known.index(capabilities[0]), known.index(capabilities[-1])
    if len(capabilities) > 1 and known[first : last + 1] == capabilities:
        return f"{capabilities[0]} to {capabilities[-1]}"
    return ", ".join(capabilities)


def _runs(scheme: str | None, version: str, capability: str) -> bool:
    if scheme is None:
        return True
    found = path(scheme, version, capability)
    return found is not None and found.how != "refused"


def _releases(subject: Subject, gpu: Gpu) -> tuple[Move, ...]:
    scheme = subject.model.scheme if subject.model else None

    def suits(row: Release) -> bool:
        return _runs(scheme, row.version, gpu.compute_capability)

    return other_releases(subject, suits)


def _gpus(subject: Subject) -> tuple[Move, ...]:
    scheme = subject.model.scheme if subject.model else None
    return other_gpus(subject, lambda each: _runs(scheme, subject.version, each.compute_capability))


def _checkpoints(subject: Subject, gpu: Gpu) -> tuple[Move, ...]:
    return other_checkpoints(
        subject, lambda each: _runs(each.scheme, subject.version, gpu.compute_capability)
    )


@rule("quantisation-fallback", "the GPU multiplies what the quantisation saves")
def quantisation_fallback(subject: Subject) -> Iterator[Finding]:
    """Warn of weights that are unpacked on the way, where other GPUs multiply them as they are."""
    scheme, gpu, model = scheme_in_force(subject), subject.gpu, subject.model
    if scheme is None or gpu is None or model is None or not subject.is_cuda:
        return
    found = path(scheme, subject.version, gpu.compute_capability)
    if found is None or found.how != "weight-only" or not _is_native_somewhere(scheme):
        return
    kernel = f" ({found.note})" if found.note else ""
    text = (
        f"{gpu.title} (compute capability {gpu.compute_capability}) has no tensor cores for "
        f"{schemes()[scheme].title}: {subject.engine} unpacks the weights to 16 bits on the "
        f"way{kernel}. Memory is saved, time is not: prompts and large batches run as in 16 bits"
    )
    native = [each for each in architectures() if _is_native(scheme, subject.version, each)]
    hint = f"for speed take compute capability {_span(native)}; for memory it is fine"
    moves = (*_native_checkpoints(subject, gpu), *_native_gpus(subject, scheme))
    place = METHOD if model.scheme is None else _GPU
    say = note if scheme in _ALONE else warning
    yield say(place, text, hint, found.source, moves=moves)


def _is_native_somewhere(scheme: str) -> bool:
    return any(row.scheme == scheme and row.how == "native" for row in paths())


def _is_native(scheme: str, version: str, capability: str) -> bool:
    found = path(scheme, version, capability)
    return found is not None and found.how == "native"


def _native_gpus(subject: Subject, scheme: str) -> tuple[Move, ...]:
    return other_gpus(
        subject, lambda each: _is_native(scheme, subject.version, each.compute_capability)
    )


def _native_checkpoints(subject: Subject, gpu: Gpu) -> tuple[Move, ...]:
    """Return other checkpoints in a scheme that this GPU multiplies."""
    if asked_method(subject) is not None:
        return ()

    def suits(scheme: str | None) -> bool:
        return scheme is not None and _is_native(scheme, subject.version, gpu.compute_capability)

    return other_checkpoints(subject, lambda each: suits(each.scheme))
