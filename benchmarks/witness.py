"""What has to be true of a cache, a layout and a registry at any time, however a build ended."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder import files, lock, stack

if TYPE_CHECKING:
    from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TEMPORARY_BYTES = 10**9
"""What killed writers may leave lying before it is removed here, for the disk's sake."""


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Workplace:
    """A cache, a layout and a stack of our own; downloads are shared with the usual cache."""

    def __init__(self, root: Path, stack_path: Path) -> None:
        self.root, self.cache, self.layout = root, root / "cache", root / "layout"
        self.stack_path = root / "stack" / stack_path.name
        document = stack.load(stack_path)
        self.stack_path.parent.mkdir()
        shutil.copy(stack_path, self.stack_path)
        # A build may add digests to the lock: the one of the project is not ours to change.
        shutil.copy(lock.path_for(stack_path, document.name), self.stack_path.parent)
        model = lock.read(lock.path_for(stack_path, document.name)).stack["model"].get("path")
        if model:
            shutil.copytree(stack_path.parent / model, self.stack_path.parent / model)
        shutil.copytree(
            files.cache_folder() / "downloads", self.cache / "downloads", copy_function=_link
        )

    @property
    def blobs(self) -> list[Path]:
        return sorted(self.cache.glob("blobs/sha256/[!.]*"))

    @property
    def records(self) -> list[Path]:
        return sorted(self.cache.glob("layers/[!.]*"))

    @property
    def layout_blobs(self) -> list[Path]:
        return sorted(self.layout.glob("blobs/sha256/[!.]*"))

    @property
    def temporaries(self) -> list[Path]:
        return [*self.root.glob("cache/[!d]*/**/.tmp-*"), *self.layout.glob("**/.tmp-*")]

    def tidy(self) -> None:
        if sum(path.stat().st_size for path in self.temporaries) > _TEMPORARY_BYTES:
            for path in self.temporaries:
                path.unlink()


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target


@dataclass
class Witness:
    """What has to be true at any time; a file that did not change since is not read again."""

    place: Workplace
    host: str
    violations: list[str] = field(default_factory=list)
    seen: dict[Path, tuple[int, ...]] = field(default_factory=dict)
    pulled: set[tuple[str, str]] = field(default_factory=set)

    def look(self, repository: str) -> None:
        self._blobs(self.place.blobs)
        self._records()
        self._blobs(self.place.layout_blobs)
        self._layout()
        self._registry(repository)

    def look_again_at_all(self, repositories: list[str]) -> None:
        self.seen.clear()
        self.pulled.clear()
        for repository in repositories:
            self.look(repository)

    def _blobs(self, paths: list[Path]) -> None:
        """A visible blob hashes to its name."""
        for path in paths:
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self.seen.get(path) == mark:
                continue
            actual = sha256_of(path)
            if actual != path.name:
                self.violations.append(f"{path}: hashes to {actual}")
            self.seen[path] = mark

    def _records(self) -> None:
        """A record is whole; what it points at is absent, or has the size that it says."""
        for path in self.place.records:
            try:
                record = json.loads(path.read_bytes())
                blob = self.place.cache / "blobs/sha256" / record["digest"].removeprefix("sha256:")
                size = record["size"]
            except (ValueError, KeyError) as fault:
                self.violations.append(f"{path}: no record: {fault!r}")
                continue
            if blob.exists() and blob.stat().st_size != size:
                self.violations.append(f"{path}: {blob} has not {size} bytes")

    def _layout(self) -> None:
        """What the index names is there, whole."""
        index = self.place.layout / "index.json"
        if not index.exists():
            return
        for entry in json.loads(index.read_bytes())["manifests"]:
            manifest = self.place.layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")
            if not self._has(manifest, entry["size"]):
                continue
            for blob in blobs_of(manifest.read_bytes()):
                hexadecimal = blob["digest"].removeprefix("sha256:")
                self._has(self.place.layout / "blobs/sha256" / hexadecimal, blob["size"])

    def _has(self, path: Path, size: int) -> bool:
        is_whole = path.exists() and path.stat().st_size == size and path in self.seen
        if not is_whole:
            self.violations.append(f"{path}: named by the layout, not there with {size} bytes")
        return is_whole

    def _registry(self, repository: str) -> None:
        """What a tag leads to can be pulled, byte for byte."""
        listed = self.get(f"/v2/{repository}/tags/list")
        for tag in (json.loads(listed)["tags"] or []) if listed else []:
            manifest = self.get(f"/v2/{repository}/manifests/{tag}")
            if manifest is None:
                self.violations.append(f"{repository}:{tag}: listed, not there")
                continue
            for blob in blobs_of(manifest):
                self._pull(repository, blob["digest"], blob["size"])

    def _pull(self, repository: str, digest: str, size: int) -> None:
        if (repository, digest) in self.pulled:
            return
        state, count = hashlib.sha256(), 0
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request("GET", f"/v2/{repository}/blobs/{digest}")
            answer = connection.getresponse()
            while chunk := answer.read(1 << 20):
                state.update(chunk)
                count += len(chunk)
        finally:
            connection.close()
        if (f"sha256:{state.hexdigest()}", count) != (digest, size):
            self.violations.append(f"{repository}: {digest}: {answer.status}, {count} bytes")
        self.pulled.add((repository, digest))

    def get(self, path: str) -> bytes | None:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request("GET", path, headers={"accept": _MANIFEST})
            answer = connection.getresponse()
            data = answer.read()
            return data if answer.status == http.HTTPStatus.OK else None
        finally:
            connection.close()


def blobs_of(manifest: bytes) -> list[dict[str, Any]]:
    fields = json.loads(manifest)
    return [fields["config"], *fields["layers"]]


def size_of(folder: Path) -> int:
    """Bytes on disk that are ours alone: not what has another name elsewhere."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            status = path.lstat()
            total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total
