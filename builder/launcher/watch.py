"""What runs beside the supervisor, each in a thread that posts events.

Nothing here decides what an event means; that is `lifecycle`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from builder.launcher import warmup
from builder.launcher.client import Ask, UnreachableError
from builder.launcher.lifecycle import (
    EngineAnswered,
    Event,
    Recovered,
    Stalled,
    Unfinished,
    WarmedUp,
    WarmUpFailed,
)
from builder.launcher.metrics import Sample, sample
from builder.launcher.progress import Progress, observe, stall
from builder.launcher.spec import Metrics, Spec

_HEALTH_PERIOD = 0.1
_ANSWER_SECONDS = 5.0
"""How long the engine may take for its health or its counters."""
_WATCH_PERIOD = 5.0
_DRAIN_PERIOD = 0.5
_OK = 200

Post = Callable[[Event], None]


@dataclass(frozen=True)
class Surroundings:
    """What the threads share: how to ask, tell, speak, and when to give up."""

    ask: Ask
    post: Post
    say: Callable[[str], None]
    over: threading.Event
    """Set when nothing is asked of the engine any more."""


def await_health(around: Surroundings, path: str) -> None:
    """Post `EngineAnswered` at the first 200."""
    while not around.over.is_set():
        if _is_healthy(around.ask, path):
            around.post(EngineAnswered())
            return
        around.over.wait(_HEALTH_PERIOD)


def warm_up(around: Surroundings, steps: tuple[warmup.Step, ...], deadline: float) -> None:
    """Post `WarmedUp` or `WarmUpFailed`; `deadline` is on the monotonic clock."""
    try:
        warmup.run(steps, around.ask, lambda: deadline - time.monotonic(), around.say)
    except warmup.WarmUpError as error:
        around.post(WarmUpFailed(str(error)))
    else:
        around.post(WarmedUp())


def watch(around: Surroundings, spec: Spec) -> None:
    """Post `Stalled` when tokens stop moving, `Recovered` when they move again."""
    if spec.metrics is None or spec.stall == 0:
        around.say("progress is not watched: the image names no counters or no `stall` time")
        return
    period = min(_WATCH_PERIOD, spec.stall / 4)
    progress = Progress(fine_at=time.monotonic())
    is_stalled = False
    has_counters = True
    while not around.over.wait(period):
        look = _look(around.ask, spec.metrics)
        if look is not None and has_counters is (look.tokens is None):
            has_counters = look.tokens is not None
            around.say("progress is watched" if has_counters else _NO_COUNTERS)
        progress = observe(progress, look, time.monotonic())
        reason = stall(progress, time.monotonic(), spec.stall)
        if (reason is not None) is not is_stalled:
            is_stalled = reason is not None
            around.post(Recovered() if reason is None else Stalled(reason))


_NO_COUNTERS = "progress is not watched: the engine does not count tokens (statistics off?)"


def drain(around: Surroundings, metrics: Metrics | None) -> None:
    """Post how many requests are unfinished, 0 only when two looks in a row say so."""
    idle_looks = 0
    while metrics is not None and not around.over.is_set():
        look = _look(around.ask, metrics)
        requests = None if look is None else look.requests
        idle_looks = idle_looks + 1 if requests == 0 else 0
        if requests != 0 or idle_looks > 1:
            around.post(Unfinished(requests))
        around.over.wait(_DRAIN_PERIOD)


def _is_healthy(ask: Ask, path: str) -> bool:
    try:
        return ask(path, None, _ANSWER_SECONDS).status == _OK
    except UnreachableError:
        return False


def _look(ask: Ask, metrics: Metrics) -> Sample | None:
    try:
        answer = ask(metrics.path, None, _ANSWER_SECONDS)
    except UnreachableError:
        return None
    return sample(answer.body.decode("utf-8", "replace"), metrics) if answer.status == _OK else None
