"""Write the layers of a recipe, or look them up when their inputs are unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from builder import console, files
from builder.assemble.base import write_base
from builder.assemble.venv import WheelFile, collide, write_prefix, write_wheels
from builder.digest import Digest, hex_of, of_file, parse
from builder.errors import IntegrityError
from builder.lock import PACKER_VERSION, ModelFile, Wheel
from builder.oci.layer import Compression, Layer, WeightFile, weigh, weight_layer
from builder.recipe import (
    MODELS,
    BasePart,
    LauncherPart,
    NamesPart,
    Part,
    Recipe,
    WeightsPart,
    WheelsPart,
)
from builder.sources.own import launcher_files

if TYPE_CHECKING:
    from builder.oci.store import Store
    from builder.oci.tar import TarWriter

_SIDE_BY_SIDE = 2
"""Layers written at the same time; each compresses with several threads of its own."""

Places = Mapping[str, Path]
"""Where each file lies on this machine, by its sha256."""


class Assembler:
    """Turns the parts of one recipe into layers of a store."""

    def __init__(self, recipe: Recipe, store: Store, compression: Compression) -> None:
        self._recipe, self._store, self._compression = recipe, store, compression
        self._wheels = tuple(
            wheel for part in recipe.parts if isinstance(part, WheelsPart) for wheel in part.wheels
        )

    def needs(self) -> frozenset[str]:
        """Return the sha256 of every locked file that has to be at hand for `layers`."""
        skipped = self._recall_skipped()
        needed = set()
        for part in self._recipe.parts:
            if isinstance(part, WheelsPart) and skipped is None:
                needed |= {wheel.sha256 for wheel in part.wheels}
            elif isinstance(part, WeightsPart):
                needed |= {file.sha256 for file in part.files}
            elif self._store.recall(self._key(part, skipped or {})) is None:
                needed |= set(_inputs(part))
        return frozenset(needed)

    def layers(self, places: Places) -> tuple[Layer, ...]:
        """Return the layers, lowest first.

        Raises:
            IntegrityError: a file is not what the lock says.
        """
        skipped = self._recall_skipped()
        if skipped is None:
            skipped = self._find_collisions(places)

        def one(part: Part) -> Layer:
            return self._layer(part, places, skipped)

        with ThreadPoolExecutor(_SIDE_BY_SIDE) as workers:
            return tuple(workers.map(one, self._recipe.parts))

    def _layer(self, part: Part, places: Places, skipped: Mapping[str, list[str]]) -> Layer:
        if isinstance(part, WeightsPart):
            return _weights(part, places)
        key = self._key(part, skipped)
        known = self._store.recall(key)
        if known is not None:
            return known
        fill = self._filler(part, places, skipped)
        with console.step(f"layer {part.title}"):
            layer = self._store.build_layer(part.title, self._compression, fill)
        self._store.remember(key, layer)
        return layer

    def _filler(
        self, part: Part, places: Places, skipped: Mapping[str, list[str]]
    ) -> Callable[[TarWriter], None]:
        match part:
            case BasePart():
                return lambda tar: _fill_base(tar, part, places)
            case WheelsPart():
                return lambda tar: _fill_wheels(tar, part, places, skipped)
            case LauncherPart():
                return _fill_launcher
            case NamesPart():
                return lambda tar: _fill_names(tar, part, places)
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
            return dict(json.loads(self._collision_path().read_bytes()))
        except (OSError, ValueError):
            return None

    def _find_collisions(self, places: Places) -> dict[str, list[str]]:
        python = next(p.python for p in self._recipe.parts if isinstance(p, WheelsPart))
        with ExitStack() as stack:
            skipped, collisions = collide(_opened(stack, self._wheels, places, python))
        for collision in collisions:
            console.warn(str(collision))
        text = json.dumps(skipped, sort_keys=True)
        files.write_atomic(self._collision_path(), text.encode())
        return skipped


def _inputs(part: Part) -> Iterator[str]:
    match part:
        case BasePart():
            yield from (package.sha256 for package in part.packages)
        case WheelsPart():
            yield from (wheel.sha256 for wheel in part.wheels)
        case NamesPart() | WeightsPart():
            yield from (file.sha256 for file in part.files)
        case LauncherPart():
            return


def _verified(places: Places, sha256: str, label: str) -> Path:
    """Return the file of a pin, having read it and found its digest right."""
    path = places[sha256]
    with path.open("rb") as file:
        actual = hex_of(of_file(file))
    if actual != sha256:
        message = f"{path}: {label}: expected sha256:{sha256}, got sha256:{actual}"
        raise IntegrityError(message, f"remove {path} and run the command again")
    return path


def _fill_base(tar: TarWriter, part: BasePart, places: Places) -> None:
    debs = [(package, _verified(places, package.sha256, package.name)) for package in part.packages]
    write_base(tar, debs, part.debian)


def _fill_wheels(
    tar: TarWriter, part: WheelsPart, places: Places, skipped: Mapping[str, Sequence[str]]
) -> None:
    if part.has_prefix:
        write_prefix(tar, part.python)
    for wheel in part.wheels:
        _verified(places, wheel.sha256, wheel.file)
    with ExitStack() as stack:
        opened = _opened(stack, part.wheels, places, part.python)
        write_wheels(tar, opened, skipped)


def _opened(
    stack: ExitStack, wheels: Sequence[Wheel], places: Places, python: str
) -> list[WheelFile]:
    return [
        stack.enter_context(closing(WheelFile(wheel, places[wheel.sha256], python)))
        for wheel in wheels
    ]


def _fill_launcher(tar: TarWriter) -> None:
    for path, content in launcher_files().items():
        tar.parents(path)
        tar.file(path, len(content), [content])
    # Weight layers hold nothing but their files; the folders above them are made here.
    tar.parents(f"{MODELS.lstrip('/')}/blobs/sha256/_")


def _fill_names(tar: TarWriter, part: NamesPart, places: Places) -> None:
    for file in sorted(part.files, key=lambda file: file.path):
        path = f"{part.folder}/{file.path}"
        content = _verified(places, file.sha256, file.path).read_bytes()
        tar.parents(path)
        tar.file(path, len(content), [content])
    for link in sorted(part.links, key=lambda file: file.path):
        path = f"{part.folder}/{link.path}"
        tar.parents(path)
        upwards = "../" * (path.count("/") - 1)
        tar.symlink(path, f"{upwards}blobs/sha256/{link.sha256}")


def _weights(part: WeightsPart, places: Places) -> Layer:
    chosen = [WeightFile(places[file.sha256], file.sha256, file.size) for file in part.files]
    return weight_layer(chosen, _weight_digest(part.files, chosen), f"weights {part.title}")


def _weight_digest(locked: Sequence[ModelFile], chosen: Sequence[WeightFile]) -> Digest:
    """Return the layer's digest: from the lock if it has one, else by reading the files."""
    if len(locked) == 1 and locked[0].layer is not None:
        return parse(locked[0].layer)
    if len(locked) == 1:
        with console.progress(f"hash {locked[0].path}", locked[0].size) as bar:
            return weigh(chosen[0].path, chosen[0].sha256, bar.advance).layer
    state = hashlib.sha256()
    unknown = weight_layer(chosen, parse("sha256:" + "0" * 64), "")
    for chunk in unknown.raw():
        state.update(chunk)
    return parse("sha256:" + state.hexdigest())
