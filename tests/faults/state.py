"""What must hold in a folder after any run, whatever stopped it."""

import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from builder.digest import of_bytes
from builder.oci.store import Store
from tests.registry_content import Held

CACHE = "cache"


def violations(folder: Path) -> Iterator[str]:
    """Yield what is visible and not whole."""
    cache = folder / CACHE
    yield from _named(cache / "blobs" / "sha256")
    yield from _named(cache / "downloads" / "sha256")
    yield from _named(folder / "layout" / "blobs" / "sha256")
    yield from _records(cache)
    yield from _layout(folder / "layout")
    yield from _archive(folder / "image.tar")


def broken(held: Held) -> Iterator[str]:
    """Yield what a repository of a registry names and has not got."""
    for digest, manifest in list(held.manifests.items()):
        for blob in set(manifest.blobs()) - held.blobs:
            yield f"the registry has {digest}, and not its blob {blob}"
    for tag, digest in list(held.tags.items()):
        if digest not in held.manifests:
            yield f"the registry's tag {tag} leads nowhere"


def leftovers(folder: Path) -> list[Path]:
    """Return what writers have not finished; a partial download is meant to stay."""
    running = folder / CACHE / "running"
    return [path for path in folder.rglob(".tmp-*") if path.parent != running]


def age(folder: Path) -> None:
    """Make everything unfinished as old as it is when the next run comes tomorrow."""
    for path in folder.rglob(".tmp-*"):
        os.utime(path, (0, 0))


def fingerprint(folder: Path) -> str:
    """Return the digest of all that a run is to leave: names, modes, contents.

    Whether a file may be written to is not part of it: that protects against mishaps only.
    """
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[:2] == (CACHE, "running") or _is_for_a_person(name):
            continue
        status = path.lstat()
        state.update(f"{name} {status.st_mode & ~0o222:o}\n".encode())
        if path.is_symlink():
            state.update(str(path.readlink()).encode())
        elif path.is_file():
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _is_for_a_person(name: Path) -> bool:
    """Tell whether a run that was killed leaves something where nobody sweeps: beside outputs."""
    return name.name.startswith(".tmp-") and name.parts[0] != CACHE


def _named(folder: Path) -> Iterator[str]:
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.name.endswith(".partial"):
            if not path.stat().st_mode & stat.S_IWUSR:
                yield f"{path}: nobody but root can go on with it"
        elif path.name.startswith(".tmp-"):
            continue
        elif hashlib.sha256(path.read_bytes()).hexdigest() != path.name:
            yield f"{path}: does not hash to its name"


def _records(cache: Path) -> Iterator[str]:
    store = Store(cache)
    for path in (cache / "layers").glob("[!.]*"):
        layer = store.recorded(path.name.removesuffix(".json"))
        if layer is None:
            yield f"{path}: is no record"
        elif not _is_whole(store.blob_path(layer.digest), layer.digest, layer.size):
            yield f"{path}: its blob is not whole"


def _layout(folder: Path) -> Iterator[str]:
    index = folder / "index.json"
    if not index.exists():
        return
    for entry in json.loads(index.read_bytes())["manifests"]:
        manifest = folder / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
        if not _is_whole(manifest, entry["digest"], entry["size"]):
            yield f"{index}: names a manifest that is not whole"
            continue
        value = json.loads(manifest.read_bytes())
        for part in (value["config"], *value["layers"]):
            path = manifest.with_name(part["digest"].removeprefix("sha256:"))
            if not _is_whole(path, part["digest"], part["size"]):
                yield f"{index}: names a blob that is not whole: {path.name}"


def _archive(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    with tarfile.open(path) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            content = tar.extractfile(member)
            data = content.read() if content and folder == "blobs/sha256" else None
            if data is not None and hashlib.sha256(data).hexdigest() != name:
                yield f"{path}: {name} does not hash to its name"
        if "index.json" not in tar.getnames():
            yield f"{path}: has no index"


def _is_whole(path: Path, digest: str, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size and of_bytes(path.read_bytes()) == digest
