"""Debian packages: from names to pins, and from a pin to the places that may have its file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import catalogue
from builder.errors import HostError, ResolveError
from builder.sources import debian_index, debian_mirrors, debian_solver

if TYPE_CHECKING:
    from builder.lock.schema import DebianPackage, Suite

ARCHIVE_VARIABLE = "BUILDER_DEBIAN_ARCHIVE"
APT_ARCHIVE = Path("/var/cache/apt/archives")
"""Where apt keeps what it downloaded."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What to resolve; the release's essential packages are added."""

    debian: Literal["bookworm", "trixie"]
    suites: tuple[Literal["main", "updates", "security"], ...] = ("main",)
    packages: tuple[str, ...] = ()
    """Names that are wanted."""
    architecture: str = "amd64"
    keep: tuple[DebianPackage, ...] = ()
    """Earlier pins: they stay where the index still has them and nothing asks for more."""
    allow_expired: bool = False
    """Take an index past its date."""


def resolve(request: Request) -> tuple[tuple[Suite, ...], tuple[DebianPackage, ...]]:
    """Return the suites as they are today, and every package that the request needs.

    Raises:
        HostError: this machine has no mirror, no verifier or no keys.
        IntegrityError: an index is not what Debian signed.
        ResolveError: an index is out of reach or out of date, or the names do not resolve.
    """
    releases = [
        debian_index.release(name, allow_expired=request.allow_expired)
        for name in suite_names(request.debian, request.suites)
    ]
    texts = [debian_index.packages_text(each, request.architecture) for each in releases]
    known = catalogue.debian(request.debian)
    packages = debian_solver.solve(
        debian_index.Index(texts),
        (*known.essential, *request.packages),
        ignored=known.skip,
        keep=request.keep,
    )
    return tuple(each.suite for each in releases), packages


def suite_names(debian: str, suites: tuple[str, ...]) -> tuple[str, ...]:
    """Return the archive's names: `bookworm`, `bookworm-updates`, `bookworm-security`."""
    return tuple(debian if suite == "main" else f"{debian}-{suite}" for suite in suites)


def urls(package: DebianPackage, debian: str) -> tuple[str, ...]:
    """Return where the file may be, best first; the caller checks the digest of what it gets.

    A file that is on this machine comes first: it costs nothing, and works without a network.

    Raises:
        HostError: it is not here, and no mirror is known.
    """
    here = tuple(path.as_uri() for path in _local(package) if path.is_file())
    # The security archive's pool has this prefix, and no other archive's.
    suite = f"{debian}-security" if package.path.startswith("pool/updates/") else debian
    try:
        remote = debian_mirrors.for_suite(suite)
    except HostError:
        if not here:
            raise
        remote = ()
    return here + tuple(f"{mirror.uri}/{package.path}" for mirror in remote)


def _local(package: DebianPackage) -> tuple[Path, ...]:
    escaped = package.version.replace(":", "%3a")
    of_apt = f"{package.name}_{escaped}_{package.architecture}.deb"
    places = [APT_ARCHIVE / of_apt]
    if named := os.environ.get(ARCHIVE_VARIABLE):
        names = (of_apt, package.path, package.path.rpartition("/")[2])
        places += [Path(named, name).absolute() for name in names]
    return tuple(places)


def gone(package: DebianPackage) -> ResolveError:
    """Return the error for a pin that no mirror has any more: Debian keeps the newest only."""
    message = f"{package.name} {package.version}: no mirror has `{package.path}` any more"
    hint = "run `builder lock -P base STACK` to move to what the suite has now"
    return ResolveError(message, f"{hint}, or set {ARCHIVE_VARIABLE} to a folder that has the file")
