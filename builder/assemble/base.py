"""The base layer: Debian packages laid out as an operating system, without running anything.

What maintainer scripts would have made, and an inference engine needs, is generated last.  The same
packages give the same bytes: in order of name, each in its archive's order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from debian_inspector import debcon

from builder.assemble import deb, ldcache
from builder.assemble.tree import Tree
from builder.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.lock.schema import DebianPackage
    from builder.oci.tar import TarWriter

_MERGED = ("bin", "lib", "lib64", "sbin")
"""Links into `/usr`: https://wiki.debian.org/UsrMerge."""

_DIRECTORIES = {
    "cache": 0o1777,  # a volume mounted here takes this mode, so any user may write
    "dev": 0o755,
    "proc": 0o755,
    "run": 0o755,
    "sys": 0o755,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}
_LINKS = {
    "usr/bin/awk": "mawk",
    "usr/bin/c++": "g++",
    "usr/bin/cc": "gcc",
    "usr/bin/sh": "dash",
    "usr/bin/which": "which.debianutils",
}
"""What `update-alternatives` makes; each only if its target, beside it, is there."""

_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_USERS = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
builder:x:10001:0:builder:/tmp/home:/bin/sh
"""
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"
_NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
"""


def write_base(
    tar: TarWriter,
    debs: Sequence[tuple[DebianPackage, Path]],
    debian: str,
    advance: Callable[[int], object] = bool,
) -> None:
    """Write the layer for these packages, whose files were checked against the lock.

    `advance` hears the size of every .deb that is done.

    Raises:
        IntegrityError: a file is not the package that it should be, not of release `debian`, holds
            a device, or clashes with another package.
    """
    tree = Tree(tar)
    for name in _MERGED:
        tree.directory(f"usr/{name}")
        tree.symlink(name, f"usr/{name}")
    ordered = sorted(debs, key=lambda pair: pair[0].name)
    controls = {pin.name: _control(pin, path) for pin, path in ordered}
    for pin, path in ordered:
        tree.unpack(pin.name, path)
        advance(pin.size)
    _check_release(tree, debian)
    _generate(tree, controls)


def _control(pin: DebianPackage, path: Path) -> str:
    text = deb.control(path)
    fields = debcon.get_paragraph_data(text)
    found = tuple(fields.get(key) for key in ("package", "version", "architecture"))
    if found != (pin.name, pin.version, pin.architecture):
        expected = f"{pin.name} {pin.version} {pin.architecture}"
        message = f"{path.name}: expected {expected}, got {' '.join(map(str, found))}"
        raise IntegrityError(message, "run `builder fetch` to get the file again")
    return text.strip("\n") + "\n"


def _check_release(tree: Tree, debian: str) -> None:
    """Scanners look up vulnerabilities by the release that is named here."""
    text = tree.texts.get("usr/lib/os-release", b"").decode()
    found = re.search(r"^VERSION_CODENAME=(\S+)$", text, re.MULTILINE)
    if found is None or found[1] != debian:
        message = f"usr/lib/os-release: expected {debian}, got {found[1] if found else 'nothing'}"
        raise IntegrityError(message, "run `builder lock -P base STACK`")


def _generate(tree: Tree, controls: dict[str, str]) -> None:
    for path, mode in _DIRECTORIES.items():
        tree.directory(path, mode)
    for path, target in _LINKS.items():
        if f"usr/bin/{target}" in tree and path not in tree:
            tree.symlink(path, target)
    tree.generate("etc/passwd", _USERS.encode())
    tree.generate("etc/group", _GROUPS.encode())
    tree.generate("etc/nsswitch.conf", _NSSWITCH.encode())
    _certificates(tree)
    tree.generate("etc/ld.so.cache", _ld_so_cache(tree))
    # Where scanners look for packages of images without dpkg, as in Google's distroless.
    for name, text in controls.items():
        tree.generate(f"var/lib/dpkg/status.d/{name}", text.encode())


def _certificates(tree: Tree) -> None:
    names = sorted(path for path in tree.texts if path.endswith(".crt"))
    if not names:
        return
    tree.generate(_BUNDLE, b"".join(tree.texts[name].rstrip(b"\n") + b"\n" for name in names))
    # OpenSSL looks here; the links come with the package `openssl`, which is not needed otherwise.
    for path, target in (("cert.pem", f"/{_BUNDLE}"), ("certs", "/etc/ssl/certs")):
        if f"usr/lib/ssl/{path}" not in tree:
            tree.symlink(f"usr/lib/ssl/{path}", target)


def _ld_so_cache(tree: Tree) -> bytes:
    texts = {path: text.decode() for path, text in tree.texts.items() if path.endswith(".conf")}
    libraries: dict[str, str] = {}
    for folder in ldcache.folders(texts):
        for path in (f"{folder}/{name}" for name in tree.names_in(folder)):
            if (name := _library_name(tree, path)) is not None:
                beside = f"{folder}/{name}"
                found = beside if tree.soname(beside) is not None else path
                libraries.setdefault(name, f"/{found}")
    return ldcache.cache(libraries)


def _library_name(tree: Tree, path: str) -> str | None:
    """Return what a program asks for to get the library at `path`, as ldconfig sees it."""
    name = path.rpartition("/")[2]
    soname = tree.soname(path) if ldcache.may_be_library(name) else None
    # `libx.so` is what `-lx` and dlopen ask for.
    is_for_linker = tree.is_link(path) and name.endswith(".so")
    if soname is None:
        return None
    return name if is_for_linker or not soname else soname
