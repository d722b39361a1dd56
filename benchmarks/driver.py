"""What `builder` does with weights, in a process of its own so that its memory can be read.

The parts are the project's own, in the order in which `builder build` uses them; what is left out
is the software around: Debian packages, wheels, the launcher.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.digest import Digest
    from builder.oci.image import Image
    from builder.oci.layer import Layer
    from builder.oci.tar import TarWriter
    from builder.oci.weights import WeightFile
    from builder.outputs import Output

CREATED = "1980-01-01T00:00:00Z"
SOFTWARE_BYTES = 8 << 20
"""The layer that is new in a release."""
FOLDER = "models/bench"
"""Where the image has its files."""


def main() -> None:
    """Do one thing, and say as JSON what it took."""
    options = _options().parse_args()
    begin = time.perf_counter()
    lock = json.loads(options.lock.read_text("utf-8"))
    image, digests = _image(lock, options)
    answer = {"baked": time.perf_counter() - begin, "digest": image.digest, "layers": digests}
    answer |= _deliver(image, options) or {}
    answer["inner"] = time.perf_counter() - begin
    print(json.dumps(answer | usage()))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--known", choices=("nothing", "files", "layers"), default="files")
    parser.add_argument("--absent", action="store_true", help="as if no weight file were here")
    parser.add_argument("--software", type=int, help="add a layer of software: its number")
    parser.add_argument("--name", default="benchmark/ours:1")
    parser.add_argument("--to", default="nowhere", help="nowhere, docker, oci:DIR or push:REF")
    parser.add_argument("--mount-from", action="append", default=[])
    return parser


def _image(lock: dict[str, Any], options: argparse.Namespace) -> tuple[Image, list[Digest]]:
    from builder.oci.image import make_image
    from builder.oci.packing import pack_files
    from builder.oci.store import Store
    from builder.oci.weights import WeightFile, identities, weight_layer

    store = Store(options.store)
    root = "/nowhere" if options.absent else ""
    files = [
        WeightFile(Path(root + file["path"]), file["sha256"], file["size"])
        for file in lock["files"]
    ]
    groups = pack_files(files)
    read_as = identities(files) if options.known == "files" else {}
    digests = _digests(lock, groups, options.known)
    layers = [
        weight_layer(group, digest, f"{len(group)} weight files", read_as)
        for group, digest in zip(groups, digests, strict=True)
    ]
    layers.append(_names(store, Path(lock["config"]), lock["files"]))
    if options.software is not None:
        layers.insert(0, _software(store, options.software))
    container = {"Env": [f"RELEASE={options.software}"]}
    return make_image(options.name, "linux/amd64", layers, container, CREATED), digests


def _digests(
    lock: dict[str, Any], groups: Sequence[Sequence[WeightFile]], known: str
) -> list[Digest]:
    """Return the digest of every weight layer, as `builder lock` and `builder build` get them."""
    from builder.digest import parse
    from builder.oci.weights import side_by_side, weigh, weigh_checked

    if known == "layers":
        return [parse(digest) for digest in lock["layers"]]
    if known == "files":
        return list(side_by_side(weigh, groups, _ignore))
    _hash_all([Path(file["path"]) for file in lock["files"]])
    return list(side_by_side(weigh_checked, groups, _ignore))


def _hash_all(paths: Sequence[Path]) -> None:
    """Find the digest of every file, as locking a folder of this machine does."""
    from concurrent.futures import ThreadPoolExecutor

    from builder.digest import sha256_of
    from builder.process import cpus

    with ThreadPoolExecutor(cpus()) as workers:
        list(workers.map(sha256_of, paths))


def _names(store: Any, config: Path, files: Sequence[dict[str, Any]]) -> Layer:
    """Return the layer of small files, and of links to the weights."""
    content = config.read_bytes()

    def fill(tar: TarWriter) -> None:
        tar.parents(f"{FOLDER}/_")
        tar.file(f"{FOLDER}/config.json", len(content), [content])
        for file in files:
            name = Path(file["path"]).name
            tar.symlink(f"{FOLDER}/{name}", f"../blobs/sha256/{file['sha256']}")

    return _stored(store, "names", fill)


def _software(store: Any, number: int) -> Layer:
    content = software(number)

    def fill(tar: TarWriter) -> None:
        tar.parents("opt/_")
        tar.file("opt/software.bin", len(content), [content])

    return _stored(store, "software", fill)


def _stored(store: Any, title: str, fill: Callable[[TarWriter], None]) -> Layer:
    layer: Layer = store.build_layer(title, "zstd", fill)
    return layer


def software(number: int) -> bytes:
    """Return what is new in a release: bytes that do not compress."""
    return random.Random(number).randbytes(SOFTWARE_BYTES)  # noqa: S311 - the same for everybody


def _deliver(image: Image, options: argparse.Namespace) -> dict[str, Any] | None:
    from builder import outputs

    kind, _, place = options.to.partition(":")
    if kind == "nowhere":
        return None
    if kind == "push":
        return _push(image, place, options.mount_from)
    _bring(image, outputs.parse(options.to))
    return None


def _bring(image: Image, output: Output) -> None:
    """Do what a build does with an output whose layers are all at hand."""
    output.check()
    output.lacks(image)
    output.write(image)


def _push(image: Image, place: str, mount_from: Sequence[str]) -> dict[str, Any]:
    from builder import outputs, reference
    from builder.oci.registry import Settings

    registry = outputs.Registry(reference.parse(place), tuple(mount_from), Settings())
    _bring(image, registry)
    pushed = registry.pushed
    return {"sent": pushed.sent_bytes, "again": pushed.sent_again_bytes} if pushed else {}


def usage() -> dict[str, int]:
    """Return the peak memory of this process, and what it read and wrote."""
    status = Path("/proc/self/status").read_text("ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    counters = dict(
        line.split(": ") for line in Path("/proc/self/io").read_text("ascii").splitlines()
    )
    return {
        "peak": int(peak.split()[1]) * 1024,
        "read": int(counters["rchar"]),
        "written": int(counters["write_bytes"]),
    }


def _ignore(_: int) -> None:
    """Nobody looks at the progress."""


if __name__ == "__main__":
    main()
