"""The verdict on one cell: what all rules say, and the nearest cell that works."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from builder.rules import search
from builder.rules.change import cost
from builder.rules.finding import SEVERITIES, Finding
from builder.rules.registry import rules
from builder.rules.served import forecast_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.memory import Forecast
    from builder.rules.change import Move
    from builder.rules.subject import Subject

Word = Literal["works", "works with warnings", "refused"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a stack on one of its GPUs."""

    subject: Subject
    findings: tuple[Finding, ...]
    """Errors first."""
    nearest: Move | None = None
    """For a refused one: the smallest change found after which nothing is refused."""

    @property
    def memory(self) -> Forecast | None:
        """Return the memory of one GPU; None where model or GPU is unknown."""
        return forecast_of(self.subject)

    @property
    def word(self) -> Word:
        """Return the verdict."""
        kinds = {finding.severity for finding in self.findings}
        if "error" in kinds:
            return "refused"
        return "works with warnings" if "warning" in kinds else "works"


def judge(subject: Subject) -> Verdict:
    """Return the verdict of all rules on a subject."""
    found = sorted(
        (*search.findings(subject), *_unknown(subject)),
        key=lambda each: SEVERITIES.index(each.severity),
    )
    refused = [finding for finding in found if finding.severity == "error"]
    move = search.nearest((subject,), refused) if refused else None
    return Verdict(
        subject, tuple(_with_nearest(each, subject, move, refused) for each in found), move
    )


def nearest_for_all(verdicts: Sequence[Verdict]) -> Move | None:
    """Return the cheapest move after which no cell of a stack is refused, if one was found."""
    refused = [each for verdict in verdicts for each in verdict.findings]
    refused = [finding for finding in refused if finding.severity == "error"]
    return search.nearest([verdict.subject for verdict in verdicts], refused)


def _unknown(subject: Subject) -> Iterator[Finding]:
    """A misspelled exception excepts nothing, and must not look as if it did."""
    for name in subject.stack.rules.keys() - rules().keys():
        text = f"there is no rule `{name}`"
        yield Finding("warning", f"rules.{name}", text, "builder explain lists them", "", rule=name)


def _with_nearest(
    finding: Finding, subject: Subject, move: Move | None, refused: list[Finding]
) -> Finding:
    """A warning has a nearest cell of its own, where the stack works at all."""
    if finding.severity == "error":
        return replace(finding, nearest=move)
    if refused or finding.severity == "note":
        return finding
    return replace(finding, nearest=_quiet(finding, subject))


def _quiet(finding: Finding, subject: Subject) -> Move | None:
    """Return the cheapest of its own moves that ends a warning and refuses nothing."""
    for move in sorted(finding.moves, key=cost):
        after = subject.after(move)
        is_left = any(each.severity != "note" for each in search.said_by(finding.rule, after))
        if not is_left and next(search.errors(after), None) is None:
            return move
    return None
