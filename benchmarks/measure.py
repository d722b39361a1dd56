"""One timed run of commands, and what they say about themselves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.services import search_path

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIMIT_SECONDS = 3600
_ROOT = Path(__file__).parents[1]
_LAST_LINES = 15


class RunError(Exception):
    """A command did not do what it should."""


def run(commands: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Run commands one after the other: seconds, and what the last one printed as JSON."""
    environment = os.environ | {"PATH": search_path(), "PYTHONPATH": str(_ROOT)}
    out = ""
    begin = time.perf_counter()
    for command in commands:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_LIMIT_SECONDS,
        )
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
            message = f"{' '.join(command[:8])} …: exit code {done.returncode}\n{last}"
            raise RunError(message)
        out = done.stdout
    seconds = time.perf_counter() - begin
    return {"seconds": round(seconds, 4)} | _said(out)


def _said(out: str) -> dict[str, Any]:
    last = out.strip().rpartition("\n")[2]
    if not last.startswith("{"):
        return {}
    said: dict[str, Any] = json.loads(last)
    return said


def settle() -> float:
    """Bring everything to the disk, and return the seconds that took."""
    begin = time.perf_counter()
    os.sync()
    return round(time.perf_counter() - begin, 3)
