"""What a package index offers of the projects in the catalogue, release by release."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from builder import catalogue
from builder.sources import index, web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pypi_simple import DistributionPackage

_VLLM_PINS = {
    "torch": "torch",
    "flashinfer-python": "flashinfer",
    "flashinfer-cubin": "flashinfer_cubin",
}
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class Subject:
    """A distribution, its table and where the table begins."""

    project: str
    oldest: str
    interpreters: frozenset[str]
    """Tags of the wheels whose digests the table holds."""
    pins: Mapping[str, str]
    """Key of the table by requirement; None is compared where nothing is asked for."""
    has_glibc: bool = False


@dataclass(frozen=True)
class Difference:
    """A key of a release that the index says otherwise."""

    project: str
    version: str
    key: str
    committed: Any
    published: Any

    def __str__(self) -> str:
        return (
            f"{self.project} {self.version}: {self.key}: "
            f"committed {self.committed}, published {self.published}"
        )


def subjects() -> tuple[Subject, ...]:
    """Return what is compared: vLLM's one wheel a platform, torch's for the suites' Pythons."""
    suites = {catalogue.debian(name).python for name in ("bookworm", "trixie")}
    own = frozenset("cp" + python.replace(".", "") for python in suites)
    return (
        Subject("vllm", "0.8.0", frozenset({"cp38"}), _VLLM_PINS, has_glibc=True),
        Subject("torch", "2.6.0", own, {"triton": "triton"}),
    )


def by_version(subject: Subject) -> dict[str, list[DistributionPackage]]:
    """Return the wheels that concern the catalogue, by release, oldest first."""
    found: dict[str, list[DistributionPackage]] = {}
    for package in _page(subject.project):
        if _concerns(subject, package):
            found.setdefault(str(package.version), []).append(package)
    return {version: found[version] for version in sorted(found, key=Version)}


def _page(project: str) -> list[DistributionPackage]:
    from pypi_simple import ProjectPage

    url = f"{index.settings().index.rstrip('/')}/{project}/"
    body = web.read(url, accept=_ACCEPT)
    if body.lstrip()[:1] == b"{":
        page = ProjectPage.from_json_data(json.loads(body), url)
    else:
        page = ProjectPage.from_html(project, body, url)
    return page.packages


def _concerns(subject: Subject, package: DistributionPackage) -> bool:
    """Linux wheels of final releases; a yanked one is on the index for old locks only."""
    if package.package_type != "wheel" or package.is_yanked or package.version is None:
        return False
    try:
        _, version, _, tags = parse_wheel_filename(package.filename)
    except InvalidWheelFilename:
        return False
    is_final = not version.is_prerelease and version.local is None
    wanted = any(
        tag.interpreter in subject.interpreters and tag.abi[-1] != "t" and "linux" in tag.platform
        for tag in tags
    )
    return is_final and wanted and version >= Version(subject.oldest)
