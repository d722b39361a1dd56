"""What to do when something happens to the engine (pure): `step(course, event, now) -> Turn`.

Events come from threads and signals, one at a time; the supervisor carries out the actions of each
turn. Nothing here waits, and an event that comes too late for the phase changes nothing.
"""

import signal
from dataclasses import dataclass, replace
from enum import Enum, auto

from builder.launcher.exits import ExitCode, ending, shell_code
from builder.launcher.states import State, Status, move

STOP_GRACE = 10.0
"""Seconds between asking the engine to stop and killing it."""

KILL_GRACE = 5.0
"""Seconds to wait for a killed engine; one that hangs in the kernel is left behind."""


class Phase(Enum):
    """What the launcher is busy with; finer than `State` at the end of life."""

    STARTING = auto()
    WARMING = auto()
    SERVING = auto()
    DRAINING = auto()
    STOPPING = auto()
    KILLING = auto()


class Action(Enum):
    """Something to do outside this module."""

    WARM_UP = auto()
    WATCH = auto()
    DRAIN = auto()
    TERMINATE = auto()
    KILL = auto()


@dataclass(frozen=True)
class Signalled:
    """Somebody asked the launcher to stop."""

    name: str


@dataclass(frozen=True)
class EngineEnded:
    """The engine is gone; -n: by signal n."""

    ended: int


@dataclass(frozen=True)
class EngineAnswered:
    """The engine's own health route said 200 for the first time."""


@dataclass(frozen=True)
class WarmedUp:
    """Every warm-up request is answered."""


@dataclass(frozen=True)
class WarmUpFailed:
    """A warm-up request was not answered as it must."""

    reason: str


@dataclass(frozen=True)
class Stalled:
    """No token moved for too long although requests wait."""

    reason: str


@dataclass(frozen=True)
class Recovered:
    """Tokens move again."""


@dataclass(frozen=True)
class Unfinished:
    """Requests that a stop would cut off; None: not known."""

    requests: int | None


@dataclass(frozen=True)
class DeadlinePassed:
    """The deadline of the phase is over."""


Event = (
    Signalled
    | EngineEnded
    | EngineAnswered
    | WarmedUp
    | WarmUpFailed
    | Stalled
    | Recovered
    | Unfinished
    | DeadlinePassed
)


@dataclass(frozen=True)
class Course:
    """The launcher's whole memory. Times are in seconds of the monotonic clock."""

    status: Status
    started: float
    start_budget: float
    drain: float
    deadline: float | None
    phase: Phase = Phase.STARTING
    answered: float = 0.0
    """When the engine answered."""
    unfinished: int | None = None
    """Requests last seen while draining."""
    code: int | None = None
    """Exit code once the engine is gone; None: the engine's own."""
    shows_tail: bool = False
    """Whether the engine's last lines help to understand the end."""
    exit: int | None = None
    """Set: all is over."""


@dataclass(frozen=True)
class Turn:
    """What follows from an event."""

    course: Course
    actions: tuple[Action, ...] = ()
    says: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()


def begin(now: float, start_budget: float, drain: float) -> Course:
    """The course of an engine that is being started `now`."""
    status = Status(state=State.STARTING, reason="the engine is loading", entered=now)
    deadline = now + start_budget
    return Course(status, started=now, start_budget=start_budget, drain=drain, deadline=deadline)


def step(course: Course, event: Event, now: float) -> Turn:
    """What `event` changes and asks for."""
    match event:
        case EngineEnded(ended):
            return _ended(course, ended, now)
        case Signalled(name):
            return _signalled(course, name, now)
        case DeadlinePassed():
            return _too_late(course, now)
        case EngineAnswered() | WarmedUp() | WarmUpFailed():
            return _started(course, event, now)
        case Stalled() | Recovered():
            return _watched(course, event, now)
        case Unfinished(requests):
            return _drained(course, requests, now)


def _started(course: Course, event: EngineAnswered | WarmedUp | WarmUpFailed, now: float) -> Turn:
    match event, course.phase:
        case EngineAnswered(), Phase.STARTING:
            status = move(course.status, State.WARMING, "the first requests are running", now)
            warming = replace(course, phase=Phase.WARMING, answered=now, status=status)
            says = f"engine answers after {now - course.started:.1f} s, warming up"
            return Turn(warming, (Action.WARM_UP,), (says,))
        case WarmedUp(), Phase.WARMING:
            return _ready(course, now)
        case WarmUpFailed(reason), Phase.WARMING:
            fault = f"warm-up failed: {reason}"
            return _give_up(course, ExitCode.WARM_UP, fault, now)
        case _:
            return Turn(course)


def _ready(course: Course, now: float) -> Turn:
    status = move(course.status, State.READY, "", now)
    serving = replace(course, phase=Phase.SERVING, status=status, deadline=None)
    loading, warming = course.answered - course.started, now - course.answered
    parts = f"engine {loading:.1f} s, warm-up {warming:.1f} s"
    says = f"ready after {now - course.started:.1f} s ({parts})"
    return Turn(serving, (Action.WATCH,), (says,))


def _watched(course: Course, event: Stalled | Recovered, now: float) -> Turn:
    state = course.status.state
    if course.phase is not Phase.SERVING:
        return Turn(course)
    match event:
        case Stalled(reason) if state is State.READY:
            stalled = replace(course, status=move(course.status, State.FAILED, reason, now))
            return Turn(stalled, complaints=(f"not live: {reason}",))
        case Recovered() if state is State.FAILED:
            says = f"live again after {now - course.status.entered:.1f} s: tokens move"
            live = replace(course, status=move(course.status, State.READY, "", now))
            return Turn(live, says=(says,))
    return Turn(course)


def _drained(course: Course, requests: int | None, now: float) -> Turn:
    counted = replace(course, unfinished=requests)
    if course.phase is not Phase.DRAINING or requests != 0:
        return Turn(counted)
    return _stop(counted, "drained: no request is running, stopping the engine", now)


def _signalled(course: Course, name: str, now: float) -> Turn:
    match course.phase:
        case Phase.STARTING | Phase.WARMING:
            status = move(course.status, State.DRAINING, f"{name} before ready", now)
            return _stop(replace(course, status=status), f"{name} before ready: stopping now", now)
        case Phase.SERVING:
            status = move(course.status, State.DRAINING, f"{name}: requests may finish", now)
            deadline = now + course.drain
            draining = replace(course, phase=Phase.DRAINING, status=status, deadline=deadline)
            says = f"{name}: draining, requests have {course.drain:g} s to finish"
            return Turn(draining, (Action.DRAIN,), (says,))
        case Phase.DRAINING:
            return _stop(course, f"{name} again: stopping now{_cut_off(course)}", now)
        case Phase.STOPPING:
            return _kill(course, f"{name} again: killing the engine", now)
        case Phase.KILLING:
            return Turn(course)


def _too_late(course: Course, now: float) -> Turn:
    budget = f"within {course.start_budget:g} s (start_budget)"
    match course.phase:
        case Phase.STARTING:
            return _give_up(course, ExitCode.START_BUDGET, f"engine did not answer {budget}", now)
        case Phase.WARMING:
            fault = f"warm-up did not finish {budget}"
            return _give_up(course, ExitCode.START_BUDGET, fault, now)
        case Phase.DRAINING:
            says = f"drain of {course.drain:g} s is over{_cut_off(course)}, stopping the engine"
            return _stop(course, says, now)
        case Phase.STOPPING:
            return _kill(course, f"engine did not stop within {STOP_GRACE:g} s: killing it", now)
        case Phase.KILLING:
            left = "the killed engine does not end: leaving it behind"
            code = shell_code(-signal.SIGKILL) if course.code is None else course.code
            return Turn(replace(course, exit=code), complaints=(left,))
        case Phase.SERVING:
            return Turn(replace(course, deadline=None))


def _ended(course: Course, ended: int, now: float) -> Turn:
    own = shell_code(ended)
    if course.phase in (Phase.STOPPING, Phase.KILLING):
        code = own if course.code is None else course.code
        return Turn(replace(course, exit=code), says=(f"engine ended {ending(ended)}",))
    fault = f"engine ended {ending(ended)} while {course.status.state.value}"
    if course.status.state is not State.FAILED:
        course = replace(course, status=move(course.status, State.FAILED, fault, now))
    over = replace(course, exit=own, shows_tail=ended != 0)
    hints = (_OUT_OF_MEMORY,) if ended == -signal.SIGKILL else ()
    return Turn(over, complaints=(f"error: {fault}", *hints))


_OUT_OF_MEMORY = (
    "hint: a kill from outside is often the kernel short of memory; "
    "see `docker inspect` (OOMKilled), give the container more with --memory"
)


def _stop(course: Course, says: str, now: float) -> Turn:
    # A stop that was asked for is a success, whatever the engine makes of SIGTERM.
    stopping = replace(course, phase=Phase.STOPPING, deadline=now + STOP_GRACE, code=0)
    return Turn(stopping, (Action.TERMINATE,), (says,))


def _kill(course: Course, complaint: str, now: float) -> Turn:
    # Nothing is lost by killing what never served; after that the kill shows in the exit code.
    code = None if course.code == 0 and course.status.was_ready else course.code
    killing = replace(course, phase=Phase.KILLING, deadline=now + KILL_GRACE, code=code)
    return Turn(killing, (Action.KILL,), complaints=(complaint,))


def _give_up(course: Course, code: ExitCode, fault: str, now: float) -> Turn:
    status = move(course.status, State.FAILED, fault, now)
    failed = replace(course, status=status, code=int(code), shows_tail=True)
    killing = replace(failed, phase=Phase.KILLING, deadline=now + KILL_GRACE)
    return Turn(killing, (Action.KILL,), complaints=(f"error: {fault}",))


def _cut_off(course: Course) -> str:
    if course.unfinished is None:
        return ", requests that still run are cut off"
    if course.unfinished == 0:
        return ""
    plural = "" if course.unfinished == 1 else "s"
    return f", {course.unfinished} request{plural} cut off"
