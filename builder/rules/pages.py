"""The pages of the rules: the same files are the documentation."""

from __future__ import annotations

from builder import files


def page(name: str) -> str:
    """Return the page of a rule as Markdown."""
    return (files.data_path("docs") / "rules" / f"{name}.md").read_text("utf-8")
