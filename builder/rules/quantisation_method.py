"""The quantisation method: is it there, may it be used, does it load these weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue.nearest import nearest
from builder.catalogue.quantisation import methods, schemes
from builder.catalogue.releases import releases
from builder.rules.alternatives import other_checkpoints, other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.numbers import (
    METHOD,
    asked_method,
    floor_of,
    loads,
    own_methods,
    runs,
    scheme_in_force,
)
from builder.rules.quantisation import is_gone, is_refused
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue.quantisation import Method
    from builder.rules.finding import Finding
    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

_REPO = "model.repo"
_LEAVE = "allow-deprecated-quantization"
_CONFIG = "vllm/config/model.py (_verify_quantization)"
_LOADER = "vllm/model_executor/model_loader/weight_utils.py (get_quant_config)"
_OTHER_HARDWARE = frozenset({"cpu_awq", "cpu_gptq", "ipex", "neuron_quant", "tpu_int8"})
_LEFT_OUT: tuple[Move, ...] = ((Change(METHOD, None),),)


@rule("quantisation-method", "the engine has the quantisation method, and it loads the weights")
def quantisation_method(subject: Subject) -> Iterator[Finding]:
    """Refuse a method that the release or the GPU lacks, or that the weights contradict."""
    if subject.gpu is None or not subject.is_cuda or subject.release is None:
        return
    asked, model = asked_method(subject), subject.model
    if asked is None:
        yield from _of_checkpoint(subject)
        return
    method = methods().get(asked)
    if method is None:
        yield _unknown(subject, asked)
        return
    missing = _missing(subject, method, METHOD)
    if missing is not None:
        yield missing
    elif model is not None:
        yield from _contradiction(subject, model, method)


def _unknown(subject: Subject, asked: str) -> Finding:
    there = {name: (name,) for name, each in methods().items() if each.floor(subject.version)}
    text = f"{subject.engine} has no quantisation method `{asked}`"
    if asked in _OTHER_HARDWARE:
        text += " on NVIDIA GPUs"
    near = nearest(asked, there)
    hint = f"write one of {', '.join(near)}" if near else "leave it out: the checkpoint names its"
    return error(METHOD, text, hint, _CONFIG, moves=_LEFT_OUT)


def _missing(subject: Subject, method: Method, place: str) -> Finding | None:
    """Say why a method cannot be used here, whatever the weights are."""
    gpu, version = subject.gpu, subject.version
    floor = floor_of(method, version)
    if gpu is None:
        return None
    if floor is None:
        return _absent(subject, method, place)
    if not runs(method, version, gpu.compute_capability):
        text = (
            f"method `{method.name}` of {subject.engine} needs compute capability "
            f"{floor.capability}; {gpu.title} has {gpu.compute_capability}"
        )
        hint = f"take a GPU of compute capability {floor.capability} or newer"
        moves = (*_elsewhere(subject, method), *_dropped(subject, place))
        return error(place, text, hint, f"get_min_capability: {method.source}", moves=moves)
    if method.is_deprecated(version) and _LEAVE not in subject.args:
        text = f"{subject.engine} refuses the deprecated method `{method.name}` without leave"
        hint = f"write {_LEAVE}: true under serve.args, and plan another checkpoint"
        leave: tuple[Move, ...] = ((Change(f"serve.args.{_LEAVE}", value=True),),)
        return error(place, text, hint, method.source, moves=(*leave, *_dropped(subject, place)))
    return None


def _absent(subject: Subject, method: Method, place: str) -> Finding:
    first = method.floors[0].since
    there = [v for v in releases() if method.floor(v)]
    last = f" to {there[-1]}" if method.removed else " on"
    text = f"{subject.engine} has no quantisation method `{method.name}`: it is there from {first}"
    text += last
    hint = f"take a release that has it: {there[0]}{last}" if there else "take another checkpoint"
    if method.replacement:
        hint += f"; in its place came {method.replacement}"
    moves = (
        *other_releases(subject, lambda row: method.floor(row.version) is not None),
        *_replaced(subject, method, place),
        *_dropped(subject, place),
    )
    return error(place, text, hint, method.source, moves=moves)


def _elsewhere(subject: Subject, method: Method) -> tuple[Move, ...]:
    gpu = subject.gpu
    if gpu is None:
        return ()
    here = gpu.compute_capability
    return (
        *other_releases(subject, lambda row: runs(method, row.version, here)),
        *other_gpus(subject, lambda each: runs(method, subject.version, each.compute_capability)),
    )


def _replaced(subject: Subject, method: Method, place: str) -> tuple[Move, ...]:
    other = methods().get(method.replacement)
    if place != METHOD or other is None or other.floor(subject.version) is None:
        return ()
    return ((Change(METHOD, other.name),),)


def _dropped(subject: Subject, place: str) -> tuple[Move, ...]:
    """Without the flag, the checkpoint's own method; a checkpoint without one is another."""
    if place == METHOD:
        return _LEFT_OUT
    return other_checkpoints(subject, lambda each: each.scheme is None)


def _of_checkpoint(subject: Subject) -> Iterator[Finding]:
    """Judge the method that the checkpoint names itself."""
    model = subject.model
    if model is None:
        return
    if model.method is None:
        if model.scheme is not None and is_gone(model.scheme, subject.version):
            name = schemes()[model.scheme].methods[0]
            yield _absent(subject, methods()[name], _REPO)
        return
    method = _loader(model, model.method, subject.version)
    if method is not None:
        missing = _missing(subject, method, _REPO)
        if missing is not None and not is_refused(subject):
            yield missing
    elif model.method in methods():
        yield _absent(subject, methods()[model.method], _REPO)
    else:
        text = f"nobody has read how {subject.engine} loads weights quantised by `{model.method}`"
        hint = "try it before you ship it"
        yield warning(_REPO, text, hint, model.source, verified=False)


def _loader(model: ModelFacts, name: str, version: str) -> Method | None:
    """Return the method of a release that loads weights which call themselves so.

    What ModelOpt writes is called `modelopt`, whatever the scheme, and has a method for each.
    """
    known = methods()
    names = schemes()[model.scheme].methods if model.scheme else (name, *known)
    there = [known[each] for each in names if each in known and known[each].floor(version)]
    exact = (each for each in there if name in {each.name, *each.loads})
    return next(exact, None)


def _contradiction(subject: Subject, model: ModelFacts, method: Method) -> Iterator[Finding]:
    """Compare the flag with what the weights are."""
    if not own_methods(model):
        yield from _unquantised(subject, model, method)
    elif not loads(method, model):
        text = (
            f"asks for `{method.name}`, and the weights of {model.name} are "
            f'{_named(model)}: the engine ends with "does not match the quantization method '
            f'specified in the `quantization` argument"'
        )
        hint = "leave it out: the checkpoint names its method itself"
        same = other_checkpoints(subject, lambda each: _fits(each.scheme, method))
        yield error(METHOD, text, hint, _CONFIG, moves=(*_LEFT_OUT, *same))


def _named(model: ModelFacts) -> str:
    if model.method is not None:
        return f"quantised by `{model.method}`"
    return schemes()[model.scheme].title if model.scheme else "not quantised"


def _fits(scheme: str | None, method: Method) -> bool:
    return scheme is not None and any(method.takes(name) for name in schemes()[scheme].methods)


def _unquantised(subject: Subject, model: ModelFacts, method: Method) -> Iterator[Finding]:
    if method.online:
        if scheme_in_force(subject) is not None:
            text = (
                f"`{method.name}` quantises the weights while they load; the forecast of memory "
                f"counts them in {model.dtype}, which is more than they take in the end"
            )
            hint = "take a checkpoint that is quantised already: it also loads faster"
            yield note(METHOD, text, hint, _LOADER)
        return
    text = f"asks for `{method.name}`, which loads quantised weights; {model.name} has none"
    hint = "leave it out, or take a quantised checkpoint of the model"
    same = other_checkpoints(subject, lambda each: _fits(each.scheme, method))
    moves = (*_LEFT_OUT, *same)
    if model.card is not None:
        yield error(METHOD, text, hint, _LOADER, moves=moves)
    else:
        # Old checkpoints say it in a quantize_config.json, which nobody has read here.
        yield warning(METHOD, text, hint, _LOADER, moves=moves, verified=False)
