"""An image becomes a folder: whole or not at all, and never outside itself."""

import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.engine import rootfs
from builder.errors import HostError, IntegrityError
from builder.oci.layer import Compression
from builder.oci.store import Store
from builder.oci.tar import MTIME, TarWriter
from tests import small_image


def fill(tar: TarWriter) -> None:
    tar.directory("usr")
    tar.directory("usr/lib", 0o555)
    tar.file("usr/lib/a", 5, [b"hello"], 0o4755)
    tar.hardlink("usr/lib/b", "usr/lib/a")
    tar.symlink("lib", "usr/lib")
    tar.directory("tmp", 0o1777)


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_layers_become_a_folder(tmp_path: Path, compression: Compression) -> None:
    layer = Store(tmp_path).build_layer("one", compression, fill)
    made = rootfs.unpack(small_image.image([layer]), tmp_path)
    one, two = made.path / "usr/lib/a", made.path / "usr/lib/b"
    assert (one.read_bytes(), two.stat().st_ino) == (b"hello", one.stat().st_ino)
    assert (one.stat().st_mode & 0o7777, int(one.stat().st_mtime)) == (0o755, MTIME)
    assert (made.path / "lib").readlink() == Path("usr/lib")
    assert (made.path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (made.path / "usr/lib").stat().st_mode & 0o7777 == 0o755, "or it could not be removed"


def test_what_the_sandbox_mounts_has_a_place(tmp_path: Path) -> None:
    def without(tar: TarWriter) -> None:
        tar.directory("etc")
        tar.symlink("etc/resolv.conf", "/run/resolv.conf")

    made = rootfs.unpack(small_image.image([small_image.layer(tmp_path, without)]), tmp_path)
    assert {"cache", "dev", "proc", "sys", "tmp"} <= set(listed(made.path))
    assert all((made.path / "etc" / name).stat().st_size == 0 for name in ("hosts", "resolv.conf"))


def test_weights_are_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    layer = small_image.weights(source, b"x" * 9000)
    made = rootfs.unpack(small_image.image([layer]), tmp_path)
    [(name, path)] = made.weights.items()
    assert path == source
    assert name.startswith("/models/blobs/sha256/")
    assert (made.path / name.lstrip("/")).stat().st_size == 0


def test_a_weight_file_that_changed_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    image = small_image.image([small_image.weights(source, b"x" * 9000)])
    source.write_bytes(b"y" * 9000)
    with pytest.raises(IntegrityError, match="expected sha256:"):
        rootfs.unpack(image, tmp_path)
    source.write_bytes(b"short")
    with pytest.raises(IntegrityError, match="is not the file of `weights` any more"):
        rootfs.unpack(image, tmp_path)


def test_the_second_time_costs_a_look(tmp_path: Path) -> None:
    image = small_image.image([small_image.layer(tmp_path, fill)])
    first = rootfs.unpack(image, tmp_path)
    shutil.rmtree(tmp_path / "blobs")
    assert rootfs.unpack(image, tmp_path) == first == rootfs.place(image, tmp_path)


def test_a_changed_config_unpacks_nothing(tmp_path: Path) -> None:
    layers = [small_image.layer(tmp_path, fill)]
    changed = small_image.image(layers, {"Env": ["A=1"]})
    assert rootfs.key_of(changed) == rootfs.key_of(small_image.image(layers))


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    image = small_image.image([small_image.layer(tmp_path, fill)])
    key = rootfs.key_of(image)
    left = tmp_path / "rootfs" / f".tmp-{key}" / "usr"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    made = rootfs.unpack(image, tmp_path)
    assert not (made.path / "usr/half").exists()
    assert listed(made.path.parent) == [key, f"{key}.lock"]


def test_two_runs_at_once_make_one_folder(tmp_path: Path) -> None:
    image = small_image.image([small_image.layer(tmp_path, fill)])
    with ThreadPoolExecutor(4) as workers:
        made = set(workers.map(lambda _: rootfs.unpack(image, tmp_path).path, range(4)))
    assert made == {tmp_path / "rootfs" / rootfs.key_of(image)}


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        pytest.param([entry("/etc/passwd")], "`/etc/passwd` is no plain", id="absolute"),
        pytest.param([entry("a/../../b")], "`a/../../b` is no plain", id="upwards"),
        pytest.param(
            [entry("lib", tarfile.SYMTYPE, "/etc"), entry("lib/passwd")],
            "`lib` is there already",
            id="through a link",
        ),
        pytest.param(
            [entry("f", tarfile.SYMTYPE, "/etc/passwd"), entry("f")],
            "`f` is there already",
            id="onto a link",
        ),
        pytest.param([entry("a"), entry("a")], "`a` is there already", id="twice"),
        pytest.param([entry("d/.wh.x")], "`d/.wh.x` is a whiteout", id="whiteout"),
        pytest.param([entry("null", tarfile.CHRTYPE)], "`null` is neither", id="device"),
        pytest.param([entry("p", tarfile.FIFOTYPE)], "`p` is neither", id="pipe"),
        pytest.param(
            [entry("l", tarfile.SYMTYPE, "/etc"), entry("h", tarfile.LNKTYPE, "l/passwd")],
            "`h` links to `l/passwd`, which is not in the image",
            id="hard link through a link",
        ),
        pytest.param(
            [entry("h", tarfile.LNKTYPE, "gone")],
            "`h` links to `gone`, which is not in the image",
            id="hard link to nothing",
        ),
    ],
)
def test_strange_entries_are_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], fault: str
) -> None:
    image = small_image.image([small_image.raw_layer(tmp_path, *members)])
    with pytest.raises(IntegrityError, match="layer `raw`") as caught:
        rootfs.unpack(image, tmp_path)
    assert fault in caught.value.message
    assert listed(tmp_path / "rootfs") == [f"{rootfs.key_of(image)}.lock"]


def garble(blob: Path) -> None:
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-30] ^= 1
    blob.write_bytes(content)


def shorten(blob: Path) -> None:
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [garble, shorten])
@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_a_damaged_layer_leaves_nothing(
    tmp_path: Path, compression: Compression, damage: Callable[[Path], None]
) -> None:
    layer = Store(tmp_path).build_layer("one", compression, fill)
    damage(Store(tmp_path).blob_path(layer.digest))
    image = small_image.image([layer])
    with pytest.raises(IntegrityError):
        rootfs.unpack(image, tmp_path)
    assert listed(tmp_path / "rootfs") == [f"{rootfs.key_of(image)}.lock"]


def test_a_cache_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = small_image.image([small_image.layer(tmp_path, fill)])
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("BUILDER_CACHE", str(blocked))
    with pytest.raises(HostError, match="cannot be written: not a directory") as caught:
        rootfs.unpack(image, blocked)
    assert "BUILDER_CACHE" in caught.value.hint
