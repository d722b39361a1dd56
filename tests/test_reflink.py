"""A layout on a file system that shares blocks: weights lie on the disk once."""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.digest import of_bytes
from builder.oci import layout
from builder.oci.image import Image, make_image
from builder.oci.layer import Layer
from builder.oci.weights import WeightFile, weigh, weight_layer

pytestmark = pytest.mark.engine
"""Mounting takes a machine that is given over to tests, as an engine does."""

MIB = 1 << 20
FILE_SYSTEM = 320 * MIB
"""XFS takes no less than 300 MB."""
PAGE = 4096
_FIEMAP, _SYNC, _SHARED, _EXTENTS = 0xC020660B, 1, 0x2000, 64
_HEADER, _EXTENT = struct.Struct("QQIIII"), struct.Struct("QQQQQIIII")


def prepare(folder: Path) -> str | None:
    """Mount an XFS, or say why that cannot be."""
    if os.geteuid() != 0:
        return "only root mounts a file system"
    if not shutil.which("mkfs.xfs"):
        return "no mkfs.xfs: apt-get install xfsprogs"
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(FILE_SYSTEM)
    folder.mkdir()
    for command in (["mkfs.xfs", "-q", "-m", "reflink=1"], ["mount", "-o", "loop"]):
        target = [str(folder)] if command[0] == "mount" else []
        done = subprocess.run([*command, str(image), *target], capture_output=True, check=False)
        if done.returncode:
            return f"{command[0]} failed: {done.stderr.decode().strip()}"
    return None


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "xfs"
    if missing := prepare(folder):
        pytest.skip(missing)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def blocks(path: Path) -> list[tuple[int, int, int, bool]]:
    """Where a file lies: logical and physical offset, length, and whether others have a share."""
    buffer = bytearray(_HEADER.pack(0, 2**64 - 1, _SYNC, 0, _EXTENTS, 0))
    buffer += bytes(_EXTENT.size * _EXTENTS)
    with path.open("rb") as file:
        fcntl.ioctl(file, _FIEMAP, buffer)
    count = _HEADER.unpack_from(buffer)[3]
    found = [_EXTENT.unpack_from(buffer, _HEADER.size + n * _EXTENT.size) for n in range(count)]
    return [(each[0], each[1], each[2], bool(each[5] & _SHARED)) for each in found]


def physical(path: Path, start: int, end: int) -> set[int]:
    """The blocks of the disk that hold a range of a file."""
    return {
        place + offset
        for logical, place, length, _ in blocks(path)
        for offset in range(0, length, PAGE)
        if start <= logical + offset < end
    }


def used(folder: Path) -> int:
    subprocess.run(["sync", "-f", str(folder)], check=True)
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def weights(*paths: Path) -> Layer:
    group = [
        WeightFile(path, of_bytes(path.read_bytes())[7:], path.stat().st_size) for path in paths
    ]
    return weight_layer(group, weigh(group, lambda _: None), "weights")


def image_of(*layers: Layer) -> Image:
    return make_image("llama:1", "linux/amd64", layers, {}, "2026-05-10T00:00:00Z")


def blob(folder: Path, made: Layer) -> Path:
    return folder / "blobs" / "sha256" / made.digest[7:]


def test_weights_lie_on_the_disk_once(xfs: Path) -> None:
    paths = [xfs / "first", xfs / "second"]
    for path, size in zip(paths, (40 * MIB, 24 * MIB + 777), strict=True):
        path.write_bytes(os.urandom(size))
    made = weights(*paths)
    before = used(xfs)
    layout.write_folder(image_of(made), xfs / "out", lambda _: None)
    assert used(xfs) - before < MIB
    assert blob(xfs / "out", made).read_bytes() == b"".join(made.chunks())
    assert all(shared for *_, shared in blocks(paths[0]))
    assert physical(blob(xfs / "out", made), PAGE, PAGE + 40 * MIB) == physical(
        paths[0], 0, 40 * MIB
    )


def test_a_stored_blob_lies_on_the_disk_once(xfs: Path) -> None:
    data = os.urandom(40 * MIB + 5)
    (xfs / "stored").write_bytes(data)
    digest = of_bytes(data)
    made = Layer(
        digest=digest,
        size=len(data),
        diff_id=digest,
        media_type="application/vnd.oci.image.layer.v1.tar",
        title="stored",
        pieces=(xfs / "stored",),
    )
    layout.write_folder(image_of(made), xfs / "out", lambda _: None)
    assert physical(blob(xfs / "out", made), 0, len(data)) == physical(xfs / "stored", 0, len(data))
    blob(xfs / "out", made).write_bytes(b"changed by a person")
    assert (xfs / "stored").read_bytes() == data


def test_a_full_file_system_has_room_for_clones(xfs: Path) -> None:
    (xfs / "weights").write_bytes(os.urandom(150 * MIB))
    made = weights(xfs / "weights")
    layout.write_folder(image_of(made), xfs / "out", lambda _: None)
    assert blob(xfs / "out", made).stat().st_size == made.size
