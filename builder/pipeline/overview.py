"""All that is known of a stack before a byte moves: verdicts, pins, memory, layers, disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import files, plan
from builder import lock as locks
from builder.pipeline import checking, planning
from builder.pipeline.locking import current

if TYPE_CHECKING:
    from pathlib import Path

    from builder.pipeline.checking import Checked
    from builder.pipeline.locking import Locked
    from builder.plan import Forecast, Pin


@dataclass(frozen=True)
class Overview:
    """A stack, its verdicts, and the forecast of its image."""

    checked: Checked
    pins: tuple[Pin, ...]
    forecast: Forecast | None
    """None: there is no lock yet, so no layer is known."""


def overview(stack_path: Path, options: planning.PlanOptions) -> Overview:
    """Return what is known of a stack; no network.

    Raises:
        StaleLockError: its lock is not current.
    """
    forecast = None
    checked = checking.check(stack_path)
    if locks.path_for(stack_path, checked.stack.name).exists():
        forecast = planning.plan_lock(_locked(stack_path), files.cache_folder(), options)
    return Overview(checked, plan.pins(checked.verdicts[0].subject), forecast)


def _locked(stack_path: Path) -> Locked:
    """All cells have the same layers: those of the first are as good as any."""
    locked = current(stack_path, may_lock=False)
    cells = locked.lock.cells
    return replace(locked, lock=locked.lock.cell(cells[0].name)) if cells else locked
