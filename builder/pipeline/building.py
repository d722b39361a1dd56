"""Lock → files → layers → Image → output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder import console, files
from builder.pipeline.locking import Locked, current
from builder.sources.downloads import Downloads

if TYPE_CHECKING:
    from pathlib import Path

    from builder.oci.image import Image
    from builder.oci.layer import Compression
    from builder.outputs import Output
    from builder.sources.downloads import Wanted


def fetch(stack_path: Path, into: Path | None = None) -> tuple[Locked, dict[str, Path]]:
    """Bring everything a lock names into the cache, and lay it out in `into` if that is given."""
    from builder import fetch as fetcher
    from builder.sources import local

    locked = current(stack_path, may_lock=True)
    downloads = Downloads(files.cache_folder())
    fetcher.verify(locked.lock, downloads)
    places = fetcher.fetch(locked.lock, locked.folder, downloads)
    for model in locked.lock.models:
        for file in model.files:
            local.check(places[file.sha256], file)
    if into is not None:
        fetcher.export(locked.lock, places, into)
        files.write_atomic(into / locked.lock_path.name, locked.lock_path.read_bytes())
    return locked, places


def missing(stack_path: Path) -> tuple[Wanted, ...]:
    """Return the wheels and .debs of a lock that would have to be downloaded."""
    from builder import fetch as fetcher

    locked = current(stack_path, may_lock=False)
    return fetcher.missing(locked.lock, Downloads(files.cache_folder()))


@dataclass(frozen=True)
class BuildOptions:
    """How to build."""

    compression: Compression = "zstd"
    outputs: tuple[Output, ...] = field(default=())
    may_lock: bool = True
    tag: str | None = None


@dataclass(frozen=True)
class Built:
    """An image and what it was made from."""

    locked: Locked
    image: Image


def build(stack_path: Path, options: BuildOptions) -> Built:
    """Assemble the image of a stack and bring it to every output."""
    for output in options.outputs:
        output.check()
    locked = current(stack_path, may_lock=options.may_lock)
    image = assemble(locked, options)
    for output in options.outputs:
        output.write(image)
    return Built(locked, image)


@dataclass(frozen=True)
class Forecast:
    """What a build would do."""

    layers: tuple[tuple[str, bool], ...]
    """Title of each layer, and whether it is known already."""
    downloads: tuple[Wanted, ...]
    """Wheels and .debs that would be downloaded."""


def forecast(stack_path: Path, options: BuildOptions) -> Forecast:
    """Say what `build` would do; changes nothing."""
    from builder import assemble as assembly
    from builder import fetch as fetcher
    from builder.oci.store import Store
    from builder.recipe import recipe

    for output in options.outputs:
        output.check()
    locked, cache = current(stack_path, may_lock=False), files.cache_folder()
    assembler = assembly.Assembler(recipe(locked.lock), Store(cache), options.compression)
    needed = assembler.needs()
    missing = fetcher.missing(locked.lock, Downloads(cache))
    return Forecast(assembler.known(), tuple(item for item in missing if item.sha256 in needed))


def assemble(locked: Locked, options: BuildOptions) -> Image:
    """Fetch what unknown layers need, write them, and return the image."""
    from builder import assemble as assembly
    from builder import fetch as fetcher
    from builder.oci.store import Store
    from builder.recipe import image_name, recipe

    cache = files.cache_folder()
    plan, store = recipe(locked.lock), Store(cache)
    store.sweep()
    assembler = assembly.Assembler(plan, store, options.compression)
    needed = assembler.needs()
    with console.step("files of the lock"):
        places = fetcher.fetch(locked.lock, locked.folder, Downloads(cache), needed)
    with console.step(f"{len(plan.parts)} layers"):
        name = image_name(locked.lock, options.tag)
        return assembly.assemble(plan, assembler, places, name)
