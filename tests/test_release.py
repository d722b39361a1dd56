"""From a stack to a registry: what moves, and what does not have to."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import console
from tests import hub_server, registry_server
from tests.command_line import runner
from tests.hub_server import REPO, Hub
from tests.registry_server import Registry
from tests.small_stack import FILES, SHARDS, SmallStack

HUB_MODEL = f"{{repo: {REPO}, revision: main}}"
TAG = "v1"

Build = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    yield
    console.configure(quiet=False)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    (tmp_path / "registry").mkdir()
    with registry_server.serving(tmp_path / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def hub_running() -> Iterator[Hub]:
    with hub_server.serving() as running:
        yield running


@pytest.fixture
def hub(hub_running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fresh = Hub(endpoint=hub_running.endpoint, cdn=hub_running.cdn)
    vars(hub_running).update(vars(fresh))
    hub_running.large = set(SHARDS)
    hub_running.commit(FILES)
    monkeypatch.setenv("HF_ENDPOINT", hub_running.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub_running


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Build:
    run = runner(monkeypatch, capsys)

    def call(stack: SmallStack, *words: str, cache: Path | None = None) -> tuple[int, str, str]:
        monkeypatch.setenv("BUILDER_CACHE", str(cache or stack.cache))
        return run("build", str(stack.path), *words)

    return call


@pytest.fixture
def stack(tmp_path: Path, hub: Hub) -> SmallStack:
    """A stack whose model is on the hub."""
    return SmallStack(tmp_path / "one", model=HUB_MODEL)


def reference(registry: Registry, repository: str = "demo/small", tag: str = TAG) -> str:
    return f"{registry.host}/{repository}:{tag}"


def weight_layers(out: str) -> dict[str, int]:
    """The weight layers of `--json`: digest and size."""
    layers = json.loads(out)["layers"]
    return {row["digest"]: row["size"] for row in layers if row["title"].startswith("weights")}


def weights_asked(hub: Hub) -> list[str]:
    """Requests for the content of weight files."""
    return [request.path for request in hub.requests if request.path.startswith("/cdn/")]


def elsewhere(tmp_path: Path, hub: Hub, **text: Any) -> SmallStack:
    """The same stack on a machine that has its lock and its software, and never had weights."""
    other = SmallStack(tmp_path / "other", model=HUB_MODEL, **text)
    hub.requests.clear()
    return other


def with_layers_of(other: SmallStack, built: SmallStack) -> None:
    """What a version control system does: the lock's layer digests travel."""
    from builder import lock as locks

    layers = {f.sha256: f.layer for f in built.lock.models[0].files if f.layer}
    locks.write(other.lock_path, locks.with_layers(other.lock, layers))


def test_a_push_sends_everything_once_and_the_lock_learns_the_layers(
    registry: Registry, stack: SmallStack, build: Build
) -> None:
    assert {f.layer for f in stack.lock.models[0].files} == {None}
    code, out, err = build(stack, "--push", reference(registry), "--json")
    assert code == 0, err
    answer = json.loads(out)
    (layer,) = weight_layers(out)
    assert {f.layer for f in stack.lock.models[0].files if f.path in SHARDS} == {layer}
    assert "added the digests of weight layers" in err
    assert registry.content.resolve("demo/small", TAG) == answer["digest"]
    assert registry.content.violations() == []
    (pushed,) = answer["pushed"]
    assert pushed["digest"] == answer["digest"]
    assert (pushed["mounted"], pushed["present"], pushed["sent_again_bytes"]) == (0, 0, 0)
    code, out, err = build(stack, "--push", reference(registry))
    assert (code, out) == (0, f"{answer['digest']}\n")
    assert f"0 blobs sent (0 B), 0 mounted, {pushed['sent']} there already" in err


def test_a_new_engine_moves_no_weight_byte_and_needs_no_weights_here(
    tmp_path: Path, registry: Registry, stack: SmallStack, hub: Hub, build: Build
) -> None:
    _, first, _ = build(stack, "--push", reference(registry), "--json")
    other = elsewhere(tmp_path, hub, version="0.33.0")
    with_layers_of(other, stack)
    registry.requests.clear()
    code, out, err = build(other, "--push", reference(registry, tag="v2"), "--json")
    assert code == 0, err
    assert weight_layers(out) == weight_layers(first)
    assert json.loads(out)["digest"] != json.loads(first)["digest"]
    (layer,) = weight_layers(out)
    assert [r.method for r in registry.requests if layer in r.target] == ["HEAD"]
    assert weights_asked(hub) == []
    sent = json.loads(out)["pushed"][0]["sent_bytes"]
    assert registry.received() == sent
    assert registry.content.violations() == []


def test_another_repository_takes_the_layers_over(
    tmp_path: Path, registry: Registry, stack: SmallStack, hub: Hub, build: Build
) -> None:
    build(stack, "--push", reference(registry))
    other = elsewhere(tmp_path, hub, version="0.33.0")
    with_layers_of(other, stack)
    registry.requests.clear()
    words = ("--push", reference(registry, "team/other"), "--mount-from", "demo/small", "--json")
    code, out, err = build(other, *words)
    assert code == 0, err
    (layer,) = weight_layers(out)
    name = layer.removeprefix("sha256:")
    assert [(r.method, r.status) for r in registry.requests if name in r.target] == [
        ("HEAD", 404),
        ("POST", 201),
    ]
    assert weights_asked(hub) == []
    assert registry.content.violations() == []


def test_the_repository_of_the_stack_is_a_source_too(
    tmp_path: Path, registry: Registry, hub: Hub, build: Build
) -> None:
    repository = f"{registry.host}/demo/small"
    stack = SmallStack(tmp_path / "one", model=HUB_MODEL, repository=repository)
    build(stack, "--push", f"{repository}:{TAG}")
    hub.requests.clear()
    code, out, _ = build(stack, "--push", reference(registry, "team/other"), "--json")
    assert code == 0
    (pushed,) = json.loads(out)["pushed"]
    assert (pushed["sent"], pushed["mounted"]) == (1, 5)  # the config is sent, it is small


def test_a_blob_the_registry_lacks_is_named_and_fetched_alone(
    tmp_path: Path, registry: Registry, stack: SmallStack, hub: Hub, build: Build
) -> None:
    build(stack, "--push", reference(registry))
    other = elsewhere(tmp_path, hub, version="0.33.0")
    with_layers_of(other, stack)
    code, _, err = build(other, "--push", reference(registry, "team/other"))
    assert code == 0, err
    for path, data in SHARDS.items():
        assert f"{path} ({len(data)} B) is needed and not here: fetching it" in err
    assert len(weights_asked(hub)) == len(SHARDS)
    assert registry.content.violations() == []


def test_streamed_weights_leave_nothing_on_this_disk(
    tmp_path: Path, registry: Registry, stack: SmallStack, hub: Hub, build: Build
) -> None:
    code, out, err = build(stack, "--stream", "--push", reference(registry), "--json")
    assert code == 0, err
    weights = {f.sha256 for f in stack.lock.models[0].files if f.path in SHARDS}
    assert not [path for path in stack.cache.rglob("*") if path.name.split(".")[0] in weights]
    whole = SmallStack(tmp_path / "whole", model=HUB_MODEL)
    _, expected, _ = build(whole, "--push", reference(registry, "team/whole"), "--json")
    assert json.loads(out)["digest"] == json.loads(expected)["digest"]
    assert registry.content.violations() == []


def test_wrong_bytes_on_the_hub_never_become_an_image(
    registry: Registry, stack: SmallStack, hub: Hub, build: Build
) -> None:
    path, data = next(iter(SHARDS.items()))
    hub.served[path] = bytes(len(data))
    for words in ((), ("--stream",)):
        code, out, err = build(stack, "--push", reference(registry), *words)
        assert (code, out) == (10, "")
        assert path in err
    assert not registry.content.held["demo/small"].manifests


def test_locked_builds_leave_the_lock_alone(
    registry: Registry, stack: SmallStack, build: Build
) -> None:
    before = stack.lock_path.read_bytes()
    code, _, err = build(stack, "--locked", "--push", reference(registry))
    assert code == 0
    assert stack.lock_path.read_bytes() == before
    assert "lacks digests of weight layers: build without --locked" in err


def test_a_registry_that_does_not_answer_stops_the_build_before_any_work(
    tmp_path: Path, stack: SmallStack, build: Build
) -> None:
    code, out, err = build(stack, "--push", "127.0.0.1:1/demo/small:v1")
    assert (code, out) == (9, "")
    assert "127.0.0.1:1" in err
    assert not (stack.cache / "blobs").exists()


def test_flags_of_a_push_say_nothing_without_one(stack: SmallStack, build: Build) -> None:
    code, _, err = build(stack, "--mount-from", "demo/other")
    assert code == 2
    assert err == (
        "error: --mount-from, --insecure-registry: say nothing without --push\n"
        "hint: add --push REF\n"
    )


def test_other_registries_are_no_source(stack: SmallStack, build: Build) -> None:
    words = ("--push", "127.0.0.1:1/demo:v1", "--mount-from", "ghcr.io/acme/demo")
    code, _, err = build(stack, *words)
    assert code == 2
    assert "`ghcr.io` is not the one pushed to, `127.0.0.1:1`" in err


def test_without_a_tag_the_image_keeps_its_own(
    registry: Registry, stack: SmallStack, build: Build
) -> None:
    code, out, err = build(stack, "--push", f"{registry.host}/demo/small", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["pushed"][0]["reference"] == f"{registry.host}/demo/small:0.32.0"
    assert registry.content.resolve("demo/small", "0.32.0") == answer["digest"]


def test_a_missing_login_is_found_before_any_work(
    registry: Registry, stack: SmallStack, build: Build
) -> None:
    registry.access.mode = "basic"
    code, out, err = build(stack, "--push", reference(registry))
    assert (code, out) == (9, "")
    assert "docker login" in err
    assert not (stack.cache / "blobs").exists()


def test_a_lock_and_a_machine_that_disagree_publish_nothing(
    registry: Registry, stack: SmallStack, build: Build
) -> None:
    from builder import lock as locks

    build(stack)
    wrong = {f.sha256: f"sha256:{'1' * 64}" for f in stack.lock.models[0].files if f.layer}
    locks.write(stack.lock_path, locks.with_layers(stack.lock, wrong))
    code, out, err = build(stack, "--push", reference(registry))
    assert (code, out) == (10, "")
    assert "the lock says layer sha256:1111" in err
    assert "-P model" in err


def test_a_host_that_is_not_pushed_to_is_no_insecure_registry(
    stack: SmallStack, build: Build
) -> None:
    words = ("--push", "127.0.0.1:1/demo:v1", "--insecure-registry", "http://127.0.0.1:1/")
    code, _, err = build(stack, *words)
    assert code == 2
    assert "`http://127.0.0.1:1/` is not pushed to" in err
