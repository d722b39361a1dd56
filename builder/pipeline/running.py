"""Image → a run here, or checks in a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from builder import files
from builder.errors import UsageError
from builder.pipeline.building import BuildOptions, build

if TYPE_CHECKING:
    from builder.engine.session import Options, Session
    from builder.smoke import Report


def run(target: str, options: Options, gpu: str | None = None) -> Session:
    """Return the run of a stack's image, built now if need be, or of any image of ours."""
    from builder.engine import session

    if not _is_stack(target):
        _refuse_gpu(target, gpu)
        return session.of_reference(target, options)
    image = build(Path(target), BuildOptions(gpu=gpu)).image
    return session.of_image(image, options, files.cache_folder())


def smoke(target: str, lock_path: Path | None, gpu: str | None = None) -> Report:
    """Check a stack's image, built now if need be, or any image that the engine has."""
    from builder import outputs
    from builder import smoke as suite

    suite.require_libraries()
    if not _is_stack(target):
        _refuse_gpu(target, gpu)
        return suite.run(target, lock_path)
    if lock_path is not None:
        message = f"--lock: {target} has a lock of its own"
        raise UsageError(message, "leave --lock out, or name an image instead of a stack")
    built = build(Path(target), BuildOptions(outputs=(outputs.Docker(),), gpu=gpu))
    return suite.run(built.image.name, built.locked.lock_path)


def _refuse_gpu(target: str, gpu: str | None) -> None:
    if gpu is not None:
        message = f"--gpu: {target} is an image, for the GPU that it was built for"
        raise UsageError(message, "leave --gpu out, or name a stack")


def _is_stack(target: str) -> bool:
    """Tell a stack file from the reference of an image."""
    path = Path(target)
    return path.suffix in (".yaml", ".yml") or path.is_file()
