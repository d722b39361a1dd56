"""Where a wheel can be fetched from, as pip's own settings say."""

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from builder.errors import ResolveError, UsageError
from builder.sources import index, web
from builder.sources.index import Place, Settings
from tests.file_server import Site, serving

FILE = "demo_app-1.0+cpu-py3-none-any.whl"
SHA256 = "ab" * 32
JSON = "application/vnd.pypi.simple.v1+json"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine on which nothing is configured."""
    for name in [*os.environ]:
        if name.startswith(("PIP_", "UV_")) or name in {"VIRTUAL_ENV", "XDG_CONFIG_HOME"}:
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "none.conf").write_text("")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    forget()
    yield folder
    forget()


def forget() -> None:
    index.settings.cache_clear()
    index._shared_page.cache_clear()  # noqa: SLF001 - kept for the life of a process


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as found:
        yield found


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    """Settings from the environment alone: a machine's /etc/pip.conf is passed over by each."""
    defaults = {"PIP_EXTRA_INDEX_URL": " ", "PIP_FIND_LINKS": " "}
    for name, value in (defaults | values).items():
        monkeypatch.setenv(name, value)
    forget()
    return index.settings()


def conf(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_default_is_the_one_every_tool_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert index.settings() == Settings(PYPI_SIMPLE_ENDPOINT, (), ())


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        monkeypatch,
        PIP_INDEX_URL="https://a.test/simple",
        PIP_EXTRA_INDEX_URL="https://b.test/simple https://c.test/simple",
        PIP_FIND_LINKS="/wheels https://d.test/page",
        PIP_CERT="/ca.pem",
    )
    assert found == Settings(
        "https://a.test/simple",
        ("https://b.test/simple", "https://c.test/simple"),
        ("/wheels", "https://d.test/page"),
        "/ca.pem",
    )


FILES = {
    "old place": (".pip/pip.conf", "https://old.test"),
    "XDG": (".config/pip/pip.conf", "https://xdg.test"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_user_is_read(home: Path, name: str) -> None:
    place, url = FILES[name]
    conf(home / place, f"[global]\nindex-url = {url}\nfind-links =\n  /one\n  /two\n")
    assert (index.settings().index, index.settings().find_links) == (url, ("/one", "/two"))


@pytest.mark.parametrize("key", ["index-url", "index_url", "Index-URL"])
def test_keys_are_spelled_as_pip_lets_them(home: Path, key: str) -> None:
    conf(home / ".config/pip/pip.conf", f"[install]\n{key} = https://x.test\n")
    assert index.settings().index == "https://x.test"


def test_the_stronger_setting_wins(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[global]\nindex-url = https://{}.test\n"
    order = []
    conf(home / ".pip/pip.conf", text.format("old"))
    order.append(index.settings().index)
    conf(home / ".config/pip/pip.conf", text.format("xdg"))
    forget()
    order.append(index.settings().index)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "venv"))
    conf(tmp_path / "venv/pip.conf", text.format("venv"))
    forget()
    order.append(index.settings().index)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf(tmp_path / "my.conf", text.format("mine"))))
    forget()
    order.append(index.settings().index)
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.test")
    forget()
    order.append(index.settings().index)
    assert order == [f"https://{name}.test" for name in ("old", "xdg", "venv", "mine", "env")]


def test_a_chosen_file_stands_in_for_the_users(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf(home / ".config/pip/pip.conf", "[global]\nfind-links = /theirs\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none.conf"))
    assert "/theirs" not in index.settings().find_links


def test_certificates_of_pip(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf(home / ".config/pip/pip.conf", "[global]\ncert = ~/my ca.pem\n")
    assert index.settings().certificates == str(home / "my ca.pem")
    found = settings(monkeypatch, PIP_CERT="/other.pem")
    assert found.certificates == "/other.pem"


@pytest.mark.parametrize(
    "text", [b"index-url = x", b"[global]\nsEcReT\n", b"[global]\na = 1\na = 2\n", b"\xff"]
)
def test_a_broken_file_of_pip_is_named(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.conf"
    path.write_bytes(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    with pytest.raises(UsageError) as caught:
        index.settings()
    assert caught.value.message.startswith(f"{path}: is no settings file of pip: ")
    assert "sEcReT" not in caught.value.message


@pytest.mark.parametrize("name", ["index-url", "extra-index-url", "find-links"])
@pytest.mark.parametrize(
    ("url", "shown"),
    [("http://[::1", "http://[::1"), ("http://u:sEc/ReT@h.test/a", "http://h.test/a")],
)
def test_an_address_that_is_none_names_the_setting(
    name: str, url: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResolveError) as caught:
        settings(monkeypatch, **{f"PIP_{name.upper().replace('-', '_')}": url})
    assert caught.value.message == f"pip's {name}: `{shown}` is not an address"


def test_pages_of_projects_are_not_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages |= {"/simple/demo-app/": b"<html>", "/links": b"<html>"}
    settings(monkeypatch, PIP_INDEX_URL=f"{site.url}/simple", PIP_FIND_LINKS=f"{site.url}/links")
    assert [*index.places("demo-app", FILE), *index.places("demo-app", FILE)] == []
    assert site.paths() == ["/links", "/simple/demo-app/", "/simple/demo-app/"]


def on(site: Site, body: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> list[Place]:
    """Places of FILE on the one index of this machine."""
    site.pages["/simple/demo-app/"] = body.encode()
    site.types["/simple/demo-app/"] = kind
    settings(monkeypatch, PIP_INDEX_URL=f"{site.url}/simple/")
    return list(index.places("demo-app", FILE))


HTML = """<!DOCTYPE html><html><body>
<a href="../../files/other-1.0-py3-none-any.whl#sha256=00">other-1.0-py3-none-any.whl</a>
<a href="{href}" data-requires-python="&gt;=3.8" data-yanked="broken">{file}</a>
</body></html>"""
HREFS = {
    "relative": "../../files/demo_app-1.0%2Bcpu-py3-none-any.whl",
    "from the root": "/files/demo_app-1.0%2Bcpu-py3-none-any.whl",
    "plain plus": "../../files/demo_app-1.0+cpu-py3-none-any.whl",
}


@pytest.mark.parametrize("name", HREFS)
def test_a_link_of_an_html_page(name: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    body = HTML.format(href=f"{HREFS[name]}#sha256={SHA256}", file=FILE)
    (place,) = on(site, body, "text/html", monkeypatch)
    file = HREFS[name].rpartition("/")[2]
    assert place == Place(f"{site.url}/files/{file}", SHA256, None, None)
    assert JSON in site.requests[0].accept


def test_a_link_to_another_host(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    body = HTML.format(href=f"https://cdn.test/{FILE}?x=1", file=FILE)
    (place,) = on(site, body, "text/html", monkeypatch)
    assert place == Place(f"https://cdn.test/{FILE}?x=1", None, None, None)


def entry(**more: object) -> dict[str, object]:
    return {"filename": FILE, "url": f"../../files/{FILE}", "hashes": {"sha256": SHA256}, **more}


def test_a_file_of_a_json_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"filename": "other.whl", "url": "x", "hashes": {}}
    full = entry(size=7, yanked=True, **{"upload-time": "2026-05-10T01:02:03.5Z"})
    body = json.dumps({"files": [other, full]})
    uploaded = datetime.datetime(2026, 5, 10, 1, 2, 3, 500_000, tzinfo=datetime.UTC)
    assert on(site, body, JSON, monkeypatch) == [
        Place(f"{site.url}/files/{FILE}", SHA256, 7, uploaded)
    ]


def test_a_json_page_without_optional_fields(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"files": [entry(hashes={})]})
    assert on(site, body, JSON, monkeypatch) == [
        Place(f"{site.url}/files/{FILE}", None, None, None)
    ]


@pytest.mark.parametrize("body", ["{", "{}", '{"files": [{}]}', '{"files": 3}'])
def test_a_page_that_is_none_is_an_error(
    site: Site, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResolveError) as caught:
        on(site, body, JSON, monkeypatch)
    place = f"{site.url}/simple/demo-app/: is not a page of a package index: "
    assert caught.value.message.startswith(place)
    assert caught.value.hint == "check pip's index-url and find-links settings"


def test_a_project_that_an_index_does_not_have(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, PIP_INDEX_URL=f"{site.url}/simple")
    assert list(index.places("demo-app", FILE)) == []


def test_an_index_that_refuses_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.status["/simple/demo-app/"] = 403
    host = site.url.removeprefix("http://")
    settings(monkeypatch, PIP_INDEX_URL=f"http://jane:secret@{host}/simple")
    with pytest.raises(web.RefusedError) as caught:
        list(index.places("demo-app", FILE))
    assert caught.value.message == f"{site.url}/simple/demo-app/: answered 403"
    assert site.requests[0].user == "jane:secret"


def test_a_folder_of_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / FILE).write_bytes(b"12345")
    settings(monkeypatch, PIP_INDEX_URL=f"file://{tmp_path}/no-index")
    expected = [Place((folder / FILE).as_uri(), None, 5, None)]
    assert list(index.in_links([str(folder)], FILE)) == expected
    assert list(index.in_links([folder.as_uri()], FILE)) == expected
    assert list(index.in_links([str(folder)], "other.whl")) == []
    assert list(index.in_links([str(tmp_path / "absent")], FILE)) == []


def test_a_page_of_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/page"] = f'<a href="{FILE}#sha256={SHA256}">{FILE}</a>'.encode()
    settings(monkeypatch, PIP_INDEX_URL=f"{site.url}/simple")
    assert list(index.in_links([f"{site.url}/page"], FILE)) == [
        Place(f"{site.url}/{FILE}", SHA256, None, None)
    ]


def test_an_index_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "simple/demo-app/index.html"
    conf(page, f'<a href="../../{FILE}#sha256={SHA256}">{FILE}</a>')
    expected = [Place(f"file://{tmp_path}/{FILE}", SHA256, None, None)]
    for url in (f"file://{tmp_path}/simple", f"{tmp_path}/simple"):
        settings(monkeypatch, PIP_INDEX_URL=url)
        found = list(index.places("demo-app", FILE))
        assert found == expected


def test_folders_come_before_indexes(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_bytes(b"1")
    link = f'<a href="{FILE}">{FILE}</a>'.encode()
    site.pages |= dict.fromkeys(("/one/demo-app/", "/two/demo-app/"), link)
    settings(
        monkeypatch,
        PIP_INDEX_URL=f"{site.url}/one",
        PIP_EXTRA_INDEX_URL=f"{site.url}/two",
        PIP_FIND_LINKS=str(tmp_path),
    )
    found = [place.url for place in index.places("demo-app", FILE)]
    folder, *rest = found
    assert folder == (tmp_path / FILE).as_uri()
    assert [url.removeprefix(site.url) for url in rest] == [
        f"/one/demo-app/{FILE}",
        f"/two/demo-app/{FILE}",
    ]


@pytest.mark.parametrize(
    ("url", "is_kept"),
    [
        ("https://files.test/a.whl", True),
        ("https://jane:secret@files.test/a.whl", False),
        ("file:///wheels/a.whl", False),
    ],
)
def test_only_public_addresses_are_remembered(url: str, is_kept: bool) -> None:
    index.remember(SHA256, url)
    assert list(index.remembered(SHA256)) == ([url] if is_kept else [])


def test_a_note_is_written_only_if_it_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    index.remember(SHA256, "https://files.test/a.whl")
    before = (tmp_path / "places" / SHA256).stat().st_ino
    index.remember(SHA256, "https://files.test/a.whl")
    assert (tmp_path / "places" / SHA256).stat().st_ino == before
    index.remember(SHA256, "https://other.test/a.whl")
    assert list(index.remembered(SHA256)) == ["https://other.test/a.whl"]


def test_the_usual_index_is_known_without_its_library() -> None:
    code = "from builder.sources import index as i; import sys; print(i._usual_index());"
    code += "print('pypi_simple' in sys.modules); import pypi_simple as p;"
    code += "print(p.PYPI_SIMPLE_ENDPOINT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known, is_imported, meant = done.stdout.split()
    assert (known, is_imported) == (meant, "False")
