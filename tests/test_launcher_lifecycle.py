"""What follows from each event, and what the probes answer meanwhile: no process, no clock."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from builder.launcher.exits import ExitCode, ending, shell_code
from builder.launcher.healthcheck import judge, probe_port
from builder.launcher.lifecycle import (
    Action,
    Course,
    DeadlinePassed,
    EngineAnswered,
    EngineEnded,
    Event,
    Phase,
    Recovered,
    Signalled,
    Stalled,
    Turn,
    Unfinished,
    WarmedUp,
    WarmUpFailed,
    begin,
    step,
)
from builder.launcher.states import ImpossibleMoveError, State, Status, body, move, passes

TERM = Signalled("SIGTERM")
SERVING: tuple[Event, ...] = (EngineAnswered(), WarmedUp())


def after(*events: Event) -> Turn:
    """The last turn of a course that began at 0; events come at 1, 2, 3..."""
    turn = Turn(begin(0.0, start_budget=600.0, drain=30.0))
    for now, event in enumerate(events, start=1):
        turn = step(turn.course, event, float(now))
    return turn


def summary(course: Course) -> tuple[State, Phase, int | None, int | None]:
    return course.status.state, course.phase, course.code, course.exit


def test_engine_that_answers_is_warmed_up() -> None:
    turn = after(EngineAnswered())
    assert summary(turn.course) == (State.WARMING, Phase.WARMING, None, None)
    assert turn.actions == (Action.WARM_UP,)
    assert turn.course.deadline == 600.0


def test_warm_engine_is_ready_and_watched() -> None:
    turn = after(*SERVING)
    assert summary(turn.course) == (State.READY, Phase.SERVING, None, None)
    assert turn.actions == (Action.WATCH,)
    assert turn.says == ("ready after 2.0 s (engine 1.0 s, warm-up 1.0 s)",)
    assert turn.course.deadline is None


def test_failed_warm_up_ends_the_engine() -> None:
    turn = after(EngineAnswered(), WarmUpFailed("500"))
    assert summary(turn.course) == (State.FAILED, Phase.KILLING, ExitCode.WARM_UP, None)
    assert turn.actions == (Action.KILL,)
    assert turn.complaints == ("error: warm-up failed: 500",)
    over = step(turn.course, EngineEnded(-9), 9.0).course
    assert (over.exit, over.shows_tail) == (ExitCode.WARM_UP, True)


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ((), "error: engine did not answer within 600 s (start_budget)"),
        ((EngineAnswered(),), "error: warm-up did not finish within 600 s (start_budget)"),
    ],
    ids=["starting", "warming"],
)
def test_budget_that_is_over_ends_the_engine(events: tuple[Event, ...], fault: str) -> None:
    turn = after(*events, DeadlinePassed())
    assert summary(turn.course) == (State.FAILED, Phase.KILLING, ExitCode.START_BUDGET, None)
    assert turn.complaints == (fault,)


@pytest.mark.parametrize("events", [(), (EngineAnswered(),)], ids=["starting", "warming"])
def test_stop_before_ready_is_immediate_and_a_success(events: tuple[Event, ...]) -> None:
    turn = after(*events, TERM)
    assert summary(turn.course) == (State.DRAINING, Phase.STOPPING, 0, None)
    assert turn.actions == (Action.TERMINATE,)
    killed = step(turn.course, DeadlinePassed(), 99.0)
    assert killed.actions == (Action.KILL,)
    assert step(killed.course, EngineEnded(-9), 99.0).course.exit == 0


def test_stop_of_a_ready_engine_drains_first() -> None:
    turn = after(*SERVING, TERM)
    assert summary(turn.course) == (State.DRAINING, Phase.DRAINING, None, None)
    assert turn.actions == (Action.DRAIN,)
    assert turn.course.deadline == 33.0
    assert turn.says == ("SIGTERM: draining, requests have 30 s to finish",)


def test_unfinished_requests_keep_the_engine() -> None:
    turn = after(*SERVING, TERM, Unfinished(2))
    assert turn.course.phase is Phase.DRAINING
    assert turn.actions == ()


def test_drained_engine_is_stopped() -> None:
    turn = after(*SERVING, TERM, Unfinished(2), Unfinished(0))
    assert summary(turn.course) == (State.DRAINING, Phase.STOPPING, 0, None)
    assert turn.actions == (Action.TERMINATE,)
    assert turn.course.deadline == 15.0
    assert step(turn.course, EngineEnded(-15), 6.0).course.exit == 0


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        (0, "drain of 30 s is over, stopping the engine"),
        (1, "drain of 30 s is over, 1 request cut off, stopping the engine"),
        (3, "drain of 30 s is over, 3 requests cut off, stopping the engine"),
        (None, "drain of 30 s is over, requests that still run are cut off, stopping the engine"),
    ],
    ids=str,
)
def test_drain_ends_at_its_deadline(requests: int | None, says: str) -> None:
    course = replace(after(*SERVING, TERM).course, unfinished=requests)
    turn = step(course, DeadlinePassed(), 33.0)
    assert turn.says == (says,)
    assert summary(turn.course) == (State.DRAINING, Phase.STOPPING, 0, None)


def test_each_further_signal_is_less_patient() -> None:
    stopping = after(*SERVING, TERM, Unfinished(1), TERM)
    assert stopping.says == ("SIGTERM again: stopping now, 1 request cut off",)
    assert stopping.actions == (Action.TERMINATE,)
    killing = step(stopping.course, TERM, 6.0)
    assert killing.actions == (Action.KILL,)
    assert step(killing.course, TERM, 7.0) == Turn(killing.course)
    assert step(killing.course, EngineEnded(-9), 8.0).course.exit == 137


def test_engine_that_does_not_stop_is_killed_and_shows_in_the_code() -> None:
    stopping = after(*SERVING, TERM, Unfinished(0)).course
    killing = step(stopping, DeadlinePassed(), 20.0)
    assert killing.complaints == ("engine did not stop within 10 s: killing it",)
    assert step(killing.course, EngineEnded(-9), 21.0).course.exit == 137
    left = step(killing.course, DeadlinePassed(), 25.0)
    assert left.course.exit == 137
    assert left.complaints == ("the killed engine does not end: leaving it behind",)


@pytest.mark.parametrize(
    ("events", "ended", "fault", "code"),
    [
        ((), 3, "error: engine ended with code 3 while starting", 3),
        ((EngineAnswered(),), 1, "error: engine ended with code 1 while warming", 1),
        (SERVING, -11, "error: engine ended by SIGSEGV while ready", 139),
        ((*SERVING, TERM), 1, "error: engine ended with code 1 while draining", 1),
        ((*SERVING, Stalled("x")), 1, "error: engine ended with code 1 while failed", 1),
    ],
    ids=["starting", "warming", "ready", "draining", "stalled"],
)
def test_engine_that_ends_by_itself_keeps_its_code(
    events: tuple[Event, ...], ended: int, fault: str, code: int
) -> None:
    turn = after(*events, EngineEnded(ended))
    assert turn.complaints == (fault,)
    assert (turn.course.exit, turn.course.shows_tail) == (code, True)
    assert turn.course.status.state is State.FAILED


def test_engine_that_says_its_help_and_ends_is_a_success() -> None:
    over = after(EngineEnded(0)).course
    assert (over.exit, over.shows_tail) == (0, False)


def test_kill_from_outside_hints_at_memory() -> None:
    assert "OOMKilled" in after(*SERVING, EngineEnded(-9)).complaints[1]


def test_stall_and_recovery() -> None:
    stalled = after(*SERVING, Stalled("no token for 120 s"))
    assert stalled.course.status == Status(State.FAILED, "no token for 120 s", 3.0, was_ready=True)
    assert stalled.complaints == ("not live: no token for 120 s",)
    again = step(stalled.course, Recovered(), 8.0)
    assert again.course.status == Status(State.READY, "", 8.0, was_ready=True)
    assert again.says == ("live again after 5.0 s: tokens move",)


def test_stalled_engine_may_still_drain() -> None:
    assert after(*SERVING, Stalled("x"), TERM).course.phase is Phase.DRAINING


@pytest.mark.parametrize(
    ("events", "late"),
    [
        ((), WarmedUp()),
        ((TERM,), EngineAnswered()),
        ((TERM,), WarmUpFailed("x")),
        ((*SERVING, TERM), Stalled("x")),
        (SERVING, Recovered()),
        (SERVING, DeadlinePassed()),
        ((*SERVING, Stalled("x")), Stalled("y")),
    ],
    ids=str,
)
def test_event_out_of_season_changes_nothing(events: tuple[Event, ...], late: Event) -> None:
    before = after(*events).course
    assert step(before, late, 9.0) == Turn(before)


@pytest.mark.parametrize(
    ("state", "was_ready", "verdicts"),
    [
        (State.STARTING, False, (True, False, False)),
        (State.WARMING, False, (True, False, False)),
        (State.READY, True, (True, True, True)),
        (State.DRAINING, True, (True, False, True)),
        (State.FAILED, False, (False, False, False)),
        (State.FAILED, True, (False, False, True)),
    ],
)
def test_probes(state: State, verdicts: tuple[bool, bool, bool], *, was_ready: bool) -> None:
    status = Status(state, "", 0.0, was_ready)
    found = [passes(status, path) for path in ("/livez", "/readyz", "/startupz")]
    assert tuple(found) == verdicts
    assert passes(status, "/") is None


def test_body_says_since_when() -> None:
    status = Status(State.WARMING, "why", entered=100.0)
    assert body(status, now=102.34, wall=1_700_000_002.34) == {
        "state": "warming",
        "reason": "why",
        "since": "2023-11-14T22:13:20Z",
        "seconds": 2.3,
    }


@pytest.mark.parametrize(
    ("before", "to"),
    [
        (Status(State.STARTING, "", 0.0), State.READY),
        (Status(State.FAILED, "", 0.0), State.READY),
        (Status(State.DRAINING, "", 0.0, was_ready=True), State.READY),
    ],
    ids=["cold", "never-ready", "draining"],
)
def test_impossible_moves(before: Status, to: State) -> None:
    with pytest.raises(ImpossibleMoveError):
        move(before, to, "", 1.0)


def test_exit_codes_stay_clear_of_shells_and_engines() -> None:
    assert all(64 <= code <= 113 for code in ExitCode)
    assert (shell_code(3), shell_code(-15)) == (3, 143)
    assert (ending(1), ending(-signal.SIGKILL), ending(-64)) == (
        "with code 1",
        "by SIGKILL",
        "by SIGRTMAX",
    )
    assert ending(-40) == "by signal 40"


def test_exit_codes_are_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "launcher.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} | `{code.name}` |" in page


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (
            b'HTTP/1.0 200 OK\r\nX: y\r\n\r\n{"state": "ready", "reason": "", "seconds": 3.1}',
            (0, "ready for 3.1 s"),
        ),
        (
            b'HTTP/1.0 503 No\r\n\r\n{"state": "failed", "reason": "why", "seconds": 0.0}',
            (1, "failed for 0.0 s (why)"),
        ),
    ],
    ids=["ready", "failed"],
)
def test_healthcheck_line(reply: bytes, verdict: tuple[int, str]) -> None:
    assert judge(reply) == verdict


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.0 200 OK\r\n\r\nhello", b"\r\n\r\n[]"])
def test_healthcheck_of_something_else(reply: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        judge(reply)


def test_healthcheck_knows_its_port() -> None:
    serve = '{"probe_port": 8081}'
    assert probe_port({"BUILDER_SERVE": serve}) == 8081
    assert probe_port({"BUILDER_SERVE": serve, "BUILDER_PROBE_PORT": "1"}) == 1
    with pytest.raises(ValueError, match="names no probe_port"):
        probe_port({"BUILDER_SERVE": "[]"})
