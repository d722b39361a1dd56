"""Stack file → Stack → Lock, and whether the two still agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import console, files
from builder import lock as locks
from builder import stack as stacks
from builder.errors import StaleLockError, UsageError
from builder.pipeline import checking

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from builder.lock import Drift, Lock
    from builder.stack import Stack


@dataclass(frozen=True)
class Locked:
    """A stack with its lock, and which of its cells is meant."""

    stack_path: Path
    lock_path: Path
    whole: Lock
    """What the file holds."""
    gpu: str | None = None
    """The cell; None: every cell, or the image for CPU."""

    @property
    def lock(self) -> Lock:
        """The lock of what is meant."""
        return self.whole if self.gpu is None else self.whole.cell(self.gpu)

    @property
    def suffix(self) -> str:
        """What the tag of an image ends with: the images of a matrix share a repository."""
        return f"-{self.gpu}" if self.gpu and len(self.whole.cells) > 1 else ""

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
    """What changed in the stack and every pin that moved: `name: old -> new`."""
    is_written: bool
    """Whether the file changed, or in a dry run would change."""


def lock(stack_path: Path, options: LockOptions) -> LockResult:
    """Resolve a stack and write its lock, keeping every pin that still fits."""
    from builder import resolve as resolver
    from builder.sources.downloads import Downloads

    # What the catalogue knows to fail needs no network to be refused.
    asked = checking.check(stack_path)
    checking.refuse(asked)
    stack, previous = asked.stack, asked.lock
    lock_path = locks.path_for(stack_path, stack.name)
    request = resolver.Request(
        stack=stack,
        folder=stack_path.resolve().parent,
        previous=previous,
        upgrade=options.upgrade,
        allow_expired=options.allow_expired,
    )
    made = resolver.resolve(request, Downloads(files.cache_folder()))
    checked = checking.check_lock(asked, made)
    checking.refuse(checked)
    checking.warn(checked)
    changes = locks.changes(previous, made)
    if previous is not None:
        named = locks.drift(previous, made.stack, previous.pins)
        changes = (*(str(difference) for difference in named), *changes)
    locked = Locked(stack_path, lock_path, made)
    if options.dry_run:
        return LockResult(locked, changes, is_written=previous != made)
    return LockResult(locked, changes, locks.write(lock_path, made))


def drift(stack_path: Path) -> tuple[Locked, tuple[Drift, ...]]:
    """Return a stack's lock and how the two differ; no network."""
    return _drift(stack_path, stacks.load(stack_path))


def _drift(stack_path: Path, stack: Stack) -> tuple[Locked, tuple[Drift, ...]]:
    from builder.sources import own

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
    stack = stacks.load(stack_path)
    if may_lock and not locks.path_for(stack_path, stack.name).exists():
        console.note(f"{stack_path} has no lock yet: resolving")
        return lock(stack_path, LockOptions()).locked
    locked, differences = _drift(stack_path, stack)
    if differences:
        raise stale(locked, differences)
    return locked


def stale(locked: Locked, differences: Sequence[Drift | str]) -> StaleLockError:
    """Return the error for a lock that differs from its stack."""
    return stale_lock(locked.lock_path, locked.stack_path, differences)


def stale_lock(
    lock_path: Path, stack_path: Path, differences: Sequence[Drift | str]
) -> StaleLockError:
    """Return the error for the lock in a file that differs from the stack in another."""
    listed = "".join(f"\n  {difference}" for difference in differences)
    message = f"{lock_path} is out of date with {stack_path}:{listed}"
    return StaleLockError(message, f"run builder lock {stack_path}")
