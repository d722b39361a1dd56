"""Rows on GPU code against wheels on a package index, served here."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.catalogue import code, tables
from builder.errors import ResolveError
from builder.sources import catalogue_code, index
from builder.sources.catalogue_code import Row
from tests import fatbin_maker as maker
from tests import wheel_maker
from tests.file_server import Site, serving

FILE = "nvidia_nccl_cu13-2.0-py3-none-manylinux_2_18_x86_64.whl"
LIBRARY = maker.library(maker.container(maker.entry("80"), maker.entry("90a"), maker.ptx("90")))
MEMBERS = {
    "nvidia/nccl/lib/libother.so": maker.library(maker.container(maker.entry("75"))),
    "nvidia/nccl/lib/libnccl.so.2": LIBRARY,
}
DATA = wheel_maker.archive(MEMBERS)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with serving() as found:
        monkeypatch.setenv("PIP_INDEX_URL", f"{found.url}/simple")
        index.settings.cache_clear()
        offer(found, SHA256)
        found.pages[f"/{FILE}"] = DATA
        yield found
    index.settings.cache_clear()


def offer(site: Site, sha256: str) -> None:
    entry = {"filename": FILE, "url": f"{site.url}/{FILE}", "hashes": {"sha256": sha256}}
    page = {"meta": {"api-version": "1.1"}, "name": "nvidia-nccl-cu13", "files": [entry]}
    site.pages["/simple/nvidia-nccl-cu13/"] = json.dumps(page).encode()


def clear() -> None:
    code.wheels.cache_clear()
    code.known_wheels.cache_clear()


@pytest.fixture
def commit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def call(*architectures: str, ptx: tuple[str, ...] = ("90",)) -> None:
        row: dict[str, Any] = {"file": FILE, "sha256": SHA256, "source": "READ"}
        row |= {"architectures": list(architectures), "ptx": list(ptx)}
        monkeypatch.setitem(tables.table("code"), "wheel", [row])
        clear()

    yield call
    monkeypatch.undo()
    clear()


def test_a_row_that_agrees(site: Site, commit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    commit("80", "90a")
    assert catalogue_code.main(["nvidia-nccl-cu13==2.0"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{FILE}: as committed",
        "1 wheels read, 0 differ from the catalogue",
    ]


def test_a_row_that_differs(site: Site, commit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    commit("80", "100f", ptx=())
    assert catalogue_code.main(["nvidia-nccl-cu13"]) == 1
    told = f"{FILE}: committed 80 100f, inside 80 90a, PTX 90"
    assert told in capsys.readouterr().err.splitlines()


def test_names_choose_the_wheels(commit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    commit("80")
    assert [row.file for row in catalogue_code.rows(["nvidia-nccl-cu13"])] == [FILE]
    assert {row.name for row in catalogue_code.rows(["vllm==0.20.2"])} == {"vllm"}
    assert len(list(catalogue_code.rows([]))) > 100
    assert catalogue_code.main(["vllm==0.0.1"]) == 2
    assert "no wheel of the tables is vllm==0.0.1" in capsys.readouterr().err


def test_wheels_for_the_cpu_are_not_read() -> None:
    files = [row.file for row in catalogue_code.rows(["torch==2.6.0"])]
    assert files
    assert not [file for file in files if "aarch64" in file]


@pytest.mark.parametrize("sha256", ["0" * 64])
def test_another_file_of_the_name_is_not_read(site: Site, commit: Any, sha256: str) -> None:
    commit("80")
    offer(site, sha256)
    with pytest.raises(ResolveError, match="no configured index has this file"):
        catalogue_code.read(Row(FILE, SHA256))


@pytest.mark.network
def test_a_published_wheel_is_as_committed() -> None:
    index.settings.cache_clear()
    (row,) = (each for each in catalogue_code.rows(["nvidia-cufile"]) if "x86_64" in each.file)
    assert catalogue_code.difference(row) is None
