"""Arguments and variables of `vllm serve`: which release has them, and what took their place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from packaging.version import Version

from builder.catalogue.tables import listed, read, table


@dataclass(frozen=True, slots=True)
class Flag:
    """An argument such as `--swap-space`, or a variable such as `VLLM_USE_V1`."""

    name: str
    present: tuple[tuple[str, ...], ...]
    """Pairs of releases: the first with it, the first without it again, if any."""
    source: str
    instead: str = ""
    """What to write where it is gone."""

    def offered(self, version: str) -> bool:
        """Whether a release has it."""
        asked = Version(version)
        return any(
            Version(span[0]) <= asked and (len(span) == 1 or asked < Version(span[1]))
            for span in self.present
        )


@dataclass(frozen=True, slots=True)
class Never:
    """An argument that people write and no release had."""

    name: str
    instead: str
    source: str


@dataclass(frozen=True, slots=True)
class Default:
    """A default that changed."""

    name: str
    value: str
    since: str
    source: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The values that an argument takes."""

    name: str
    values: tuple[str, ...]
    source: str


@lru_cache
def flags() -> dict[str, Flag]:
    """Return every argument by name."""
    return _spans("flags")


@lru_cache
def variables() -> dict[str, Flag]:
    """Return every environment variable of the engine by name."""
    return _spans("variables")


def choices(name: str) -> tuple[str, ...]:
    """Return the values that an argument takes, none where the table does not say."""
    rows = listed(Choice, "flags", "choice")
    return next((row.values for row in rows if row.name == name), ())


def _spans(key: str) -> dict[str, Flag]:
    rows, source = table("flags")[key], table("flags")["source"]
    return {
        name: read(Flag, {"name": name, "source": source, **row}, f"flags.toml: {name}")
        for name, row in rows.items()
    }


@lru_cache
def nevers() -> tuple[Never, ...]:
    """Return the arguments that no release had."""
    return listed(Never, "flags", "never")


def default(name: str, version: str) -> Default | None:
    """Return the default of a field in a release, None where the table does not say."""
    asked = Version(version)
    rows = [row for row in listed(Default, "flags", "default") if row.name == name]
    past = [row for row in rows if Version(row.since) <= asked]
    return past[-1] if past else None
