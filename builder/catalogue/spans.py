"""Facts that hold in some releases: `fp8 | fp8_inc @ 0.10.0.. | int8 @ ..0.9.0, 0.12.0..`.

A span goes from a release to the first without it again, and is open where there is none.
A word without spans holds wherever its argument is.
"""

from __future__ import annotations

from functools import lru_cache

from packaging.version import Version

Pairs = tuple[tuple[str, ...], ...]
"""The first release with something and the first without it again, if any; and so on."""


def pairs(text: str, oldest: str) -> Pairs:
    """Return spans as pairs; `oldest` is where open beginnings begin."""
    spans = [span.partition("..") for span in (text or "..").split(", ")]
    return tuple((start or oldest, end) if end else (start or oldest,) for start, _, end in spans)


def holds(spans: Pairs, version: str) -> bool:
    """Whether a release lies in one of the spans."""
    return any(between(version, *span) for span in spans)


def between(version: str, since: str, until: str | None = None) -> bool:
    """Whether a release lies between one with something and the first without it again, if any."""
    asked = _version(version)
    return _version(since) <= asked and (until is None or asked < _version(until))


def words(text: str) -> dict[str, str]:
    """Return each word with its spans as text."""
    items = [item.partition(" @ ") for item in text.split(" | ")] if text else []
    return {word: spans for word, _, spans in items}


def at(text: str, version: str, oldest: str) -> tuple[str, ...]:
    """Return the words that hold in a release."""
    return tuple(
        word
        for word, spans in words(text).items()
        if not spans or holds(pairs(spans, oldest), version)
    )


@lru_cache(maxsize=512)
def _version(text: str) -> Version:
    return Version(text)
