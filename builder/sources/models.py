"""Models, wherever they are: the one door to folders and the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import IntegrityError
from builder.lock import PACKER_VERSION
from builder.oci.memo import WeightMemo
from builder.sources import hub, local, model_contents, model_facts, model_layers

if TYPE_CHECKING:
    from pathlib import Path

    from builder.lock import Model
    from builder.sources.downloads import Downloads
    from builder.stack.model import Model as Asked


def pin(
    asked: Asked,
    folder: Path,
    downloads: Downloads,
    keep: Model | None = None,
    asked_before: Asked | None = None,
) -> Model:
    """Return the model with every file named.

    `folder` is that of the stack file, `keep` the model of the previous lock, `asked_before` what
    its stack asked for.  What still answers the stack is kept: an unchanged model of the hub costs
    no request, one whose choice of files changed keeps its commit.  A folder is always read.
    """
    memo = WeightMemo(downloads.root, PACKER_VERSION)
    if asked.path is not None:
        return local.pin(asked, folder, memo, keep)
    before = asked_before or asked
    if keep is None or not hub.keeps(asked, keep):
        made = hub.pin(asked, downloads)
    elif before == asked:
        made = keep
    else:
        same = asked.revision in (before.revision, keep.commit)
        made = hub.pin(asked, downloads, keep if same else None)
    files = model_layers.carried(made.files, keep.files if keep else (), memo)
    return made.model_copy(update={"files": files})


def places(
    model: Model, stack_path: str | None, folder: Path, downloads: Downloads
) -> dict[str, Path]:
    """Return where each file lies on this machine, or would lie, by its path in the model."""
    if stack_path is None:
        return {file.path: downloads.path(file.sha256) for file in model.files}
    return {file.path: local.path_of(stack_path, file.path, folder) for file in model.files}


def fetch(
    model: Model, stack_path: str | None, folder: Path, downloads: Downloads
) -> dict[str, Path]:
    """Return where each file lies on this machine, by its path in the model.

    Files of the hub are verified.  Files of a folder are checked for size; their content is
    checked when it is written into a layer.  `model` may hold only some of a lock's files.

    Raises:
        IntegrityError: a file, or what it says about itself, is not what was locked.
    """
    paths = places(model, stack_path, folder, downloads)
    if stack_path is None:
        hub.fetch(model, downloads)
    else:
        for file in model.files:
            local.check_size(paths[file.path], file)
    _check_facts(model, paths, model.repo or stack_path or model.role)
    return paths


def _check_facts(model: Model, paths: dict[str, Path], place: str) -> None:
    """Compare with what the lock was told: the hub sent only the beginnings of files then.

    As not every file need be here, only more than was told is a difference; of files of the same
    size, more of one dtype is less of another.
    """
    contents = model_contents.read(paths, place)
    actual = model_facts.facts(contents.config, contents.weights).tensor_bytes
    for dtype, got in actual.items():
        expected = model.facts.tensor_bytes.get(dtype, 0)
        if got > expected:
            message = f"{place}: expected {expected} bytes of {dtype} tensors, got {got}"
            raise IntegrityError(message, "run builder lock with the stack")
