"""The committed tables against a package index, served here."""

import datetime
import io
import json
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from builder.catalogue import tables
from builder.errors import ResolveError
from builder.sources import catalogue_refresh, published
from builder.sources.published import Difference, Subject
from tests import engine_maker
from tests.file_server import Site
from tests.index_server import serving_index

DEMO = Subject("demo", "1.0", frozenset({"cp38"}), {"torch": "torch"}, has_glibc=True)
JSON = "application/vnd.pypi.simple.v1+json"
X86, ARM = "manylinux_2_28_x86_64", "manylinux_2_28_aarch64"


def wheel(version: str, platform: str = X86, interpreter: str = "cp38-abi3") -> str:
    return f"demo-{version}-{interpreter}-{platform}.whl"


def metadata(torch: str) -> bytes:
    text = "Metadata-Version: 2.4\nName: demo\nVersion: 1.0\n"
    text += f"Requires-Dist: torch=={torch}\nRequires-Dist: torch==9; extra == 'old'\n"
    return text.encode()


def packed(torch: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("demo/big.bin", bytes(200_000))
        archive.writestr("demo-1.0.dist-info/METADATA", metadata(torch))
    return file.getvalue()


def entry(site: Site, file: str, **more: Any) -> dict[str, Any]:
    return {
        "filename": file,
        "url": f"{site.url}/files/{file}",
        "hashes": {"sha256": file[5] * 64},
        "requires-python": ">=3.10",
        "upload-time": "2026-05-10T01:02:03Z",
        **more,
    }


def publish(site: Site, *entries: dict[str, Any]) -> None:
    page = {"meta": {"api-version": "1.1"}, "name": "demo", "files": list(entries)}
    site.pages["/simple/demo/"] = json.dumps(page).encode()
    site.types["/simple/demo/"] = JSON


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    with serving_index(monkeypatch, tmp_path) as found:
        yield found


def committed(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> None:
    serve: dict[str, Any] = {"releases": [], "flags": {}, "variables": {}}
    found: dict[str, Any] = {"serve": serve, "demo": {"release": list(rows)}}
    monkeypatch.setattr(tables, "table", found.__getitem__)


def row(version: str, **more: Any) -> dict[str, Any]:
    own = {"file": wheel(version), "sha256": version[0] * 64}
    return {
        "version": version,
        "date": datetime.date(2026, 5, 10),
        "python": ">=3.10",
        "torch": "2.11.0",
        "glibc": "2.28",
        "wheels": [own],
        **more,
    }


def test_tables_that_agree_have_no_differences(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages[f"/files/{wheel('1.0')}.metadata"] = metadata("2.11.0")
    publish(site, entry(site, wheel("1.0")))
    committed(monkeypatch, row("1.0"))
    assert list(catalogue_refresh.differences(DEMO)) == []


def test_every_difference_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages[f"/files/{wheel('1.0')}.metadata"] = metadata("2.12.0")
    site.pages[f"/files/{wheel('2.0')}.metadata"] = metadata("2.12.0")
    publish(site, entry(site, wheel("1.0")), entry(site, wheel("2.0")))
    committed(monkeypatch, row("1.0", glibc="2.31"), row("3.0"))
    assert list(map(str, catalogue_refresh.differences(DEMO))) == [
        "demo 1.0: torch: committed 2.11.0, published 2.12.0",
        "demo 1.0: glibc: committed 2.31, published 2.28",
        "demo 2.0: release: committed False, published True",
        "demo 3.0: release: committed True, published False",
    ]


def test_only_final_linux_releases_count(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages[f"/files/{wheel('1.0')}.metadata"] = metadata("2.11.0")
    publish(
        site,
        entry(site, wheel("1.0")),
        entry(site, wheel("1.1rc1")),
        entry(site, wheel("1.1+cpu")),
        entry(site, wheel("0.9")),
        entry(site, wheel("1.2"), yanked=True),
        entry(site, wheel("1.3", "win_amd64")),
        entry(site, wheel("1.4", X86, "cp311-cp311")),
        entry(site, "demo-1.5.tar.gz"),
        entry(site, "demo-1.6-odd.whl"),
    )
    committed(monkeypatch, row("1.0"))
    assert list(catalogue_refresh.differences(DEMO)) == []


def test_wheels_of_both_platforms_stand_x86_first(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages[f"/files/{wheel('1.0')}.metadata"] = metadata("2.11.0")
    publish(site, entry(site, wheel("1.0", ARM)), entry(site, wheel("1.0")))
    both = [{"file": wheel("1.0", each), "sha256": "1" * 64} for each in (X86, ARM)]
    committed(monkeypatch, row("1.0", wheels=both))
    assert list(catalogue_refresh.differences(DEMO)) == []


def test_metadata_is_read_inside_the_wheel_where_none_stands_beside_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages[f"/files/{wheel('1.0')}"] = packed("2.13.0")
    publish(site, entry(site, wheel("1.0")))
    committed(monkeypatch, row("1.0", torch="2.13.0"))
    assert list(catalogue_refresh.differences(DEMO)) == []
    assert site.sent < 150_000


def test_index_without_metadata_and_ranges_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages[f"/files/{wheel('1.0')}"] = packed("2.13.0")
    site.ranges = False
    publish(site, entry(site, wheel("1.0")))
    committed(monkeypatch, row("1.0"))
    with pytest.raises(ResolveError, match="serves no ranges"):
        list(catalogue_refresh.differences(DEMO))


def test_page_of_links_is_read_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    file = wheel("1.0", "manylinux1_x86_64")
    site.pages[f"/files/{file}.metadata"] = metadata("2.11.0")
    link = f'<a href="/files/{file}#sha256={"1" * 64}" data-requires-python="&gt;=3.10">{file}</a>'
    site.pages["/simple/demo/"] = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()
    own = [{"file": file, "sha256": "1" * 64}]
    committed(monkeypatch, row("1.0", glibc="2.5", wheels=own))
    assert list(catalogue_refresh.differences(DEMO)) == []


def test_differences_are_written_and_new_releases_left_to_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demo.toml"
    path.write_text('# kept\n[[release]]\nversion = "1.0"\ntorch = "2.11.0"\nwheels = []\n')
    monkeypatch.setattr(tables, "__file__", str(tmp_path / "tables.py"))
    own = [{"file": "a.whl", "sha256": "11"}]
    found = [
        Difference("demo", "1.0", "torch", "2.11.0", "2.12.0"),
        Difference("demo", "1.0", "wheels", [], own),
        Difference("demo", "2.0", "release", committed=False, published=True),
    ]
    assert catalogue_refresh.write(found) == found[2:]
    written = path.read_text()
    assert written.startswith("# kept\n")
    assert '    {file = "a.whl", sha256 = "11"}' in written
    assert tomlkit.parse(written).unwrap()["release"] == [
        {"version": "1.0", "torch": "2.12.0", "wheels": own}
    ]


def test_what_is_compared_is_what_the_catalogue_holds() -> None:
    vllm, torch = published.subjects()
    assert (vllm.project, torch.project) == ("vllm", "torch")
    assert torch.interpreters == {"cp311", "cp313"}


def test_command_fails_with_each_difference(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    site.pages[f"/files/{wheel('1.0')}.metadata"] = metadata("2.11.0")
    site.pages[f"/files/{wheel('1.0')}"] = engine_maker.packed()
    publish(site, entry(site, wheel("1.0")))
    monkeypatch.setattr(catalogue_refresh, "subjects", lambda: (DEMO,))
    monkeypatch.setattr(tables, "__file__", str(tmp_path / "tables.py"))
    committed(monkeypatch, row("1.0", glibc="2.31"))
    assert catalogue_refresh.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "demo 1.0: glibc: committed 2.31, published 2.28" in said
    assert "vllm serve --port: entry: committed False, published True" in said
    assert not list(tmp_path.glob("*.toml"))
    committed(monkeypatch, row("1.0"))
    assert catalogue_refresh.main([]) == 0
    written = tomllib.loads((tmp_path / "serve.toml").read_text())
    own = {"serve": written, "demo": {"release": [row("1.0")]}}
    monkeypatch.setattr(tables, "table", own.__getitem__)
    assert catalogue_refresh.main(["--check"]) == 0
