"""Choose Debian packages: everything that is asked for, and what that needs to work.

Greedy and without backtracking, as a base needs: newest version, an alternative that is chosen
already, else the first that exists.  `Recommends` are not followed, and neither is what only
maintainer scripts use, because none is run.
"""

from __future__ import annotations

import difflib
from collections import deque
from typing import TYPE_CHECKING

from builder.errors import ResolveError
from builder.sources.debian_relations import Relation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from builder.lock.schema import DebianPackage
    from builder.sources.debian_index import Candidate, Index

Group = tuple[Relation, ...]


class _OldPinError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def solve(
    index: Index,
    wanted: Iterable[str],
    *,
    ignored: Collection[str] = (),
    keep: Iterable[DebianPackage] = (),
) -> tuple[DebianPackage, ...]:
    """Return the packages that `wanted` needs, sorted by name.

    Pins in `keep` win over newer versions as long as the index has them and nothing asks for more.

    Raises:
        ResolveError: something does not exist or cannot be satisfied, or two packages exclude
            each other.
    """
    kept = {pin.name: pin for pin in keep}
    while True:
        search = _Search(index, frozenset(ignored), kept)
        try:
            return search.run(sorted(set(wanted)))
        except _OldPinError as old:
            del kept[old.name]


class _Search:
    """One attempt; `_reason` holds who asked for each package first, for messages."""

    def __init__(
        self, index: Index, ignored: frozenset[str], kept: dict[str, DebianPackage]
    ) -> None:
        self._index = index
        self._ignored = ignored
        self._kept = kept
        self._chosen: dict[str, Candidate] = {}
        self._reason: dict[str, str] = {}
        self._open: deque[Candidate] = deque()

    def run(self, wanted: list[str]) -> tuple[DebianPackage, ...]:
        for name in wanted:
            self._want(name)
        while self._open:
            asker = self._open.popleft()
            for group in asker.depends:
                self._satisfy(group, asker.pin.name)
        self._refuse_conflicts()
        return tuple(self._chosen[name].pin for name in sorted(self._chosen))

    def _want(self, name: str) -> None:
        candidate = self._find(Relation(name))
        if candidate is None:
            close = difflib.get_close_matches(name, self._index.names(), n=3)
            message = f"base.packages: there is no package `{name}` in these suites"
            near = ", ".join(f"`{each}`" for each in close)
            raise ResolveError(message, f"did you mean {near}?" if close else "correct the name")
        self._choose(candidate, "")

    def _satisfy(self, group: Group, asker: str) -> None:
        if any(relation.name in self._ignored for relation in group):
            return
        for relation in group:
            if any(chosen.satisfies(relation) for chosen in self._holders(relation)):
                return
        for relation in group:
            candidate = self._find(relation)
            if candidate is not None:
                self._choose(candidate, asker)
                return
        raise self._unsatisfied(group, asker)

    def _holders(self, relation: Relation) -> Iterable[Candidate]:
        """Return the chosen packages that may satisfy `relation`."""
        if relation.name in self._chosen:
            yield self._chosen[relation.name]
        for provider in self._index.providers(relation.name):
            if provider.pin.name in self._chosen:
                yield self._chosen[provider.pin.name]

    def _find(self, relation: Relation) -> Candidate | None:
        """Return what to add for `relation`: the package itself, else one that provides it."""
        versions = self._index.versions(relation.name)
        kept = self._kept.get(relation.name)
        # `sorted` is stable: the kept pin first, then newest first.
        preferred = sorted(versions, key=lambda each: each.pin != kept)
        for candidate in (*preferred, *self._index.providers(relation.name)):
            if candidate.pin.name not in self._chosen and candidate.satisfies(relation):
                return candidate
        return None

    def _choose(self, candidate: Candidate, asker: str) -> None:
        name = candidate.pin.name
        if name not in self._chosen:
            self._chosen[name] = candidate
            self._reason[name] = asker
            self._open.append(candidate)

    def _unsatisfied(self, group: Group, asker: str) -> Exception:
        for name in (*(relation.name for relation in group), asker):
            if name in self._chosen and self._chosen[name].pin == self._kept.get(name):
                return _OldPinError(name)
        text = " | ".join(map(str, group))
        message = f"{self._chain(asker)}: needs `{text}`, found {self._found(group)}"
        return ResolveError(message, "add a suite to base.suites, or leave the package out")

    def _found(self, group: Group) -> str:
        chosen = [self._chosen[r.name].pin for r in group if r.name in self._chosen]
        if chosen:
            return ", ".join(f"{pin.name} {pin.version} chosen already" for pin in chosen)
        known = [pin for r in group for pin in (c.pin for c in self._index.versions(r.name))]
        return ", ".join(f"{pin.name} {pin.version}" for pin in known) or "nothing of that name"

    def _chain(self, name: str) -> str:
        """Return `base.packages -> a -> b`, ending with `name`."""
        names = [name]
        while self._reason[names[0]]:
            names.insert(0, self._reason[names[0]])
        return " -> ".join(["base.packages", *names])

    def _refuse_conflicts(self) -> None:
        for candidate in self._chosen.values():
            for relation in candidate.conflicts:
                for other in self._holders(relation):
                    if other is not candidate and other.satisfies(relation):
                        raise self._conflict(candidate, other, relation)

    def _conflict(self, one: Candidate, other: Candidate, relation: Relation) -> Exception:
        for candidate in (other, one):
            if candidate.pin == self._kept.get(candidate.pin.name):
                return _OldPinError(candidate.pin.name)
        message = f"{self._chain(one.pin.name)}: excludes `{relation}`, "
        message += f"which comes with {self._chain(other.pin.name)}"
        return ResolveError(message, "leave one of the two out of base.packages")
