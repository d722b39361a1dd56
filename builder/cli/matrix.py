"""`builder matrix`: what CI builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from builder import console, pipeline
from builder.errors import StaleLockError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.pipeline.matrix import Cell

_NAME, _GPU, _STATE, _KEY = 32, 22, 8, 12
"""Characters of each column: 80 with the gaps."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    text = "List every image of stacks, one for each GPU, or what changed: a matrix for CI."
    app.command("matrix", help=text)(_matrix)


def _matrix(
    stacks: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[STACK...]", help="Stack files; all of stacks/ if none is named."),
    ] = None,
    *,
    changed_since: Annotated[
        str | None,
        typer.Option(
            "--changed-since", metavar="REV", help="Only images that differ from this git revision."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON to stdout, as GitHub's strategy.matrix.")
    ] = False,
) -> None:
    from builder.pipeline import matrix

    found = matrix.listed(tuple(stacks or ()) or matrix.every_stack(), changed_since)
    if json:
        console.emit_json({"include": [_row(cell) for cell in found]})
    elif found:
        console.emit("\n".join(_lines(found)))
    if not found:
        console.note(f"nothing changed since {changed_since}")
    missing = {str(cell.stack): None for cell in found if not cell.is_locked}
    if missing:
        console.note(f"not built for want of a lock: builder lock {' '.join(missing)}")
    _require_current(found)


def _row(cell: Cell) -> dict[str, Any]:
    return {
        "stack": str(cell.stack),
        "name": cell.name,
        "gpu": cell.gpu,
        "count": cell.count,
        "image": cell.image,
        "tag": cell.image.rpartition(":")[2],
        "lock": str(cell.lock),
        "baseline": str(cell.baseline),
        "key": cell.key,
        "locked": cell.is_locked,
        "stale": bool(cell.drift),
        "reason": cell.reason,
    }


def _lines(found: Sequence[Cell]) -> list[str]:
    rows = [("stack", "gpu", "lock", "key")]
    rows += [
        (_cut(cell.name, _NAME), _cut(_gpu(cell), _GPU), _state(cell), _short(cell.key))
        for cell in found
    ]
    return [
        f"{name:<{_NAME}}  {gpu:<{_GPU}}  {state:<{_STATE}}  {key}".rstrip()
        for name, gpu, state, key in rows
    ]


def _gpu(cell: Cell) -> str:
    return f"{cell.count} x {cell.gpu}" if cell.count > 1 else cell.gpu


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _state(cell: Cell) -> str:
    if cell.drift:
        return "stale"
    return "current" if cell.is_locked else "missing"


def _short(key: str | None) -> str:
    return (key or "").removeprefix("sha256:")[:_KEY]


def _require_current(found: Sequence[Cell]) -> None:
    """Fail if a lock is stale, having listed everything.

    Raises:
        StaleLockError: one is.
    """
    stale = {cell.lock: cell for cell in found if cell.drift}
    faults = [pipeline.stale_lock(cell.lock, cell.stack, cell.drift) for cell in stale.values()]
    if faults:
        raise StaleLockError("\n".join(each.message for each in faults), faults[0].hint)
