"""What would have to be downloaded, as dry runs print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import console
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.sources.downloads import Wanted


def show_missing(missing: Sequence[Wanted], *, json: bool) -> None:
    """Print every file with its size."""
    if json:
        rows = [{"file": item.label, "size": item.size} for item in missing]
        console.emit_json(rows)
        return
    for item in missing:
        console.emit(f"{human_bytes(item.size):>10}  {item.label}")
    total = sum(item.size for item in missing)
    console.note(f"would download {len(missing)} files, {human_bytes(total)}")
