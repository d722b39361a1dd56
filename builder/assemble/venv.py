"""Install wheels into the prefix without running anything.

What pip would do with a wheel (PEP 427, PEP 491) is done here from the archive's own directory:
schemes become paths of the prefix, entry points become scripts, RECORD is rewritten.  Nothing is
compiled and nothing from a wheel is executed.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import posixpath
import stat
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from installer.utils import parse_entrypoints

from builder.assemble import scripts
from builder.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.lock import Wheel
    from builder.oci.tar import TarWriter

PREFIX = "opt/venv"
_CHUNK = 1 << 20
_INSTALLER = b"builder\n"
_PREFIX_FILES = frozenset(
    f"{PREFIX}/{name}" for name in ("pyvenv.cfg", "bin/python", "bin/python3", "lib64")
)


@dataclass(frozen=True)
class Entry:
    """One file of an installed wheel."""

    path: str
    """Where it lies in the image."""
    size: int
    executable: bool
    member: str | None = None
    """Its name in the wheel; None for a file we generate."""
    content: bytes = b""
    """Bytes of a generated file."""
    packed: int = 0
    """Bytes that the member takes in the wheel."""

    @property
    def mode(self) -> int:
        """Permission bits."""
        return 0o755 if self.executable else 0o644


class WheelFile:
    """A wheel, open, with the files it would install."""

    def __init__(self, wheel: Wheel, path: Path, python: str) -> None:
        self.wheel = wheel
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as fault:
            message = f"{wheel.file}: is not a wheel: {fault}"
            raise IntegrityError(message) from fault
        self._site = f"{PREFIX}/lib/python{_series(python)}/site-packages"
        self._headers = f"{PREFIX}/include/site/python{_series(python)}/{wheel.name}"
        self._info = self._dist_info()
        self.entries = tuple(self._installed())

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield the bytes of an entry."""
        if entry.member is None:
            yield entry.content
            return
        with self._archive.open(entry.member) as file:
            yield from iter(lambda: file.read(_CHUNK), b"")

    def _dist_info(self) -> str:
        folders = {name.split("/")[0] for name in self._archive.namelist()}
        found = sorted(name for name in folders if name.endswith(".dist-info"))
        if len(found) != 1:
            message = f"{self.wheel.file}: expected one .dist-info folder, got {len(found)}"
            raise IntegrityError(message)
        return found[0]

    def _installed(self) -> Iterator[Entry]:
        entries = [self._entry(item) for item in self._archive.infolist() if not item.is_dir()]
        record = f"{self._site}/{self._info}/RECORD"
        entries = [entry for entry in entries if entry.path != record]
        entries += self._scripts({entry.path for entry in entries})
        entries.append(self._generated(f"{self._site}/{self._info}/INSTALLER", _INSTALLER))
        unique = {entry.path: entry for entry in entries}
        yield from unique.values()
        yield self._generated(record, self._record(list(unique.values())))

    def _entry(self, item: zipfile.ZipInfo) -> Entry:
        mode = item.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or _escapes(item.filename):
            message = f"{self.wheel.file}: `{item.filename}` is no regular file inside the wheel"
            raise IntegrityError(message)
        path, is_script = self._target(item.filename)
        self._own(path)
        if is_script:
            content = scripts.with_shebang(self._archive.read(item))
            return Entry(path, len(content), executable=True, content=content)
        executable = bool(mode & 0o111)
        return Entry(
            path, item.file_size, executable, member=item.filename, packed=item.compress_size
        )

    def _target(self, name: str) -> tuple[str, bool]:
        """Return where a member goes, and whether it is a script."""
        data = self._info.removesuffix(".dist-info") + ".data/"
        if not name.startswith(data):
            return f"{self._site}/{name}", False
        scheme, _, rest = name.removeprefix(data).partition("/")
        folders = {
            "purelib": self._site,
            "platlib": self._site,
            "headers": self._headers,
            "scripts": f"{PREFIX}/bin",
            "data": PREFIX,
        }
        if scheme not in folders or not rest:
            message = f"{self.wheel.file}: unknown scheme in `{name}`"
            raise IntegrityError(message)
        return f"{folders[scheme]}/{rest}", scheme == "scripts"

    def _own(self, path: str) -> str:
        """Refuse a path that belongs to the environment itself."""
        is_python = path.startswith(f"{PREFIX}/bin/python3.")
        if path in _PREFIX_FILES or is_python or path.startswith(f"{PREFIX}/lib64/"):
            message = f"{self.wheel.file}: `/{path}` is a file of the environment itself"
            raise IntegrityError(message)
        return path

    def _scripts(self, taken: set[str]) -> Iterator[Entry]:
        name = f"{self._info}/entry_points.txt"
        if name not in self._archive.NameToInfo:
            return
        for script, module, attribute, _ in self._entry_points(name):
            if _escapes(script) or "/" in script:
                message = f"{self.wheel.file}: entry point `{script}` is no name of a script"
                raise IntegrityError(message)
            path = self._own(f"{PREFIX}/bin/{script}")
            content = scripts.entry_point(module, attribute)
            if path not in taken:
                yield Entry(path, len(content), executable=True, content=content)

    def _entry_points(self, name: str) -> list[tuple[str, str, str, str]]:
        try:
            return list(parse_entrypoints(self._archive.read(name).decode("utf-8")))
        except (configparser.Error, AssertionError, UnicodeDecodeError) as fault:
            message = f"{self.wheel.file}: entry_points.txt cannot be read"
            raise IntegrityError(message) from fault

    def _generated(self, path: str, content: bytes) -> Entry:
        return Entry(path, len(content), executable=False, content=content)

    def _record(self, entries: Sequence[Entry]) -> bytes:
        """Write RECORD anew: paths as installed, hashes from the wheel where it has them."""
        hashes = self._recorded()
        rows = [self._row(entry, hashes) for entry in entries]
        rows.append((f"{self._info}/RECORD", "", ""))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(sorted(rows))
        return text.getvalue().encode()

    def _recorded(self) -> Mapping[str, str]:
        name = f"{self._info}/RECORD"
        if name not in self._archive.NameToInfo:
            message = f"{self.wheel.file}: has no RECORD"
            raise IntegrityError(message)
        rows = csv.reader(io.StringIO(self._archive.read(name).decode("utf-8")))
        return {row[0]: row[1] for row in rows if len(row) > 1}

    def _row(self, entry: Entry, hashes: Mapping[str, str]) -> tuple[str, str, str]:
        path = posixpath.relpath(entry.path, self._site)
        if entry.member is not None:
            return path, hashes.get(entry.member, ""), str(entry.size)
        digest = base64.urlsafe_b64encode(hashlib.sha256(entry.content).digest())
        return path, "sha256=" + digest.rstrip(b"=").decode(), str(entry.size)


def write_wheel(
    tar: TarWriter,
    wheel: WheelFile,
    skipped: Collection[str],
    advance: Callable[[int], object] = bool,
) -> None:
    """Add the files of a wheel, except the `skipped` paths.

    `advance` hears of every file how many bytes of the wheel it was.
    """
    lost = frozenset(skipped)
    for entry in wheel.entries:
        if entry.path in lost:
            continue
        tar.parents(entry.path)
        tar.file(entry.path, entry.size, wheel.chunks(entry), entry.mode)
        advance(entry.packed)


def write_prefix(tar: TarWriter, python: str) -> None:
    """Add what makes the folder a virtual environment of the base's Python."""
    series = _series(python)
    lines = (
        "home = /usr/bin",
        "include-system-site-packages = false",
        f"version = {python}",
        f"executable = /usr/bin/python{series}",
    )
    content = ("\n".join(lines) + "\n").encode()
    tar.parents(f"{PREFIX}/bin/python")
    tar.file(f"{PREFIX}/pyvenv.cfg", len(content), [content])
    tar.symlink(f"{PREFIX}/bin/python", f"/usr/bin/python{series}")
    tar.symlink(f"{PREFIX}/bin/python3", "python")
    tar.symlink(f"{PREFIX}/bin/python{series}", "python")
    tar.symlink(f"{PREFIX}/lib64", "lib")


def _series(python: str) -> str:
    return ".".join(python.split(".")[:2])


def _escapes(name: str) -> bool:
    return "\\" in name or bool({"", ".", ".."} & set(name.split("/")))
