"""GPU code in wheels: which objects of a distribution decide, and what is known of its wheels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from builder.catalogue import releases
from builder.catalogue.tables import listed, named, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.catalogue.releases import Release, TorchRelease

_CUDA = re.compile(r"-cu\d+$")


@dataclass(frozen=True, slots=True)
class Carrier:
    """A distribution whose wheels carry GPU code, and which of their objects decide."""

    name: str
    decides: tuple[str, ...]
    """Patterns of objects.  Empty: none does, as the code is that of tools."""
    source: str
    ptx: tuple[str, ...] = ()
    """The same for PTX; empty: the same objects."""
    most: bool = False
    """Whether only what more than half of the source files are compiled for counts."""
    needed: bool = False
    """Whether nothing works on a GPU that runs none of it."""


@dataclass(frozen=True, slots=True)
class CodeWheel:
    """A published wheel that was read."""

    file: str
    sha256: str
    architectures: tuple[str, ...]
    source: str
    ptx: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What a published wheel has compiled code for, and PTX."""

    architectures: tuple[str, ...]
    ptx: tuple[str, ...] = ()


@lru_cache
def carriers() -> dict[str, Carrier]:
    """Return the distributions whose wheels are known to carry GPU code, by name."""
    return named(Carrier, "code", table("code")["carrier"])


def carrier(name: str) -> Carrier | None:
    """Return the row of a distribution such as `nvidia-nccl-cu13`, whatever CUDA it is for."""
    return carriers().get(name) or carriers().get(_CUDA.sub("", name))


@lru_cache
def wheels() -> tuple[CodeWheel, ...]:
    """Return the wheels that were read, but for those of vLLM and torch."""
    return listed(CodeWheel, "code", "wheel")


@lru_cache
def known_wheels() -> dict[str, Known]:
    """Return what published wheels carry, by sha256; a wheel without a row may carry anything."""
    found = {row.sha256: Known(row.architectures, row.ptx) for row in wheels()}
    for release in releases.releases().values():
        found |= _published(release, release.ptx)
    for torch in releases.torch_releases().values():
        found |= _published(torch, ())
    return found


def known(sha256: str) -> Known | None:
    """Return what a published wheel carries; None where nobody knows, or where it is nothing."""
    return known_wheels().get(sha256)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of architectures, such as `90a`, in the order of the tables."""
    return tuple(sorted(set(names), key=lambda name: (int(name.rstrip("af")), name)))


def _published(row: Release | TorchRelease, ptx: tuple[str, ...]) -> dict[str, Known]:
    """Return the wheels of a release; those for the CPU alone have no architectures."""
    found = (
        (wheel.sha256, row.arm64 if "aarch64" in wheel.file else row.architectures)
        for wheel in row.wheels
    )
    return {sha256: Known(names, ptx) for sha256, names in found if names}
