"""The committed table of arguments against the wheels on the index, and writing it anew.

A wheel has some hundred megabytes, and 2 to 12 of them are Python sources that lie side by side:
only what is needed of those is read.  What a wheel says is kept by its digest.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import parse_wheel_filename

from builder import files
from builder.catalogue import tables
from builder.errors import ResolveError
from builder.sources.engine_flags.code import Code
from builder.sources.engine_flags.release import derived
from builder.sources.engine_flags.spans import table, written
from builder.sources.published import Difference, Subject, by_version
from builder.sources.ranges import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pypi_simple import DistributionPackage

Facts = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""By release, part and name: what is known of an argument or a variable."""

_PARALLEL = 4
_BLOCK = 1 << 20
_PARTS = ("flags", "variables")
_HEAD = """\
# Arguments of `vllm serve` and environment variables of the engine, release by release.
#
# Written by `nox -s catalogue -- write` from the Python sources in the wheels.  What people know
# besides stands in flags.toml.
#
# present     spans of releases, `0.9.0..0.11.0`: from the first to the first without it again.  An
#             open beginning: the oldest release below had it; an open end: the newest has it.  Left
#             out where all have it
# kind        bool, int, float, str, json, json-or-str
# form        pair: a boolean with --no-…; switch: one without; value: one with true or false;
#             list: several values; repeat: the name before each; optional: the name may stand alone
# aliases     other names, off: other names for --no-…
# values      words that it takes, open: those that the sources list where it takes others too
# words       what stands for a number, scaled: `32k` is one, folds: case and - or _ do not matter
# deprecated, default
#
# `word | word @ spans`: a word without spans holds wherever the argument is there.
"""
_SOURCE = (
    "vllm/engine/arg_utils.py, vllm/entrypoints/**/cli_args.py, vllm/config and vllm/envs.py "
    "in the wheels"
)


def differences(facts: Facts) -> Iterator[Difference]:
    """Yield where the committed table and what the wheels say disagree."""
    committed, published = tables.table("serve"), table(facts)
    if committed["releases"] != list(facts):
        yield Difference("vllm serve", "releases", "all", committed["releases"], list(facts))
    for part in _PARTS:
        ours, theirs = committed[part], published[part]
        for name in sorted(ours.keys() | theirs.keys()):
            yield from _of_entry(name, ours.get(name), theirs.get(name))


def _of_entry(
    name: str, ours: dict[str, str] | None, theirs: dict[str, str] | None
) -> Iterator[Difference]:
    if ours is None or theirs is None:
        yield Difference("vllm serve", name, "entry", ours is not None, theirs is not None)
        return
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield Difference("vllm serve", name, key, ours.get(key), theirs.get(key))


def write(facts: Facts) -> None:
    """Write the table anew."""
    path = Path(tables.__file__).with_name("serve.toml")
    files.write_atomic(path, text(facts).encode())


def text(facts: Facts) -> str:
    """Return the table as it is committed."""
    releases = "".join(f'    "{release}",\n' for release in facts)
    head = f'{_HEAD}\nsource = "{_SOURCE}"\nreleases = [\n{releases}]\n'
    return f"{head}\n{written(table(facts))}"


def gathered(subject: Subject) -> Facts:
    """Return what each release in the catalogue says, oldest first."""
    offered = by_version(subject)
    wanted = [row["version"] for row in tables.table(subject.project)["release"]]
    if missing := sorted(set(wanted) - offered.keys()):
        message = f"{subject.project} {', '.join(missing)}: no wheel on the index"
        raise ResolveError(message, "take the releases out of the table, or use another index")
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return dict(zip(wanted, pool.map(lambda each: _of(offered[each]), wanted), strict=True))


def _of(packages: list[DistributionPackage]) -> Any:
    """Return what the wheel says that pip would take: the last build (PEP 427)."""
    wheels = [each for each in packages if "x86_64" in each.filename]
    wheel = max(wheels, key=lambda each: parse_wheel_filename(each.filename)[2])
    note = files.cache_folder() / "engine-flags" / f"{wheel.digests['sha256']}-{_edition()}.json"
    try:
        return json.loads(note.read_bytes())
    except (OSError, ValueError):
        found = read(wheel.url.partition("#")[0])
        files.write_atomic(note, json.dumps(found).encode())
        return found


def read(url: str) -> dict[str, Any]:
    """Return what the wheel at an address says."""
    with zipfile.ZipFile(Ranges(url, _BLOCK)) as wheel:
        names = set(wheel.namelist())
        return derived(Code(lambda path: wheel.read(path).decode() if path in names else None))


@functools.cache
def _edition() -> str:
    """Return a digest of this reader: another one may see more in the same wheel."""
    own = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        own.update(path.read_bytes())
    return own.hexdigest()[:12]
