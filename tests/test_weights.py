"""Weight layers: described, read once, the same wherever the file lies."""

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.digest import Digest, of_bytes
from builder.errors import IntegrityError
from builder.oci import tar, weights
from builder.oci.layer import Layer
from builder.oci.weights import WeightFile, weigh, weigh_checked, weight_layer

LARGE = 1 << 20
"""From this size on, a file begins on a page wherever it is in its layer."""


def content(seed: int, size: int) -> bytes:
    block = hashlib.sha256(b"%d" % seed).digest()
    return (block * (size // len(block) + 1))[:size]


def weight_file(path: Path, data: bytes) -> WeightFile:
    path.write_bytes(data)
    return WeightFile(path, hashlib.sha256(data).hexdigest(), len(data))


def alone(data: bytes) -> bytes:
    sha256 = hashlib.sha256(data).hexdigest()
    head = tar.aligned_header(weights.weight_path(sha256), len(data))
    return head + data + tar.padding(len(data)) + tar.END


@pytest.mark.parametrize("size", [0, 511, 512, 3 * LARGE + 1])
def test_one_read_checks_the_file_and_gives_the_digest_of_its_layer(
    tmp_path: Path, size: int
) -> None:
    data = content(1, size)
    file = weight_file(tmp_path / "w", data)
    seen: list[int] = []
    assert weigh([file], seen.append) == of_bytes(alone(data))
    assert sum(seen) == size
    assert weigh_checked([file], seen.append) == of_bytes(alone(data))


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    file = weight_file(tmp_path / "w", b"weights")
    (tmp_path / "w").write_bytes(b"wEights")
    with pytest.raises(IntegrityError) as caught:
        weigh([file], lambda _: None)
    actual = hashlib.sha256(b"wEights").hexdigest()
    assert caught.value.message == (
        f"{file.content}: expected sha256:{file.sha256}, got sha256:{actual}"
    )


def test_a_weight_layer_is_header_file_padding(tmp_path: Path) -> None:
    file = weight_file(tmp_path / "w", b"weights")
    layer = weight_layer([file], weigh([file], lambda _: None), "weights w")
    expected = alone(b"weights")
    assert b"".join(layer.chunks()) == expected
    assert (layer.digest, layer.diff_id, layer.size) == (
        of_bytes(expected),
        of_bytes(expected),
        len(expected),
    )
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar"
    assert layer.pieces[1] == file.content
    assert not layer.is_stored


def test_files_that_share_a_layer_are_whole_and_large_ones_begin_on_pages(tmp_path: Path) -> None:
    sizes = [LARGE + 5, 300, LARGE, 0, 7, LARGE + 511]
    datas = [content(seed, size) for seed, size in enumerate(sizes)]
    files = [weight_file(tmp_path / f"{seed}", data) for seed, data in enumerate(datas)]
    layer = weight_layer(files, weigh(files, lambda _: None), "6 weight files")
    data = b"".join(layer.chunks())
    assert len(data) == layer.size
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        members = opened.getmembers()
        read = [opened.extractfile(member) for member in members]
        assert [stream.read() for stream in read if stream] == datas
    assert [member.name for member in members] == [weights.weight_path(f.sha256) for f in files]
    aligned = [m.offset_data % tar.ALIGNMENT == 0 for m in members if m.size >= LARGE]
    assert aligned == [True] * 3


def test_where_a_file_lies_does_not_change_its_layer(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    data = content(3, 70_000)
    one = weight_file(tmp_path / "a" / "model-00001.safetensors", data)
    other = weight_file(tmp_path / "other name", data)
    os.utime(tmp_path / "other name", (1, 1))
    (tmp_path / "other name").chmod(0o600)
    digests: set[Digest] = {weigh([file], lambda _: None) for file in (one, other)}
    assert digests == {of_bytes(alone(data))}


@pytest.mark.parametrize("changed", [b"wEights", b"weight", b"weights!"], ids=["byte", "-", "+"])
def test_a_file_that_changed_is_noticed_while_it_is_streamed(
    tmp_path: Path, changed: bytes
) -> None:
    file = weight_file(tmp_path / "w", b"weights")
    layer = weight_layer([file], weigh([file], lambda _: None), "weights w")
    (tmp_path / "w").write_bytes(changed)
    actual = hashlib.sha256(changed).hexdigest()
    with pytest.raises(IntegrityError) as caught:
        list(layer.chunks())
    message = f"{file.content}: expected sha256:{file.sha256}, got sha256:{actual}"
    assert (caught.value.message, caught.value.exit_code) == (message, 10)
    assert caught.value.hint == "restore the file, or run builder lock with the stack"
    assert (tmp_path / "w").exists()


def test_of_many_files_only_the_wrong_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    files = [weight_file(tmp_path / str(number), content(number, 600)) for number in range(9)]
    layer = weight_layer(files, weigh(files, lambda _: None), "9 weight files")
    (tmp_path / "4").write_bytes(b"x" * 600)
    with pytest.raises(IntegrityError) as caught:
        list(layer.chunks())
    assert caught.value.message.startswith(f"{tmp_path}/4: expected sha256:{files[4].sha256}, got")
    assert "\n" not in caught.value.message
    # It lies in the cache, so it can be fetched again.
    assert caught.value.hint.startswith("run builder store verify")


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = weight_file(tmp_path / "w", b"weights")
    layer = weight_layer([file], weigh([file], lambda _: None), "weights w")
    (tmp_path / "w").unlink()
    with pytest.raises(IntegrityError, match=r"w: no such file or directory$"):
        list(layer.chunks())


class Elsewhere:
    """A file that is not on this machine."""

    label = "acme/demo/w.safetensors"
    size = 7

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        yield b"weights"[offset:]


def test_a_file_from_elsewhere_makes_the_same_layer(tmp_path: Path) -> None:
    here = weight_file(tmp_path / "w", b"weights")
    there = WeightFile(Elsewhere(), here.sha256, here.size)
    digest = weigh([there], lambda _: None)
    assert digest == weigh([here], lambda _: None)
    assert b"".join(weight_layer([there], digest, "w").chunks()) == alone(b"weights")


def test_layers_are_weighed_side_by_side_in_their_order(tmp_path: Path) -> None:
    groups = [[weight_file(tmp_path / str(n), content(n, 9 * n))] for n in range(9)]
    lock, total = threading.Lock(), [0]

    def advance(count: int) -> None:
        with lock:
            total[0] += count

    found = weights.side_by_side(weigh, groups, advance)
    assert found == tuple(weigh(group, lambda _: None) for group in groups)
    assert total[0] == sum(9 * n for n in range(9))


def test_the_first_wrong_file_ends_the_weighing_with_its_own_fault(tmp_path: Path) -> None:
    groups = [[weight_file(tmp_path / str(n), content(n, 3 * LARGE))] for n in range(6)]
    (tmp_path / "4").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=f"{tmp_path}/4: expected sha256:"):
        weights.side_by_side(weigh, groups, lambda _: None)


def read_once(file: WeightFile) -> Layer:
    """A layer whose file this run has just read."""
    seen = weights.identities([file])
    assert set(seen) == {file.content}
    return weight_layer([file], weigh([file], lambda _: None), "w", seen)


def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be a second ahead, so that what was written now was written before."""
    now = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: now() + 10**9)


def test_what_this_run_has_read_and_nobody_touched_is_not_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(monkeypatch)
    layer = read_once(weight_file(tmp_path / "w", b"weights"))
    assert layer.is_as_read()
    assert b"".join(layer.chunks()) == alone(b"weights")


@pytest.mark.parametrize("changed", [b"wEights", b"weight", b"weights!"], ids=["byte", "-", "+"])
def test_what_was_touched_since_it_was_read_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: bytes
) -> None:
    aged(monkeypatch)
    layer = read_once(weight_file(tmp_path / "w", b"weights"))
    (tmp_path / "w").write_bytes(changed)
    assert not layer.is_as_read()
    with pytest.raises(IntegrityError, match="expected sha256:"):
        list(layer.chunks())


def test_what_is_touched_while_it_is_sent_does_not_go_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(monkeypatch)
    layer = read_once(weight_file(tmp_path / "w", content(5, 3 * LARGE)))
    chunks = layer.chunks()
    next(chunks)
    with (tmp_path / "w").open("r+b") as file:
        file.seek(2 * LARGE)
        file.write(b"evil")
    with pytest.raises(IntegrityError, match="expected sha256:"):
        list(chunks)


def test_a_file_that_was_written_just_now_is_not_trusted(tmp_path: Path) -> None:
    assert weights.identities([weight_file(tmp_path / "w", b"weights")]) == {}


def test_a_copy_that_is_put_in_its_place_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(monkeypatch)
    layer = read_once(weight_file(tmp_path / "w", b"weights"))
    status = (tmp_path / "w").stat()
    (tmp_path / "other").write_bytes(b"wEights")
    os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "other").rename(tmp_path / "w")
    assert not layer.is_as_read()
