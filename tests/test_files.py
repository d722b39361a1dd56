"""Files are whole or not there, and a place that cannot take them says so."""

import os
import sys
from pathlib import Path

import pytest

from builder import files
from builder.errors import HostError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with files.writing(path, 0o444) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o444
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("fault", [ValueError("ours"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_what_was_there(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")

    def fail() -> None:
        with files.writing(path) as file:
            file.write(b"half")
            raise fault

    with pytest.raises(type(fault)):
        fail()
    assert (path.read_bytes(), names(tmp_path)) == (b"earlier", ["file"])


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError) as caught:
        files.write_atomic(tmp_path / "file" / "below", b"content")
    assert caught.value.message == f"{tmp_path}/file/below: cannot be written: file exists"
    assert caught.value.hint == "free space, or choose a folder that can be written"


def test_the_cache_has_its_own_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    fault = files.unwritable(tmp_path / "blobs", OSError(28, "No space left on device"))
    assert fault.message == f"{tmp_path}/blobs: cannot be written: no space left on device"
    assert fault.hint == "free space, or set BUILDER_CACHE to a folder that can be written"


def test_space_that_is_there_is_no_fault(tmp_path: Path) -> None:
    free = files.free_bytes(tmp_path)
    assert 0 < free < sys.maxsize
    files.check_space(tmp_path, 0)


def test_space_that_lacks_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.statvfs_result((4096, 4096, 1000, 600, 500, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    files.check_space(tmp_path, 500 * 4096)
    with pytest.raises(HostError) as caught:
        files.check_space(tmp_path, 3_000_000_000)
    assert caught.value.message == f"{tmp_path}: expected 3.0 GB of free space, got 2.0 MB"
    assert caught.value.hint == "free space, or choose a folder on another file system"


def test_a_file_system_that_does_not_count_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: status)
    files.check_space(tmp_path, 1 << 60)
