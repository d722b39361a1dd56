"""All that is known of a stack before a byte moves: verdicts, pins, memory, layers, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import files, plan
from builder import lock as locks
from builder.pipeline import cells, checking, planning
from builder.pipeline.locking import Locked, stale

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
    if checked.lock is not None:
        # All cells have the same layers: those of the first are as good as any.
        path = locks.path_for(stack_path, checked.stack.name)
        locked = cells.narrowed(Locked(stack_path, path, checked.lock), names[0])
        if checked.drift:
            raise stale(locked, checked.drift)
        forecast = planning.plan_lock(locked, files.cache_folder(), options)
    return Overview(checked, plan.pins(checked.verdicts[0].subject), forecast)
