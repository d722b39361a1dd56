"""GPU code: do the wheels hold code that the GPU runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import Version

from builder import catalogue
from builder.catalogue.code import carrier
from builder.catalogue.releases import code, releases, torch_releases
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.finding import error, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue import Gpu
    from builder.catalogue.releases import Release, TorchRelease
    from builder.rules.change import Move
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_VERSION = "engine.version"
_ENGINE_CODE = "compiled code in the engine's wheel, by cuobjdump"
_TORCH_CODE = "the list of architectures in torch's wheel"
_GPU = "target.gpu"
_FAMILY_CODE = Version("0.20.0")
"""First release with code for whole families (`100f`): before, 10.3 and 12.1 run what was compiled
for 10.0 and 12.0, without the parts that are for one capability alone."""


@rule("engine-kernels", "the engine's wheel has code for the GPU")
def engine_kernels(subject: Subject) -> Iterator[Finding]:
    """Refuse a release whose base extension has no code that the GPU runs."""
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None:
        return
    has = _code(subject, catalogue.engine(subject.stack.engine.name).distribution, release)
    if code(has, gpu.compute_capability) == "none":
        text = _missing(f"the wheel of {subject.engine}", has, gpu)
        moves = (*_releases_with_code(subject, gpu), *_gpus_with_code(subject, release))
        yield error(_GPU, text, _releases_hint(gpu), _ENGINE_CODE, moves=moves)


def _code(subject: Subject, distribution: str, row: Release | TorchRelease) -> tuple[str, ...]:
    """Take what the lock holds of the wheel, else what the catalogue says of the release."""
    locked = subject.locked_code(distribution)
    return locked if locked is not None else row.architectures


@rule("torch-kernels", "torch's wheel has code for the GPU")
def torch_kernels(subject: Subject) -> Iterator[Finding]:
    """Refuse a torch without code for the GPU: `no kernel image is available`."""
    torch, release, gpu = subject.torch, subject.release, subject.gpu
    if torch is None or release is None or gpu is None:
        return
    has = _code(subject, "torch", torch)
    if code(has, gpu.compute_capability) == "none":
        text = _missing(f"torch {torch.version}, which {subject.engine} asks for,", has, gpu)
        moves = (*_releases_with_code(subject, gpu), *_gpus_with_code(subject, release))
        yield error(_GPU, text, _releases_hint(gpu), _TORCH_CODE, moves=moves)


def _missing(what: str, architectures: tuple[str, ...], gpu: Gpu) -> str:
    return (
        f"{what} has no code for {gpu.title} (compute capability {gpu.compute_capability}); "
        f"it has {', '.join(architectures)}"
    )


def _runs(row: Release, gpu: Gpu) -> bool:
    torch = torch_releases().get(row.torch)
    own = code(row.architectures, gpu.compute_capability) != "none"
    return own and torch is not None and code(torch.architectures, gpu.compute_capability) != "none"


def _releases_with_code(subject: Subject, gpu: Gpu) -> tuple[Move, ...]:
    return other_releases(subject, lambda row: _runs(row, gpu))


def _gpus_with_code(subject: Subject, release: Release) -> tuple[Move, ...]:
    return other_gpus(subject, lambda gpu: _runs(release, gpu))


def _releases_hint(gpu: Gpu) -> str:
    fit = [row.version for row in releases().values() if _runs(row, gpu)]
    if not fit:
        return "take another GPU: no known release has code for this one"
    span = fit[0] if len(fit) == 1 else f"{fit[0]} to {fit[-1]}"
    return f"releases with code for it: {span}"


@rule("family-kernels", "the special kernels reach the GPU too")
def family_kernels(subject: Subject) -> Iterator[Finding]:
    """Warn of releases that run on the GPU by code for its older sister alone."""
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None or gpu.architecture.family is None:
        return
    kind = code(release.architectures, gpu.compute_capability)
    if kind != "minor" or Version(subject.version) >= _FAMILY_CODE:
        return
    text = (
        f"{subject.engine} runs on {gpu.title} by code for an older capability; what is compiled "
        f"for one capability alone (FP4, FP8 and MLA kernels) is not there, and nobody tested it"
    )
    hint = "take 0.20.0 or newer: its code is for the whole family"
    moves = other_releases(subject, lambda row: Version(row.version) >= _FAMILY_CODE)
    yield warning(_GPU, text, hint, _ENGINE_CODE, moves=moves, verified=False)


@rule("library-kernels", "the libraries beside the engine have code for the GPU")
def library_kernels(subject: Subject) -> Iterator[Finding]:
    """Refuse a lock in which a library that everything needs has no code for the GPU."""
    gpu, lock = subject.gpu, subject.lock
    if lock is None or gpu is None:
        return
    own = {"torch", catalogue.engine(subject.stack.engine.name).distribution}
    for wheel in lock.wheels:
        row, has = carrier(wheel.name), subject.locked_code(wheel.name)
        if wheel.name in own or row is None or not row.needed or has is None:
            continue
        if code(has, gpu.compute_capability) == "none":
            text = _missing(f"the locked {wheel.name} {wheel.version}", has, gpu)
            hint = "take a release of the engine that brings another, or another GPU"
            yield error(_VERSION, text, hint, f"the wheel, as the lock has it; {row.source}")


@rule("kernels-unknown", "the code in every locked wheel is known")
def kernels_unknown(subject: Subject) -> Iterator[Finding]:
    """Warn of locked wheels that carry GPU code nobody has read: unknown is no pass."""
    if subject.lock is None or subject.gpu is None:
        return
    names = [name for name in subject.carriers if subject.locked_code(name) is None]
    if names:
        text = f"nobody has read which GPUs the locked {', '.join(names)} has code for"
        hint = "run builder fetch: it reads the wheels and completes the lock"
        yield warning(_VERSION, text, hint, "the lock")
