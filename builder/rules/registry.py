"""The rules by their ids.  A rule is a small pure function: subject → findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from builder.catalogue.codes import spelt
from builder.catalogue.nearest import nearest
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

Check = Callable[["Subject"], Iterator["Finding"]]

_FAMILIES: tuple[str, ...] = (
    "drivers",
    "wheels",
    "gpu_code",
    "compiler",
    "quantisation",
    "quantisation_method",
    "precision",
    "attention",
    "parallel",
    "parallel_groups",
    "parallel_links",
    "memory",
    "arguments",
    "values",
    "unlisted",
    "parsers",
    "conflicts",
    "variables",
    "origins",
    "advisories",
    "serving",
    "container",
)
_rules: dict[str, Rule] = {}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: what it is called and what it looks at."""

    id: str
    title: str
    """One line."""
    check: Check
    refuses: bool = True
    """False: it warns at most, so a search for what works need not ask it."""

    def __call__(self, subject: Subject) -> Iterator[Finding]:
        for finding in self.check(subject):
            yield replace(finding, rule=self.id, source=spelt(finding.source))


def rule(name: str, title: str, *, refuses: bool = True) -> Callable[[Check], Check]:
    """Register a function as the rule `name`."""

    def register(check: Check) -> Check:
        _rules[name] = Rule(name, title, check, refuses)
        return check

    return register


@lru_cache
def rules() -> dict[str, Rule]:
    """Return every rule by id, in the order in which they are read."""
    places = {
        import_module(f"builder.rules.{name}").__name__: at for at, name in enumerate(_FAMILIES)
    }
    by_family = sorted(_rules.items(), key=lambda item: places[item[1].check.__module__])
    return dict(by_family)


def find(name: str) -> Rule:
    """Return the rule of that id, or say which are alike."""
    known = rules()
    if name in known:
        return known[name]
    near = nearest(name, {each: (each,) for each in known})
    message = f"explain: there is no rule `{name}`"
    raise UsageError(
        message, f"nearest: {', '.join(near)}" if near else "builder explain lists all"
    )
