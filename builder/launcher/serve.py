"""Serve: preflight, engine, warm-up, watch, drain, in the order that `lifecycle` decides.

Threads put events into one queue, a thread that waits for signals among them, and one loop takes
them out: nothing here needs a lock, and no signal interrupts anything.
"""

import errno
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from builder.launcher import (
    arguments,
    environment,
    host,
    preflight,
    probes,
    spec,
    tail,
    variables,
    warmup,
    watch,
)
from builder.launcher import engine as engines
from builder.launcher.client import client
from builder.launcher.exits import ExitCode, LauncherError, signal_name
from builder.launcher.lifecycle import (
    Action,
    Course,
    DeadlinePassed,
    EngineEnded,
    Event,
    Signalled,
    Turn,
    begin,
    step,
)
from builder.launcher.output import Output

_STOPS = (signal.SIGTERM, signal.SIGINT)

_SHARED = 0o002
"""Every user of the image is in group 0: what one leaves in a cache volume, another can renew."""

_FOREVER = 3600.0
"""Longest wait for an event where there is no deadline."""


def main(extra: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until the engine ends or somebody says stop; the exit code of the container."""
    started = time.monotonic()
    os.umask(_SHARED)
    output = Output()
    told = spec.parse(environ)
    argv = (*told.argv, *extra)
    target = arguments.target(told, argv, environ)
    supervisor = Supervisor(told, target, output, started)
    # Before the preflight: process 1 does not even notice a signal that it has no handler for,
    # and a driver can take long to answer.
    supervisor.listen()
    prepared = environment.prepare(environ)
    _preflight(told.require, prepared, environ, output)
    probes.serve(told.probe_port, lambda: supervisor.course.status)
    _refuse_taken(target.port)
    return supervisor.run(argv, prepared.values)


class Supervisor:
    """Carries out what the lifecycle decides."""

    def __init__(
        self, told: spec.Spec, target: arguments.Target, output: Output, started: float
    ) -> None:
        """Be ready to run the engine; `started` is when the start budget began."""
        self.course: Course = begin(started, told.start_budget, told.drain)
        self._spec = told
        self._target = target
        self._output = output
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._around = watch.Surroundings(
            ask=client(target),
            post=self._events.put,
            say=output.say,
            over=threading.Event(),
        )
        self._engine: engines.Engine | None = None

    def listen(self) -> None:
        """Take signals from now on; those that come before `run` are acted on there."""
        # Blocked and waited for, not handled: a handler runs only when the main thread next comes
        # round, which a signal just before a long wait does not bring about. Threads inherit this.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        self._begin(self._take_signals)

    def _take_signals(self) -> None:
        while True:
            self._events.put(Signalled(signal_name(signal.sigwait(_STOPS))))

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Start the engine as `argv`, live its life, and return the exit code."""
        self._output.say(f"starting {arguments.shown(argv)}")
        self._engine = engines.start(
            argv, env, self._output, lambda ended: self._events.put(EngineEnded(ended))
        )
        self._begin(lambda: watch.await_health(self._around, self._spec.health))
        while self.course.exit is None:
            self._take(self._next())
        self._around.over.set()
        return self.course.exit

    def _next(self) -> Event:
        deadline = self.course.deadline
        left = _FOREVER if deadline is None else deadline - time.monotonic()
        try:
            return self._events.get(timeout=min(max(left, 0.0), _FOREVER))
        except queue.Empty:
            return DeadlinePassed()

    def _take(self, event: Event) -> None:
        if isinstance(event, EngineEnded) and self._engine:
            self._engine.kill()
            self._engine.last_lines()  # waits for them: what we say comes after
        turn = step(self.course, event, time.monotonic())
        self.course = turn.course
        self._tell(turn)
        for action in turn.actions:
            self._act(action)

    def _tell(self, turn: Turn) -> None:
        for line in turn.says:
            self._output.say(line)
        for line in turn.complaints:
            self._output.complain(line)
        if turn.course.exit is not None and turn.course.shows_tail and self._engine:
            lines = tail.useful(self._engine.last_lines())
            self._output.complain("the engine's last useful lines:" if lines else "no output")
            for line in lines:
                self._output.complain(f"| {line}")

    def _act(self, action: Action) -> None:
        match action:
            case Action.WARM_UP:
                self._warm_up()
            case Action.WATCH:
                self._begin(lambda: watch.watch(self._around, self._spec))
            case Action.DRAIN:
                self._begin(lambda: watch.drain(self._around, self._spec.metrics))
            case Action.TERMINATE if self._engine:
                self._engine.terminate()
            case Action.KILL if self._engine:
                self._engine.kill()

    def _warm_up(self) -> None:
        routes, deadline = self._spec.routes, self.course.deadline or 0.0
        steps = warmup.plan(routes, self._target.model, self._target.max_model_len)
        for route in routes:
            if all(one.route != route for one in steps):
                self._output.say(f"warm-up: no request is known for {route}, not asked")
        self._begin(lambda: watch.warm_up(self._around, steps, deadline))

    def _begin(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()


def _preflight(
    require: spec.Require,
    prepared: environment.Prepared,
    environ: Mapping[str, str],
    output: Output,
) -> None:
    mode = environ.get(variables.PREFLIGHT) or "on"
    if mode not in ("on", "warn", "off"):
        fault = f"{variables.PREFLIGHT}: must be on, warn or off, got `{mode}`"
        raise LauncherError(ExitCode.SPEC, fault)
    if mode == "off":
        return
    findings = preflight.judge(host.read(prepared, require, environ), require)
    for finding in findings:
        kind = "error" if finding.code and mode == "on" else "warning"
        output.complain(f"{kind}: {finding.fault}; found: {finding.found}")
        output.complain(f"hint: {finding.hint}")
    code = preflight.fatal(findings)
    if code and mode == "on":
        fault = "this host cannot run this image"
        raise LauncherError(code, fault, f"to try all the same: -e {variables.PREFLIGHT}=warn")


def _refuse_taken(port: int) -> None:
    # Another server on the engine's port (with --network host) would answer in its place.
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return  # the engine will say what it thinks of such a port
            fault = f"cannot serve on port {port}: {error.strerror}"
            hint = "free the port, or choose another one: docker run IMAGE --port N"
            raise LauncherError(ExitCode.PORT_TAKEN, fault, hint) from error
