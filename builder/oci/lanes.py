"""Work on many things at once in threads that nobody has to wait for."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from threading import Event, Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_GRACE = 0.5
"""Seconds that threads get to end once the work has failed: what they do is lost anyway."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Waiting = deque[tuple[_Item, Future[_Result]]]


def side_by_side(
    work: Callable[[_Item], _Result], items: Sequence[_Item], lanes: int, stop: Event
) -> list[_Result]:
    """Return the results in order; the first fault, or Ctrl-C, sets `stop` and is raised.

    The threads are daemons: one that sleeps or sits in a socket by then ends with the process,
    where a `ThreadPoolExecutor` would have the process wait for it.
    """
    waiting = deque((item, Future[_Result]()) for item in items)
    futures = [future for _, future in waiting]
    threads = [
        Thread(target=_lane, args=(work, waiting, stop), daemon=True)
        for _ in range(min(lanes, len(items)))
    ]
    try:
        for thread in threads:
            thread.start()
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        results = {future: future.result() for future in done}
        return [results[future] for future in futures]
    except BaseException:
        stop.set()
        _join(threads, time.monotonic() + _GRACE)
        raise


def _lane(work: Callable[[_Item], _Result], waiting: _Waiting[_Item, _Result], stop: Event) -> None:
    while not stop.is_set():
        try:
            item, future = waiting.popleft()
        except IndexError:
            return
        try:
            future.set_result(work(item))
        except BaseException as fault:  # noqa: BLE001 - raised where the results are awaited
            future.set_exception(fault)


def _join(threads: Sequence[Thread], deadline: float) -> None:
    for thread in threads:
        if thread.is_alive():
            thread.join(max(deadline - time.monotonic(), 0.0))
