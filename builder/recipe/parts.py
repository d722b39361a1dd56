"""The recipe of an image: ordered layers with their sources, and the image config.

Pure: a function of the lock.  The native executor writes the layers, a Dockerfile is another
rendering of the same recipe.  No layer depends on another, nor on `serve` (only the folder of
names carries the served name).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from builder.oci.packing import MAX_LAYERS, MAX_WEIGHT_LAYERS, pack_files
from builder.recipe.config import config, model_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.lock import DebianPackage, Lock, ModelFile, Wheel

_SINGLE_LAYERS = 4
"""The base, the small wheels, the launcher, the names."""
_MAX_BIG_WHEELS = MAX_LAYERS - MAX_WEIGHT_LAYERS - _SINGLE_LAYERS
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
    weights = [file for model in lock.models for file in model.files if is_weight(file)]
    small = [file for model in lock.models for file in model.files if not is_weight(file)]
    names = NamesPart(model_folder(lock).lstrip("/"), tuple(small), tuple(weights))
    parts: tuple[Part, ...] = (
        BasePart(lock.base.debian, lock.base.packages),
        *_wheel_parts(lock),
        LauncherPart(lock.pins.launcher),
        *_weight_parts(lock),
        names,
    )
    return Recipe(
        name=lock.name,
        platform=lock.platform,
        epoch=lock.source_date_epoch,
        parts=parts,
        config=config(lock),
    )


def pins(part: Part) -> Sequence[DebianPackage | Wheel | ModelFile]:
    """Return the locked files that a part is made of."""
    match part:
        case BasePart():
            return part.packages
        case WheelsPart():
            return part.wheels
        case NamesPart() | WeightsPart():
            return part.files
        case LauncherPart():
            return ()


def is_weight(file: ModelFile) -> bool:
    """Tell whether a model file is baked into a weight layer."""
    return file.path.endswith(".safetensors")


def _wheel_parts(lock: Lock) -> Iterator[WheelsPart]:
    python = lock.base.python
    large = [wheel for wheel in lock.wheels if wheel.size >= _BIG_WHEEL]
    large.sort(key=lambda wheel: (-wheel.size, wheel.name))
    apart = {wheel.name for wheel in large[:_MAX_BIG_WHEELS]}
    for wheel in lock.wheels:
        if wheel.name in apart:
            title = f"{wheel.name} {wheel.version}"
            yield WheelsPart((wheel,), python, has_prefix=False, title=title)
    rest = tuple(wheel for wheel in lock.wheels if wheel.name not in apart)
    yield WheelsPart(rest, python, has_prefix=True, title=f"{len(rest)} wheels")


def _weight_parts(lock: Lock) -> Iterator[WeightsPart]:
    """No layer here may depend on the software: a new engine must move no weight byte."""
    packed = [pack_files(filter(is_weight, model.files)) for model in lock.models]
    for group in dict.fromkeys(chain.from_iterable(packed)):
        others = f" and {len(group) - 1} more" if len(group) > 1 else ""
        yield WeightsPart(group, f"{group[0].path}{others}")
