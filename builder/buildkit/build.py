"""Build a context with `docker buildx build`."""

from __future__ import annotations

import collections
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import console, dockerfile, process
from builder.digest import Digest, parse
from builder.errors import HostError, ToolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.buildkit.context import Context

_LAST_LINES = 20
_NATIVE = "leave out --executor buildkit: the native executor needs no engine"
_RENDER = "builder render STACK -o DIR writes the same context for a closer look"


@dataclass(frozen=True)
class Target:
    """Where BuildKit brings the image: the engine, or an OCI layout."""

    layout: Path | None = None
    is_archive: bool = False

    @property
    def flag(self) -> str:
        """The flag of `docker buildx build`."""
        if self.layout is None:
            return "--load"
        tar = "true" if self.is_archive else "false"
        # The value is a line of CSV.
        place = str(self.layout.resolve()).replace('"', '""')
        return f'--output=type=oci,tar={tar},"dest={place}"'


def check_engine() -> None:
    """Ask for what a build needs.

    Raises:
        HostError: no docker, no engine that answers, no buildx, or an engine without BuildKit.
    """
    docker = process.find("docker", _NATIVE)
    steps = (
        (("version",), "no container engine answers", _NATIVE),
        (("buildx", "version"), "docker has no buildx", f"install docker-buildx, or {_NATIVE}"),
        (("buildx", "inspect", "--bootstrap"), "the container engine has no BuildKit", _NATIVE),
    )
    for arguments, message, hint in steps:
        try:
            process.run([docker, *arguments])
        except ToolError as fault:
            raise HostError(message, hint) from fault


def build(context: Context, target: Target) -> Digest:
    """Build the image and return its digest.

    Raises:
        ToolError: the build failed; carries the last lines of its output.
    """
    argv = dockerfile.command(context.recipe, context.contexts, target.flag)
    with tempfile.TemporaryDirectory(prefix="builder-") as folder:
        answer = Path(folder) / "metadata.json"
        flags = ("--progress=plain", f"--metadata-file={answer}")
        _follow((*argv[:3], *flags, *argv[3:]), context.folder)
        return _digest(answer.read_bytes())


def _follow(argv: Sequence[str], folder: Path) -> None:
    """Run a tool to its end, showing what it says."""
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        argv,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as running:
        for line in running.stdout or ():
            last.append(line)
            console.note(line.rstrip())
    if running.returncode != 0:
        raise ToolError(argv, running.returncode, "".join(last), _RENDER)


def _digest(answer: bytes) -> Digest:
    """Return the digest of the manifest; an engine without an OCI store knows only the config's."""
    said = json.loads(answer)
    return parse(said.get("containerimage.digest") or said["containerimage.config.digest"])
