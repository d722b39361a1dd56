"""Relations between Debian packages: `a (>= 1) | b:any, c [amd64]` (Debian Policy, chapter 7)."""

from __future__ import annotations

import dataclasses
import operator
import re
from typing import TYPE_CHECKING

from debian_inspector.version import Version

from builder.errors import ResolveError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ARCHITECTURE = "amd64"

_RELATION = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9+.-]*)(?::(?P<qualifier>[a-z0-9-]+))?"
    r"\s*(?:\(\s*(?P<operator>[<>=]+)\s*(?P<version>[^)\s]+)\s*\))?"
    r"\s*(?:\[(?P<architectures>[^]]*)\])?\s*"
)
_COMPARE: Mapping[str, Callable[[Version, Version], bool]] = {
    "<<": operator.lt,
    "<=": operator.le,
    "=": lambda one, other: bool(one <= other <= one),
    ">=": operator.ge,
    ">>": operator.gt,
}


@dataclasses.dataclass(frozen=True)
class Relation:
    """One package that another one asks for, offers or cannot stand."""

    name: str
    operator: str = ""
    version: str = ""
    foreign: bool = False
    """Whether only another architecture's package will do."""

    def accepts(self, version: str) -> bool:
        """Tell whether a package of that name at `version` is meant."""
        if self.foreign:
            return False
        if not self.operator:
            return True
        if not version:
            return False
        return _COMPARE[self.operator](parse_version(version), parse_version(self.version))

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


Groups = tuple[tuple[Relation, ...], ...]
"""All of these groups; of each group one."""


def parse_version(text: str) -> Version:
    """Return `text` as a version that compares as Debian's do.

    Not `Version.from_string`, which refuses `3.1~` and others that the archive does hold.
    """
    epoch, _, rest = text.partition(":") if ":" in text else ("", "", text)
    upstream, dash, revision = rest.rpartition("-")
    return Version(int(epoch or 0), upstream, revision) if dash else Version(int(epoch or 0), rest)


def parse(text: str) -> Groups:
    """Return the relations of one field.

    Raises:
        ResolveError: the field is not what the policy says.
    """
    groups = (part.split("|") for part in text.replace("\n", " ").split(",") if part.strip())
    parsed = (tuple(_relations(group)) for group in groups)
    return tuple(group for group in parsed if group)


def _relations(alternatives: list[str]) -> list[Relation]:
    found = []
    for alternative in alternatives:
        match = _RELATION.fullmatch(alternative.strip())
        if match is None or (match["operator"] or "=") not in _COMPARE:
            message = f"`{alternative.strip()}`: not a relation between packages"
            raise ResolveError(message, "use another mirror")
        if _is_meant(match["architectures"]):
            foreign = match["qualifier"] not in (None, "any", "native", ARCHITECTURE)
            relation = Relation(match["name"], match["operator"] or "", match["version"] or "")
            found.append(dataclasses.replace(relation, foreign=foreign))
    return found


def _is_meant(architectures: str | None) -> bool:
    """Tell whether a list such as `amd64 arm64` or `!i386` holds for us."""
    names = (architectures or "").split()
    if not names:
        return True
    refused = [name.removeprefix("!") for name in names if name.startswith("!")]
    wildcards = {ARCHITECTURE, f"linux-{ARCHITECTURE}", "linux-any", f"any-{ARCHITECTURE}", "any"}
    return not wildcards & set(refused) if refused else bool(wildcards & set(names))
