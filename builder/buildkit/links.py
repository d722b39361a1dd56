"""Bring big files into reach of a build without copying them.

BuildKit takes a folder as a named context, follows no link out of it, and reads patterns where a
Dockerfile names files.  So weights are taken from a local model's own folder where their names are
plain, else from a folder of hard links named by content.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.digest import sha256_of
from builder.errors import HostError, IntegrityError
from builder.recipe import WeightsPart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.buildkit.context import Inputs
    from builder.lock import ModelFile

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")
"""Names that mean themselves in a Dockerfile."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where a build finds the weights."""

    names: Mapping[str, str]
    """Their names there, by sha256."""
    folder: Path | None
    """None where it is part of the context."""
    has_links: bool
    """Whether the folder is ours to make."""

    def seen_from(self, context: Path) -> str:
        """Return the folder as the command names it: relative if both have a parent in common."""
        if self.folder is None:
            return "weights"
        here, there = context.resolve(), self.folder.resolve()
        shared = Path(os.path.commonpath((here, there)))
        return os.path.relpath(there, here) if shared != Path("/") else str(there)

    def write(self, inputs: Inputs, staged: Path) -> None:
        """Make the links, in the context that is being staged or in their own folder."""
        if not self.has_links:
            return
        folder = self.folder or staged / "weights"
        for sha256, name in self.names.items():
            link(inputs.places[sha256], folder / name, may_copy=self.folder is None)


def choose(inputs: Inputs, *, standalone: bool) -> Choice:
    """Return where the weights of a build come from."""
    weights = list(_weights(inputs))
    if not standalone and inputs.model is not None and _is_plain(inputs, weights, inputs.model):
        names = {file.sha256: file.path for file in weights}
        return Choice(names=names, folder=inputs.model, has_links=False)
    names = {file.sha256: file.sha256 for file in weights}
    key = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    folder = None if standalone else inputs.scratch / f"weights-{key[:16]}"
    return Choice(names=names, folder=folder, has_links=True)


def verify(inputs: Inputs) -> None:
    """Read the weights of a local model; those of the hub were verified when they came.

    Raises:
        IntegrityError: a file is not what the lock says.
    """
    if inputs.model is None:
        return
    for weight in _weights(inputs):
        path = inputs.places[weight.sha256]
        actual = sha256_of(path)
        if actual != weight.sha256:
            message = f"{path}: expected sha256:{weight.sha256}, got sha256:{actual}"
            raise IntegrityError(message, "restore it, or run builder lock with the stack")


def _weights(inputs: Inputs) -> Iterator[ModelFile]:
    for part in inputs.recipe.parts:
        if isinstance(part, WeightsPart):
            yield from part.files


def _is_plain(inputs: Inputs, weights: list[ModelFile], folder: Path) -> bool:
    """Tell whether a build can take the weights from a model's own folder."""
    layers = sum(isinstance(part, WeightsPart) for part in inputs.recipe.parts)
    return (
        layers == len(weights)  # a layer of several files takes them under their last names
        and not (folder / ".dockerignore").exists()
        and all(_PLAIN.fullmatch(file.path) for file in weights)
        and not any(_has_link(folder, file.path) for file in weights)
    )


def _has_link(folder: Path, path: str) -> bool:
    parts = Path(path).parts
    return any(folder.joinpath(*parts[: end + 1]).is_symlink() for end in range(len(parts)))


def link(source: Path, target: Path, *, may_copy: bool = True) -> None:
    """Give a file another name; where file systems differ, copy it.

    Raises:
        HostError: it would have to be copied, and must not be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError as fault:
        if not may_copy:
            message = f"{source}: cannot be linked to {target}: {(fault.strerror or '').lower()}"
            raise HostError(message, "add --standalone, which copies it") from fault
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
