"""How the engine serves a subject on its GPU, as the forecast of memory asks it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.memory import Device, can_split, forecast, of_stack
from builder.rules.numbers import asked_dtype
from builder.rules.precision import computed_on

if TYPE_CHECKING:
    from builder.catalogue import Gpu
    from builder.memory import Forecast, Serving
    from builder.rules.model import ModelFacts
    from builder.rules.subject import Subject

_WIDE_BYTES = 4
LAYER_BY_LAYER = Version("0.15.0")
"""First release that makes room for the weights of a layer as it quantises that layer
(vllm/model_executor/layers/quantization/fp8.py: device="meta"); before, all of them are on the GPU
in 16 bits first."""
_BY_TENSOR = "bitsandbytes"
"""Quantised tensor by tensor in every release (model_loader/bitsandbytes_loader.py)."""


def forecast_of(subject: Subject) -> Forecast | None:
    """Return the memory of one GPU; None where model or GPU is unknown, or it cannot be split."""
    model, gpu = subject.model, subject.gpu
    if model is None or gpu is None or not subject.is_cuda:
        return None
    serving = of_subject(subject, model)
    if serving is None or not can_split(model.shape, serving.split):
        return None
    return forecast(model.shape, serving, Device.of(gpu))


def of_subject(subject: Subject, model: ModelFacts) -> Serving | None:
    """Return what the stack asks of the engine; None where nobody names a longest context."""
    if model.shape.max_positions is None and subject.stack.serve.max_model_len is None:
        return None
    found = of_stack(subject.stack, model.shape)
    return on_gpu(subject, found, subject.gpu) if subject.gpu else found


def on_gpu(subject: Subject, serving: Serving, gpu: Gpu) -> Serving:
    """Return the same on a GPU: where it lacks the model's format, the engine takes a wider one."""
    if asked_dtype(subject) != "auto":
        return serving
    return replace(serving, dtype_bytes=_WIDE_BYTES if is_widened(subject, gpu) else None)


def is_widened(subject: Subject, gpu: Gpu) -> bool:
    """Whether the engine by itself computes in 32 bits on a GPU."""
    return asked_dtype(subject) == "auto" and computed_on(subject, gpu) == "float32"


def whole_bytes(subject: Subject) -> int:
    """Return the weights of one GPU before they are quantised, 0 where they never lie there."""
    model, gpu = subject.model, subject.gpu
    if model is None or gpu is None or Version(subject.version) >= LAYER_BY_LAYER:
        return 0
    serving = of_subject(subject, model)
    is_online = serving is not None and serving.online_bits and not model.shape.is_quantised
    if serving is None or not is_online or subject.args.get("quantization") == _BY_TENSOR:
        return 0
    whole = forecast(model.shape, replace(serving, online_bits=None), Device.of(gpu))
    return whole.weights_bytes
