"""End states, and who is measured on the way to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import own, peers

if TYPE_CHECKING:
    from benchmarks.contenders import Contender


@dataclass(frozen=True)
class Case:
    """One end state."""

    name: str
    title: str
    contenders: tuple[Contender, ...]
    """The first is what others are compared with."""
    floors: tuple[str, ...]
    """The slowest of these is what nobody can beat."""
    takes_small: bool = False
    """Whether it is measured with many small files too."""
    keeps: bool = False
    """Whether a contender finds what its runs before left: then they are not interleaved."""


_COMPRESSED, _PLAIN = "docker buildx", "docker buildx, uncompressed"

CASES = (
    Case(
        "bake",
        "Manifest and every digest known",
        (
            own.bake("ours, digests of files locked", own.FILES),
            peers.bake(_COMPRESSED, packed=True),
            peers.bake(_PLAIN, packed=False),
            own.bake("ours, nothing known", own.NOTHING),
            own.bake("ours, digests of layers locked", own.LAYERS),
            own.HASH,
            own.DOUBLE,
        ),
        (own.HASH.name,),
        takes_small=True,
    ),
    Case(
        "layout",
        "OCI layout on disk",
        (
            own.layout("ours, digests of files locked", own.FILES),
            peers.layout(_COMPRESSED, packed=True),
            own.layout("ours, digests of layers locked", own.LAYERS),
            peers.layout(_PLAIN, packed=False),
            own.HASH,
            peers.BUILDAH_LAYOUT,
            own.COPY,
            peers.SKOPEO_LAYOUT,
        ),
        (own.HASH.name, own.COPY.name),
        takes_small=True,
    ),
    Case(
        "engine",
        "Image in the engine",
        (own.LOAD, peers.LOAD, own.LOAD_CLASSIC, peers.LOAD_CLASSIC, own.COPY),
        (own.COPY.name,),
    ),
    Case(
        "push",
        "Image in the registry",
        (
            own.push("ours, digests of files locked", own.FILES),
            peers.push("docker build and push", classic=False),
            own.push("ours, digests of layers locked", own.LAYERS),
            peers.push("docker build and push (overlay2 store)", classic=True),
            own.PUT,
            peers.build_into_registry(_COMPRESSED, packed=True),
            peers.build_into_registry(_PLAIN, packed=False),
            peers.BUILDAH_PUSH,
            peers.SKOPEO_PUSH,
        ),
        (own.PUT.name,),
        takes_small=True,
    ),
    Case(
        "release",
        "New software, same weights, in the registry",
        (
            own.RELEASE,
            own.RELEASE_ELSEWHERE,
            peers.release("docker build and push", classic=False),
            peers.release("docker build and push (overlay2 store)", classic=True),
        ),
        (),
        keeps=True,
    ),
)
