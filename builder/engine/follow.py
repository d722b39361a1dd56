"""Stay with a container until it ends: pass its log on, say when it answers, forward signals.

Signals and threads put events into one queue, and one loop takes them out.
"""

from __future__ import annotations

import http.client
import queue
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.engine.protocol import Running

_ASK_PERIOD = 0.5
_ANSWER_SECONDS = 5.0
_LAST_LINES_SECONDS = 5.0
_FOREVER = 3600.0
_OK = 200


@dataclass(frozen=True)
class Ready:
    """It answers."""


@dataclass(frozen=True)
class Asked:
    """Somebody wants it to stop."""


@dataclass(frozen=True)
class Ended:
    """It is over."""

    code: int


@dataclass(frozen=True)
class Lost:
    """The engine no longer tells how it is."""

    fault: Exception


Event = Ready | Asked | Ended | Lost


def follow(running: Running, is_ready: Callable[[], bool], announce: Callable[[], object]) -> int:
    """Return the exit code, when it has ended.

    The first Ctrl-C or SIGTERM asks it to finish its requests and stop, the second kills it.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    over = threading.Event()
    log = _thread(lambda: _pass_on(running))
    _thread(lambda: events.put(_end(running)))
    _thread(lambda: _await(is_ready, over, events))
    try:
        with _signals(lambda: events.put(Asked())):
            return _until_ended(running, events, announce)
    finally:
        over.set()
        log.join(_LAST_LINES_SECONDS)
        running.remove()


def _until_ended(
    running: Running, events: queue.SimpleQueue[Event], announce: Callable[[], object]
) -> int:
    requests_to_stop = 0
    while True:
        match events.get():
            case Ready():
                announce()
            case Asked():
                requests_to_stop += 1
                _stop(running, requests_to_stop)
            case Ended(code):
                return code
            case Lost(fault):
                raise fault


def _stop(running: Running, times: int) -> None:
    if times == 1:
        console.note("stopping: requests may finish; once more to kill")
        running.signal("SIGTERM")
    else:
        running.signal("SIGKILL")


def _end(running: Running) -> Event:
    while True:
        try:
            return Ended(running.wait(_FOREVER))
        except TimeoutError:
            continue
        except Exception as fault:  # noqa: BLE001 - raised again where the events are taken
            return Lost(fault)


def _pass_on(running: Running) -> None:
    for line in running.logs():
        console.note(line)


def _await(
    is_ready: Callable[[], bool], over: threading.Event, events: queue.SimpleQueue[Event]
) -> None:
    while not over.is_set():
        if is_ready():
            events.put(Ready())
            return
        over.wait(_ASK_PERIOD)


def answers(port: int, path: str = "/readyz") -> bool:
    """Tell whether this machine's `port` says 200 to `path`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == _OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@contextmanager
def _signals(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` for every Ctrl-C and SIGTERM."""
    before = {
        number: signal.signal(number, lambda *_: tell())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
