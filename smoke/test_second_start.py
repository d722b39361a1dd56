"""The second start: the first one's cache, the image's own user, a published port, SIGTERM."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import pytest

from smoke import streams

if TYPE_CHECKING:
    from smoke.containers import Box, Cache
    from smoke.streams import Drain


def test_becomes_ready_again(second: Box) -> None:
    assert second.looks[-1].status == 200


def test_runs_as_the_images_user(second: Box) -> None:
    users = {(one["user"], one["group"]) for one in second.answers("processes")}
    assert users == {(second.image.user, 0)}


def test_compile_cache_is_hit(second: Box, cache: Cache) -> None:
    """What the first start compiled is there, and nothing was compiled again (time not judged)."""
    if not cache.objects:
        pytest.skip("the first start compiled nothing")
    now = second.compiled()
    anew = sorted(path for path, changed in now.items() if cache.objects.get(path) != changed)
    assert not anew, f"{len(anew)} of {len(now)} compiled again, such as {anew[0]}"


def test_answers_at_the_published_port(second: Box) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", second.port(), timeout=60)
    connection.request("GET", "/v1/models")
    answer = connection.getresponse()
    models = json.loads(answer.read())["data"]
    connection.close()
    assert [model["id"] for model in models] == [second.image.serve["model"]]


def test_writes_nothing_outside_mounts(second: Box) -> None:
    changes = [change["Path"] for change in second.container.diff() or []]
    assert changes == []


def test_unready_while_draining(drained: Drain) -> None:
    assert drained.readiness == 503


def test_sigterm_lets_the_stream_finish(drained: Drain) -> None:
    assert drained.after_signal > 1, "the stream was over before the signal"
    assert drained.events[-1] == "[DONE]", f"cut off after {len(drained.events)} events"
    assert drained.finish_reason == "length"


def test_exits_with_0_inside_the_drain(second: Box, drained: Drain) -> None:
    limit = second.image.serve["drain"] + streams.STOP_GRACE
    assert drained.code is not None, f"still runs {limit} s after SIGTERM"
    assert drained.code == 0
