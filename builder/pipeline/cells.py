"""Which images of a stack are meant: one with several GPUs has a cell, and an image, for each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from builder import stack as stacks
from builder.catalogue.nearest import nearest
from builder.errors import UsageError
from builder.pipeline.locking import Locked, current

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def asked(stack_path: Path, gpu: str | None) -> tuple[str, ...]:
    """Return the GPU that is named, else every one of the stack.

    Raises:
        UsageError: the stack is not for that GPU.
    """
    stack = stacks.load(stack_path)
    known = stack.target.gpus
    if gpu is None:
        return known
    if gpu in known:
        return (gpu,)
    message = f"--gpu: {stack.name} is not for `{gpu}`"
    near = nearest(gpu, {name: (name,) for name in known})
    raise UsageError(message, f"nearest: {', '.join(near)}" if near else _one_of(known))


def one(stack_path: Path, gpu: str | None, *, may_lock: bool) -> Locked:
    """Return the lock of the one image that is meant.

    Raises:
        UsageError: several are, or none.
    """
    names = asked(stack_path, gpu)
    if len(names) > 1:
        raise several(stack_path, names)
    return of(stack_path, names[0], may_lock=may_lock)


def of(stack_path: Path, gpu: str, *, may_lock: bool) -> Locked:
    """Return a stack's lock narrowed to one of its GPUs, made now if need be."""
    return narrowed(current(stack_path, may_lock=may_lock), gpu)


def narrowed(locked: Locked, gpu: str) -> Locked:
    """Return a stack's lock narrowed to one of its GPUs."""
    return locked if gpu == stacks.NO_GPU else replace(locked, gpu=gpu)


def several(place: object, names: Sequence[str]) -> UsageError:
    """Return the error where one image is needed and a stack has more."""
    message = f"{place}: one image is needed, and the stack has {len(names)}, one for each GPU"
    return UsageError(message, _one_of(names))


def _one_of(names: Sequence[str]) -> str:
    return f"add --gpu NAME, one of: {', '.join(names)}" if len(names) > 1 else f"--gpu {names[0]}"
