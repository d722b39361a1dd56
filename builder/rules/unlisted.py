"""Values of open lists: plugins add to them, so one that the engine does not list may still do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.catalogue import flags
from builder.catalogue.nearest import nearest
from builder.rules.arguments import given, place_of, resolved
from builder.rules.change import Change, Move
from builder.rules.finding import warning
from builder.rules.registry import rule
from builder.rules.values import judged_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_SOURCE = "vllm/engine/arg_utils.py and vllm/config in the wheels"
_OWN_RULE = {"tool-call-parser", "reasoning-parser"}


@rule("value-unlisted", "the engine lists the value itself")
def value_unlisted(subject: Subject) -> Iterator[Finding]:
    """Warn of a word that the release does not list, where its parser takes others too."""
    version = subject.version
    for flag, written, value in given(subject):
        name = resolved(flag, version)
        if name is None or name in _OWN_RULE or not isinstance(value, str):
            continue
        words = flags.known(name, version)
        if not words or flags.choices(name, version) is not None or _is_listed(name, words, value):
            continue
        near = nearest(value, {word: (word,) for word in words})
        moves: tuple[Move, ...] = tuple((Change(place_of(flag), word),) for word in near[:1])
        text = f"{subject.engine} does not list `{value}` for {name}; a plugin may bring it"
        hint = f"nearest: {near[0]}" if near else f"it lists {', '.join(words[:8])}"
        yield warning(place_of(written), text, hint, _SOURCE, moves=moves)


def _is_listed(name: str, words: tuple[str, ...], value: str) -> bool:
    """The engine compares some words without regard to case; classes are named by their paths."""
    known = {word.lower() for word in (*words, *judged_elsewhere(name))}
    return value.lower() in known or "." in value
