"""Ports of this machine."""

from __future__ import annotations

import errno
import socket

from builder.errors import HostError

_ANOTHER = "choose another one with --port N"


def refuse_taken(port: int) -> None:
    """Raise HostError if somebody listens on `port`."""
    fault = _fault(port)
    if fault is not None and fault.errno == errno.EADDRINUSE:
        message = f"port {port} on this machine is taken"
        raise HostError(message, f"{_ANOTHER}, or stop what listens there")


def refuse_forbidden(port: int) -> None:
    """Raise HostError if this user cannot listen on `port`."""
    fault = _fault(port)
    if fault is not None:
        message = f"port {port} cannot be used: {(fault.strerror or str(fault)).lower()}"
        raise HostError(message, _ANOTHER)


def free(wanted: int, *others: int) -> int:
    """Return `wanted` if it is free and none of `others`, else a port that is free now."""
    if wanted not in others and _fault(wanted) is None:
        return wanted
    with socket.socket() as attempt:
        attempt.bind(("", 0))
        return int(attempt.getsockname()[1])


def _fault(port: int) -> OSError | None:
    """Say why a server could not listen, here alone or on every address."""
    for address in ("127.0.0.1", ""):
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((address, port))
            except OSError as fault:
                return fault
    return None
