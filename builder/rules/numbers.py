"""Which quantisation method and which number formats a stack asks of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue.quantisation import methods, schemes, within

if TYPE_CHECKING:
    from builder.catalogue.quantisation import Floor, Method
    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

METHOD = "serve.args.quantization"
DTYPE = "serve.args.dtype"
CACHE = "serve.args.kv-cache-dtype"
_OVERALL = "online"
"""The method behind those that quantise while they load, from 0.20.0 on: its floor is theirs."""
_ONLINE_SCHEMES = {
    "bitsandbytes": "bitsandbytes",
    "fp8": "fp8",
    "fp8_per_block": "fp8-block",
    "fp8_per_channel": "fp8",
    "fp8_per_tensor": "fp8",
    "mxfp8": "mxfp8",
    "ptpc_fp8": "fp8",
}
"""What weights become that are quantised while they load."""
_DTYPES = {
    "auto": "auto",
    "half": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}
_PROMOTED = {
    "awq": ("auto_awq", "awq_marlin", "awq"),
    "gptq": ("auto_gptq", "gptq_marlin", "gptq"),
    "mxfp4": ("gpt_oss_mxfp4", "mxfp4"),
}
"""By scheme: what the engine takes by itself, the first that the GPU has."""


def asked_method(subject: Subject) -> str | None:
    """Return the method that the flag names; the engine reads it in small letters."""
    value = subject.args.get("quantization")
    return value.lower() if isinstance(value, str) else None


def scheme_in_force(subject: Subject) -> str | None:
    """Return what the weights are on the GPU: the checkpoint's, or what they are made into."""
    model = subject.model
    if model is None or model.scheme is not None or model.method is not None:
        return model.scheme if model else None
    return _ONLINE_SCHEMES.get(asked_method(subject) or "")


def floor_of(method: Method, version: str) -> Floor | None:
    """Return the floor of a method, that of all online methods where it has none of its own."""
    floor = method.floor(version)
    if floor is not None and floor.capability is None and method.online:
        return methods()[_OVERALL].floor(version) or floor
    return floor


def runs(method: Method, version: str, capability: str) -> bool:
    """Whether a release offers a method on a compute capability, as far as its floor says."""
    floor = floor_of(method, version)
    return floor is not None and (floor.capability is None or within(capability, floor.capability))


def own_methods(model: ModelFacts) -> tuple[str, ...]:
    """Return what the weights may call their method: a card says the scheme alone."""
    if model.method is not None:
        return (model.method,)
    return schemes()[model.scheme].methods if model.scheme else ()


def loads(method: Method, model: ModelFacts) -> bool:
    """Whether a method that is asked for by name takes the weights of a model."""
    own = own_methods(model)
    return any(method.takes(name) for name in own) if own else method.online


def in_force(subject: Subject) -> tuple[Method, ...]:
    """Return the methods of which one will load the weights; none where they stay as they are."""
    model, gpu = subject.model, subject.gpu
    if gpu is None:
        return ()
    known, asked = methods(), asked_method(subject)
    if asked is not None:
        names: tuple[str, ...] = (asked,)
    elif model is None or model.scheme is None:
        names = (model.method,) if model and model.method else ()
    else:
        names = _PROMOTED.get(model.scheme, schemes()[model.scheme].methods)
    fits = [known[n] for n in names if n in known]
    fits = [each for each in fits if runs(each, subject.version, gpu.compute_capability)]
    if model is not None:
        fits = [each for each in fits if loads(each, model)]
        fits = fits[:1] if model.scheme in _PROMOTED else fits
    return tuple(fits)


def asked_dtype(subject: Subject) -> str | None:
    """Return the number format that is asked for; None for a value that is none."""
    return _DTYPES.get(str(subject.args.get("dtype", "auto")).lower())


def asked_cache(subject: Subject) -> str:
    """Return the format of the cache that is asked for."""
    return str(subject.args.get("kv-cache-dtype", "auto"))


def is_latent(subject: Subject) -> bool:
    """Whether the model caches a latent vector in place of keys and values."""
    return subject.model is not None and subject.model.shape.latent is not None
