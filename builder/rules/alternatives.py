"""What else a stack could name: releases and GPUs, the nearest first, as moves for the search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue import gpus
from builder.catalogue.releases import releases
from builder.rules.change import Change, Move

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.releases import Release
    from builder.rules.subject import Subject

_STEP = 0.001
_MOST_GPUS = 6
_NEWER, _OLDER = 2, 1


def other_releases(subject: Subject, suits: Callable[[Release], bool]) -> tuple[Move, ...]:
    """Return moves to the nearest releases of the engine that suit, newer and older."""
    asked = Version(subject.version)
    known = list(releases().values())
    newer = [row for row in known if Version(row.version) > asked and suits(row)]
    older = [row for row in reversed(known) if Version(row.version) < asked and suits(row)]
    near = [*newer[:_NEWER], *older[:_OLDER]]
    return tuple(_to_release(subject, row, _STEP * rank) for rank, row in enumerate(near))


def _to_release(subject: Subject, row: Release, distance: float) -> Move:
    version = Change("engine.version", row.version, distance)
    asked = subject.stack.engine.cuda
    if asked is None or asked == row.cuda:
        return (version,)
    return version, Change("engine.cuda", row.cuda)


def other_gpus(subject: Subject, suits: Callable[[Gpu], bool]) -> tuple[Move, ...]:
    """Return moves to the nearest GPUs that suit: alike in kind, capability and memory."""
    here = subject.gpu
    if here is None:
        return ()
    others = [gpu for gpu in gpus().values() if gpu.name != here.name and suits(gpu)]
    others.sort(key=lambda gpu: _distance(here, gpu))
    return tuple(
        (Change("target.gpu", gpu.name, _STEP * rank),)
        for rank, gpu in enumerate(others[:_MOST_GPUS])
    )


def _distance(here: Gpu, other: Gpu) -> tuple[bool, bool, float, bool, float, str]:
    """Order cards: hosts of the same kind, enough memory, near in capability, kind and memory."""
    apart = abs(float(other.compute_capability) - float(here.compute_capability))
    return (
        other.arch not in {here.arch, "amd64"},
        other.memory_bytes < here.memory_bytes,
        apart,
        other.kind != here.kind,
        abs(other.memory_bytes - here.memory_bytes),
        other.name,
    )


def pairs(*groups: tuple[Move, ...]) -> Iterator[Move]:
    """Yield every move of some groups, in turn."""
    for group in groups:
        yield from group
