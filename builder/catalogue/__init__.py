"""Facts as data: engines, GPUs, Debian releases and registries, with the types they are read into.

The tables lie beside this file as TOML and name their sources.  A name that the tables do not
hold is a `StackError` with the nearest names that they do.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from builder.catalogue.nearest import nearest
from builder.errors import StackError
from builder.units import GIB, MIB

_Row = TypeVar("_Row")

__all__ = [
    "Debian",
    "Engine",
    "Gpu",
    "Registry",
    "cuda_driver",
    "debian",
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
class Gpu:
    """A GPU as one orders it: a model with a form and an amount of memory."""

    name: str
    """Key of the catalogue, such as `h100-sxm-80gb`."""
    title: str
    aliases: tuple[str, ...]
    """What people write; several GPUs may share one."""
    compute_capability: str
    """Such as `9.0`."""
    memory_bytes: int
    """What `nvidia-smi` prints as `memory.total`."""
    visible_bytes: int | None
    """What the engine sees of it, where that was measured."""
    oldest_driver: int
    """Oldest driver branch, such as `520`."""
    arch: str
    """`amd64` or `arm64`: the hosts it is sold with."""
    verified: bool
    """False where `memory_bytes` was not seen printed by a real one."""
    source: str


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
    return _pick("engine", engines(), name)


def gpu(name: str) -> Gpu:
    """Return the GPU of that name."""
    return _pick("GPU", gpus(), name, similar_gpus(name))


def debian(name: str) -> Debian:
    """Return the Debian release of that name."""
    return _pick("Debian release", _debians(), name)


def cuda_driver(major: str) -> str:
    """Return the oldest Linux driver that runs programs of a CUDA major release such as `13`."""
    table = _table("cuda")
    if major not in table:
        message = f"engine.cuda: no driver is known for CUDA {major}"
        raise StackError(message, f"known releases: {', '.join(sorted(table))}")
    return str(table[major]["driver"])


@lru_cache
def engines() -> dict[str, Engine]:
    """Return every engine by name."""
    return {name: Engine(name=name, **_frozen(row)) for name, row in _table("engines").items()}


@lru_cache
def gpus() -> dict[str, Gpu]:
    """Return every GPU by name."""
    return {name: _gpu(name, row) for name, row in _table("gpus").items()}


@lru_cache
def registries() -> dict[str, Registry]:
    """Return every kind of registry by name; `other` stands for those that are not known."""
    return {name: Registry(name=name, **_frozen(row)) for name, row in _table("registries").items()}


def similar_gpus(text: str) -> tuple[str, ...]:
    """Return the names of the GPUs that `text` may mean, best first."""
    titles = {name: (name, item.title, *item.aliases) for name, item in gpus().items()}
    return nearest(text, titles)


@lru_cache
def _debians() -> dict[str, Debian]:
    table = dict(_table("debian"))
    # The keys of a table or the items of a list: either way the names of packages.
    skip = tuple(table.pop("without-scripts", ()))
    return {name: _debian(name, row, skip) for name, row in table.items()}


def _debian(name: str, row: dict[str, Any], skip: tuple[str, ...]) -> Debian:
    facts = {key: row[key] for key in ("version", "python", "glibc")}
    return Debian(name=name, **facts, essential=tuple(row.get("essential", ())), skip=skip)


def _gpu(name: str, row: dict[str, Any]) -> Gpu:
    facts = _frozen({"verified": True, **row})
    memory, visible = facts.pop("memory_mib") * MIB, facts.pop("visible_gib", None)
    visible_bytes = None if visible is None else round(visible * GIB)
    return Gpu(name=name, memory_bytes=memory, visible_bytes=visible_bytes, **facts)


def _frozen(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}


@lru_cache
def _table(name: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"{name}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _pick(kind: str, table: dict[str, _Row], name: str, similar: tuple[str, ...] = ()) -> _Row:
    if name in table:
        return table[name]
    near = similar or nearest(name, {known: (known,) for known in table}) or tuple(table)
    message = f"unknown {kind} `{name}`"
    raise StackError(message, "known: " + ", ".join(near))
