"""Debian's package indexes: fetched, checked from signature to digest, and looked up by name.

    InRelease --signature--> sha256 of Packages.xz --sha256--> size and sha256 of each .deb

A checked index is kept in the cache under its sha256, so that the next lock does not fetch it.
"""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import hashlib
import lzma
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from debian_inspector import debcon

from builder import files
from builder.errors import BuilderError, IntegrityError, ResolveError
from builder.lock.schema import DebianPackage, Suite
from builder.sources import debian_mirrors, debian_signature, web
from builder.sources.debian_relations import Groups, Relation, parse, parse_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_PRIORITIES = ("required", "important", "standard", "optional", "extra")
_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {".xz": lzma.decompress, ".gz": gzip.decompress}
_NAME = re.compile(rb"^Package: (\S+)", re.MULTILINE)
_PROVIDES = re.compile(rb"^Provides:((?:[^\n]*\n[ \t])*[^\n]*)", re.MULTILINE)
_OFFER = re.compile(rb"(?:^|,)\s*([^\s,(:]+)")


@dataclasses.dataclass(frozen=True)
class Release:
    """What a suite's signed `Release` says."""

    suite: Suite
    mirror: str
    sums: Mapping[str, str]
    """sha256 of each file, by its path below `dists/<suite>/`."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One version of a package, as an index describes it."""

    pin: DebianPackage
    priority: int
    depends: Groups
    provides: tuple[Relation, ...]
    conflicts: tuple[Relation, ...]

    def satisfies(self, relation: Relation) -> bool:
        """Tell whether this package is, or provides, what `relation` asks."""
        if relation.name == self.pin.name:
            return relation.accepts(self.pin.version)
        offers = (offer for offer in self.provides if offer.name == relation.name)
        return any(not relation.operator or relation.accepts(o.version) for o in offers)


def release(suite: str, *, allow_expired: bool) -> Release:
    """Fetch and check what `suite` contains today, from the first mirror that has it.

    Raises:
        IntegrityError: no mirror has an index that Debian signed.
        ResolveError: no mirror has it, or it is too old.
    """
    faults: list[BuilderError] = []
    for mirror in debian_mirrors.for_suite(suite):
        try:
            return _release(mirror.uri, suite, allow_expired=allow_expired)
        except (IntegrityError, ResolveError) as fault:
            faults.append(fault)
    # A missing suite is how a third-party source looks; what else went wrong is the news.
    faults.sort(key=lambda fault: isinstance(fault, web.NotFoundError))
    raise faults[0]


def _release(mirror: str, suite: str, *, allow_expired: bool) -> Release:
    url = f"{mirror}/dists/{suite}/InRelease"
    text = debian_signature.signed_text(web.read(url), web.redacted(url))
    fields = debcon.get_paragraph_data(text)
    if fields.get("codename") != suite:
        message = f"{web.redacted(url)}: expected suite `{suite}`, got `{fields.get('codename')}`"
        raise IntegrityError(message, "use another mirror")
    if not allow_expired:
        check_age(suite, fields.get("valid-until"), datetime.datetime.now(datetime.UTC))
    sums = (line.split() for line in fields.get("sha256", "").splitlines() if line.strip())
    return Release(
        Suite(name=suite, released=_date(fields["date"])),
        mirror,
        {path: digest for digest, _, path in sums},
    )


def check_age(suite: str, valid_until: str | None, now: datetime.datetime) -> None:
    """Refuse an index past its date: an old one hides what was fixed since.

    Raises:
        ResolveError: it is past `valid_until`.
    """
    if valid_until and _date(valid_until) < now:
        message = f"{suite}: the index was valid until {_date(valid_until):%Y-%m-%d}"
        hint = "use a current mirror, or run `builder lock --allow-expired-index`"
        raise ResolveError(message, hint)


def _date(text: str) -> datetime.datetime:
    moment = parsedate_to_datetime(text)
    return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment


def packages_text(release: Release, architecture: str) -> bytes:
    """Return the suite's list of packages, from the cache or its mirror.

    Raises:
        ResolveError: the mirror does not have the list that its `Release` names.
    """
    place = f"main/binary-{architecture}/Packages"
    for ending, unpack in _UNPACK.items():
        digest = release.sums.get(place + ending)
        packed = _checked(release, place + ending, digest) if digest else None
        if packed is not None:
            return unpack(packed)
    message = f"{release.suite.name}: no list of packages for {architecture}"
    raise ResolveError(message, "use another mirror")


def _checked(release: Release, path: str, digest: str) -> bytes | None:
    cached = files.cache_folder() / "indexes" / digest
    if cached.is_file() and _sha256(data := cached.read_bytes()) == digest:
        return data
    base = f"{release.mirror}/dists/{release.suite.name}"
    folder = path.rpartition("/")[0]
    # By digest first: under its name it may be a newer one already.
    for url in (f"{base}/{folder}/by-hash/SHA256/{digest}", f"{base}/{path}"):
        try:
            data = web.read(url)
        except web.NotFoundError:
            continue
        if _sha256(data) != digest:
            message = f"{web.redacted(url)}: expected sha256 {digest}, got {_sha256(data)}"
            raise IntegrityError(message, "the mirror is being updated: run the command again")
        files.write_atomic(cached, data)
        return data
    return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Index:
    """The packages of several suites, by name.

    Only the paragraphs that are asked for are parsed: a suite has 60000, which takes 3 s and
    300 MB, and a base needs a hundred.
    """

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._paragraphs: dict[str, list[memoryview]] = {}
        self._providers: dict[str, set[str]] = {}
        self._candidates: dict[str, tuple[Candidate, ...]] = {}
        for text in texts:
            self._read(text)

    def _read(self, text: bytes) -> None:
        view, start = memoryview(text), 0
        while start < len(text):
            end = text.find(b"\n\n", start)
            end = len(text) if end < 0 else end
            if name := _NAME.search(text, start, end):
                package = name[1].decode()
                self._paragraphs.setdefault(package, []).append(view[start:end])
                for offer in _offers(text, start, end):
                    self._providers.setdefault(offer, set()).add(package)
            start = end + 2

    def names(self) -> tuple[str, ...]:
        """Return the names of all packages."""
        return tuple(self._paragraphs)

    def versions(self, name: str) -> tuple[Candidate, ...]:
        """Return the candidates of that name, newest first."""
        if name not in self._candidates:
            found = [_candidate(text) for text in self._paragraphs.get(name, ())]
            found.sort(key=lambda each: parse_version(each.pin.version), reverse=True)
            self._candidates[name] = tuple(found)
        return self._candidates[name]

    def providers(self, name: str) -> Iterator[Candidate]:
        """Yield what provides the virtual package `name`, the most usual first."""
        newest = [self.versions(real)[0] for real in self._providers.get(name, ())]
        yield from sorted(newest, key=lambda each: (each.priority, each.pin.name))


def _offers(text: bytes, start: int, end: int) -> list[str]:
    """Return the names that a paragraph provides."""
    # Patterns are slow where they find nothing, as in five of six paragraphs.
    if text.find(b"\nProvides:", start, end) < 0:
        return []
    found = _PROVIDES.search(text, start, end)
    return [name.decode() for name in _OFFER.findall(found[1])] if found else []


def _fields(paragraph: memoryview) -> dict[str, str]:
    found: dict[str, str] = debcon.get_paragraph_data(bytes(paragraph).decode())
    return found


def _candidate(paragraph: memoryview) -> Candidate:
    fields = _fields(paragraph)
    pin = DebianPackage(
        name=fields["package"],
        version=fields["version"],
        architecture=fields["architecture"],
        path=fields["filename"],
        size=int(fields["size"]),
        sha256=fields["sha256"],
    )
    priority = fields.get("priority", "optional")
    return Candidate(
        pin,
        _PRIORITIES.index(priority) if priority in _PRIORITIES else len(_PRIORITIES),
        parse(fields.get("pre-depends", "")) + parse(fields.get("depends", "")),
        _flat(parse(fields.get("provides", ""))),
        _flat(parse(fields.get("conflicts", "")) + parse(fields.get("breaks", ""))),
    )


def _flat(groups: Groups) -> tuple[Relation, ...]:
    return tuple(relation for group in groups for relation in group)
