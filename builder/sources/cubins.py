"""Which GPU code a wheel carries: read from the objects in it, remembered by its sha256.

code/<sha256>.json   what the objects of a wheel hold

Objects are what a process loads: shared objects, and cubins on their own, which count as one
object together, since each is for one GPU.  Static libraries are what a linker takes and are
passed over.  A wheel is read where it lies and its objects in pieces, so that memory does not
grow with them.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from builder import files
from builder.catalogue import code as catalogue
from builder.digest import of_bytes
from builder.errors import HostError
from builder.lock import Code
from builder.oci.image import canonical
from builder.sources import fatbin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import IO

READER_VERSION = 1
"""Rises when the same wheel would be read otherwise."""
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What wheels with damaged, encrypted or unknown content raise when they are read."""
_EVERY_OBJECT = ("*",)
_KINDS: tuple[fatbin.Kind, ...] = ("sass", "ptx")


@dataclass(frozen=True)
class Object:
    """What one object of a wheel holds."""

    path: str
    """In the wheel, such as `vllm/_C.abi3.so`; `folder/*.cubin` for cubins on their own."""
    parts: int
    """How many source files have code in it, or how many cubins it stands for."""
    sass: dict[str, int]
    """How many of the parts were compiled for an architecture that some have machine code for."""
    ptx: dict[str, int]


def read(wheel: IO[bytes], wanted: Callable[[str], bool] = lambda _: True) -> tuple[Object, ...]:
    """Return the objects of a wheel that hold GPU code, by path; only those `wanted` are read.

    Raises one of `UNREADABLE`, or OSError.
    """
    found: dict[str, list[fatbin.Part]] = {}
    with zipfile.ZipFile(wheel) as opened:
        for item in opened.infolist():
            if item.file_size < fatbin.SMALLEST or not wanted(item.filename):
                continue
            with opened.open(item) as member:
                window = fatbin.Window(member.read, item.file_size)
                path, parts = _parts(item.filename, window)
                found.setdefault(path, []).extend(parts)
    objects = (_object(path, parts) for path, parts in sorted(found.items()))
    return tuple(each for each in objects if each.parts)


def _parts(path: str, window: fatbin.Window) -> tuple[str, Iterable[fatbin.Part]]:
    if (single := fatbin.cubin(window)) is not None:
        return f"{path.partition('/')[0]}/*.cubin", (fatbin.Part(frozenset({single})),)
    return path, fatbin.parts(window) if fatbin.is_loaded(window) else ()


def _object(path: str, parts: Iterable[fatbin.Part]) -> Object:
    """Count; a part without code is none, and what all parts have stubs of is not compiled for."""
    real = [part for part in parts if part.code]
    code = frozenset[fatbin.Code]().union(*(part.code for part in real))
    total = Counter(each for part in real for each in part.code | part.stubs)
    sass, ptx = (
        {name: total[fatbin.Code(kind, name)] for name in _names(code, kind)} for kind in _KINDS
    )
    return Object(path, len(real), sass, ptx)


def _names(codes: Iterable[fatbin.Code], kind: fatbin.Kind) -> tuple[str, ...]:
    return catalogue.ordered(code.name for code in codes if code.kind == kind)


def decided(name: str, objects: Sequence[Object]) -> Code | None:
    """Return what counts of a wheel's code, by the catalogue's rule for its distribution.

    None where no object decides, or where those that do hold nothing.  Of a distribution that the
    catalogue does not have every object decides.
    """
    rule = catalogue.carrier(name) or catalogue.Carrier(name, _EVERY_OBJECT, source="")
    chosen = _named(rule.decides, objects)
    compiled = [
        name
        for each in chosen
        for name, count in each.sass.items()
        if count * 2 > each.parts or not rule.most
    ]
    portable = [name for each in _named(rule.ptx or rule.decides, objects) for name in each.ptx]
    if not compiled and not portable:
        return None
    return Code(
        architectures=catalogue.ordered(compiled), ptx=catalogue.ordered(portable), origin="read"
    )


def spelt(architectures: Sequence[str], ptx: Sequence[str]) -> str:
    """Return code as messages name it, such as `75 80 90a, PTX 80`."""
    named = [" ".join(architectures)] if architectures else []
    return ", ".join([*named, *([f"PTX {' '.join(ptx)}"] if ptx else [])]) or "none"


def _named(patterns: Sequence[str], objects: Sequence[Object]) -> Iterator[Object]:
    for each in objects:
        if any(fnmatchcase(each.path, pattern) for pattern in patterns):
            yield each


class CodeMemo:
    """A folder of what was read; several commands may read and write it at once."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "code"

    def recall(self, sha256: str) -> tuple[Object, ...] | None:
        """Return what the objects of a wheel hold, if it was read before.

        A damaged record is no knowledge: it holds a digest of itself.
        """
        try:
            record = json.loads(self._path(sha256).read_bytes())
            objects = tuple(Object(**each) for each in record["objects"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return objects if record == _record(sha256, objects) else None

    def remember(self, sha256: str, objects: Sequence[Object]) -> None:
        """Record it; where that cannot be, the next command reads the wheel again."""
        text = json.dumps(_record(sha256, objects), indent=1, sort_keys=True)
        with contextlib.suppress(HostError):
            files.write_atomic(self._path(sha256), text.encode())

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.json"


def _record(sha256: str, objects: Sequence[Object]) -> dict[str, Any]:
    record = {
        "reader": READER_VERSION,
        "wheel": sha256,
        "objects": [asdict(each) for each in objects],
    }
    return {**record, "check": of_bytes(canonical(record))}
