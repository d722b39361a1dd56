"""Parsers by name: of what a model writes as it calls tools or reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue import flags
from builder.catalogue.arguments import releases_read
from builder.catalogue.limits import parser_spans, parsers
from builder.catalogue.nearest import nearest
from builder.rules.arguments import offered, place_of
from builder.rules.change import Change, Move
from builder.rules.finding import error
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_TOOL, _AUTO = "tool-call-parser", "enable-auto-tool-choice"
_REASONING, _ENABLED = "reasoning-parser", "enable-reasoning"
_CHECK = "vllm/entrypoints/openai/api_server.py of 0.8.5 and 0.20.2: invalid tool call parser"


@rule("parser", "the engine's release has the parser that is named")
def parser(subject: Subject) -> Iterator[Finding]:
    """Refuse parsers of tool calls and of reasoning that the release does not have."""
    args, version = subject.args, subject.version
    if version not in releases_read():
        return
    if _AUTO in args and "tool-parser-plugin" not in args:
        yield from _named(subject, _TOOL, "tool", (_AUTO,))
    is_asked = _ENABLED in args or not offered(_ENABLED, version)
    if is_asked and "reasoning-parser-plugin" not in args:
        yield from _named(subject, _REASONING, "reasoning", (_ENABLED,))


def _named(subject: Subject, flag: str, kind: str, needing: tuple[str, ...]) -> Iterator[Finding]:
    name = subject.args.get(flag)
    if not isinstance(name, str) or not name:
        return
    there = parsers(kind, subject.version)
    if name in there:
        return
    if flags.accepts(flag, subject.version, name) is False:
        return  # some releases list the names as choices: `flag-value` says so
    near = nearest(name, {each: (each,) for each in there})
    text = f"{subject.engine} has no parser `{name}`"
    if released := parser_spans(kind, name):
        text += "; it is there " + ", ".join(_words(span) for span in released)
    hint = f"write {near[0]}" if near else f"write one of {', '.join(there)}"
    written = [each for each in (flag, *needing) if each in subject.args]
    leave: Move = tuple(Change(place_of(each), None) for each in written)
    moves: tuple[Move, ...] = tuple((Change(place_of(flag), each),) for each in near[:1])
    yield error(place_of(flag), text, hint, _CHECK, moves=(*moves, leave))


def _words(span: tuple[str, ...]) -> str:
    until = f" and gone in {span[1]}" if len(span) > 1 else ""
    return f"from {span[0]} on{until}"
