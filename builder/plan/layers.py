"""What a forecast is made from: the layers to be, and what this machine knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.oci.profiles import Profile

Kind = Literal["base", "wheels", "launcher", "weights", "names"]

# What becomes of a byte of .deb, wheel or JSON, measured on the demo stack.  CUDA libraries
# unpack to less.
_PACKED: dict[Kind, float] = {
    "base": 1.15,
    "wheels": 0.9,
    "launcher": 0.3,
    "weights": 1.0,
    "names": 0.3,
}
_UNPACKED: dict[Kind, float] = {
    "base": 3.6,
    "wheels": 3.5,
    "launcher": 1.0,
    "weights": 1.0,
    "names": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a layer is made of, and what is known of it."""

    title: str
    kind: Kind
    files: int
    input_bytes: int
    """Size of the locked files that it is written from."""
    size: int | None = None
    """Of the layer, if it is known."""
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """One layer to be."""

    title: str
    kind: Kind
    files: int
    size: int
    is_exact: bool
    """Whether `size` is no estimate."""
    unpacked_bytes: int
    """Always an estimate, except of weights."""
    digest: str | None

    @property
    def is_one_wheel(self) -> bool:
        """Whether a wheel is large enough to have a layer of its own."""
        return self.kind == "wheels" and self.files == 1


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What this machine has, and what is asked of it."""

    download_bytes: int
    """Locked files that have to be downloaded."""
    download_files: int
    weight_download_bytes: int
    """The part of it that is weights: streaming to a registry stores none of them."""
    free_bytes: int | None = None
    """On the disk of the cache."""
    bandwidths: tuple[int, ...]
    """Bits per second."""
    repository: str | None = None
    """Where the image is to go."""
    limits: Profile | None = None
    """Of its registry."""


def planned(contents: Contents) -> PlannedLayer:
    """Return a layer, its size estimated where it is not known."""
    estimate = round(contents.input_bytes * _PACKED[contents.kind])
    return PlannedLayer(
        title=contents.title,
        kind=contents.kind,
        files=contents.files,
        size=estimate if contents.size is None else contents.size,
        is_exact=contents.size is not None,
        unpacked_bytes=round(contents.input_bytes * _UNPACKED[contents.kind]),
        digest=contents.digest,
    )


def total(layers: Iterable[PlannedLayer]) -> int:
    """Return the bytes of some layers."""
    return sum(layer.size for layer in layers)


def of_kind(layers: Iterable[PlannedLayer], *kinds: Kind) -> tuple[PlannedLayer, ...]:
    """Return the layers of some kinds."""
    return tuple(layer for layer in layers if layer.kind in kinds)
