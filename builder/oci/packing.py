"""Which files share a layer: a function of the sizes alone.

Nothing else may be asked, above all not how many layers the software takes: a new engine would
move every weight byte.  Another rule here means other layers, so it raises the packer version.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeVar

from builder.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_LAYERS = 120
"""Of an image.  containerd and Docker refuse more than about 125 (moby/moby#26380)."""
MAX_WEIGHT_LAYERS = 82
"""The rest is for the software.  163 shards of 4.3 GB are pairs, which most registries take."""
SMALL_BYTES = 16 * MIB
"""Files below this share layers: a layer costs a registry more than these bytes do."""
SHARED_BYTES = GIB
"""Small files fill a layer up to about this."""


class Sized(Protocol):
    """A file by its content."""

    @property
    def sha256(self) -> str:
        """Of its bytes."""

    @property
    def size(self) -> int:
        """In bytes."""


SizedFile = TypeVar("SizedFile", bound=Sized)


def pack_files(files: Iterable[SizedFile]) -> tuple[tuple[SizedFile, ...], ...]:
    """Return the layers that files make, in their order; the same content is taken once."""
    first: dict[str, SizedFile] = {}
    for file in files:
        first.setdefault(file.sha256, file)
    distinct = tuple(first.values())
    groups = pack([file.size for file in distinct])
    return tuple(tuple(distinct[number] for number in group) for group in groups)


def pack(sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return which files, by index, share a layer; layers are ordered by their first file.

    Small files fill layers in their order.  A large file has a layer of its own; where there
    are more of them than layers, runs of neighbours share one, and no run is longer than
    another by more than one file.
    """
    small = [number for number, size in enumerate(sizes) if size < SMALL_BYTES]
    large = [number for number, size in enumerate(sizes) if size >= SMALL_BYTES]
    filled = _few_runs(small, sizes)
    apart = _equal_runs(large, MAX_WEIGHT_LAYERS - len(filled))
    return tuple(sorted((*filled, *apart)))


def _few_runs(numbers: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Fill layers with small files; larger layers if these would take over half of them all."""
    limit = SHARED_BYTES
    while len(runs := _runs(numbers, sizes, limit)) > MAX_WEIGHT_LAYERS // 2:
        limit *= 2
    return runs


def _runs(numbers: Sequence[int], sizes: Sequence[int], limit: int) -> list[tuple[int, ...]]:
    runs: list[list[int]] = []
    room = 0
    for number in numbers:
        if not runs or sizes[number] > room:
            runs.append([])
            room = limit
        runs[-1].append(number)
        room -= sizes[number]
    return [tuple(run) for run in runs]


def _equal_runs(numbers: Sequence[int], most: int) -> list[tuple[int, ...]]:
    count = min(len(numbers), most)
    bounds = [place * len(numbers) // count for place in range(count + 1)] if count else []
    return [tuple(numbers[begin:end]) for begin, end in pairwise(bounds)]
