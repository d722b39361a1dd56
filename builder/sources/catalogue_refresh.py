"""Compare the catalogue with the package index: `python -m builder.sources.catalogue_refresh`.

What an index says of the releases of vLLM and torch is recomputed: versions, Requires-Python, the
torch and kernels they ask for (METADATA of the wheel), digests of wheels, and dates where it tells;
and the arguments of `vllm serve` (Python sources in the wheel).
`--check` fails with every difference; without it the differences are written into the tables,
except for new releases, whose cubins somebody has to read first.
"""

from __future__ import annotations

import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.metadata import parse_email
from packaging.requirements import Requirement
from packaging.version import Version

from builder import console, files
from builder.catalogue import tables
from builder.catalogue.releases import tagged_glibc
from builder.sources import web
from builder.sources.engine_flags import refresh
from builder.sources.published import Difference, Subject, by_version, subjects
from builder.sources.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pypi_simple import DistributionPackage

_PARALLEL = 8
_X86 = "x86_64"


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
    facts = refresh.gathered(subjects()[0])
    of_flags = list(refresh.differences(facts))
    if "--check" not in arguments:
        found = write(found)
        if of_flags:
            refresh.write(facts)
    else:
        found += of_flags
    for each in found:
        console.note(str(each))
    if not found:
        console.note("the catalogue agrees with the package index")
    return 1 if found else 0


def _published(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    offered = by_version(subject)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        facts = pool.map(lambda version: _facts(subject, offered[version]), offered)
        yield from zip(offered, facts, strict=True)


def _facts(subject: Subject, packages: list[DistributionPackage]) -> dict[str, Any]:
    ordered = sorted(packages, key=lambda each: (_X86 not in each.filename, each.filename))
    newest = next(each for each in ordered if _X86 in each.filename)
    facts: dict[str, Any] = {
        "python": newest.requires_python,
        "wheels": [{"file": each.filename, "sha256": each.digests["sha256"]} for each in ordered],
        **_pins(subject, newest),
    }
    if subject.has_glibc:
        facts["glibc"] = tagged_glibc(newest.filename)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
