"""Lock → files → layers → Image → output."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builder import console, files
from builder.outputs import Cache, Registry, is_for_one
from builder.pipeline import cells
from builder.pipeline.locking import Locked, current
from builder.sources.downloads import Downloads
from builder.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from builder.assemble import Inputs
    from builder.digest import Digest
    from builder.oci.image import Image
    from builder.oci.layer import Compression, Layer
    from builder.outputs import Output
    from builder.sources.downloads import Wanted


def fetch(stack_path: Path, into: Path | None = None) -> tuple[Locked, dict[str, Path]]:
    """Bring everything a lock names into the cache, and lay it out in `into` if that is given."""
    from builder import fetch as fetcher
    from builder.oci import uses
    from builder.sources import local

    locked = current(stack_path, may_lock=True)
    uses.hold(files.cache_folder())
    downloads = Downloads(files.cache_folder())
    fetcher.verify(locked.lock, downloads)
    places = fetcher.fetch(locked.lock, locked.folder, downloads)
    for model in locked.lock.models:
        for file in model.files:
            local.check(places[file.sha256], file)
    locked = _examined(locked, places, may_lock=True)
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
    """Whether a lock may be made, or completed with the digests of weight layers."""
    tag: str | None = None
    is_streamed: bool = False
    """Whether weights that are not here are read from the hub as they are needed, not fetched."""
    gpu: str | None = None
    """The cell to build; None: all."""


@dataclass(frozen=True)
class Built:
    """An image, what it was made from, and where it went."""

    locked: Locked
    image: Image
    outputs: tuple[Output, ...]


def build(stack_path: Path, options: BuildOptions) -> Built:
    """Assemble the one image of a stack, or of a cell of it, see `build_cells`.

    Raises:
        UsageError: the stack has several, and none is named.
    """
    names = cells.asked(stack_path, options.gpu)
    if len(names) > 1:
        raise cells.several(stack_path, names)
    (built,) = build_cells(stack_path, options)
    return built


def build_cells(stack_path: Path, options: BuildOptions) -> Iterator[Built]:
    """Yield every image that is asked for, once it is where the outputs say, or in the cache.

    Weights whose layer digest is known are fetched and read only if an output lacks the layer.
    """
    for locked, chosen in each_cell(stack_path, options):
        yield _build(locked, chosen)


def each_cell(stack_path: Path, options: BuildOptions) -> Iterator[tuple[Locked, BuildOptions]]:
    """Yield the lock of every image that is asked for, and how to build that image.

    Raises:
        UsageError: an output takes one image, and several are asked for.
    """
    names = cells.asked(stack_path, options.gpu)
    if len(names) > 1 and (single := next(filter(is_for_one, options.outputs), None)):
        raise cells.several(single, names)
    for output in options.outputs:
        output.check()
    for name in names:
        chosen = options if len(names) == 1 else _of_cell(options, name)
        yield cells.of(stack_path, name, may_lock=options.may_lock), chosen


def _of_cell(options: BuildOptions, gpu: str) -> BuildOptions:
    """Tell several images apart: a tag that was given is the beginning of theirs."""
    tag = f"{options.tag}-{gpu}" if options.tag else None
    outputs = (
        each.of_cell(gpu) if isinstance(each, Registry) else each for each in options.outputs
    )
    return replace(options, tag=tag, outputs=tuple(outputs))


def _build(locked: Locked, options: BuildOptions) -> Built:
    targets = options.outputs or (Cache(),)
    if options.is_streamed and locked.lock.models[0].repo is None:
        console.note("--stream: the model is in a folder of this machine, nothing is streamed")
    built = assemble(locked, options)
    lacking = frozenset().union(*(output.lacks(built.image) for output in targets))
    _bring(built, lacking, options)
    for output in targets:
        output.write(built.image)
    return built


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
    # The images of all cells have the same layers.
    first = cells.asked(stack_path, options.gpu)[0]
    locked, cache = cells.of(stack_path, first, may_lock=False), files.cache_folder()
    assembler = assembly.Assembler(recipe(locked.lock), Store(cache), options.compression)
    needed = assembler.needs()
    missing = fetcher.missing(locked.lock, Downloads(cache))
    return Forecast(assembler.known(), tuple(item for item in missing if item.sha256 in needed))


def assemble(locked: Locked, options: BuildOptions) -> Built:
    """Fetch what unknown layers need, write or weigh them, and return the image."""
    from builder import assemble as assembly
    from builder.oci.store import Store
    from builder.recipe import image_name, recipe

    store = Store(files.cache_folder())
    store.begin()
    locked, weights = weighed(locked, options)
    needed = assembly.Assembler(recipe(locked.lock), store, options.compression).needs()
    locked = examined(locked, needed, may_lock=options.may_lock)
    plan = recipe(locked.lock)
    assembler = assembly.Assembler(plan, store, options.compression)
    with console.step("files of the lock"):
        inputs = _inputs(locked, needed, options)
    with console.step(f"{len(plan.parts)} layers"):
        name = image_name(locked.lock, options.tag, locked.suffix)
        image = assembly.assemble(plan, assembler, inputs, name)
    layers = tuple(weights.get(layer.digest, layer) for layer in image.layers)
    return Built(locked, replace(image, layers=layers), options.outputs)


def weighed(locked: Locked, options: BuildOptions) -> tuple[Locked, Mapping[Digest, Layer]]:
    """Complete a lock with the digests of its weight layers; reads those that nobody knows.

    They are part of the lock that an image names, so this comes before anything else.  The layers
    know what was read for them just now.
    """
    from builder import assemble as assembly
    from builder import lock as locks
    from builder.oci.memo import WeightMemo
    from builder.recipe import recipe

    memo = WeightMemo(files.cache_folder(), locks.PACKER_VERSION)
    parts = assembly.weights_of(recipe(locked.lock))
    inputs = _inputs(locked, assembly.unweighed(parts, memo), options)
    layers = assembly.weight_layers(parts, inputs.contents, memo)
    digests = {file.sha256: layers[part].digest for part in parts for file in part.files}
    whole = locks.with_layers(locked.whole, digests)
    by_digest = {layer.digest: layer for layer in layers.values()}
    if whole == locked.whole:
        return locked, by_digest
    if options.may_lock:
        locks.write(locked.lock_path, whole)
        console.note(f"{locked.lock_path}: added the digests of weight layers")
    else:
        console.warn(f"{locked.lock_path}: lacks digests of weight layers: build without --locked")
    return replace(locked, whole=whole), by_digest


def examined(locked: Locked, needed: Collection[str], *, may_lock: bool) -> Locked:
    """Read the GPU code of the wheels among `needed`, and complete the lock with what it lacks.

    A wheel of which neither the lock nor the cache tells is fetched and read too: the lock is what
    an image names, so what it is completed with must not depend on what this machine needs.
    """
    from builder import fetch as fetcher
    from builder.sources import code_check
    from builder.sources.cubins import CodeMemo

    lock, cache = locked.lock, files.cache_folder()
    if not code_check.concerns(lock):
        return locked
    wanted = {*needed, *code_check.unknown(lock, CodeMemo(cache))}
    wheels = {wheel.sha256 for wheel in lock.wheels} & wanted
    places = fetcher.fetch(lock, locked.folder, Downloads(cache), wheels)
    return _examined(locked, places, may_lock=may_lock)


def _examined(locked: Locked, places: Mapping[str, Path], *, may_lock: bool) -> Locked:
    from builder import lock as locks
    from builder.sources import code_check
    from builder.sources.cubins import CodeMemo

    if not code_check.concerns(locked.whole):
        return locked
    whole = code_check.examine(locked.whole, places, CodeMemo(files.cache_folder()))
    names = ", ".join(sorted(whole.code.keys() - locked.whole.code.keys()))
    if not names:
        return locked
    if may_lock:
        locks.write(locked.lock_path, whole)
        console.note(f"{locked.lock_path}: added the GPU code that was read in {names}")
    else:
        console.warn(f"{locked.lock_path}: lacks the GPU code of {names}: build without --locked")
    return replace(locked, whole=whole)


def _inputs(locked: Locked, needed: Collection[str], options: BuildOptions) -> Inputs:
    """Fetch the files that have to be read, and say where the weights are, here or not."""
    from builder import fetch as fetcher
    from builder.assemble import Inputs

    lock, downloads = locked.lock, Downloads(files.cache_folder())
    streams = fetcher.streams(lock, downloads) if options.is_streamed else {}
    places = fetcher.fetch(lock, locked.folder, downloads, set(needed) - streams.keys())
    return Inputs(places, {**fetcher.model_places(lock, locked.folder, downloads), **streams})


def _bring(built: Built, lacking: Collection[Digest], options: BuildOptions) -> None:
    """Fetch the weights that an output is going to read, and no others."""
    from builder import fetch as fetcher
    from builder.recipe import WeightsPart, recipe

    locked = built.locked
    parts = zip(recipe(locked.lock).parts, built.image.layers, strict=True)
    wanted = [
        file
        for part, layer in parts
        if isinstance(part, WeightsPart) and layer.digest in lacking
        for file in part.files
    ]
    downloads = Downloads(files.cache_folder())
    streams = fetcher.streams(locked.lock, downloads) if options.is_streamed else {}
    needed = {file.sha256 for file in wanted} - streams.keys()
    for file in fetcher.absent_weights(locked.lock, needed, downloads):
        console.note(f"{file.path} ({human_bytes(file.size)}) is needed and not here: fetching it")
    fetcher.fetch(locked.lock, locked.folder, downloads, needed)
