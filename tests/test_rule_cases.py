"""The table of verdicts: stack → verdict, rules, nearest cell that works."""

from collections import Counter

import pytest

from builder import rules
from tests.rule_case import Case, cases, judged, subject

by_name = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)


def ids(case: Case, severity: str) -> set[str]:
    return {each.rule for each in judged(case).findings if each.severity == severity}


@by_name
def test_the_verdict_is_the_tables(case: Case) -> None:
    assert ids(case, "error") == set(case.refused)
    assert set(case.warned) <= ids(case, "warning")
    assert set(case.noted) <= ids(case, "note")


@by_name
def test_a_near_miss_is_silent(case: Case) -> None:
    assert not {each.rule for each in judged(case).findings} & set(case.silent)


@by_name
def test_the_findings_say_the_words(case: Case) -> None:
    text = "\n".join(f"{each.text}\n{each.hint}" for each in judged(case).findings)
    assert [word for word in case.says if word not in text] == []


@by_name
def test_the_nearest_cell_is_the_tables(case: Case) -> None:
    move = judged(case).nearest
    found = {change.place: _plain(change.value) for change in move} if move else None
    assert found == (dict(case.nearest) if case.nearest is not None else None)


def _plain(value: object) -> object:
    """As the table can write it: TOML has no null."""
    if value is None:
        return "left out"
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value)


@by_name
def test_the_nearest_cell_is_not_refused(case: Case) -> None:
    move = judged(case).nearest
    if move:
        assert rules.judge(subject(case).after(move)).word != "refused"


@by_name
def test_every_finding_names_source_and_remedy(case: Case) -> None:
    for finding in judged(case).findings:
        assert finding.text
        assert finding.hint
        assert finding.source
        assert finding.rule in rules.rules()


def test_names_are_unique_and_sources_given() -> None:
    counts = Counter(case.name for case in cases())
    assert [name for name, count in counts.items() if count > 1] == []
    assert [case.name for case in cases() if not case.source.strip()] == []


def test_every_rule_named_in_a_case_exists() -> None:
    named = {
        name
        for case in cases()
        for name in (*case.refused, *case.warned, *case.noted, *case.silent)
    }
    assert named - rules.rules().keys() == set()


NEED_A_LOCK = {"kernels-unknown", "library-kernels"}
"""Rules of a lock's wheels: tests/test_rules_*.py."""


@pytest.mark.parametrize("name", sorted(rules.rules().keys() - NEED_A_LOCK))
def test_every_rule_fires_in_a_case_and_is_silent_in_a_near_miss(name: str) -> None:
    fires = [c.name for c in cases() if name in (*c.refused, *c.warned, *c.noted)]
    silent = [c.name for c in cases() if name in c.silent]
    assert fires, "add a case in which the rule fires"
    assert silent, "add a near miss to a case: `silent`"
