"""Lock → verified files: every wheel, .deb and model file, from wherever this machine finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import catalogue
from builder.errors import ResolveError
from builder.sources import debian, models, wheels
from builder.sources.downloads import Downloads, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from builder.lock import DebianPackage, Lock, Wheel


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
        path = lock.stack.get("model", {}).get("path")
        narrowed = model.model_copy(update={"files": tuple(chosen)})
        found = models.fetch(narrowed, path, folder, downloads)
        places |= {file.sha256: found[file.path] for file in chosen}
    return places


def _wanted(lock: Lock) -> Iterator[Wanted]:
    links = catalogue.engine(lock.engine.name).find_links
    for wheel in lock.wheels:
        yield _wheel(wheel, links)
    for package in lock.base.packages:
        yield _package(package, lock.base.debian)


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


def _package(package: DebianPackage, release: str) -> Wanted:
    return Wanted(
        label=package.path.rpartition("/")[2],
        sha256=package.sha256,
        size=package.size,
        urls=lambda: debian.urls(package, release),
        gone=lambda: debian.gone(package),
    )
