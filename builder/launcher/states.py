"""The states that the probes report, and what each probe answers in them (pure).

`starting` -> `warming` -> `ready` -> `draining`, and `failed` from any. A stop before `ready` goes
to `draining` directly. `failed` goes back to `ready` only where tokens move again after a stall.
"""

import time
from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where the engine is in its life."""

    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


_NEXT = {
    State.STARTING: {State.WARMING, State.DRAINING, State.FAILED},
    State.WARMING: {State.READY, State.DRAINING, State.FAILED},
    State.READY: {State.DRAINING, State.FAILED},
    State.DRAINING: {State.FAILED},
    State.FAILED: {State.READY, State.DRAINING},
}


@dataclass(frozen=True)
class Status:
    """A state, why, and since when (seconds of the monotonic clock)."""

    state: State
    reason: str
    entered: float
    was_ready: bool = False
    """Whether `ready` was ever reached."""


class ImpossibleMoveError(Exception):
    """A change of state that the life of an engine does not have: a fault in the launcher."""


def move(status: Status, state: State, reason: str, now: float) -> Status:
    """`status` in another `state`."""
    recovers = status.state is State.FAILED and state is State.READY
    if state not in _NEXT[status.state] or (recovers and not status.was_ready):
        fault = f"{status.state.value} -> {state.value}"
        raise ImpossibleMoveError(fault)
    was_ready = status.was_ready or state is State.READY
    return Status(state=state, reason=reason, entered=now, was_ready=was_ready)


def passes(status: Status, path: str) -> bool | None:
    """Whether the probe at `path` succeeds; None: there is no such probe."""
    verdicts = {
        "/livez": status.state is not State.FAILED,
        "/readyz": status.state is State.READY,
        "/startupz": status.was_ready,
    }
    return verdicts.get(path)


def body(status: Status, now: float, wall: float) -> dict[str, object]:
    """What every probe says. `now` is monotonic, `wall` the same moment in Unix time."""
    seconds = max(0.0, now - status.entered)
    return {
        "state": status.state.value,
        "reason": status.reason,
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall - seconds)),
        "seconds": round(seconds, 1),
    }
