"""Files that several wheels carry: who writes them, across layers too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.assemble.venv import Entry, WheelFile


@dataclass(frozen=True)
class Collision:
    """Two wheels carry the same path with different content."""

    path: str
    kept: str
    """File name of the wheel whose file is in the image: the later one in the lock."""
    lost: str

    def __str__(self) -> str:
        return f"/{self.path}: {self.kept} replaces the file of {self.lost}"


def collide(
    wheels: Sequence[WheelFile],
) -> tuple[dict[str, list[str]], tuple[Collision, ...]]:
    """Decide who writes a path that several wheels carry, across layers too.

    Returns the paths that each wheel leaves out, by its file name, and the collisions.  The
    same content is written once, by the first; else the later wheel of the lock wins, as it
    does when wheels are installed one after the other.
    """
    owners: dict[str, tuple[WheelFile, Entry]] = {}
    skipped: dict[str, list[str]] = {}
    collisions = []
    for wheel in wheels:
        for entry in wheel.entries:
            earlier = owners.get(entry.path)
            if earlier is None:
                owners[entry.path] = (wheel, entry)
            elif _same(earlier, (wheel, entry)):
                skipped.setdefault(wheel.wheel.file, []).append(entry.path)
            else:
                owners[entry.path] = (wheel, entry)
                skipped.setdefault(earlier[0].wheel.file, []).append(entry.path)
                names = (wheel.wheel.file, earlier[0].wheel.file)
                collisions.append(Collision(entry.path, *names))
    return skipped, tuple(collisions)


def _same(one: tuple[WheelFile, Entry], other: tuple[WheelFile, Entry]) -> bool:
    if one[1].size != other[1].size or one[1].mode != other[1].mode:
        return False
    return b"".join(one[0].chunks(one[1])) == b"".join(other[0].chunks(other[1]))
