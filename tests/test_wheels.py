"""From a requirement to one wheel per package: uv resolves, the target's tags choose."""

import datetime
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.errors import HostError, ResolveError
from builder.lock import Wheel
from builder.sources import index, web, wheels
from tests import wheel_maker
from tests.file_server import Site, serving

JSON = "application/vnd.pypi.simple.v1+json"
DAY = datetime.date(2026, 5, 10)
EARLIER, LATER = "2026-05-10T23:59:58Z", "2026-05-11T00:00:01Z"


def forget() -> None:
    index.settings.cache_clear()
    index._shared_page.cache_clear()  # noqa: SLF001 - kept for the life of a process


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: uv asks a Python what it is once, not in every test."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture
def site(tmp_path: Path, uv_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An index, the only one that pip's settings name."""
    for name in [*os.environ]:
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with serving() as found:
        monkeypatch.setenv("PIP_INDEX_URL", f"{found.url}/simple")
        forget()
        yield found
    forget()


def offer(site: Site, file: str, uploaded: str = EARLIER, requires: str = "") -> bytes:
    """Put a wheel on the index."""
    project = file.split("-", maxsplit=1)[0].replace("_", "-")
    members: Mapping[str, str | bytes] = wheel_maker.metadata(file)
    if requires:
        members = {
            name: f"{text!s}Requires-Dist: {requires}\n" if name.endswith("METADATA") else text
            for name, text in members.items()
        }
    data = wheel_maker.archive(members, record=f"{wheel_maker.info_of(file)}/RECORD")
    page = f"/simple/{project}/"
    known = json.loads(site.pages.get(page, b'{"files": []}'))["files"]
    entry = {
        "filename": file,
        "url": f"/files/{file}",
        "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
        "upload-time": uploaded,
        "size": len(data),
    }
    body = {"meta": {"api-version": "1.1"}, "name": project, "files": [*known, entry]}
    site.pages |= {page: json.dumps(body).encode(), f"/files/{file}": data}
    site.types[page] = JSON
    return data


def request(requirement: str, **more: Any) -> wheels.Request:
    values: dict[str, Any] = {
        "python": "3.11",
        "glibc": "2.36",
        "as_of": DAY,
        "requirement": requirement,
    }
    return wheels.Request(**(values | more))


def files(found: tuple[Wheel, ...]) -> list[str]:
    return [wheel.file for wheel in found]


def test_the_best_tag_comes_first() -> None:
    found = [str(tag) for tag in wheels.tags("3.11", "2.36")]
    order = [
        "cp311-cp311-manylinux_2_36_x86_64",
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp311-cp311-manylinux2014_x86_64",
        "cp311-cp311-linux_x86_64",
        "cp311-abi3-manylinux_2_36_x86_64",
        "cp311-none-manylinux_2_28_x86_64",
        "cp38-abi3-manylinux_2_17_x86_64",
        "py3-none-manylinux2014_x86_64",
        "cp311-none-any",
        "py311-none-any",
        "py3-none-any",
    ]
    assert [tag for tag in found if tag in order] == order
    assert "cp311-cp311-manylinux_2_37_x86_64" not in found
    assert "cp312-cp312-manylinux_2_36_x86_64" not in found
    assert not [tag for tag in found if "musl" in tag or "aarch64" in tag]


CHOICES: dict[str, tuple[list[str], str | None]] = {
    "own before abi3": (["cp38-abi3-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_17_x86_64"],
                        "cp311-cp311-manylinux_2_17_x86_64"),
    "newer abi3": (["cp38-abi3-manylinux2014_x86_64", "cp310-abi3-manylinux2014_x86_64"],
                                "cp310-abi3-manylinux2014_x86_64"),
    "newer glibc": (["cp311-cp311-manylinux1_x86_64", "cp311-cp311-manylinux_2_28_x86_64"],
                                 "cp311-cp311-manylinux_2_28_x86_64"),
    "glibc too new": (["cp311-cp311-manylinux_2_40_x86_64", "cp311-cp311-manylinux1_x86_64"],
                      "cp311-cp311-manylinux1_x86_64"),
    "platform before any": (["py3-none-any", "py3-none-manylinux2014_x86_64"],
                            "py3-none-manylinux2014_x86_64"),
    "higher build number": (["1-py3-none-any", "10-py3-none-any", "9-py3-none-any"],
                            "10-py3-none-any"),
    "several tags in one name": (["cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
                                  "cp39-abi3-manylinux_2_28_x86_64"],
                                 "cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64"),
    "not a name": (["nonsense", "py2.py3-none-any"], "py2.py3-none-any"),
    "other machines": (["cp311-cp311-win_amd64", "cp311-cp311-manylinux_2_17_aarch64",
                        "cp311-cp311-musllinux_1_2_x86_64", "cp312-cp312-manylinux_2_17_x86_64"],
                       None),
    "free-threaded": (["cp313-cp313t-manylinux_2_17_x86_64"], None),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("step", [1, -1], ids=["as listed", "reversed"])
def test_one_wheel_is_chosen(name: str, step: int) -> None:
    offered, expected = CHOICES[name]
    listed = [
        {"url": f"https://x.test/demo-1.0-{tag}.whl", "hashes": {"sha256": "ab" * 32}}
        for tag in offered[::step]
    ]
    package = {"name": "demo", "version": "1.0", "wheels": listed}
    order = {tag: rank for rank, tag in enumerate(wheels.tags("3.11", "2.36"))}
    if expected is not None:
        assert wheels._choose(package, order).file == f"demo-1.0-{expected}.whl"  # noqa: SLF001
        return
    with pytest.raises(ResolveError) as caught:
        wheels._choose(package, order)  # noqa: SLF001
    assert (caught.value.message, caught.value.hint) == (
        "demo 1.0: no wheel fits the target",
        "pin another engine version, or exclude it in resolve.exclude",
    )


def test_every_package_of_a_resolution_is_pinned(site: Site) -> None:
    app = offer(site, "app-1.0-py3-none-any.whl", requires="lib>=1")
    lib = offer(site, "lib-1.5-cp311-cp311-manylinux_2_28_x86_64.whl")
    offer(site, "lib-1.5-cp312-cp312-manylinux_2_28_x86_64.whl")
    found = wheels.resolve(request("app==1.0"))
    uploaded = datetime.datetime.fromisoformat(EARLIER)
    assert found == (
        wheel_maker.pin("app-1.0-py3-none-any.whl", app).model_copy(update={"uploaded": uploaded}),
        wheel_maker.pin("lib-1.5-cp311-cp311-manylinux_2_28_x86_64.whl", lib).model_copy(
            update={"uploaded": uploaded}
        ),
    )


@pytest.mark.parametrize("said", [7, None], ids=["said", "not said"])
def test_the_size_is_what_the_index_says_else_what_the_file_has(
    site: Site, said: int | None
) -> None:
    data = offer(site, "app-1.0-py3-none-any.whl")
    page = json.loads(site.pages["/simple/app/"])
    page["files"][0] |= {"size": said}
    if said is None:
        del page["files"][0]["size"]
    site.pages["/simple/app/"] = json.dumps(page).encode()
    assert wheels.resolve(request("app"))[0].size == (said or len(data))


def test_what_came_after_the_day_does_not_exist(site: Site) -> None:
    offer(site, "app-1.0-py3-none-any.whl", EARLIER)
    offer(site, "app-1.1-py3-none-any.whl", LATER)
    assert files(wheels.resolve(request("app"))) == ["app-1.0-py3-none-any.whl"]


def test_excluded_packages_are_left_out(site: Site) -> None:
    offer(site, "app-1.0-py3-none-any.whl", requires="triton")
    assert files(wheels.resolve(request("app", exclude=("triton",)))) == [
        "app-1.0-py3-none-any.whl"
    ]


def test_earlier_pins_are_kept_unless_they_are_to_move(site: Site) -> None:
    offer(site, "app-1.0-py3-none-any.whl", requires="lib")
    old = offer(site, "lib-1.0-py3-none-any.whl")
    offer(site, "lib-2.0-py3-none-any.whl")
    keep = (wheel_maker.pin("lib-1.0-py3-none-any.whl", old),)
    kept = wheels.resolve(request("app", keep=keep))
    moved = wheels.resolve(request("app", keep=keep, upgrade=("lib",)))
    assert kept[1] is keep[0]
    assert files(moved)[1] == "lib-2.0-py3-none-any.whl"


def test_a_pin_that_no_longer_fits_moves(site: Site) -> None:
    offer(site, "app-2.0-py3-none-any.whl", requires="lib>=2")
    old = offer(site, "lib-1.0-py3-none-any.whl")
    offer(site, "lib-2.0-py3-none-any.whl")
    keep = (wheel_maker.pin("lib-1.0-py3-none-any.whl", old),)
    found = files(wheels.resolve(request("app", keep=keep)))
    assert found == ["app-2.0-py3-none-any.whl", "lib-2.0-py3-none-any.whl"]


def test_an_extra_index_adds_packages_and_replaces_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(site, "app-1.0-py3-none-any.whl", requires="lib")
    with serving() as extra:
        offer(extra, "app-1.1-py3-none-any.whl")
        offer(extra, "lib-1.0-py3-none-any.whl")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{extra.url}/simple")
        forget()
        found = files(wheels.resolve(request("app")))
    assert found == ["app-1.0-py3-none-any.whl", "lib-1.0-py3-none-any.whl"]


def test_a_folder_of_wheels_counts(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel_maker.write(tmp_path / "wheels", "app-1.0-py3-none-any.whl", {})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    forget()
    assert wheels.resolve(request("app")) == (made,)


@pytest.mark.parametrize("name", ["uv.toml", "pyproject.toml"])
def test_the_current_folder_does_not_shape_a_resolution(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    offer(site, "app-1.0-py3-none-any.whl")
    offer(site, "app-2.0-py3-none-any.whl")
    table = "[tool.uv]\n" if name == "pyproject.toml" else ""
    (tmp_path / name).write_text(f'{table}override-dependencies = ["app==1.0"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UV_RESOLUTION", "lowest")
    assert files(wheels.resolve(request("app"))) == ["app-2.0-py3-none-any.whl"]


def test_a_version_that_does_not_exist_is_explained(site: Site) -> None:
    offer(site, "app-1.0-py3-none-any.whl")
    with pytest.raises(ResolveError) as caught:
        wheels.resolve(request("app==9.9"))
    assert caught.value.message.startswith("wheels: no resolution\n  ")
    assert "app==9.9" in caught.value.message
    assert caught.value.hint == "change engine.version, or resolve.as_of if it is newer"


def test_a_conflict_is_explained(site: Site) -> None:
    offer(site, "app-1.0-py3-none-any.whl", requires="lib>=2")
    offer(site, "lib-1.0-py3-none-any.whl")
    with pytest.raises(ResolveError) as caught:
        wheels.resolve(request("app==1.0"))
    assert caught.value.message.startswith("wheels: no resolution\n  ")
    assert caught.value.hint == "change engine.version, resolve.as_of or resolve.exclude"


def test_an_index_that_cannot_be_reached_is_not_the_versions_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    forget()
    with pytest.raises(ResolveError) as caught:
        wheels.resolve(request("app"))
    assert caught.value.message.startswith("wheels: a package index cannot be read\n  ")
    assert caught.value.hint.startswith("check the network, proxy and certificates ")


def test_a_cache_that_cannot_be_written_is_this_machines_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", "/proc/no-such-folder")
    with pytest.raises(HostError) as caught:
        wheels.resolve(request("app"))
    assert caught.value.message.startswith("wheels: uv cannot write its cache\n  ")
    assert "UV_CACHE_DIR" in caught.value.hint


FLAGS = """\
error: Failed to fetch: https://h.test/simple/idna/
  cause: invalid peer certificate: UnknownIssuer

hint: Consider enabling use of system TLS certificates with the `--system-certs` command-line flag
hint: `lib` was found on https://h.test, but not as 2. Use `--index-strategy unsafe` to go on
"""


def test_flags_of_uv_are_not_advised() -> None:
    assert wheels._reason(FLAGS).splitlines() == [  # noqa: SLF001
        "  error: Failed to fetch: https://h.test/simple/idna/",
        "    cause: invalid peer certificate: UnknownIssuer",
        "  hint: `lib` was found on https://h.test, but not as 2.",
    ]


CERTIFICATES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "own": ({"SSL_CERT_FILE": "/a.pem", "PIP_CERT": "/b.pem"}, {"SSL_CERT_FILE": "/a.pem"}),
    "pip's": ({"PIP_CERT": "/b.pem"}, {"SSL_CERT_FILE": "/b.pem"}),
    "the system's": ({}, {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}),
    "as the user says": ({"UV_SYSTEM_CERTS": "0"}, {"UV_SYSTEM_CERTS": "0", "UV_NATIVE_TLS": "1"}),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_uv_trusts_what_pip_trusts(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given, expected = CERTIFICATES[name]
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    for key, text in given.items():
        monkeypatch.setenv(key, text)
    forget()
    names = ("SSL_CERT_FILE", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS")
    found = wheels._environment()  # noqa: SLF001
    assert {key: found[key] for key in names if key in found} == expected
    assert web.certificates() == expected.get("SSL_CERT_FILE")


def test_credentials_of_an_index_are_not_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    host = site.url.removeprefix("http://")
    site.status["/simple/app/"] = 401
    monkeypatch.setenv("PIP_INDEX_URL", f"http://jane:secret@{host}/simple?token=secret")
    forget()
    with pytest.raises(ResolveError) as caught:
        wheels.resolve(request("app"))
    assert "secret" not in caught.value.message + caught.value.hint


def test_a_locked_wheel_is_sought_where_it_was_and_where_its_digest_is(site: Site) -> None:
    file = "app-1.0-py3-none-any.whl"
    pin = wheel_maker.pin(file, offer(site, file))
    index.remember(pin.sha256, "https://was.test/app.whl")
    assert list(wheels.urls(pin, ())) == ["https://was.test/app.whl", f"{site.url}/files/{file}"]
    other = pin.model_copy(update={"sha256": "cd" * 32})
    assert list(wheels.urls(other, ())) == []


@pytest.mark.parametrize(("version", "is_sought"), [("1.0+cpu", True), ("1.0", False)])
def test_the_catalogues_page_is_asked_for_local_versions_alone(
    site: Site, version: str, is_sought: bool
) -> None:
    file = f"app-{version}-py3-none-any.whl"
    site.pages["/page"] = f'<a href="{file}">{file}</a>'.encode()
    pin = wheel_maker.pin(file, b"")
    expected = [f"{site.url}/{file}"] if is_sought else []
    assert list(wheels.urls(pin, (f"{site.url}/page",))) == expected
    assert ("/page" in site.paths()) == is_sought


def test_a_catalogues_page_out_of_reach_names_the_file_and_the_way_out(site: Site) -> None:
    file = "app-1.0+cpu-py3-none-any.whl"
    site.status["/page"] = 403
    with pytest.raises(ResolveError) as caught:
        list(wheels.urls(wheel_maker.pin(file, b""), (f"{site.url}/page",)))
    assert caught.value.message == f"{file}: {site.url}/page: answered 403"
    assert "PIP_FIND_LINKS" in caught.value.hint


@pytest.mark.network
def test_a_real_package_as_of_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_CACHE", str(tmp_path))
    (found,) = wheels.resolve(request("idna", as_of=datetime.date(2024, 10, 1)))
    assert found == Wheel(
        name="idna",
        version="3.10",
        file="idna-3.10-py3-none-any.whl",
        size=70442,
        sha256="946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3",
        uploaded=datetime.datetime(2024, 9, 15, 18, 7, 37, tzinfo=datetime.UTC),
    )
