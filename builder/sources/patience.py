"""Ask again where that helps: a busy server when it says, an expired link at once."""

from __future__ import annotations

import email.utils
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from builder import console
from builder.errors import ResolveError
from builder.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import urllib3

BUSY = (429, 500, 502, 503, 504)
REFUSED = (401, 403)
LONGEST_SECONDS = 300.0
"""A server that asks for more is told to a person instead."""
_FIRST_SECONDS = 0.5
_WORTH_SAYING = 2.0
_RESET = re.compile(r"(?:^|;)\s*t=([0-9]+)")
"""Seconds until requests are allowed again (IETF draft, RateLimit header fields for HTTP)."""


def asked(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to be left alone, None if it does not say."""
    said = headers.get("retry-after", "").strip()
    reset = _RESET.search(headers.get("ratelimit", ""))
    if said.isdecimal():
        return float(said)
    if said:
        return _until(said)
    return float(reset[1]) if reset else None


def _until(date: str) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    return max(0.0, when - time.time())


def pause(status: int, headers: Mapping[str, str], attempt: int) -> float | None:
    """Return how long to wait before asking again, None if that would not help."""
    if status not in BUSY:
        return None
    seconds = asked(headers)
    if seconds is None:
        return _FIRST_SECONDS * 2.0**attempt
    return seconds if seconds <= LONGEST_SECONDS else None


def busy(message: str, headers: Mapping[str, str]) -> ResolveError:
    """Return the error for a server that stays busy, or asks for more than we wait."""
    seconds = asked(headers)
    until = f" and asks to wait {human_seconds(seconds)}" if seconds else ""
    return ResolveError(message + until, "run the command again later")


def answer(
    url: str, label: str, ask: Callable[[], urllib3.BaseHTTPResponse], retries: int
) -> urllib3.BaseHTTPResponse:
    """Ask until the answer is one that waiting does not change; `label` is for messages.

    `ask` begins at `url` every time: the addresses that redirects give are signed and expire.
    """
    attempt = 0
    while True:
        response = ask()
        seconds = pause(response.status, response.headers, attempt)
        if response.status in REFUSED and attempt == 0 and other_host(url, response):
            seconds = 0.0
        if seconds is None or attempt == retries:
            return response
        response.close()
        attempt += 1
        _wait(label, seconds)


def other_host(url: str, response: urllib3.BaseHTTPResponse) -> str | None:
    """Return the host that answered, if redirects led to another one than was asked."""
    history = response.retries.history if response.retries else ()
    targets = [step.redirect_location for step in history if step.redirect_location]
    host = _host(urljoin(url, targets[-1])) if targets else ""
    return host if host and host != _host(url) else None


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _wait(place: str, seconds: float) -> None:
    """Wait, and tell the person why nothing moves."""
    if seconds >= _WORTH_SAYING:
        console.note(f"{place}: busy, next attempt in {human_seconds(seconds)}")
    time.sleep(seconds)
