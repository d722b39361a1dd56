"""Where Debian's archive is: a variable, else what this machine's apt uses.

No host is named here.  A mirror is only a place to ask: what it answers counts after a signature
or a digest has been checked, so third-party sources of apt do no harm and are skipped by trying.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from debian_inspector import debcon

from builder.errors import HostError
from builder.sources import web

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

APT = Path("/etc/apt")
VARIABLE = "BUILDER_DEBIAN_MIRROR"
SECURITY_VARIABLE = "BUILDER_DEBIAN_SECURITY_MIRROR"

_SCHEMES = ("http://", "https://", "file:", "copy:")
_LIST = "mirror+file:"
"""A file of mirrors, one a line: what Debian's cloud images use (apt-transport-mirror(1))."""
_ONE_LINE = re.compile(r"deb\s+(?:\[[^]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)")


@dataclasses.dataclass(frozen=True)
class Mirror:
    """One copy of Debian's archive, or of its security archive."""

    uri: str
    """Address without a slash at the end; may hold credentials: redact it in messages."""
    security: bool = False
    """Whether it is the security archive, which has a tree of its own."""
    suites: tuple[str, ...] = ()
    """What apt uses it for; empty if a variable names it."""


def mirrors(apt: Path = APT) -> tuple[Mirror, ...]:
    """Return every mirror that the variables or the apt sources name, both archives.

    Raises:
        HostError: there is none.
    """
    found = tuple(_named_or_of_apt(apt))
    if not found:
        message = f"{apt}: no sources of Debian packages"
        raise HostError(message, f"set {VARIABLE} to the address of a Debian mirror")
    return found


def for_suite(suite: str, apt: Path = APT) -> tuple[Mirror, ...]:
    """Return the mirrors to ask for `suite`, the likeliest first.

    Raises:
        HostError: there is none.
    """
    security = suite.endswith("-security")
    fitting = [mirror for mirror in mirrors(apt) if mirror.security == security]
    if not fitting:
        variable = SECURITY_VARIABLE if security else VARIABLE
        message = f"{apt}: no source of `{suite}`"
        raise HostError(message, f"set {variable} to the address of a mirror that has it")
    return tuple(sorted(fitting, key=lambda mirror: _distance(mirror, suite)))


def _distance(mirror: Mirror, suite: str) -> int:
    """Rank: apt uses it for this suite, for another one of Debian's, for something else."""
    if not mirror.suites or suite in mirror.suites:
        return 0
    return 1 if any(name.endswith(("-updates", "-security")) for name in mirror.suites) else 2


def _named_or_of_apt(apt: Path) -> Iterator[Mirror]:
    for variable, security in ((VARIABLE, False), (SECURITY_VARIABLE, True)):
        named = os.environ.get(variable, "").split()
        if named:
            yield from (Mirror(_address(uri, variable).rstrip("/"), security) for uri in named)
        else:
            of_apt = _merged(_of_apt(apt))
            yield from (mirror for mirror in of_apt if mirror.security == security)


def _address(uri: str, place: str) -> str:
    if not web.is_address(uri):
        message = f"{place}: `{web.redacted(uri)}` is not an address"
        raise HostError(message, "correct it; write `/` in a password as %2F")
    return uri


def _merged(found: Iterable[Mirror]) -> Iterator[Mirror]:
    suites: dict[tuple[str, bool], tuple[str, ...]] = {}
    for mirror in found:
        key = (mirror.uri, mirror.security)
        suites[key] = suites.get(key, ()) + mirror.suites
    return (Mirror(uri, security, names) for (uri, security), names in suites.items())


def _of_apt(apt: Path) -> Iterator[Mirror]:
    folder = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(folder.glob("*"))):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found: Iterable[Mirror] = ()
        if path.suffix == ".sources":
            found = parse_deb822(text)
        elif path.suffix == ".list":
            found = parse_one_line(text)
        for mirror in found:
            _address(mirror.uri, str(path))
            yield mirror


def parse_one_line(text: str) -> Iterator[Mirror]:
    """Yield the mirrors of a `sources.list` file."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match and "main" in match["components"].split():
            yield from _mirrors([match["uri"]], [match["suite"]])


def parse_deb822(text: str) -> Iterator[Mirror]:
    """Yield the mirrors of a `.sources` file."""
    # Comments are allowed between the lines of a field, which no parser of mails knows.
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for fields in debcon.get_paragraphs_data(plain):
        if (
            fields.get("enabled", "yes").lower() not in ("no", "false", "0")
            and "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
        ):
            yield from _mirrors(fields.get("uris", "").split(), fields.get("suites", "").split())


def _mirrors(uris: Iterable[str], suites: Iterable[str]) -> Iterator[Mirror]:
    kinds: dict[bool, list[str]] = {}
    for suite in suites:
        kinds.setdefault(suite.endswith(("-security", "/updates")), []).append(suite)
    for uri in _expanded(uris):
        for security, names in kinds.items():
            yield Mirror(uri, security, tuple(names))


def _expanded(uris: Iterable[str]) -> Iterator[str]:
    for uri in uris:
        if uri.startswith(_SCHEMES):
            yield uri.rstrip("/")
        elif uri.startswith(_LIST):
            yield from _expanded(_listed(Path(uri.removeprefix(_LIST).replace("///", "/"))))


def _listed(path: Path) -> Iterator[str]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from shlex.split(line, comments=True)[:1]
