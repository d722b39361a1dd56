"""Guess which name was meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NOISE = re.compile(r"nvidia|geforce|tesla|[^a-z0-9]")
_SHORTEST = 2
"""Fewer characters say nothing: `l` begins half of the names."""
_CUTOFF = 0.75
_MOST = 4


def nearest(text: str, known: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Return the keys of `known` that `text` may mean, best first.

    Each key comes with the ways to write it.  The same words win, then the same beginning, then
    what looks alike.
    """
    plain = {key: [_plain(way) for way in ways] for key, ways in known.items()}
    wanted = _plain(text)
    if len(wanted) < _SHORTEST:
        return ()
    same = [key for key, ways in plain.items() if wanted in ways]
    begins = [key for key, ways in plain.items() if any(way.startswith(wanted) for way in ways)]
    return tuple(same or begins or _alike(wanted, plain))[:_MOST]


def _plain(text: str) -> str:
    return _NOISE.sub("", text.lower())


def _alike(wanted: str, plain: Mapping[str, list[str]]) -> list[str]:
    from difflib import get_close_matches

    owners: dict[str, list[str]] = {}
    for key, ways in plain.items():
        for way in ways:
            owners.setdefault(way, []).append(key)
    found = get_close_matches(wanted, owners, n=2, cutoff=_CUTOFF)
    return list(dict.fromkeys(key for way in found for key in owners[way]))
