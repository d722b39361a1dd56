"""Lock → verified files: every wheel, .deb and model file, wherever this machine finds them."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from builder import catalogue, console, files
from builder.digest import sha256_of
from builder.errors import ResolveError
from builder.sources import debian, hub, models, wheels
from builder.sources.downloads import Downloads, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from builder.lock import DebianPackage, Lock, ModelFile, Wheel
    from builder.oci.layer import Stream

_PARALLEL = 4
"""Files read at the same time; hashing releases the interpreter."""


def fetch(
    lock: Lock, folder: Path, downloads: Downloads, only: Collection[str] | None = None
) -> dict[str, Path]:
    """Return where each locked file lies, by sha256; downloads what is missing.

    `folder` is the stack's; `only` restricts to these sha256, which an unchanged image needs
    few of.

    Raises:
        ResolveError: a file cannot be had.
        IntegrityError: a place has other bytes than the lock says.
    """
    wanted = [item for item in _wanted(lock) if only is None or item.sha256 in only]
    downloads.fetch(wanted)
    places = {item.sha256: downloads.path(item.sha256) for item in wanted}
    for model in lock.models:
        chosen = [file for file in model.files if only is None or file.sha256 in only]
        narrowed = model.model_copy(update={"files": tuple(chosen)})
        found = models.fetch(narrowed, _model_path(lock), folder, downloads)
        places |= {file.sha256: found[file.path] for file in chosen}
    return places


def model_places(lock: Lock, folder: Path, downloads: Downloads) -> dict[str, Path]:
    """Return where each model file lies, or would lie, by sha256; `folder` is the stack's."""
    found: dict[str, Path] = {}
    for model in lock.models:
        paths = models.places(model, _model_path(lock), folder, downloads)
        found |= {file.sha256: paths[file.path] for file in model.files}
    return found


def streams(lock: Lock, downloads: Downloads) -> dict[str, Stream]:
    """Return the files of hub models that are not on this machine, by sha256, to be read there."""
    return {
        file.sha256: hub.stream(model, file)
        for model in lock.models
        if _model_path(lock) is None
        for file in model.files
        if not downloads.has(hub.wanted(model, file))
    }


def absent_weights(
    lock: Lock, only: Collection[str], downloads: Downloads
) -> tuple[ModelFile, ...]:
    """Return the weights of hub models, among those named by sha256, that must be downloaded."""
    if _model_path(lock) is not None:
        return ()
    return tuple(
        file
        for model in lock.models
        for file in model.files
        if file.sha256 in only and not downloads.has(hub.wanted(model, file))
    )


def _model_path(lock: Lock) -> str | None:
    path = lock.stack.get("model", {}).get("path")
    return None if path is None else str(path)


def verify(lock: Lock, downloads: Downloads) -> None:
    """Read every wheel and .deb of the cache; remove damaged ones, so that `fetch` brings them."""
    here = [item for item in _wanted(lock) if downloads.has(item)]
    paths = [downloads.path(item.sha256) for item in here]
    with (
        console.progress("verify", sum(item.size for item in here)) as bar,
        ThreadPoolExecutor(_PARALLEL) as workers,
    ):
        for item, path, actual in zip(here, paths, workers.map(sha256_of, paths), strict=True):
            bar.advance(item.size)
            if actual != item.sha256:
                console.warn(f"{item.label}: the cached file is damaged, fetching it again")
                path.unlink(missing_ok=True)


def missing(lock: Lock, downloads: Downloads) -> tuple[Wanted, ...]:
    """Return the wheels and .debs that are not in the cache."""
    return tuple(item for item in _wanted(lock) if not downloads.has(item))


def export(lock: Lock, places: Mapping[str, Path], folder: Path) -> None:
    """Lay every file out under its own name, for sites that build without a network.

    `wheels/` serves as a find-links folder, `debian/` as BUILDER_DEBIAN_ARCHIVE, `models/` as
    `model.path`.
    """
    for wheel in lock.wheels:
        _copy(places[wheel.sha256], folder / "wheels" / wheel.file)
    for package in lock.base.packages:
        _copy(places[package.sha256], folder / "debian" / package.path.rpartition("/")[2])
    for model in lock.models:
        for file in model.files:
            _copy(places[file.sha256], folder / "models" / lock.name / file.path)


def _copy(source: Path, target: Path) -> None:
    """Link the file, or copy it to another file system; what is there already stays."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(source, target)
    except OSError:
        with source.open("rb") as content, files.writing(target) as file:
            shutil.copyfileobj(content, file, 1 << 20)


def _wanted(lock: Lock) -> Iterator[Wanted]:
    links = catalogue.engine(lock.engine.name).find_links
    for wheel in lock.wheels:
        yield _wheel(wheel, links)
    for package in lock.base.packages:
        yield wanted_package(package, lock.base.debian)


def _wheel(wheel: Wheel, links: tuple[str, ...]) -> Wanted:
    def gone() -> ResolveError:
        message = f"{wheel.file}: no configured index or folder has this file"
        return ResolveError(message, "check pip's index settings, or lock again")

    return Wanted(
        label=wheel.file,
        sha256=wheel.sha256,
        size=wheel.size,
        urls=lambda: wheels.urls(wheel, links),
        gone=gone,
    )


def wanted_package(package: DebianPackage, release: str) -> Wanted:
    """Return a .deb as the cache of downloads takes it."""
    return Wanted(
        label=package.path.rpartition("/")[2],
        sha256=package.sha256,
        size=package.size,
        urls=lambda: debian.urls(package, release),
        gone=lambda: debian.gone(package),
    )
