"""The lock: every byte of an image, named.

A lock is a valid PEP 751 file.  Wheels are its `packages`; what is not Python lies under
`[tool.builder]`.  It holds no URL, no host and no local path.  Everything after it is a
projection of it, and nobody reads the stack file again: the lock holds a canonical copy.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from packaging.utils import parse_wheel_filename
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from builder.catalogue.code import ordered

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCK_VERSION = 1
PACKER_VERSION = 1
"""Rises when the same inputs would give other layers."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
LayerDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Architecture = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{1,2}[af]?$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Named = TypeVar("Named", "Wheel", "DebianPackage")
Filed = TypeVar("Filed", bound="ModelFile")
Size = Annotated[int, Field(ge=0)]


def _relative(path: str) -> str:
    """Accept one path segment or several, never absolute, never upwards."""
    segments = path.split("/")
    if not path.isprintable() or "\\" in path or {"", ".", ".."} & set(segments):
        message = "expected a relative path"
        raise ValueError(message)
    return path


RelativePath = Annotated[str, AfterValidator(_relative)]


class Part(BaseModel):
    """Base of every part: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _by_name(items: tuple[Named, ...]) -> tuple[Named, ...]:
    return tuple(sorted(items, key=lambda item: item.name))


def _by_path(items: tuple[Filed, ...]) -> tuple[Filed, ...]:
    return tuple(sorted(items, key=lambda item: item.path))


def _by_key(rows: dict[str, Code]) -> dict[str, Code]:
    return dict(sorted(rows.items()))


class Wheel(Part):
    """One wheel, the only one of its package."""

    name: str
    version: str
    file: RelativePath
    size: Size
    sha256: Sha256
    uploaded: datetime.datetime | None = None
    """When the index received it; unknown for wheels of a folder."""


class Suite(Part):
    """A Debian suite as it was resolved."""

    name: str
    released: datetime.datetime
    """`Date` of its signed Release file."""


class DebianPackage(Part):
    """One .deb."""

    name: str
    version: str
    architecture: str
    path: RelativePath
    """`Filename` in the suite's index."""
    size: Size
    sha256: Sha256


class Base(Part):
    """The operating system."""

    debian: str
    python: str
    """Version of the suite's Python, such as `3.11.2`."""
    glibc: str
    suites: tuple[Suite, ...]
    packages: Annotated[tuple[DebianPackage, ...], AfterValidator(_by_name)]

    @property
    def python_series(self) -> str:
        """`3.11` for `3.11.2`."""
        return ".".join(self.python.split(".")[:2])


class ModelFile(Part):
    """One file of a model."""

    path: RelativePath
    size: Size
    sha256: Sha256
    layer: LayerDigest | None = None
    """Digest of the layer that holds this file, once known; only for weights."""


class Facts(Part):
    """What pure steps need to know about a model."""

    config: dict[str, Any]
    """Fields of the model's config.json."""
    tensor_bytes: dict[str, int]
    """Bytes by dtype as safetensors spells it, such as `BF16`."""


class Model(Part):
    """The weights and what belongs to them."""

    role: str
    repo: str | None = None
    commit: Commit | None = None
    committed: datetime.datetime | None = None
    """Date of the commit."""
    files: Annotated[tuple[ModelFile, ...], AfterValidator(_by_path)]
    facts: Facts


class Engine(Part):
    """What the catalogue knew of the engine when the lock was made."""

    name: str
    distribution: str
    module: str
    routes: tuple[str, ...]
    shm_bytes: Size
    """Shared memory it needs."""


class Gpu(Part):
    """A GPU that an image is for, and the driver it asks of a host."""

    name: str
    compute_capability: str
    memory_bytes: Size
    cuda: str
    """CUDA release of the wheels, such as `13.0`."""
    driver: str
    """Oldest driver that runs them."""
    env: dict[str, str] = {}
    """What the engine is told on this GPU, beside what the stack says; the stack wins."""
    args: dict[str, str] = {}
    """The same as flags."""


class Code(Part):
    """The GPU code in a wheel that decides on which GPUs it runs."""

    architectures: Annotated[tuple[Architecture, ...], AfterValidator(ordered)]
    """Compiled for: `80`, `90a` for that capability alone, `100f` for a family."""
    ptx: Annotated[tuple[Architecture, ...], AfterValidator(ordered)] = ()
    """What a driver as new as the toolkit compiles for newer GPUs."""
    origin: Literal["catalogue", "read"]
    """Whether the catalogue knew the wheel, or it was read when it was fetched."""


class Pins(Part):
    """Our own parts that shape the image."""

    packer: int
    launcher: Sha256
    """sha256 over the launcher's files, see `launcher_layer`."""


class Lock(Part):
    """One resolution of one stack; its lists are sorted, whoever made it.

    A stack with several GPUs has one cell for each.  What is made of a lock (recipe, image,
    labels) is made of `cell`: the lock narrowed to one GPU, which is the lock of the same stack
    with that GPU alone.  So no cell's image depends on which others there are.
    """

    stack: dict[str, Any]
    """Canonical copy of the stack."""
    platform: str
    engine: Engine
    cells: tuple[Gpu, ...] = ()
    """What differs between the GPUs, in the order of the stack; none for CPU."""
    base: Base
    wheels: Annotated[tuple[Wheel, ...], AfterValidator(_by_name)]
    code: Annotated[dict[str, Code], AfterValidator(_by_key)] = Field(default_factory=dict)
    """What wheels carry of it, by name; one without GPU code, or of no consequence, has no row."""
    models: tuple[Model, ...]
    pins: Pins

    @property
    def name(self) -> str:
        """Name of the stack."""
        return str(self.stack["name"])

    @property
    def gpu(self) -> Gpu | None:
        """The GPU of a lock with at most one cell; None for CPU."""
        if len(self.cells) > 1:
            message = f"the lock of {self.name} has {len(self.cells)} cells: narrow it to one first"
            raise ValueError(message)
        return self.cells[0] if self.cells else None

    def cell(self, gpu: str) -> Lock:
        """Return the lock of the same stack with that GPU alone; one of the cells is for it."""
        (found,) = (cell for cell in self.cells if cell.name == gpu)
        target = {**self.stack["target"], "gpu": gpu}
        return self.model_copy(
            update={"cells": (found,), "stack": {**self.stack, "target": target}}
        )

    @property
    def source_date_epoch(self) -> int:
        """The newest date among the pins, seconds since 1970."""
        dates = [suite.released for suite in self.base.suites]
        dates += [wheel.uploaded for wheel in self.wheels if wheel.uploaded]
        dates += [model.committed for model in self.models if model.committed]
        return int(max(dates).timestamp())


def wheel_fault(wheel: Wheel) -> str | None:
    """Say what is wrong with a wheel's file name, if anything is."""
    try:
        name, version, _, _ = parse_wheel_filename(wheel.file)
    except ValueError as fault:
        return str(fault)
    if (str(name), str(version)) != (wheel.name, wheel.version):
        return f"`{wheel.file}` is not {wheel.name} {wheel.version}"
    return None


def with_layers(lock: Lock, layers: Mapping[str, str]) -> Lock:
    """Return the lock with the layers of weight files, given by the files' sha256."""
    models = [
        model.model_copy(
            update={
                "files": tuple(
                    file.model_copy(update={"layer": layers.get(file.sha256, file.layer)})
                    for file in model.files
                )
            }
        )
        for model in lock.models
    ]
    return lock.model_copy(update={"models": tuple(models)})


def with_code(lock: Lock, found: Mapping[str, Code]) -> Lock:
    """Return the lock with the GPU code of wheels, by name; what it says already stays."""
    return lock.model_copy(update={"code": _by_key({**found, **lock.code})})
