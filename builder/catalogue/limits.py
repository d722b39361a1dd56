"""What some models refuse, a number format or to be cut into stages, and since when they run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from builder.catalogue import spans
from builder.catalogue.tables import listed, table

_OLDEST = "0.8.0"


@dataclass(frozen=True, slots=True)
class Limit:
    """A class of models that refuses something, by release."""

    architecture: str
    """As `architectures` of a config.json names it."""
    since: str
    source: str
    until: str | None = None
    """First release for which it is no longer so."""
    unverified: tuple[str, ...] = ()

    def holds(self, version: str) -> bool:
        """Whether it is so in a release."""
        return spans.between(version, self.since, self.until)


def no_float16(architecture: str, version: str) -> Limit | None:
    """Return why a model refuses float16, None where it does not."""
    return _found("float16", architecture, version)


def no_pipeline(architecture: str, version: str) -> Limit | None:
    """Return why a model cannot be cut into stages, None where it can or nobody looked."""
    return _found("pipeline", architecture, version)


def _found(kind: str, architecture: str, version: str) -> Limit | None:
    rows = (row for row in limits(kind) if row.architecture == architecture)
    return next((row for row in rows if row.holds(version)), None)


@lru_cache
def limits(kind: str) -> tuple[Limit, ...]:
    """Return the limits of one kind: `float16` or `pipeline`."""
    return listed(Limit, "limits", kind)


def first_with(architecture: str) -> str | None:
    """Return the first release with a class of models; None for one that 0.8.0 had, or none has."""
    found = table("classes")["since"].get(architecture)
    return str(found) if found else None


def parsers(kind: str, version: str) -> tuple[str, ...]:
    """Return the parsers of one kind, `tool` or `reasoning`, by name, in a release."""
    rows = table("parsers")[kind].items()
    return tuple(name for name, text in rows if spans.holds(spans.pairs(text, _OLDEST), version))


def parser_spans(kind: str, name: str) -> spans.Pairs | None:
    """Return the releases that have a parser, None where none has."""
    text = table("parsers")[kind].get(name)
    return spans.pairs(text, _OLDEST) if text else None
