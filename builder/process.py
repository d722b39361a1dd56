"""Run a tool of the machine and report its failure with what it printed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from builder.errors import HostError, ToolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def find(program: str, hint: str) -> str:
    """Return the path of `program`, or raise HostError with `hint`."""
    path = shutil.which(program)
    if path is None:
        message = f"`{program}` is not installed"
        raise HostError(message, hint)
    return path


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run `argv` to its end and return what it printed to stdout.

    Raises:
        ToolError: it exited non-zero; carries the last lines of its output.
    """
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=env, cwd=cwd, errors="replace"
    )
    if done.returncode != 0:
        raise ToolError(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))
