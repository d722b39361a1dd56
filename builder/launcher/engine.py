"""The engine as a child process: its own session, its output passed on, its end noticed.

As PID 1 the launcher inherits every orphan of the container. One thread waits for all children, so
that nobody else can take the engine's exit status.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence

from builder.launcher.exits import start_error
from builder.launcher.output import Output
from builder.launcher.tail import Tail

_CHUNK = 65536
_LAST_WORDS = 2.0
"""Seconds to wait for the rest of a dead engine's output; a stray child may hold the pipe open."""


class Engine:
    """A started engine, which may have ended since."""

    def __init__(self, process: int, pump: threading.Thread, tail: Tail) -> None:
        """Made by `start`."""
        self._process = process
        self._pump = pump
        self._tail = tail

    def terminate(self) -> None:
        """Ask the engine's first process to stop; it knows best how to stop the others."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGTERM)

    def kill(self) -> None:
        """Kill what is left of the engine's process group."""
        # Permission: a process of the group that became another user is not ours to kill.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process, signal.SIGKILL)

    def last_lines(self) -> list[str]:
        """The end of a dead engine's output, once all of it is passed on."""
        self._pump.join(_LAST_WORDS)
        return self._tail.lines()


def start(
    argv: Sequence[str], env: Mapping[str, str], output: Output, ended: Callable[[int], None]
) -> Engine:
    """Start `argv` and call `ended(status)` from a thread when it is gone, -n: by signal n."""
    reader, writer = os.pipe()
    try:
        process = _spawn(argv, env, writer)
    except OSError as error:
        raise start_error(argv[0], error) from error
    finally:
        os.close(writer)
    tail = Tail()
    pump = _thread("output", lambda: _pump(reader, output, tail))
    _thread("reaper", lambda: _reap(process, ended))
    return Engine(process, pump, tail)


def _spawn(argv: Sequence[str], env: Mapping[str, str], writer: int) -> int:
    actions = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, writer, 1),
        (os.POSIX_SPAWN_DUP2, writer, 2),
    )
    # Its own session: a terminal's Ctrl-C reaches the launcher alone, which drains first. Python
    # ignores SIGPIPE and SIGXFSZ and the launcher blocks its own signals, which a child inherits.
    ignored = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)
    return os.posix_spawnp(
        argv[0],
        list(argv),
        env,
        file_actions=actions,
        setsid=True,
        setsigdef=ignored,
        setsigmask=(),
    )


def _pump(reader: int, output: Output, tail: Tail) -> None:
    while chunk := os.read(reader, _CHUNK):
        output.pass_on(chunk)
        tail.feed(chunk)
    os.close(reader)


def _reap(engine: int, ended: Callable[[int], None]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, 0)
            if process == engine:
                ended(os.waitstatus_to_exitcode(status))


def _thread(name: str, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
