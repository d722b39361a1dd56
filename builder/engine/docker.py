"""Docker, through its API: any engine that `DOCKER_HOST` or the current context names."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest
from requests.exceptions import ConnectionError as BrokenConnectionError
from requests.exceptions import RequestException, Timeout

from builder.errors import BuilderError, HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from docker.models.containers import Container as Handle

    from builder.engine.protocol import Container, Mount

_ANSWER_SECONDS = 600
"""How long the engine may say nothing; it does so while it unpacks what it was given."""
_LAST_LINES = 20

_HINT = "start Docker, or use builder run, which needs none"
_REFUSED_HINT = "join the group docker, or set DOCKER_HOST"


class Docker:
    """A Docker engine that answers."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client

    @classmethod
    def connect(cls) -> Docker:
        """Return the engine that `docker` on the command line would use.

        Raises:
            HostError: none answers.
        """
        try:
            client = docker.from_env(timeout=_ANSWER_SECONDS)
            client.ping()
        except (DockerException, RequestException, OSError, ValueError) as fault:
            message = f"no container engine answers: {_root(fault)}"
            is_refused = isinstance(_cause(fault), PermissionError)
            raise HostError(message, _REFUSED_HINT if is_refused else _HINT) from fault
        return cls(client)

    def load(self, chunks: Iterator[bytes], advance: Callable[[int], object]) -> None:
        """Take an image as an archive of an OCI layout; nothing is spooled on the way."""
        api: Any = self.client.api  # types-docker has no types for this method
        try:
            answers = list(api.load_image(_counted(chunks, advance)))
        except (APIError, RequestException) as fault:
            message = f"the container engine did not take the image: {_root(fault)}"
            hint = "see `docker system df`; the engine needs version 25 or newer for OCI archives"
            raise HostError(message, hint) from fault
        _require_loaded(answers)

    def bring(self, reference: str) -> str:
        """Return the id of an image, pulled if the engine does not have it."""
        try:
            return str(self._image(reference).id)
        except DockerException as fault:
            message = f"{reference}: the engine has no such image: {_root(fault)}"
            raise UsageError(message, "see `docker images`, or name a stack file") from fault

    def _image(self, reference: str) -> Any:
        try:
            return self.client.images.get(reference)
        except ImageNotFound:
            repository, tag = _split(reference)
            return self.client.images.pull(repository, tag=tag)

    def start(self, container: Container) -> Started:
        """Start a container; one that cannot start is removed.

        Raises:
            HostError: a port is taken, or the engine lacks what was asked.
        """
        self.bring(container.image)
        handle: Handle | None = None
        try:
            handle = self.client.containers.create(
                container.image, list(container.arguments), **_options(container)
            )
            handle.start()
        except DockerException as fault:
            if handle is not None:
                handle.remove(force=True, v=True)
            raise _start_fault(container, fault) from fault
        return Started(handle)


class Started:
    """A container of Docker's, running or ended."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    @property
    def name(self) -> str:
        """What `docker logs` and `docker stop` know it by."""
        return str(self.handle.name)

    def exec(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run a command inside and return its exit code and output."""
        try:
            done: Any = self.handle.exec_run(list(argv))
        except APIError as fault:
            what = f"cannot run `{argv[0]}` inside"
            raise self._fault(what, fault) from fault
        return int(done.exit_code), done.output.decode(errors="replace")

    def signal(self, name: str) -> None:
        """Send a signal such as `SIGTERM` to process 1."""
        try:
            self.handle.kill(signal=name)
        except APIError as fault:
            what = f"cannot send {name}"
            raise self._fault(what, fault) from fault

    def logs(self) -> Iterator[str]:
        """Yield lines of its output, from the first, until it ends."""
        rest = b""
        for chunk in self.handle.logs(stream=True, follow=True):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
        if rest:
            yield rest.decode(errors="replace")

    def wait(self, seconds: float) -> int:
        """Return its exit code, or raise TimeoutError."""
        begin = time.monotonic()
        try:
            answer = self.handle.wait(timeout=max(seconds, 1))
        except (Timeout, BrokenConnectionError) as fault:
            if time.monotonic() - begin < seconds:
                what = "cannot wait for its end"
                raise self._fault(what, fault) from fault
            message = f"{self.name} still runs after {seconds:g} s"
            raise TimeoutError(message) from fault
        return int(answer["StatusCode"])

    def port(self, port: int) -> int:
        """Return the port on this machine that a port of the container has."""
        self.handle.reload()
        found = self.handle.ports.get(f"{port}/tcp")
        if not found:
            what = f"port {port} is not published"
            raise self._fault(what, None)
        return int(found[0]["HostPort"])

    def remove(self) -> None:
        """End and remove it."""
        try:
            self.handle.remove(force=True, v=True)
        except NotFound:
            return
        except APIError as fault:
            what = "cannot be removed"
            raise self._fault(what, fault) from fault

    def _fault(self, what: str, fault: Exception | None) -> BuilderError:
        """Return the error with the container's state and last lines."""
        reason = f": {_root(fault)}" if fault else ""
        return BuilderError(f"container {self.name}: {what}{reason}\n{self._state()}".rstrip())

    def _state(self) -> str:
        try:
            self.handle.reload()
            state = self.handle.attrs["State"]
            tail = self.handle.logs(tail=_LAST_LINES).decode(errors="replace")
        except DockerException:
            return "it is gone"
        return f"it is {state['Status']}, exit code {state['ExitCode']}; its last lines:\n{tail}"


def _options(container: Container) -> dict[str, Any]:
    """Return what the SDK calls the fields of a container."""
    options: dict[str, Any] = {
        "environment": dict(container.environment),
        "read_only": container.is_read_only,
        "tmpfs": {mount.target: "exec,mode=1777" for mount in container.mounts if not mount.source},
        "volumes": dict(_volume(mount) for mount in container.mounts if mount.source),
        "ports": {f"{inner}/tcp": _local(outer) for inner, outer in container.ports.items()},
    }
    if container.user:
        options["user"] = container.user
    if container.shared_memory:
        options["shm_size"] = container.shared_memory
    if not container.has_network:
        options["network_mode"] = "none"
    if container.gpus:
        options["device_requests"] = [DeviceRequest(count=container.gpus, capabilities=[["gpu"]])]
    return options


def _volume(mount: Mount) -> tuple[str, dict[str, str]]:
    return str(mount.source), {"bind": mount.target, "mode": "rw"}


def _local(port: int) -> tuple[str, int | None]:
    """Publish on this machine alone: what is served has no password."""
    return "127.0.0.1", port or None


def _split(reference: str) -> tuple[str, str | None]:
    """Split off the tag or digest; without either, the SDK would pull every tag."""
    if "@" in reference:
        name, _, digest = reference.partition("@")
        return name, digest
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")


def _counted(chunks: Iterator[bytes], advance: Callable[[int], object]) -> Iterator[bytes]:
    for chunk in chunks:
        if chunk:  # an empty chunk would end a chunked request
            yield chunk
            advance(len(chunk))


def _require_loaded(answers: Sequence[Mapping[str, Any]]) -> None:
    """Read the body of the answer: the engine says 200 before it knows how the load will end."""
    faults = [str(answer["error"]).strip() for answer in answers if "error" in answer]
    said = "".join(str(answer.get("stream", "")) for answer in answers)
    if faults or "Loaded image" not in said:
        reason = "; ".join(faults) or said.strip() or "it names no image"
        message = f"the container engine did not take the image: {reason}"
        raise HostError(message, "free space, or see the engine's own log")


def _start_fault(container: Container, fault: DockerException) -> HostError:
    text = _root(fault)
    taken = _taken_port(text)
    if taken:
        message = f"port {taken} on this machine is taken"
        return HostError(message, "choose another port, or stop what listens there")
    hint = "install the NVIDIA container toolkit" if container.gpus else "see `docker info`"
    return HostError(f"{container.image}: the container did not start: {text}", hint)


def _taken_port(text: str) -> str | None:
    """Find the port in Docker's message; its API has no code of its own for this case.

    `Bind for 127.0.0.1:80 failed: port is already allocated` from Docker, `listen tcp4
    127.0.0.1:80: bind: address already in use` from the kernel.
    """
    if not re.search(r"already allocated|already in use", text):
        return None
    found = re.search(r"(?:Bind for|listen tcp[46]?) \S*?:(\d+)\b", text)
    return found.group(1) if found else None


def _root(fault: Exception) -> str:
    """Return what lies below the SDK's wrapping: the engine's words, else the system's."""
    if isinstance(fault, APIError) and fault.explanation:
        return str(fault.explanation).strip()
    cause = _cause(fault)
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(cause).strip()


def _cause(fault: BaseException) -> BaseException:
    """Return the innermost exception."""
    while inner := _inner(fault):
        fault = inner
    return fault


def _inner(fault: BaseException) -> BaseException | None:
    """Return what a library's exception wraps: as its cause, its context or its argument."""
    if isinstance(fault, OSError) and fault.errno is not None:
        return None
    wrapped = [arg for arg in fault.args if isinstance(arg, BaseException)]
    return fault.__cause__ or fault.__context__ or (wrapped[0] if wrapped else None)
