"""Choose what to remove from the cache, and remove it, also while builds run.

In this order: what killed writers left; blobs that no record names and records without a blob;
what was not used for long; then, if there is a limit, what was used longest ago.  What was used
since the first running process began stays, whatever the limits say.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from builder.digest import hex_of
from builder.oci import removal, uses
from builder.oci.contents import PARTIAL, Item, contents
from builder.oci.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

DAY = 86400.0
_MARGIN_SECONDS = 1.0
"""Two things at the same tick of a file system's clock have no order."""
_KEPT = ("weights", "collisions", "code", "places", "other")
"""What a limit of size does not take: some hundred bytes each, and hours of work in them."""

Reason = Literal["left by a killed run", "nothing refers to it", "not used for long", "over size"]
_LEFT: Reason = "left by a killed run"


@dataclass(frozen=True)
class Limits:
    """What may stay."""

    seconds: float = 30 * DAY
    """How long after its last use."""
    size: int | None = None
    """How many bytes in all."""


@dataclass(frozen=True)
class Group:
    """Items that go together: a blob and the records that name it, records first."""

    items: tuple[Item, ...]
    is_whole: bool = True
    """Whether a build could use it."""

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def used(self) -> float:
        return max(item.used for item in self.items)


@dataclass(frozen=True)
class Victim:
    """What is to go, and why."""

    group: Group
    reason: Reason


def grouped(root: Path, items: Sequence[Item]) -> list[Group]:
    """Put blobs and their records together."""
    store = Store(root)
    blobs = {item.path.name: item for item in items if item.kind == "blobs"}
    records: dict[str, list[Item]] = {name: [] for name in blobs}
    groups = []
    for item in items:
        if item.kind == "layers":
            layer = store.recorded(item.path.name.removesuffix(".json"))
            name = hex_of(layer.digest) if layer else ""
            if name in records:
                records[name].append(item)
            else:
                groups.append(Group((item,), is_whole=False))
        elif item.kind != "blobs":
            groups.append(Group((item,)))
    for name, blob in blobs.items():
        groups.append(Group((*records[name], blob), is_whole=bool(records[name])))
    return groups


def chosen(groups: Sequence[Group], limits: Limits, now: float, busy: float) -> list[Victim]:
    """Return what has to go; nothing that was used at `busy` or later, but what is left over."""
    victims = []
    staying = []
    for group in sorted(groups, key=lambda group: group.used):
        reason = _reason(group, limits, now, busy)
        if reason is None:
            staying.append(group)
        else:
            victims.append(Victim(group, reason))
    if limits.size is not None:
        victims += _excess(staying, limits.size, busy)
    # Leftovers first: one may have the name under which something else is to be moved away.
    return sorted(victims, key=lambda victim: victim.reason != _LEFT)


def _reason(group: Group, limits: Limits, now: float, busy: float) -> Reason | None:
    kind = group.items[-1].kind
    if kind == "leftovers":
        return _LEFT
    if group.used >= busy or kind == "other":
        return None
    if not group.is_whole:
        return "nothing refers to it"
    return "not used for long" if group.used < now - limits.seconds else None


def _excess(staying: Sequence[Group], limit: int, busy: float) -> Iterator[Victim]:
    """Yield what was used longest ago until the rest is small enough."""
    total = sum(group.size for group in staying)
    for group in staying:
        if total <= limit:
            return
        if group.used < busy and group.items[-1].kind not in _KEPT:
            total -= group.size
            yield Victim(group, "over size")


def plan(
    root: Path, limits: Limits, begin: float | None = None, items: Iterable[Item] | None = None
) -> list[Victim]:
    """Return what `collect` would remove now; `items` are what is there, if that is known."""
    now = time.time() if begin is None else begin
    # Users are asked for after the times of use: who began in between touched it in between.
    groups = grouped(root, list(contents(root) if items is None else items))
    since = uses.running(root).since
    busy = min(now, now if since is None else since) - _MARGIN_SECONDS
    return chosen(groups, limits, now, busy)


def collect(victims: Sequence[Victim], advance: Callable[[int], object]) -> list[Victim]:
    """Remove what was chosen, and return what is gone; what is in use again stays.

    Raises:
        HostError: the cache cannot be written.
    """
    gone = []
    for victim in victims:
        if _is_removed(victim):
            gone.append(victim)
        advance(victim.group.size)
    return gone


def _is_removed(victim: Victim) -> bool:
    item = victim.group.items[-1]
    if item.kind == "leftovers":
        return removal.remove_leftover(item)
    if item.path.name.endswith(PARTIAL):
        return removal.remove_unlocked(item)
    # A record that was used again ends it, before its blob is touched.
    return all(removal.remove(item) for item in victim.group.items)
