"""The wheels: do they exist for this Python and CUDA, and do they hold code for the card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder import catalogue
from builder.catalogue import base_images
from builder.catalogue.releases import has_deep_gemm, releases
from builder.rules.alternatives import other_gpus, other_releases
from builder.rules.change import Change, Move
from builder.rules.finding import error, note, warning
from builder.rules.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.catalogue.releases import Release
    from builder.rules.finding import Finding
    from builder.rules.subject import Subject

_CUDA = "engine.cuda"
_VERSION = "engine.version"
_GPU = "target.gpu"
_SUITES = ("bookworm", "trixie")
_GLIBC = "PEP 600: a manylinux tag names the oldest glibc"
_FAMILY_CODE = Version("0.20.0")
"""First release with code for whole families (`100f`): before, 10.3 and 12.1 run what was compiled
for 10.0 and 12.0, without the parts that are for one capability alone."""


@rule("engine-version", "the catalogue knows the engine's release")
def engine_version(subject: Subject) -> Iterator[Finding]:
    """Warn of a release whose wheels nobody has read: most other rules are silent then."""
    if not subject.is_cuda or subject.release is not None:
        return
    known = list(releases())
    text = f"the catalogue does not know {subject.engine}: nothing is known of its wheels"
    hint = f"known: {known[0]} to {known[-1]}; nox -s catalogue looks for new releases"
    asked = Version(subject.version)
    older = [each for each in known if Version(each) < asked]
    best = older[-1] if older else known[0]
    moves: tuple[Move, ...] = ((Change(_VERSION, best),),)
    yield warning(_VERSION, text, hint, "the catalogue's table of releases", moves=moves)


@rule("release-date", "the package index of that day had the release")
def release_date(subject: Subject) -> Iterator[Finding]:
    """Refuse a release that is younger than the day whose index is asked for."""
    release, as_of = subject.release, subject.stack.resolve.as_of
    if release is None or as_of is None or release.date <= as_of:
        return
    text = (
        f"resolve.as_of asks for the index of {as_of}, engine.version for {subject.engine}, "
        f"which came out on {release.date}"
    )
    hint = f"write as_of: {release.date}, or later"
    older = other_releases(subject, lambda row: row.date <= as_of)
    moves = (((Change("resolve.as_of", release.date)),), *older)
    yield error("resolve.as_of", text, hint, "upload date on the package index", moves=moves)


@rule("wheel-cuda", "the index's wheels are for the CUDA that is asked for")
def wheel_cuda(subject: Subject) -> Iterator[Finding]:
    """Refuse an `engine.cuda` that the release's wheels on the index are not compiled with."""
    release, asked = subject.release, subject.stack.engine.cuda
    if release is None or asked is None:
        return
    there = {release.cuda, *([subject.torch.cuda] if subject.torch else [])}
    if asked in there:
        return
    brings = f", torch {release.torch} with CUDA {subject.torch.cuda}" if subject.torch else ""
    text = (
        f"engine.cuda asks for {asked}; the wheel of {subject.engine} on the package index is "
        f"compiled with CUDA {release.cuda}{brings}"
    )
    if asked in release.builds:
        text += f" (the project has a build for {asked} on its own pages only)"
    hint = f'write cuda: "{release.cuda}", or leave it out'
    same = other_releases(subject, lambda row: row.cuda == asked)
    moves = (((Change(_CUDA, release.cuda)),), *(move[:1] for move in same))
    yield error(_CUDA, text, hint, release.source, moves=moves)


@rule("python-version", "the engine runs on the suite's Python")
def python_version(subject: Subject) -> Iterator[Finding]:
    """Refuse a suite whose Python the release does not take."""
    release, python = subject.release, subject.python
    if release is None or python is None or _takes(release, python):
        return
    suite = subject.stack.base.debian if subject.stack.base else ""
    text = f"{subject.engine} needs Python {release.python}, Debian {suite} has {python}"
    fits = [name for name in _SUITES if _takes(release, catalogue.debian(name).python)]
    moves: tuple[Move, ...] = tuple((Change("base.debian", name),) for name in fits)
    moves += other_releases(subject, lambda row: _takes(row, python))
    hint = f"write debian: {fits[0]}" if fits else "take another release of the engine"
    yield error("base.debian", text, hint, release.source, moves=moves)


def _takes(release: Release, python: str) -> bool:
    return SpecifierSet(release.python).contains(f"{python}.0")


@rule("glibc-floor", "the base's glibc is new enough for the wheel")
def glibc_floor(subject: Subject) -> Iterator[Finding]:
    """Refuse a base whose glibc is older than the wheel's tag asks for."""
    release, base = subject.release, subject.stack.base
    if release is None or base is None:
        return
    known = base_images.glibc(base.image) if base.image else subject.glibc
    if known is None or Version(known) >= Version(release.glibc):
        return
    name = base.image or f"Debian {base.debian}"
    text = f"the wheel of {subject.engine} needs glibc {release.glibc}, {name} has {known}"
    fits = other_releases(subject, lambda row: Version(row.glibc) <= Version(known))
    ours = Change("base.image", None), Change("base.debian", "bookworm")
    moves: tuple[Move, ...] = (ours, *fits)
    hint = "write base: {debian: bookworm}, or take a release whose wheel asks for less"
    yield error("base.image", text, hint, f"{release.source}; {_GLIBC}", moves=moves)


@rule("wheel-rebuilt", "one version is one wheel")
def wheel_rebuilt(subject: Subject) -> Iterator[Finding]:
    """Note releases whose wheel was uploaded again with other content: only a digest is a pin."""
    release = subject.release
    if release is None or subject.lock is not None:
        return
    rebuilt = [wheel.file for wheel in release.wheels if wheel.file.split("-")[2].isdecimal()]
    if rebuilt:
        text = f"{subject.engine} was uploaded twice, with a build number: {rebuilt[0]}"
        hint = "run builder lock: the lock pins the wheel by its digest"
        yield note(_VERSION, text, hint, "files of the release on the package index")


@rule("flashinfer-kernels", "FlashInfer's compiled kernels are in the image")
def flashinfer_kernels(subject: Subject) -> Iterator[Finding]:
    """Warn of releases that leave FlashInfer's kernels to the first request.

    From 0.26.0 on the release asks for no wheel of compiled kernels; an image without a network
    cannot fetch them, and has no `nvcc` to compile them.
    """
    release, gpu = subject.release, subject.gpu
    if release is None or gpu is None or release.flashinfer is None or release.flashinfer_cubin:
        return
    if subject.locked_code("flashinfer-cubin") is not None:
        return
    text = (
        f"{subject.engine} asks for flashinfer-python {release.flashinfer} without its compiled "
        f"kernels: they are fetched or compiled at the first use, and the image has no network"
    )
    hint = "take 0.19.0 to 0.25.1, which bring them, or an attention backend without FlashInfer"
    moves = other_releases(subject, lambda row: row.flashinfer_cubin is not None)
    yield warning(_VERSION, text, hint, release.source, moves=moves)


@rule("deep-gemm", "DeepGEMM is there for the suite's Python")
def deep_gemm(subject: Subject) -> Iterator[Finding]:
    """Warn where FP8 in blocks would run on DeepGEMM, and the wheel has none for this Python."""
    model, gpu, python = subject.model, subject.gpu, subject.python
    if subject.release is None or model is None or gpu is None or python is None:
        return
    if model.scheme != "fp8-block" or gpu.compute_capability not in {"9.0", "10.0", "10.3"}:
        return
    if has_deep_gemm(subject.version, python) is not False:
        return
    text = (
        f"the wheel of {subject.engine} has DeepGEMM for CPython 3.12 alone, the suite has "
        f"{python}: FP8 in blocks falls back to slower kernels"
    )
    hint = "take 0.21.0 or newer"
    moves = other_releases(subject, lambda row: has_deep_gemm(row.version, python) is not False)
    yield warning(_VERSION, text, hint, "extensions in the wheel", moves=moves)


@rule("host-architecture", "the GPU's hosts run the image's platform")
def host_architecture(subject: Subject) -> Iterator[Finding]:
    """Refuse a GPU that is sold with hosts of another processor."""
    gpu, platform = subject.gpu, subject.stack.target.platform
    if gpu is None or gpu.arch == platform.partition("/")[2]:
        return
    text = f"{gpu.title} comes in {gpu.arch} hosts, the image is for {platform}"
    if subject.torch is not None and subject.torch.cuda_arm64 is None:
        text += f"; torch {subject.torch.version} on the index has no GPU code for arm64 either"
    moves = other_gpus(subject, lambda each: each.arch == platform.partition("/")[2])
    hint = "take a GPU of such hosts: this version builds for linux/amd64 alone"
    yield error(_GPU, text, hint, gpu.source, moves=moves)


@rule("needed-package", "nothing that the engine needs is left out")
def needed_package(subject: Subject) -> Iterator[Finding]:
    """Refuse a stack that leaves out torch or the engine, and asks for it by its engine."""
    distribution = catalogue.engine(subject.stack.engine.name).distribution
    for name in subject.stack.resolve.exclude:
        if name in {"torch", distribution}:
            text = f"resolve.exclude leaves out `{name}`, which engine.name `{distribution}` needs"
            kept = tuple(each for each in subject.stack.resolve.exclude if each != name)
            moves: tuple[Move, ...] = ((Change("resolve.exclude", kept),),)
            source = "METADATA of its wheel"
            yield error("resolve.exclude", text, f"keep `{name}`", source, moves=moves)
