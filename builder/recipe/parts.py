"""The recipe of an image: ordered layers with their sources, and the image config.

Pure: a function of the lock.  The native executor writes the layers, a Dockerfile is another
rendering of the same recipe.  No layer depends on another, nor on `serve` (only the folder of
names carries the served name).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.recipe.config import config, model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.lock import DebianPackage, Lock, ModelFile, Wheel

_MAX_LAYERS = 120
"""containerd and Docker refuse more than about 125 (moby/moby#26380)."""
_BIG_WHEEL = 32 * 10**6
"""Bytes from which a wheel gets a layer of its own: it changes less often than the rest."""


@dataclass(frozen=True)
class BasePart:
    """The operating system."""

    debian: str
    packages: tuple[DebianPackage, ...]
    title: str = "base"


@dataclass(frozen=True)
class WheelsPart:
    """Wheels installed into the prefix; the one with `has_prefix` also makes the prefix."""

    wheels: tuple[Wheel, ...]
    python: str
    has_prefix: bool
    title: str


@dataclass(frozen=True)
class LauncherPart:
    """The launcher."""

    sha256: str
    title: str = "launcher"


@dataclass(frozen=True)
class WeightsPart:
    """Weight files under names that are their content's."""

    files: tuple[ModelFile, ...]
    title: str


@dataclass(frozen=True)
class NamesPart:
    """The folder the engine opens: small files, and links to the weights."""

    folder: str
    files: tuple[ModelFile, ...]
    links: tuple[ModelFile, ...]
    title: str = "model files and names"


Part = BasePart | WheelsPart | LauncherPart | WeightsPart | NamesPart


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    name: str
    platform: str
    epoch: int
    """Creation time, seconds since 1970: the newest date among the pins."""
    parts: tuple[Part, ...]
    config: Mapping[str, Any]
    """`config` of the OCI image configuration."""


def recipe(lock: Lock) -> Recipe:
    """Return the recipe that `lock` stands for."""
    software: tuple[Part, ...] = (
        BasePart(lock.base.debian, lock.base.packages),
        *_wheel_parts(lock),
    )
    fixed: tuple[Part, ...] = (*software, LauncherPart(lock.pins.launcher))
    weights = [file for model in lock.models for file in model.files if is_weight(file)]
    small = [file for model in lock.models for file in model.files if not is_weight(file)]
    names = NamesPart(model_folder(lock).lstrip("/"), tuple(small), tuple(weights))
    packed = _weight_parts(weights, _MAX_LAYERS - len(fixed) - 1)
    return Recipe(
        name=lock.name,
        platform=lock.platform,
        epoch=lock.source_date_epoch,
        parts=(*fixed, *packed, names),
        config=config(lock),
    )


def is_weight(file: ModelFile) -> bool:
    """Tell whether a model file is baked into a layer of its own."""
    return file.path.endswith(".safetensors")


def _wheel_parts(lock: Lock) -> Iterator[WheelsPart]:
    python = lock.base.python
    big = [wheel for wheel in lock.wheels if wheel.size >= _BIG_WHEEL]
    for wheel in big:
        yield WheelsPart((wheel,), python, has_prefix=False, title=f"{wheel.name} {wheel.version}")
    rest = tuple(wheel for wheel in lock.wheels if wheel.size < _BIG_WHEEL)
    yield WheelsPart(rest, python, has_prefix=True, title=f"{len(rest)} wheels")


def _weight_parts(files: Sequence[ModelFile], budget: int) -> Iterator[WeightsPart]:
    """One layer per distinct file while they last, else equal runs in the order of the lock."""
    first = {file.sha256: file for file in reversed(files)}
    distinct = [file for file in files if first[file.sha256] is file]
    run = -(-len(distinct) // max(budget, 1)) or 1
    for start in range(0, len(distinct), run):
        chosen = tuple(distinct[start : start + run])
        title = chosen[0].path if len(chosen) == 1 else f"{len(chosen)} weight files"
        yield WeightsPart(chosen, title)
