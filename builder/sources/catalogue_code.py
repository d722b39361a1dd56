"""Compare the catalogue with the GPU code in wheels: `python -m builder.sources.catalogue_code`.

Arguments are names, such as `vllm` or `vllm==0.20.2`; without any, every wheel of the tables is
read.  Of each wheel the deciding objects alone are fetched, piece by piece, from the index that
pip is set to, and nothing is kept.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from threading import Event
from typing import IO, TYPE_CHECKING, cast

from packaging.utils import parse_wheel_filename

from builder import console
from builder.catalogue import code, releases
from builder.errors import ResolveError
from builder.oci import lanes
from builder.sources import cubins, index
from builder.sources.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.lock import Code

_LANES = 4
_BLOCK = 1 << 23


@dataclass(frozen=True)
class Row:
    """A wheel of the tables."""

    file: str
    sha256: str

    @property
    def name(self) -> str:
        """Normalised name of the distribution."""
        return str(parse_wheel_filename(self.file)[0])

    def is_asked(self, names: Sequence[str]) -> bool:
        """Tell whether it is one of `NAME` or `NAME==VERSION`; no names ask for all."""
        name, version, _, _ = parse_wheel_filename(self.file)
        return not names or not {str(name), f"{name}=={version}"}.isdisjoint(names)


def rows(names: Sequence[str]) -> Iterator[Row]:
    """Yield the wheels of the tables that have a row on their code."""
    engines, torches = releases.releases().values(), releases.torch_releases().values()
    known = [Row(each.file, each.sha256) for row in engines for each in row.wheels]
    known += [Row(each.file, each.sha256) for row in torches for each in row.wheels]
    known += [Row(each.file, each.sha256) for each in code.wheels()]
    for row in known:
        if row.is_asked(names) and code.known(row.sha256) is not None:
            yield row


def difference(row: Row) -> str | None:
    """Say how a wheel differs from its row, if it does."""
    expected, found = code.known(row.sha256), read(row)
    given = (expected.architectures, expected.ptx) if expected else ((), ())
    actual = (found.architectures, found.ptx) if found else ((), ())
    if given == actual:
        return None
    return f"{row.file}: committed {cubins.spelt(*given)}, inside {cubins.spelt(*actual)}"


def read(row: Row) -> Code | None:
    """Return what the deciding objects of a wheel hold.

    Raises:
        ResolveError: the index does not have it, or serves no ranges.
    """
    rule = code.carrier(row.name)
    patterns = (*rule.decides, *rule.ptx) if rule else ("*",)

    def wanted(path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in patterns)

    with Ranges(_url(row), _BLOCK) as wheel:
        return cubins.decided(row.name, cubins.read(cast("IO[bytes]", wheel), wanted))


def _url(row: Row) -> str:
    for place in index.places(row.name, row.file):
        if place.sha256 == row.sha256:
            return place.url
    message = f"{row.file}: no configured index has this file"
    raise ResolveError(message, "check pip's index settings")


def main(names: list[str]) -> int:
    """Read the wheels, several at once, and print each difference."""
    asked = list(rows(names))
    if not asked:
        console.fail(f"no wheel of the tables is {', '.join(names)}", "name one as vllm==0.20.2")
        return 2
    found = lanes.side_by_side(_noted, asked, _LANES, Event())
    count = sum(each is not None for each in found)
    console.note(f"{len(asked)} wheels read, {count} differ from the catalogue")
    return 1 if count else 0


def _noted(row: Row) -> str | None:
    """Say at once what was found: the rest may take long."""
    found = difference(row)
    console.note(found or f"{row.file}: as committed")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
