"""What is measured on: safetensors files of random bytes, the same on every machine.

A set lies in one folder, beside it a `.json` that plays the part of a lock.  Sets share files by
hard links: 16 GiB contain the 4 GiB.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20
SMALL_FILES, SMALL_BYTES = 10_000, 20_000
FEWEST_FILES = 4
"""Files of a set: with fewer, a small set would leave processors idle."""
_HEADER = 128
"""Bytes before the tensors: few, because they compress and nothing else here does."""


@dataclass(frozen=True)
class File:
    """A weight file."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class Inputs:
    """One set of weight files, and a configuration file."""

    label: str
    folder: Path
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.size for file in self.files)

    @property
    def gib(self) -> float:
        """The same in GiB."""
        return self.size / GIB

    @property
    def has_many(self) -> bool:
        """Whether these are too many files for a layer each."""
        return len(self.files) > 100  # noqa: PLR2004 - far below it or far above

    @property
    def lock(self) -> Path:
        """Where the digests are."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def config(self) -> Path:
        """The one small file that is no weight."""
        return self.folder / "config.json"


def large(gib: float, root: Path) -> Inputs:
    """Return a set of files of at most 1 GiB, made if it is not there."""
    count = max(FEWEST_FILES, int(gib))
    return _set(f"{gib:g} GiB", root / f"{gib:g}", count, int(gib * GIB / count))


def small(root: Path) -> Inputs:
    """Return the set of many small files."""
    return _set(f"{SMALL_FILES:,} files", root / "small", SMALL_FILES, SMALL_BYTES)


def _set(label: str, folder: Path, count: int, size: int) -> Inputs:
    blobs = folder.parent / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "of": label}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        digests = list(workers.map(lambda number: _blob(blobs, number, size), range(count)))
    files = []
    for number, sha256 in enumerate(digests):
        path = folder / f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        if not path.exists():
            path.hardlink_to(_blob_path(blobs, number, size))
        files.append(File(path, sha256, size))
    inputs = Inputs(label, folder, tuple(files))
    write_lock(inputs, None)
    return inputs


def write_lock(inputs: Inputs, layers: list[str] | None) -> None:
    """Write what a lock knows of the set, with the digests of its layers or without."""
    count = FEWEST_FILES if inputs.has_many else len(inputs.files)
    text: dict[str, Any] = {
        "config": str(inputs.config),
        "files": [
            {"path": str(file.path), "sha256": file.sha256, "size": file.size}
            for file in inputs.files
        ],
        "layers": layers,
        "blobs": [_joined(inputs.files[first::count]) for first in range(count)],
    }
    inputs.lock.write_text(json.dumps(text, indent=1), "utf-8")


def _joined(files: Sequence[File]) -> dict[str, Any]:
    """Return files as one blob: what the plain PUT uploads."""
    sha256 = files[0].sha256
    if len(files) > 1:
        state = hashlib.sha256()
        for file in files:
            state.update(file.path.read_bytes())
        sha256 = state.hexdigest()
    size = sum(file.size for file in files)
    return {"paths": [str(file.path) for file in files], "sha256": sha256, "size": size}


def _blob_path(blobs: Path, number: int, size: int) -> Path:
    return blobs / f"{size}-{number:05d}"


def _blob(blobs: Path, number: int, size: int) -> str:
    """Write a safetensors file if it is not there, and return its digest."""
    path = _blob_path(blobs, number, size)
    note = path.with_suffix(".sha256")
    if note.exists():
        return note.read_text("ascii")
    state = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in _safetensors(number, size):
            state.update(chunk)
            file.write(chunk)
    note.write_text(state.hexdigest(), "ascii")
    return state.hexdigest()


def _safetensors(number: int, size: int) -> Iterator[bytes]:
    data = size - _HEADER
    tensor = {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}
    header = json.dumps({f"model.layers.{number}.weight": tensor}).encode()
    header = header.ljust(_HEADER - 8)
    yield len(header).to_bytes(8, "little") + header
    # Seeded on purpose: everybody measures on the same bytes.
    source = random.Random(f"{number} {size}")  # noqa: S311
    for start in range(0, data, MIB):
        yield source.randbytes(min(MIB, data - start))


def read_into_cache(inputs: Inputs) -> float | None:
    """Read every file, and return the share of them that the page cache now holds."""
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(_read, inputs.files))
    if shutil.which("fincore") is None:
        return None
    names = [str(file.path) for file in inputs.files[:1000]]
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *names]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    resident = sum(map(int, done.stdout.split()))
    return min(1.0, resident / sum(file.size for file in inputs.files[:1000]))


def _read(file: File) -> None:
    buffer = bytearray(min(MIB, file.size))
    with file.path.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
