"""Lines with a look: colour on a terminal, plain text elsewhere."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from builder import console

if TYPE_CHECKING:
    from collections.abc import Iterable

Line = tuple[str, str]
"""A text, and how it looks where there is colour."""

_STYLES = {
    "head": "1",
    "good": "32",
    "error": "1;31",
    "warning": "33",
    "note": "36",
    "dim": "2",
}


def show(lines: Iterable[Line]) -> None:
    """Print lines to stdout."""
    is_plain = not has_colour(is_terminal=sys.stdout.isatty())
    console.emit("\n".join(text if is_plain else coloured((text, look)) for text, look in lines))


def has_colour(*, is_terminal: bool) -> bool:
    """Tell whether lines may be coloured."""
    is_dull = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return is_terminal and not is_dull


def coloured(line: Line) -> str:
    """Return a line as terminals show it in colour."""
    text, style = line
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style else text
