"""Bits per second, as people write and read them."""

from __future__ import annotations

import re

from builder.errors import UsageError

_RATE = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)(bit|bits|b|bps|B)(?:/s|ps)?")
_PREFIXES = ("", "k", "M", "G", "T")
_STEPS = (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3))
_BYTE = 8


def rate(text: str) -> int:
    """`10Gbit/s`, `100 Mbps` or `1.25GB/s` → bits per second; `B` is a byte and `b` a bit.

    Raises:
        UsageError: it is none, or nothing would ever arrive.
    """
    found = _RATE.fullmatch(text.strip())
    if found:
        number, prefix, binary, unit = found.groups()
        step = 1024 if binary else 1000
        scale: int = step ** _PREFIXES.index(prefix.replace("K", "k"))
        bits = round(float(number) * scale * (_BYTE if unit == "B" else 1))
        if bits > 0:
            return bits
    message = f"--bandwidth: expected a rate such as `10Gbit/s` or `1.25GB/s`, got `{text}`"
    raise UsageError(message, "write bit for bits and B for bytes")


def human_rate(bits: int) -> str:
    """`1000000000` → `1 Gbit/s`."""
    for unit, size in _STEPS:
        if bits >= size:
            return f"{bits / size:.4g} {unit}"
    return f"{bits} bit/s"
