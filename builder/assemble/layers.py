"""Write the layers of a recipe, or look them up when their inputs are unchanged."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import console, files
from builder.assemble.base import write_base
from builder.assemble.collisions import Opener, collide
from builder.assemble.venv import WheelFile, write_prefix, write_wheel
from builder.assemble.weights import Contents, unweighed, weight_layers, weights_of
from builder.digest import sha256_of
from builder.errors import IntegrityError
from builder.lock import PACKER_VERSION, Wheel
from builder.oci.layer import content_chunks
from builder.oci.memo import WeightMemo
from builder.recipe import (
    MODELS,
    BasePart,
    LauncherPart,
    NamesPart,
    Part,
    Recipe,
    WeightsPart,
    WheelsPart,
    pins,
)
from builder.sources.own import launcher_files

if TYPE_CHECKING:
    from builder.oci.layer import Compression, Layer
    from builder.oci.store import Store
    from builder.oci.tar import TarWriter

_UNREADABLE = (zipfile.BadZipFile, zlib.error, tarfile.TarError, RuntimeError, EOFError)
"""What archives with damaged, encrypted or unknown content raise when they are read."""
_SIDE_BY_SIDE = 2
"""Layers written at the same time; each compresses with several threads of its own."""

Places = Mapping[str, Path]
"""Where each file lies on this machine, by its sha256."""


@dataclass(frozen=True)
class _Inputs:
    """What layers are written from."""

    places: Places
    weights: Mapping[WeightsPart, Layer]
    skipped: Mapping[str, list[str]]
    """Paths that a wheel leaves to another, by its file name."""
    advance: Callable[[int], object]
    """Hears how many bytes of the inputs are done."""


class Assembler:
    """Turns the parts of one recipe into layers of a store."""

    def __init__(self, recipe: Recipe, store: Store, compression: Compression) -> None:
        self._recipe, self._store, self._compression = recipe, store, compression
        self._memo = WeightMemo(store.root, PACKER_VERSION)
        found = [w for part in recipe.parts if isinstance(part, WheelsPart) for w in part.wheels]
        self._wheels = sorted(found, key=lambda wheel: wheel.name)  # the lock's order

    def needs(self) -> frozenset[str]:
        """Return the sha256 of every locked file that has to be at hand for `layers`.

        Weights are not among them where the digest of their layer is known.
        """
        skipped = self._recall_skipped()
        needed = set()
        for part in self._recipe.parts:
            if isinstance(part, WheelsPart) and skipped is None:
                needed |= {wheel.sha256 for wheel in part.wheels}
            elif isinstance(part, WeightsPart):
                needed |= unweighed((part,), self._memo)
            elif self._store.recall(self._key(part, skipped or {})) is None:
                needed |= {pin.sha256 for pin in pins(part)}
        return frozenset(needed)

    def recalled(self) -> tuple[Layer | None, ...]:
        """Return the layer of every part whose blob the store has; never one of weights."""
        skipped = self._recall_skipped()
        return tuple(
            None
            if isinstance(part, WeightsPart) or (isinstance(part, WheelsPart) and skipped is None)
            else self._store.recall(self.key(part))
            for part in self._recipe.parts
        )

    def key(self, part: Part) -> str:
        """Return the name under which the store remembers a part's layer."""
        return self._key(part, self._recall_skipped() or {})

    def known(self) -> tuple[tuple[str, bool], ...]:
        """Return the title of every layer, and whether a look-up is all that it costs."""
        skipped = self._recall_skipped()
        return tuple((part.title, self._is_known(part, skipped)) for part in self._recipe.parts)

    def _is_known(self, part: Part, skipped: Mapping[str, list[str]] | None) -> bool:
        if isinstance(part, WeightsPart):
            return not unweighed((part,), self._memo)
        return skipped is not None and self._work(part, skipped) == 0

    def layers(self, places: Places, contents: Contents) -> tuple[Layer, ...]:
        """Return the layers, lowest first; `contents` are the weights, which may be elsewhere.

        Raises:
            IntegrityError: a file is not what the lock says.
        """
        weights = weight_layers(weights_of(self._recipe), contents, self._memo)
        skipped = self._recall_skipped()
        if skipped is None:
            skipped = self._find_collisions(places)

        total = sum(self._work(part, skipped) for part in self._recipe.parts)
        with (
            console.progress("write layers", total) as bar,
            ThreadPoolExecutor(_SIDE_BY_SIDE) as workers,
        ):
            inputs = _Inputs(places, weights, skipped, bar.advance)
            try:
                return tuple(workers.map(lambda p: self._layer(p, inputs), self._recipe.parts))
            except BaseException:
                self._store.stop.set()  # what is half done is not waited for
                raise

    def _work(self, part: Part, skipped: Mapping[str, list[str]]) -> int:
        """Return the bytes that are read to write a layer, 0 if it is known."""
        if isinstance(part, WeightsPart) or self._store.recall(self._key(part, skipped)):
            return 0
        return sum(pin.size for pin in pins(part))

    def _layer(self, part: Part, inputs: _Inputs) -> Layer:
        if isinstance(part, WeightsPart):
            return inputs.weights[part]
        key = self._key(part, inputs.skipped)
        known = self._store.recall(key)
        if known is not None:
            return known
        fill = self._filler(part, inputs)
        with console.step(f"layer {part.title}"):
            try:
                layer = self._store.build_layer(part.title, self._compression, fill)
            except (*_UNREADABLE, ValueError) as fault:
                message = f"layer {part.title}: {fault}"
                raise IntegrityError(message, "what was locked cannot be unpacked") from fault
        self._store.remember(key, layer)
        return layer

    def _filler(self, part: Part, inputs: _Inputs) -> Callable[[TarWriter], None]:
        match part:
            case BasePart():
                return lambda tar: _fill_base(tar, part, inputs)
            case WheelsPart():
                return lambda tar: _fill_wheels(tar, part, inputs)
            case LauncherPart():
                return _fill_launcher
            case NamesPart():
                return lambda tar: _fill_names(tar, part, inputs.places)
            case WeightsPart():
                message = "weight layers are not written"
                raise AssertionError(message)

    def _key(self, part: Part, skipped: Mapping[str, list[str]]) -> str:
        """Name everything that the bytes of a layer depend on."""
        files_of = part.wheels if isinstance(part, WheelsPart) else ()
        lost = {wheel.file: skipped[wheel.file] for wheel in files_of if wheel.file in skipped}
        inputs = [PACKER_VERSION, self._compression, repr(part), lost]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def _collision_path(self) -> Path:
        names = "\n".join(wheel.sha256 for wheel in self._wheels)
        key = hashlib.sha256(f"{PACKER_VERSION}\n{names}".encode()).hexdigest()
        return self._store.root / "collisions" / f"{key}.json"

    def _recall_skipped(self) -> dict[str, list[str]] | None:
        try:
            record = json.loads(self._collision_path().read_bytes())
            skipped = dict(record["skipped"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return skipped if record == _checked(skipped) else None

    def _find_collisions(self, places: Places) -> dict[str, list[str]]:
        python = next(p.python for p in self._recipe.parts if isinstance(p, WheelsPart))
        skipped, collisions = collide(_openers(self._wheels, places, python))
        for collision in collisions:
            console.warn(str(collision))
        text = json.dumps(_checked(skipped), sort_keys=True)
        files.write_atomic(self._collision_path(), text.encode())
        return skipped


def _checked(skipped: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what is recorded of collisions, with a digest of itself: damage is no knowledge."""
    text = json.dumps(skipped, sort_keys=True)
    return {"skipped": skipped, "check": hashlib.sha256(text.encode()).hexdigest()}


def _verified(places: Places, sha256: str, label: str) -> Path:
    """Return the file of a pin, having read it and found its digest right."""
    path = places[sha256]
    actual = sha256_of(path)
    if actual != sha256:
        raise _wrong(path, label, sha256, actual)
    return path


def _wrong(path: Path, label: str, expected: str, actual: str) -> IntegrityError:
    place = str(path) if str(path).endswith(label) else f"{path}: {label}"
    message = f"{place}: expected sha256:{expected}, got sha256:{actual}"
    hint = "restore the file, or remove it if it is in the cache, then run the command again"
    return IntegrityError(message, hint)


def _fill_base(tar: TarWriter, part: BasePart, inputs: _Inputs) -> None:
    places = inputs.places
    debs = [(package, _verified(places, package.sha256, package.name)) for package in part.packages]
    write_base(tar, debs, part.debian, inputs.advance)


def _fill_wheels(tar: TarWriter, part: WheelsPart, inputs: _Inputs) -> None:
    if part.has_prefix:
        write_prefix(tar, part.python)
    for wheel in part.wheels:
        _verified(inputs.places, wheel.sha256, wheel.file)
    for opener in _openers(part.wheels, inputs.places, part.python):
        with opener() as opened:
            write_wheel(tar, opened, inputs.skipped.get(opened.wheel.file, ()), inputs.advance)


def _openers(wheels: Sequence[Wheel], places: Places, python: str) -> list[Opener]:
    def opener(wheel: Wheel) -> Opener:
        return lambda: closing(WheelFile(wheel, places[wheel.sha256], python))

    return [opener(wheel) for wheel in wheels]


def _fill_launcher(tar: TarWriter) -> None:
    for path, content in launcher_files().items():
        tar.parents(path)
        tar.file(path, len(content), [content])
    # Weight layers hold nothing but their files; the folders above them are made here.
    tar.parents(f"{MODELS.lstrip('/')}/blobs/sha256/_")


def _fill_names(tar: TarWriter, part: NamesPart, places: Places) -> None:
    for file in sorted(part.files, key=lambda file: file.path):
        path = f"{part.folder}/{file.path}"
        content = _verified(places, file.sha256, file.path)
        tar.parents(path)
        tar.file(path, file.size, content_chunks(content))
    for link in sorted(part.links, key=lambda file: file.path):
        path = f"{part.folder}/{link.path}"
        tar.parents(path)
        upwards = "../" * (path.count("/") - 1)
        tar.symlink(path, f"{upwards}blobs/sha256/{link.sha256}")
