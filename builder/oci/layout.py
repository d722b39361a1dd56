"""An image as an OCI layout: a folder, or a tar archive of one for `docker load`.

Blobs are written before the index that names them, so an interrupted write leaves no image
that is not whole.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from builder import files
from builder.digest import hex_of, of_bytes
from builder.errors import UsageError
from builder.oci import tar, verified
from builder.oci.blobs import Advance, BlobFolder
from builder.oci.image import INDEX_TYPE, MANIFEST_TYPE, Image, canonical
from builder.oci.layer import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_BLOBS = "blobs/sha256"


def index_of(image: Image, others: Sequence[Any] = ()) -> bytes:
    """Return the `index.json` of a layout that holds this image and `others`."""
    entry: dict[str, Any] = {
        "mediaType": MANIFEST_TYPE,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": _names(image.name),
    }
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*others, entry]}
    return canonical(index)


def _names(name: str) -> dict[str, str]:
    """Return the annotations by which tools find the image: tag for OCI, full name for engines."""
    _, colon, tag = name.rpartition(":")
    is_tagged = bool(colon) and "/" not in tag
    return {
        "org.opencontainers.image.ref.name": tag if is_tagged else "latest",
        "io.containerd.image.name": _qualified(name if is_tagged else f"{name}:latest"),
    }


def _qualified(name: str) -> str:
    """Return a name with its registry: engines take one without for a short form of Docker Hub."""
    first, slash, _ = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def write_folder(image: Image, folder: Path, advance: Advance) -> None:
    """Write the image as a layout folder, keeping blobs that are there already and right."""
    index = folder / "index.json"
    _others(image, index)
    # First of all: a folder that an interrupted run left is known for what it is.
    files.write_atomic(folder / "oci-layout", _LAYOUT)
    files.sweep(folder)
    earlier = verified.recall(index)
    blobs = BlobFolder(folder / _BLOBS, advance, earlier)
    blobs.put(_blobs(image))
    with files.writing(index) as file:
        file.write(index_of(image, _others(image, index)))
        verified.remember(file.fileno(), blobs.marks, earlier)


def _others(image: Image, index: Path) -> list[Any]:
    """Return what a layout holds besides this image and an earlier one of its name."""
    if not index.exists():
        return []
    try:
        entries = list(json.loads(index.read_bytes())["manifests"])
        return [entry for entry in entries if not _is_replaced(entry, image)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        message = f"{index}: is no index of an OCI layout"
        raise UsageError(message, "choose another folder, or remove it") from fault


def _is_replaced(entry: Mapping[str, Any], image: Image) -> bool:
    ours, theirs = _names(image.name), entry.get("annotations") or {}
    same_name = all(theirs.get(key) == value for key, value in ours.items())
    return same_name or entry["digest"] == image.digest


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something other than a layout, or cannot be written."""
    files.check_writable(folder)
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
    for blob in _blobs(image):
        yield f"{_BLOBS}/{hex_of(blob.digest)}", blob.size, blob.chunks
    for name, data in (
        ("oci-layout", _LAYOUT),
        ("manifest.json", _docker_manifest(image)),
        ("index.json", index_of(image)),
    ):
        yield name, len(data), lambda data=data: iter((data,))  # type: ignore[misc]


def _blobs(image: Image) -> list[Layer]:
    """Return what lies under its digest: each layer once, config and manifest."""
    layers = {layer.digest: layer for layer in image.layers}
    return [*layers.values(), *map(_document, (image.config, image.manifest))]


def _document(data: bytes) -> Layer:
    """Return config or manifest as what they are to a layout: one more blob."""
    digest = of_bytes(data)
    return Layer(
        digest=digest,
        size=len(data),
        diff_id=digest,
        media_type="application/json",
        title="",
        pieces=(data,),
    )


def _docker_manifest(image: Image) -> bytes:
    """Return `manifest.json`, by which engines without an OCI store find the parts."""
    manifest = json.loads(image.manifest)
    paths = [f"{_BLOBS}/{hex_of(layer.digest)}" for layer in image.layers]
    config = f"{_BLOBS}/{hex_of(manifest['config']['digest'])}"
    name = _names(image.name)["io.containerd.image.name"]
    return canonical([{"Config": config, "RepoTags": [name], "Layers": paths}])
