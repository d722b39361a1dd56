"""A folder that the entries of layers go into, one by one.

Nothing is ever written through a link, or over something: every folder that an entry is put into
was made by the same `Tree`, and every entry is new.
"""

from __future__ import annotations

import os
import shutil
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from pathlib import Path

_CHUNK = 1 << 20
_MOUNT_POINTS = ("cache", "dev", "proc", "sys", "tmp")
_MOUNT_FILES = ("etc/hosts", "etc/resolv.conf")
_WHITEOUT = ".wh."


class Refused(Exception):  # noqa: N818 - says what happened
    """An entry that no layer of ours has."""


class Tree:
    """A folder that is being filled."""

    def __init__(self, root: Path) -> None:
        self.size = 0
        self._root = root
        self._folders = {""}
        """What this run made, and so knows to be folders: no link is ever followed."""

    def add(self, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        """Add an entry of a layer."""
        name = _checked(member.name)
        if member.isdir():
            self._folder(name, member.mode)
        elif content is not None:
            self._file(name, member, content)
        elif member.issym():
            self._parent(name)
            self._once(name, lambda path: path.symlink_to(member.linkname))
        elif member.islnk():
            self._hard_link(name, _checked(member.linkname))
        else:
            message = f"`{name}` is neither a file nor a folder nor a link"
            raise Refused(message)

    def empty(self, name: str) -> None:
        """Add an empty file, for another one to be mounted there."""
        self._parent(_checked(name))
        self._once(name, lambda path: path.touch(exist_ok=False))

    def mount_points(self) -> None:
        """Make sure that what the sandbox mounts has a place."""
        for name in _MOUNT_POINTS:
            if name not in self._folders:
                self._folder(name, 0o755)
        for name in _MOUNT_FILES:
            path = self._root / name
            if path.is_symlink() or not path.exists():
                path.unlink(missing_ok=True)
                self.empty(name)

    def _folder(self, name: str, mode: int) -> None:
        self._parent(name)
        if name not in self._folders:
            self._once(name, lambda path: path.mkdir())
            self._folders.add(name)
        # Ours must stay writable, or nobody could ever remove them.
        (self._root / name).chmod(mode & 0o1777 | 0o700)

    def _file(self, name: str, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        self._parent(name)

        def write(path: Path) -> None:
            with path.open("xb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
                os.fchmod(file.fileno(), member.mode & 0o777 | 0o400)
                file.flush()
                os.utime(file.fileno(), (member.mtime, member.mtime))

        self._once(name, write)
        self.size += member.size

    def _hard_link(self, name: str, target: str) -> None:
        self._parent(name)
        path = self._root / target
        if target.rpartition("/")[0] not in self._folders or _is_no_file(path):
            message = f"`{name}` links to `{target}`, which is not in the image"
            raise Refused(message)
        self._once(name, lambda new: new.hardlink_to(path))

    def _parent(self, name: str) -> None:
        parent = name.rpartition("/")[0]
        if parent not in self._folders:
            self._folder(parent, 0o755)

    def _once(self, name: str, make: Callable[[Path], object]) -> None:
        try:
            make(self._root / name)
        except FileExistsError as fault:
            message = f"`{name}` is there already"
            raise Refused(message) from fault


def _checked(name: str) -> str:
    parts = name.split("/")
    if {"", ".", ".."} & set(parts):
        message = f"`{name}` is no plain relative path"
        raise Refused(message)
    if parts[-1].startswith(_WHITEOUT):
        message = f"`{name}` is a whiteout"
        raise Refused(message)
    return name


def _is_no_file(path: Path) -> bool:
    return path.is_symlink() or not path.is_file()
