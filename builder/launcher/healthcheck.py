"""`healthcheck`: ask the running launcher whether it is ready.

Docker starts this every few seconds from an image without bytecode, so it imports next to nothing:
a socket instead of an HTTP library, no dataclasses.
"""

import json
import socket
import sys
from collections.abc import Mapping

from builder.launcher import variables

_SECONDS = 5.0
"""How long the probe port may take to answer."""


def main(environ: Mapping[str, str]) -> int:
    """Print the state in one line; 0 when ready, 1 otherwise (Docker knows no other codes)."""
    try:
        code, line = judge(_ask(probe_port(environ)))
    except (OSError, ValueError) as error:
        code, line = 1, f"unreachable: {error}"
    sys.stdout.write(line + "\n")
    return code


def probe_port(environ: Mapping[str, str]) -> int:
    """Port the launcher of this container answers on; ValueError if the environment has none."""
    override = environ.get(variables.PROBE_PORT)
    if override:
        return int(override)
    spec = json.loads(environ.get(variables.SERVE, ""))
    port = spec.get("probe_port") if isinstance(spec, dict) else None
    if not isinstance(port, int):
        fault = f"{variables.SERVE} names no probe_port"
        raise ValueError(fault)  # noqa: TRY004 - wrong content of a variable, not a wrong argument
    return port


def judge(reply: bytes) -> tuple[int, str]:
    """Exit code and line for an HTTP reply from `/readyz`; ValueError if it is none."""
    head, _, body = reply.partition(b"\r\n\r\n")
    code = 0 if head.split(b" ", 2)[1:2] == [b"200"] else 1
    status = json.loads(body)
    if not isinstance(status, dict):
        fault = "the probe port did not answer with a state"
        raise ValueError(fault)  # noqa: TRY004 - wrong content of a reply, not a wrong argument
    reason = f" ({status['reason']})" if status.get("reason") else ""
    return code, f"{status.get('state')} for {status.get('seconds')} s{reason}"


def _ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b""))
