"""What else a stack could name: releases and GPUs, the nearest first, as moves for the search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from packaging.version import Version

from builder.catalogue import gpus
from builder.catalogue.cards import cards
from builder.catalogue.releases import releases
from builder.rules.change import Change, Move

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    known = list(releases().values())
    newer = _last_of_series([r for r in known if Version(r.version) > asked and suits(r)])
    older = [row for row in reversed(known) if Version(row.version) < asked and suits(row)]
    near = [*newer[:_NEWER], *older[:_OLDER]]
    return tuple(_to_release(subject, row, _STEP * _releases_away(asked, row)) for row in near)


def _last_of_series(rows: Sequence[Release]) -> list[Release]:
    return list({Version(row.version).release[:2]: row for row in rows}.values())


def _releases_away(asked: Version, row: Release) -> float:
    """Count the releases on the way."""
    there = Version(row.version)
    low, high = min(asked, there), max(asked, there)
    between = sum(low < Version(each) < high for each in releases())
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
    others = [
        gpu
        for gpu in gpus().values()
        if gpu.name != here.name and gpu.arch == arch and _is_sold(gpu, here) and suits(gpu)
    ]
    ranked = sorted((_distance(here, gpu), gpu.name) for gpu in others)[:_MOST_GPUS]
    return tuple((Change("target.gpu", name, min(apart / 3, _FAR)),) for apart, name in ranked)


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
