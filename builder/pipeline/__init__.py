"""The order of the steps.  Nothing else knows it.

stack file → Stack → Lock → Recipe → files → layers → Image → output
"""

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
