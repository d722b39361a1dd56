"""Releases of the engine and of torch: what fits them and what was compiled into their wheels."""

from __future__ import annotations

import datetime  # noqa: TC003 - the tables' reader looks at the annotations
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from packaging.version import InvalidVersion, Version

from builder.catalogue.quantisation import within
from builder.catalogue.spans import between
from builder.catalogue.tables import listed, pick

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["low", "medium", "high", "critical"]
Code = Literal["own", "family", "minor", "none"]
"""Compiled for the capability itself, for its family, for an older minor number, or not at all."""


@dataclass(frozen=True, slots=True)
class Published:
    """A wheel on the package index."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """A release of vLLM as the package index has it."""

    version: str
    date: datetime.date
    """When its wheel for x86-64 was uploaded."""
    python: str
    """`Requires-Python`."""
    torch: str
    """The one version of torch that it asks for."""
    cuda: str
    """Toolkit that compiled its extensions."""
    builds: tuple[str, ...]
    """CUDA releases that the project builds wheels for; all but `cuda` only on its own pages."""
    glibc: str
    """What the wheel's tag asks for; torch may ask for more."""
    architectures: tuple[str, ...]
    """What its base extension has compiled code for on x86-64, such as `90a`."""
    arm64: tuple[str, ...]
    """The same on arm64; empty where there is no wheel."""
    ptx: tuple[str, ...]
    """What it carries PTX of, for attention on GPUs whose own code is not inside."""
    wheels: tuple[Published, ...]
    source: str
    newest_python: str | None = None
    """The last Python that all wheels exist for, where `python` allows newer ones."""
    flashinfer: str | None = None
    flashinfer_cubin: str | None = None
    """Compiled kernels; without them they are downloaded or compiled at the first use."""
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeepGemm:
    """For which Pythons wheels have DeepGEMM, from a release on."""

    since: str
    pythons: tuple[str, ...]
    """Empty: any."""
    source: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """Kernels that the engine compiles with `nvcc` when it starts, from a release on."""

    part: Literal["deep-gemm", "deep-gemm-warm-up", "sampler"]
    """`deep-gemm`: matrices of FP8 in blocks; its warm-up asks for it whatever the model."""
    since: str
    majors: tuple[int, ...]
    """Major compute capabilities."""
    minimum: str
    """The lowest compute capability."""
    switch: str
    """Variable that turns it off with `0`."""
    source: str
    until: str | None = None
    """First release without."""

    def covers(self, version: str, capability: str) -> bool:
        """Whether a release does so on a compute capability."""
        return (
            between(version, self.since, self.until)
            and int(capability.partition(".")[0]) in self.majors
            and within(capability, self.minimum)
        )


@dataclass(frozen=True, slots=True)
class TorchRelease:
    """A release of torch as the package index has it."""

    version: str
    date: datetime.date
    python: str
    cuda: str
    """CUDA of the wheels for x86-64."""
    architectures: tuple[str, ...]
    arm64: tuple[str, ...]
    """Empty where the wheels for arm64 are for the CPU alone."""
    builds: tuple[str, ...]
    """CUDA releases that PyTorch's own index has builds for."""
    triton: str
    wheels: tuple[Published, ...]
    """Those for the Pythons of the Debian releases."""
    source: str
    cuda_arm64: str | None = None
    unverified: tuple[str, ...] = ()

    @property
    def glibc(self) -> str:
        """Return the oldest glibc that the tags of its wheels for x86-64 name."""
        tags = [wheel.file for wheel in self.wheels if wheel.file.endswith("x86_64.whl")]
        return max((tagged_glibc(tag) for tag in tags), key=Version)


def tagged_glibc(file: str) -> str:
    """Return the glibc of `manylinux_2_28_x86_64`, `0` without such a tag.

    The names before it stand for fixed releases (PEP 600).
    """
    found = re.search(r"manylinux(?:_(\d+)_(\d+)|(\d+))_x86_64", file)
    if found is None:
        return "0"
    old = {"1": "2.5", "2010": "2.12", "2014": "2.17"}
    return old[found[3]] if found[3] else f"{found[1]}.{found[2]}"


@dataclass(frozen=True, slots=True)
class Advisory:
    """A published weakness of the engine."""

    id: str
    title: str
    severity: Severity
    source: str
    aliases: tuple[str, ...] = ()
    introduced: str = "0"
    """First version that has it."""
    fixed: str | None = None
    """First version without it."""
    only: str = ""
    """Which deployments it concerns, where not all."""
    unverified: tuple[str, ...] = ()

    def concerns(self, version: str) -> bool:
        """Whether a release has it; one without a known fix concerns every later release."""
        return between(version, self.introduced, self.fixed)


def release(version: str) -> Release:
    """Return a release of vLLM."""
    known = releases()
    near = () if version in known else _neighbours(version, known)
    return pick("release of vllm", known, version, near)


def torch_release(version: str) -> TorchRelease:
    """Return a release of torch; a local part such as `+cu128` does not count."""
    plain, known = version.partition("+")[0], torch_releases()
    return pick("release of torch", known, plain, _neighbours(plain, known))


def known_release(version: str) -> Release | None:
    """Return a release of vLLM by what means the same too, such as `0.20` for `0.20.0`."""
    if version in releases():
        return releases()[version]
    try:
        return _by_number().get(Version(version))
    except InvalidVersion:
        return None


@lru_cache
def _by_number() -> dict[Version, Release]:
    return {Version(row.version): row for row in releases().values()}


def compiled_at_start(part: str, version: str, capability: str) -> Compiled | None:
    """Return what is known of kernels that a release compiles as it starts, None if it does not."""
    rows = (row for row in _compiled() if row.part == part)
    return next((row for row in rows if row.covers(version, capability)), None)


@lru_cache
def _compiled() -> tuple[Compiled, ...]:
    return listed(Compiled, "vllm", "compiled")


def code(compiled_for: Iterable[str], capability: str) -> Code:
    """Return which of the compiled code a compute capability such as `8.6` runs.

    `86` runs on 8.6 and on higher minor numbers of 8, `90a` on 9.0 alone, `100f` on its family.
    """
    major, _, minor = capability.partition(".")
    own = f"{major}{minor}"
    best: Code = "none"
    for name in compiled_for:
        plain = name.rstrip("af")
        older = plain[:-1] == major and int(plain[-1]) <= int(minor)
        if plain == own:
            return "own"
        if older and not name.endswith("a"):
            best = "family" if name.endswith("f") else "minor" if best == "none" else best
    return best


@lru_cache
def has_deep_gemm(version: str, python: str) -> bool | None:
    """Whether a wheel has DeepGEMM for a Python such as `3.11`; None for releases not read."""
    asked = Version(version)
    rows = listed(DeepGemm, "vllm", "deep_gemm")
    past = [row for row in rows if Version(row.since) <= asked]
    return (not past[-1].pythons or python in past[-1].pythons) if past else None


def _neighbours(version: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the releases before and after one that is not there."""
    try:
        asked = Version(version)
    except InvalidVersion:
        return ()
    older = [each for each in known if Version(each) < asked]
    newer = [each for each in known if Version(each) > asked]
    return (*older[-1:], *newer[:1])


@lru_cache
def releases() -> dict[str, Release]:
    """Return the releases of vLLM, oldest first."""
    return {row.version: row for row in listed(Release, "vllm", "release")}


@lru_cache
def torch_releases() -> dict[str, TorchRelease]:
    """Return the releases of torch, oldest first."""
    return {row.version: row for row in listed(TorchRelease, "torch", "release")}


@lru_cache
def advisories() -> tuple[Advisory, ...]:
    """Return the known weaknesses of vLLM, oldest fix first."""
    return listed(Advisory, "advisories", "advisory")


@lru_cache
def concerning(version: str) -> tuple[Advisory, ...]:
    """Return the weaknesses that a release of vLLM has."""
    return tuple(row for row in advisories() if row.concerns(version))
