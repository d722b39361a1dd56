"""Facts release by release, written as the spans of releases in which each holds."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from builder.errors import ResolveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ORDER = (
    "kind", "form", "aliases", "off", "values", "open", "words", "folds", "scaled",
    "deprecated", "default",
)  # fmt: skip
_Rows = dict[str, dict[str, Any]]
"""By release: what is known of one argument."""


def table(facts: Mapping[str, dict[str, dict[str, dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    """Return arguments and variables by name, from facts by release in order."""
    found: dict[str, dict[str, Any]] = {}
    for part in ("flags", "variables"):
        names = sorted({name for each in facts.values() for name in each[part]})
        found[part] = {
            name: _entry(
                {
                    release: each[part][name]
                    for release, each in facts.items()
                    if name in each[part]
                },
                list(facts),
            )
            for name in names
        }
    return found


def _entry(rows: _Rows, releases: list[str]) -> dict[str, str]:
    entry = {"present": _spans(list(rows), releases)}
    for key in _ORDER:
        held = dict(_held(rows, key))
        if held:
            entry[key] = " | ".join(_item(word, held[word], list(rows)) for word in held)
    return {key: text for key, text in entry.items() if text}


def _held(rows: _Rows, key: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each value of a key, and the releases in which it has it."""
    held: dict[str, list[str]] = {}
    for release, row in rows.items():
        value = row.get(key, [])
        for word in value if isinstance(value, list) else [_plain(value)]:
            held.setdefault(word, []).append(release)
    yield from sorted(held.items(), key=lambda each: _order(key, each[0]))


def _order(key: str, word: str) -> tuple[int, str]:
    """Numbers by size, other words by letter, what has one value at a time as it comes."""
    if key in {"kind", "form", "default"}:
        return 0, ""
    return (int(word), "") if word.isdecimal() else (0, word)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _item(word: str, held: Sequence[str], among: list[str]) -> str:
    if " | " in word or " @ " in word:
        message = f"`{word}`: cannot be written into the table of arguments"
        raise ResolveError(message, "give builder/sources/engine_flags/spans.py another separator")
    spans = _spans(held, among)
    return f"{word} @ {spans}" if spans else word


def _spans(held: Sequence[str], among: list[str]) -> str:
    """Return `0.9.0..0.11.0`: from one release to that without it; open where there is none.

    Nothing is said where it is so in all of them.
    """
    if len(held) == len(among):
        return ""
    inside = set(held)
    texts = []
    for is_held, run in groupby(range(len(among)), key=lambda number: among[number] in inside):
        numbers = list(run)
        if is_held:
            start = among[numbers[0]] if numbers[0] else ""
            end = among[numbers[-1] + 1] if numbers[-1] + 1 < len(among) else ""
            texts.append(f"{start}..{end}")
    return ", ".join(texts)


def written(entries: dict[str, dict[str, Any]]) -> str:
    """Return the two tables as TOML, one entry a line."""
    lines = ["[flags]"]
    for name, entry in entries["flags"].items():
        lines.append(f'"{name}" = {_inline(entry)}')
    lines += ["", "[variables]"]
    for name, entry in entries["variables"].items():
        lines.append(f"{name} = {_inline(entry)}")
    return "\n".join(lines) + "\n"


def _inline(entry: dict[str, str]) -> str:
    pairs = ", ".join(f"{key} = {_quoted(text)}" for key, text in entry.items())
    return f"{{ {pairs} }}" if pairs else "{}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
