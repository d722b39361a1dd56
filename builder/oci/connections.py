"""Connections that notice an answer before they have sent everything.

A registry that refuses says so at once, and most close the connection then: what is left to send
is not sent, and the answer is read instead of a broken pipe being reported.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import wait_for_read

_SEND_SECONDS = 120.0
"""For one piece of a body: 1 MiB in that time is 9 kB/s."""

SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A registry may take minutes to store a layer; one that is gone is noticed in a minute or two.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5),
]


class _Connection(HTTPConnection):
    _cut = False
    """A request was not sent whole: no other may follow it."""
    _answers = 0

    def send(self, data: Any) -> None:
        """Send bytes, unless there is an answer already.

        A broken pipe is what urllib3 takes as the sign to look for one.
        """
        if self.sock is not None:
            if self._is_answered():
                self._cut = True
                raise BrokenPipeError
            self.sock.settimeout(_SEND_SECONDS)
        try:
            super().send(data)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as fault:
            self._cut = True
            raise BrokenPipeError from fault

    def _is_answered(self) -> bool:
        # The first bytes of a TLS connection are session tickets: they are no answer, and are
        # read with the first one.
        unread_tickets = isinstance(self.sock, ssl.SSLSocket) and not self._answers
        return not unread_tickets and wait_for_read(self.sock, timeout=0)

    def getresponse(self) -> Any:
        response = super().getresponse()
        self._answers += 1
        return response

    @property
    def is_connected(self) -> bool:
        return not self._cut and super().is_connected

    def close(self) -> None:
        super().close()
        self._cut, self._answers = False, 0


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class HttpPool(HTTPConnectionPool):
    """Plain connections to one host."""

    ConnectionCls = _Connection


class HttpsPool(HTTPSConnectionPool):
    """TLS connections to one host."""

    ConnectionCls = _SecureConnection
