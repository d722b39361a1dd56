"""Talk to a person: data to stdout, the rest to stderr, progress with bytes and time left."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from builder.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN_INTERVAL = 5.0
"""Seconds between two lines of progress where there is no terminal."""


class Progress(Protocol):
    """Counts bytes of one step."""

    def advance(self, count: int) -> None:
        """Add `count` bytes."""


class _Settings:
    """What the flags said; set once by the command line."""

    quiet = False


def configure(*, quiet: bool) -> None:
    """Silence notes and progress if `quiet`."""
    _Settings.quiet = quiet


def emit(text: str) -> None:
    """Print data to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_json(value: Any) -> None:
    """Print `value` as indented JSON to stdout."""
    emit(json.dumps(value, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """Print a line to stderr unless quiet."""
    if not _Settings.quiet:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def warn(text: str) -> None:
    """Print a warning to stderr, also when quiet."""
    sys.stderr.write(f"warning: {text}\n")
    sys.stderr.flush()


def fail(message: str, hint: str) -> None:
    """Print an error and its remedy to stderr."""
    sys.stderr.write(f"error: {message}\n")
    for line in hint.splitlines():
        sys.stderr.write(f"hint: {line}\n")
    sys.stderr.flush()


@contextmanager
def step(title: str) -> Iterator[None]:
    """Note how long a step took, once it is done."""
    begin = time.monotonic()
    yield
    note(f"{title} ({human_seconds(time.monotonic() - begin)})")


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """Show a bar on a terminal, a line every few seconds elsewhere; `total` in bytes."""
    if _Settings.quiet or total == 0:
        yield _Silent()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(title, total) as bar:
            yield bar
    else:
        yield _Lines(title, total)


class _Silent:
    def advance(self, count: int) -> None:
        del count


class _Lines:
    """Progress as plain lines, for logs."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._begin = self._shown = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:  # several files advance one step
            self._done += count
            now = time.monotonic()
            if now - self._shown < _PLAIN_INTERVAL:
                return
            self._shown = now
        amount = f"{human_bytes(self._done)} of {human_bytes(self._total)}"
        if self._done <= 0:
            note(f"{self._title}: {amount}")
            return
        left = (now - self._begin) * (self._total - self._done) / self._done
        note(f"{self._title}: {amount}, {human_seconds(max(left, 0.0))} left")


@contextmanager
def _bar(title: str, total: int) -> Iterator[Progress]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=None),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        yield _Bar(display, display.add_task(title, total=total))


class _Bar:
    def __init__(self, display: Any, task: Any) -> None:
        self._display, self._task = display, task

    def advance(self, count: int) -> None:
        self._display.advance(self._task, count)
