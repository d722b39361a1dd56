"""Everything a lock names, under its own name, for a site without a network."""

from pathlib import Path

import pytest

from builder import fetch
from builder.lock import Lock
from builder.sources.downloads import Downloads
from tests import lock_maker


def pins(lock: Lock) -> list[str]:
    files = [file.sha256 for model in lock.models for file in model.files]
    packages = [package.sha256 for package in lock.base.packages]
    return [wheel.sha256 for wheel in lock.wheels] + packages + files


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "cache"
    folder.mkdir()
    found = {sha256: folder / sha256 for sha256 in pins(lock_maker.lock())}
    for sha256, path in found.items():
        path.write_text(sha256)
    return found


def test_files_are_laid_out_by_kind_and_name(tmp_path: Path, places: dict[str, Path]) -> None:
    lock = lock_maker.lock()
    fetch.export(lock, places, tmp_path / "site")
    laid = {
        str(path.relative_to(tmp_path / "site")): path.read_text()
        for path in (tmp_path / "site").rglob("*")
        if path.is_file()
    }
    wheels = {f"wheels/{wheel.file}": wheel.sha256 for wheel in lock.wheels}
    debian = {f"debian/{Path(p.path).name}": p.sha256 for p in lock.base.packages}
    models = {f"models/demo/{f.path}": f.sha256 for m in lock.models for f in m.files}
    assert laid == wheels | debian | models


def test_laying_out_again_changes_nothing(tmp_path: Path, places: dict[str, Path]) -> None:
    for _ in range(2):
        fetch.export(lock_maker.lock(), places, tmp_path / "site")
    assert all(path.stat().st_nlink == 2 for path in places.values())


def test_another_file_system_gets_copies(
    tmp_path: Path, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    fetch.export(lock_maker.lock(), places, tmp_path / "site")
    wheel = lock_maker.lock().wheels[0]
    assert (tmp_path / "site" / "wheels" / wheel.file).read_text() == wheel.sha256


def test_what_is_not_in_the_cache_is_missing(tmp_path: Path) -> None:
    lock = lock_maker.lock()
    missing = fetch.missing(lock, Downloads(tmp_path))
    packages = [package.sha256 for package in lock.base.packages]
    named = [wheel.sha256 for wheel in lock.wheels] + packages
    assert [item.sha256 for item in missing] == named


def test_a_damaged_file_of_the_cache_is_noticed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, downloads = lock_maker.lock(), Downloads(tmp_path)
    wheel = lock.wheels[0]
    path = downloads.path(wheel.sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * wheel.size)
    fetch.verify(lock, downloads)
    assert not path.exists()
    assert f"{wheel.file}: the cached file is damaged, fetching it again" in capsys.readouterr().err
