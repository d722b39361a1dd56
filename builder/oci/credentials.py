"""Where this machine keeps what it logs in to registries with; nothing is kept here.

The places of Docker, Podman and CI systems, in this order: `DOCKER_AUTH_CONFIG` (the JSON itself),
`REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`, `$DOCKER_CONFIG/config.json`.  The
first that has something for a repository decides.  The `docker` library reads only the last one,
knows no entries for parts of a registry, logs user names and takes a quarter of a second to import.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import HostError, ToolError
from builder.oci.refusals import clean
from builder.reference import DOCKER, Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

_DOCKER_KEY = "https://index.docker.io/v1/"
_DOCKER_NAMES = ("index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers call the user of an identity token
_LEGACY = re.compile(r"(?:https?://([^/]+)(?:/.*)?|([^/]+)(?:/v[12]/?|/)?)", re.IGNORECASE)
"""A host with a scheme, or with the path that old clients added."""
_HELPER = re.compile(r"[\w.-]+")
_HELPER_SECONDS = 60
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True)
class Credentials:
    """Who to log in as; secrets never show in a message."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    origin: str = field(default="", compare=False)
    """The place that had them."""


def login(registry: str) -> str:
    """Return the command that stores credentials for a registry."""
    return "docker login" if registry == DOCKER else f"docker login {registry}"


def find(reference: Reference) -> Credentials | None:
    """Return the credentials for a repository, None where nobody has logged in.

    Raises:
        HostError: a file of credentials cannot be read, or names a helper that does not work.
        ToolError: a helper failed.
    """
    for place, text in _places():
        config = _parsed(place, text)
        found = _from_helper(place, config, reference) or _from_file(place, config, reference)
        if found:
            return found
    return None


def _places() -> Iterator[tuple[str, str]]:
    """Yield name and content of what exists."""
    given = os.environ.get("DOCKER_AUTH_CONFIG")
    if given:
        yield "DOCKER_AUTH_CONFIG", given
    for path in _paths():
        try:
            yield str(path), path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as fault:
            reason = (getattr(fault, "strerror", None) or "not a text").lower()
            message = f"{path}: {reason}"
            raise HostError(message, "let it be read: it holds the logins to registries") from fault


def _paths() -> Iterator[Path]:
    chosen = os.environ.get("REGISTRY_AUTH_FILE")
    if chosen:
        yield Path(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield Path(runtime) / "containers" / "auth.json"
    docker = os.environ.get("DOCKER_CONFIG") or Path(os.environ.get("HOME", "/")) / ".docker"
    yield Path(docker) / "config.json"


def _parsed(place: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        message = f"{place}: expected a JSON object with logins to registries"
        # The parser's own words would quote what stands there.
        raise HostError(message, "make it anew: docker login HOST") from None
    return config


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


# --- the file itself ------------------------------------------------------------------------------


def _from_file(place: str, config: dict[str, Any], reference: Reference) -> Credentials | None:
    """The entry for the longest part of the name decides, then one for the registry."""
    auths = _section(config, "auths")
    name = reference.name
    while name:
        if name in auths:
            return _entry(place, name, auths[name])
        name = name.rpartition("/")[0]
    for key, entry in auths.items():
        if _host(key) == reference.registry:
            return _entry(place, key, entry)
    return None


def _host(key: str) -> str:
    found = _LEGACY.fullmatch(key)
    host = (found[1] or found[2]) if found else key
    return DOCKER if host in _DOCKER_NAMES else host


def _entry(place: str, key: str, entry: Any) -> Credentials | None:
    """An entry without content says that a helper has it."""
    if not isinstance(entry, dict):
        return None
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        username, password = _decoded(place, key, str(entry["auth"]))
    token = str(entry.get("identitytoken") or "")
    if not (username and password) and not token:
        return None
    return Credentials(username, password, token, place)


def _decoded(place: str, key: str, auth: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        text = ""
    user, colon, password = text.partition(":")
    if not colon:
        message = f"{place}: auths: `{clean(key)}`: `auth` is not `user:password` in base64"
        raise HostError(message, f"log in again: {login(_host(key))}") from None
    return user, password.strip("\0")


# --- helpers --------------------------------------------------------------------------------------


def _from_helper(place: str, config: dict[str, Any], reference: Reference) -> Credentials | None:
    helpers = _section(config, "credHelpers")
    server = _DOCKER_KEY if reference.registry == DOCKER else reference.registry
    keys = (reference.registry, *((_DOCKER_KEY, *_DOCKER_NAMES) if server == _DOCKER_KEY else ()))
    helper = next((helpers[key] for key in keys if key in helpers), config.get("credsStore"))
    if not helper:
        return None
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        message = f"{place}: `{clean(str(helper))}` is not the name of a credential helper"
        raise HostError(message, "write what follows `docker-credential-` in its name")
    return _answer(f"docker-credential-{helper}", place, server)


def _answer(program: str, place: str, server: str) -> Credentials | None:
    output = _run(program, place, server)
    if output is None:
        return None
    try:
        fields = json.loads(output)
        username, secret = str(fields["Username"]), str(fields["Secret"])
    except (ValueError, KeyError, TypeError):
        message = f"{program}: expected JSON with `Username` and `Secret`, got something else"
        # What it printed may be the secret.
        raise HostError(message, f"try it: echo {server} | {program} get") from None
    if not secret:
        return None
    if username == _TOKEN_USER:
        return Credentials("", "", secret, program)
    return Credentials(username, secret, origin=program)


def _run(program: str, place: str, server: str) -> str | None:
    """Return what a helper prints for `server`, None if it has nothing."""
    path = shutil.which(program)
    if path is None:
        message = f"{place}: names the credential helper `{program}`, which is not installed"
        raise HostError(message, f"install it, or take it out of {place} and log in again")
    command = [path, "get"]
    try:
        done = subprocess.run(
            command,
            input=server.encode(),
            capture_output=True,
            check=False,
            timeout=_HELPER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        words = getattr(fault, "strerror", None) or f"no answer in {_HELPER_SECONDS} s"
        message = f"{program}: {words.lower()}"
        raise HostError(message, f"try it: echo {server} | {program} get") from fault
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0:
        return output
    spoken = f"{output}\n{done.stderr.decode('utf-8', 'replace')}"
    if _NOT_FOUND in spoken.lower():
        return None
    # What it printed may be a secret: whoever tries it by hand sees it.
    hint = f"try it: echo {server} | {program} get"
    raise ToolError([program, "get"], done.returncode, "", hint)
