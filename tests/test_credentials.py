"""Logins are found where Docker, Podman and CI systems leave them, and never shown."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.errors import HostError, ToolError
from builder.oci.credentials import Credentials, find, login
from builder.reference import parse

SECRET = "pass-phrase-of-ada"
DEMO = "localhost:5000/team/demo"
HUB_KEY = "https://index.docker.io/v1/"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nobody has logged in."""
    for name in ("DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **config: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def docker(home: Path) -> Callable[..., Path]:
    return lambda **config: write(home / ".docker" / "config.json", **config)


@pytest.fixture
def helper(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A credential helper that writes down what it was asked."""
    folder = home / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(output: str, code: int = 0, name: str = "test") -> Path:
        asked = folder / "asked"
        program = folder / f"docker-credential-{name}"
        program.write_text(
            f"#!/bin/sh\n{{ echo $1; cat; }} >{asked}\ncat <<'END'\n{output}\nEND\nexit {code}\n"
        )
        program.chmod(0o755)
        return asked

    return make


def user(text: str) -> str | None:
    found = find(parse(text))
    return found.username if found else None


def test_nobody_has_logged_in() -> None:
    assert find(parse(DEMO)) is None


def test_the_places_come_in_order(
    home: Path, docker: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    docker(auths={"localhost:5000": auth("home")})
    seen.append(user(DEMO))
    write(home / "other" / "config.json", auths={"localhost:5000": auth("docker")})
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "other"))
    seen.append(user(DEMO))
    write(home / "run" / "containers" / "auth.json", auths={"localhost:5000": auth("podman")})
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    seen.append(user(DEMO))
    path = write(home / "chosen.json", auths={"localhost:5000": auth("chosen")})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
    seen.append(user(DEMO))
    given = json.dumps({"auths": {"localhost:5000": auth("ci")}})
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", given)
    seen.append(user(DEMO))
    assert seen == ["home", "docker", "podman", "chosen", "ci"]


def test_a_place_that_knows_another_registry_is_passed_over(
    docker: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"ghcr.io": auth("ci")}}))
    docker(auths={"localhost:5000": auth("home")})
    assert user(DEMO) == "home"


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        ("localhost:5000", DEMO),
        ("localhost:5000/", DEMO),
        ("https://localhost:5000", DEMO),
        ("http://localhost:5000/v1/", DEMO),
        ("localhost:5000/v2/", DEMO),
        ("localhost:5000/team", DEMO),
        ("localhost:5000/team/demo", DEMO),
        (HUB_KEY, "debian"),
        ("docker.io", "debian"),
        ("index.docker.io", "debian"),
        ("registry-1.docker.io", "debian"),
        ("docker.io/library", "debian"),
    ],
)
def test_keys_that_mean_a_repository(docker: Callable[..., Path], key: str, reference: str) -> None:
    docker(auths={key: auth("ada")})
    assert user(reference) == "ada"


@pytest.mark.parametrize(
    "key", ["localhost", "localhost:5001", "localhost:5000/other", "localhost:5000/team/demo2"]
)
def test_keys_that_mean_another_one(docker: Callable[..., Path], key: str) -> None:
    docker(auths={key: auth("ada")})
    assert user(DEMO) is None


def test_the_nearest_key_decides(docker: Callable[..., Path]) -> None:
    docker(auths={"localhost:5000": auth("far"), "localhost:5000/team": auth("near")})
    assert [user(DEMO), user("localhost:5000/demo")] == ["near", "far"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("ada", "with:colon"), Credentials("ada", "with:colon")),
        ({"username": "ada", "password": SECRET}, Credentials("ada", SECRET)),
        (auth("ada", "") | {"identitytoken": "t"}, Credentials("ada", "", "t")),
        ({"identitytoken": "t"}, Credentials("", "", "t")),
        ({}, None),
        ({"email": "ada@example.com"}, None),
    ],
)
def test_forms_of_an_entry(
    docker: Callable[..., Path], entry: dict[str, str], expected: Credentials | None
) -> None:
    docker(auths={"localhost:5000": entry})
    assert find(parse(DEMO)) == expected


@pytest.mark.parametrize(
    ("reference", "section", "server"),
    [
        (DEMO, {"credsStore": "test"}, "localhost:5000"),
        (DEMO, {"credHelpers": {"localhost:5000": "test"}, "credsStore": "no"}, "localhost:5000"),
        ("debian", {"credsStore": "test"}, HUB_KEY),
        ("debian", {"credHelpers": {"docker.io": "test"}}, HUB_KEY),
    ],
)
def test_a_helper_is_asked(
    docker: Callable[..., Path],
    helper: Callable[..., Path],
    reference: str,
    section: dict[str, Any],
    server: str,
) -> None:
    asked = helper(json.dumps({"ServerURL": server, "Username": "ada", "Secret": SECRET}))
    docker(**section)
    assert find(parse(reference)) == Credentials("ada", SECRET)
    assert asked.read_text() == f"get\n{server}"


def test_a_helper_may_have_an_identity_token(
    docker: Callable[..., Path], helper: Callable[..., Path]
) -> None:
    helper(json.dumps({"Username": "<token>", "Secret": SECRET}))
    docker(credsStore="test")
    assert find(parse(DEMO)) == Credentials("", "", SECRET)


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("credentials not found in native keychain", 1),
        (json.dumps({"Username": "", "Secret": ""}), 0),
    ],
)
def test_what_a_helper_does_not_have_may_be_in_the_file(
    docker: Callable[..., Path], helper: Callable[..., Path], output: str, code: int
) -> None:
    helper(output, code)
    docker(credsStore="test", auths={"localhost:5000": auth("file")})
    assert user(DEMO) == "file"


def test_a_helper_that_is_missing(docker: Callable[..., Path], helper: Callable[..., Path]) -> None:
    path = docker(credsStore="absent")
    with pytest.raises(HostError) as caught:
        find(parse(DEMO))
    assert caught.value.message == (
        f"{path}: names the credential helper `docker-credential-absent`, which is not installed"
    )


def test_a_helper_that_fails(docker: Callable[..., Path], helper: Callable[..., Path]) -> None:
    helper("the keychain is locked", 1)
    docker(credsStore="test")
    with pytest.raises(ToolError) as caught:
        find(parse(DEMO))
    # What it printed may be a secret.
    assert caught.value.message == "docker-credential-test get: exited with 1"
    assert caught.value.hint == "try it: echo localhost:5000 | docker-credential-test get"


@pytest.mark.parametrize("code", [0, 1])
def test_a_helper_that_prints_a_secret_in_the_wrong_form(
    docker: Callable[..., Path], helper: Callable[..., Path], code: int
) -> None:
    helper(json.dumps({"User": "ada", "Password": SECRET}), code)
    docker(credsStore="test")
    with pytest.raises((HostError, ToolError)) as caught:
        find(parse(DEMO))
    assert "docker-credential-test" in caught.value.message
    assert SECRET not in caught.value.message


def test_a_helper_that_cannot_be_started(
    docker: Callable[..., Path], helper: Callable[..., Path]
) -> None:
    (helper("").parent / "docker-credential-test").write_text("#!/nowhere/at/all\n")
    docker(credsStore="test")
    with pytest.raises(HostError, match="docker-credential-test: no such file or directory"):
        find(parse(DEMO))


@pytest.mark.parametrize("name", ["../evil", "a b", 7])
def test_the_name_of_a_helper_is_no_path(docker: Callable[..., Path], name: object) -> None:
    docker(credsStore=name)
    with pytest.raises(HostError, match="is not the name of a credential helper"):
        find(parse(DEMO))


@pytest.mark.parametrize("text", ["{", "[]", f'"{SECRET}"', f'{{"auths": {SECRET}'])
def test_a_file_that_is_not_json(docker: Callable[..., Path], text: str) -> None:
    path = docker()
    path.write_text(text)
    with pytest.raises(HostError) as caught:
        find(parse(DEMO))
    assert caught.value.message == f"{path}: expected a JSON object with logins to registries"


@pytest.mark.parametrize("text", ["%%%", base64.b64encode(SECRET.encode()).decode(), "w7z/"])
def test_an_entry_that_is_not_base64(docker: Callable[..., Path], text: str) -> None:
    path = docker(auths={"localhost:5000": {"auth": text}})
    with pytest.raises(HostError) as caught:
        find(parse(DEMO))
    fault = "auths: `localhost:5000`: `auth` is not `user:password` in base64"
    assert caught.value.message == f"{path}: {fault}"
    assert caught.value.hint == "log in again: docker login localhost:5000"


@pytest.mark.parametrize("text", ["", "  \n", "{}", '{"auths": null, "credHelpers": []}'])
def test_a_file_without_logins(docker: Callable[..., Path], text: str) -> None:
    docker().write_text(text)
    assert find(parse(DEMO)) is None


def test_a_folder_in_place_of_the_file(home: Path) -> None:
    (home / ".docker" / "config.json").mkdir(parents=True)
    with pytest.raises(HostError, match=r"config\.json: is a directory"):
        find(parse(DEMO))


def test_a_secret_has_no_representation() -> None:
    assert SECRET not in repr(Credentials("ada", SECRET, SECRET))


def test_how_to_log_in() -> None:
    assert [login("docker.io"), login("ghcr.io")] == ["docker login", "docker login ghcr.io"]
