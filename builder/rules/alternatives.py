"""What else a stack could name: releases and GPUs, the nearest first, as moves for the search."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue import gpus
from builder.catalogue.cards import cards
from builder.catalogue.releases import releases
from builder.rules.change import Change, Move

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from builder.catalogue import Gpu
    from builder.catalogue.cards import ModelCard
    from builder.catalogue.releases import Release
    from builder.rules.subject import Subject

_STEP = 0.1
"""A release on the way: fifteen of them, half a year, cost more than new drivers."""
_MOST_GPUS = 6
_FAR = 0.9
_NEWER, _OLDER = 2, 1
_BACK = 0.5
"""Of two releases as far away, the newer one: it has what the asked one has."""
_KINDS = ("soc", "workstation", "datacentre")
"""What is sold side by side; GeForce stands beside workstations."""


def other_releases(subject: Subject, suits: Callable[[Release], bool]) -> tuple[Move, ...]:
    """Return moves to the nearest releases of the engine that suit, newer and older.

    Of a newer series it is the last: patch releases repair, and nobody starts on 0.20.0 today.
    """
    asked = Version(subject.version)
    newer = (_last(rows, asked, suits) for rows in _series())
    older = (row for at, row in reversed(_numbered()) if at < asked and suits(row))
    near = (*islice((row for row in newer if row), _NEWER), *islice(older, _OLDER))
    return tuple(_to_release(subject, row, _STEP * _releases_away(asked, row)) for row in near)


@lru_cache
def _numbered() -> tuple[tuple[Version, Release], ...]:
    """Return every release with its version, oldest first: a search asks for them often."""
    return tuple((Version(row.version), row) for row in releases().values())


@lru_cache
def _series() -> tuple[tuple[tuple[Version, Release], ...], ...]:
    """Return the releases of each series, such as 0.20, newest first."""
    found: dict[tuple[int, ...], list[tuple[Version, Release]]] = {}
    for at, row in _numbered():
        found.setdefault(at.release[:2], []).insert(0, (at, row))
    return tuple(map(tuple, found.values()))


def _last(
    series: Iterable[tuple[Version, Release]], asked: Version, suits: Callable[[Release], bool]
) -> Release | None:
    """Return the last release of a series that is newer than the asked one and suits."""
    return next((row for at, row in series if at > asked and suits(row)), None)


def _releases_away(asked: Version, row: Release) -> float:
    """Count the releases on the way."""
    there = Version(row.version)
    low, high = min(asked, there), max(asked, there)
    between = sum(low < at < high for at, _ in _numbered())
    return between + (_BACK if there < asked else 0)


def _to_release(subject: Subject, row: Release, distance: float) -> Move:
    version = Change("engine.version", row.version, distance)
    asked = subject.stack.engine.cuda
    if asked is None or asked == row.cuda:
        return (version,)
    return version, Change("engine.cuda", row.cuda)


def other_gpus(subject: Subject, suits: Callable[[Gpu], bool]) -> tuple[Move, ...]:
    """Return moves to the nearest GPUs that suit, in hosts that run the image's platform."""
    here, arch = subject.gpu, subject.stack.target.platform.partition("/")[2]
    if here is None:
        return ()
    near = ((apart, gpu) for apart, gpu in _ranked(here.name) if gpu.arch == arch and suits(gpu))
    return tuple(
        (Change("target.gpu", gpu.name, min(apart / 3, _FAR)),)
        for apart, gpu in islice(near, _MOST_GPUS)
    )


@lru_cache
def _ranked(name: str) -> tuple[tuple[float, Gpu], ...]:
    """Return what is offered in place of a GPU, the most alike first."""
    here = gpus()[name]
    others = [gpu for gpu in gpus().values() if gpu.name != name and _is_sold(gpu, here)]
    apart = ((_distance(here, gpu), gpu) for gpu in others)
    return tuple(sorted(apart, key=lambda each: (each[0], each[1].name)))


def _is_sold(gpu: Gpu, here: Gpu) -> bool:
    """A card made for one market is offered in place of its like alone."""
    return not gpu.one_market or here.one_market


def _distance(here: Gpu, other: Gpu) -> float:
    """Weigh how unlike two cards are.

    Who has a card of one kind gets another of that kind more easily (1 for each step between
    kinds); code and features follow the capability (1/2 for each major number); memory counts by
    doublings, twice where it shrinks, since what ran must still fit.  The link to the neighbours
    decides between what is alike.
    """
    kinds = abs(_kind(here) - _kind(other)) + (here.kind != other.kind) * 0.5
    links = (here.link != other.link) * 0.05
    apart = abs(float(other.compute_capability) - float(here.compute_capability))
    doublings = math.log2(other.memory_bytes / here.memory_bytes)
    return kinds + links + apart / 2 + (doublings if doublings >= 0 else -2 * doublings)


def _kind(gpu: Gpu) -> int:
    return _KINDS.index("workstation" if gpu.kind == "geforce" else gpu.kind)


def other_checkpoints(subject: Subject, suits: Callable[[ModelCard], bool]) -> tuple[Move, ...]:
    """Return moves to checkpoints of the same model that suit, the nearest in size first."""
    here = subject.model.card if subject.model else None
    if here is None or subject.stack.model.repo is None:
        return ()
    same = [
        each
        for each in cards().values()
        if (each.parameters, each.layers) == (here.parameters, here.layers)
        and each.repo != here.repo
        and suits(each)
    ]
    same.sort(key=lambda each: (abs(each.tensor_bytes - here.tensor_bytes), each.repo))
    return tuple((Change("model.repo", each.repo, rank / 100),) for rank, each in enumerate(same))
