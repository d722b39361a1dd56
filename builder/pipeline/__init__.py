"""The order of the steps.  Nothing else knows it.

stack file → Stack → Lock → Recipe → files → layers → Image → output

Every step is loaded when it is first used: what only judges a stack loads no registry client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.pipeline.building import (
        BuildOptions,
        Built,
        Forecast,
        assemble,
        build,
        build_cells,
        fetch,
        forecast,
        missing,
    )
    from builder.pipeline.locking import (
        Locked,
        LockOptions,
        LockResult,
        current,
        drift,
        lock,
        stale,
        stale_lock,
    )
    from builder.pipeline.rendering import RenderOptions, build_with_buildkit, render
    from builder.pipeline.running import run, smoke

_STEPS = ("locking", "building", "rendering", "running")
"""Modules, those that load little first."""

__all__ = [
    "BuildOptions",
    "Built",
    "Forecast",
    "LockOptions",
    "LockResult",
    "Locked",
    "RenderOptions",
    "assemble",
    "build",
    "build_cells",
    "build_with_buildkit",
    "current",
    "drift",
    "fetch",
    "forecast",
    "lock",
    "missing",
    "render",
    "run",
    "smoke",
    "stale",
    "stale_lock",
]


def __getattr__(name: str) -> Any:
    """Return a function of one of the steps (PEP 562)."""
    if name in __all__:
        for step in _STEPS:
            module = import_module(f"{__name__}.{step}")
            found = vars(module).get(name)
            if getattr(found, "__module__", None) == module.__name__:
                return found
    message = f"module `{__name__}` has no attribute `{name}`"
    raise AttributeError(message)
