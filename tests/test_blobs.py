"""Blobs of a layout: cloned or copied they are the same bytes, and wrong ones never get a name."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import files
from builder.digest import Digest, of_bytes
from builder.errors import HostError, IntegrityError
from builder.oci.blobs import BlobFolder, Clone, clone_range
from builder.oci.layer import Layer, Piece
from builder.oci.store import Store
from builder.oci.weights import WeightFile, weigh, weight_layer
from builder.units import human_bytes
from tests.full_disk import files_no_larger_than

MIB = 1 << 20
PAGE = 4096
NOISE = os.urandom(9 * MIB + 5)
"""More than what is sent to the disk at once, and no multiple of anything."""


class Remote:
    """A file that is elsewhere."""

    label = "hub/model.safetensors"

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.data, self.size, self.asked = data, len(data) if size is None else size, 0

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        self.asked += 1
        yield self.data[offset:]


class Endless(Remote):
    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        while True:
            yield self.data


def layer(*pieces: Piece, digest: Digest | None = None, size: int | None = None) -> Layer:
    data = b"".join(content(piece) for piece in pieces)
    return Layer(
        digest=digest or of_bytes(data),
        size=len(data) if size is None else size,
        diff_id=of_bytes(data),
        media_type="application/vnd.oci.image.layer.v1.tar",
        title="made",
        pieces=pieces,
    )


def content(piece: Piece) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, Remote):
        return piece.data
    assert isinstance(piece, Path)
    return piece.read_bytes()


def put_file(folder: Path, name: str, data: bytes = NOISE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def weights(folder: Path, *contents: bytes) -> Layer:
    group = [
        WeightFile(put_file(folder, f"{n}.safetensors", data), of_bytes(data)[7:], len(data))
        for n, data in enumerate(contents)
    ]
    return weight_layer(group, weigh(group, lambda _: None), "weights")


def refused(source: int, target: int, offset: int, size: int) -> None:
    """What ext4 says."""
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def granted(source: int, target: int, offset: int, size: int) -> None:
    """What a file system that shares blocks does, and when it does not."""
    is_tail = size == os.fstat(source).st_size and offset + size >= os.fstat(target).st_size
    if offset % PAGE or (size % PAGE and not is_tail):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    assert os.pwrite(target, os.pread(source, size, 0), offset) == size


def half_granted(source: int, target: int, offset: int, size: int) -> None:
    """A clone that fails on its way."""
    os.pwrite(target, b"x" * (2 * size), offset)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def put(folder: Path, *layers: Layer, clone: Clone = refused) -> int:
    counted: list[int] = []
    BlobFolder(folder, counted.append, clone=clone).put(layers)
    return sum(counted)


def blob(folder: Path, layer: Layer) -> Path:
    return folder / layer.digest.removeprefix("sha256:")


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("clone", [refused, granted, half_granted, clone_range])
def test_blobs_are_the_same_however_they_come_there(tmp_path: Path, clone: Clone) -> None:
    made, out = tmp_path / "made", tmp_path / "out"
    layers = [
        weights(made, NOISE, NOISE[:MIB], NOISE[: MIB + 3], b"small", NOISE[: 2 * MIB]),
        layer(put_file(made, "stored")),
        layer(b"header", Remote(NOISE), b"padding"),
        layer(b"{}"),
        layer(put_file(made, "empty", b""), b"end"),
    ]
    assert put(out, *layers, clone=clone) == sum(each.size for each in layers)
    assert contents(out) == sorted(blob(out, each).name for each in layers)
    for each in layers:
        data = b"".join(each.chunks())
        assert (blob(out, each).read_bytes(), len(data)) == (data, each.size)
        assert blob(out, each).stat().st_mode & 0o777 == 0o644


def test_weights_begin_where_they_can_be_cloned(tmp_path: Path) -> None:
    offsets: list[int] = []

    def note(source: int, target: int, offset: int, size: int) -> None:
        granted(source, target, offset, size)
        offsets.append(offset % PAGE)

    made = weights(tmp_path / "made", NOISE, NOISE[:-1], NOISE[:-2])
    put(tmp_path / "out", made, clone=note)
    assert offsets == [0, 0, 0]


def test_a_blob_has_a_life_of_its_own(tmp_path: Path) -> None:
    source = put_file(tmp_path / "made", "stored")
    stored = layer(source)
    put(tmp_path / "out", stored, clone=clone_range)
    blob(tmp_path / "out", stored).write_bytes(b"changed by a person")
    assert source.read_bytes() == NOISE


@pytest.mark.parametrize("clone", [refused, granted])
def test_a_wrong_source_gets_no_name(tmp_path: Path, clone: Clone) -> None:
    made = weights(tmp_path / "made", NOISE)
    put_file(tmp_path / "made", "0.safetensors", NOISE[:-1] + b"!")
    with pytest.raises(IntegrityError) as caught:
        put(tmp_path / "out", made, clone=clone)
    path = tmp_path / "made" / "0.safetensors"
    expected = made.sources[path]
    assert caught.value.message.startswith(f"{path}: expected sha256:{expected}, got sha256:")
    assert contents(tmp_path / "out") == []


@pytest.mark.parametrize("data", [NOISE[:-1], NOISE + b"!", b""], ids=["shorter", "longer", "none"])
@pytest.mark.parametrize("clone", [refused, granted])
def test_a_source_of_another_size_gets_no_name(tmp_path: Path, data: bytes, clone: Clone) -> None:
    made = weights(tmp_path / "made", NOISE)
    put_file(tmp_path / "made", "0.safetensors", data)
    with pytest.raises(IntegrityError, match=r"0\.safetensors: expected sha256:"):
        put(tmp_path / "out", made, clone=clone)
    assert contents(tmp_path / "out") == []


@pytest.mark.parametrize("clone", [refused, granted])
def test_a_source_that_is_not_here_is_named(tmp_path: Path, clone: Clone) -> None:
    made = weights(tmp_path / "made", NOISE)
    path = tmp_path / "made" / "0.safetensors"
    path.unlink()
    with pytest.raises(IntegrityError) as caught:
        put(tmp_path / "out", made, clone=clone)
    assert caught.value.message == f"{path}: no such file or directory"
    assert contents(tmp_path / "out") == []


def test_a_clone_of_what_the_source_was_for_a_moment_is_found(tmp_path: Path) -> None:
    path = put_file(tmp_path / "made", "stored")

    def too_early(source: int, target: int, offset: int, size: int) -> None:
        os.pwrite(target, NOISE[:-1] + b"!", offset)
        path.write_bytes(NOISE)  # right again by the time it is hashed

    with pytest.raises(IntegrityError, match="expected layer"):
        put(tmp_path / "out", layer(path), clone=too_early)


def test_a_source_that_is_only_touched_does_no_harm(tmp_path: Path) -> None:
    path = put_file(tmp_path / "made", "stored")
    made = layer(b"h" * PAGE, path, b"padding")

    def touched(source: int, target: int, offset: int, size: int) -> None:
        granted(source, target, offset, size)
        path.chmod(0o600)

    assert put(tmp_path / "out", made, clone=touched) == made.size
    assert of_bytes(blob(tmp_path / "out", made).read_bytes()) == made.digest


def test_a_blob_that_is_right_stays(tmp_path: Path) -> None:
    made = weights(tmp_path / "made", NOISE)
    put(tmp_path / "out", made)
    before = blob(tmp_path / "out", made).stat()
    (tmp_path / "made" / "0.safetensors").unlink()
    assert put(tmp_path / "out", made) == made.size
    after = blob(tmp_path / "out", made).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("wrong", [NOISE[:-1] + b"!", NOISE[:-1], b""])
def test_a_blob_that_is_wrong_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: bytes
) -> None:
    made = layer(put_file(tmp_path / "made", "stored"))
    path = put_file(tmp_path / "out", blob(tmp_path / "out", made).name, wrong)
    assert put(tmp_path / "out", made) == made.size
    assert path.read_bytes() == NOISE
    assert capsys.readouterr().err == f"warning: {path}: was damaged, is written again\n"


def test_a_wrong_blob_goes_even_if_its_source_is_not_here(tmp_path: Path) -> None:
    """The next run must see that the layout lacks it, and fetch the file."""
    made = weights(tmp_path / "made", NOISE)
    put_file(tmp_path / "out", blob(tmp_path / "out", made).name, bytes(made.size))
    (tmp_path / "made" / "0.safetensors").unlink()
    with pytest.raises(IntegrityError, match="no such file"):
        put(tmp_path / "out", made)
    assert contents(tmp_path / "out") == []


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    orphan = put_file(tmp_path / "out", f"{files.TEMPORARY_PREFIX}orphan")
    os.utime(orphan, (0, 0))
    made = layer(b"{}")
    put(tmp_path / "out", made)
    assert contents(tmp_path / "out") == [blob(tmp_path / "out", made).name]


def test_an_interrupt_ends_all_threads_soon(tmp_path: Path) -> None:
    """Ctrl-C reaches the main thread, while others are in the middle of endless files."""
    pending = [signal.SIGINT]

    def interrupt(count: int) -> None:
        if pending:
            os.kill(os.getpid(), pending.pop())

    endless = [layer(bytes([n]), Endless(b"x" * PAGE), size=PAGE) for n in range(40)]
    with pytest.raises(KeyboardInterrupt):
        BlobFolder(tmp_path / "out", interrupt, clone=refused).put(endless)
    assert contents(tmp_path / "out") == []


def test_what_cannot_fit_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    remote = Remote(b"x")
    with pytest.raises(HostError) as caught:
        put(tmp_path / "out", layer(remote, size=1 << 60))
    place, _, rest = caught.value.message.partition(": expected ")
    assert place == str(tmp_path / "out")
    assert rest.startswith(f"{human_bytes(1 << 60)} of free space, got ")
    assert (remote.asked, contents(tmp_path / "out")) == (0, [])


def test_blobs_that_are_there_need_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = layer(put_file(tmp_path / "made", "stored"))
    put(tmp_path / "out", made)
    monkeypatch.setattr(files, "free_bytes", lambda folder: 0)
    put(tmp_path / "out", made)


@pytest.mark.parametrize(("clone", "fits"), [(granted, True), (refused, False)])
def test_clones_need_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clone: Clone, fits: bool
) -> None:
    made = weights(tmp_path / "made", NOISE, NOISE[:-1])
    monkeypatch.setattr(files, "free_bytes", lambda folder: 4 * PAGE)
    if fits:
        assert put(tmp_path / "out", made, clone=clone) == made.size
    else:
        with pytest.raises(HostError, match="of free space, got"):
            put(tmp_path / "out", made, clone=clone)


def test_a_disk_that_fills_up_is_an_error_of_this_machine(tmp_path: Path) -> None:
    made = layer(put_file(tmp_path / "made", "stored"))
    with files_no_larger_than(MIB), pytest.raises(HostError) as caught:
        put(tmp_path / "out", made)
    assert caught.value.message == f"{tmp_path / 'out'}: cannot be written: file too large"
    assert contents(tmp_path / "out") == []
    put(tmp_path / "out", made)


def test_a_stored_blob_that_is_damaged_can_be_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "made")
    made = store.build_layer("noise", "none", lambda tar: tar.file("a", 5, [b"12345"]))
    path = store.blob_path(made.digest)
    path.chmod(0o644)
    path.write_bytes(bytes(made.size))
    with pytest.raises(IntegrityError) as caught:
        put(tmp_path / "out", made)
    assert caught.value.hint == "the damaged blob was removed: run the command again"
    assert not path.exists()
