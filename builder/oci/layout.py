"""An image as an OCI layout: a folder, or a tar archive of one for `docker load`.

Blobs are written before the index that names them, so an interrupted write leaves no image
that is not whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from builder import files
from builder.digest import Digest, hex_of, of_bytes
from builder.errors import UsageError
from builder.oci import tar
from builder.oci.image import INDEX_TYPE, MANIFEST_TYPE, Image, canonical

if TYPE_CHECKING:
    from pathlib import Path

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_BLOBS = "blobs/sha256"

Advance = Callable[[int], object]


def index_of(image: Image) -> bytes:
    """Return the `index.json` of a layout that holds just this image."""
    entry: dict[str, Any] = {
        "mediaType": MANIFEST_TYPE,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": _names(image.name),
    }
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    return canonical(index)


def _names(name: str) -> dict[str, str]:
    """Return the annotations by which tools find the image: tag for OCI, full name for engines."""
    _, colon, tag = name.rpartition(":")
    is_tagged = bool(colon) and "/" not in tag
    return {
        "org.opencontainers.image.ref.name": tag if is_tagged else "latest",
        "io.containerd.image.name": name if is_tagged else f"{name}:latest",
    }


def write_folder(image: Image, folder: Path, advance: Advance) -> None:
    """Write the image as a layout folder, keeping blobs that are there already."""
    blobs = folder / _BLOBS
    for digest, size, chunks in _blobs(image):
        path = blobs / hex_of(digest)
        if path.exists() and path.stat().st_size == size:
            advance(size)
            continue
        with files.writing(path) as file:
            for chunk in chunks():
                file.write(chunk)
                advance(len(chunk))
    files.write_atomic(folder / "oci-layout", _LAYOUT)
    files.write_atomic(folder / "index.json", index_of(image))


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something other than a layout."""
    if not folder.exists() or (folder / "oci-layout").is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        message = f"{folder}: exists and is no OCI layout"
        raise UsageError(message, "choose another folder, or remove it")


def archive_chunks(image: Image) -> Iterator[bytes]:
    """Yield the image as a tar archive that `docker load`, `podman load` and `skopeo` read."""
    for folder in ("blobs/", f"{_BLOBS}/"):
        yield tar.header(folder, kind=tar.DIRECTORY, mode=0o755)
    for path, size, chunks in _members(image):
        yield tar.header(path, size=size, mode=0o644)
        yield from chunks()
        yield tar.padding(size)
    yield tar.END


def _members(image: Image) -> Iterator[tuple[str, int, Callable[[], Iterator[bytes]]]]:
    for digest, size, chunks in _blobs(image):
        yield f"{_BLOBS}/{hex_of(digest)}", size, chunks
    for name, data in (
        ("oci-layout", _LAYOUT),
        ("manifest.json", _docker_manifest(image)),
        ("index.json", index_of(image)),
    ):
        yield name, len(data), lambda data=data: iter((data,))  # type: ignore[misc]


def _blobs(image: Image) -> Iterator[tuple[Digest, int, Callable[[], Iterator[bytes]]]]:
    seen = set()
    for layer in image.layers:
        if layer.digest not in seen:
            seen.add(layer.digest)
            yield layer.digest, layer.size, layer.chunks
    for data in (image.config, image.manifest):
        yield of_bytes(data), len(data), lambda data=data: iter((data,))  # type: ignore[misc]


def _docker_manifest(image: Image) -> bytes:
    """Return `manifest.json`, by which engines without an OCI store find the parts."""
    manifest = json.loads(image.manifest)
    paths = [f"{_BLOBS}/{hex_of(layer.digest)}" for layer in image.layers]
    config = f"{_BLOBS}/{hex_of(manifest['config']['digest'])}"
    name = _names(image.name)["io.containerd.image.name"]
    return canonical([{"Config": config, "RepoTags": [name], "Layers": paths}])
