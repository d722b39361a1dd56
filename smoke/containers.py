"""Containers of the image under test: how they are started, asked, watched and always removed.

Waits have a deadline and end at an event: a line of the program inside, an event of the engine, the
end of the container.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError
from docker.types import DeviceRequest
from requests.exceptions import ConnectionError as BrokenConnectionError
from requests.exceptions import Timeout
from testcontainers.core.container import DockerContainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from docker.models.containers import Container

    from smoke.image import Image

PYTHON = ("/usr/bin/python3", "-I", "-S")
VENV_PYTHON = ("/opt/venv/bin/python3", "-I")
INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
SHARED_MEMORY = 1 << 30
HEALTH_SECONDS = 60
"""How long Docker may take to notice; it asks every 10 s."""
START_MARGIN = 30
ANSWER_SECONDS = 600
"""How long the engine may say nothing."""
END_SECONDS = 10
LAST_LINES = 20


class StartError(Exception):
    """A container did not become ready; every check of it fails with this line."""


@dataclass(frozen=True)
class Answer:
    """What a request got."""

    status: int
    body: str

    @property
    def values(self) -> dict[str, Any]:
        """The body as JSON."""
        values: dict[str, Any] = json.loads(self.body)
        return values


@dataclass(frozen=True)
class Look:
    """What `/readyz` and Docker said at one moment of a start."""

    status: int
    state: str
    seconds: float
    health: str


@dataclass(frozen=True)
class Options:
    """How one start differs from another."""

    title: str
    volume: str
    user: str | None = None
    is_sealed: bool = False
    """No network and a read-only root."""


@dataclass
class Cache:
    """The volume that starts share, and what the first one left there."""

    volume: str
    objects: dict[str, float] = field(default_factory=dict)
    """Compiled objects with their times of change."""
    cold_seconds: float = 0.0
    """How long the start took that filled it."""


@dataclass
class Box:
    """One started container."""

    title: str
    image: Image
    container: Container
    note: Callable[[str], None]
    looks: list[Look] = field(default_factory=list)
    """Since the last start."""
    started: float = 0.0
    """Unix time of the last start."""

    def answers(
        self, action: str, python: tuple[str, ...] = PYTHON, **arguments: Any
    ) -> Iterator[dict[str, Any]]:
        """Run an action of `inside.py` in the container and yield its answers as they come."""
        argv = [*python, "-c", INSIDE, action, json.dumps(arguments)]
        client: Any = self.container.client
        made = client.api.exec_create(self.container.id, argv)
        printed = b""
        for chunk in client.api.exec_start(made["Id"], stream=True):
            *lines, printed = (printed + chunk).split(b"\n")
            for line in lines:
                yield _decoded(line, printed)

    def ask(self, method: str, path: str, body: str | None = None, tokens: int = 0) -> Answer:
        """Send a request to the engine from inside."""
        return self._ask(self.image.serve["port"], method, path, body, tokens)

    def post(self, path: str, **values: Any) -> Answer:
        """Send JSON to the engine from inside, the model's name added."""
        return self.ask("POST", path, json.dumps({"model": self.image.serve["model"], **values}))

    def probe(self, path: str) -> Answer:
        """Ask the launcher from inside."""
        return self._ask(self.image.serve["probe_port"], "GET", path)

    def _ask(
        self, port: int, method: str, path: str, body: str | None = None, tokens: int = 0
    ) -> Answer:
        sent: dict[str, Any] = {"port": port, "method": method, "path": path, "body": body}
        (answer,) = self.answers("ask", **sent, prompt_tokens=tokens)
        return Answer(int(answer["status"]), str(answer["body"]))

    def compiled(self) -> dict[str, float]:
        """Return every compiled object outside the image, with its time of change."""
        found = self.answers("compiled", folders=["/cache", "/tmp"])
        return {one["path"]: one["changed"] for one in found}

    def state(self) -> dict[str, Any]:
        """Return what Docker says of the container now."""
        self.container.reload()
        state: dict[str, Any] = self.container.attrs["State"]
        return state

    def health(self) -> str:
        """Return what Docker's health check found so far."""
        return str(self.state().get("Health", {}).get("Status", "none"))

    def log(self) -> str:
        """Return what it printed since the last start."""
        raw: Any = self.container.logs(since=self.started)
        return str(raw.decode(errors="replace"))

    def port(self) -> int:
        """Return the published port of the engine."""
        self.container.reload()
        published: Any = self.container.ports[f"{self.image.serve['port']}/tcp"]
        return int(published[0]["HostPort"])

    def restart(self, title: str) -> None:
        """Start it again after its end and wait until it is ready."""
        self.title = title
        self.looks.clear()
        self.started = time.time()
        self.note(f"{title}: starting")
        self.container.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until it is ready, by its own account.

        Raises:
            StartError: it ended, or was not ready within the start budget.
        """
        budget = float(self.image.serve["start_budget"]) + START_MARGIN
        try:
            port = self.image.serve["probe_port"]
            for look in self.answers("watch", port=port, seconds=budget):
                self.looks.append(Look(**look, health=self.health()))
                if look["status"]:
                    self.note(f"{self.title}: {look['state']} after {look['seconds']:.0f} s")
        except APIError:
            self.note(f"{self.title}: the container ended before it could be asked")
        if not self.looks or self.looks[-1].status != 200:
            raise self._start_fault(budget)

    def _start_fault(self, budget: float) -> StartError:
        has_time_left = time.time() < self.started + budget
        if has_time_left:
            self.await_end(END_SECONDS)  # the program inside ended a moment before its container
        state = self.state()
        tail = "\n".join(self.log().splitlines()[-LAST_LINES:])
        self.note(f"{self.title}: the container's last lines:\n{tail}")
        if state["Running"]:
            return StartError(f"{self.title} was not ready within {budget:g} s")
        return StartError(f"{self.title} ended with exit code {state['ExitCode']} before ready")

    @property
    def ready_seconds(self) -> float:
        """How long the last start took."""
        return self.looks[-1].seconds

    def await_health(self) -> str:
        """Return Docker's verdict once it has one."""
        client: Any = self.container.client
        filters = {"container": self.container.id, "event": ["health_status", "die"]}
        until = time.time() + HEALTH_SECONDS
        events = client.events(since=self.started, until=until, filters=filters, decode=True)
        for event in events:
            if event["Action"] in ("health_status: healthy", "die"):
                events.close()
                break
        return self.health()

    def await_end(self, seconds: float) -> int | None:
        """Return the exit code, or None if it still runs after `seconds`."""
        try:
            return int(self.container.wait(timeout=seconds)["StatusCode"])
        except (Timeout, BrokenConnectionError):
            return None


def _decoded(line: bytes, rest: bytes) -> dict[str, Any]:
    """Return an answer; what is none is the program's traceback, which comes whole."""
    try:
        values: dict[str, Any] = json.loads(line)
    except ValueError:
        message = f"the program inside failed: {(line + rest).decode(errors='replace')}"
        raise RuntimeError(message) from None
    return values


@contextmanager
def started(image: Image, options: Options, note: Callable[[str], None]) -> Iterator[Box]:
    """Start a container; it is removed whatever happens."""
    note(f"{options.title}: starting")
    begin = time.time()
    with described(image, options) as container:
        yield Box(options.title, image, container.get_wrapped_container(), note, started=begin)


def described(image: Image, options: Options) -> DockerContainer:
    """Return the container that `options` describe, not started yet."""
    container = DockerContainer(image.reference, docker_client_kw={"timeout": ANSWER_SECONDS})
    container.with_volume_mapping(options.volume, "/cache", "rw")
    container.with_tmpfs_mount("/tmp", "exec,mode=1777")
    needed = int(image.serve["require"].get("shm_bytes") or 0)
    chosen: dict[str, Any] = {"shm_size": max(SHARED_MEMORY, needed)}
    if options.user:
        chosen["user"] = options.user
    if options.is_sealed:
        chosen |= {"network": "none", "read_only": True}
    else:
        # The SDK takes an address, too: what is served has no password.
        container.ports[f"{image.serve['port']}/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]
    if image.needs_gpu:
        count = int(image.serve["require"].get("gpus") or -1)
        chosen["device_requests"] = [DeviceRequest(count=count, capabilities=[["gpu"]])]
    return container.with_kwargs(**chosen)


def printed_by(image: Image, argv: list[str], user: str) -> str:
    """Run a command in a container of the image, without the engine, and return its output."""
    container = DockerContainer(image.reference, docker_client_kw={"timeout": ANSWER_SECONDS})
    container.with_command(["--", *argv]).with_tmpfs_mount("/tmp", "exec,mode=1777")
    with container.with_kwargs(network="none", read_only=True, user=user) as running:
        code = running.wait()
        out, err = running.get_logs()
    if code != 0:
        message = f"`{argv[0]}` exited with {code}: {err.decode(errors='replace').strip()}"
        raise StartError(message)
    return out.decode()
