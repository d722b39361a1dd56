"""The forecast held against published logs: the numbers it takes from them, and its errors.

Half of the logs, chosen by a hash of their address, may give numbers (`fit`); the others are only
compared.  `fitted_text` is what `fitted.toml` holds and `report` what docs/memory.md shows; a
test keeps both as they are made here.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from builder.catalogue.memory_logs import MemoryLog, memory_logs
from builder.memory.deployment import Device, Serving
from builder.memory.engine import Fitted, forward_elements
from builder.memory.forecast import Forecast, forecast
from builder.memory.shape import ModelShape, from_config
from builder.memory.weights import Split
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_ELEMENT_BYTES = {"auto": None, "fp8": 1}
_SAMPLER_RULES = 8
"""Bytes an entry that any sampler takes: from there on it outweighs the forward pass."""


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
        return _error(self.forecast.graphs_bytes, self.log.graphs_bytes)

    @property
    def cache_error(self) -> float | None:
        """Relative error of the tokens, or of the bytes where no tokens were logged."""
        if self.log.kv_tokens:
            return _error(self.forecast.cache_tokens, self.log.kv_tokens)
        return _error(self.forecast.cache_bytes, self.log.kv_bytes)

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
    )


def compare(log: MemoryLog) -> Comparison:
    """Return a log beside its forecast."""
    return Comparison(
        log, forecast(shape_of(log), serving_of(log), Device(log.gpu, log.total_bytes))
    )


def errors(values: Iterable[float | None]) -> Errors:
    """Return the errors that there are, without their signs."""
    known = sorted(abs(value) for value in values if value is not None)
    return Errors(len(known), statistics.median(known), known[-1])


def fit(logs: Sequence[MemoryLog]) -> Fitted:
    """Take the numbers from logs: medians, and one straight line for the graphs."""
    usable = [log for log in logs if log.may_fit]
    early = [log for log in usable if not _is_late(log)]
    late = [log for log in usable if _is_late(log)]
    graph, layer = _graphs([log for log in late if not shape_of(log).experts])
    return Fitted(
        sorting_bytes=round(_median(early, _sampler), 2),
        sampling_bytes=round(_median(late, _sampler), 2),
        context_bytes=_outside(early, lambda log: log.version == "0.6.4"),
        early_bytes=_outside(early, lambda log: _alone(log) and log.version != "0.6.4"),
        early_shared_bytes=_outside(early, lambda log: log.tensor_parallel > 1),
        late_bytes=_outside(late, _alone),
        late_shared_bytes=_outside(late, lambda log: log.tensor_parallel > 1),
        pipeline_bytes=_outside(late, lambda log: log.pipeline_parallel > 1),
        graph_bytes=graph,
        layer_graph_bytes=layer,
        experts_graph_bytes=round(
            _median(late, lambda log: _beyond(log, graph, layer) if shape_of(log).experts else None)
        ),
    )


def _is_late(log: MemoryLog) -> bool:
    return not serving_of(log).engine.sorts


def _alone(log: MemoryLog) -> bool:
    return log.tensor_parallel == log.pipeline_parallel == 1


def _median(logs: Iterable[MemoryLog], read: Callable[[MemoryLog], float | None]) -> float:
    return statistics.median(value for value in map(read, logs) if value is not None)


def _outside(logs: Iterable[MemoryLog], wanted: Callable[[MemoryLog], bool]) -> int:
    return round(_median(filter(wanted, logs), lambda log: log.non_torch_bytes))


def _sampler(log: MemoryLog) -> float | None:
    """Return the bytes an entry of the logits, where sampling is what the peak comes from."""
    serving = serving_of(log)
    shape = serving.loaded(shape_of(log))
    limits = compare(log).forecast.limits
    entries = min(limits.sequences, limits.batched_tokens) * shape.vocabulary
    elements = forward_elements(shape, serving.split, legacy=serving.engine.legacy)
    forward = limits.batched_tokens * elements * shape.dtype_bytes
    # Towers for images and buffers of experts hide the sampler; a stage before the last has none.
    hidden = shape.experts or shape.vision_parameters or serving.split.pipeline > 1
    if log.activation_bytes is None or hidden or forward > entries * _SAMPLER_RULES:
        return None
    return log.activation_bytes / entries - shape.dtype_bytes


def _graphs(logs: Sequence[MemoryLog]) -> tuple[int, int]:
    """Return the line through graphs times layers: its start and its slope, by least squares."""
    points = [(_captured(log), log.graphs_bytes) for log in logs if log.graphs_bytes]
    mean_x = statistics.mean(x for x, _ in points)
    mean_y = statistics.mean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return round(mean_y - slope * mean_x), round(slope)


def _beyond(log: MemoryLog, start: int, slope: int) -> float | None:
    """Return what the graphs of a log take beyond that line."""
    return None if log.graphs_bytes is None else log.graphs_bytes - start - slope * _captured(log)


def _captured(log: MemoryLog) -> int:
    item = compare(log).forecast
    layers = -(-shape_of(log).layers // log.pipeline_parallel)
    return layers * serving_of(log).engine.graphs(item.limits)


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


def report() -> list[str]:
    """Return the part of docs/memory.md that holds the errors and every log."""
    logs = memory_logs()
    fitting = [log for log in logs.logs if log.may_fit]
    unseen = [log for log in logs.logs if not log.may_fit]
    sets = (
        ("numbers taken from these", fitting),
        ("unseen", unseen),
        ("unseen, other than the laboratory", [log for log in unseen if not _is_laboratory(log)]),
        ("unseen, amounts that add up", [log for log in unseen if adds_up(log)]),
        ("address not known", logs.unplaced),
    )
    head = "| logs | count | weights | cache | cache, share of the budget | graphs |"
    lines = [head, "|---|---|---|---|---|---|", *(_summary(name, rows) for name, rows in sets)]
    return [*lines, "", *table([*fitting, *unseen, *logs.unplaced])]


def _is_laboratory(log: MemoryLog) -> bool:
    """Whether it is one of the many runs of one place on one kind of GPU."""
    return "llm-d-planner" in log.address


def _summary(name: str, logs: Sequence[MemoryLog]) -> str:
    items = [compare(log) for log in logs]
    kinds = ("weights_error", "cache_error", "budget_error", "graphs_error")
    cells = [_errors([getattr(item, kind) for item in items]) for kind in kinds]
    return f"| {name} | {len(logs)} | {' | '.join(cells)} |"


def _errors(values: Sequence[float | None]) -> str:
    if not any(value is not None for value in values):
        return "-"
    found = errors(values)
    return f"{found.median:.1%}, worst {found.worst:.1%}"


def table(logs: Iterable[MemoryLog]) -> list[str]:
    """Return the lines of a table: forecast and log side by side, GiB and tokens."""
    head = "| log | may give numbers | model | GPU | version | weights | cache | error | graphs |"
    return [head, "|---|---|---|---|---|---|---|---|---|", *map(_line, logs)]


def _line(log: MemoryLog) -> str:
    item = compare(log)
    predicted = item.forecast
    split = f"{log.tensor_parallel} x {log.pipeline_parallel}"
    count = log.tensor_parallel * log.pipeline_parallel
    gpu = log.gpu if count == 1 else f"{log.gpu}, {split}"
    placed = log.address.startswith("https")
    cells = (
        _label(log),
        ("yes" if log.may_fit else "no") if placed else "never",
        log.model,
        gpu,
        log.version,
        _pair(predicted.weights_bytes, log.weights_bytes),
        _cache(item),
        _percent(item),
        _pair(predicted.graphs_bytes, log.graphs_bytes),
    )
    return f"| {' | '.join(cells)} |"


def _label(log: MemoryLog) -> str:
    if not log.address.startswith("https"):
        return log.address
    page, _, row = log.address.removeprefix("https://").partition("#")
    short = page.removeprefix("github.com/").replace("vllm-project/vllm/issues/", "vllm #")
    short = short.replace("vllm-project/vllm/pull/", "vllm #")
    return f"[{row.removesuffix('.log') or short}]({log.address})"


def _cache(item: Comparison) -> str:
    if item.log.kv_tokens:
        return f"{item.forecast.cache_tokens:,} / {item.log.kv_tokens:,}"
    return f"{_pair(item.forecast.cache_bytes, item.log.kv_bytes)} GiB"


def _percent(item: Comparison) -> str:
    error = item.cache_error
    return "does not start" if error is None else f"{error:+.1%}"


def _pair(predicted: int, logged: int | None) -> str:
    return f"{predicted / GIB:.2f} / {'-' if logged is None else f'{logged / GIB:.2f}'}"
