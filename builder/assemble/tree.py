"""The files of several packages as one tree, written to a layer while it grows.

Follows what dpkg does where packages meet: a directory may come with many of them, a symbolic link
to a directory stays what it is and files go through it, and a file belongs to one package.
"""

from __future__ import annotations

import hashlib
import posixpath
import tempfile
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from builder.assemble import deb, elf, ldcache
from builder.errors import IntegrityError

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from builder.oci.tar import TarWriter

_CHUNK = 1 << 20

_DROPPED = ("doc-base", "info", "lintian", "locale", "man", "bug")
_DOC = "usr/share/doc/"
_KEPT_TEXTS = ("etc/ld.so.conf.d/", "usr/share/ca-certificates/", "usr/lib/os-release")
"""Small files that generated ones are made from."""


def is_dropped(path: str, *, link: bool) -> bool:
    """Tell whether a file is documentation; copyright notices are not."""
    if path.startswith(_DOC):
        package, _, rest = path.removeprefix(_DOC).partition("/")
        # A link instead of a folder leads to the notice of another package.
        return rest != "copyright" and not (link and package and not rest)
    return path.startswith(tuple(f"usr/share/{name}/" for name in _DROPPED))


class Tree:
    """What is in the layer so far."""

    def __init__(self, tar: TarWriter) -> None:
        self._tar = tar
        self._links: dict[str, str] = {}
        self._files: dict[str, tuple[str, bytes]] = {}
        """By path: the package a file came with, and the sha256 of its content."""
        self._libraries: dict[str, str] = {}
        """Names that shared libraries give themselves, by path."""
        self.texts: dict[str, bytes] = {}
        """Content of the files that generated ones are made from."""

    def __contains__(self, path: str) -> bool:
        return path in self._tar

    def place(self, path: str) -> str:
        """Return where `path` ends up when the links above it are followed."""
        parent, _, name = path.rpartition("/")
        return posixpath.join(self._followed(parent), name)

    def _followed(self, folder: str) -> str:
        if not folder:
            return ""
        place = self.place(folder)
        target = self._links.get(place)
        return place if target is None else self._followed(_from(place, target))

    def soname(self, path: str) -> str | None:
        """Return what the library at `path`, or behind that link, calls itself; None for others."""
        place = self.place(path)
        target = self._links.get(place)
        if target is None:
            return self._libraries.get(place)
        return self.soname(_from(place, target))

    def is_link(self, path: str) -> bool:
        """Tell whether `path` is a symbolic link."""
        return self.place(path) in self._links

    def names_in(self, folder: str) -> list[str]:
        """Return the files and links in `folder`, sorted."""
        start = self._followed(folder) + "/"
        names = (p.removeprefix(start) for p in (*self._files, *self._links) if p.startswith(start))
        return sorted(name for name in names if "/" not in name)

    def unpack(self, package: str, path: Path) -> None:
        """Add what a .deb holds, but for documentation.

        Raises:
            IntegrityError: it holds a device, or another package's file with other content.
        """
        with deb.data(path) as archive:
            for member in archive:
                self._add(package, member, archive, path)
                # Else tarfile keeps every member for a way back that a stream does not have.
                archive.members.clear()  # type: ignore[attr-defined]

    def _add(
        self, package: str, member: tarfile.TarInfo, archive: tarfile.TarFile, path: Path
    ) -> None:
        place = self.place(_plain(member.name, path))
        if not place or is_dropped(place, link=member.issym()):
            return
        if member.isdir():
            self.directory(place, member.mode)
        elif member.issym():
            self.symlink(place, member.linkname)
        elif member.isreg():
            content = archive.extractfile(member)
            if content is not None:
                self._file(package, place, member, content)
        elif member.islnk():
            self._hardlink(package, place, member, path)
        else:
            message = f"{path.name}: `{place}` is a device or a pipe"
            raise IntegrityError(message, "leave the package out of base.packages")

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory unless there is one, or a link in its place."""
        if path not in self._tar:
            self._tar.parents(path)
            self._tar.directory(path, mode & 0o1777)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link; a directory in its place stays."""
        if path not in self._tar:
            self._tar.parents(path)
            self._tar.symlink(path, target)
            self._links[path] = target
        elif self._links.get(path, target) != target or path in self._files:
            raise _clash(path, "a link to elsewhere")

    def generate(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file that is in no package, unless there is one."""
        place = self.place(path)
        if place not in self._tar:
            self._tar.parents(place)
            self._tar.file(place, len(content), [content], mode)

    def _file(self, package: str, place: str, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        if place in self._tar:
            self._compare(package, place, _chunks(content))
            return
        self._tar.parents(place)
        chunks = self._watched(package, place, _chunks(content))
        # 0o777: no setuid, no setgid.
        self._tar.file(place, member.size, chunks, member.mode & 0o777)

    def _watched(self, package: str, place: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the content on, and note what is asked about it later."""
        digest = hashlib.sha256()
        is_text = place.startswith(_KEPT_TEXTS)
        is_watched = is_text or ldcache.may_be_library(place.rpartition("/")[2])
        with tempfile.SpooledTemporaryFile(_CHUNK) as copy:
            for chunk in chunks:
                digest.update(chunk)
                if is_watched:
                    copy.write(chunk)
                yield chunk
            copy.seek(0)
            if is_text:
                self.texts[place] = copy.read()
            elif is_watched and (name := elf.soname(cast("BinaryIO", copy))) is not None:
                self._libraries[place] = name
        self._files[place] = (package, digest.digest())

    def _compare(self, package: str, place: str, chunks: Iterable[bytes]) -> None:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        owner, known = self._files.get(place, ("", b""))
        if digest.digest() != known:
            raise _clash(place, f"{owner or 'another package'} and {package} with other content")

    def _hardlink(self, package: str, place: str, member: tarfile.TarInfo, path: Path) -> None:
        target = self.place(_plain(member.linkname, path))
        # Copied: the link may lead to documentation, and extractors differ in whose mode wins.
        with deb.data(path) as archive:
            for other in archive:
                content = archive.extractfile(other) if other.isreg() else None
                if content is not None and self.place(_plain(other.name, path)) == target:
                    self._file(package, place, other, content)
                    return
        message = f"{path.name}: `{place}` is a link to nothing"
        raise IntegrityError(message, "run `builder fetch` to get the file again")


def _plain(name: str, path: Path) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        message = f"{path.name}: `{name}` leads out of the image"
        raise IntegrityError(message, "leave the package out of base.packages")
    return "/".join(parts)


def _from(place: str, target: str) -> str:
    """Return the path that a link at `place` leads to."""
    joined = posixpath.join("/", posixpath.dirname(place), target)
    return posixpath.normpath(joined).lstrip("/")


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: content.read(_CHUNK), b"")


def _clash(path: str, what: str) -> IntegrityError:
    message = f"{path}: comes with {what}"
    return IntegrityError(message, "leave one of the packages out of base.packages")
