"""Find bubblewrap, the program that makes a sandbox: this machine's, else Debian's.

Debian's package needs no root: its files go to the cache, its libraries only where this machine
has none.  `catalogue/bubblewrap.toml` pins the bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tomllib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from builder import catalogue, files
from builder.assemble import deb
from builder.errors import BuilderError, HostError
from builder.lock import DebianPackage
from builder.oci import uses
from builder.sources import debian
from builder.sources.downloads import Downloads, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = "bwrap"
_OLDEST = (0, 7)
"""The first that knows every option we use (`--size`)."""
_RELEASE = "bookworm"
_ARCHITECTURES = {"x86_64": "amd64"}
_LOADER = "/lib64/ld-linux-x86-64.so.2"
_PROGRAM_FILE = re.compile(r"\./usr/bin/bwrap")
_LIBRARY_FILE = re.compile(r"\./(usr/)?lib/[^/]+/lib[^/]+\.so\.[^/]+")
_HINT = "install it (`apt install bubblewrap`), or use Docker: builder run --engine docker"


def find(cache: Path) -> tuple[str, ...]:
    """Return the command line that starts bubblewrap.

    Raises:
        HostError: this machine has none, and Debian's cannot be had or cannot run here.
    """
    own = shutil.which(PROGRAM)
    if own and _is_usable((own,)):
        return (own,)
    try:
        return _of_debian(cache)
    except BuilderError as fault:
        what = "is too old" if own else "is not installed"
        message = f"bubblewrap {what}, and Debian's cannot be used: {fault.message}"
        raise HostError(message, _HINT) from fault


def _is_usable(argv: Sequence[str]) -> bool:
    """Tell whether it starts, and is new enough."""
    try:
        done = subprocess.run([*argv, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return done.returncode == 0 and bool(found) and _numbers(found) >= _OLDEST


def _numbers(found: re.Match[str] | None) -> tuple[int, ...]:
    return tuple(int(text) for text in found.groups()) if found else ()


def _of_debian(cache: Path) -> tuple[str, ...]:
    """Unpack the program, and its libraries only if it does not start without them."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        message = f"no package is pinned for `{machine}`"
        raise HostError(message)
    packages = _pins(_ARCHITECTURES[machine])
    folder = cache / "tools" / f"bubblewrap-{packages['program'][0].version}"
    program = _unpacked(packages["program"], cache, folder / "bin", _PROGRAM_FILE) / PROGRAM
    if _is_usable((str(program),)):
        return (str(program),)
    libraries = _unpacked(packages["library"], cache, folder / "lib", _LIBRARY_FILE)
    # Started by the loader, so that no variable has to leak into the sandbox.
    argv = (_LOADER, "--library-path", str(libraries), str(program))
    if not _is_usable(argv):
        message = f"{program}: does not start on this machine"
        raise HostError(message)
    return argv


@lru_cache
def _pins(architecture: str) -> dict[str, list[DebianPackage]]:
    path = Path(catalogue.__file__).with_name("bubblewrap.toml")
    table: dict[str, list[dict[str, Any]]] = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        kind: [DebianPackage(architecture=architecture, **row) for row in rows]
        for kind, rows in table.items()
    }


def _unpacked(
    packages: Sequence[DebianPackage], cache: Path, folder: Path, wanted: re.Pattern[str]
) -> Path:
    """Return `folder`, filled with the files that match `wanted` unless it is there already."""
    if folder.is_dir():
        uses.touch(folder.parent)
        return folder
    downloads = Downloads(cache)
    downloads.fetch([_wanted(package) for package in packages])
    temporary = folder.with_name(f"{files.TEMPORARY_PREFIX}{folder.name}-{os.getpid()}")
    for package in packages:
        for name, link, content in _files(downloads.path(package.sha256), wanted):
            _place(temporary / name, link, content)
    try:
        temporary.rename(folder)
    except OSError:  # another run was faster, with the same result
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _wanted(package: DebianPackage) -> Wanted:
    return Wanted(
        label=PurePosixPath(package.path).name,
        sha256=package.sha256,
        size=package.size,
        urls=lambda: debian.urls(package, _RELEASE),
        gone=lambda: debian.gone(package),
    )


def _files(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, link target and content of the package's files that match."""
    with deb.data(path) as tar:
        for member in tar:
            if wanted.fullmatch(member.name):
                content = tar.extractfile(member) if member.isreg() else None
                link = PurePosixPath(member.linkname).name if member.issym() else ""
                yield PurePosixPath(member.name).name, link, content.read() if content else b""


def _place(path: Path, link: str, content: bytes) -> None:
    if not link:
        files.write_atomic(path, content, 0o755)
        return
    with contextlib.suppress(FileExistsError):
        path.symlink_to(link)
