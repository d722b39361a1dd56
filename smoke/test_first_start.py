"""The first start: no network, read-only root, an unknown UID, an empty cache.

Every request is sent from inside.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from packaging.utils import canonicalize_name

from smoke.containers import VENV_PYTHON, Answer, Box

if TYPE_CHECKING:
    from builder import lock as locks
    from smoke.image import Image

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BLOBS = "/models/blobs/sha256"
STREAMED_TOKENS = 64
EARLY = 0.6
"""Part of a stream's whole time by which its first chunk must have come."""
NETWORK_FAULTS = re.compile(
    r"Network is unreachable|Name or service not known|Temporary failure in name resolution"
    r"|Max retries exceeded|NewConnectionError|ConnectError"
)


def served(box: Box, route: str) -> str:
    if route not in box.image.serve["routes"]:
        pytest.skip(f"the image does not serve {route}")
    return route


def longest(box: Box) -> int:
    """Tokens that fit, by the server's own account."""
    (model,) = box.ask("GET", "/v1/models").values["data"]
    return int(model["max_model_len"])


def assert_refused(box: Box, answer: Answer) -> None:
    """Refused by 4xx with a reason in JSON, and the server goes on serving."""
    assert 400 <= answer.status < 500, f"expected 4xx, got {answer.status}: {answer.body[:200]}"
    assert answer.values
    assert box.probe("/readyz").status == 200, "not ready any more"
    assert box.post(COMPLETIONS, prompt="Hello", max_tokens=1).status == 200


def test_unready_until_warmed(first: Box) -> None:
    *before, ready = [look for look in first.looks if look.status]
    assert before, "ready at the first look"
    assert {look.status for look in before} == {503}
    assert ready.state == "ready"
    assert "warm-up" in first.log(), "the log tells of no warm-up"


def test_docker_health_is_starting_until_ready(first: Box) -> None:
    seen = {look.health for look in first.looks if look.status != 200}
    assert seen == {"starting"}


def test_docker_health_becomes_healthy(first: Box) -> None:
    assert first.await_health() == "healthy"


def test_ready_and_live_and_started(first: Box) -> None:
    answers = {path: first.probe(path).status for path in ("/livez", "/readyz", "/startupz")}
    assert set(answers.values()) == {200}, str(answers)


def test_model_is_listed_by_its_name(first: Box) -> None:
    listed = [model["id"] for model in first.ask("GET", "/v1/models").values["data"]]
    assert listed == [first.image.serve["model"]]


def test_completion_answers(first: Box) -> None:
    answer = first.post(served(first, COMPLETIONS), prompt="Hello", max_tokens=8, ignore_eos=True)
    assert answer.status == 200, answer.body
    assert answer.values["usage"]["completion_tokens"] == 8


def test_chat_answers(first: Box) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    answer = first.post(served(first, CHAT), messages=messages, max_tokens=8)
    assert answer.status == 200, answer.body
    (choice,) = answer.values["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("length", "stop")


def test_streaming_streams(first: Box) -> None:
    """The first chunk comes well before the last, and chunks come one after the other."""
    body = {"model": first.image.serve["model"], "prompt": "Hello", "stream": True}
    text = json.dumps({**body, "max_tokens": STREAMED_TOKENS, "ignore_eos": True})
    port = first.image.serve["port"]
    (answer,) = first.answers("stream", port=port, path=served(first, COMPLETIONS), body=text)
    assert answer["status"] == 200
    *chunks, end = answer["events"]
    assert end["text"] == "[DONE]"
    times = [chunk["seconds"] for chunk in chunks]
    assert len({round(moment, 3) for moment in times}) >= 3, f"all at once: {times}"
    assert times[0] < EARLY * times[-1], f"first after {times[0]:.3f} s of {times[-1]:.3f} s"


def test_metrics_are_present(first: Box) -> None:
    metrics: dict[str, Any] | None = first.image.serve["metrics"]
    if metrics is None:
        pytest.skip("the image names no metrics")
    text = first.ask("GET", metrics["path"]).body
    names = [*metrics["waiting"], *metrics["running"], *metrics["tokens"]]
    counted = {line.split("{")[0].split(" ")[0] for line in text.splitlines()}
    missing = sorted(set(names) - counted)
    assert not missing, f"no {', '.join(missing)}"


def test_malformed_request_is_refused(first: Box) -> None:
    assert_refused(first, first.ask("POST", served(first, COMPLETIONS), "{not json"))


def test_unknown_model_is_refused(first: Box) -> None:
    body = json.dumps({"model": "no-such-model", "prompt": "Hello"})
    assert_refused(first, first.ask("POST", served(first, COMPLETIONS), body))


def test_oversized_prompt_is_refused(first: Box) -> None:
    body = json.dumps({"model": first.image.serve["model"], "max_tokens": 1})
    sent = first.ask("POST", served(first, COMPLETIONS), body, tokens=longest(first) + 16)
    assert_refused(first, sent)


def test_weights_lie_under_their_digests(first: Box) -> None:
    """Every blob hashes to its own name; with a lock, every file of the model to the lock."""
    blobs = [str(blob["path"]) for blob in first.answers("blobs", folder=BLOBS)]
    assert blobs, "the image holds no weights"
    hashed = {one["path"]: one["sha256"] for one in first.answers("digests", paths=blobs)}
    wrong = {path: got for path, got in hashed.items() if path.rpartition("/")[2] != got}
    assert not wrong, f"not what the name says: {wrong}"


def test_model_files_hash_to_the_lock(first: Box) -> None:
    expected = expected_files(first.image)
    found = {one["path"]: one for one in first.answers("digests", paths=list(expected))}
    wrong = [path for path in expected if found[path]["sha256"] != expected[path]]
    assert not wrong, f"not what the lock says: {', '.join(wrong)}"
    weights = [one for path, one in found.items() if path.endswith(".safetensors")]
    assert weights
    assert all(one["real"] == f"{BLOBS}/{one['sha256']}" for one in weights)


def expected_files(image: Image) -> dict[str, str]:
    """What the lock says lies in the folder that the engine opens."""
    if image.lock is None:
        pytest.skip("no lock to compare with: give --lock")
    argv = image.serve["argv"]
    folder = argv[argv.index("--model") + 1]
    files = [file for model in image.lock.models for file in model.files]
    return {f"{folder}/{file.path}": file.sha256 for file in files}


def test_installed_versions_are_the_locked_ones(first: Box) -> None:
    if first.image.lock is None:
        pytest.skip("no lock to compare with: give --lock")
    found = {
        str(canonicalize_name(one["name"])): str(one["version"])
        for one in first.answers("versions", VENV_PYTHON)
    }
    assert found == locked_versions(first.image.lock)


def locked_versions(lock: locks.Lock) -> dict[str, str]:
    return {str(canonicalize_name(wheel.name)): wheel.version for wheel in lock.wheels}


def test_processes_run_as_the_user_asked(first: Box, other_user: int) -> None:
    users = {(one["user"], one["group"]) for one in first.answers("processes")}
    assert users == {(other_user, 0)}


def test_nothing_tried_the_network(first: Box) -> None:
    tries = [line for line in first.log().splitlines() if NETWORK_FAULTS.search(line)]
    assert not tries, f"the log tells of the network: {tries[0]}"
