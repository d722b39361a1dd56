"""The cache as a whole: what is in it, whether it is right, and what it can do without."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import console, files
from builder.errors import IntegrityError
from builder.oci import collect, contents, uses, verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Row:
    """All that is of one kind."""

    kind: str
    count: int
    size: int
    idle: float
    """Seconds since the last use of what was used longest ago."""


@dataclass(frozen=True)
class Usage:
    """What the cache holds."""

    root: Path
    rows: tuple[Row, ...]
    running: int
    """How many processes use it."""
    freed: int
    """Bytes that a clean-up would remove."""

    @property
    def size(self) -> int:
        return sum(row.size for row in self.rows)


def usage() -> Usage:
    """Say what the cache holds; nothing is read but records."""
    root, now = files.cache_folder(), time.time()
    everything = list(contents.contents(root))
    found: dict[str, list[contents.Item]] = {}
    for item in everything:
        found.setdefault(item.kind, []).append(item)
    rows = tuple(
        Row(
            kind,
            len(items),
            sum(item.size for item in items),
            max(now - min(item.used for item in items), 0.0),
        )
        for kind, items in found.items()
    )
    victims = collect.plan(root, collect.Limits(), now, everything)
    freed = sum(victim.group.size for victim in victims)
    return Usage(root, rows, uses.running(root).count, freed)


@dataclass(frozen=True)
class Verified:
    """What a verification looked at and found."""

    count: int
    size: int
    damages: tuple[verify.Damage, ...]
    is_removed: bool

    def require_whole(self) -> None:
        """Raise IntegrityError if something was damaged."""
        if not self.damages:
            return
        lines = [f"{damage.item.path}: {damage.fault}" for damage in self.damages]
        hint = "what was damaged is removed: the next build makes or fetches it again"
        if not self.is_removed:
            hint = "not all of it was removed: run it without --dry-run, or remove it by hand"
        raise IntegrityError("\n".join(lines), hint)


def verify_store(*, is_quick: bool, dry_run: bool) -> Verified:
    """Compare what the cache holds with its names and records, and remove what is damaged."""
    look = verify.Verification(files.cache_folder(), is_quick=is_quick)
    with (
        console.step(f"verified {len(look.items)} files"),
        console.progress("verify", look.size) as bar,
    ):
        damages = tuple(look.damages(bar.advance))
    is_removed = not dry_run and verify.removed(damages)
    return Verified(len(look.items), look.size, damages, is_removed)


def collect_garbage(limits: collect.Limits, *, dry_run: bool) -> Sequence[collect.Victim]:
    """Remove from the cache what is not worth its place, and return that."""
    victims = collect.plan(files.cache_folder(), limits)
    if dry_run or not victims:
        return victims
    total = sum(victim.group.size for victim in victims)
    with console.progress("remove", total) as bar:
        return collect.collect(victims, bar.advance)
