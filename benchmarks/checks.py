"""Whether a contender really ended where it should: every one is looked at after every run."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.inputs import Inputs
    from benchmarks.services import Engine

_PIECE = 1 << 20
_ACCEPT = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LARGEST_COPY = 1 << 30
_LEAST_SHARE = 0.99
"""Headers of safetensors files do compress."""


class CheckError(Exception):
    """A contender is not where it should be; its time counts for nothing."""


def layout(folder: Path, inputs: Inputs) -> None:
    """Check that a folder is an OCI layout whose every blob hashes to its name."""
    blobs = sorted((folder / "blobs" / "sha256").iterdir())
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        digests = list(workers.map(_sha256, blobs))
    wrong = [path.name for path, digest in zip(blobs, digests, strict=True) if path.name != digest]
    if wrong:
        message = f"{folder}: blobs that do not hash to their names: {wrong}"
        raise CheckError(message)
    index = json.loads((folder / "index.json").read_bytes())
    manifest = json.loads(_blob(folder, index["manifests"][0]["digest"]).read_bytes())
    for descriptor in (manifest["config"], *manifest["layers"]):
        if _blob(folder, descriptor["digest"]).stat().st_size != descriptor["size"]:
            message = f"{folder}: {descriptor['digest']} has another size"
            raise CheckError(message)
    _require_weights(manifest, inputs)


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _require_weights(manifest: dict[str, Any], inputs: Inputs) -> None:
    """Random bytes hardly compress, so an image with too few bytes has not all of them."""
    total = sum(layer["size"] for layer in manifest["layers"])
    if total < _LEAST_SHARE * inputs.size:
        message = f"layers of {total} bytes cannot hold weights of {inputs.size}"
        raise CheckError(message)


def registry(place: str, inputs: Inputs) -> None:
    """Check that a registry has a manifest and every blob of it."""
    host, _, rest = place.partition("/")
    repository, _, tag = rest.rpartition(":")
    manifest = json.loads(_ask(host, "GET", f"/v2/{repository}/manifests/{tag}")[1])
    for descriptor in (manifest["config"], *manifest["layers"]):
        digest, size = descriptor["digest"], descriptor["size"]
        headers, _ = _ask(host, "HEAD", f"/v2/{repository}/blobs/{digest}")
        if int(headers.get("Content-Length", -1)) != size:
            message = f"{place}: {digest} has not {size} bytes"
            raise CheckError(message)
    _require_weights(manifest, inputs)


def _ask(host: str, method: str, target: str) -> tuple[http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(host)
    try:
        connection.request(method, target, headers={"Accept": ", ".join(_ACCEPT)})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            message = f"{method} {target}: {answer.status}"
            raise CheckError(message)
        return answer.headers, answer.read()
    finally:
        connection.close()


def engine(engine: Engine, image: str, inputs: Inputs) -> None:
    """Check that an engine has an image, and that a container of it has the right files."""
    if engine.docker("image", "inspect", image).returncode:
        message = f"{engine.name}: has no image {image}"
        raise CheckError(message)
    name = engine.docker("create", image, "/none").stdout.strip()
    try:
        _require_content(engine, f"{name}:/models/bench/config.json", _sha256(inputs.config))
        first = inputs.files[0]
        if first.size <= _LARGEST_COPY:
            _require_content(engine, f"{name}:/models/bench/{first.path.name}", first.sha256)
    finally:
        engine.docker("rm", "-f", name)


def _require_content(engine: Engine, path: str, sha256: str) -> None:
    command = [*engine.client(), "cp", "--follow-link", path, "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise AssertionError
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                member = archive.next()
                content = archive.extractfile(member) if member else None
                found = _hash(content) if content else ""
        except tarfile.TarError as fault:
            message = f"{path}: cannot be copied out of a container: {fault}"
            raise CheckError(message) from fault
        while process.stdout.read(_PIECE):
            pass
    if found != sha256:
        message = f"{path}: expected sha256:{sha256}, got sha256:{found}"
        raise CheckError(message)


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return _hash(file)


def _hash(file: Any) -> str:
    state = hashlib.sha256()
    for piece in iter(lambda: file.read(_PIECE), b""):
        state.update(piece)
    return state.hexdigest()


def copied(folder: Path, inputs: Inputs) -> None:
    """Check that a folder has files of the right sizes."""
    sizes = [(folder / file.path.name).stat().st_size for file in inputs.files]
    if sizes != [file.size for file in inputs.files]:
        message = f"{folder}: a copy has another size"
        raise CheckError(message)
