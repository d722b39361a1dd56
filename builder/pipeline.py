"""The order of the steps.  Nothing else knows it.

stack file → Stack → Lock → Recipe → files → layers → Image → output
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builder import console, files
from builder import lock as locks
from builder import stack as stacks
from builder.errors import StaleLockError, UsageError
from builder.sources.downloads import Downloads

if TYPE_CHECKING:
    from builder.buildkit import Context, Inputs, Target
    from builder.digest import Digest
    from builder.engine.session import Options, Session
    from builder.lock import Drift, Lock
    from builder.oci.image import Image
    from builder.oci.layer import Compression
    from builder.outputs import Output
    from builder.smoke import Report
    from builder.sources.downloads import Wanted


@dataclass(frozen=True)
class Locked:
    """A stack with its lock."""

    stack_path: Path
    lock_path: Path
    lock: Lock

    @property
    def folder(self) -> Path:
        """Where the stack lies; paths in it are relative to this."""
        return self.stack_path.resolve().parent


@dataclass(frozen=True)
class LockOptions:
    """How far `lock` may go."""

    upgrade: tuple[str, ...] = ()
    allow_expired: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class LockResult:
    """What `lock` did."""

    locked: Locked
    changes: tuple[str, ...]
    """Every pin that moved: `name: old -> new`."""
    is_written: bool


def lock(stack_path: Path, options: LockOptions) -> LockResult:
    """Resolve a stack and write its lock, keeping every pin that still fits."""
    from builder import resolve as resolver

    stack = stacks.load(stack_path)
    lock_path = locks.path_for(stack_path, stack.name)
    previous = _earlier(lock_path)
    request = resolver.Request(
        stack=stack,
        folder=stack_path.resolve().parent,
        previous=previous,
        upgrade=options.upgrade,
        allow_expired=options.allow_expired,
    )
    made = resolver.resolve(request, Downloads(files.cache_folder()))
    changes = locks.changes(previous, made)
    is_written = not options.dry_run and locks.write(lock_path, made)
    return LockResult(Locked(stack_path, lock_path, made), changes, is_written)


def _earlier(path: Path) -> Lock | None:
    """Return the lock to keep pins from, if there is one that can be read."""
    return locks.read(path) if path.exists() else None


def drift(stack_path: Path) -> tuple[Locked, tuple[Drift, ...]]:
    """Return a stack's lock and how the two differ; no network."""
    from builder.sources import own

    stack = stacks.load(stack_path)
    lock_path = locks.path_for(stack_path, stack.name)
    if not lock_path.exists():
        message = f"{lock_path}: there is no lock"
        raise UsageError(message, f"run builder lock {stack_path}")
    lock = locks.read(lock_path)
    found = locks.drift(lock, stacks.canonical(stack), own.pins())
    return Locked(stack_path, lock_path, lock), found


def current(stack_path: Path, *, may_lock: bool) -> Locked:
    """Return a stack's lock, made now if there is none and `may_lock`.

    Raises:
        StaleLockError: the stack or this builder changed since.
    """
    if may_lock and not _has_lock(stack_path):
        console.note(f"{stack_path} has no lock yet: resolving")
        return lock(stack_path, LockOptions()).locked
    locked, differences = drift(stack_path)
    if differences:
        listed = "".join(f"\n  {difference}" for difference in differences)
        message = f"{locked.lock_path} is out of date with {stack_path}:{listed}"
        raise StaleLockError(message, f"run builder lock {stack_path}")
    return locked


def _has_lock(stack_path: Path) -> bool:
    return locks.path_for(stack_path, stacks.load(stack_path).name).exists()


def fetch(stack_path: Path, into: Path | None = None) -> tuple[Locked, dict[str, Path]]:
    """Bring everything a lock names into the cache, and lay it out in `into` if that is given."""
    from builder import fetch as fetcher

    locked = current(stack_path, may_lock=True)
    places = fetcher.fetch(locked.lock, locked.folder, Downloads(files.cache_folder()))
    if into is not None:
        fetcher.export(locked.lock, places, into)
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


def assemble(locked: Locked, options: BuildOptions) -> Image:
    """Fetch what unknown layers need, write them, and return the image."""
    from builder import assemble as assembly
    from builder import fetch as fetcher
    from builder.oci.store import Store
    from builder.recipe import image_name, recipe

    cache = files.cache_folder()
    plan = recipe(locked.lock)
    assembler = assembly.Assembler(plan, Store(cache), options.compression)
    needed = assembler.needs()
    with console.step("files of the lock"):
        places = fetcher.fetch(locked.lock, locked.folder, Downloads(cache), needed)
    with console.step(f"{len(plan.parts)} layers"):
        name = image_name(locked.lock, options.tag)
        return assembly.assemble(plan, assembler, places, name)


@dataclass(frozen=True)
class RenderOptions:
    """How to write a build context."""

    folder: Path
    standalone: bool = False
    force: bool = False
    dry_run: bool = False
    tag: str | None = None


def render(stack_path: Path, options: RenderOptions) -> Context:
    """Write the Dockerfile of a stack and the context beside it; a dry run fills only caches."""
    from builder import buildkit
    from builder.recipe import recipe

    locked = current(stack_path, may_lock=True)
    buildkit.check_folder(recipe(locked.lock), options.folder, force=options.force)
    write = buildkit.forecast if options.dry_run else buildkit.write_context
    inputs = _context_inputs(locked, options.tag)
    return write(inputs, options.folder, standalone=options.standalone)


def build_with_buildkit(stack_path: Path, options: BuildOptions) -> tuple[Context, Digest]:
    """Build the image of a stack with BuildKit; into the engine, unless outputs say otherwise."""
    import tempfile

    from builder import buildkit

    for output in options.outputs:
        output.check()
    buildkit.check_engine()
    locked = current(stack_path, may_lock=options.may_lock)
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

    lock, cache = locked.lock, files.cache_folder()
    plan = recipe(lock)
    parts = ContextParts(plan, Store(cache))
    places = fetcher.fetch(lock, locked.folder, Downloads(cache), parts.needs())
    base, trees = parts.layers(places)
    model = lock.stack["model"].get("path")
    return buildkit.Inputs(
        lock=lock,
        recipe=plan,
        name=image_name(lock, tag),
        base=base,
        trees=trees,
        places=places,
        model=locked.folder / model if model else None,
        scratch=cache / "contexts",
    )


def run(target: str, options: Options) -> Session:
    """Return the run of a stack's image, built now if need be, or of any image of ours."""
    from builder.engine import session

    path = Path(target)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        return session.of_reference(target, options)
    image = build(path, BuildOptions()).image
    return session.of_image(image, options, files.cache_folder())


def smoke(target: str, lock_path: Path | None) -> Report:
    """Check a stack's image, built now if need be, or any image that the engine has."""
    from builder import outputs
    from builder import smoke as suite

    suite.require_libraries()
    path = Path(target)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        return suite.run(target, lock_path)
    if lock_path is not None:
        message = f"--lock: {target} has a lock of its own"
        raise UsageError(message, "leave --lock out, or name an image instead of a stack")
    built = build(path, BuildOptions(outputs=(outputs.Docker(),)))
    return suite.run(built.image.name, built.locked.lock_path)
