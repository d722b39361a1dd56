"""The wheels: does the package index have them, for this day, CUDA, Python and glibc."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from builder import catalogue
from builder.catalogue import base_images
from builder.catalogue.releases import releases, torch_releases
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
_COMPILER = "the compiler's own line in the wheel's code; torch/version.py"
_METADATA = "METADATA of the wheel, and what it requires"
_GLIBC = "tags of the wheels; PEP 600: a manylinux tag names the oldest glibc"
_LOCAL = "PEP 440: local versions are not for public indexes"


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


@rule("engine-build", "the package index has the engine's build")
def engine_build(subject: Subject) -> Iterator[Finding]:
    """Refuse a version with a local part: an index holds none, and the lock asks an index alone."""
    asked = subject.stack.engine.version
    plain, _, build = asked.partition("+")
    if not build or not subject.is_cuda:
        return
    text = (
        f"engine.version asks for the build `+{build}`; the package index has no local builds, and "
        f"the project's own are on its own pages only"
    )
    release = subject.release
    cuda = f" (CUDA {release.cuda})" if release else ""
    moves: tuple[Move, ...] = ((Change(_VERSION, plain),),)
    moves += other_releases(subject, lambda row: f"cu{row.cuda.replace('.', '')}" == build)
    yield error(_VERSION, text, f'write version: "{plain}"{cuda}', _LOCAL, moves=moves)


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
    if any(_is_same(asked, each) for each in there):
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
    yield error(_CUDA, text, hint, _COMPILER, moves=moves)


def _is_same(asked: str, known: str) -> bool:
    """Compare as far as both say: `13` and `13.0.2` are `13.0`."""
    ours, theirs = asked.split("."), known.split(".")
    return all(a == b for a, b in zip(ours, theirs, strict=False))


@rule("python-version", "the engine runs on the suite's Python")
def python_version(subject: Subject) -> Iterator[Finding]:
    """Refuse a suite whose Python the release does not take."""
    release, python = subject.release, subject.python
    if release is None or python is None or _takes(release, python):
        return
    suite = subject.stack.base.debian if subject.stack.base else ""
    needs = f"{release.newest_python} at most" if release.newest_python else release.python
    text = f"{subject.engine} needs Python {needs}, Debian {suite} has {python}"
    fits = [row.name for row in catalogue.debians().values() if _takes(release, row.python)]
    moves: tuple[Move, ...] = tuple((Change("base.debian", name),) for name in fits)
    moves += other_releases(subject, lambda row: _takes(row, python))
    hint = f"write debian: {fits[0]}" if fits else "take another release of the engine"
    yield error("base.debian", text, hint, _METADATA, moves=moves)


def _takes(release: Release, python: str) -> bool:
    return _allows(release.python, release.newest_python, python)


@lru_cache
def _allows(asked: str, newest: str | None, python: str) -> bool:
    too_new = newest is not None and Version(python) > Version(newest)
    return not too_new and SpecifierSet(asked).contains(f"{python}.0")


@rule("glibc-floor", "the base's glibc is new enough for the wheels")
def glibc_floor(subject: Subject) -> Iterator[Finding]:
    """Refuse a base whose glibc is older than the tags of the engine's and torch's wheels ask."""
    release, base = subject.release, subject.stack.base
    if release is None or base is None:
        return
    what, floor = _glibc_of(release)
    known = base_images.glibc(base.image) if base.image else subject.glibc
    if known is None:
        text = f"nobody knows the glibc of {base.image}; {what} needs {floor}"
        hint = "write base: {debian: bookworm}, or see that it has that glibc"
        yield warning("base.image", text, hint, _GLIBC, verified=False)
    elif Version(known) < Version(floor):
        name = base.image or f"Debian {base.debian}"
        text = f"{what} needs glibc {floor}, {name} has {known}"
        fits = other_releases(subject, lambda row: Version(_glibc_of(row)[1]) <= Version(known))
        ours = Change("base.image", None), Change("base.debian", "bookworm")
        hint = "write base: {debian: bookworm}, or take a release whose wheels ask for less"
        source = _GLIBC
        yield error("base.image", text, hint, source, moves=(ours, *fits))


def _glibc_of(release: Release) -> tuple[str, str]:
    """Return which wheel asks for the newest glibc, and that glibc: torch's counts too."""
    torch = torch_releases().get(release.torch)
    own = f"the wheel of vLLM {release.version}", release.glibc
    if torch is None or Version(torch.glibc) <= Version(release.glibc):
        return own
    return f"torch {torch.version}, which vLLM {release.version} asks for,", torch.glibc


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
            source = _METADATA
            yield error("resolve.exclude", text, f"keep `{name}`", source, moves=moves)


@rule("base-image", "this version of builder can build on the base")
def base_image(subject: Subject) -> Iterator[Finding]:
    """Warn of bases that are images: they are judged, and not built yet."""
    base, runtime = subject.stack.base, subject.stack.runtime
    place = "runtime.image" if runtime else "base.image"
    if runtime is None and (base is None or base.image is None):
        return
    text = (
        "is an image: this version of builder builds on Debian packages alone, and does not lock it"
    )
    hint = "write base: {debian: bookworm}"
    yield warning(place, text, hint, "README.md, what it does not do yet")
