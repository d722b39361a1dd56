"""All that is known of a stack before a byte moves: verdicts, pins, memory, layers, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import files, plan
from builder import lock as locks
from builder.pipeline import cells, checking, planning

if TYPE_CHECKING:
    from pathlib import Path

    from builder.pipeline.checking import Checked
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
        UsageError: it is not for the GPU that is asked about.
    """
    names = cells.asked(stack_path, options.gpu)
    checked = checking.check(stack_path, names)
    forecast = None
    if locks.path_for(stack_path, checked.stack.name).exists():
        # All cells have the same layers: those of the first are as good as any.
        locked = cells.of(stack_path, names[0], may_lock=False)
        forecast = planning.plan_lock(locked, files.cache_folder(), options)
    return Overview(checked, plan.pins(checked.verdicts[0].subject), forecast)
