"""Facts as data: engines, GPUs, Debian releases and registries, with the types they are read into.

The tables lie beside this file as TOML and name their sources.  A name that the tables do not
hold is a `StackError` with the nearest names that they do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from builder.catalogue.drivers import cuda_driver
from builder.catalogue.hardware import (
    Architecture,
    Gpu,
    architecture,
    architectures,
    gpu,
    gpus,
    similar_gpus,
)
from builder.catalogue.tables import named, pick, table
from builder.units import MIB

__all__ = [
    "Architecture",
    "Debian",
    "Engine",
    "Gpu",
    "Registry",
    "architecture",
    "architectures",
    "cuda_driver",
    "debian",
    "debians",
    "engine",
    "engines",
    "gpu",
    "gpus",
    "registries",
    "similar_gpus",
]


@dataclass(frozen=True, slots=True)
class Engine:
    """An inference engine."""

    name: str
    distribution: str
    """Its name on the Python package index."""
    module: str
    """What `python -m` starts."""
    template: str
    """The family of Dockerfile templates."""
    accelerator: str
    """`cuda` or `cpu`."""
    debian: tuple[str, ...]
    """Packages it needs from the operating system at run time."""
    find_links: tuple[str, ...]
    """Pages with wheels that the package index does not have."""
    routes: tuple[str, ...]
    """Routes that it serves."""
    shm_bytes: int
    """Shared memory it needs on one device."""


@dataclass(frozen=True, slots=True)
class Debian:
    """A Debian release."""

    name: str
    version: str
    python: str
    """Its own Python, such as `3.11`."""
    glibc: str
    """Decides, with Python, which wheels fit."""
    essential: tuple[str, ...]
    """Essential packages that an image needs."""
    skip: tuple[str, ...]
    """Packages that are left out because nothing runs their scripts."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A kind of registry and its limits; None where none is known."""

    name: str
    title: str
    hosts: tuple[str, ...]
    """Patterns."""
    layer_bytes: int | None = None
    upload_seconds: int | None = None
    chunks: bool = True
    """Whether a blob may come in several requests."""
    manifest_bytes: int = 4 * MIB
    sources: dict[str, str] = field(default_factory=dict)
    """Who says so, by figure."""
    unverified: tuple[str, ...] = ()
    """Figures that the registry's own documents do not state."""


def engine(name: str) -> Engine:
    """Return the engine of that name."""
    return pick("engine", engines(), name)


def debian(name: str) -> Debian:
    """Return the Debian release of that name."""
    return pick("Debian release", debians(), name)


@lru_cache
def engines() -> dict[str, Engine]:
    """Return every engine by name."""
    return named(Engine, "engines")


@lru_cache
def registries() -> dict[str, Registry]:
    """Return every kind of registry by name; `other` stands for those that are not known."""
    return named(Registry, "registries")


@lru_cache
def debians() -> dict[str, Debian]:
    """Return every Debian release by name."""
    rows = dict(table("debian"))
    # The names of the table are those of packages; why each is left out stands beside it.
    skip = list(rows.pop("without-scripts"))
    return named(Debian, "debian", {name: {**row, "skip": skip} for name, row in rows.items()})
