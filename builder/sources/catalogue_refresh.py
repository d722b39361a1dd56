"""Compare the catalogue with the package index: `python -m builder.sources.catalogue_refresh`.

What an index says of the releases of vLLM and torch is recomputed: versions, Requires-Python, the
torch and kernels they ask for (METADATA of the wheel), digests of wheels, and dates where it tells.
`--check` fails with every difference; without it the differences are written into the tables,
except for new releases, whose cubins somebody has to read first.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from builder import catalogue, console, files
from builder.catalogue import tables
from builder.sources import index, web
from builder.sources.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pypi_simple import DistributionPackage

_PARALLEL = 8
_X86 = "x86_64"
_VLLM_PINS = {
    "torch": "torch",
    "flashinfer-python": "flashinfer",
    "flashinfer-cubin": "flashinfer_cubin",
}
_GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_x86_64")
_LEGACY = {"manylinux1_x86_64": "2.5", "manylinux2014_x86_64": "2.17"}
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


def differences(subject: Subject) -> Iterator[Difference]:
    """Yield where the committed table and the index disagree."""
    published = dict(_published(subject))
    committed = {row["version"]: row for row in tables.table(subject.project)["release"]}
    for version in sorted(published.keys() | committed.keys(), key=Version):
        if version not in committed or version not in published:
            has, lacks = version in committed, version in published
            yield Difference(subject.project, version, "release", has, lacks)
            continue
        row = committed[version]
        for key, value in published[version].items():
            if row.get(key) != value:
                yield Difference(subject.project, version, key, row.get(key), value)


def write(found: list[Difference]) -> list[Difference]:
    """Write differences into the tables and return those that a person has to settle."""
    import tomlkit

    ours = [each for each in found if each.key != "release"]
    for project in sorted({each.project for each in ours}):
        path = Path(tables.__file__).with_name(f"{project}.toml")
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
        rows: Any = document["release"]
        for each in ours:
            for row in rows:
                if each.project == project and row["version"] == each.version:
                    row[each.key] = _written(each.published)
        files.write_atomic(path, tomlkit.dumps(document).encode())
    return [each for each in found if each.key == "release"]


def _written(value: Any) -> Any:
    """Wheels stand one a line."""
    import tomlkit

    if not isinstance(value, list):
        return value
    lines = tomlkit.array().multiline(multiline=True)
    for each in value:
        line = tomlkit.inline_table()
        line.update(each)
        lines.append(line)
    return lines


def main(arguments: list[str]) -> int:
    """Compare, print each difference, and write them unless asked to check only."""
    found = [each for subject in subjects() for each in differences(subject)]
    if "--check" not in arguments:
        found = write(found)
    for each in found:
        console.note(str(each))
    if not found:
        console.note("the catalogue agrees with the package index")
    return 1 if found else 0


def _published(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    packages = [each for each in _packages(subject.project) if _concerns(subject, each)]
    by_version: dict[str, list[DistributionPackage]] = {}
    for package in packages:
        by_version.setdefault(str(package.version), []).append(package)
    versions = sorted(by_version, key=Version)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        facts = pool.map(lambda version: _facts(subject, by_version[version]), versions)
        yield from zip(versions, facts, strict=True)


def _packages(project: str) -> list[DistributionPackage]:
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


def _facts(subject: Subject, packages: list[DistributionPackage]) -> dict[str, Any]:
    ordered = sorted(packages, key=lambda each: (_X86 not in each.filename, each.filename))
    newest = next(each for each in ordered if _X86 in each.filename)
    facts: dict[str, Any] = {
        "python": newest.requires_python,
        "wheels": [{"file": each.filename, "sha256": each.digests["sha256"]} for each in ordered],
        **_pins(subject, newest),
    }
    if subject.has_glibc:
        facts["glibc"] = _glibc(newest.filename)
    times = [each.upload_time for each in ordered if _X86 in each.filename]
    if known := [time for time in times if time]:
        facts["date"] = min(known).date()
    return facts


def _pins(subject: Subject, package: DistributionPackage) -> dict[str, str | None]:
    metadata, _ = parse_email(_metadata(package))
    asked = [Requirement(text) for text in metadata["requires_dist"]]
    found = {
        subject.pins[each.name]: str(each.specifier).removeprefix("==")
        for each in asked
        if each.name in subject.pins and "extra" not in str(each.marker or "")
    }
    return dict.fromkeys(subject.pins.values()) | found


def _metadata(package: DistributionPackage) -> bytes:
    """Read what stands beside the wheel (PEP 658), else the few bytes of it inside the wheel."""
    url = package.url.partition("#")[0]
    try:
        return web.read(url + ".metadata")
    except web.NotFoundError:
        with zipfile.ZipFile(Ranges(url)) as wheel:
            name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
            return wheel.read(name)


def _glibc(filename: str) -> str:
    if found := _GLIBC.search(filename):
        return f"{found[1]}.{found[2]}"
    return next(version for tag, version in _LEGACY.items() if tag in filename)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
