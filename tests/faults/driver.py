"""A small run through the real code, for a tracer to stop anywhere:
`driver.py SCENARIO FOLDER [REGISTRY]`.

Prints a digest and ends with 0, or prints what the command line would and ends with its code.
It imports little, because it is started some hundred times.
"""

import hashlib
import itertools
import os
import random
import sys
import tempfile
from pathlib import Path

FOLDER = Path(sys.argv[2])
os.environ["BUILDER_CACHE"] = str(FOLDER / "cache")

from builder import console, files  # noqa: E402 - they read the environment
from builder.errors import BuilderError  # noqa: E402
from builder.oci import layout  # noqa: E402
from builder.oci.image import Image, make_image  # noqa: E402
from builder.oci.layer import Compression, Layer  # noqa: E402
from builder.oci.store import Store  # noqa: E402
from builder.oci.tar import TarWriter  # noqa: E402
from builder.oci.weights import WeightFile, weigh, weight_layer  # noqa: E402

NAME = "registry.test/team/small:1"
CREATED = "2026-01-01T00:00:00Z"


def noise(size: int) -> bytes:
    """Bytes that are always the same, and that nothing makes shorter."""
    return random.Random(size).randbytes(size)  # noqa: S311 - has to be predictable


def layer(store: Store, name: str, size: int, compression: Compression) -> Layer:
    def fill(tar: TarWriter) -> None:
        tar.directory(name)
        tar.file(f"{name}/noise", size, [noise(size)])
        tar.symlink(f"{name}/link", "noise")

    key = hashlib.sha256(name.encode()).hexdigest()
    known = store.recall(key)
    if known is None:
        known = store.build_layer(name, compression, fill)
        store.remember(key, known)
    return known


def weights() -> Layer:
    path = FOLDER / "model.safetensors"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    chosen = [WeightFile(path, sha256, path.stat().st_size)]
    return weight_layer(chosen, weigh(chosen, lambda _: None), "weights")


def built(command: str = "serve") -> Image:
    store = Store(FOLDER / "cache")
    store.begin()
    layers = (layer(store, "one", 3 << 20, "zstd"), layer(store, "two", 5000, "gzip"))
    store.put(b"{}")
    return make_image(NAME, "linux/amd64", [*layers, weights()], {"Cmd": [command]}, CREATED)


def written(command: str = "serve") -> str:
    """Build, and write a folder and an archive."""
    image = built(command)
    layout.write_folder(image, FOLDER / "layout", lambda _: None)
    with files.writing(FOLDER / "image.tar") as file:
        for chunk in layout.archive_chunks(image):
            file.write(chunk)
    return image.digest


def downloaded() -> str:
    """Fetch two files, one of them half here."""
    from builder.sources.downloads import Downloads, Wanted

    downloads = Downloads(FOLDER / "cache")
    source = FOLDER / "model.safetensors"
    data = source.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    downloads.fetch(
        [Wanted(label="m", sha256=sha256, size=len(data), urls=lambda: [source.as_uri()])]
    )
    return f"sha256:{sha256}"


def unpacked() -> str:
    """Build, and unpack for a sandbox."""
    from builder.engine import rootfs

    image = built()
    return str(rootfs.unpack(image, FOLDER / "cache").key)


def pushed() -> str:
    """Build, and send to the registry that is named."""
    from builder.oci.push import Push
    from builder.oci.registry import Repository, Settings
    from builder.reference import parse

    host = sys.argv[3]
    settings = Settings(plain_http=frozenset({host}))
    repository = Repository.open(parse(f"{host}/{FOLDER.name}:1"), settings)
    return Push(built(), repository, ()).send(lambda _: None).digest


def main() -> int:
    console.configure(quiet=True)
    # Every run makes the same calls, with the same names, in the same order.
    tempfile._name_sequence = (f"{number:04}" for number in itertools.count())  # type: ignore[attr-defined] # noqa: SLF001 - there is no other way to choose them
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[os.getpid() % len(allowed)]})
    run = {
        "write": written,
        "rewrite": lambda: written("other"),
        "download": downloaded,
        "unpack": unpacked,
        "push": pushed,
    }[sys.argv[1]]
    try:
        say(run())
    except BuilderError as fault:
        say(f"error: {fault.message}\nhint: {fault.hint}")
        return fault.exit_code
    return 0


def say(text: str) -> None:
    """Print by a call that no file is written with: faults are counted by thread."""
    os.writev(1, [text.encode() + b"\n"])


if __name__ == "__main__":
    sys.exit(main())
