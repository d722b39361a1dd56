"""What CI builds: a row for every image of some stacks, or of those that changed.

An image is known by its key: a digest of the lock narrowed to its GPU, which names every byte of
the layers, and of what else shapes or judges it (the recipe of its config, the smoke suite).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder import files
from builder import lock as locks
from builder import stack as stacks
from builder.digest import of_bytes
from builder.errors import BuilderError, StackError, UsageError
from builder.recipe import name_in
from builder.sources import git, own

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.lock import Drift, Lock

_STACKS = Path("stacks")
_OURS = (".py", ".ini")
"""Kinds of files that our own parts are made of."""


@dataclass(frozen=True)
class Cell:
    """One image."""

    stack: Path
    name: str
    """The stack's."""
    gpu: str
    """`none` for CPU: what `--gpu` takes."""
    count: int
    """GPUs in one container."""
    image: str
    """`repository:tag`."""
    lock: Path
    baseline: Path
    """Where its accepted performance is, once there is any."""
    key: str | None
    """None where there is no lock for it."""
    drift: tuple[Drift, ...] = ()
    """How the lock differs from the stack."""

    @property
    def is_locked(self) -> bool:
        """Whether it can be built."""
        return self.key is not None

    @property
    def reason(self) -> str:
        """Why it is not built."""
        if self.is_locked:
            return ""
        fault = "its lock is not for this GPU" if self.drift else "there is no lock"
        return f"{fault}: run builder lock {self.stack}"


class _Tree(Protocol):
    """Files of one moment."""

    def text(self, path: Path) -> str | None:
        """Return what a file holds, None if there is none."""

    def below(self, folder: Path) -> tuple[Path, ...]:
        """Return the files in a folder, at any depth."""


class _Now:
    """The files as they are."""

    def text(self, path: Path) -> str | None:
        return path.read_text("utf-8", errors="replace") if path.is_file() else None

    def below(self, folder: Path) -> tuple[Path, ...]:
        return tuple(path for path in folder.resolve().rglob("*") if path.is_file())


def every_stack() -> tuple[Path, ...]:
    """Return the stacks of the project in the current folder.

    Raises:
        UsageError: there is none.
    """
    found = tuple(sorted(_STACKS.glob("*.yaml")))
    if not found:
        message = f"{_STACKS}: there are no stacks here"
        raise UsageError(message, "name them: builder matrix STACK...")
    return found


def listed(stack_paths: Sequence[Path], since: str | None = None) -> tuple[Cell, ...]:
    """Return the images of stacks; those that are not as they were at a revision, if one is named.

    What has a stale lock is always among them, what has none if its stack changed.  A revision of
    zeros, which is how git and CI say that there was none before, was before everything.

    Raises:
        StackError: two images have one name.
    """
    ours = _ours(None)
    found = [cell for path in dict.fromkeys(stack_paths) for cell in _cells(path, ours)]
    _refuse_one_name_for_two(found)
    if since is None or not since.strip("0") or not found:
        return tuple(found)
    then = git.revision(found[0].stack.resolve().parent, since)
    earlier = _ours(then)
    return tuple(cell for cell in found if cell.drift or not _was(cell, then, earlier))


def _refuse_one_name_for_two(found: Sequence[Cell]) -> None:
    """The image that is pushed last would be the one that the name stands for."""
    owners: dict[str, Path] = {}
    for cell in found:
        other = owners.setdefault(cell.image, cell.stack)
        if other != cell.stack:
            message = f"{cell.stack}: image.repository: {cell.image} is also the image of {other}"
            raise StackError(message, "give each stack a repository of its own")


def _ours(then: git.Revision | None) -> str:
    """Return the digest of our own parts that no lock pins, at a revision or as they are.

    Those that the revision does not hold, because builder is installed elsewhere, have not changed.
    """
    state = hashlib.sha256()
    for folder in (files.data_path("smoke"), Path(__file__).parents[1] / "recipe"):
        tree: _Tree = then if then and then.below(folder) else _Now()
        for path in sorted(tree.below(folder)):
            if path.suffix in _OURS:
                content = hashlib.sha256((tree.text(path) or "").encode()).hexdigest()
                state.update(f"{path.name} {content}\n".encode())
    return state.hexdigest()


def _cells(stack_path: Path, ours: str) -> Iterator[Cell]:
    stack = stacks.load(stack_path)
    values, gpus = stacks.canonical(stack), stack.target.gpus
    lock_path = locks.path_for(stack_path, stack.name)
    lock = locks.read(lock_path) if lock_path.exists() else None
    drift = locks.drift(lock, values, own.pins()) if lock else ()
    for gpu in gpus:
        part = f".{gpu}" if len(gpus) > 1 else ""
        yield Cell(
            stack=stack_path,
            name=stack.name,
            gpu=gpu,
            count=stack.target.count,
            image=name_in(values, suffix=_suffix(gpu, gpus)),
            lock=lock_path,
            baseline=lock_path.with_name(f"{stack.name}{part}.baseline.json"),
            key=_key(lock, gpu, ours) if lock else None,
            drift=drift,
        )


def _suffix(gpu: str, gpus: Sequence[str]) -> str:
    return f"-{gpu}" if len(gpus) > 1 else ""


def _key(lock: Lock, gpu: str, ours: str) -> str | None:
    """Return the key of a lock's image for a GPU, None if it has none."""
    if gpu not in _gpus(lock):
        return None
    narrowed = lock if gpu == stacks.NO_GPU else lock.cell(gpu)
    return of_bytes(f"{locks.digest_of(narrowed)}\n{ours}".encode())


def _gpus(lock: Lock) -> tuple[str, ...]:
    return tuple(cell.name for cell in lock.cells) or (stacks.NO_GPU,)


def _was(cell: Cell, then: git.Revision, ours: str) -> bool:
    """Tell whether an image was the same, under the same name."""
    if cell.key is None:
        was_unlocked = then.text(cell.lock) is None
        return was_unlocked and then.text(cell.stack) == _Now().text(cell.stack)
    lock = _lock_at(then, cell.lock)
    if lock is None:
        return False
    name = name_in(lock.stack, suffix=_suffix(cell.gpu, _gpus(lock)))
    return (_key(lock, cell.gpu, ours), name) == (cell.key, cell.image)


@cache
def _lock_at(then: git.Revision, path: Path) -> Lock | None:
    """Return the lock that a file held; None where there was none, or none that can be read."""
    text = then.text(path)
    try:
        return None if text is None else locks.loads(text, str(path))
    except BuilderError:  # of another builder, or damaged: nothing is known of what it was
        return None
