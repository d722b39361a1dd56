"""Read the cache and compare everything in it with its name."""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from builder import console
from builder.digest import hex_of, of_bytes, of_chunks
from builder.errors import HostError
from builder.oci import removal
from builder.oci.contents import PARTIAL, Item, contents
from builder.oci.image import canonical
from builder.oci.store import Store
from builder.process import cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Advance = Callable[[int], object]

_BLOCK = 1 << 20
_BY_DIGEST = ("downloads", "blobs", "indexes")
"""Kinds whose files are named after their sha256."""
_RECORDS = ("layers", "weights", "collisions", "code")


@dataclass(frozen=True)
class Damage:
    """Something that is not what its name or record says."""

    item: Item
    fault: str
    """As a message says it: expected before got."""


class Verification:
    """One look at everything that can be compared with something."""

    def __init__(self, root: Path, *, is_quick: bool = False) -> None:
        kinds = ("blobs", *_RECORDS) if is_quick else (*_BY_DIGEST, *_RECORDS)
        self._store, self._is_quick = Store(root), is_quick
        self.items: Sequence[Item] = [
            item
            for item in contents(root)
            if item.kind in kinds and not item.path.name.endswith(PARTIAL)
        ]
        self._sizes = _sizes(self._store, self.items)

    @property
    def size(self) -> int:
        """Return how many bytes there are to read."""
        return sum(item.size for item in self.items if self._is_read(item))

    def damages(self, advance: Advance) -> Iterator[Damage]:
        """Yield what is damaged, several files read at the same time; nothing is changed."""
        stop = Event()

        def counted(count: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            advance(count)

        with ThreadPoolExecutor(cpus()) as workers:
            try:
                for found in workers.map(lambda item: self._damage(item, counted), self.items):
                    if found is not None:
                        yield found
            except BaseException:
                stop.set()
                workers.shutdown(cancel_futures=True)
                raise

    def _is_read(self, item: Item) -> bool:
        return item.kind in _RECORDS or not self._is_quick

    def _damage(self, item: Item, advance: Advance) -> Damage | None:
        try:
            fault = self._fault(item, advance)
        except FileNotFoundError:
            return None  # removed meanwhile: not here, so not wrong
        except OSError as error:
            fault = f"cannot be read: {(error.strerror or str(error)).lower()}"
        return Damage(item, fault) if fault else None

    def _fault(self, item: Item, advance: Advance) -> str:
        """Return what is wrong, or nothing."""
        name = item.path.name
        size = self._sizes.get(name, item.size) if item.kind == "blobs" else item.size
        if size != item.size:
            return f"expected {size} bytes, got {item.size}"
        if item.kind in _RECORDS:
            data = item.path.read_bytes()
            advance(len(data))
            return "" if self._is_record(item, data) else "is no record, or not what was written"
        if self._is_quick:
            return ""
        actual = hex_of(of_chunks(_read(item.path, advance)))
        return "" if actual == name else f"expected sha256:{name}, got sha256:{actual}"

    def _is_record(self, item: Item, data: bytes) -> bool:
        if item.kind == "layers":
            return self._store.recorded(item.path.name.removesuffix(".json")) is not None
        try:
            return _vouches(json.loads(data))
        except ValueError:
            return False


def removed(damages: Sequence[Damage]) -> bool:
    """Remove what is damaged, and tell whether all of it could be.

    What was made again in the meantime stays.
    """
    is_all = True
    for damage in damages:
        try:
            removal.remove(damage.item)
        except HostError as fault:
            console.warn(fault.message)
            is_all = False
    return is_all


def _sizes(store: Store, items: Sequence[Item]) -> Mapping[str, int]:
    """Return what records say of the sizes of blobs."""
    keys = [item.path.name.removesuffix(".json") for item in items if item.kind == "layers"]
    layers = [layer for key in keys if (layer := store.recorded(key))]
    return {hex_of(layer.digest): layer.size for layer in layers}


def _read(path: Path, advance: Advance) -> Iterator[bytes]:
    """Yield a file's bytes; that they were read for a check does not count as a use.

    A pipe has no bytes, and nobody waits for them.
    """
    with open(path, "rb", buffering=0, opener=_quietly) as file:
        while chunk := file.read(_BLOCK):
            yield chunk
            advance(len(chunk))


def _quietly(path: str, flags: int) -> int:
    flags |= os.O_NONBLOCK
    with contextlib.suppress(PermissionError):  # of somebody else's file
        return os.open(path, flags | os.O_NOATIME)
    return os.open(path, flags)


def _vouches(record: Any) -> bool:
    """Tell whether a record matches the digest of itself that it holds, if it holds one."""
    if not isinstance(record, dict):
        return False
    rest = {name: value for name, value in record.items() if name != "check"}
    expected = of_bytes(canonical(rest))
    return bool(record.get("check", expected) == expected)
