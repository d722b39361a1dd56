"""CUDA releases and the Linux drivers that run their programs.

A driver runs programs of a CUDA release when it is at least as new as the release.  Within a major
release an older driver does too (minor-version compatibility), except where the driver itself must
compile: PTX of a newer release is refused.  Data-centre GPUs may also run a newer major release on
an older branch, with NVIDIA's `cuda-compat` package in the image.
"""

from __future__ import annotations

import datetime  # noqa: TC003 - the tables' reader looks at the annotations
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from packaging.version import Version

from builder.catalogue.tables import listed
from builder.errors import StackError

Need = Literal["package", "driver", "none"]
"""What carries a CUDA release on a driver branch: a package, the driver alone, or nothing."""


@dataclass(frozen=True, slots=True)
class CudaRelease:
    """A release of the CUDA toolkit and the driver that came with it."""

    version: str
    """Such as `12.8`."""
    update: int
    driver: str
    """Oldest Linux driver that runs everything, PTX too; only the branch from 13.3 on."""
    source: str
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CudaMajor:
    """What all releases of a CUDA major version share."""

    major: str
    driver: str
    """Oldest Linux driver that runs compiled programs of any of them."""
    source: str


@dataclass(frozen=True, slots=True)
class Compatibility:
    """The package of a CUDA release for older drivers of data-centre GPUs."""

    cuda: str
    package: tuple[int, ...]
    """Driver branches on which the package carries this release."""
    driver: tuple[int, ...]
    """Branches that need no package."""
    source: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A driver branch and how long NVIDIA keeps it."""

    branch: int
    kind: Literal["lts", "production", "new-feature"]
    source: str
    end_of_life: datetime.date | None = None
    """The last day of the month that NVIDIA names."""
    unverified: tuple[str, ...] = ()


def cuda_driver(major: str) -> str:
    """Return the oldest Linux driver that runs programs of a CUDA major release such as `13`."""
    known = {row.major: row.driver for row in cuda_majors()}
    if major not in known:
        message = f"engine.cuda: no driver is known for CUDA {major}"
        raise StackError(message, f"known releases: {', '.join(sorted(known))}")
    return known[major]


def full_driver(version: str) -> str | None:
    """Return the oldest driver that also compiles PTX of a release such as `12.8`, if known."""
    found = [row.driver for row in cuda_releases() if row.version == version]
    return found[0] if found else None


def driver_cuda(driver: str) -> str:
    """Return the CUDA release that a driver such as `575.51.03`, or a branch such as `570`, has.

    It is what the driver itself reports, and `nvidia-container-cli` compares with an image's
    `NVIDIA_REQUIRE_CUDA`.

    Raises:
        StackError: the driver is older than all of the table.
    """
    known = [(f"{row.major}.0", row.driver) for row in cuda_majors()]
    known += [(row.version, row.driver) for row in cuda_releases()]
    fits = [version for version, first in known if not is_older(driver, first)]
    if not fits:
        message = f"no CUDA release is known for driver {driver}"
        raise StackError(message, f"the oldest known driver is {known[0][1]}")
    return max(fits, key=Version)


def is_older(driver: str, floor: str) -> bool:
    """Compare as far as both say: `580` is any driver of its branch, so not older than 580.65."""
    short = min(driver.count("."), floor.count(".")) + 1
    return Version(_first(driver, short)) < Version(_first(floor, short))


def _first(version: str, parts: int) -> str:
    return ".".join(version.split(".")[:parts])


def branch_of(driver: str) -> int:
    """Return the branch of a driver: 580 for `580.65.06`."""
    return int(driver.partition(".")[0])


def need(version: str, branch: int) -> Need:
    """Return what carries CUDA `version` on a data-centre GPU with a driver of `branch`."""
    for row in compatibilities():
        if row.cuda == version:
            if branch in row.package:
                return "package"
            return "driver" if branch in row.driver else "none"
    return "none"


@lru_cache
def cuda_releases() -> tuple[CudaRelease, ...]:
    """Return the CUDA releases, oldest first; the first of a version is its general release."""
    return listed(CudaRelease, "cuda", "release")


@lru_cache
def cuda_majors() -> tuple[CudaMajor, ...]:
    """Return what the releases of each CUDA major version share."""
    return listed(CudaMajor, "cuda", "major")


@lru_cache
def compatibilities() -> tuple[Compatibility, ...]:
    """Return the packages for older drivers."""
    return listed(Compatibility, "cuda", "compatibility")


@lru_cache
def branches() -> tuple[Branch, ...]:
    """Return the driver branches that NVIDIA keeps, oldest first."""
    return listed(Branch, "cuda", "branch")
