"""The same container started again, and its engine killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smoke.containers import Box
    from smoke.streams import Drain

NOTICE_SECONDS = 30
KILLED = 137
"""128 + SIGKILL, as shells and Docker say it."""


@dataclass(frozen=True)
class Kill:
    """What followed from the engine's sudden end."""

    code: int | None
    log: str


@pytest.fixture(scope="module")
def restarted(second: Box, drained: Drain) -> Box:
    second.restart("restart")
    return second


@pytest.fixture(scope="module")
def killed(restarted: Box) -> Kill:
    """The engine is the one child of process 1 that the launcher started."""
    module = restarted.image.serve["argv"][2]
    children = [one for one in restarted.answers("processes") if one["parent"] == 1]
    (engine,) = [one for one in children if module in one["command"]]
    list(restarted.answers("kill", pid=engine["pid"]))
    return Kill(restarted.await_end(NOTICE_SECONDS), restarted.log())


def test_becomes_ready_after_a_restart(restarted: Box) -> None:
    assert restarted.looks[-1].status == 200
    answer = restarted.post("/v1/completions", prompt="Hello", max_tokens=4)
    assert answer.status == 200, answer.body


def test_killed_engine_is_noticed(killed: Kill) -> None:
    assert killed.code is not None, f"still runs {NOTICE_SECONDS} s after"


def test_killed_engine_is_reported(killed: Kill) -> None:
    assert "engine ended by SIGKILL" in killed.log


def test_exit_code_is_kept(restarted: Box, killed: Kill) -> None:
    assert killed.code == KILLED
    assert restarted.state()["ExitCode"] == KILLED
