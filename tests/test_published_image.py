"""The demo image in a real registry: what others pull is what was built."""

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import docker
import pytest

from builder import outputs, pipeline
from builder.oci.registry import Settings
from builder.reference import Reference, parse

STACK = Path("stacks/tiny-llama-cpu.yaml")

pytestmark = [pytest.mark.engine, pytest.mark.network]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def pushed() -> tuple[Reference, str]:
    host = os.environ.get("BUILDER_TEST_REGISTRY")
    if not host:
        pytest.skip("BUILDER_TEST_REGISTRY names no registry")
    reference = parse(f"{host}/published/{uuid.uuid4().hex[:12]}:v1")
    target = outputs.Registry(reference, (), Settings())
    options = pipeline.BuildOptions(outputs=(target,), may_lock=False)
    return reference, pipeline.build(STACK, options).image.digest


def test_skopeo_copies_it_with_its_digest(tmp_path: Path, pushed: tuple[Reference, str]) -> None:
    reference, digest = pushed
    source, target = f"docker://{reference}", f"oci:{tmp_path / 'layout'}:v1"
    tls = "--src-tls-verify=false"
    run(tool("skopeo"), "copy", "--preserve-digests", tls, source, target)
    (entry,) = json.loads((tmp_path / "layout" / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest


def test_skopeo_names_the_same_digest(pushed: tuple[Reference, str]) -> None:
    reference, digest = pushed
    text = run(tool("skopeo"), "inspect", "--tls-verify=false", f"docker://{reference}")
    assert json.loads(text)["Digest"] == digest


def test_docker_pulls_it_and_it_becomes_healthy(pushed: tuple[Reference, str]) -> None:
    reference, digest = pushed
    client = docker.from_env()
    image: Any = client.images.pull(f"{reference.registry}/{reference.repository}", tag="v1")
    try:
        assert f"{reference.registry}/{reference.repository}@{digest}" in image.attrs["RepoDigests"]
        options: Any = {"detach": True, "shm_size": "1g", "network_mode": "none"}
        container: Any = client.containers.run(image.id, **options)
        try:
            events = client.events(
                decode=True, filters={"container": container.id, "event": "health_status"}
            )
            container.reload()
            status = container.attrs["State"]["Health"]["Status"]
            while status != "healthy":
                status = next(events)["status"].removeprefix("health_status: ")
                assert status in {"healthy", "starting"}, container.logs(tail=50)
        finally:
            container.remove(force=True)
    finally:
        client.images.remove(image.id, force=True)
        client.close()
