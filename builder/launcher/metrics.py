"""The engine's counters, from Prometheus' text format (pure)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from builder.launcher.spec import Metrics

_SERIES = re.compile(
    r"""^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
        (?:\{(?:[^"}]|"(?:\\.|[^"\\])*")*\})?      # labels; a quoted value may hold anything
        [ \t]+(?P<value>\S+)""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True)
class Sample:
    """One look at the counters, summed over their series. None: the engine has none such."""

    waiting: float | None
    running: float | None
    tokens: float | None

    @property
    def requests(self) -> int | None:
        """Requests in the engine; None where it does not say."""
        if self.waiting is None and self.running is None:
            return None
        return round((self.waiting or 0.0) + (self.running or 0.0))


def sample(text: str, metrics: Metrics) -> Sample:
    """What `text` says about the counters named in `metrics`."""
    names = {*metrics.waiting, *metrics.running, *metrics.tokens}
    totals = sums(text, names)
    return Sample(
        waiting=_sum(totals, metrics.waiting),
        running=_sum(totals, metrics.running),
        tokens=_sum(totals, metrics.tokens),
    )


def sums(text: str, names: Iterable[str]) -> dict[str, float]:
    """Each of `names` that occurs in `text`, summed over all its series."""
    wanted = set(names)
    totals: dict[str, float] = {}
    for series in _SERIES.finditer(text):
        value = _number(series["value"]) if series["name"] in wanted else None
        if value is not None:
            totals[series["name"]] = totals.get(series["name"], 0.0) + value
    return totals


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def _sum(totals: dict[str, float], names: Iterable[str]) -> float | None:
    found = [totals[name] for name in names if name in totals]
    return sum(found) if found else None
