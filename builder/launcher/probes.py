"""The probe port: `/livez`, `/readyz`, `/startupz`, answered from the launcher's status alone."""

import errno
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from builder.launcher.exits import ExitCode, LauncherError
from builder.launcher.states import Status, body, passes

_SECONDS = 5
"""How long a client may take to ask; one that connects and says nothing is dropped."""


class _Handler(BaseHTTPRequestHandler):
    timeout: ClassVar[int] = _SECONDS
    server: "_Server"

    def do_GET(self) -> None:
        status = self.server.status()
        verdict = passes(status, self.path.partition("?")[0])
        if verdict is None:
            self._answer(404, {"error": "the probes are /livez, /readyz and /startupz"})
        else:
            said = body(status, time.monotonic(), time.time())
            self._answer(200 if verdict else 503, said)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, code: int, content: dict[str, object]) -> None:
        text = json.dumps(content).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
        """Say nothing: a probe every few seconds would bury the engine's log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A backlog for several probers at once, some of them slow.
    request_queue_size = 64

    def __init__(
        self, family: socket.AddressFamily, port: int, status: Callable[[], Status]
    ) -> None:
        self.address_family = family
        self.status = status
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer would look up the host's own name, which can hang without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a prober that hangs up early is its own affair."""


def serve(port: int, status: Callable[[], Status]) -> None:
    """Answer probes on `port`, over IPv4 and IPv6, for the rest of the process's life."""
    try:
        server = _bind(port, status)
    except OSError as error:
        fault = f"cannot listen on the probe port {port}: {error.strerror}"
        hint = "free the port, or choose another one with -e BUILDER_PROBE_PORT=N"
        raise LauncherError(ExitCode.PORT_TAKEN, fault, hint) from error
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()


def _bind(port: int, status: Callable[[], Status]) -> _Server:
    if socket.has_dualstack_ipv6():
        try:
            return _Server(socket.AF_INET6, port, status)
        except OSError as error:
            if not _is_without_ipv6(error):
                raise
    return _Server(socket.AF_INET, port, status)


def _is_without_ipv6(error: OSError) -> bool:
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
