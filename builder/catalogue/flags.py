"""Arguments and variables of `vllm serve`: which release has them, what they take, what came next.

A name may be written in any way that people write it: `tensor-parallel-size` and
`tensor_parallel_size` as in a stack, `--tensor-parallel-size`, `-tp`, `--no-enable-prefix-caching`,
`--compilation-config.mode`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, cast

from packaging.version import Version

from builder.catalogue import spans
from builder.catalogue.arguments import Default, Flag, Never, Spelling, releases_read
from builder.catalogue.nearest import nearest
from builder.catalogue.tables import listed, table

if TYPE_CHECKING:
    from builder.catalogue.arguments import Form, Kind
    from builder.catalogue.spans import Pairs


@lru_cache
def flags() -> dict[str, Flag]:
    """Return every argument by name."""
    return _flags("flags", is_flag=True)


@lru_cache
def variables() -> dict[str, Flag]:
    """Return every environment variable of the engine by name."""
    return _flags("variables", is_flag=False)


def _flags(key: str, *, is_flag: bool) -> dict[str, Flag]:
    generated, kept = table("serve"), table("flags")
    instead, first = kept["instead"], generated["releases"][0]
    found = {
        name: Flag(
            name,
            spans.pairs(row.get("present", ""), first),
            generated["source"],
            instead.get(name, ""),
            row,
        )
        for name, row in generated[key].items()
    }
    for name, present in kept["former"].items():
        if name.startswith("--") is is_flag:
            own = tuple(tuple(span) for span in present)
            found[name] = Flag(name, own, kept["source"], instead.get(name, ""))
    return found


def canonical(name: str) -> str:
    """Return a name as the engine's parser reads it: dashes in front and inside, no JSON keys."""
    if name.startswith("-O") and name[2:3].isdigit():
        return "-O"
    if name.startswith("-") and not name.startswith("--"):
        return name.partition(".")[0]
    return "--" + name.removeprefix("--").partition(".")[0].replace("_", "-")


def flag(name: str) -> Flag | None:
    """Return the argument that a name means in any release, None where no release had it."""
    wanted = canonical(name)
    if wanted in flags():
        return flags()[wanted]
    owners = [flags()[owner] for owner, _ in ways().get(wanted, ())]
    if owners:
        return owners[-1]
    return flag(positive) if (positive := _positive(wanted)) else None


@lru_cache(maxsize=4096)
def spelling(name: str, version: str) -> Spelling | None:
    """Return what a name means in a release, None where the release does not take it."""
    wanted = canonical(name)
    if wanted in flags() and flags()[wanted].offered(version):
        return Spelling(flags()[wanted])
    for owner, key in ways().get(wanted, ()):
        if wanted in flags()[owner].held(key, version):
            return Spelling(flags()[owner], negates=key == "off")
    found = spelling(positive, version) if (positive := _positive(wanted)) else None
    if found is not None and found.flag.held("form", version) == ("pair",):
        return Spelling(found.flag, negates=True)
    return None


def _positive(name: str) -> str:
    return "--" + name.removeprefix("--no-") if name.startswith("--no-") else ""


@lru_cache
def ways() -> dict[str, list[tuple[str, str]]]:
    """Return owners by other names, aliases and what turns off, each with its key."""
    found: dict[str, list[tuple[str, str]]] = {}
    for owner, row in table("serve")["flags"].items():
        for key in ("aliases", "off"):
            for word in spans.words(row.get(key, "")):
                found.setdefault(word, []).append((owner, key))
    return found


def _held(name: str, key: str, version: str) -> tuple[str, ...]:
    found = spelling(name, version)
    return found.flag.held(key, version) if found else ()


def kind(name: str, version: str) -> Kind | None:
    """Return the kind of value, of each item where there are several; None: not offered."""
    held = _held(name, "kind", version)
    return cast("Kind", held[0]) if held else None


def form(name: str, version: str) -> Form | None:
    """Return how a value is given; None: not offered.

    `pair`: a boolean with `--no-…`; `switch`: one without; `value`: one with `true` or `false`;
    `list`: several values after the name; `repeat`: the name before each; `optional`: the name
    may stand alone; empty: one value.
    """
    if spelling(name, version) is None:
        return None
    held = _held(name, "form", version)
    return cast("Form", held[0] if held else "")


def is_boolean(name: str, version: str) -> bool:
    """Whether it is turned on by its name alone in a release that has it."""
    return kind(name, version) == "bool"


def known(name: str, version: str) -> tuple[str, ...]:
    """Return the words that a release lists for an argument, whether or not it takes others."""
    return _held(name, "values", version)


def choices(name: str, version: str) -> tuple[str, ...] | None:
    """Return the only words that an argument takes, None where it takes others or is not there."""
    is_open = "true" in _held(name, "open", version)
    return None if is_open else known(name, version) or None


def accepts(name: str, version: str, value: str) -> bool | None:
    """Whether a word is one of the choices; None: there is no closed list of them."""
    words = choices(name, version)
    if words is None:
        return None
    folds = "true" in _held(name, "folds", version)
    return (value.lower().replace("-", "_") if folds else value) in words


def is_scaled(name: str, version: str) -> bool:
    """Whether a number may be written as `32k` (1000) or `32K` (1024)."""
    return "true" in _held(name, "scaled", version)


def number_words(name: str, version: str) -> tuple[str, ...]:
    """Return the words that stand for a number: `auto` of `--max-model-len`."""
    return _held(name, "words", version)


def is_deprecated(name: str, version: str) -> bool:
    """Whether a release takes it and says that it will not for long."""
    return "true" in _held(name, "deprecated", version)


def default_of(name: str, version: str) -> str | None:
    """Return the default that the parser of a release has, None where only a start tells."""
    held = _held(name, "default", version)
    return held[0] if held else None


def when(name: str, word: str) -> Pairs:
    """Return the releases in which an argument lists a word: since and until; none: never."""
    found = flag(name)
    if found is None:
        return ()
    held = [word in found.held("values", each) for each in releases_read()]
    runs = [list(run) for is_held, run in groupby(range(len(held)), held.__getitem__) if is_held]
    ends = [releases_read()[run[-1] + 1 : run[-1] + 2] for run in runs]
    return tuple((releases_read()[run[0]], *end) for run, end in zip(runs, ends, strict=True))


@lru_cache(maxsize=1024)
def similar(name: str, version: str) -> tuple[str, ...]:
    """Return arguments of a release that a name may have meant, best first."""
    offered = (each for each in flags().values() if each.offered(version))
    return nearest(canonical(name), {each.name: (each.name,) for each in offered})


@lru_cache(maxsize=1024)
def similar_variables(name: str, version: str) -> tuple[str, ...]:
    """Return variables of a release that a name may have meant, best first."""
    offered = (each.name for each in variables().values() if each.offered(version))
    return nearest(name, {each: (each,) for each in offered})


def last_with(name: str, version: str | None = None) -> str | None:
    """Return the newest release with an argument, before `version` if one is given."""
    found = flag(name)
    before = [
        each
        for each in releases_read()
        if found and found.offered(each) and (not version or Version(each) < Version(version))
    ]
    return before[-1] if before else None


def variable(name: str) -> Flag | None:
    """Return an environment variable of the engine, None where no release reads it."""
    return variables().get(name)


@lru_cache
def nevers() -> tuple[Never, ...]:
    """Return the arguments that no release had."""
    return listed(Never, "flags", "never")


@lru_cache
def _defaults() -> tuple[Default, ...]:
    return listed(Default, "flags", "default")


@lru_cache(maxsize=1024)
def default(name: str, version: str) -> Default | None:
    """Return a default that changed as of a release, None where the table does not say."""
    asked = Version(version)
    rows = [row for row in _defaults() if row.name == name]
    past = [row for row in rows if Version(row.since) <= asked]
    return past[-1] if past else None
