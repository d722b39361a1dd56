"""Lock → Dockerfile and context, and on through BuildKit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import files
from builder.errors import UsageError
from builder.pipeline import cells
from builder.pipeline.building import BuildOptions, each_cell, examined, weighed
from builder.sources.downloads import Downloads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.buildkit import Context, Inputs, Target
    from builder.digest import Digest
    from builder.outputs import Output
    from builder.pipeline.locking import Locked


@dataclass(frozen=True)
class RenderOptions:
    """How to write a build context."""

    folder: Path
    standalone: bool = False
    force: bool = False
    dry_run: bool = False
    tag: str | None = None
    gpu: str | None = None


def render(stack_path: Path, options: RenderOptions) -> Context:
    """Write the Dockerfile of a stack and the context beside it; a dry run fills only caches."""
    from builder import buildkit
    from builder.recipe import recipe

    locked = cells.one(stack_path, options.gpu, may_lock=True)
    buildkit.check_folder(recipe(locked.lock), options.folder, force=options.force)
    write = buildkit.forecast if options.dry_run else buildkit.write_context
    inputs = _context_inputs(locked, options.tag)
    return write(inputs, options.folder, standalone=options.standalone)


def build_with_buildkit(
    stack_path: Path, options: BuildOptions
) -> Iterator[tuple[Context, Digest]]:
    """Yield every image that is asked for, once BuildKit has built it.

    It goes into the engine, unless outputs say otherwise.
    """
    from builder import buildkit

    buildkit.check_engine()
    for locked, chosen in each_cell(stack_path, options):
        yield _build(locked, chosen)


def _build(locked: Locked, options: BuildOptions) -> tuple[Context, Digest]:
    import tempfile

    from builder import buildkit

    inputs = _context_inputs(locked, options.tag)
    inputs.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=inputs.scratch, ignore_cleanup_errors=True) as place:
        folder = Path(place)
        buildkit.check_folder(inputs.recipe, folder, force=False)
        context = buildkit.write_context(inputs, folder, standalone=False)
        targets = [_target(output) for output in options.outputs] or [buildkit.Target()]
        digests = [buildkit.build(context, target) for target in targets]
    return context, digests[-1]


def _target(output: Output) -> Target:
    from builder import buildkit, outputs

    match output:
        case outputs.Docker():
            return buildkit.Target()
        case outputs.Folder(path):
            return buildkit.Target(path)
        case outputs.Archive(path):
            return buildkit.Target(path, is_archive=True)
        case _:
            message = f"--output: not with --executor buildkit: {output}"
            raise UsageError(message, "leave out --executor buildkit")


def _context_inputs(locked: Locked, tag: str | None) -> Inputs:
    """Fetch what a build context needs, and write its small parts as the native executor does."""
    from builder import buildkit
    from builder import fetch as fetcher
    from builder.assemble.parts import ContextParts
    from builder.oci.store import Store
    from builder.recipe import image_name, recipe

    cache = files.cache_folder()
    store = Store(cache)
    store.begin()
    locked = weighed(locked, BuildOptions())[0]
    needed = ContextParts(recipe(locked.lock), store).needs()
    lock = examined(locked, needed, may_lock=True).lock
    plan = recipe(lock)
    parts = ContextParts(plan, store)
    places = fetcher.fetch(lock, locked.folder, Downloads(cache), needed)
    base, trees = parts.layers(places)
    model = lock.stack["model"].get("path")
    return buildkit.Inputs(
        lock=lock,
        recipe=plan,
        name=image_name(lock, tag, locked.suffix),
        base=base,
        trees=trees,
        places=places,
        model=locked.folder / model if model else None,
        scratch=cache / "contexts",
    )
