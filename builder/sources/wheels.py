"""Wheels: which ones a stack needs (through uv) and which file of each fits the target."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.errors import BuilderError, HostError, ResolveError
from builder.lock import Wheel
from builder.sources import index, web

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Sequence

_PARALLEL = 16
_OLDEST_GLIBC_MINOR = 5
"""manylinux1 is glibc 2.5 (PEP 600)."""
_UV_NEWEST_GLIBC_MINOR = 40
"""Newest manylinux platform uv knows; newer targets accept everything it can choose."""
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_TORCH = "torch"
_SHAPING = frozenset(
    f"UV_{name}"
    for name in (
        "BUILD_CONSTRAINT", "CONSTRAINT", "EXCLUDE", "EXCLUDE_NEWER", "EXCLUDE_NEWER_PACKAGE",
        "EXTRA_INDEX_URL", "FIND_LINKS", "FORK_STRATEGY", "INDEX", "NO_BINARY", "NO_INDEX",
        "NO_SOURCES", "OVERRIDE", "PRERELEASE", "RESOLUTION", "TORCH_BACKEND",
    )
)  # fmt: skip
"""Settings of uv that would change what is chosen."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to resolve."""

    requirement: str
    """Such as `vllm==0.20.2`."""
    python: str
    """Series of the target's Python, such as `3.11`."""
    glibc: str
    """Version of the target's glibc, such as `2.36`."""
    as_of: datetime.date
    exclude: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    """Where the catalogue says that this engine's builds are, if pip's settings lack them."""
    keep: tuple[Wheel, ...] = ()
    """Pins of the previous lock, kept where they still fit."""
    upgrade: tuple[str, ...] = ()
    """Packages that are not kept."""


def tags(python: str, glibc: str) -> list[Tag]:
    """Return the wheel tags that the target accepts, best first."""
    major, minor = (int(part) for part in python.split("."))
    platforms = list(_platforms(int(glibc.split(".")[1])))
    interpreter = f"cp{major}{minor}"
    own = cpython_tags((major, minor), abis=[interpreter], platforms=platforms)
    return [*own, *compatible_tags((major, minor), interpreter, platforms)]


def _platforms(newest: int) -> Iterable[str]:
    for minor in range(newest, _OLDEST_GLIBC_MINOR - 1, -1):
        yield f"manylinux_2_{minor}_x86_64"
        if minor in _LEGACY:
            yield f"{_LEGACY[minor]}_x86_64"
    yield "linux_x86_64"


def resolve(request: Request) -> tuple[Wheel, ...]:
    """Return exactly one wheel per package, sorted by name.

    Raises:
        ResolveError: there is no resolution, or a package has no wheel for the target.
    """
    packages = _compile(request)
    order = {tag: rank for rank, tag in enumerate(tags(request.python, request.glibc))}
    chosen = [_choose(package, order) for package in packages]
    kept = {wheel.sha256: wheel for wheel in request.keep}
    with ThreadPoolExecutor(_PARALLEL) as workers:
        wheels = workers.map(lambda file: _complete(file, kept), chosen)
        return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def urls(wheel: Wheel, find_links: tuple[str, ...]) -> Iterable[str]:
    """Yield where to fetch a locked wheel from."""
    yield from index.remembered(wheel.sha256)
    for place in _places(wheel, find_links):
        if place.sha256 in (None, wheel.sha256):
            yield place.url


def _places(wheel: Wheel, find_links: tuple[str, ...]) -> Iterable[index.Place]:
    yield from index.places(wheel.name, wheel.file)
    if "+" not in wheel.version:
        return  # the catalogue's pages are sought for builds of their own, such as `+cpu`
    try:
        yield from index.in_links(find_links, wheel.file)
    except ResolveError as fault:
        hint = "allow this host, or offer the wheel through pip's find-links (PIP_FIND_LINKS)"
        message = f"{wheel.file}: {fault.message}"
        raise ResolveError(message, hint) from fault


@dataclass(frozen=True)
class _File:
    """A wheel as the resolution names it."""

    name: str
    version: str
    file: str
    url: str
    sha256: str
    uploaded: datetime.datetime | None
    size: int | None
    """Known where the index says it (PEP 700)."""


def _choose(package: dict[str, Any], order: dict[Tag, int]) -> _File:
    best: tuple[Any, dict[str, Any], str] | None = None
    for wheel in package.get("wheels", ()):
        file = _file_name(wheel)
        rank = _rank(file, order)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, wheel, file)
    if best is None:
        message = f"{package['name']} {package['version']}: no wheel fits the target"
        raise ResolveError(message, "pin another engine version, or exclude it in resolve.exclude")
    _, wheel, file = best
    return _File(
        name=package["name"],
        version=str(parse_wheel_filename(file)[1]),
        file=file,
        url=_url(wheel),
        sha256=wheel["hashes"]["sha256"],
        uploaded=wheel.get("upload-time"),
        size=wheel.get("size"),
    )


def _rank(file: str, order: dict[Tag, int]) -> tuple[int, tuple[int, str]] | None:
    """Rank by tag, then the higher build number first (PEP 427)."""
    try:
        _, _, build, wheel_tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return None
    ranks = [order[tag] for tag in wheel_tags if tag in order]
    number = build or (0, "")
    return (min(ranks), (-number[0], number[1])) if ranks else None


def _url(wheel: dict[str, Any]) -> str:
    return str(wheel["url"]) if "url" in wheel else Path(wheel["path"]).resolve().as_uri()


def _file_name(wheel: dict[str, Any]) -> str:
    return str(wheel.get("name") or unquote(urlsplit(_url(wheel)).path.rpartition("/")[2]))


def _complete(file: _File, kept: dict[str, Wheel]) -> Wheel:
    """Add the size where the resolution does not give it."""
    if file.sha256 in kept:
        return kept[file.sha256]
    index.remember(file.sha256, file.url)
    return Wheel(
        name=file.name,
        version=file.version,
        file=file.file,
        size=web.size(file.url) if file.size is None else file.size,
        sha256=file.sha256,
        uploaded=file.uploaded,
    )


def _compile(request: Request) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="builder-") as name:
        folder = Path(name)
        output = folder / "pylock.toml"
        (folder / "requirements.in").write_text(request.requirement + "\n")
        overrides = [f'{project}; sys_platform == "never"\n' for project in request.exclude]
        (folder / "overrides.txt").write_text("".join(overrides))
        if request.keep:
            output.write_text(_preferences(request.keep))
        _run_uv(_arguments(request, folder, output), request.requirement)
        return list(tomllib.loads(output.read_text()).get("packages", ()))


def _preferences(keep: Sequence[Wheel]) -> str:
    """Return the previous resolution in the form uv prefers versions from."""
    lines = ['lock-version = "1.0"', 'created-by = "builder"']
    for wheel in keep:
        lines += ["[[packages]]", f'name = "{wheel.name}"', f'version = "{wheel.version}"']
    return "\n".join(lines) + "\n"


def _arguments(request: Request, folder: Path, output: Path) -> list[str]:
    ours = index.settings()
    minor = min(int(request.glibc.split(".")[1]), _UV_NEWEST_GLIBC_MINOR)
    options = {
        "--format": "pylock.toml",
        "--python-version": request.python,
        "--python-platform": f"x86_64-manylinux_2_{minor}",
        "--exclude-newer": f"{request.as_of.isoformat()}T23:59:59Z",
        "--only-binary": ":all:",
        "--override": str(folder / "overrides.txt"),
        "--output-file": str(output),
        "--default-index": ours.index,
    }
    argv = ["pip", "compile", str(folder / "requirements.in"), "--no-header", "--quiet"]
    argv += [word for option in options.items() for word in option]
    # The default index comes first and uv takes a package from the first that has it, so an extra
    # index adds packages but replaces none: no other index can slip in a newer build of a name.
    indexes = (ours.index, *ours.extra) if ours.extra else ()
    argv += [word for url in indexes for word in ("--index", url)]
    argv += [word for link in _links(request) for word in ("--find-links", link)]
    argv += [word for name in request.upgrade for word in ("--upgrade-package", name)]
    return argv


def _links(request: Request) -> tuple[str, ...]:
    """Return pip's links, and the catalogue's where pip's offer no build of torch."""
    ours = index.settings().find_links
    folders = [web.local_path(link) or Path(link) for link in ours if _is_folder(link)]
    offered = any(next(folder.glob(f"{_TORCH}-*.whl"), None) for folder in folders)
    return ours if offered else (*ours, *request.find_links)


def _is_folder(link: str) -> bool:
    return "://" not in link or web.local_path(link) is not None


def _run_uv(argv: list[str], requirement: str) -> None:
    from uv import find_uv_bin

    try:
        program = find_uv_bin()
    except FileNotFoundError as fault:
        message = "`uv` is not installed"
        raise HostError(message, "install it: pip install uv") from fault
    argv = [program, "--no-config", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0:
        raise _fault(done.stderr, requirement)


def _environment() -> dict[str, str]:
    """Return uv's environment, with the certificates that our own requests trust."""
    # What lies in the current folder, or in a shell's settings, must not shape a lock.
    env = {key: value for key, value in os.environ.items() if key not in _SHAPING}
    if trusted := web.certificates():
        return {**env, "SSL_CERT_FILE": trusted}
    return {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", **env}  # the second for older releases


def _fault(text: str, requirement: str) -> BuilderError:
    """Return the error for what uv printed.

    Its text has to be read: a network that fails, a folder that cannot be written and a setting
    that is refused all end with exit code 2, and uv has no other output that tells them apart.
    """
    reason = _reason(text)
    if re.search(r"initialize cache|client cache|\(os error (?:13|28|30|122)\)", text):
        message = f"wheels: uv cannot write its cache\n{reason}"
        return HostError(message, "free space, or set UV_CACHE_DIR to a folder you can write to")
    if re.search(r"error sending request|Failed to (?:fetch|download)|peer certificate", text):
        message = f"wheels: a package index cannot be read\n{reason}"
        hint = "check the network, proxy and certificates (SSL_CERT_FILE, or pip's cert)"
        return ResolveError(message, f"{hint}, and pip's index-url and find-links")
    message = f"wheels: no resolution\n{reason}"
    if f"no version of {requirement}" in text:
        return ResolveError(message, "change engine.version, or resolve.as_of if it is newer")
    return ResolveError(message, "change engine.version, resolve.as_of or resolve.exclude")


def _reason(text: str) -> str:
    """Return uv's explanation, indented, without what in addresses may be a secret."""
    lines = [_without_flags(line) for line in text.strip().splitlines()]
    told = [line for line in lines if line.strip()]
    return "\n".join("  " + web.redacted_text(line) for line in told[-15:])


def _without_flags(line: str) -> str:
    """Leave out the sentences of a hint that name flags of uv's, which nobody can give here."""
    if not line.startswith("hint:"):
        return line
    return " ".join(part for part in re.split(r"(?<=[.)]) (?=[A-Z])", line) if "`--" not in part)
