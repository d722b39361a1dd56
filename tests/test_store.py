"""The store: a blob is there when it is whole, or not at all."""

import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import files
from builder.digest import of_bytes
from builder.errors import HostError, IntegrityError
from builder.oci.layer import Layer
from builder.oci.store import Store
from builder.oci.tar import TarWriter
from tests.full_disk import files_no_larger_than

NOISE = os.urandom(3 << 20)
"""More than any buffer, and nothing a compressor could shorten."""


def fill(tar: TarWriter) -> None:
    tar.file("noise", len(NOISE), [NOISE])


def build(store: Store) -> Layer:
    return store.build_layer("noise", "zstd", fill)


def contents(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_layer_lies_under_its_digest(tmp_path: Path) -> None:
    layer = build(Store(tmp_path))
    path = tmp_path / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")
    assert layer.pieces == (path,)
    assert (of_bytes(path.read_bytes()), path.stat().st_size) == (layer.digest, layer.size)
    assert path.stat().st_mode & 0o777 == 0o444
    assert contents(tmp_path) == [str(path.relative_to(tmp_path))]


def test_a_small_blob_lies_under_its_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = store.put(b"config")
    assert digest == store.put(b"config") == of_bytes(b"config")
    assert store.blob_path(digest).read_bytes() == b"config"
    assert len(contents(tmp_path)) == 1


def test_nothing_is_visible_before_the_layer_is_whole(tmp_path: Path) -> None:
    seen: list[str] = []

    def slow(tar: TarWriter) -> None:
        fill(tar)
        seen.extend(contents(tmp_path))

    Store(tmp_path).build_layer("noise", "none", slow)
    assert len(seen) == 1
    assert re.fullmatch(r"blobs/sha256/\.tmp-\w+", seen[0])


@pytest.mark.parametrize("fault", [IntegrityError("wrong byte"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_nothing(tmp_path: Path, fault: BaseException) -> None:
    def broken(tar: TarWriter) -> None:
        fill(tar)
        raise fault

    with pytest.raises(type(fault)) as caught:
        Store(tmp_path).build_layer("noise", "none", broken)
    assert caught.value is fault
    assert contents(tmp_path) == []


@pytest.mark.parametrize("limit", [1 << 20, (3 << 20) + 512], ids=["in the middle", "at the end"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    store = Store(tmp_path)
    with files_no_larger_than(limit), pytest.raises(HostError) as caught:
        store.build_layer("noise", "none", fill)
    assert caught.value.message == f"{tmp_path}: cannot be written: file too large"
    assert caught.value.exit_code == 11
    assert contents(tmp_path) == []
    assert build(store) == build(Store(tmp_path))


def test_a_full_disk_while_a_record_is_written_leaves_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = build(store)
    with files_no_larger_than(10), pytest.raises(HostError) as caught:
        store.remember("key", layer)
    place = tmp_path / "layers" / "key.json"
    assert caught.value.message == f"{place}: cannot be written: file too large"
    assert store.recall("key") is None
    assert [name for name in contents(tmp_path) if not name.startswith("blobs")] == []


def test_a_store_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        build(Store(tmp_path / "file" / "store"))
    assert caught.value.message == f"{tmp_path}/file/store: cannot be written: not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_store_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(HostError) as caught:
        build(Store(tmp_path))
    assert caught.value.message == f"{tmp_path}: cannot be written: permission denied"


def test_a_remembered_layer_is_recalled(tmp_path: Path) -> None:
    layer = build(Store(tmp_path))
    Store(tmp_path).remember("key", layer)
    assert Store(tmp_path).recall("key") == layer
    assert Store(tmp_path).recall("other") is None


@pytest.mark.parametrize("size", [None, 0, 100], ids=["gone", "empty", "truncated"])
def test_a_damaged_blob_is_not_recalled(tmp_path: Path, size: int | None) -> None:
    store = Store(tmp_path)
    layer = build(store)
    store.remember("key", layer)
    path = store.blob_path(layer.digest)
    path.chmod(0o644)
    path.unlink() if size is None else os.truncate(path, size)
    assert store.recall("key") is None
    assert build(store) == layer
    assert store.recall("key") == layer


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", '{"digest": "sha256:ab"}', '{"digest": 7}', "\xff", '"text"'],
)
def test_a_damaged_record_is_not_recalled(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.remember("key", build(store))
    (tmp_path / "layers" / "key.json").write_text(text, "latin-1")
    assert store.recall("key") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("title", "other"), ("size", 3146332), ("diff_id", f"sha256:{'0' * 64}"), ("check", "")],
)
def test_a_record_that_was_altered_is_not_recalled(
    tmp_path: Path, field: str, value: object
) -> None:
    store = Store(tmp_path)
    store.remember("key", build(store))
    path = store.record_path("key")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {field: value}))
    assert store.recall("key") is None
    assert store.recorded("key") is None


def test_a_record_speaks_for_its_own_key_only(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.remember("key", build(store))
    store.record_path("key").rename(store.record_path("other"))
    assert store.recall("other") is None


def test_a_small_blob_with_other_bytes_is_not_recalled_and_is_written_again(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    layer = store.build_layer("small", "none", lambda tar: tar.file("a", 1, [b"a"]))
    store.remember("key", layer)
    path = store.blob_path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(bytes(layer.size))
    assert store.recall("key") is None
    assert store.build_layer("small", "none", lambda tar: tar.file("a", 1, [b"a"])) == layer
    assert store.recall("key") == layer


@pytest.mark.parametrize("bytes_there", [b"", b"other!", b"conf"], ids=["empty", "wrong", "short"])
def test_what_is_put_replaces_what_is_damaged(tmp_path: Path, bytes_there: bytes) -> None:
    store = Store(tmp_path)
    path = store.blob_path(of_bytes(b"config"))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes_there)
    assert store.put(b"config") == of_bytes(b"config")
    assert path.read_bytes() == b"config"


def test_a_blob_that_goes_after_it_was_recalled_is_named_and_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = build(store)
    store.remember("key", layer)
    recalled = store.recall("key")
    assert recalled is not None
    path = store.blob_path(layer.digest)
    path.unlink()
    with pytest.raises(IntegrityError, match=str(path)):
        list(recalled.chunks())
    assert store.recall("key") is None
    assert build(store) == layer


def test_what_is_used_is_touched(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = build(store)
    store.remember("key", layer)
    used = [store.record_path("key"), store.blob_path(layer.digest)]
    for path in used:
        os.utime(path, (0, 0))
    assert store.recall("key") == layer
    assert [path for path in used if path.stat().st_mtime < 1] == []


def test_a_record_names_no_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = build(store)
    store.remember("key", layer)
    record = json.loads((tmp_path / "layers" / "key.json").read_bytes())
    assert record.pop("check").startswith("sha256:")
    assert record == {
        "diff_id": layer.diff_id,
        "digest": layer.digest,
        "media_type": layer.media_type,
        "size": layer.size,
        "title": "noise",
    }


def test_two_builds_at_once_have_the_same_result(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=10)

    def one(_: int) -> Layer:
        def in_step(tar: TarWriter) -> None:
            together.wait()
            fill(tar)

        layer = Store(tmp_path).build_layer("noise", "zstd", in_step)
        Store(tmp_path).remember("key", layer)
        return layer

    with ThreadPoolExecutor(2) as workers:
        first, second = workers.map(one, range(2))
    assert first == second == Store(tmp_path).recall("key")
    assert len(contents(tmp_path / "blobs")) == 1


def test_other_threads_end_when_told_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.stop.set()
    with pytest.raises(KeyboardInterrupt):
        build(store)
    assert contents(tmp_path) == []


def test_what_a_killed_writer_left_is_swept_and_what_is_being_written_stays(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "blobs" / "sha256"
    folder.mkdir(parents=True)
    descriptor, busy = files.temporary_in(folder)
    left = folder / ".tmp-left"
    fresh = folder / ".tmp-fresh"
    for path in (left, fresh):
        path.write_bytes(b"half a blob")
    for path in (left, busy):
        os.utime(path, (0, 0))
    Store(tmp_path).sweep()
    assert sorted(folder.iterdir()) == sorted([busy, fresh])
    os.close(descriptor)
    Store(tmp_path).sweep()
    assert list(folder.iterdir()) == [fresh]
