"""A model in a folder of this machine: hashed once, read where it lies, never copied."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from builder import console, digest
from builder.errors import IntegrityError, StackError
from builder.lock import Model, ModelFile
from builder.oci import weights
from builder.oci.layer import content_chunks
from builder.oci.weights import WeightFile
from builder.process import cpus
from builder.sources import model_contents, model_facts, model_files, model_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.oci.memo import WeightMemo
    from builder.stack.model import Model as Asked


def path_of(model_path: str, file: str, folder: Path) -> Path:
    """Return where a file of a model lies; `folder` is that of the stack file."""
    return folder / model_path / file


def pin(asked: Asked, folder: Path, memo: WeightMemo, keep: Model | None = None) -> Model:
    """Return the model as its folder holds it now.

    Every file is read once for its own digest.  Weights are read once more for the digest of their
    layer, whose header holds the first; not where `keep`, the model of a previous lock, or `memo`
    knows the layer of such content.

    Raises:
        StackError: there is no such folder, or it holds what must not enter an image.
        IntegrityError: a file is malformed, or is being written to.
    """
    place = asked.path or "."
    root = folder / place
    if not root.is_dir():
        message = f"{place}: there is no such folder in {folder}"
        raise StackError(message, "give model.path relative to the stack file")
    paths = {name: _regular(root / name, name) for name in model_files.select(asked, _walk(root))}
    contents = model_contents.read(paths, place)
    before = {path: _state(path) for path in paths.values()}
    files = model_layers.carried(_hash(paths), keep.files if keep else (), memo)
    model_contents.check(asked, files, contents)
    files = _weigh(files, paths, memo)
    for path, state in before.items():
        if _state(path) != state:
            message = f"{path}: changed while it was read"
            raise IntegrityError(message, "run the command again once nothing writes to it")
    facts = model_facts.facts(contents.config, contents.weights)
    return Model(role="main", files=files, facts=facts)


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _weigh(
    files: tuple[ModelFile, ...], paths: Mapping[str, Path], memo: WeightMemo
) -> tuple[ModelFile, ...]:
    """Complete `files` with the layers that nobody knows yet."""
    unknown = [g for g in model_layers.groups(files) if model_layers.known(g, memo) is None]
    chosen = [[WeightFile(paths[f.path], f.sha256, f.size) for f in group] for group in unknown]
    total = sum(file.size for group in unknown for file in group)
    with console.progress(f"weigh {len(unknown)} layers of weights", total) as bar:
        digests = weights.side_by_side(weights.weigh_checked, chosen, bar.advance)
    for group, found in zip(unknown, digests, strict=True):
        model_layers.remember(group, found, memo)
    return model_layers.with_layers(files, lambda group: model_layers.known(group, memo))


def check(path: Path, expected: ModelFile) -> None:
    """Check a file's content against the lock."""
    actual = digest.sha256_of(path)
    if actual != expected.sha256:
        message = f"{path}: expected sha256:{expected.sha256}, got sha256:{actual}"
        raise IntegrityError(message, "restore the file, or run builder lock with the stack")


def check_size(path: Path, expected: ModelFile) -> None:
    """Check that a file is there with the size of the lock, without reading it."""
    try:
        size = path.stat().st_size
    except OSError as fault:
        message = f"{path}: {(fault.strerror or 'unreadable').lower()}"
        raise IntegrityError(message, "restore it, or run builder lock with the stack") from fault
    if size != expected.size:
        message = f"{path}: expected {expected.size} bytes, got {size}"
        raise IntegrityError(message, "restore it, or run builder lock with the stack")


def _walk(root: Path) -> Iterator[str]:
    """Yield every path below `root` that is not a folder."""
    for place, folders, names in os.walk(root):
        here = Path(place).relative_to(root)
        # A link to a folder is no folder to walk into: it is named, and refused unless excluded.
        links = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = [
            name
            for name in folders
            if name not in links and not model_files.is_bookkeeping((here / name).as_posix())
        ]
        yield from ((here / name).as_posix() for name in (*names, *links))


def _regular(path: Path, name: str) -> Path:
    """Return the file itself.  Links are followed: the hub's own cache is made of them."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as fault:
        message = f"{path}: is a link to nothing"
        raise StackError(message, _excluding(name)) from fault
    if not target.is_file():
        kind = "is a link to a folder" if target.is_dir() else "is not a regular file"
        message = f"{path}: {kind}"
        raise StackError(message, _excluding(name))
    return target


def _excluding(name: str) -> str:
    return f"remove it, or add {model_files.flow([name])} to model.files.exclude"


def _hash(paths: Mapping[str, Path]) -> tuple[ModelFile, ...]:
    """Hash files side by side; the first failure, or Ctrl-C, ends the others soon."""
    stop = Event()
    total = sum(path.stat().st_size for path in paths.values())
    with (
        console.progress(f"hash {len(paths)} files of the model", total) as bar,
        ThreadPoolExecutor(cpus()) as workers,
    ):

        def advance(count: int) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            bar.advance(count)

        tasks = [workers.submit(_file, name, path, advance) for name, path in paths.items()]
        try:
            return tuple(task.result() for task in tasks)
        except BaseException:
            stop.set()
            workers.shutdown(cancel_futures=True)
            raise


def _file(name: str, path: Path, advance: Callable[[int], object]) -> ModelFile:
    chunks = _counted(content_chunks(path), advance)
    sha256 = digest.hex_of(digest.of_chunks(chunks))
    return ModelFile(path=name, size=path.stat().st_size, sha256=sha256)


def _counted(chunks: Iterator[bytes], advance: Callable[[int], object]) -> Iterator[bytes]:
    for chunk in chunks:
        advance(len(chunk))
        yield chunk
