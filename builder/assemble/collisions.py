"""Files that several wheels carry: who writes them, across layers too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.assemble.venv import Entry, WheelFile

if TYPE_CHECKING:
    from collections.abc import Sequence

Opener = Callable[[], AbstractContextManager[WheelFile]]


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
    openers: Sequence[Opener],
) -> tuple[dict[str, list[str]], tuple[Collision, ...]]:
    """Decide who writes a path that several wheels carry, across layers too.

    Returns the paths that each wheel leaves out, by its file name, and the collisions.  The
    same content is written once, by the first; else the later wheel of the lock wins, as it
    does when wheels are installed one after the other.

    A wheel is open only while it is looked at: all of an engine's together take 150 MB.
    """
    owners: dict[str, int] = {}
    skipped: dict[str, list[str]] = {}
    collisions = []
    for number, opener in enumerate(openers):
        with ExitStack() as stack:
            wheel, shelf = stack.enter_context(opener()), _Shelf(openers, stack)
            for entry in wheel.entries:
                owner = owners.setdefault(entry.path, number)
                if owner == number:
                    continue
                earlier, other = shelf.find(owner, entry.path)
                if _same((earlier, other), (wheel, entry)):
                    skipped.setdefault(wheel.wheel.file, []).append(entry.path)
                    continue
                owners[entry.path] = number
                skipped.setdefault(earlier.wheel.file, []).append(entry.path)
                names = (wheel.wheel.file, earlier.wheel.file)
                collisions.append(Collision(entry.path, *names))
    return skipped, tuple(collisions)


class _Shelf:
    """Earlier wheels, each opened when it is first asked for."""

    def __init__(self, openers: Sequence[Opener], stack: ExitStack) -> None:
        self._openers, self._stack = openers, stack
        self._open: dict[int, tuple[WheelFile, dict[str, Entry]]] = {}

    def find(self, number: int, path: str) -> tuple[WheelFile, Entry]:
        """Return a wheel by its number, and its entry of that path."""
        if number not in self._open:
            wheel = self._stack.enter_context(self._openers[number]())
            self._open[number] = (wheel, {entry.path: entry for entry in wheel.entries})
        wheel, entries = self._open[number]
        return wheel, entries[path]


def _same(one: tuple[WheelFile, Entry], other: tuple[WheelFile, Entry]) -> bool:
    if one[1].size != other[1].size or one[1].mode != other[1].mode:
        return False
    return b"".join(one[0].chunks(one[1])) == b"".join(other[0].chunks(other[1]))
