"""Images small enough to make in a test; one holds a shell of this machine."""

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.digest import of_bytes
from builder.oci.image import Image, make_image
from builder.oci.layer import Layer
from builder.oci.store import Store
from builder.oci.tar import TarWriter
from builder.oci.weights import WeightFile, weigh, weight_layer

PROGRAMS = ("sh", "sleep", "cat")
CONFIG: Mapping[str, Any] = {
    "User": "10001:0",
    "Env": ["PATH=/bin", "COLOUR=red"],
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": [],
    "WorkingDir": "/",
}


def image(layers: Sequence[Layer], config: Mapping[str, Any] = CONFIG) -> Image:
    return make_image("small:1", "linux/amd64", layers, config, "2026-01-01T00:00:00Z")


def layer(cache: Path, fill: Callable[[TarWriter], None], title: str = "small") -> Layer:
    return Store(cache).build_layer(title, "zstd", fill)


def raw_layer(cache: Path, *members: tarfile.TarInfo) -> Layer:
    """A layer that our own writer would refuse to write."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    digest = Store(cache).put(out.getvalue())
    return Layer(
        digest=digest,
        size=len(out.getvalue()),
        diff_id=of_bytes(out.getvalue()),
        media_type="application/vnd.oci.image.layer.v1.tar",
        title="raw",
        pieces=(Store(cache).blob_path(digest),),
    )


def weights(path: Path, content: bytes) -> Layer:
    path.write_bytes(content)
    sha256 = of_bytes(content).removeprefix("sha256:")
    files = [WeightFile(path, sha256, len(content))]
    return weight_layer(files, weigh(files, lambda _: None), "weights")


def shell(cache: Path) -> Layer:
    """A layer with a few programs of this machine and the libraries they load."""
    places = [found for name in PROGRAMS if (found := shutil.which(name))]
    if len(places) < len(PROGRAMS) or shutil.which("ldd") is None:
        pytest.skip("no sh, sleep, cat and ldd on this machine")
    listed = subprocess.run(["ldd", *places], capture_output=True, text=True, check=True)
    libraries = sorted(set(re.findall(r"(/\S+) \(0x", listed.stdout)))

    def fill(tar: TarWriter) -> None:
        tar.directory("etc")
        for source in (*places, *libraries):
            name = f"bin/{Path(source).name}" if source in places else source.lstrip("/")
            content = Path(source).read_bytes()
            tar.parents(name)
            tar.file(name, len(content), [content], 0o755)

    return layer(cache, fill, "shell")
