"""A layout's blobs are hashed once, and again as soon as anything was done to them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.digest import of_bytes
from builder.oci import layout, verified
from builder.oci.blobs import BlobFolder
from builder.oci.image import Image, make_image
from builder.oci.layer import Layer

CONTENT = os.urandom(100_000)


def layer(source: Path, content: bytes = CONTENT) -> Layer:
    source.write_bytes(content)
    digest = of_bytes(content)
    return Layer(
        digest=digest,
        size=len(content),
        diff_id=digest,
        media_type="application/vnd.oci.image.layer.v1.tar",
        title="made",
        pieces=(source,),
    )


def image_of(*layers: Layer, name: str = "llama:1") -> Image:
    return make_image(name, "linux/amd64", layers, {}, "2026-05-10T00:00:00Z")


def blob(folder: Path, made: Layer) -> Path:
    return folder / "blobs" / "sha256" / made.digest[7:]


def put(image: Image, folder: Path) -> None:
    layout.write_folder(image, folder, lambda _: None)


@pytest.fixture
def made(tmp_path: Path) -> Layer:
    return layer(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path, made: Layer) -> Path:
    """A layout that remembers, where the file system can."""
    put(image_of(made), tmp_path / "out")
    if not verified.recall(tmp_path / "out" / "index.json"):
        pytest.skip("the file system of the temporary folder has no attributes")
    return tmp_path / "out"


def known(path: Path, index: Path) -> bool:
    return verified.mark_of(path.name, path.stat()) in verified.recall(index)


def test_every_blob_that_was_written_is_known(out: Path) -> None:
    blobs = list((out / "blobs" / "sha256").iterdir())
    assert len(blobs) == 3
    assert all(known(path, out / "index.json") for path in blobs)


def test_a_blob_that_is_known_is_not_read(tmp_path: Path, made: Layer) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir()
    path = folder / made.digest[7:]
    path.write_bytes(bytes(made.size))
    marks = {verified.mark_of(path.name, path.stat())}
    counted: list[int] = []
    blobs = BlobFolder(folder, counted.append, marks)
    blobs.put([made])
    assert (path.read_bytes(), sum(counted)) == (bytes(made.size), made.size)
    assert blobs.marks == marks


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"!!")


def overwritten_and_backdated(path: Path) -> None:
    stat = path.stat()
    overwritten(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncated(path: Path) -> None:
    os.truncate(path, 5)


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(len(CONTENT)))
    shutil.copystat(path, other)
    other.rename(path)


@pytest.mark.parametrize("change", [overwritten, overwritten_and_backdated, truncated, replaced])
def test_a_blob_that_was_changed_is_found(
    out: Path, made: Layer, change: Callable[[Path], None]
) -> None:
    change(blob(out, made))
    put(image_of(made), out)
    assert blob(out, made).read_bytes() == CONTENT
    assert known(blob(out, made), out / "index.json")


def test_a_copy_of_a_layout_is_not_trusted(tmp_path: Path, out: Path, made: Layer) -> None:
    copy = shutil.copytree(out, tmp_path / "copy")
    overwritten_and_backdated(blob(copy, made))
    put(image_of(made), copy)
    assert blob(copy, made).read_bytes() == CONTENT


def test_an_index_by_another_program_ends_the_trust(out: Path, made: Layer) -> None:
    data = (out / "index.json").read_bytes()
    (out / "index.json").unlink()
    (out / "index.json").write_bytes(data)
    assert verified.recall(out / "index.json") == frozenset()
    put(image_of(made), out)
    assert known(blob(out, made), out / "index.json")


def test_blobs_of_other_images_stay_known(tmp_path: Path, out: Path, made: Layer) -> None:
    other = layer(tmp_path / "other", b"other")
    put(image_of(other, name="other:1"), out)
    assert known(blob(out, made), out / "index.json")
    assert known(blob(out, other), out / "index.json")


def test_what_is_remembered_has_a_bound(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    marks = {os.urandom(16) for _ in range(150)}
    with index.open("wb") as file:
        verified.remember(file.fileno(), marks, [os.urandom(16) for _ in range(150)])
    if recalled := verified.recall(index):
        assert marks < recalled
        assert len(recalled) == 200


def test_a_place_without_attributes_remembers_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    verified.remember(write, [bytes(16)], [])
    os.close(read)
    os.close(write)
    assert verified.recall(tmp_path / "none") == frozenset()
