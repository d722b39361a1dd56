"""What every test may use, and why a test is left out on this machine.

A test marked `engine`, `network` or `gpu` is skipped, with the reason in one line, where the thing
does not answer. Each is asked once a run, and only when a test needs it.
"""

import ctypes
import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

INDEX_TIMEOUT = 60


def pytest_configure() -> None:
    # A shell starts what runs in the background deaf to Ctrl-C; tests send it to themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file of tests/golden, or make it that file's content."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8"), "run pytest --update-golden to accept this"

    return compare


def ping_engine() -> None:
    client = docker.from_env(timeout=10)
    try:
        client.ping()
    finally:
        client.close()


@functools.cache
def engine_missing() -> str | None:
    """Why no engine can be used, or nothing where one answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaks a socket that failed
        try:
            ping_engine()
        except (DockerException, OSError) as fault:
            return f"no container engine answers: {fault}"
        finally:
            gc.collect()
    return None


@functools.cache
def network_missing() -> str | None:
    """Ask pip, which knows this machine's index, proxy and certificates."""
    command = [sys.executable, "-m", "pip", "--retries=0", "--timeout=10"]
    command += ["index", "versions", "packaging"]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=INDEX_TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return "the package index cannot be reached"
    return None


@functools.cache
def gpu_missing() -> str | None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "no NVIDIA driver: libnvidia-ml.so.1 cannot be loaded"
    return None


@pytest.fixture(scope="session")
def registry() -> str:
    """Host and port of a registry that may be written to."""
    address = os.environ.get("BUILDER_TEST_REGISTRY", "127.0.0.1:5000")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return address
    except OSError:
        pytest.skip(f"no registry answers on {address}")


NEEDS: dict[str, Callable[[], str | None]] = {
    "engine": engine_missing,
    "network": network_missing,
    "gpu": gpu_missing,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            pytest.skip(reason)
