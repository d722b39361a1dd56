"""Names of images as values, read by the rules that Docker has made everybody's.

`debian` is `docker.io/library/debian`: the first part is a registry only if it has a dot or a
port, is `localhost`, or is not in lower case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import digest as digests
from builder.errors import UsageError

if TYPE_CHECKING:
    from builder.digest import Digest

DOCKER = "docker.io"
_DOCKER_ALIASES = ("index.docker.io", "registry-1.docker.io")
_DOCKER_HOST = "registry-1.docker.io"
_LONGEST_NAME = 255
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::([0-9]{{1,5}}))?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_LAST_PORT = 65535


@dataclass(frozen=True)
class Reference:
    """A repository of a registry, and perhaps one image in it."""

    registry: str
    """Host, with its port where one was named; `docker.io` where no registry was."""
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def host(self) -> str:
        """The host to talk to."""
        return _DOCKER_HOST if self.registry == DOCKER else self.registry

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def with_tag(self, tag: str) -> Reference:
        """Return the reference of that tag, which may be any digest."""
        _check_tag(f"{self.name}:{tag}", tag)
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        """Return the reference of that digest, whatever its tags are."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Return `text` as a reference.

    Raises:
        UsageError: it is not one.
    """
    if "://" in text:
        raise _nonsense(text, "has a scheme", "leave `https://` out: builder finds it out itself")
    name, at, digest = text.partition("@")
    name, tag = _split_tag(name)
    if "/" not in name and _is_host(name) and (tag or "").isdecimal():
        raise _nonsense(text, "names a registry and no repository", f"write {text}/NAME[:TAG]")
    registry, repository = _split_registry(name)
    _check_name(text, registry, repository)
    if tag is not None:
        _check_tag(text, tag)
    return Reference(registry, repository, tag, _digest(text, digest) if at else None)


def _split_tag(name: str) -> tuple[str, str | None]:
    """A colon before the last slash belongs to a port."""
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, None)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    registry, repository = (first, rest) if slash and _is_host(first) else (DOCKER, name)
    if registry in _DOCKER_ALIASES:
        registry = DOCKER
    if registry == DOCKER and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _is_host(first: str) -> bool:
    return first == "localhost" or first != first.lower() or bool(set(first) & set(".:"))


def _check_name(text: str, registry: str, repository: str) -> None:
    found = _REGISTRY.fullmatch(registry)
    if not found or int(found[1] or 0) > _LAST_PORT:
        raise _nonsense(text, f"`{registry}` is not a host", "write HOST[:PORT]/NAME[:TAG]")
    if not _REPOSITORY.fullmatch(repository):
        if _REPOSITORY.fullmatch(repository.lower()):
            raise _nonsense(text, "has capitals", f"write {registry}/{repository.lower()}")
        hint = "use a-z, 0-9 and single `.`, `_`, `-` between them, parts divided by `/`"
        raise _nonsense(text, f"`{repository}` is not a name of a repository", hint)
    if _HEX64.fullmatch(repository.removeprefix("library/")):
        raise _nonsense(text, "is an image ID, not a name", "name the repository: NAME@sha256:…")
    if len(registry) + 1 + len(repository) > _LONGEST_NAME:
        raise _nonsense(text, f"has over {_LONGEST_NAME} characters", "use a shorter name")


def _check_tag(text: str, tag: str) -> None:
    if not _TAG.fullmatch(tag):
        hint = "use up to 128 letters, digits, `_`, `.` and `-`, neither `.` nor `-` first"
        raise _nonsense(text, f"`{tag}` is not a tag", hint)


def _digest(text: str, digest: str) -> Digest:
    try:
        return digests.parse(digest)
    except ValueError as fault:
        raise _nonsense(text, str(fault), "copy the whole digest: NAME@sha256:…") from fault


def _nonsense(text: str, fault: str, hint: str) -> UsageError:
    return UsageError(f"image reference `{_shown(text)[:_LONGEST_NAME]}`: {fault}", hint)


def _shown(text: str) -> str:
    """Return what was written without the password that somebody put before the host."""
    user, at, rest = text.rpartition("@")
    return f"…@{rest}" if at and ":" in user and "sha256" not in rest else text
