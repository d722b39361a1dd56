"""Values of the table of arguments: what one argument is, and in which releases."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from packaging.version import Version

from builder.catalogue import spans
from builder.catalogue.tables import read, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.catalogue.spans import Pairs

Kind = Literal["bool", "int", "float", "str", "json", "json-or-str"]
Form = Literal["", "pair", "switch", "value", "list", "repeat", "optional"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the parsers of the releases say of one argument, each as `spans` writes it."""

    present: str = ""
    """Spans alone; empty where all releases have it."""
    kind: str = ""
    form: str = ""
    aliases: str = ""
    off: str = ""
    """Other names that turn a boolean off, besides `--no-…`."""
    values: str = ""
    """Words that it takes."""
    open: str = ""
    """`true` where it takes others than `values` too."""
    words: str = ""
    """Words that stand for a number."""
    folds: str = ""
    """`true` where upper case and `-` are read as lower case and `_`."""
    scaled: str = ""
    """`true` where `32k` is a number."""
    deprecated: str = ""
    default: str = ""


@dataclass(frozen=True)
class Flag:
    """An argument such as `--swap-space`, or a variable such as `VLLM_USE_V1`."""

    name: str
    present: Pairs
    source: str
    instead: str = ""
    """What to write where it is gone."""
    row: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def offered(self, version: str) -> bool:
        """Whether a release has it."""
        return spans.holds(self.present, version)

    def removed_in(self, version: str) -> str | None:
        """Return the release that took it away, None where `version` has it or is before it."""
        gone = [span[1] for span in self.present if len(span) > 1]
        past = [each for each in gone if Version(each) <= Version(version)]
        return past[-1] if past and not self.offered(version) else None

    def added_in(self, version: str) -> str | None:
        """Return the first release after `version` that has it, None where `version` has it."""
        later = [span[0] for span in self.present if Version(span[0]) > Version(version)]
        return later[0] if later and not self.offered(version) else None

    def held(self, key: str, version: str) -> tuple[str, ...]:
        """Return the words of one of the `Facts` in a release, none where it is not offered."""
        if not self.offered(version):
            return ()
        return spans.at(getattr(self._facts, key), version, oldest())

    @cached_property
    def _facts(self) -> Facts:
        return read(Facts, self.row, f"serve.toml: {self.name}")


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a written name means in a release."""

    flag: Flag
    negates: bool = False
    """`--no-enable-x`, `--disable-x` for `--enable-x`."""


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


def releases_read() -> tuple[str, ...]:
    """Return the releases whose sources were read, oldest first."""
    return tuple(table("serve")["releases"])


def oldest() -> str:
    """Return the first release that was read."""
    return releases_read()[0]
