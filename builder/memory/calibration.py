"""The forecast held against published logs: the numbers it takes from them, and its errors.

Half of the logs, chosen by a hash of their address, may give numbers (`fit`); the others are only
compared.  `fitted_text` is what `fitted.toml` holds; a test keeps it as it is made here.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from builder.catalogue.memory_logs import MemoryLog, memory_logs
from builder.memory.config import from_config
from builder.memory.deployment import Device, Serving
from builder.memory.fitted import Fitted, fitted
from builder.memory.forecast import Forecast, forecast
from builder.memory.start import Start
from builder.memory.weights import Split
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.memory.shape import ModelShape

_ELEMENT_BYTES = {"auto": None, "fp8": 1}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One log beside its forecast."""

    log: MemoryLog
    forecast: Forecast

    @property
    def weights_error(self) -> float | None:
        """Relative; above zero, the forecast is too high."""
        return _error(self.forecast.weights_bytes, self.log.weights_bytes)

    @property
    def graphs_error(self) -> float | None:
        """Relative error of the graphs."""
        logged = self.log.expected_bytes or self.log.graphs_bytes
        return _error(self.forecast.graphs_bytes, logged)

    @property
    def cache_error(self) -> float | None:
        """Relative error of the tokens, or of the bytes where no tokens were logged."""
        if self.log.kv_tokens:
            return _error(self.forecast.cache_tokens, self.log.kv_tokens)
        return _error(self.forecast.cache_bytes, self.log.kv_bytes)

    @property
    def taken_error(self) -> float | None:
        """Relative error of all that the engine takes of the budget before the cache."""
        if self.log.kv_bytes is None:
            return None
        budget = self.forecast.budget_bytes
        return _error(budget - self.forecast.cache_bytes, budget - self.log.kv_bytes)

    @property
    def budget_error(self) -> float | None:
        """Error of the cache as a share of the budget: what a verdict rests on."""
        if self.log.kv_bytes is None:
            return None
        return (self.forecast.cache_bytes - self.log.kv_bytes) / self.forecast.budget_bytes


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of several comparisons, without their signs."""

    count: int
    median: float
    worst: float


def shape_of(log: MemoryLog) -> ModelShape:
    """Return the model of a log."""
    return from_config(memory_logs().models[log.model])


def serving_of(log: MemoryLog) -> Serving:
    """Return what was asked of the engine."""
    return Serving(
        version=log.version,
        context_tokens=log.max_model_len,
        sequences=log.max_num_seqs,
        batched_tokens=log.max_num_batched_tokens,
        utilisation=log.utilization,
        split=Split(log.tensor_parallel, log.pipeline_parallel),
        cache_element_bytes=_ELEMENT_BYTES[log.kv_cache_dtype],
        dtype_bytes=4 if log.dtype == "float32" else None,
        legacy=log.legacy,
        eager=log.eager,
    )


def compare(log: MemoryLog) -> Comparison:
    """Return a log beside its forecast."""
    return Comparison(log, forecast(shape_of(log), serving_of(log), device_of(log)))


def device_of(log: MemoryLog) -> Device:
    """Return the GPU of a log."""
    return Device(log.gpu, log.total_bytes, log.capability, linked=log.linked)


def start_of(log: MemoryLog) -> Start:
    """Return what the engine profiled."""
    serving = serving_of(log)
    shape = serving.loaded(shape_of(log))
    limits = serving.limits(shape, device_of(log))
    element = serving.cache_element_bytes or shape.dtype_bytes
    return Start(
        serving.engine, shape, serving.split, limits, log.capability, element, log.max_model_len
    )


def errors(values: Iterable[float | None]) -> Errors:
    """Return the errors that there are, without their signs."""
    known = sorted(abs(value) for value in values if value is not None)
    return Errors(len(known), statistics.median(known), known[-1])


def fit(logs: Sequence[MemoryLog]) -> Fitted:
    """Take the numbers from logs, each the median of what they say."""
    usable = [log for log in logs if log.may_fit]
    early = [log for log in usable if not _is_late(log)]
    late = [log for log in usable if _is_late(log)]
    driver = round(_median(filter(_alone, usable), _held))
    return Fitted(
        sorting_bytes=round(_median(early, _sorting), 2),
        pixel_bytes=round(_median(late, _pixels)),
        context_bytes=_outside(early, lambda log: log.version == "0.6.4"),
        early_bytes=_outside(early, lambda log: _alone(log) and log.version != "0.6.4"),
        early_shared_bytes=_outside(early, _shared),
        joined_bytes=round(_median(filter(_shared, usable), _held) - driver),
        driver_bytes=driver,
        late_bytes=_outside(late, _alone),
        late_shared_bytes=_outside(late, _shared),
        pipeline_bytes=_outside(late, lambda log: log.pipeline_parallel > 1),
        layer_graph_bytes=round(_median(late, lambda log: _graph(log, experts=False))),
        experts_graph_bytes=round(_median(late, lambda log: _graph(log, experts=True))),
    )


def _is_late(log: MemoryLog) -> bool:
    return not serving_of(log).engine.sorts


def _alone(log: MemoryLog) -> bool:
    return log.tensor_parallel == log.pipeline_parallel == 1


def _shared(log: MemoryLog) -> bool:
    return log.tensor_parallel > 1


def _held(log: MemoryLog) -> int | None:
    """Return what was taken of the GPU before the engine took anything."""
    return None if log.free_bytes is None else log.total_bytes - log.free_bytes


def _median(logs: Iterable[MemoryLog], read: Callable[[MemoryLog], float | None]) -> float:
    return statistics.median(value for value in map(read, logs) if value is not None)


def _outside(logs: Iterable[MemoryLog], wanted: Callable[[MemoryLog], bool]) -> int:
    return round(_median(filter(wanted, logs), lambda log: log.non_torch_bytes))


def _sorting(log: MemoryLog) -> float | None:
    """Return the bytes an entry of the logits beyond the model's own, where they decide."""
    start = start_of(log)
    rows = min(start.limits.sequences, start.limits.batched_tokens)
    sampled = rows * start.shape.vocabulary
    beside = start.activation_bytes - sampled * fitted().sorting_bytes
    hidden = start.shape.experts or start.shape.vision_parameters
    if log.activation_bytes is None or hidden or log.activation_bytes < 2 * beside:
        return None
    return (log.activation_bytes - beside) / sampled


def _pixels(log: MemoryLog) -> float | None:
    """Return the bytes of images of the profile, for each token."""
    start = start_of(log)
    if log.activation_bytes is None or not start.image_bytes:
        return None
    rest = log.activation_bytes - (start.activation_bytes - start.image_bytes)
    tokens = start.limits.batched_tokens
    return rest / tokens - start.shape.hidden * start.shape.dtype_bytes


def _graph(log: MemoryLog, *, experts: bool) -> float | None:
    """Return the bytes of one graph of one layer beside the buffers that all share."""
    start = start_of(log)
    graphs = log.expected_bytes or log.graphs_bytes
    if graphs is None or bool(start.shape.experts) != experts:
        return None
    layers = -(-start.shape.layers // log.pipeline_parallel)
    shared = start.graph_bytes - start.graphs * layers * start.each_graph_bytes
    return (graphs - shared) / start.graphs / layers


def _error(predicted: int, logged: int | None) -> float | None:
    """Return the relative error; there is none of an amount that is not above zero."""
    return None if logged is None or logged <= 0 else predicted / logged - 1


def fitted_text(logs: Sequence[MemoryLog]) -> str:
    """Return the text of `fitted.toml`."""
    head = (
        "# What logs say and no source states: made by `fit` of the logs that may serve for it.\n"
    )
    values = fit(logs)
    return head + "".join(f"{f.name} = {getattr(values, f.name)!r}\n" for f in fields(Fitted))


def adds_up(log: MemoryLog) -> bool:
    """Whether the amounts of a log make up the budget it names, as those of one start do."""
    parts = (log.weights_bytes, log.activation_bytes, log.non_torch_bytes, log.kv_bytes)
    known = [part for part in parts if part is not None]
    rounding = 0.1 * GIB
    budget = log.total_bytes * log.utilization
    return len(known) < len(parts) or abs(sum(known) - budget) < rounding
