"""The rendered context in a real engine, built as printed, against the native image.

Builds and exports the whole stack: minutes.
"""

import json
import re
import shlex
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builder import dockerfile
from builder.digest import of_chunks

ROOT = Path(__file__).parents[1]
STACK = ROOT / "stacks" / "tiny-llama-cpu.yaml"
LOCK = ROOT / "lockfiles" / "pylock.tiny-llama-cpu.toml"
REPOSITORY = "localhost:5000/demo/tiny-llama-cpu"

pytestmark = pytest.mark.engine

INSTALLER = re.compile(r"\.dist-info/(INSTALLER|RECORD)$")
"""Says who installed a wheel, and what that made of it."""
ONLY_UV = re.compile(r"\.dist-info/(REQUESTED|uv_cache\.json)$")
"""Notes that uv leaves for itself."""
SCRIPT = re.compile(r"^opt/venv/bin/")
"""Console scripts: uv words them in another way."""


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def builder(*words: str | Path) -> str:
    command = [sys.executable, "-m", "builder", *map(str, words)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Pair:
    """The same lock, built twice."""

    native: str
    rendered: str


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    tag = f"test-{uuid.uuid4().hex[:8]}"
    made = Pair(f"{REPOSITORY}:{tag}-native", f"{REPOSITORY}:{tag}-rendered")
    folder = tmp_path_factory.mktemp("render") / "a context"
    try:
        builder("build", STACK, "--output", "docker", "--tag", f"{tag}-native")
        command = builder("render", STACK, "-o", folder, "--tag", f"{tag}-rendered")
        subprocess.run(shlex.split(command), cwd=folder, check=True)
        yield made
    finally:
        subprocess.run(["docker", "rmi", "--force", made.native, made.rendered], check=False)


def config(image: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .Config}}", image))
    values.pop("ArgsEscaped", None)  # BuildKit says so of every command in a Dockerfile
    return {key: value for key, value in values.items() if value not in (None, [], {}, "")}


Tree = dict[str, tuple[Any, ...]]


def tree(image: str) -> Tree:
    """Path → kind, mode, owner, and the content's digest or the link's target."""
    container = docker("create", image)
    argv = ["docker", "export", container]
    try:
        with (
            subprocess.Popen(argv, stdout=subprocess.PIPE) as running,
            tarfile.open(fileobj=running.stdout, mode="r|") as archive,
        ):
            return {member.name: described(member, archive) for member in archive}
    finally:
        docker("rm", container)


def described(member: tarfile.TarInfo, archive: tarfile.TarFile) -> tuple[Any, ...]:
    content = archive.extractfile(member) if member.isreg() else None
    last = of_chunks(iter(partial(content.read, 1 << 20), b"")) if content else member.linkname
    return member.type, member.mode, member.uid, member.gid, last


def test_config_is_that_of_the_native_image(pair: Pair) -> None:
    native, rendered = config(pair.native), config(pair.rendered)
    assert set(native) >= {"User", "Env", "Entrypoint", "Healthcheck", "Labels", "ExposedPorts"}
    assert rendered == native


def test_files_are_those_of_the_native_image(pair: Pair) -> None:
    native, rendered = tree(pair.native), tree(pair.rendered)
    assert sorted(set(native) - set(rendered)) == []
    assert [path for path in set(rendered) - set(native) if not ONLY_UV.search(path)] == []
    other = [path for path in native if rendered[path] != native[path]]
    assert [path for path in other if not (INSTALLER.search(path) or SCRIPT.search(path))] == []
    scripts = [path for path in other if SCRIPT.search(path)]
    assert [path for path in scripts if rendered[path][:4] != native[path][:4]] == []


def test_rendered_image_passes_smoke(pair: Pair) -> None:
    report = json.loads(builder("smoke", pair.rendered, "--lock", LOCK, "--json"))
    assert {check["outcome"] for check in report["checks"]} == {"passed"}


def test_buildkit_reads_quoted_values_as_they_are_meant(tmp_path: Path) -> None:
    values = [
        '{"a":"b$HOME"}',
        'it\'s $X ${Y} "q" \\ \\n end\\',
        "\\",
        '"',
        "$",
        "",
        "# <<EOF `id`",
    ]
    quoted = [dockerfile.quote(value) for value in values]
    lines = [f"ENV V{number}={text}" for number, text in enumerate(quoted)]
    lines += [f"LABEL 'l{number}'={text}" for number, text in enumerate(quoted)]
    (tmp_path / "Dockerfile").write_text("\n".join(["FROM scratch", *lines, ""]))
    tag = f"test-{uuid.uuid4().hex[:8]}"
    argv = ["docker", "buildx", "build", "--provenance=false", "--tag", tag, "--load", "."]
    subprocess.run(argv, cwd=tmp_path, check=True)
    try:
        found = config(tag)
    finally:
        docker("rmi", tag)
    variables = dict(entry.split("=", 1) for entry in found["Env"])
    assert [variables[f"V{number}"] for number in range(len(values))] == values
    assert [found["Labels"][f"l{number}"] for number in range(len(values))] == values
