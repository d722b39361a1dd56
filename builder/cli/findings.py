"""Findings as people read them, and as JSON shows them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.cli.colour import Line
    from builder.rules import Finding, Move

WIDTH = 80


def lines(finding: Finding, place: str, only: str = "") -> Iterator[Line]:
    """Yield a finding at a place, its remedy, its rule and its source."""
    yield from claim(finding, place, only)
    yield from hint(finding)
    source = f"; source: {finding.source}" if finding.source else ""
    says = wrapped(f"rule: {finding.rule}{source}", "      ", "        ")
    yield from ((line, "dim") for line in says)


def claim(finding: Finding, place: str, only: str = "") -> Iterator[Line]:
    """Yield what is so."""
    doubt = "" if finding.verified else " (not verified)"
    parts = [finding.severity, place, f"{finding.text}{doubt}{only}"]
    text = ": ".join(part for part in parts if part)
    yield from ((line, finding.severity) for line in wrapped(text, "  ", "      "))


def hint(finding: Finding) -> Iterator[Line]:
    """Yield what to do."""
    yield from ((line, "") for line in wrapped(f"hint: {finding.hint}", "      ", "        "))


def wrapped(text: str, first: str, later: str) -> list[str]:
    """Return the lines of a text, 80 characters wide; long words stay whole."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def grouped(cells: Sequence[tuple[str, Sequence[Finding]]]) -> list[tuple[Finding, list[str]]]:
    """Say once what is true of several cells, with their GPUs; errors come first."""
    from builder.rules import SEVERITIES

    groups: dict[tuple[str, ...], tuple[Finding, list[str]]] = {}
    for gpu, findings in cells:
        for finding in findings:
            key = (finding.severity, finding.rule, finding.place, finding.text, finding.hint)
            groups.setdefault(key, (finding, []))[1].append(gpu)
    return sorted(groups.values(), key=lambda group: SEVERITIES.index(group[0].severity))


def described(finding: Finding, line: int | None) -> dict[str, Any]:
    """Return a finding as JSON shows it."""
    return {
        "rule": finding.rule,
        "severity": finding.severity,
        "place": finding.place,
        "line": line,
        "text": finding.text,
        "hint": finding.hint,
        "source": finding.source,
        "verified": finding.verified,
        "nearest": move(finding.nearest),
    }


def move(changes: Move | None) -> dict[str, Any] | None:
    """Return the new value of each field, None where there is no move."""
    if changes is None:
        return None
    return {change.place: _plain(change.value) for change in changes}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, str | int | float | list) else str(value)
