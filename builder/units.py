"""Bytes and durations as people read them."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_DAYS_FROM = 2 * _DAY
_STEPS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def human_bytes(count: int) -> str:
    """`1234567` → `1.2 MB` (decimal units, as registries and disks are sold)."""
    for unit, size in _STEPS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def human_seconds(seconds: float) -> str:
    """`75.2` → `1 min 15 s`, `5000` → `1 h 23 min`; below a minute one decimal is kept."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAYS_FROM:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} days"
