"""Search the nearest cell that works: the cheapest changes after which no rule refuses.

Rules propose moves that would satisfy them; every combination is judged by all rules before it is
offered, cheapest first, so what is offered works as far as the rules know.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from builder.rules.change import Move, cost
from builder.rules.registry import rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_MOST_CELLS = 400
"""Cells that are judged before the search gives up: a second at most."""
_MOST_MOVES = 4
_GPU = "target.gpu"


def findings(subject: Subject) -> Iterator[Finding]:
    """Yield what every rule has to say of a subject."""
    for name in rules():
        yield from said_by(name, subject)


def said_by(name: str, subject: Subject) -> Iterator[Finding]:
    """Yield what one rule has to say of a subject."""
    reason = subject.stack.rules.get(name)
    for finding in rules()[name](subject):
        yield finding if reason is None else _excepted(finding, reason)


def _excepted(finding: Finding, reason: str) -> Finding:
    """Let a stack pass that says why this rule does not hold for it."""
    if finding.severity != "error":
        return finding
    text = f"{finding.text} (excepted by the stack: {reason})"
    return replace(finding, severity="warning", text=text)


def errors(subject: Subject) -> Iterator[Finding]:
    """Yield what refuses a subject."""
    excepted = subject.stack.rules
    for rule in rules().values():
        if rule.refuses and rule.id not in excepted:
            yield from (each for each in rule(subject) if each.severity == "error")


def nearest(subjects: Sequence[Subject], refused: list[Finding]) -> Move | None:
    """Return the cheapest move after which no subject is refused, None where none was found.

    Several subjects are the cells of one stack: they share all but the GPU, which then stays.
    """
    order = count()
    queue: list[tuple[float, int, int, Move]] = []
    seen: set[frozenset[tuple[str, str]]] = set()

    def offer(before: Move, depth: int, found: list[Finding]) -> None:
        for move in _proposed(found):
            if len(subjects) > 1 and any(change.place == _GPU for change in move):
                continue
            both = merged(before, move)
            key = frozenset((change.place, repr(change.value)) for change in both)
            if both != before and key not in seen:
                seen.add(key)
                heapq.heappush(queue, (cost(both), next(order), depth, both))

    offer((), 1, refused)
    for _ in range(_MOST_CELLS):
        if not queue:
            return None
        _, _, depth, move = heapq.heappop(queue)
        found = (each for subject in subjects for each in errors(subject.after(move)))
        first = next(found, None)
        if first is None:
            return move
        if depth < _MOST_MOVES:
            offer(move, depth + 1, [first, *found])
    return None


def _proposed(found: list[Finding]) -> Iterator[Move]:
    """Only what the first error needs: the others are met on the way, or by what they propose."""
    for finding in found:
        yield from finding.moves


def merged(before: Move, move: Move) -> Move:
    """Return both moves as one; where both change a field, the later one counts."""
    places = {change.place for change in move}
    return (*(each for each in before if each.place not in places), *move)
