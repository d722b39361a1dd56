"""Every rule has a page that says what it does, and there is no page without a rule."""

import re
from pathlib import Path

import pytest

from builder.plan import TITLES
from builder.rules import rules
from builder.rules.pages import page

FOLDER = Path(__file__).parents[1] / "docs" / "rules"
NAMES = {name: rule.title for name, rule in rules().items()} | TITLES
"""Titles by id: the rules, and what `builder plan` finds."""
SECTIONS = ("## When", "## Why", "## What to do", "## Sources")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_page_says_when_why_and_what_to_do(name: str) -> None:
    lines = page(name).splitlines()
    assert lines[0] == f"# {name}"
    assert lines[2].rstrip(".").lower() == NAMES[name].lower()
    assert [title for title in SECTIONS if title not in lines] == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_page_names_the_severities_of_its_rule(name: str) -> None:
    line = next(line for line in page(name).splitlines() if line.startswith("Severity: "))
    assert set(re.findall(r"error|warning|note", line))


def test_there_is_no_page_without_a_rule() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")} - {"index"}
    assert pages == set(NAMES)


def test_the_index_is_what_the_rules_make_of_it() -> None:
    from docs.rules_index import text

    assert (FOLDER / "index.md").read_text("utf-8") == text()
