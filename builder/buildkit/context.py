"""Write the files beside a rendered Dockerfile.

    Dockerfile       made by the templates, from the lock
    base/            the base layer, as an OCI layout
    bin/uv           the program that installs wheels; it stays outside the image
    launcher/ model/ prefix/   small parts, as the native executor would write them
    requirements/    the wheels of each step, with their digests
    wheels/          the wheels
    weights/         the weight files; only if the context has to stand alone

Big files are hard links to the caches.  A context is made beside its place and moved there when
it is whole; what the parts say is the same everywhere: sorted, owner 0:0, one time.
"""

from __future__ import annotations

import os
import platform
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder import dockerfile, files
from builder.buildkit import links
from builder.digest import hex_of
from builder.dockerfile import Contexts
from builder.errors import HostError, UsageError
from builder.oci import layout
from builder.oci.image import make_image
from builder.oci.tar import MTIME
from builder.recipe import created

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.lock import Lock
    from builder.oci.image import Image
    from builder.oci.layer import Layer
    from builder.recipe import Recipe

_FIRST_WORDS = "# Made by builder render"
_ENTRIES = (
    *("base", "bin", "launcher", "model", "prefix", "requirements", "weights", "wheels"),
    "Dockerfile",  # last: without it a folder is no context
)
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a context is made of."""

    lock: Lock
    recipe: Recipe
    name: str
    """`repository:tag` of the image."""
    base: Layer
    trees: Mapping[str, Layer]
    """Uncompressed layers that become folders, by the folder's name."""
    places: Mapping[str, Path]
    """Where wheels and weights lie, by sha256."""
    model: Path | None
    """The folder of a local model."""
    scratch: Path
    """Where links to weights may lie, on the file system of the downloads."""


@dataclass(frozen=True)
class Context:
    """A context on disk, and the command that builds it there."""

    folder: Path
    recipe: Recipe
    contexts: Contexts

    @property
    def command(self) -> tuple[str, ...]:
        """The command; it runs in the folder."""
        return dockerfile.command(self.recipe, self.contexts)


def check_folder(recipe: Recipe, folder: Path, *, force: bool) -> None:
    """Refuse what cannot work, before any work is done.

    Raises:
        UsageError: the folder holds other things than a context.
        HostError: this machine has no uv that runs in the image.
    """
    if platform.machine() != _MACHINES.get(recipe.platform):
        message = (
            f"a context for {recipe.platform} needs its uv, this machine is {platform.machine()}"
        )
        raise HostError(message, "run builder render on such a machine, or builder build here")
    if not force and not _may_write(folder):
        message = f"{folder}: exists and is no build context"
        raise UsageError(message, "choose another folder, or add --force to write into it")
    if folder.exists() and not folder.is_dir():
        message = f"{folder}: is no folder"
        raise UsageError(message, "choose another folder")


def _may_write(folder: Path) -> bool:
    if not folder.is_dir():
        return not folder.exists()
    if not any(folder.iterdir()):
        return True
    try:
        with (folder / "Dockerfile").open(encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(_FIRST_WORDS)
    except OSError:
        return False


def forecast(inputs: Inputs, folder: Path, *, standalone: bool) -> Context:
    """Return the context that `write_context` would write."""
    choice = links.choose(inputs, standalone=standalone)
    contexts = Contexts(
        name=inputs.name,
        base=_base_image(inputs).digest,
        weights=choice.seen_from(folder),
        names=choice.names,
    )
    return Context(folder, inputs.recipe, contexts)


def write_context(inputs: Inputs, folder: Path, *, standalone: bool) -> Context:
    """Write the context into `folder`, which `check_folder` has accepted.

    Raises:
        HostError: the folder cannot be written.
        IntegrityError: a weight file is not what the lock says.
    """
    context = forecast(inputs, folder, standalone=standalone)
    text = dockerfile.render(inputs.lock, inputs.recipe, context.contexts)
    links.verify(inputs)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=files.TEMPORARY_PREFIX, dir=folder.resolve().parent, ignore_cleanup_errors=True
        ) as temporary:
            staged = Path(temporary) / "context"
            _write_texts(inputs, staged, text)
            _write_parts(inputs, staged)
            links.choose(inputs, standalone=standalone).write(inputs, staged)
            _level(staged)
            _move(staged, folder)
    except OSError as fault:
        raise files.unwritable(folder, fault) from fault
    return context


def _write_texts(inputs: Inputs, folder: Path, text: str) -> None:
    (folder / "requirements").mkdir(parents=True)
    (folder / "Dockerfile").write_text(text, "utf-8")
    for path, content in sorted(dockerfile.requirements(inputs.recipe).items()):
        (folder / path).write_text(content, "utf-8")


def _write_parts(inputs: Inputs, folder: Path) -> None:
    layers = folder / "base" / "blobs" / "sha256"
    links.link(_blob(inputs.base), layers / hex_of(inputs.base.digest))
    layout.write_folder(_base_image(inputs), folder / "base", lambda _: None)
    for name, layer in sorted(inputs.trees.items()):
        with tarfile.open(_blob(layer)) as archive:
            # Older Pythons have no filters, newer ones change what they do without being told.
            archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            archive.extractall(folder / name)  # noqa: S202 - it is ours
    links.link(_uv(), folder / "bin" / "uv")
    for wheel in inputs.lock.wheels:
        links.link(inputs.places[wheel.sha256], folder / "wheels" / wheel.file)


def _base_image(inputs: Inputs) -> Image:
    when = created(inputs.recipe.epoch)
    return make_image("base", inputs.recipe.platform, (inputs.base,), {}, when)


def _blob(layer: Layer) -> Path:
    (path,) = (piece for piece in layer.pieces if isinstance(piece, Path))
    return path


def _uv() -> Path:
    import uv

    return Path(uv.find_uv_bin())


def _level(folder: Path) -> None:
    """Give what we wrote one time, and modes that no umask has changed.

    Links to files of others are left alone: a change would change the file.
    """
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            continue
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (MTIME, MTIME))


def _move(staged: Path, folder: Path) -> None:
    """Bring a whole context to its place; of a folder in use, only our entries are replaced."""
    if not folder.exists() or not any(folder.iterdir()):
        staged.rename(folder)
        return
    for name in _ENTRIES:
        target, source = folder / name, staged / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        if source.exists():
            source.replace(target)
