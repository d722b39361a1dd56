"""The forecast beside every log, as docs/memory.md shows it; a test keeps the page as made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue.memory_logs import MemoryLog, memory_logs
from builder.memory.calibration import Comparison, adds_up, compare, errors
from builder.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
    head = (
        "| logs | count | weights | all before the cache | cache | cache, share of the budget"
        " | graphs |"
    )
    lines = [head, "|---|---|---|---|---|---|---|", *(_summary(name, rows) for name, rows in sets)]
    return [*lines, "", *table([*fitting, *unseen, *logs.unplaced])]


def _is_laboratory(log: MemoryLog) -> bool:
    """Whether it is one of the many runs of one place on one kind of GPU."""
    return "llm-d-planner" in log.address


def _summary(name: str, logs: Sequence[MemoryLog]) -> str:
    items = [compare(log) for log in logs]
    kinds = ("weights_error", "taken_error", "cache_error", "budget_error", "graphs_error")
    cells = [_errors([getattr(item, kind) for item in items]) for kind in kinds]
    return f"| {name} | {len(logs)} | {' | '.join(cells)} |"


def _errors(values: Sequence[float | None]) -> str:
    if not any(value is not None for value in values):
        return "-"
    found = errors(values)
    return f"{found.median:.1%}, worst {found.worst:.1%}"


def table(logs: Iterable[MemoryLog]) -> list[str]:
    """Return the lines of a table: forecast and log side by side, GiB and tokens."""
    head = (
        "| log | may give numbers | model | GPU | version | weights | all before the cache | cache"
        " | error | graphs |"
    )
    return [head, "|---|---|---|---|---|---|---|---|---|---|", *map(_line, logs)]


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
        _taken(item),
        _cache(item),
        _percent(item),
        _pair(predicted.graphs_bytes, log.expected_bytes or log.graphs_bytes),
    )
    return f"| {' | '.join(cells)} |"


def _label(log: MemoryLog) -> str:
    if not log.address.startswith("https"):
        return log.address
    page, _, row = log.address.removeprefix("https://").partition("#")
    short = page.removeprefix("github.com/").replace("vllm-project/vllm/issues/", "vllm #")
    short = short.replace("vllm-project/vllm/pull/", "vllm #")
    return f"[{row.removesuffix('.log') or short}]({log.address})"


def _taken(item: Comparison) -> str:
    budget = item.forecast.budget_bytes
    logged = None if item.log.kv_bytes is None else budget - item.log.kv_bytes
    return _pair(budget - item.forecast.cache_bytes, logged)


def _cache(item: Comparison) -> str:
    if item.log.kv_tokens:
        return f"{item.forecast.cache_tokens:,} / {item.log.kv_tokens:,}"
    return f"{_pair(item.forecast.cache_bytes, item.log.kv_bytes)} GiB"


def _percent(item: Comparison) -> str:
    error = item.cache_error
    return "does not start" if error is None else f"{error:+.1%}"


def _pair(predicted: int, logged: int | None) -> str:
    return f"{predicted / GIB:.2f} / {'-' if logged is None else f'{logged / GIB:.2f}'}"
