"""Asking the engine over HTTP, on the machine itself: no proxy, no name lookup, no redirect."""

import http.client
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from builder.launcher.arguments import Target


@dataclass(frozen=True)
class Answer:
    """What the engine said."""

    status: int
    body: bytes

    def text(self, limit: int = 300) -> str:
        """The beginning of the body, in one line."""
        return " ".join(self.body.decode("utf-8", "replace").split())[:limit]


class UnreachableError(Exception):
    """The engine did not answer at all, or not in time."""


Ask = Callable[[str, "Mapping[str, object] | None", float], Answer]
"""`ask(path, body, seconds)`: a POST with `body`, a GET without; raises UnreachableError."""


def client(target: Target) -> Ask:
    """How to ask the engine at `target`."""
    headers = {"Content-Type": "application/json"}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"

    def ask(path: str, body: Mapping[str, object] | None, seconds: float) -> Answer:
        connection = _connection(target, seconds)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    return ask


def _connection(target: Target, seconds: float) -> http.client.HTTPConnection:
    if not target.https:
        return http.client.HTTPConnection(target.host, target.port, timeout=seconds)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate is for the name that clients use, and this connection leaves no machine.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(target.host, target.port, timeout=seconds, context=context)
