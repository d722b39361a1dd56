"""Smoke checks of one image: `pytest smoke --image REF [--lock FILE] [--report FILE]`.

Three starts at most, in this order: sealed off with an empty cache, open with that cache, the same
again.  Each start is a fixture, and its checks are rows of their own; if it fails, they all fail.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config

from builder import lock as locks
from smoke import containers, streams
from smoke.containers import Box, Cache, Options
from smoke.image import Image, narrowed
from smoke.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smoke.streams import Drain

ORDER = ("test_static", "test_first_start", "test_second_start", "test_restart")
REPORT = pytest.StashKey[Report]()
FIRST_UID, UIDS = 20_000, 30_000


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smoke")
    group.addoption("--image", metavar="REF", help="the image to check")
    group.addoption("--lock", metavar="FILE", type=Path, help="the lock it was made from")
    group.addoption("--report", metavar="FILE", type=Path, help="write JSON lines, one a check")


def pytest_configure(config: pytest.Config) -> None:
    testcontainers_config.ryuk_disabled = True  # its image may be out of reach; fixtures clean up
    report = Report(config.getoption("--report"))
    config.stash[REPORT] = report
    config.pluginmanager.register(report)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: known.get(item.path.stem, len(known)))


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env()
        client.ping()
    except (DockerException, OSError) as fault:
        pytest.exit(f"no container engine answers: {fault}", returncode=pytest.ExitCode.USAGE_ERROR)
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(pytestconfig: pytest.Config, client: docker.DockerClient) -> Image:
    reference, path = pytestconfig.getoption("--image"), pytestconfig.getoption("--lock")
    if not reference:
        pytest.exit("give --image REF", returncode=pytest.ExitCode.USAGE_ERROR)
    found: Any = client.images.get(reference)
    made = Image(reference, found.attrs, found.history(), None)
    if not path:
        return made
    try:
        return replace(made, lock=narrowed(locks.read(path), made))
    except LookupError as fault:
        pytest.exit(f"{path}: {fault}", returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def runnable(image: Image, client: docker.DockerClient) -> Image:
    """The image, where this engine has the devices that it needs."""
    engine: Any = client.info()
    if image.needs_gpu and "nvidia" not in engine["Runtimes"]:
        pytest.skip("the image needs an NVIDIA GPU and this engine has no runtime for one")
    return image


@pytest.fixture(scope="session")
def cache(client: docker.DockerClient) -> Iterator[Cache]:
    """A volume for caches, empty at first."""
    volume = client.volumes.create(f"builder-smoke-{uuid.uuid4().hex[:12]}")
    yield Cache(str(volume.name))
    volume.remove(force=True)


@pytest.fixture(scope="session")
def other_user(image: Image) -> int:
    """A UID that the image knows nothing of."""
    chosen = FIRST_UID + secrets.randbelow(UIDS)
    return chosen if chosen != image.user else chosen + 1


@pytest.fixture(scope="module")
def first(runnable: Image, cache: Cache, other_user: int, report: Report) -> Iterator[Box]:
    """No network, read-only root, a UID that nobody expects, an empty cache."""
    options = Options("first start", cache.volume, f"{other_user}:0", is_sealed=True)
    with containers.started(runnable, options, report.note) as box:
        box.await_ready()
        yield box
        cache.objects, cache.cold_seconds = box.compiled(), box.ready_seconds


@pytest.fixture(scope="session")
def second(runnable: Image, cache: Cache, report: Report) -> Iterator[Box]:
    """The image's own user, writable root, published port, the cache of the first start."""
    with containers.started(runnable, Options("second start", cache.volume), report.note) as box:
        box.await_ready()
        if cache.objects:
            times = f"{box.ready_seconds:.0f} s with the cache, {cache.cold_seconds:.0f} s without"
            report.note(f"second start: {times}, {len(cache.objects)} compiled objects in it")
        yield box


@pytest.fixture(scope="session")
def drained(second: Box) -> Drain:
    """What came of telling the second start to stop while it streamed."""
    return streams.drain(second)
