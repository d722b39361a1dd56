"""The other executor: a build context on disk, and BuildKit that builds it."""

from builder.buildkit.build import Target, build, check_engine
from builder.buildkit.context import Context, Inputs, check_folder, forecast, write_context

__all__ = [
    "Context",
    "Inputs",
    "Target",
    "build",
    "check_engine",
    "check_folder",
    "forecast",
    "write_context",
]
