"""The program that asks from inside a container: standard library only, one JSON line per answer.

Sent as text with `python3 -I -S -c`, so it needs nothing in the image but Python 3.10, and works
without a network.
"""

import hashlib
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Answers = Iterator[dict[str, Any]]

ANSWER_SECONDS = 120
LOOK_SECONDS = 0.1
READY = 200
OBJECTS = (".so", ".cubin", ".hsaco")
"""What compilers leave in a cache: of C++, of CUDA and Triton."""


def watch(port: int, seconds: float) -> Answers:
    """Say what `/readyz` answers whenever that changes, until it says 200."""
    begin = time.monotonic()
    seen: tuple[int, str] | None = None
    while time.monotonic() - begin < seconds:
        look = _readiness(port)
        if look != seen:
            seen = look
            yield {"status": look[0], "state": look[1], "seconds": time.monotonic() - begin}
        if look[0] == READY:
            return
        time.sleep(LOOK_SECONDS)


def _readiness(port: int) -> tuple[int, str]:
    try:
        answer = next(ask(port, "GET", "/readyz"))
        return int(answer["status"]), str(json.loads(answer["body"]).get("state", ""))
    except (OSError, ValueError, http.client.HTTPException):
        return 0, "no answer"


def ask(
    port: int, method: str, path: str, body: str | None = None, prompt_tokens: int = 0
) -> Answers:
    """Send one request; `prompt_tokens` puts a prompt of that length into the body."""
    if prompt_tokens:
        body = json.dumps({**json.loads(body or "{}"), "prompt": [5] * prompt_tokens})
    answer = _send(port, method, path, body)
    yield {"status": answer.status, "body": answer.read().decode("utf-8", "replace")}


def stream(port: int, path: str, body: str) -> Answers:
    """Send one request and say when each event of its stream arrived."""
    begin = time.monotonic()
    answer = _send(port, "POST", path, body)
    events = []
    while line := answer.readline():
        if line.startswith(b"data: "):
            text = line[6:].strip().decode("utf-8", "replace")
            events.append({"seconds": time.monotonic() - begin, "text": text})
    yield {"status": answer.status, "events": events}


def _send(port: int, method: str, path: str, body: str | None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, body, headers)
    return connection.getresponse()


def digests(paths: list[str]) -> Answers:
    """Hash files and say where they really lie."""
    for path in paths:
        try:
            yield {"path": path, "real": os.path.realpath(path), "sha256": _sha256(path)}
        except OSError as fault:
            yield {"path": path, "real": "", "sha256": str(fault)}


def _sha256(path: str) -> str:
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as small as it can be
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def blobs(folder: str) -> Answers:
    """List the files of a folder of blobs."""
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 - as small as it can be
        yield {"path": f"{folder}/{name}", "name": name}


def compiled(folders: list[str]) -> Answers:
    """List compiled objects below folders."""
    for place, _, names in (entry for folder in folders for entry in os.walk(folder)):
        for name in names:
            if name.endswith(OBJECTS):
                path = f"{place}/{name}"
                yield {"path": path, "changed": os.stat(path).st_mtime}  # noqa: PTH116 - see blobs


def processes() -> Answers:
    """List what runs, without this program and the engine's own on its way in."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - as small as it can be
        if name.isdigit() and int(name) != os.getpid():
            try:
                one = _process(int(name))
            except OSError:
                continue  # it ended in the meantime
            if not is_entering(one):
                yield one


def is_entering(one: dict[str, Any]) -> bool:
    """Tell the engine's process for an exec or a health check, before it becomes the user.

    It comes from outside, so its parent is none of the container's, and it is still `runc init`.
    """
    return bool(one["pid"] != 1 and one["parent"] == 0 and one["command"][1:2] == ["init"])


def _process(pid: int) -> dict[str, Any]:
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123 - as small as it can be
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123 - as small as it can be
        command = file.read().split("\0")
    user, group = (int(status[key].split()[0]) for key in ("Uid", "Gid"))
    parent = int(status["PPid"])
    return {"pid": pid, "parent": parent, "user": user, "group": group, "command": command}


def kill(pid: int) -> Answers:
    """Kill a process without a chance to clean up."""
    os.kill(pid, signal.SIGKILL)
    yield {"killed": pid}


def versions() -> Answers:
    """List what is installed; needs the prefix's own Python."""
    from importlib import metadata

    for one in metadata.distributions():
        yield {"name": one.metadata["Name"], "version": one.version}


ACTIONS: dict[str, Callable[..., Answers]] = {
    action.__name__: action
    for action in (watch, ask, stream, digests, blobs, compiled, processes, kill, versions)
}


def main(action: str, arguments: str) -> None:
    """Answer in lines, each as soon as it is known."""
    for answer in ACTIONS[action](**json.loads(arguments)):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
