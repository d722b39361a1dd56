"""`builder run` as a person meets it: what it refuses, and one whole run without Docker."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.engine import bubblewrap, namespaces
from builder.errors import HostError

ROOT = Path(__file__).parents[1]
STACK = "stacks/tiny-llama-cpu.yaml"
NOBODY = 65534
BUILDER = [sys.executable, "-m", "builder"]
STOP_SECONDS = 60
ANSWER_SECONDS = 60
TOKENS = 400


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (["some/image:1", "--engine", "sandbox"], 2, "this is no stack file"),
        ([STACK, "--engine", "podman"], 2, "--engine: expected docker or sandbox, got `podman`"),
        (["missing.yaml"], 3, "missing.yaml: cannot be read: no such file or directory"),
    ],
    ids=["reference in the sandbox", "unknown engine", "no such stack"],
)
def test_misuse_is_refused(arguments: list[str], code: int, fault: str) -> None:
    done = subprocess.run(
        [*BUILDER, "run", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert fault in done.stderr


def test_docker_that_is_asked_for_has_to_be_there() -> None:
    environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run(
        [*BUILDER, "run", "some/image:1", "--engine", "docker"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (11, "")
    assert "hint: start Docker, or run a stack in a sandbox" in done.stderr


@pytest.fixture
def project() -> Iterator[Path]:
    """The demo stack with its lock and model, in a folder of whoever runs it."""
    folder = Path(tempfile.mkdtemp(prefix="builder run ", dir="/var/tmp"))
    for name in ("stacks", "lockfiles"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "home").mkdir()
    if user():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def user() -> dict[str, Any]:
    """Another user for root to be, where that one can read this Python and builder."""
    other: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    if os.getuid() != 0:
        return {}
    command = [sys.executable, "-c", "import builder.cli.app"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", **other)
    except PermissionError:
        return {}
    return other if done.returncode == 0 else {}


@contextlib.contextmanager
def asked(url: str, model: str, tokens: int) -> Iterator[Iterator[bytes]]:
    """The lines of a streamed answer to one chat message."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as reply:  # noqa: S310 - as above
        yield (line for line in reply if line.startswith(b"data:"))


@pytest.mark.network
def test_a_stack_is_built_and_served_without_docker_and_without_root(project: Path) -> None:
    try:
        namespaces.check(bubblewrap.find(project / "home/.cache/builder"))
    except HostError as fault:
        pytest.skip(fault.message)
    environment = {**os.environ, "HOME": str(project / "home"), "DOCKER_HOST": "unix:///nowhere"}
    for name in ("XDG_CACHE_HOME", "BUILDER_CACHE"):
        environment.pop(name, None)
    with (project / "log").open("wb") as log:
        process = subprocess.Popen(
            [*BUILDER, "run", STACK, "--port", "18000"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=project,
            env=environment,
            **user(),
        )
    with process:
        assert process.stdout
        line = process.stdout.readline().rstrip()
        try:
            assert line == "http://127.0.0.1:18000/v1 (model tiny-llama)", tail(project)
            with asked("http://127.0.0.1:18000/v1", "tiny-llama", TOKENS) as chunks:
                next(chunks)
                process.send_signal(signal.SIGINT)
                rest = list(chunks)
        finally:
            code = stopped(process)
    assert (len(rest) > TOKENS / 2, rest[-1].strip()) == (True, b"data: [DONE]"), tail(project)
    assert code == 0, tail(project)
    assert "no container engine answers" in (project / "log").read_text()


def stopped(process: subprocess.Popen[str]) -> int:
    """The exit code; killed where the drain did not end it."""
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def tail(project: Path) -> str:
    return "\n".join((project / "log").read_text(errors="replace").splitlines()[-30:])
