"""What a rule has to say: the fact and its source, what to change, and what was tried for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from builder.rules.change import Move

Severity = Literal["error", "warning", "note"]
"""`error`: it will not start, or not as asked. `warning`: it starts, and will bite, or nobody
knows. `note`: good to know."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a stack, found by one rule."""

    severity: Severity
    place: str
    """Field of the stack, dotted, such as `serve.args.swap-space`."""
    text: str
    """What is so, with expected and found values."""
    hint: str
    """What to change."""
    source: str
    """Who says so."""
    moves: tuple[Move, ...] = ()
    """Changes that would end it by this rule alone; the search tries them against all rules."""
    nearest: Move | None = None
    """The smallest change found after which no rule refuses; None where none was found."""
    rule: str = ""
    """Id of the rule, set when it runs."""
    verified: bool = True
    """False where a fact that it rests on was not read in a source."""


def error(place: str, text: str, hint: str, source: str, **more: Any) -> Finding:
    """Return a finding that refuses the stack."""
    return Finding("error", place, text, hint, source, **more)


def warning(place: str, text: str, hint: str, source: str, **more: Any) -> Finding:
    """Return a finding that lets the stack pass."""
    return Finding("warning", place, text, hint, source, **more)


def note(place: str, text: str, hint: str, source: str, **more: Any) -> Finding:
    """Return a finding that is good to know."""
    return Finding("note", place, text, hint, source, **more)
