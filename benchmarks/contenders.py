"""What is common to all who are measured: where they work, how they are called and checked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmarks import checks

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.inputs import Inputs
    from benchmarks.services import Engine, Registry

Kind = Literal["ours", "peer", "floor"]
Commands = Sequence[Sequence[str]]

IMAGE = "benchmark/image:1"


@dataclass
class Place:
    """Where one set of inputs is measured."""

    inputs: Inputs
    work: Path
    registry: Registry
    engine: Engine
    """With the containerd image store."""
    classic: Engine
    """With the overlay2 store."""
    number: int = 0
    """Of the run: names that must be new have it."""

    @property
    def target(self) -> Path:
        """The folder that contenders write into."""
        return self.work / "target"

    def repository(self, name: str) -> str:
        """Return where an image of this run is pushed, with a tag that is new."""
        return f"{self.registry.host}/benchmark/{name}:{self.number}"

    def clean(self) -> None:
        """Take away what runs made."""
        # What buildah leaves mounted, if it ran.
        mounted = str(self.target / "buildah" / "overlay")
        subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir(parents=True)
        self.registry.empty()
        for engine in (self.engine, self.classic):
            engine.empty()


def nothing(_: Place) -> None:
    """There is nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to an end state."""

    name: str
    kind: Kind
    commands: Callable[[Place], Commands]
    """What is timed, one after the other."""
    check: Callable[[Place], None] = nothing
    before: Callable[[Place], object] = nothing
    """What has to be there for a run, and is not timed."""
    once: Callable[[Place], object] = nothing
    """What has to be there for all runs."""
    disk: float = 0
    """Copies of the inputs that lie on the disk at the worst moment."""
    needs: tuple[str, ...] = ()
    """Programs."""


def python(module: str, place: Place, *arguments: str) -> list[str]:
    """Return the command that runs a module of these benchmarks on the inputs."""
    lock = str(place.inputs.lock)
    return [sys.executable, "-m", f"benchmarks.{module}", "--lock", lock, *arguments]


def in_layout(place: Place) -> None:
    """Check the layout in the target folder."""
    checks.layout(place.target / "oci", place.inputs)


def in_registry(place: Place) -> None:
    """Check what this run pushed."""
    checks.registry(place.repository("run"), place.inputs)


def in_engine(place: Place) -> None:
    """Check the image in the engine with the containerd store."""
    checks.engine(place.engine, IMAGE, place.inputs)


def in_classic(place: Place) -> None:
    """Check the image in the engine with the overlay2 store."""
    checks.engine(place.classic, IMAGE, place.inputs)
